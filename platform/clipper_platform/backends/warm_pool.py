"""Warm pools: how many warm instances of each environment are kept, and which ones are given up.

A warm instance is started but not specialised: a zygote that forks replicas, or a container that becomes one. The pools
know neither; what starts an instance is a function, and an instance is a `WarmInstance`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

from clipper_platform.clock import Clock

__all__ = ["MAX_INSTANCES", "WarmInstance", "WarmPool", "WarmPools"]

_logger = logging.getLogger(__name__)

MAX_INSTANCES = 64  # of all pools together
PAUSE_S = 60.0  # after an instance that did not start, and after memory ran short


class WarmInstance(Protocol):
    @property
    def usable(self) -> bool:
        """Whether a launch can take it, or fork from it."""
        ...

    @property
    def in_use(self) -> bool:
        """Whether replicas depend on it."""
        ...

    @property
    def used_at(self) -> float:
        """When a launch last used it; compared with other instances only."""
        ...

    def memory_bytes(self) -> int: ...
    def retire(self) -> None:
        """Serve no more launches, and end once no replica depends on it."""
        ...

    def kill(self) -> None: ...
    async def gone(self) -> None:
        """Wait for its end."""
        ...


I = TypeVar("I", bound=WarmInstance)  # noqa: E741 - as in Instance


class WarmPool(Generic[I]):
    """The warm instances of one environment. `renew` begins a generation: instances of older ones are retired as soon
    as one of the new generation is there."""

    def __init__(self, start: Callable[[], Awaitable[I | None]]) -> None:
        """`start` returns an instance that is usable, or None: none can be started now."""
        self.start = start
        self.size = 0  # how many to keep; with 0 nothing is started
        self.members: dict[I, int] = {}  # instance -> generation
        self.generation = 0
        self.starting = 0
        self.not_before = 0.0
        self.closed = False

    def pick(self, fits: Callable[[I], bool]) -> I | None:
        """Of the instances that fit, the one that was idle longest."""
        fitting = [instance for instance in self.members if instance.usable and fits(instance)]
        return min(fitting, key=lambda instance: instance.used_at, default=None)

    def missing(self) -> int:
        """How many instances of the current generation to start."""
        current = sum(i.usable and generation == self.generation for i, generation in self.members.items())
        return self.size - current - self.starting

    def add(self, instance: I, generation: int) -> None:
        self.members[instance] = generation
        for older, its in list(self.members.items()):
            if its < generation:
                older.retire()
                del self.members[older]

    def close(self) -> None:
        """Retire all instances; none is started any more."""
        self.closed = True
        for instance in self.members:
            instance.retire()
        self.members.clear()


class WarmPools(Generic[I]):
    """All pools of a backend. Belongs to one event loop."""

    def __init__(self, clock: Clock, *, max_instances: int = MAX_INSTANCES) -> None:
        self._clock = clock
        self._max_instances = max_instances
        self._pools: list[WarmPool[I]] = []
        self._running: set[I] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._paused_until = 0.0
        self._closed = False

    @property
    def running(self) -> tuple[I, ...]:
        """All instances whose start began and that have not ended, in pools or not."""
        return tuple(self._running)

    def open_pool(self, start: Callable[[], Awaitable[I | None]]) -> WarmPool[I]:
        pool = WarmPool(start)
        self._pools.append(pool)
        return pool

    def close_pool(self, pool: WarmPool[I]) -> None:
        pool.close()
        self._pools.remove(pool)

    def renew(self, pool: WarmPool[I]) -> None:
        """Replace the pool's instances by newly started ones."""
        pool.generation += 1
        self.refill(pool)

    def refill(self, pool: WarmPool[I]) -> None:
        """Start what the pool lacks, in the background."""
        if self._closed or pool.closed or self._clock.monotonic() < max(pool.not_before, self._paused_until):
            return
        room = self._max_instances - len(self._running) - pool.starting
        for _ in range(min(pool.missing(), room)):
            pool.starting += 1
            self.spawn(self._add(pool))

    async def _add(self, pool: WarmPool[I]) -> None:
        generation = pool.generation
        try:
            instance = await pool.start()
        finally:
            pool.starting -= 1
        if instance is None:
            pool.not_before = self._clock.monotonic() + PAUSE_S
        elif pool.closed:
            instance.retire()
        else:
            pool.add(instance, generation)
            self.refill(pool)  # a new generation may have begun meanwhile

    def started(self, instance: I) -> None:
        """Count an instance whose start has begun."""
        self._running.add(instance)

    def ended(self, instance: I) -> None:
        """An instance is gone: start another one in its place."""
        self._running.discard(instance)
        for pool in self._pools:
            if pool.members.pop(instance, None) is not None:
                self.refill(pool)

    def trim(self, *, pressed: bool, budget_bytes: int) -> None:
        """Retire what is over the budget of bytes or over the number, those without replicas and idle longest first.
        While memory is short (`pressed`), retire one per call."""
        usable = sorted((i for i in self._running if i.usable), key=lambda i: (i.in_use, i.used_at))
        sizes = [instance.memory_bytes() for instance in usable]
        total = sum(sizes)
        retired = 0
        for instance, size in zip(usable, sizes, strict=True):
            over = total > budget_bytes or len(usable) - retired > self._max_instances
            if not over and not (pressed and retired == 0):
                break
            retired += 1
            total -= size
            _logger.info("a warm instance is retired to save memory: %s", instance)
            instance.retire()
        if pressed or retired:
            self._paused_until = self._clock.monotonic() + PAUSE_S

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a task that `close` cancels."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """End all instances. The replicas that depend on them should have ended before."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for instance in self._running:
            instance.kill()
        await asyncio.gather(*(instance.gone() for instance in tuple(self._running)))
