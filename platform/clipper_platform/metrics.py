"""Every metric of the platform, declared once; the only module that knows prometheus_client.

Observations are plain additions on slotted objects, about 0.2 µs each: prometheus_client's own children take a lock
and several calls for each, which at 30,000 invocations a second would be a tenth of a core. Everything is recorded
from the event loop's thread. The text format is written here too: by the library, a scrape took 12 ms for three
functions, in which nobody was served. Its process, platform and collector metrics stand at the end.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Generic, TypeVar

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
        """The same for several at once, at half the price."""
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
    """A metric of which nothing is kept, OpenTelemetry's word for it: `callback` tells label values and numbers at
    scrape time. Thousands of functions, most of them idle, have eight such numbers each, which would take a kilobyte.
    """

    name: str
    help: str
    labels: tuple[str, ...]
    callback: Callable[[], Iterable[tuple[tuple[str, ...], float]]] = tuple


class Metrics:
    """All families. `function` is `project/function`."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        fv = ("function", "version")

        def counter(name: str, help: str, *labels: str) -> Family[Counter]:
            return Family(name, help, labels, Counter)

        def gauge(name: str, help: str, *labels: str) -> Family[Gauge]:
            return Family(name, help, labels, Gauge)

        def observable(name: str, help: str, *labels: str) -> ObservableGauge:
            return ObservableGauge(name, help, labels)

        def histogram(name: str, help: str, bounds: Sequence[float], *labels: str) -> Family[Histogram]:
            return Family(name, help, labels, lambda: Histogram(bounds))

        self.invocations = counter(
            "clip_invocations", "Invocations answered, by HTTP status (499: the caller went away).", *fv, "code"
        )
        self.duration = histogram(
            "clip_invocation_duration_seconds", "From the parsed request to the answer.", _SECONDS, *fv
        )
        self.queue_duration = histogram(
            "clip_queue_duration_seconds", "From admission to dispatch to a replica.", _SECONDS, *fv
        )
        self.queue_depth = observable("clip_queue_depth", "Invocations waiting for a replica.", *fv)
        self.running = observable("clip_running", "Invocations given to a replica and not answered yet.", *fv)
        self.batch_size = histogram("clip_batch_size", "Invocations per batch.", _SIZES, *fv)
        self.batch_duration = histogram(
            "clip_batch_duration_seconds", "From a batch's turn on its replica to its last answer.", _SECONDS, *fv
        )
        self.batch_limit = observable("clip_batch_limit", "Batch size that the batching policy allows now.", *fv)
        self.batch_reruns = counter(
            "clip_batch_reruns", "Executions beyond the first, to find the guilty of a failed batch.", *fv
        )
        self.retries = counter("clip_retries", "Invocations sent again because their replica was lost.", *fv)
        self.hedges = counter("clip_hedges", "Invocations sent to a second replica because the first was slow.", *fv)
        self.quarantined = counter("clip_quarantined", "Invocations given up because they end replicas.", *fv)
        self.defaults = counter("clip_default_outputs", "Answers by the default output.", *fv, "reason")
        self.refused = counter("clip_refused", "Invocations refused at once because a queue was full.", *fv, "queue")
        self.replicas = observable("clip_replicas", "Replicas by state.", *fv, "state")
        self.cold_start = histogram(
            "clip_cold_start_seconds", "Phases of starting a replica, and of the first answer that waited for it.",
            _STARTS, "function", "phase",
        )  # fmt: skip
        self.restarts = counter("clip_replica_restarts", "Replicas that ended unasked, by how.", "function", "reason")
        self.scaling_decisions = counter(
            "clip_scaling_decisions", "Decisions on the number of replicas, by the rule that made them.",
            "function", "rule",
        )  # fmt: skip
        self.cache_requests = counter(
            "clip_cache_requests", "Look-ups in the result cache: hit, miss, collapsed (shared another's flight).",
            "function", "result",
        )  # fmt: skip
        self.cache_bytes = gauge("clip_cache_bytes", "Bytes that the result cache holds.")
        self.store_up = gauge("clip_store_up", "1 while the metadata store answers.")
        self.connections = gauge("clip_connections", "Open client connections.")
        self.log_dropped = counter("clip_log_lines_dropped", "Lines of user output lost to a limit.", "function")
        self.loop_errors = counter("clip_loop_errors", "Iterations of background loops that failed.", "loop")
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

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
        """The exposition in pieces of about a millisecond each, so that a scrape of many functions does not hold up
        their calls: whoever renders gives others a turn in between. A family may change meanwhile."""
        told: list[str] = []
        size = 0
        for part in chain(*map(_exposed, self.families()), *map(_observed, self.observables())):
            told.append(part)
            size += len(part)
            if size >= _SLICE_CHARACTERS:
                yield "".join(told).encode()
                told.clear()
                size = 0
        yield "".join(told).encode()
        yield generate_latest(self._registry)


# That are joined before others have a turn: about 700 lines.
_SLICE_CHARACTERS = 65536


def _exposed(family: Family[Any]) -> Iterator[str]:
    """What a family tells, child by child."""
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
