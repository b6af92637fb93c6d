"""Deadlines of all invocations on one timer: a wheel of 10 ms buckets instead of a timer for each request."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from heapq import heappop, heappush

from clipper_platform.clock import Clock
from clipper_platform.serving.invocation import Invocation, State

__all__ = ["DeadlineWheel"]

_TICKS_PER_S = 100


class DeadlineWheel:
    """Calls `expire` for each invocation that is not done at its deadline, at most one tick (10 ms) late, or, where
    it must be answered in time (`early`), at most one tick early. Adding and removing are a dict and a set operation:
    a `call_later` for each request costs several times that, and leaves its cancelled handle behind.
    """

    __slots__ = ("_buckets", "_clock", "_expire", "_handle", "_loop", "_order")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, expire: Callable[[Invocation], None]) -> None:
        self._loop = loop
        self._clock = clock
        self._expire = expire
        self._buckets: dict[int, set[Invocation]] = {}
        self._order: list[int] = []  # heap of the bucket numbers in use
        self._handle: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def add(self, invocation: Invocation, *, early: bool = False) -> None:
        number = int(invocation.deadline * _TICKS_PER_S)
        if not early:
            number += 1
        invocation.bucket = number
        bucket = self._buckets.get(number)
        if bucket is not None:
            bucket.add(invocation)
            return
        self._buckets[number] = {invocation}
        heappush(self._order, number)
        if self._order[0] == number:
            self._arm()

    def discard(self, invocation: Invocation) -> None:
        bucket = self._buckets.get(invocation.bucket)
        if bucket is not None:
            bucket.discard(invocation)
        invocation.bucket = 0

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._buckets.clear()
        self._order.clear()

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        wait = self._order[0] / _TICKS_PER_S - self._clock.monotonic()
        self._handle = self._loop.call_later(max(0.0, wait), self.tick)

    def tick(self) -> None:
        """Expire every bucket that is due, then arm the timer for the next one."""
        now = math.floor(self._clock.monotonic() * _TICKS_PER_S + 1e-6)
        while self._order and self._order[0] <= now:
            # An empty bucket stays until its time comes: it holds no invocation, and there is one per 10 ms at most.
            for invocation in self._buckets.pop(heappop(self._order)):
                invocation.bucket = 0
                if invocation.state is not State.DONE:
                    self._expire(invocation)
        if self._order:
            self._arm()
        else:
            self._handle = None
