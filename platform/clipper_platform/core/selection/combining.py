"""One answer of several, with the share of the weight that agrees with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final

from clipper_platform.core.answers import Shape, equality_key, numbers, shape, shaped
from clipper_platform.core.selection.base import Choice, Combined
from clipper_platform.core.selection.state import ModelId

__all__ = ["COMBINERS", "MAJORITY", "MEAN", "combiner"]

MAJORITY: Final = "majority"
MEAN: Final = "mean"
COMBINERS: Final = (MAJORITY, MEAN)

Combiner = Callable[[Choice, Mapping[ModelId, Any]], Combined | None]


def combiner(name: str, scale: float) -> Combiner:
    """How an ensemble makes one answer. `scale`: the difference from the mean that counts as no agreement at all."""
    if name == MAJORITY:
        return majority
    return lambda choice, answers: mean(choice, answers, scale)


def majority(choice: Choice, answers: Mapping[ModelId, Any]) -> Combined | None:
    """The answer with the most weight; of equal ones, that of the model that is linked first."""
    arrived = [model for model in choice.models if model in answers]
    if not arrived:
        return None
    weights: dict[Hashable, float] = {}
    first: dict[Hashable, Any] = {}
    for model in arrived:
        key = equality_key(answers[model])
        weights[key] = weights.get(key, 0.0) + _weight(choice, model)
        first.setdefault(key, answers[model])
    winner = max(weights, key=lambda key: weights[key])
    return Combined(first[winner], _share(weights[winner], choice), tuple(arrived))


def mean(choice: Choice, answers: Mapping[ModelId, Any], scale: float) -> Combined | None:
    """The weighted mean of numbers, or of lists of numbers place by place.

    Answers that are not finite numbers, or of another shape than most, are left out. Where most are not numeric, the
    majority answers. An answer agrees as far as it is near: by 1 less the mean of its differences divided by `scale`.
    """
    groups: dict[Shape, list[ModelId]] = {}
    others: list[ModelId] = []
    for model in choice.models:
        if model in answers:
            try:
                groups.setdefault(shape(answers[model]), []).append(model)
            except ValueError:
                others.append(model)
    heaviest, members = max(groups.items(), key=lambda group: _total(choice, group[1]), default=(None, []))
    if not members or _total(choice, others) > _total(choice, members):
        return majority(choice, answers)
    rows = {model: numbers(answers[model]) for model in members}
    weight = _total(choice, members)
    shares = {model: _weight(choice, model) / weight if weight else 1 / len(members) for model in members}
    means = [math.fsum(shares[m] * row[i] for m, row in rows.items()) for i in range(len(rows[members[0]]))]
    near = math.fsum(_weight(choice, model) * _nearness(row, means, scale) for model, row in rows.items())
    return Combined(shaped(list(means), heaviest), _share(near, choice), tuple(members))


def _nearness(row: list[float], means: list[float], scale: float) -> float:
    if not row:
        return 1.0
    return 1.0 - math.fsum(min(1.0, abs(a - b) / scale) for a, b in zip(row, means, strict=True)) / len(row)


def _weight(choice: Choice, model: ModelId) -> float:
    return choice.probabilities.get(model, 0.0)


def _total(choice: Choice, models: list[ModelId]) -> float:
    return math.fsum(_weight(choice, model) for model in models)


def _share(weight: float, choice: Choice) -> float:
    """Of the weight of all models that were asked, whether they answered or not."""
    total = _total(choice, list(choice.models))
    return min(1.0, weight / total) if total > 0.0 else 0.0
