"""Deadlines on one timer: a wheel of 10 ms buckets instead of a timer for each request."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Protocol

from clipper_platform.clock import Clock

__all__ = ["TICKS_PER_S", "DeadlineWheel", "Timed"]

TICKS_PER_S = 100


class Timed(Protocol):
    """An entry of the wheel; it is on it at most once. Hashed by identity."""

    deadline: float  # monotonic seconds
    bucket: int  # set by the wheel; 0 when not on it


class DeadlineWheel:
    """Calls `expire(timed, limit)` at each deadline, at most one tick (10 ms) late or, where the answer must be in time
    (`early`), at most one tick early. Deadlines below `limit` (in ticks; one more where early) are due then.

    Adding and removing are a dict and a set operation: a `call_later` for each costs several times that, and leaves its
    cancelled handle behind. A queue is on the wheel once for all its invocations, by the earliest deadline.
    """

    __slots__ = ("_buckets", "_clock", "_expire", "_handle", "_loop", "_order")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, expire: Callable[[Timed, int], None]) -> None:
        self._loop = loop
        self._clock = clock
        self._expire = expire
        self._buckets: dict[int, set[Timed]] = {}
        self._order: list[int] = []  # heap of the bucket numbers in use
        self._handle: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Entries with a finite deadline."""
        return sum(timed.deadline < math.inf for bucket in self._buckets.values() for timed in bucket)

    def add(self, timed: Timed, *, early: bool = False) -> None:
        number = int(timed.deadline * TICKS_PER_S) + (not early)
        timed.bucket = number
        bucket = self._buckets.get(number)
        if bucket is not None:
            bucket.add(timed)
            return
        self._buckets[number] = {timed}
        heappush(self._order, number)
        if self._order[0] == number:
            self._arm()

    def discard(self, timed: Timed) -> None:
        bucket = self._buckets.get(timed.bucket)
        if bucket is not None:
            bucket.discard(timed)
        timed.bucket = 0

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._buckets.clear()
        self._order.clear()

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        wait = self._order[0] / TICKS_PER_S - self._clock.monotonic()
        self._handle = self._loop.call_later(max(0.0, wait), self.tick)

    def tick(self) -> None:
        """Expire every bucket that is due, then arm the timer for the next one."""
        now = math.floor(self._clock.monotonic() * TICKS_PER_S + 1e-6)
        while self._order and self._order[0] <= now:
            # An empty bucket stays until its time comes: it costs little, and there is at most one per 10 ms.
            for timed in self._buckets.pop(heappop(self._order)):
                timed.bucket = 0
                self._expire(timed, now)
        if self._order:
            self._arm()
        else:
            self._handle = None
