"""Takes back what waits on a replica behind a call that takes longer than expected: another replica may be free."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

from clipper_platform.clock import Clock
from clipper_platform.core import batching
from clipper_platform.serving.endpoint import Endpoint

__all__ = ["Withdrawals"]

_SHORTEST_LOOK_S = 0.001  # a busy replica gets new batches all the time: no timer for each of them


class Withdrawals:
    """For one function. One timer for all replicas: it runs only while something waits on one of them."""

    __slots__ = ("_clock", "_endpoints", "_loop", "_timer")

    def __init__(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> None:
        self._endpoints = endpoints
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Something was sent to a replica that does not begin at once."""
        if self._timer is None:
            self._timer = self._loop.call_later(batching.MOMENT_S, self.look)

    def look(self) -> None:
        """Withdraw what waits behind overdue calls; look again when the next one may be overdue."""
        now = self._clock.monotonic()
        earliest = math.inf
        for endpoint in self._endpoints.values():
            if endpoint.concurrency > 1:
                earliest = min(earliest, self._look_at_several(endpoint, now))
            elif endpoint.unbegun:
                overdue_at = batching.overdue_at(endpoint.running_since, endpoint.expected_s)
                if overdue_at <= now:
                    endpoint.withdraw()
                else:
                    earliest = min(earliest, overdue_at)
        self.close()
        if earliest < math.inf:
            self._timer = self._loop.call_later(max(_SHORTEST_LOOK_S, earliest - now), self.look)

    def _look_at_several(self, endpoint: Endpoint, now: float) -> float:
        """One that works on several calls begins each at once, unless its event loop is blocked. What it may not have
        begun is asked for where that helps: another replica has room, or a call past its deadline blocks this one, so
        that those that wait have it replaced."""
        others = [other for other in self._endpoints.values() if other is not endpoint]
        if endpoint.replaced_from() <= now or any(other.room() and other.ahead_from(now) <= now for other in others):
            return endpoint.withdraw_doubtful(now)
        return now + batching.MOMENT_S if others and endpoint.doubtful else math.inf

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
