"""What policies have in common: they say how probable each model is, and the rest follows from that."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from clipper_platform.core.losses import checked_losses
from clipper_platform.core.selection.base import Choice, Combined, Explanation, Outlook
from clipper_platform.core.selection.combining import MAJORITY, combiner
from clipper_platform.core.selection.drawing import draw
from clipper_platform.core.selection.state import ModelId, Record, State

__all__ = ["NO_MODEL", "Ensemble", "OneModel", "Policy"]

NO_MODEL = Choice((), reason="no linked model may be asked now")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(ABC):
    """Keeps the mean loss of each model. A kind of policy says `shares`; see `SelectionPolicy` for the other methods.

    `prior_strength`: as how many feedbacks of each model the shared state counts, at most, in a new context.
    """

    name: ClassVar[str]
    prior_strength: float = 10.0

    @property
    def keep(self) -> float:
        """How much a loss still counts after one more round of feedback."""
        return 1.0

    @abstractmethod
    def shares(self, state: State, models: Sequence[ModelId]) -> Mapping[ModelId, float]:
        """How probable each of `models` is, or how much its answer counts: they sum to 1, or all are 0."""

    @abstractmethod
    def why(self, state: State, models: Sequence[ModelId], model: ModelId) -> str:
        """The reason for the share of one of `models`."""

    @abstractmethod
    def choice_in_words(self, outlooks: Sequence[Outlook]) -> str:
        """What would be chosen by these outlooks, of which the first has the largest share."""

    @abstractmethod
    def select(self, state: State, models: Sequence[ModelId], rng: random.Random) -> Choice: ...

    @abstractmethod
    def combine(self, state: State, choice: Choice, answers: Mapping[ModelId, Any]) -> Combined | None: ...

    def init(self, models: Sequence[ModelId], shared: State | None = None) -> State:
        return State.begin(models, shared, self.prior_strength)

    def observe(self, state: State, choice: Choice, losses: Mapping[ModelId, float]) -> State:
        known = named(choice, losses)
        return state.observed(known, self.keep) if known else state

    def fold(self, shared: State, state: State) -> State:
        return shared.folded(state)

    def explain(self, state: State, models: Sequence[ModelId]) -> Explanation:
        shares = self.shares(state, models)
        outlooks = [_outlook(model, share, state, self.why(state, models, model)) for model, share in shares.items()]
        outlooks.sort(key=lambda outlook: -outlook.share)
        gone = [_outlook(model, 0.0, state, "not usable now") for model in state.models if model not in shares]
        return Explanation(self.name, self.choice_in_words(outlooks), (*outlooks, *gone))


def named(choice: Choice, losses: Mapping[ModelId, float]) -> dict[ModelId, float]:
    """The losses of the models that were asked. Raises LossError for one that is no number between 0 and 1."""
    asked = {*choice.models, *choice.shadows}
    return {model: loss for model, loss in checked_losses(losses).items() if model in asked}


def _outlook(model: ModelId, share: float, state: State, why: str) -> Outlook:
    record = state.models.get(model, Record())
    return Outlook(model, share, record.feedbacks, record.mean, why)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneModel(Policy):
    """Asks one model, drawn by the shares."""

    reason: ClassVar[str]

    def select(self, state: State, models: Sequence[ModelId], rng: random.Random) -> Choice:
        shares = self.shares(state, models)
        model = draw(shares, rng)
        return Choice((model,), (), shares, self.reason) if model else NO_MODEL

    def combine(self, state: State, choice: Choice, answers: Mapping[ModelId, Any]) -> Combined | None:
        for model in choice.models:
            if model in answers:
                return Combined(answers[model], 1.0, (model,))
        return None

    def choice_in_words(self, outlooks: Sequence[Outlook]) -> str:
        likeliest = outlooks[0] if outlooks else None
        if likeliest is None or not likeliest.share:
            return NO_MODEL.reason
        if likeliest.share == 1.0:
            return f"{likeliest.model}: {likeliest.why}"
        return f"{likeliest.model} with a probability of {likeliest.share:.0%}: {likeliest.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble(Policy):
    """Asks every model and combines what arrives: by `combine_by`, weighted with the shares of the time of the query.

    `scale`: the difference from the mean that counts as no agreement.
    """

    combine_by: str = MAJORITY
    scale: float = 1.0

    def select(self, state: State, models: Sequence[ModelId], rng: random.Random) -> Choice:
        if not models:
            return NO_MODEL
        return Choice(tuple(models), (), self.shares(state, models), "every model is asked")

    def combine(self, state: State, choice: Choice, answers: Mapping[ModelId, Any]) -> Combined | None:
        return combiner(self.combine_by, self.scale)(choice, answers)

    def choice_in_words(self, outlooks: Sequence[Outlook]) -> str:
        if not outlooks:
            return NO_MODEL.reason
        count = "1 model is" if len(outlooks) == 1 else f"all {len(outlooks)} models are"
        return f"{count} asked; their answers are combined by {self.combine_by}"
