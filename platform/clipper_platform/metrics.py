"""Every metric of the platform, declared once; the only module that knows prometheus_client.

Observations are additions on slotted objects, made in the event loop's thread only: a counter's takes 0.03 µs and a
histogram's 0.1 µs, where prometheus_client, which locks, takes 0.23 and 0.5 µs. An invocation makes about ten.

The text format is written here too, in slices between which the event loop serves calls. A scrape of 1,000 functions
with all their series takes 56 ms of processor time in slices of 2 ms at most; prometheus_client takes 800 ms in one
piece (550 ms over these children), in which no call is served. For 3 functions: 0.5 ms, and 2.3 ms. The library's
metrics of the process, of Python and of its garbage collection stand at the end.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, ClassVar, Generic, TypeVar

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

__all__ = ["Counter", "Family", "Gauge", "Histogram", "Metrics", "ObservableGauge"]

# Latencies from a cached answer (tens of µs) to a slow model (a minute): 1-2.5-5 per decade.
_SECONDS = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
# Batch sizes: powers of two, as batch limits usually are.
_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
# Cold starts: a fork (milliseconds) to a large model's load (minutes).
_STARTS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Counter:
    """Only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, by: float = 1.0) -> None:
        self.value += by


class Gauge:
    """A number now; set it, or give a function that reads it at scrape time."""

    __slots__ = ("read", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.read: Callable[[], float] | None = None

    def set(self, value: float) -> None:
        self.value = value


class Histogram:
    """Counts per bucket; `bounds` are upper bounds, the last bucket is open."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_all(self, values: Iterable[float]) -> None:
        """The same for several at once, at half the cost."""
        bounds, counts = self.bounds, self.counts
        total = 0.0
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            total += value
        self.sum += total

    def cumulative(self) -> Iterator[tuple[str, int]]:
        """(upper bound, observations up to it) for each bucket."""
        total = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            yield bound, total


Child = TypeVar("Child", Counter, Gauge, Histogram)


@dataclass(slots=True)
class Family(Generic[Child]):
    """A metric with its children by label values."""

    name: str
    help: str
    labels: tuple[str, ...]
    make: Callable[[], Child]
    children: dict[tuple[str, ...], Child] = field(default_factory=dict)

    def child(self, *values: str) -> Child:
        """The child for these label values, in the order of `labels`; made on first use."""
        found = self.children.get(values)
        if found is None:
            if len(values) != len(self.labels):
                raise ValueError(f"{self.name} takes the labels {self.labels}")
            found = self.children[values] = self.make()
        return found

    def drop(self, *prefix: str) -> None:
        """Forget children whose first label values are these: a deleted function leaves no series behind."""
        if len(prefix) == len(self.labels):
            self.children.pop(prefix, None)
            return
        for values in [v for v in self.children if v[: len(prefix)] == prefix]:
            del self.children[values]


@dataclass(slots=True)
class ObservableGauge:
    """A metric without children, in OpenTelemetry's term: `callback` gives label values and numbers at scrape time.

    Each function has eight such numbers, and children for them would take a kilobyte per function, idle or not.
    """

    name: str
    help: str
    labels: tuple[str, ...]
    callback: Callable[[], Iterable[tuple[tuple[str, ...], float]]] = tuple


_FV = ("function", "version")


def _counter(name: str, help: str, *labels: str) -> Any:
    return field(default_factory=lambda: Family(name, help, labels, Counter))


def _gauge(name: str, help: str, *labels: str) -> Any:
    return field(default_factory=lambda: Family(name, help, labels, Gauge))


def _observable(name: str, help: str, *labels: str) -> Any:
    return field(default_factory=lambda: ObservableGauge(name, help, labels))


def _histogram(name: str, help: str, bounds: Sequence[float], *labels: str) -> Any:
    return field(default_factory=lambda: Family(name, help, labels, lambda: Histogram(bounds)))


def _library_metrics() -> CollectorRegistry:
    """Those of the process, of Python and of its garbage collector."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


@dataclass(eq=False)
class Metrics:
    """All families, one line of the table each. `function` is `project/function`."""

    content_type: ClassVar[str] = CONTENT_TYPE_LATEST

    invocations: Family[Counter] = _counter(
        "clip_invocations", "Invocations answered, by HTTP status (499: the caller went away).", *_FV, "code"
    )
    duration: Family[Histogram] = _histogram(
        "clip_invocation_duration_seconds", "From the parsed request to the answer.", _SECONDS, *_FV
    )
    queue_duration: Family[Histogram] = _histogram(
        "clip_queue_duration_seconds", "From admission to dispatch to a replica.", _SECONDS, *_FV
    )
    queue_depth: ObservableGauge = _observable("clip_queue_depth", "Invocations waiting for a replica.", *_FV)
    running: ObservableGauge = _observable("clip_running", "Invocations given to a replica and not answered yet.", *_FV)
    batch_size: Family[Histogram] = _histogram("clip_batch_size", "Invocations per batch.", _SIZES, *_FV)
    batch_duration: Family[Histogram] = _histogram(
        "clip_batch_duration_seconds", "From a batch's turn on its replica to its last answer.", _SECONDS, *_FV
    )
    batch_limit: ObservableGauge = _observable(
        "clip_batch_limit", "Batch size that the batching policy allows now.", *_FV
    )
    batch_reruns: Family[Counter] = _counter(
        "clip_batch_reruns", "Executions beyond the first, to find the guilty of a failed batch.", *_FV
    )
    retries: Family[Counter] = _counter("clip_retries", "Invocations sent again because their replica was lost.", *_FV)
    withdrawn: Family[Counter] = _counter(
        "clip_withdrawn", "Invocations taken back from a replica before they began, from behind a long call.", *_FV
    )
    hedges: Family[Counter] = _counter(
        "clip_hedges", "Invocations sent to a second replica because the first was slow.", *_FV
    )
    quarantined: Family[Counter] = _counter("clip_quarantined", "Invocations given up because they end replicas.", *_FV)
    defaults: Family[Counter] = _counter("clip_default_outputs", "Answers by the default output.", *_FV, "reason")
    refused: Family[Counter] = _counter(
        "clip_refused", "Invocations refused at once because a queue was full.", *_FV, "queue"
    )
    replicas: ObservableGauge = _observable("clip_replicas", "Replicas by state.", *_FV, "state")
    cold_start: Family[Histogram] = _histogram(
        "clip_cold_start_seconds", "Phases of starting a replica, and of the first answer that waited for it.",
        _STARTS, "function", "phase",
    )  # fmt: skip
    restarts: Family[Counter] = _counter(
        "clip_replica_restarts", "Replicas that ended unasked, by how.", "function", "reason"
    )
    scaling_decisions: Family[Counter] = _counter(
        "clip_scaling_decisions", "Decisions on the number of replicas, by the rule that made them.",
        "function", "rule",
    )  # fmt: skip
    cache_requests: Family[Counter] = _counter(
        "clip_cache_requests", "Look-ups in the result cache: hit, miss, collapsed (shared another's flight).",
        "function", "result",
    )  # fmt: skip
    cache_bytes: Family[Gauge] = _gauge("clip_cache_bytes", "Bytes that the result cache holds.")
    materialized_rows: Family[Counter] = _counter(
        "clip_materialized_rows", "Rows whose answers were computed beforehand: done or failed.", "function", "result"
    )
    materialized_bytes: Family[Gauge] = _gauge("clip_materialized_bytes", "Bytes of answers computed beforehand.")
    environments: Family[Gauge] = _gauge("clip_environments", "Environments on the disk.")
    environments_bytes: Family[Gauge] = _gauge(
        "clip_environments_bytes", "Bytes of the environments; a file that several share counts once."
    )
    environments_removed: Family[Counter] = _counter(
        "clip_environments_removed", "Environments removed because nothing used them."
    )
    store_up: Family[Gauge] = _gauge("clip_store_up", "1 while the metadata store answers.")
    connections: Family[Gauge] = _gauge("clip_connections", "Open client connections.")
    connections_refused: Family[Counter] = _counter(
        "clip_connections_refused", "Client connections refused because too few descriptors are left."
    )
    log_dropped: Family[Counter] = _counter(
        "clip_log_lines_dropped", "Lines of user output lost to a limit.", "function"
    )
    loop_errors: Family[Counter] = _counter("clip_loop_errors", "Iterations of background loops that failed.", "loop")
    app_predictions: Family[Counter] = _counter(
        "clip_app_predictions", "Queries of applications answered, by whether the default output did.", "app", "default"
    )
    app_duration: Family[Histogram] = _histogram(
        "clip_app_prediction_duration_seconds", "From the query of an application to its answer.", _SECONDS, "app"
    )
    app_feedback: Family[Counter] = _counter(
        "clip_app_feedback", "Feedback: joined, duplicate, unknown (or too late), invalid.", "app", "result"
    )
    app_loss: Family[Gauge] = _gauge(
        "clip_app_model_loss", "Mean loss of a model over its newest 100 feedbacks, 0 to 1.", "app", "model"
    )
    app_agreement: Family[Gauge] = _gauge(
        "clip_app_model_agreement", "Mean share of the other models that gave the same answer.", "app", "model"
    )
    app_asked: Family[Counter] = _counter(
        "clip_app_model_queries", "Queries that a model was asked: answered, or not (late, failed).",
        "app", "model", "answered",
    )  # fmt: skip
    app_policy_errors: Family[Counter] = _counter(
        "clip_app_policy_errors", "Times that a user's own policy gave nothing usable, by operation.", "app", "op"
    )
    library: CollectorRegistry = field(default_factory=_library_metrics)

    def of_applications(self) -> Iterator[Family[Counter] | Family[Gauge] | Family[Histogram]]:
        """Those whose first label is `app`."""
        return (family for family in self.families() if family.labels[:1] == ("app",))

    def families(self) -> Iterator[Family[Counter] | Family[Gauge] | Family[Histogram]]:
        return (v for v in vars(self).values() if isinstance(v, Family))

    def observables(self) -> Iterator[ObservableGauge]:
        return (v for v in vars(self).values() if isinstance(v, ObservableGauge))

    def forget(self, function: str, version: int) -> None:
        """Drop the series of a function's version that is gone for good."""
        for family in self.families():
            if family.labels[:2] == ("function", "version"):
                family.drop(function, str(version))

    def forget_function(self, function: str) -> None:
        """Drop all of its series, those over all versions too: the last version is gone."""
        for family in self.families():
            if family.labels[:1] == ("function",):
                family.drop(function)

    def slices(self) -> Iterator[bytes]:
        """The exposition in pieces of 1 to 2 ms: the caller gives the event loop a turn between them, so that a scrape
        of many functions does not hold up their calls. A family may change meanwhile."""
        parts: list[str] = []
        size = 0
        for part in chain(*map(_exposed, self.families()), *map(_observed, self.observables())):
            parts.append(part)
            size += len(part)
            if size >= _SLICE_CHARACTERS:
                yield "".join(parts).encode()
                parts.clear()
                size = 0
        yield "".join(parts).encode()
        yield generate_latest(self.library)


# Per slice: about 700 lines.
_SLICE_CHARACTERS = 65536


def _exposed(family: Family[Any]) -> Iterator[str]:
    """The lines of a family, child by child."""
    kind, lines_of = _KINDS[type(family.make())]
    name = f"{family.name}_total" if kind == "counter" else family.name
    yield _header(name, family.help, kind)
    for values, child in list(family.children.items()):
        yield lines_of(name, _pairs(family.labels, values), child)


def _observed(gauge: ObservableGauge) -> Iterator[str]:
    yield _header(gauge.name, gauge.help, "gauge")
    for values, number in gauge.callback():
        yield _line(gauge.name, _pairs(gauge.labels, values), number)


def _counter_lines(name: str, labels: str, child: Counter) -> str:
    return _line(name, labels, child.value)


def _gauge_lines(name: str, labels: str, child: Gauge) -> str:
    return _line(name, labels, child.read() if child.read else child.value)


def _histogram_lines(name: str, labels: str, child: Histogram) -> str:
    before = f"{name}_bucket{{{labels}," if labels else f"{name}_bucket{{"
    lines, count = [], 0
    for bound, count in child.cumulative():
        lines.append(f'{before}le="{bound}"}} {count}.0\n')
    return "".join(lines) + _line(f"{name}_count", labels, count) + _line(f"{name}_sum", labels, child.sum)


_KINDS: dict[type, tuple[str, Callable[[str, str, Any], str]]] = {
    Counter: ("counter", _counter_lines),
    Gauge: ("gauge", _gauge_lines),
    Histogram: ("histogram", _histogram_lines),
}


def _header(name: str, help: str, kind: str) -> str:
    return f"# HELP {name} {_escaped(help)}\n# TYPE {name} {kind}\n"


def _pairs(labels: Sequence[str], values: Sequence[str]) -> str:
    return ",".join(f'{key}="{_escaped(value, quoted=True)}"' for key, value in zip(labels, values, strict=True))


def _line(name: str, labels: str, value: float) -> str:
    return f"{name}{{{labels}}} {_number(value)}\n" if labels else f"{name} {_number(value)}\n"


def _number(value: float) -> str:
    value = float(value)
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else f"{'+' if value > 0 else '-'}Inf"


def _escaped(text: str, *, quoted: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quoted else text
