"""Storage is collected after each deploy, once per round, and on request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clipper_platform.control.holding import Freed, Holding
from clipper_platform.control.log_gc import LogGarbageCollector
from clipper_platform.control.log_store import LogStore
from clipper_platform.control.storage import MIN_ROUND_S, ROUND_S, Storage, period_s
from clipper_platform.errors import StoreUnavailable
from clipper_platform.types import FunctionId
from tests.unit.control.doubles import FakeClock, Plane

pytestmark = pytest.mark.virtual_time


class CountedCollector:
    """Counts its collections; `broken` makes them fail."""

    def __init__(self) -> None:
        self.collected: list[bool] = []
        self.broken: Exception | None = None

    async def holding(self) -> Holding:
        return Holding(count=1, bytes=2)

    async def collect(self, *, at_once: bool = False) -> Freed:
        self.collected.append(at_once)
        if self.broken is not None:
            raise self.broken
        return Freed(count=1, bytes=2)


@contextmanager
def running(storage: Storage) -> Iterator[None]:
    task = asyncio.create_task(storage.run())
    yield
    task.cancel()


async def test_old_versions_go_soon_after_a_deploy(plane: Plane) -> None:
    storage = Storage(plane.retention, {}, round_s=1e6)
    plane.deployer.on_change(storage.ask)
    with running(storage):
        for _ in range(4):
            await plane.deployed(keep_versions=2, max_retries=plane.registry.references.newest("digits"))
        await asyncio.sleep(1)
    assert [version.number for version in await plane.store.list_versions("digits")] == [4, 3]


async def test_everything_is_collected_once_per_round_also_after_one_that_failed(plane: Plane) -> None:
    first, second = CountedCollector(), CountedCollector()
    first.broken = StoreUnavailable("the disk is full")
    storage = Storage(plane.retention, {"first": first, "second": second}, round_s=10.0)
    with running(storage):
        await asyncio.sleep(35)
        assert (first.collected, second.collected) == ([False] * 3, [False] * 3)
        first.broken = ValueError("a defect")
        await asyncio.sleep(10)
        assert len(second.collected) == 4


async def test_a_request_collects_at_once_and_says_what_was_freed(plane: Plane) -> None:
    collector = CountedCollector()
    storage = Storage(plane.retention, {"bundles": collector})
    assert await storage.holdings() == {"versions": Holding(), "bundles": Holding(count=1, bytes=2)}
    assert await storage.collect(at_once=True) == {"versions": Freed(), "bundles": Freed(count=1, bytes=2)}
    assert collector.collected == [True]


def test_rounds_are_as_frequent_as_the_grace_asks_for() -> None:
    assert [period_s(grace) for grace in (86_400.0, 40.0, 0.0)] == [ROUND_S, 10.0, MIN_ROUND_S]


async def test_logs_of_deleted_projects_go_and_those_of_others_stay(tmp_path: Path) -> None:
    logs = LogStore(tmp_path, FakeClock())
    for project in ("gone", "there"):
        logs.system(FunctionId(project, "f", 1), "hello")
    await logs.flush()
    sizes = await logs.sizes()
    collector = LogGarbageCollector(logs, {"there"}.__contains__)
    expected = Holding(count=2, bytes=sum(sizes.values()), unused_count=1, unused_bytes=sizes["gone"])
    assert await collector.holding() == expected
    assert await collector.collect() == Freed(count=1, bytes=sizes["gone"])
    assert (await logs.sizes()).keys() == {"there"}
    await logs.close()
