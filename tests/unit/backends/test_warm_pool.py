"""Warm pools of instances that are neither zygotes nor containers: how many are started, and which are given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from clipper_platform.backends.warm_pool import PAUSE_S, WarmPool, WarmPools
from tests.support.serving import ManualClock


class Instance:
    def __init__(self, number: int, size: int = 100) -> None:
        self.number = number
        self.size = size
        self.usable = True
        self.in_use = False
        self.used_at = float(number)
        self.killed = False
        self.ended = asyncio.Event()

    def memory_bytes(self) -> int:
        return self.size

    def retire(self) -> None:
        self.usable = False

    def kill(self) -> None:
        self.killed = True
        self.ended.set()

    async def gone(self) -> None:
        await self.ended.wait()


class Place:
    """Pools whose instances start when the test allows it."""

    def __init__(self, max_instances: int = 64) -> None:
        self.clock = ManualClock()
        self.pools = WarmPools[Instance](self.clock, max_instances=max_instances)
        self.instances: list[Instance] = []
        self.fails = False
        self.gate = asyncio.Event()
        self.gate.set()

    def pool(self, size: int) -> WarmPool[Instance]:
        pool = self.pools.open_pool(self._start)
        pool.size = size
        return pool

    async def _start(self) -> Instance | None:
        if self.fails:
            return None
        instance = Instance(len(self.instances))
        self.instances.append(instance)
        self.pools.started(instance)
        await self.gate.wait()
        return instance

    async def refill(self, pool: WarmPool[Instance]) -> list[int]:
        self.pools.refill(pool)
        return await self.settle(pool)

    async def settle(self, pool: WarmPool[Instance]) -> list[int]:
        """The numbers of the pool's instances, once nothing moves."""
        for _ in range(10):
            await asyncio.sleep(0)
        return [instance.number for instance in pool.members]


@pytest.fixture
async def here() -> AsyncIterator[Place]:
    place = Place()
    yield place
    await place.pools.close()


async def test_a_pool_is_filled_to_its_size_and_not_beyond(here: Place) -> None:
    pool = here.pool(2)
    here.gate.clear()
    here.pools.refill(pool)
    assert await here.refill(pool) == []
    here.gate.set()
    assert await here.settle(pool) == [0, 1]
    assert await here.refill(pool) == [0, 1]


async def test_a_pool_without_a_size_starts_nothing(here: Place) -> None:
    assert await here.refill(here.pool(0)) == []
    assert here.instances == []


async def test_an_instance_that_ends_is_replaced(here: Place) -> None:
    pool = here.pool(1)
    await here.refill(pool)
    here.pools.ended(here.instances[0])
    assert await here.settle(pool) == [1]


async def test_an_instance_that_became_a_replica_is_replaced_as_a_container_would_be(here: Place) -> None:
    pool = here.pool(1)
    await here.refill(pool)
    taken = pool.pick(lambda _: True)
    assert taken is not None
    taken.usable = False
    assert pool.pick(lambda _: True) is None
    assert await here.refill(pool) == [0, 1]


async def test_a_launch_gets_the_fitting_instance_that_was_idle_longest(here: Place) -> None:
    pool = here.pool(3)
    await here.refill(pool)
    here.instances[0].used_at = 9.0
    assert pool.pick(lambda _: True) is here.instances[1]
    assert pool.pick(lambda instance: instance.number == 0) is here.instances[0]
    assert pool.pick(lambda _: False) is None


async def test_after_a_failed_start_the_pool_pauses(here: Place) -> None:
    pool = here.pool(1)
    here.fails = True
    assert await here.refill(pool) == []
    here.fails = False
    here.clock.now += PAUSE_S - 1
    assert await here.refill(pool) == []
    here.clock.now += 1
    assert await here.refill(pool) == [0]


async def test_a_new_generation_replaces_the_old_one_once_it_is_there(here: Place) -> None:
    pool = here.pool(1)
    await here.refill(pool)
    here.gate.clear()
    here.pools.renew(pool)
    assert await here.settle(pool) == [0]
    assert here.instances[0].usable, "launches use it until the new one is ready"
    here.gate.set()
    assert await here.settle(pool) == [1]
    assert not here.instances[0].usable


async def test_a_generation_that_begins_during_a_start_gets_its_own_instance(here: Place) -> None:
    pool = here.pool(1)
    here.gate.clear()
    await here.refill(pool)
    here.pools.renew(pool)
    here.gate.set()
    assert await here.settle(pool) == [1]


async def test_all_pools_together_are_bounded_in_number() -> None:
    place = Place(max_instances=3)
    first, second = place.pool(2), place.pool(2)
    assert len(await place.refill(first) + await place.refill(second)) == 3
    await place.pools.close()


async def test_an_instance_that_becomes_ready_after_its_pool_closed_is_retired(here: Place) -> None:
    pool = here.pool(1)
    here.gate.clear()
    await here.refill(pool)
    here.pools.close_pool(pool)
    here.gate.set()
    assert await here.settle(pool) == []
    assert not here.instances[0].usable


async def test_over_the_budget_idle_instances_go_first_and_no_more_than_needed(here: Place) -> None:
    pool = here.pool(3)
    await here.refill(pool)
    here.instances[0].in_use = True
    here.pools.trim(pressed=False, budget_bytes=200)
    assert [instance.usable for instance in here.instances] == [True, False, True]
    here.pools.trim(pressed=False, budget_bytes=200)
    assert [instance.usable for instance in here.instances] == [True, False, True]


async def test_under_pressure_one_instance_goes_each_time_and_none_is_started(here: Place) -> None:
    pool = here.pool(2)
    await here.refill(pool)
    here.pools.trim(pressed=True, budget_bytes=1 << 40)
    assert [instance.usable for instance in here.instances] == [False, True]
    await here.refill(pool)
    assert len(here.instances) == 2
    here.clock.now += PAUSE_S
    await here.refill(pool)
    assert len(here.instances) == 3


async def test_closing_ends_instances_and_starts(here: Place) -> None:
    pool = here.pool(1)
    await here.refill(pool)
    here.gate.clear()
    pool.size = 2
    await here.refill(pool)
    await here.pools.close()
    assert [instance.killed for instance in here.instances] == [True, True]
    pool.size = 3
    await here.refill(pool)
    assert len(here.instances) == 2
