"""What a selection policy has learnt: a value of plain numbers, a few for each model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

__all__ = ["NOTHING", "ModelId", "Record", "State"]

ModelId = str
"""What a link is called: "project/function" or "project/function@3"."""

# So little feedback is left of a model after long fading that it counts as none.
NOTHING: Final = 1e-6


class Record(NamedTuple):
    """What is known of one model: how many losses (old ones may have faded), their sum, and the logarithm of its weight
    in the policies that keep weights."""

    feedbacks: float = 0.0
    loss: float = 0.0
    log_weight: float = 0.0

    @property
    def mean(self) -> float | None:
        """The mean loss; None without feedback."""
        return self.loss / self.feedbacks if self.feedbacks > NOTHING else None

    def as_prior(self, strength: float, rounds: float) -> Record:
        """As if it came from at most `strength` feedbacks, and the weight from as many of so many rounds."""
        factor = min(1.0, strength / self.feedbacks) if self.feedbacks > NOTHING else 0.0
        return Record(self.feedbacks * factor, self.loss * factor, self.log_weight * min(1.0, strength / rounds))

    def plus(self, other: Record, sign: int = 1) -> Record:
        return Record(
            max(0.0, self.feedbacks + sign * other.feedbacks),
            max(0.0, self.loss + sign * other.loss),
            self.log_weight + sign * other.log_weight,
        )


@dataclass(frozen=True, slots=True)
class State:
    """Three numbers for each model, and as many again for what a context began with.

    All policies keep the same numbers, so that one that replaces another goes on with what is known. `rounds`: how many
    queries got feedback. `prior` and `prior_rounds`: the part that came from the shared state at the beginning, which
    is not folded into it again.
    """

    models: Mapping[ModelId, Record] = field(default_factory=dict)
    rounds: float = 0.0
    prior: Mapping[ModelId, Record] = field(default_factory=dict)
    prior_rounds: float = 0.0

    @classmethod
    def begin(cls, models: Iterable[ModelId], shared: State | None = None, strength: float = 0.0) -> State:
        """The state of these models, which counts what `shared` knows of each as at most `strength` feedbacks."""
        if shared is None or shared.rounds <= NOTHING:
            return cls({model: Record() for model in models})
        known = {model: shared.models[model] for model in models if model in shared.models}
        prior = {model: record.as_prior(strength, shared.rounds) for model, record in known.items()}
        rounds = min(shared.rounds, strength)
        return cls(prior, rounds, prior, rounds)

    def only(self, models: Iterable[ModelId]) -> State:
        """Without the models that are not among these: call it when links were removed."""
        wanted = frozenset(models)
        return replace(
            self,
            models={model: record for model, record in self.models.items() if model in wanted},
            prior={model: record for model, record in self.prior.items() if model in wanted},
        )

    def observed(self, losses: Mapping[ModelId, float], keep: float = 1.0) -> State:
        """With these losses; what was known before counts `keep` times as much. Weights stay what they are."""
        models, prior = dict(self.models), self.prior
        if keep < 1.0:
            models = {model: _faded(record, keep) for model, record in models.items()}
            prior = {model: _faded(record, keep) for model, record in prior.items()}
        for model, loss in losses.items():
            feedbacks, total, log_weight = models.get(model) or Record()
            models[model] = Record(feedbacks + 1.0, total + loss, log_weight)
        return State(models, self.rounds * keep + 1.0, prior, self.prior_rounds * keep)

    def weighted(self, log_weights: Mapping[ModelId, float]) -> State:
        """With these weights, shifted so that the largest one of all models is 1."""
        models = {**self.models}
        for model, log_weight in log_weights.items():
            models[model] = models.get(model, Record())._replace(log_weight=log_weight)
        highest = max((record.log_weight for record in models.values()), default=0.0)
        shifted = {model: r._replace(log_weight=r.log_weight - highest) for model, r in models.items()}
        return replace(self, models=shifted)

    def folded(self, state: State) -> State:
        """With what `state` has learnt since it began."""
        models = dict(self.models)
        for model, record in state.models.items():
            learnt = record.plus(state.prior.get(model, Record()), sign=-1)
            models[model] = models.get(model, Record()).plus(learnt)
        rounds = self.rounds + max(0.0, state.rounds - state.prior_rounds)
        return replace(self, models=models, rounds=rounds).weighted({})

    def to_plain(self) -> dict[str, Any]:
        """All of it as values that JSON has."""
        return {
            "models": {model: list(record) for model, record in self.models.items()},
            "rounds": self.rounds,
            "prior": {model: list(record) for model, record in self.prior.items()},
            "prior_rounds": self.prior_rounds,
        }

    @classmethod
    def from_plain(cls, plain: Any) -> State:
        """The state that `to_plain` returned. Raises ValueError for anything else."""
        try:
            return cls(
                {str(model): _record(numbers) for model, numbers in plain["models"].items()},
                _amount(plain["rounds"]),
                {str(model): _record(numbers) for model, numbers in plain["prior"].items()},
                _amount(plain["prior_rounds"]),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"this is no state of a selection policy: {error!r:.200}") from error


def _faded(record: Record, keep: float) -> Record:
    return Record(record.feedbacks * keep, record.loss * keep, record.log_weight)


def _record(numbers: Any) -> Record:
    feedbacks, loss, log_weight = numbers
    return Record(_amount(feedbacks), _amount(loss), _number(log_weight))


def _amount(value: Any) -> float:
    if (number := _number(value)) < 0.0:
        raise ValueError(f"{number} is no amount of feedback")
    return number


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r:.80} is no finite number")
    return float(value)
