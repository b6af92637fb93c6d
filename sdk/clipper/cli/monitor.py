"""Rates, latencies and queues of functions, from successive readings of the platform. No I/O.

Rates are differences between the last two readings of the metrics; percentiles, the mean batch and the cache's hit
ratio need more requests and are taken over ten seconds.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipper.cli.exposition import Samples, increase, quantile, total

__all__ = ["Monitor", "Reading", "Row", "spark"]

_WINDOW_S = 10.0
_HISTORY_S = 60.0
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One function now. None: there is no data."""

    function: str  # project/function
    version: int | None
    state: str
    rate_per_s: float
    errors_per_s: float  # answers with 429 and from 500 on, which are not the caller's fault
    p50_s: float | None
    p99_s: float | None
    queue_depth: int
    running: int
    batch_size: float | None  # mean
    batch_limit: int | None
    cache_hit_ratio: float | None
    replicas_ready: int
    replicas_wanted: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Metrics and projects of the platform at one time (monotonic seconds)."""

    at: float
    samples: Samples
    projects: Sequence[Mapping[str, Any]]


class Monitor:
    """Takes readings and computes the rows of a display."""

    def __init__(self) -> None:
        self._readings: deque[Reading] = deque()
        self._rates: defaultdict[str, deque[tuple[float, float]]] = defaultdict(deque)
        self.rows: list[Row] = []

    def take(self, reading: Reading) -> None:
        """Take the next reading. From the second on, `rows` holds the functions, the busiest first."""
        readings = self._readings
        readings.append(reading)
        while len(readings) > 2 and readings[1].at <= reading.at - _WINDOW_S:
            readings.popleft()
        if len(readings) < 2:
            return
        self.rows = sorted(rows(readings[-2], readings[0], reading), key=lambda row: (-row.rate_per_s, row.function))
        for row in self.rows:
            self._rates[row.function].append((reading.at, row.rate_per_s))
        self._rates[""].append((reading.at, sum(row.rate_per_s for row in self.rows)))
        for name in list(self._rates):
            history = self._rates[name]
            while history and history[0][0] <= reading.at - _HISTORY_S:
                history.popleft()
            if not history:
                del self._rates[name]

    def history(self, function: str = "") -> Sequence[tuple[float, float]]:
        """(time, rate) over the last minute, of one function or of all together."""
        return tuple(self._rates.get(function, ()))


def rows(last: Reading, first: Reading, now: Reading) -> Iterator[Row]:
    """The functions of all projects: rates since `last`, ratios and percentiles since `first`."""
    recent = _by_function(increase(last.samples, now.samples))
    window = _by_function(increase(first.samples, now.samples))
    gauges = _by_function(now.samples)
    for project in now.projects:
        for function in project["functions"]:
            name = f"{project['name']}/{function['name']}"
            yield _row(
                name,
                project.get("version"),
                function,
                recent.get(name, {}),
                window.get(name, {}),
                gauges.get(name, {}),
                now.at - last.at,
            )


def _by_function(samples: Samples) -> dict[str, dict[Any, float]]:
    found: defaultdict[str, dict[Any, float]] = defaultdict(dict)
    for series, value in samples.items():
        if function := series.label("function"):
            found[function][series] = value
    return found


def _row(
    name: str,
    version: int | None,
    function: Mapping[str, Any],
    recent: Samples,
    window: Samples,
    gauges: Samples,
    seconds: float,
) -> Row:
    answers = total(recent, "clip_invocations_total")
    errors = total(recent, "clip_invocations_total", lambda s: s.label("code") == "429" or s.label("code") >= "500")
    batches = total(window, "clip_batch_size_count")
    looked_up = total(window, "clip_cache_requests_total")
    hits = total(window, "clip_cache_requests_total", lambda s: s.label("result") == "hit")
    # The status measures executions only, not answers from the cache, which callers with a cache mostly get.
    latency = (function.get("latency") or {}) if not looked_up else {}
    limits = [v for s, v in gauges.items() if s.name == "clip_batch_limit" and s.label("version") == str(version)]
    busy = total(window, "clip_invocations_total") > 0
    return Row(
        function=name,
        version=version,
        state=str(function.get("state", "")),
        rate_per_s=answers / seconds,
        errors_per_s=errors / seconds,
        p50_s=(latency.get("p50_s") or _percentile(window, 0.5)) if busy else None,
        p99_s=(latency.get("p99_s") or _percentile(window, 0.99)) if busy else None,
        queue_depth=round(total(gauges, "clip_queue_depth")),
        running=round(total(gauges, "clip_running")),
        batch_size=total(window, "clip_batch_size_sum") / batches if batches else None,
        batch_limit=round(max(limits)) if limits else None,
        cache_hit_ratio=hits / looked_up if looked_up else None,
        replicas_ready=int(function.get("replicas_ready", 0)),
        replicas_wanted=int(function.get("replicas_wanted", 0)),
    )


def _percentile(window: Samples, q: float) -> float | None:
    buckets: defaultdict[float, float] = defaultdict(float)
    for series, value in window.items():
        if series.name == "clip_invocation_duration_seconds_bucket":
            buckets[float(series.label("le"))] += value
    return quantile(buckets, q)


def spark(history: Sequence[tuple[float, float]], now: float, width: int) -> str:
    """A bar for each of `width` equal parts of the last minute; blank before the first reading."""
    cells: list[list[float]] = [[] for _ in range(width)]
    for at, rate in history:
        place = width - 1 - int((now - at) / _HISTORY_S * width)
        if 0 <= place < width:
            cells[place].append(rate)
    means: list[float | None] = []
    for cell in cells:
        # A bar without a reading repeats the rate of the bar before it.
        means.append(sum(cell) / len(cell) if cell else means[-1] if means else None)
    highest = max((mean for mean in means if mean), default=1.0)
    # Only a rate of 0 has the lowest bar.
    tops = len(_BARS) - 1
    return "".join(" " if m is None else _BARS[max(1, round(m / highest * tops)) if m else 0] for m in means)
