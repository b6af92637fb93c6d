"""With what share of the others each model agrees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from clipper_platform.core.answers import equality_key
from clipper_platform.core.selection import ModelId

__all__ = ["agreements"]


def agreements(answers: Mapping[ModelId, Any]) -> dict[ModelId, float]:
    """Of answers to one query, for each model the share of the others that are equal. At least two answers."""
    keys = {model: equality_key(answer) for model, answer in answers.items()}
    equal = Counter(keys.values())
    return {model: (equal[key] - 1) / (len(keys) - 1) for model, key in keys.items()}
