"""Recent observations in fixed memory: quantiles of latency, rates, and how fast a queue drains.

Both classes forget exponentially: after `window_s` seconds an observation weighs 37% (1/e) of a new one. Instead of
shrinking every old weight, new observations get a growing one (forward decay: Cormode et al., ICDE 2009), so that
observing costs one addition. "No data" is None.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

__all__ = ["DrainRate", "LatencyHistogram"]

# Buckets grow by this factor; answering with the point between a bucket's ends that is relatively equally far from
# both keeps the relative error at (GROWTH - 1) / (GROWTH + 1) = 5% (DDSketch: Masson et al., VLDB 2019).
_RELATIVE_ERROR = 0.05
_GROWTH = (1 + _RELATIVE_ERROR) / (1 - _RELATIVE_ERROR)
_SCALE = 1 / math.log(_GROWTH)
_LOWEST_S = 1e-6  # a microsecond: less than any invocation takes
_HIGHEST_S = 1e4  # 2.8 hours: more than any deadline allows by default
_OFFSET = -math.log(_LOWEST_S) * _SCALE
_BUCKETS = int(math.log(_HIGHEST_S) * _SCALE + _OFFSET) + 1  # 231
_MIDDLE = 2 * _GROWTH / (1 + _GROWTH)

# The weight of new observations moves this often per window: 64 steps keep it within 1.6% of the exact one.
_TICKS = 64
# exp(30) = 1e13: weights so far apart still add up exactly enough in a double; then they are brought back to 1.
_RESCALE_AT = 30.0
# After 5 windows without a new observation less than 1% of the old weight is left: that is no data.
_STALE_WINDOWS = 5.0
# The weight that is left after 9 windows: less than what the 99.9th percentile, the highest in use, can see.
_FORGOTTEN = 1e-4


class LatencyHistogram:
    """Sliding quantiles and rate of durations; about 2 KiB from the first one on, whatever is observed.

    Durations in seconds, exact to 5% between 1 µs and 10,000 s and clamped outside. `now` is a monotonic time.
    """

    __slots__ = (
        "_answers",
        "_counts",
        "_longest_s",
        "_next_tick",
        "_origin",
        "_seen_at",
        "_started_at",
        "_total",
        "_weight",
        "window_s",
    )

    def __init__(self, window_s: float = 60.0) -> None:
        if not 0 < window_s < math.inf:
            raise ValueError(f"window_s = {window_s!r} is not allowed: it must be a number above 0")
        self.window_s = window_s
        self._counts: list[float] = []  # made by the first observation
        self._longest_s = 0.0
        self._total = 0.0
        self._weight = 1.0
        self._origin = 0.0  # the time at which an observation weighs 1
        self._started_at = math.inf
        self._seen_at = -math.inf  # to within a tick
        self._next_tick = -math.inf
        self._answers: dict[float, tuple[float, float]] = {}  # q -> (value, total up to which it holds)

    def observe(self, duration_s: float, now: float) -> None:
        """Count one duration. Constant time, no allocation."""
        if now >= self._next_tick:
            self._advance(now)
        if _LOWEST_S <= duration_s < _HIGHEST_S:
            self._counts[int(math.log(duration_s) * _SCALE + _OFFSET)] += self._weight
        else:
            self._counts[0 if duration_s < _LOWEST_S else -1] += self._weight
        self._total += self._weight
        if duration_s > self._longest_s:
            self._longest_s = duration_s

    def observe_all(self, durations_s: Sequence[float], now: float) -> None:
        """Count several that ended together."""
        if now >= self._next_tick:
            self._advance(now)
        counts, weight, log = self._counts, self._weight, math.log
        for duration_s in durations_s:
            if _LOWEST_S <= duration_s < _HIGHEST_S:
                counts[int(log(duration_s) * _SCALE + _OFFSET)] += weight
            else:
                counts[0 if duration_s < _LOWEST_S else -1] += weight
        self._total += weight * len(durations_s)
        if (longest_s := max(durations_s, default=0.0)) > self._longest_s:
            self._longest_s = longest_s

    def quantile(self, q: float, now: float) -> float | None:
        """The duration that a share `q` of the recent observations did not exceed, or None without recent ones.

        An answer is kept until the tick ends or enough was observed to move its rank by a quarter of what lies
        above it (p99: by 0.25% of all), so that asking for every request is cheap.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q = {q!r} is not allowed: it must be between 0 and 1")
        if now - self._seen_at > _STALE_WINDOWS * self.window_s:
            return None
        known = self._answers.get(q)
        if known is not None and self._total <= known[1]:
            return known[0]
        sums = list(accumulate(self._counts))
        # The first bucket that reaches the rank; rank 0 means the first that holds anything.
        index = bisect_left(sums, q * sums[-1]) if q > 0 else bisect_right(sums, 0.0)
        value = _LOWEST_S * _GROWTH**index * _MIDDLE
        self._answers[q] = (value, self._total * (1 + (1 - q) / 4))
        return value

    def above(self, limit_s: float, now: float) -> float:
        """The share of the recent observations that lasted longer than `limit_s`, exact to those that lasted 10% more
        or less; 0.0 without recent ones. Where none ever was so long, that costs one comparison.
        """
        if self._longest_s <= limit_s or now - self._seen_at > _STALE_WINDOWS * self.window_s:
            return 0.0
        inside = min(max(limit_s, _LOWEST_S), _HIGHEST_S)
        share = sum(self._counts[int(math.log(inside) * _SCALE + _OFFSET) + 1 :]) / self._total
        if share < _FORGOTTEN:
            self._longest_s = limit_s
        return share

    def rate(self, now: float) -> float:
        """Observations per second, recent ones counting most; 0.0 before the first.

        While less than a window has passed since the first observation, only the time that passed is divided by.
        """
        if self._total == 0.0:
            return 0.0
        age = max(0.0, now - self._origin) / self.window_s
        elapsed = max(now - self._started_at, self.window_s / _TICKS) / self.window_s
        return self._total * math.exp(-age) / (self.window_s * -math.expm1(-elapsed))

    def _advance(self, now: float) -> None:
        if self._started_at == math.inf:
            self._started_at = self._origin = now
            self._counts = [0.0] * _BUCKETS
        age = (now - self._origin) / self.window_s
        if age > _RESCALE_AT:
            shrink = math.exp(-age)
            self._counts = [count * shrink for count in self._counts]
            self._total = sum(self._counts)
            self._origin, age = now, 0.0
        self._weight = math.exp(age)
        self._seen_at = now
        self._next_tick = now + self.window_s / _TICKS
        self._answers.clear()


