"""Ensembles in which every model counts the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from clipper_platform.core.selection.combining import MAJORITY, MEAN
from clipper_platform.core.selection.drawing import equal_shares
from clipper_platform.core.selection.policy import Ensemble
from clipper_platform.core.selection.state import ModelId, State

__all__ = ["Majority", "Mean"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Equal(Ensemble):
    def shares(self, state: State, models: Sequence[ModelId]) -> Mapping[ModelId, float]:
        return equal_shares(models)

    def why(self, state: State, models: Sequence[ModelId], model: ModelId) -> str:
        return "every model counts the same"


@dataclass(frozen=True, slots=True, kw_only=True)
class Majority(_Equal):
    """The answer that most models give."""

    name: ClassVar[str] = "majority"
    combine_by: str = MAJORITY


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean(_Equal):
    """The mean of all answers, for numbers and lists of numbers (probabilities of classes, say)."""

    name: ClassVar[str] = "mean"
    combine_by: str = MEAN
