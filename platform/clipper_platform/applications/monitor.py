"""How an application and its models do: counts that add up over restarts and platforms, and the newest losses.

What is counted since the last save is kept apart and added to the store behind, so that platforms on one store add to
the same. The counts of a prediction are additions on objects: there are tens of thousands a second.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from clipper_platform.core.selection import ModelId
from clipper_platform.metrics import Counter, Metrics
from clipper_platform.store.applications import ApplicationData, Pair

__all__ = ["RECENT", "ModelReport", "Monitor", "Tally"]

RECENT: Final = 100  # feedbacks: a change of quality shows within as many


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """One model. Of `asked` queries it answered `answered`; `given`: its answer was (part of) the output.

    `loss`: the mean of all `feedbacks`, `recent_loss` of the newest RECENT; None without any. `agreement`: the mean
    share of the other models that gave the same answer to the same query, None where no two answered one.
    """

    asked: int
    answered: int
    given: int
    feedbacks: int
    loss: float | None
    recent_loss: float | None
    agreement: float | None


class _Losses(msgspec.Struct):
    """Of a stored pair, what is read again."""

    losses: dict[ModelId, float] = {}


class Tally:
    """Counters of one model."""

    __slots__ = ("answered", "given", "missed")

    def __init__(self, answered: Counter, missed: Counter, given: Counter) -> None:
        self.answered = answered
        self.missed = missed
        self.given = given


class Monitor:
    """Of one application. Names of counts: `kind` or `kind:model`."""

    def __init__(self, application: str, data: ApplicationData, metrics: Metrics) -> None:
        self._application = application
        self._data = data
        self._metrics = metrics
        self._stored: dict[str, float] = {}
        self._saved: dict[str, float] = {}  # how much of a counter is in the store
        self._counters: dict[str, Counter] = {}
        self._tallies: dict[ModelId, Tally] = {}
        self._recent: defaultdict[ModelId, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
        self.predictions = self._counter("predictions", metrics.app_predictions.child(application, "false"))
        self._defaults = self._counter("defaults", metrics.app_predictions.child(application, "true"))
        self.duration = metrics.app_duration.child(application)

    def _counter(self, name: str, counter: Counter | None = None) -> Counter:
        """The counter of this name: `counter` if it is new, whose value from now on counts."""
        found = self._counters.get(name)
        if found is None:
            found = self._counters[name] = counter or Counter()
            self._saved[name] = found.value
        return found

    # What happens

    def predicted(self, seconds: float, default: bool) -> None:
        self.duration.observe(seconds)
        if default:
            self._defaults.value += 1
        else:
            self.predictions.value += 1

    def asked(self, models: Iterable[ModelId], answered: Container[ModelId], given: Iterable[ModelId]) -> None:
        for model in models:
            tally = self.tally(model)
            if model in answered:
                tally.answered.value += 1
            else:
                tally.missed.value += 1
        for model in given:
            self._tallies[model].given.value += 1

    def tally(self, model: ModelId) -> Tally:
        """The counters of the model; their holder may count on them itself."""
        tally = self._tallies.get(model)
        if tally is not None:
            return tally
        child = self._metrics.app_asked.child
        tally = self._tallies[model] = Tally(
            self._counter("answered:" + model, child(self._application, model, "true")),
            self._counter("missed:" + model, child(self._application, model, "false")),
            self._counter("given:" + model),
        )
        return tally

    def agreed(self, shares: Mapping[ModelId, float]) -> None:
        """Several models answered a query: with what share of the others each one agreed."""
        for model, share in shares.items():
            self._counter("agreement:" + model).value += share
            self._counter("compared:" + model).value += 1
            mean = self.count("agreement:" + model) / self.count("compared:" + model)
            self._metrics.app_agreement.child(self._application, model).set(mean)

    def feedback(self, result: str) -> None:
        """`result`: joined, duplicate, unknown or invalid."""
        counter = self._metrics.app_feedback.child(self._application, result)
        if result == "joined":  # they are stored with what they teach
            counter.inc()
        else:
            self._counter("feedback:" + result, counter).value += 1

    def policy_failed(self, op: str) -> None:
        self._metrics.app_policy_errors.child(self._application, op).inc()

    @staticmethod
    def counts_of(losses: Iterable[Mapping[ModelId, float]]) -> dict[str, float]:
        """What feedback adds, to be stored with it."""
        counts: defaultdict[str, float] = defaultdict(float)
        for one in losses:
            counts["feedback:joined"] += 1
            for model, loss in one.items():
                counts["loss:" + model] += loss
                counts["feedbacks:" + model] += 1
        return counts

    def learnt(self, losses: Iterable[Mapping[ModelId, float]]) -> None:
        """Feedback is stored."""
        losses = list(losses)
        self._add_stored(self.counts_of(losses))
        self._remember(losses)

    def _remember(self, losses: Iterable[Mapping[ModelId, float]]) -> None:
        for one in losses:
            for model, loss in one.items():
                recent = self._recent[model]
                recent.append(loss)
                self._metrics.app_loss.child(self._application, model).set(sum(recent) / len(recent))

    # The store

    async def load(self, pairs: Iterable[Pair]) -> None:
        """Read what all platforms counted. `pairs`: the newest, oldest first. Raises StoreUnavailable."""
        await self.refresh()
        self._recent.clear()
        self._remember(msgspec.json.decode(pair.record, type=_Losses).losses for pair in pairs)

    async def refresh(self) -> None:
        """Read what all platforms counted. Raises StoreUnavailable."""
        self._stored = await self._data.counts(self._application)

    async def save(self) -> None:
        """Add what is new to the store. Raises StoreUnavailable, NotFound: then it is new still, and where the write
        arrived nevertheless it counts twice."""
        new = {name: by for name, counter in self._counters.items() if (by := counter.value - self._saved[name])}
        if new:
            await self._data.add_counts(self._application, new)
            for name, by in new.items():
                self._saved[name] += by
            self._add_stored(new)

    def _add_stored(self, counts: Mapping[str, float]) -> None:
        for name, value in counts.items():
            self._stored[name] = self._stored.get(name, 0.0) + value

    def forget(self) -> None:
        """The application is gone: so are its series."""
        for family in self._metrics.of_applications():
            family.drop(self._application)

    # Reports

    def count(self, name: str) -> float:
        counter = self._counters.get(name)
        new = counter.value - self._saved[name] if counter is not None else 0.0
        return self._stored.get(name, 0.0) + new

    def model(self, model: ModelId) -> ModelReport:
        answered, feedbacks = self.count("answered:" + model), self.count("feedbacks:" + model)
        compared, recent = self.count("compared:" + model), self._recent.get(model)
        return ModelReport(
            asked=int(answered + self.count("missed:" + model)),
            answered=int(answered),
            given=int(self.count("given:" + model)),
            feedbacks=int(feedbacks),
            loss=self.count("loss:" + model) / feedbacks if feedbacks else None,
            recent_loss=sum(recent) / len(recent) if recent else None,
            agreement=self.count("agreement:" + model) / compared if compared else None,
        )
