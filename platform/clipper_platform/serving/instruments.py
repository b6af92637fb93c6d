"""The metrics of one lane, looked up once so that recording is a few additions."""

from __future__ import annotations

from collections.abc import Sequence

from clipper_platform.metrics import Counter, Metrics
from clipper_platform.serving.invocation import Invocation
from clipper_platform.types import FunctionId

__all__ = ["LaneMetrics"]


class LaneMetrics:
    __slots__ = (
        "_batch_duration", "_batch_size", "_by_status", "_defaults", "_duration", "_hits", "_labels", "_metrics", "_ok",
        "_queue_duration", "_refused", "_reruns", "answered", "hedges", "quarantined", "retries",
    )  # fmt: skip

    def __init__(self, metrics: Metrics, id: FunctionId) -> None:
        labels = (id.path, str(id.version))
        self._metrics = metrics
        self._labels = labels
        self._ok = metrics.invocations.child(*labels, "200")
        self._hits = metrics.cache_requests.child(id.path, "hit")
        self._by_status: dict[int, Counter] = {}
        self._duration = metrics.duration.child(*labels)
        self._queue_duration = metrics.queue_duration.child(*labels)
        self._batch_size = metrics.batch_size.child(*labels)
        self._batch_duration = metrics.batch_duration.child(*labels)
        self._reruns = metrics.batch_reruns.child(*labels)
        self._refused = {q: metrics.refused.child(*labels, q) for q in ("function", "all")}
        self._defaults = metrics.defaults
        self.retries = metrics.retries.child(*labels)
        self.hedges = metrics.hedges.child(*labels)
        self.quarantined = metrics.quarantined.child(*labels)
        self.answered = 0

    def dispatched(self, items: Sequence[Invocation], now: float) -> None:
        self._queue_duration.observe_all([now - invocation.queued for invocation in items])

    def batch_done(self, size: int, duration_s: float, reruns: int) -> None:
        self._batch_size.observe(size)
        self._batch_duration.observe(duration_s)
        if reruns:
            self._reruns.inc(reruns)

    def refuse(self, *, over_all: bool) -> None:
        self._refused["all" if over_all else "function"].inc()
        self.count(429)

    def count(self, status: int) -> None:
        counter = self._by_status.get(status)
        if counter is None:
            counter = self._by_status[status] = self._metrics.invocations.child(*self._labels, str(status))
        counter.inc()

    def totals(self) -> tuple[int, int]:
        """Answers so far, and those among them with a status of 500 and above."""
        by_status = [(status, int(counter.value)) for status, counter in self._by_status.items()]
        answered = int(self._ok.value) + sum(n for _, n in by_status)
        return answered, sum(n for status, n in by_status if status >= 500)

    def default(self, reason: str) -> None:
        self._defaults.child(*self._labels, reason).inc()

    def succeeded(self, durations_s: Sequence[float]) -> None:
        """Invocations that callers made and that replicas answered, by what they took."""
        self.answered += len(durations_s)
        self._ok.value += len(durations_s)
        self._duration.observe_all(durations_s)

    def hit(self, duration_s: float) -> None:
        """An invocation that the cache answered."""
        self.answered += 1
        self._ok.value += 1.0
        self._hits.value += 1.0
        self._duration.observe(duration_s)

    def finished(self, invocation: Invocation, now: float) -> None:
        """Once per invocation that a caller made; an invocation that carries a flight of the cache is not one."""
        if invocation.flight is invocation:
            return
        self.answered += 1
        self._duration.observe(now - invocation.arrived)
        error = invocation.error
        if error is None:
            self._ok.value += 1
        else:
            self.count(error.status)
