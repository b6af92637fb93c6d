"""Levels seen lately, in fixed memory: their averages over a long and a short window, and their highest value."""

from __future__ import annotations

from array import array
from math import fsum
from typing import Final

__all__ = ["SlidingAverages", "SlidingMax"]

# A window moves on in steps of a sixtieth of it, a second of the usual minute.
_BUCKETS: Final = 60
_RING: Final = _BUCKETS - 1  # those that are finished; the one that fills comes on top
_EMPTY: Final = array("d", bytes(8 * _RING))
# The highest value of a delay is known to within a thirty-second of the delay.
_STEPS: Final = 32


class SlidingAverages:
    """Averages of a level over the stable and the panic window that end now; about 0.7 KiB, constant time.

    As knative's: the time before the first observation does not count, so that the first one is the average. Between
    observations the level stays what it was.
    """

    __slots__ = ("_bucket", "_count", "_filled", "_head", "_last", "_panic", "_panic_buckets", "_ring", "_stable",
                 "_sum", "_width")  # fmt: skip

    def __init__(self, stable_s: float, panic_s: float) -> None:
        self._width = stable_s / _BUCKETS
        # Finished buckets of the panic window, the one that is filling comes on top.
        self._panic_buckets = min(_RING, max(1, round(panic_s / self._width) - 1))
        self._ring = _EMPTY[:]
        self.clear()

    def clear(self) -> None:
        """Forget everything: the next observation is the average."""
        self._bucket = -1
        self._head = self._filled = self._count = 0
        self._sum = self._last = self._stable = self._panic = 0.0
        self._ring[:] = _EMPTY

    def observe(self, level: float, now: float) -> tuple[float, float]:
        """Take in the level at `now`; the averages over the stable and the panic window."""
        bucket = int(now / self._width)
        if bucket > self._bucket:
            if self._count:
                self._close(self._sum / self._count)
                if bucket - self._bucket > 1:
                    self._skip(bucket - self._bucket - 1)
            self._bucket = bucket
            present = self._sum = self._last = level
            self._count = 1
        else:
            self._last = level
            self._sum += level
            self._count += 1
            present = self._sum / self._count
        filled, short = self._filled, self._panic_buckets
        if filled < short:
            short = filled
        return (self._stable + present) / (filled + 1), (self._panic + present) / (short + 1)

    def _skip(self, steps: int) -> None:
        for _ in range(min(steps, _RING)):
            self._close(self._last)

    def _close(self, value: float) -> None:
        ring, head = self._ring, self._head
        self._panic += value - ring[head - self._panic_buckets]
        self._stable += value - ring[head]
        ring[head] = value
        if self._filled < _RING:
            self._filled += 1
        self._head = head = head + 1
        if head == _RING:
            # Once a round, so that rounding errors do not add up: an idle function's average must become 0.
            self._head = 0
            self._stable = fsum(ring)
            self._panic = fsum(ring[_RING - self._panic_buckets :])


class SlidingMax:
    """The highest value of the last `span_s` seconds, the present one included; at most 33 entries.

    `span_s` 0: the present one.
    """

    __slots__ = ("_entries", "_span_s")

    def __init__(self, span_s: float, value: float, now: float) -> None:
        """`value` is what held until now."""
        self._span_s = span_s
        # Falling values, each with the time at which it was last seen.
        self._entries = [(now, value)]

    def observe(self, value: float, now: float) -> float:
        entries, span_s = self._entries, self._span_s
        if not span_s:
            return value
        if len(entries) == 1 and entries[0][1] == value:
            entries[0] = (now, value)  # the usual case: nothing changes
            return value
        while entries and entries[-1][1] <= value:
            entries.pop()
        if not entries or now - entries[-1][0] >= span_s / _STEPS:
            entries.append((now, value))
        since = now - span_s
        while len(entries) > 1 and entries[0][0] <= since:
            del entries[0]
        oldest, highest = entries[0]
        return highest if oldest > since else value
