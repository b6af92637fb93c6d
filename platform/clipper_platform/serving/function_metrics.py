"""The metrics of one function version, looked up once so that recording is a few additions."""

from __future__ import annotations

from collections.abc import Sequence

from clipper_platform.errors import ClipperError
from clipper_platform.metrics import Counter, Histogram, Metrics
from clipper_platform.types import FunctionId

__all__ = ["FunctionMetrics"]


class FunctionMetrics:
    """A function has no series before it has something to count: of ten thousand functions most are idle, and each
    would take 2.7 KB here and 80 lines of every scrape.

    The series of answers and batches begin at 0 with the first replica, so that recording need not check for them; the
    others begin with their first event.
    """

    __slots__ = (
        "_batch_duration", "_batch_size", "_begun", "_by_status", "_duration", "_hits", "_metrics", "_ok",
        "_queue_duration", "_refused", "labels",
    )  # fmt: skip

    _ok: Counter
    _duration: Histogram
    _queue_duration: Histogram
    _batch_size: Histogram
    _batch_duration: Histogram

    def __init__(self, metrics: Metrics, id: FunctionId) -> None:
        self._metrics = metrics
        self.labels = (id.path, str(id.version))
        self._begun = False
        self._hits: Counter | None = None
        self._by_status: dict[int, Counter] = {}
        self._refused: dict[str, Counter] = {}

    def begin(self) -> None:
        """A replica is ready, or an invocation was answered without one."""
        if self._begun:
            return
        self._begun = True
        labels, metrics = self.labels, self._metrics
        self._ok = metrics.invocations.child(*labels, "200")
        self._duration = metrics.duration.child(*labels)
        self._queue_duration = metrics.queue_duration.child(*labels)
        self._batch_size = metrics.batch_size.child(*labels)
        self._batch_duration = metrics.batch_duration.child(*labels)

    def dispatched(self, waited_s: Sequence[float]) -> None:
        """Invocations left the queue after so many seconds."""
        self._queue_duration.observe_all(waited_s)

    def batch_done(self, size: int, duration_s: float, reruns: int) -> None:
        self._batch_size.observe(size)
        self._batch_duration.observe(duration_s)
        if reruns:
            self._metrics.batch_reruns.child(*self.labels).inc(reruns)

    def cold_start(self, *, queue_s: float, first_batch_s: float) -> None:
        """What a start took its first invocation beside the phases of the replica."""
        cold_start = self._metrics.cold_start
        cold_start.child(self.labels[0], "queue").observe(queue_s)
        cold_start.child(self.labels[0], "first_batch").observe(first_batch_s)

    def retried(self) -> None:
        self._metrics.retries.child(*self.labels).inc()

    def withdrawn(self) -> None:
        self._metrics.withdrawn.child(*self.labels).inc()

    def hedged(self, n: int) -> None:
        self._metrics.hedges.child(*self.labels).inc(n)

    def quarantine(self) -> None:
        self._metrics.quarantined.child(*self.labels).inc()

    def default(self, reason: str) -> None:
        self._metrics.defaults.child(*self.labels, reason).inc()

    def refuse(self, *, over_all: bool) -> None:
        queue = "all" if over_all else "function"
        counter = self._refused.get(queue)
        if counter is None:
            counter = self._refused[queue] = self._metrics.refused.child(*self.labels, queue)
        counter.inc()
        self.count(429)

    def count(self, status: int) -> None:
        counter = self._by_status.get(status)
        if counter is None:
            counter = self._by_status[status] = self._metrics.invocations.child(*self.labels, str(status))
        counter.inc()

    def totals(self) -> tuple[int, int]:
        """Answers so far, and those among them with a status of 500 and above."""
        by_status = [(status, int(counter.value)) for status, counter in self._by_status.items()]
        answered = (int(self._ok.value) if self._begun else 0) + sum(n for _, n in by_status)
        return answered, sum(n for status, n in by_status if status >= 500)

    def succeeded(self, durations_s: Sequence[float]) -> None:
        """Replicas answered invocations of callers, in so many seconds each."""
        self._ok.value += len(durations_s)
        self._duration.observe_all(durations_s)

    def missed(self, result: str) -> None:
        """The cache did not answer an invocation by itself. `result`: miss, collapsed or shared."""
        self._metrics.cache_requests.child(self.labels[0], result).inc()

    def hit(self, duration_s: float) -> None:
        """The cache answered an invocation."""
        if self._hits is None:
            self.begin()
            self._hits = self._metrics.cache_requests.child(self.labels[0], "hit")
        self._ok.value += 1.0
        self._hits.value += 1.0
        self._duration.observe(duration_s)

    def finished(self, duration_s: float, error: ClipperError | None) -> None:
        """One invocation that a caller made was answered."""
        self.begin()
        self._duration.observe(duration_s)
        if error is None:
            self._ok.value += 1
        else:
            self.count(error.status)
