"""Probabilities: drawing by them, and turning weights and scores into them."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from clipper_platform.core.selection.state import ModelId

__all__ = ["draw", "equal_shares", "shares_of"]


def draw(probabilities: Mapping[ModelId, float], rng: random.Random) -> ModelId:
    """One of the models, each as probable as it says. `probabilities` sum to 1 and are not empty."""
    point, last = rng.random(), ""
    for model, probability in probabilities.items():
        if probability > 0.0:
            last = model
            point -= probability
            if point < 0.0:
                break
    return last  # where rounding left a rest, the last one that is possible


def equal_shares(models: Sequence[ModelId]) -> dict[ModelId, float]:
    return {model: 1.0 / len(models) for model in models}


def shares_of(log_weights: Mapping[ModelId, float]) -> dict[ModelId, float]:
    """Each weight as a share of their sum."""
    highest = max(log_weights.values(), default=0.0)
    weights = {model: math.exp(log_weight - highest) for model, log_weight in log_weights.items()}
    total = math.fsum(weights.values())
    return {model: weight / total for model, weight in weights.items()}
