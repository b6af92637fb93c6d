"""Environments are removed when nothing refers to them, after a grace or beyond a size."""

from __future__ import annotations

import pytest

from clipper_platform.control.environment_gc import EnvironmentGarbageCollector
from clipper_platform.control.holding import Freed, Holding
from clipper_platform.core.retention import EnvironmentFacts
from clipper_platform.metrics import Metrics
from clipper_platform.types import EnvironmentId
from tests.unit.control.doubles import FakeClock, FakeEnvironments, Gates

GRACE_S = 100.0


class World:
    def __init__(self) -> None:
        self.environments = FakeEnvironments(Gates())
        self.environments.facts = {
            id: EnvironmentFacts(id=id, bytes=size, last_used_at=at)
            for id, size, at in [("old", 10, 0.0), ("wanted", 20, 0.0), ("new", 40, 950.0)]
        }
        self.wanted = {"wanted"}
        self.metrics = Metrics()

    def collector(self, *, max_bytes: int = 1000) -> EnvironmentGarbageCollector:
        return EnvironmentGarbageCollector(
            self.environments,
            lambda: self.wanted,
            grace_s=GRACE_S,
            max_bytes=max_bytes,
            clock=FakeClock(1000.0),
            metrics=self.metrics,
        )


@pytest.fixture
def world() -> World:
    return World()


async def test_a_round_removes_what_was_not_used_within_the_grace(world: World) -> None:
    assert await world.collector().collect() == Freed(count=1, bytes=10)
    assert world.environments.facts.keys() == {"wanted", "new"}
    assert world.environments.retained == {EnvironmentId("wanted")}
    metrics = world.metrics
    assert metrics.environments_removed.child().value == 1
    assert (metrics.environments.child().value, metrics.environments_bytes.child().value) == (2, 60)


async def test_beyond_the_size_unused_ones_go_before_their_grace_is_over(world: World) -> None:
    assert await world.collector(max_bytes=30).collect() == Freed(count=2, bytes=50)
    assert world.environments.facts.keys() == {"wanted"}


async def test_a_clean_removes_all_that_is_unused_and_it_was_counted_before(world: World) -> None:
    collector = world.collector()
    assert await collector.holding() == Holding(count=3, bytes=70, unused_count=2, unused_bytes=50)
    assert await collector.collect(at_once=True) == Freed(count=2, bytes=50)
    assert await collector.holding() == Holding(count=1, bytes=20)


async def test_one_that_another_platform_uses_stays(world: World) -> None:
    world.environments.in_use = {"old"}
    assert await world.collector().collect() == Freed()
    assert "old" in world.environments.facts


async def test_one_that_a_deploy_asks_for_meanwhile_stays(world: World) -> None:
    asked: list[str] = []
    remove = world.environments.remove

    async def remove_while_a_deploy_begins(environment: EnvironmentId) -> bool:
        asked.append(environment)
        world.wanted.add("new")
        return await remove(environment)

    world.environments.remove = remove_while_a_deploy_begins  # type: ignore[method-assign]
    assert (await world.collector().collect(at_once=True)).count == 1
    assert asked == ["old"]
