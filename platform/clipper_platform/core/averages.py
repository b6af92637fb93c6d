"""Levels seen lately, in fixed memory: their averages over a long and a short window, and their highest value."""

from __future__ import annotations

from array import array
from math import fsum
from typing import Final

__all__ = ["SlidingAverages", "SlidingMax"]

# A window moves on in steps of a sixtieth of it, a second of the usual minute.
_BUCKETS: Final = 60
_RING: Final = _BUCKETS - 1  # those that are finished; the one that fills comes on top
_EMPTY: Final = array("d", bytes(16 * _RING))
# The highest value of a delay is known to within a thirty-second of the delay.
_STEPS: Final = 32


class SlidingAverages:
    """Averages of a load and of a rate over the stable and the panic window that end now; constant time, about 1.4 KiB
    while either is not 0 within the windows, and a third of it otherwise.

    As knative's: the time before the first observation does not count, so that the first one is the average. Between
    observations both stay what they were. They are kept together because their windows move together.
    """

    __slots__ = ("_bucket", "_count", "_filled", "_head", "_last", "_load", "_panic_buckets", "_panic_load",
                 "_panic_rate", "_rate", "_ring", "_stable_load", "_stable_rate", "_width")  # fmt: skip

    def __init__(self, stable_s: float, panic_s: float) -> None:
        self._width = stable_s / _BUCKETS
        # Finished buckets of the panic window, the one that is filling comes on top.
        self._panic_buckets = min(_RING, max(1, round(panic_s / self._width) - 1))
        self.clear()

    def clear(self) -> None:
        """Forget everything: the next observation is the average."""
        self._bucket = -1
        self._head = self._filled = self._count = 0
        self._last = 0.0, 0.0
        self._load = self._stable_load = self._panic_load = 0.0
        self._rate = self._stable_rate = self._panic_rate = 0.0
        # The finished buckets' averages, load and rate side by side; None while all of them are 0.
        self._ring: array[float] | None = None

    def observe(self, load: float, rate: float, now: float) -> tuple[float, float, float, float]:
        """Take in both at `now`; the averages of the load over the stable and the panic window, and of the rate."""
        bucket = int(now / self._width)
        if bucket > self._bucket:
            if count := self._count:
                self._close(self._load / count, self._rate / count)
                if bucket - self._bucket > 1:
                    self._skip(bucket - self._bucket - 1)
            self._bucket, self._count = bucket, 1
            self._last = load, rate
            self._load, self._rate = load, rate
        else:
            self._last = load, rate
            self._count = count = self._count + 1
            self._load = load = self._load + load
            self._rate = rate = self._rate + rate
            load, rate = load / count, rate / count
        stable = panic = self._filled + 1
        if panic > self._panic_buckets:
            panic = self._panic_buckets + 1
        return (
            (self._stable_load + load) / stable,
            (self._panic_load + load) / panic,
            (self._stable_rate + rate) / stable,
            (self._panic_rate + rate) / panic,
        )

    def presume(self, rate: float) -> None:
        """The rate was not known until now: take it to have been this one."""
        self._rate, self._last = rate * self._count, (self._last[0], rate)
        self._stable_rate = rate * self._filled
        self._panic_rate = rate * min(self._filled, self._panic_buckets)
        if self._stable_rate:
            self._ring = self._ring or _EMPTY[:]
            for ago in range(1, self._filled + 1):
                self._ring[2 * (self._head - ago) + 1] = rate

    def _skip(self, buckets: int) -> None:
        """Nobody looked for so long: they hold what was seen last."""
        for _ in range(min(buckets, _RING)):
            self._close(*self._last)

    def _close(self, load: float, rate: float) -> None:
        if self._filled < _RING:
            self._filled += 1
        ring = self._ring
        if ring is None:
            if not load and not rate:
                return
            ring = self._ring = _EMPTY[:]
        head = self._head
        place, leaves_panic = 2 * head, 2 * (head - self._panic_buckets)
        self._stable_load += load - ring[place]
        self._panic_load += load - ring[leaves_panic]
        self._stable_rate += rate - ring[place + 1]
        self._panic_rate += rate - ring[leaves_panic + 1]
        ring[place] = load
        ring[place + 1] = rate
        self._head = head = head + 1
        if head == _RING:
            self._head = 0
            self._add_up(ring)

    def _add_up(self, ring: array[float]) -> None:
        """Once a round, so that rounding errors do not add up: an idle function's average must become 0."""
        lately = ring[2 * (_RING - self._panic_buckets) :]
        self._stable_load, self._panic_load = fsum(ring[::2]), fsum(lately[::2])
        self._stable_rate, self._panic_rate = fsum(ring[1::2]), fsum(lately[1::2])
        if not self._stable_load and not self._stable_rate:
            self._ring = None


class SlidingMax:
    """The highest value of the last `span_s` seconds, the present one included; at most 33 entries.

    `span_s` 0: the present one.
    """

    __slots__ = ("_entries", "_span_s")

    def __init__(self, span_s: float, value: float, now: float) -> None:
        """`value` is what held until now."""
        self._span_s = span_s
        # Falling values, each after the time at which it was last seen.
        self._entries = [[now, value]] if span_s else []

    def observe(self, value: float, now: float) -> float:
        entries, span_s = self._entries, self._span_s
        if not span_s:
            return value
        if len(entries) == 1 and (only := entries[0])[1] == value:
            only[0] = now  # the usual case: nothing changes
            return value
        while entries and entries[-1][1] <= value:
            entries.pop()
        if not entries or now - entries[-1][0] >= span_s / _STEPS:
            entries.append([now, value])
        since = now - span_s
        while len(entries) > 1 and entries[0][0] <= since:
            del entries[0]
        oldest, highest = entries[0]
        return highest if oldest > since else value