# Times per window that a drain rate decays: exact to 0.2%.
_DECAYS = 500


class DrainRate:
    """Completions per second of the time in which there was work, for `Retry-After`.

    Time between `pause` and `resume` does not count, so that an idle hour does not lower the rate of the next burst.
    """

    __slots__ = ("_busy_s", "_done", "_fresh", "_fresh_s", "_since", "window_s")

    def __init__(self, window_s: float = 10.0) -> None:
        if not 0 < window_s < math.inf:
            raise ValueError(f"window_s = {window_s!r} is not allowed: it must be a number above 0")
        self.window_s = window_s
        self._done = 0.0  # completions, decayed
        self._busy_s = 0.0  # the time they took, decayed alike; tends to window_s
        self._fresh = 0.0  # completions since the last decay, and the time of earlier stretches of work since then
        self._fresh_s = 0.0
        self._since: float | None = None  # when the present stretch began to count; None while paused

    def resume(self, now: float) -> None:
        """Work waits or runs from now on. Without effect where it already did."""
        if self._since is None:
            self._since = now

    def pause(self, now: float) -> None:
        """The queue and the replicas are empty from now on."""
        self._fresh_s = self._busy(now)
        self._since = None

    def observe(self, completed: int, now: float) -> None:
        """`completed` invocations ended at `now`, whatever their outcome."""
        self._fresh += completed
        busy_s = self._busy(now)
        if busy_s > self.window_s / _DECAYS:
            keep = math.exp(-busy_s / self.window_s)
            self._done = self._done * keep + self._fresh
            self._busy_s = self._busy_s * keep + self.window_s * (1 - keep)
            self._fresh = self._fresh_s = 0.0
            if self._since is not None:
                self._since = max(now, self._since)

    def rate(self, now: float) -> float | None:
        """Completions per second, or None before the first completion; it falls while work is stuck."""
        done, busy_s = self._at(now)
        if done <= 0.0 or busy_s <= 0.0:
            return None
        return done / busy_s

    def _busy(self, now: float) -> float:
        """Seconds with work since the last decay."""
        return self._fresh_s if self._since is None or now <= self._since else self._fresh_s + now - self._since

    def _at(self, now: float) -> tuple[float, float]:
        keep = math.exp(-self._busy(now) / self.window_s)
        return self._done * keep + self._fresh, self._busy_s * keep + self.window_s * (1 - keep)
