"""How long an idle function keeps its last replica, learnt from how long it was idle before.

The histogram policy of "Serverless in the Wild" (Shahrad et al., ATC '20): idle times are counted. The tail (99th
percentile) is the time until which a call may come, the head (5th percentile) the time before which none comes. A
function that is called every ten minutes frees its memory in between and has its replica again before the next call.
"""

from __future__ import annotations

import math
from array import array
from struct import Struct
from typing import Final, NamedTuple, Self

__all__ = ["IdleTimes", "IdleWatch", "KeepAlive"]

_LOWEST_S: Final = 1.0  # shorter idle times are within the period of decisions
_HIGHEST_S: Final = 4 * 3600.0  # the paper's range
_BINS: Final = 64
_SCALE: Final = _BINS / math.log(_HIGHEST_S / _LOWEST_S)  # bins grow by 16%
_HEAD: Final = 0.05
_TAIL: Final = 0.99
_MARGIN: Final = 0.1  # the paper's: the head is taken 10% earlier, the tail 10% later
_ENOUGH: Final = 10  # fewer idle times than this are no basis
_MOST: Final = 1000  # then all counts are halved, so that the histogram follows a function that changes
_NONE: Final = array("H", [0] * _BINS)  # shared by all histograms without a count
_STORED: Final = Struct(f"<{_BINS + 1}H")  # the bins, and the number of longer times
_WORTH_RELEASING_S: Final = 60.0  # for less than this it is not worth ending a replica and starting another


class KeepAlive(NamedTuple):
    """After the last call: no replica is needed before `from_s` (0: it stays), one is kept until `until_s`."""

    from_s: float
    until_s: float


class IdleTimes:
    """A histogram of idle times in logarithmic bins from a second to four hours; about 200 bytes from the first on."""

    __slots__ = ("_counts", "_longer", "total")

    def __init__(self) -> None:
        self._counts = _NONE
        self._longer = 0
        self.total = 0

    @classmethod
    def restored(cls, stored: bytes) -> Self:
        """The histogram that `stored` returned as bytes. Raises ValueError for any other bytes."""
        if len(stored) != _STORED.size:
            raise ValueError(f"{len(stored)} bytes are no idle times, which take {_STORED.size}")
        *counts, longer = _STORED.unpack(stored)
        times = cls()
        times.total = sum(counts) + longer
        if times.total >= _MOST:
            raise ValueError(f"{times.total} idle times are more than are ever counted")
        times._counts, times._longer = array("H", counts), longer
        return times

    def stored(self) -> bytes:
        """All of it, in 130 bytes."""
        return _STORED.pack(*self._counts, self._longer)

    def observe(self, idle_s: float) -> None:
        """A call came after `idle_s` seconds without one."""
        if idle_s < _LOWEST_S:
            return
        if idle_s >= _HIGHEST_S:
            self._longer += 1
        else:
            if self._counts is _NONE:
                self._counts = _NONE[:]
            self._counts[int(math.log(idle_s / _LOWEST_S) * _SCALE)] += 1
        self.total += 1
        if self.total >= _MOST:
            self._counts = array("H", [count // 2 for count in self._counts])
            self._longer //= 2
            self.total = sum(self._counts) + self._longer

    def learnt(self) -> KeepAlive | None:
        """The keep-alive by the idle times, or None without a basis: too few, or half of them beyond the range."""
        if self.total < _ENOUGH or 2 * self._longer >= self.total:
            return None
        inside = self.total - self._longer
        head = _edge(self._bin(_HEAD * inside)) * (1 - _MARGIN)
        tail = _edge(self._bin(_TAIL * inside) + 1) * (1 + _MARGIN)
        return KeepAlive(head if head >= _WORTH_RELEASING_S else 0.0, tail)

    def _bin(self, rank: float) -> int:
        """The first bin up to which at least `rank` idle times were counted."""
        seen, index = self._counts[0], 0
        while seen < rank:
            index += 1
            seen += self._counts[index]
        return index


class IdleWatch:
    """Follows one function version, and counts each of its idle times in `times` when a call ends it."""

    __slots__ = ("_called", "_idle_since", "times")

    def __init__(self, times: IdleTimes) -> None:
        self.times = times
        self._idle_since: float | None = None
        self._called = False

    def observe(self, idle_since: float | None, arrivals: int, now: float) -> None:
        """`idle_since`: None while there are invocations. `arrivals`: their number since the version's start.

        The time before the first invocation is no idle time: it depends on the deploy, not on the callers.
        """
        before = self._idle_since
        if idle_since == before and self._called == (arrivals > 0):
            return
        if before is not None and idle_since != before and self._called:
            self.times.observe((now if idle_since is None else idle_since) - before)
        self._idle_since, self._called = idle_since, arrivals > 0


def _edge(index: int) -> float:
    """Where a bin begins, in seconds."""
    return _LOWEST_S * math.exp(index / _SCALE)
