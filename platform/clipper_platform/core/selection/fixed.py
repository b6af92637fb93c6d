"""Policies that people steer: one model, shares of the queries, and models in the shadow of another."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from clipper_platform.core.selection.base import Choice
from clipper_platform.core.selection.drawing import equal_shares
from clipper_platform.core.selection.policy import NO_MODEL, OneModel
from clipper_platform.core.selection.state import ModelId, State

__all__ = ["Shadow", "Single", "Split"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Single(OneModel):
    """Always the same model: `model`, or the one that is linked first. While it is not usable, the next one."""

    name: ClassVar[str] = "single"
    reason: ClassVar[str] = "the first usable model"
    model: ModelId | None = None

    def shares(self, state: State, models: Sequence[ModelId]) -> Mapping[ModelId, float]:
        return _all_to(_first(self.model, models), models)

    def why(self, state: State, models: Sequence[ModelId], model: ModelId) -> str:
        return _why_first(self.model, models, model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split(OneModel):
    """A fixed share of the queries for each model: A/B tests, and new models that get a little at first.

    While one is not usable, the others share its queries in proportion. A model with a weight of 0 and, if there are
    weights, one without a weight are never asked. Without any weights all have equal shares.
    """

    name: ClassVar[str] = "split"
    reason: ClassVar[str] = "drawn by its weight"
    weights: Mapping[ModelId, float] = field(default_factory=dict)

    def shares(self, state: State, models: Sequence[ModelId]) -> Mapping[ModelId, float]:
        if not self.weights:
            return equal_shares(models)
        weights = {model: self.weights.get(model, 0.0) for model in models}
        total = math.fsum(weights.values())
        return {model: weight / total if total else 0.0 for model, weight in weights.items()}

    def why(self, state: State, models: Sequence[ModelId], model: ModelId) -> str:
        return f"weight {self.weights.get(model, 0.0):g}" if self.weights else "no weights: equal shares"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow(OneModel):
    """Answers with `model`, or the one that is linked first; the others get the same queries (or `sample` of them, a
    share), and their answers are compared, not given."""

    name: ClassVar[str] = "shadow"
    reason: ClassVar[str] = "the first usable model; the others are compared with it"
    model: ModelId | None = None
    sample: float = 1.0

    def shares(self, state: State, models: Sequence[ModelId]) -> Mapping[ModelId, float]:
        return _all_to(_first(self.model, models), models)

    def why(self, state: State, models: Sequence[ModelId], model: ModelId) -> str:
        if model == _first(self.model, models):
            return _why_first(self.model, models, model)
        return f"asked about {self.sample:.0%} of the queries, and never given"

    def select(self, state: State, models: Sequence[ModelId], rng: random.Random) -> Choice:
        first = _first(self.model, models)
        if first is None:
            return NO_MODEL
        compared = self.sample >= 1.0 or rng.random() < self.sample
        shadows = tuple(model for model in models if model != first) if compared else ()
        return Choice((first,), shadows, _all_to(first, models), self.reason)


def _first(wanted: ModelId | None, models: Sequence[ModelId]) -> ModelId | None:
    """`wanted` if it is usable, else the first one that is."""
    if wanted is not None and wanted in models:
        return wanted
    return models[0] if models else None


def _all_to(first: ModelId | None, models: Sequence[ModelId]) -> dict[ModelId, float]:
    return {model: 1.0 if model == first else 0.0 for model in models}


def _why_first(wanted: ModelId | None, models: Sequence[ModelId], model: ModelId) -> str:
    if model == wanted:
        return "the option model names it"
    if model != _first(wanted, models):
        return f"asked only while {_first(wanted, models)} is not usable"
    return "the first usable link" if wanted is None else f"{wanted} is not usable, and this is the next link"
