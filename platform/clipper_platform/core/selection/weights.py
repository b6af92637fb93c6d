"""Policies that keep a weight for each model, which shrinks exponentially with its losses. They assume nothing about
the queries: the bounds hold for any sequence of losses, also one that an adversary chose.

Both follow models that change by the fixed share of Herbster and Warmuth (Machine Learning 32, 1998; for bandits Exp3.S
of Auer et al., 2002, section 8): after each round the part `share` of all weight is spread evenly, so that no model
falls so low that it cannot come back. With `share` 0 they are the plain algorithms.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from clipper_platform.core.selection.base import Choice
from clipper_platform.core.selection.drawing import shares_of
from clipper_platform.core.selection.policy import Ensemble, OneModel, named
from clipper_platform.core.selection.state import ModelId, State

__all__ = ["Exp3", "Exp4"]

# A recorded probability below this one is taken for it: a weight then shrinks by a bounded factor for one loss.
_LEAST_PROBABILITY: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Exp3(OneModel):
    """One model, drawn by the weights; only its own weight learns from the feedback.

    Exp3 of Auer, Cesa-Bianchi, Freund and Schapire (SIAM Journal on Computing 32, 2002) in losses, as in the Clipper
    paper (5.1): with the probability `exploration` any model; the weight of the chosen one shrinks by
    exp(-`learning_rate` * loss / p), p being the probability with which it was chosen. K models, `exploration` γ,
    `learning_rate` η and `share` 0: after n rounds the expected regret against the best model is at most
    ln K / η + η n K / (2 (1 - γ)) + γ n. That is sqrt(2 n K ln K) with γ = 0 and η = sqrt(2 ln K / (n K)), less than
    the 2.63 sqrt(n K ln K) of corollary 3.2 there.
    """

    name: ClassVar[str] = "exp3"
    reason: ClassVar[str] = "drawn by its weight"
    learning_rate: float = 0.1
    exploration: float = 0.02
    share: float = 0.0001
    prior_strength: float = 100.0

    @property
    def keep(self) -> float:
        return 1.0 - self.share

    def shares(self, state: State, models: Sequence[ModelId]) -> Mapping[ModelId, float]:
        weights = shares_of(_log_weights(state, models))
        floor = self.exploration / len(models) if models else 0.0
        return {model: (1.0 - self.exploration) * weight + floor for model, weight in weights.items()}

    def why(self, state: State, models: Sequence[ModelId], model: ModelId) -> str:
        return _why(state, models, model)

    def observe(self, state: State, choice: Choice, losses: Mapping[ModelId, float]) -> State:
        known = named(choice, losses)
        if not known:
            return state
        weights = _log_weights(state, _rivals(choice))
        alone = len(choice.models) == 1  # if an ensemble made the choice, all of them were asked for certain
        for model in choice.models:
            if model in known:
                probability = max(_LEAST_PROBABILITY, choice.probabilities.get(model, 0.0)) if alone else 1.0
                weights[model] -= self.learning_rate * known[model] / probability
        return state.observed(known, self.keep).weighted(_shared(weights, self.share))


@dataclass(frozen=True, slots=True, kw_only=True)
class Exp4(Ensemble):
    """Every model's answer by its weight; each one's weight shrinks by exp(-`learning_rate` * its loss).

    The Clipper paper's ensemble (5.2), which names it after Exp4 of Auer et al. (2002, section 7). Since all losses are
    known, it is the exponentially weighted forecaster (Cesa-Bianchi and Lugosi, 2006, theorem 2.2): K models,
    `learning_rate` η and `share` 0: after n rounds the losses, weighted, are at most ln K / η + η n / 8 above those of
    the best model; of a weighted mean with a convex loss, so is the loss of the answer. A model that did not answer in
    time keeps its part of the weight (Freund, Schapire, Singer and Warmuth, STOC 1997).
    """

    name: ClassVar[str] = "exp4"
    learning_rate: float = 0.3
    share: float = 0.001
    prior_strength: float = 100.0

    @property
    def keep(self) -> float:
        return 1.0 - self.share

    def shares(self, state: State, models: Sequence[ModelId]) -> Mapping[ModelId, float]:
        return shares_of(_log_weights(state, models))

    def why(self, state: State, models: Sequence[ModelId], model: ModelId) -> str:
        return _why(state, models, model)

    def observe(self, state: State, choice: Choice, losses: Mapping[ModelId, float]) -> State:
        known = named(choice, losses)
        if not known:
            return state
        weights = _log_weights(state, _rivals(choice))
        learnt = {model: weights[model] - self.learning_rate * loss for model, loss in known.items()}
        # The weight of those that answered stays the same in sum: those that did not neither gain nor lose.
        rest = _log_sum([weights[model] for model in known]) - _log_sum(learnt.values())
        weights.update({model: weight + rest for model, weight in learnt.items()})
        return state.observed(known, self.keep).weighted(_shared(weights, self.share))


def _rivals(choice: Choice) -> list[ModelId]:
    """The models that could be chosen at that time, in one order whatever the choice was."""
    return list(dict.fromkeys([*choice.probabilities, *choice.models, *choice.shadows]))


def _log_weights(state: State, models: Sequence[ModelId]) -> dict[ModelId, float]:
    """The weights of these models; a new one begins with the mean of the others."""
    known = {model: state.models[model].log_weight for model in models if model in state.models}
    beginning = _log_sum(known.values()) - math.log(len(known)) if known else 0.0
    return {model: known.get(model, beginning) for model in models}


def _shared(weights: Mapping[ModelId, float], share: float) -> dict[ModelId, float]:
    """The part `share` of all weight is taken from each in proportion, and spread evenly."""
    if not share or not weights:
        return dict(weights)
    spread = math.log(share / len(weights)) + _log_sum(weights.values())
    kept = math.log1p(-share) if share < 1.0 else -math.inf
    return {model: _log_sum([weight + kept, spread]) for model, weight in weights.items()}


def _log_sum(log_weights: Collection[float]) -> float:
    """The logarithm of the sum of the weights, of which there is at least one."""
    highest = max(log_weights)
    return highest + math.log(math.fsum(math.exp(log_weight - highest) for log_weight in log_weights))


def _why(state: State, models: Sequence[ModelId], model: ModelId) -> str:
    weight = shares_of(_log_weights(state, models))[model]
    mean = state.models[model].mean if model in state.models else None
    return f"weight {weight:.3f}, " + ("no feedback yet" if mean is None else f"mean loss {mean:.3f}")
