"""The poll of the store: health, and what it reports to its readers."""

from __future__ import annotations

import asyncio
import logging

import pytest

from clipper_platform.control.store_watch import StoreWatch
from clipper_platform.errors import StoreUnavailable
from clipper_platform.store.base import Changes, Project
from tests.support.memory_store import MemoryStore
from tests.unit.control.doubles import FakeClock


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def watch(store: MemoryStore) -> StoreWatch:
    return StoreWatch(store, FakeClock())


@pytest.fixture
def reports(watch: StoreWatch) -> list[Changes]:
    found: list[Changes] = []

    async def reader(changes: Changes) -> None:
        found.append(changes)

    watch.on_poll(reader)
    return found


async def test_each_change_is_reported_once_and_nothing_from_before_the_begin(
    store: MemoryStore, watch: StoreWatch, reports: list[Changes]
) -> None:
    await store.put_project(Project(name="old", created_at=1.0))
    await watch.begin()
    await store.put_project(Project(name="new", created_at=1.0))
    await watch.poll()
    await watch.poll()
    assert [set(changes.projects) for changes in reports] == [{"new"}, set()]


async def test_a_change_during_an_outage_is_reported_after_it(
    store: MemoryStore, watch: StoreWatch, reports: list[Changes]
) -> None:
    await store.put_project(Project(name="digits", created_at=1.0))
    store.outage = "gone"
    await watch.poll()
    assert reports == []
    store.outage = ""
    await watch.poll()
    assert [set(changes.projects) for changes in reports] == [{"digits"}]


async def test_losing_and_regaining_the_store_is_logged_once_each(
    store: MemoryStore, watch: StoreWatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    store.outage = "gone"
    for _ in range(3):
        await watch.poll()
    assert watch.error == "gone"
    with pytest.raises(StoreUnavailable, match="functions go on answering"):
        watch.check()
    store.outage = ""
    for _ in range(3):
        await watch.poll()
    watch.check()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


async def test_a_reader_that_meets_a_defect_ends_neither_the_others_nor_the_watch(
    store: MemoryStore, watch: StoreWatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(changes: Changes) -> None:
        raise RuntimeError("defect")

    polls = asyncio.Queue[int]()

    async def counted(changes: Changes) -> None:
        polls.put_nowait(1)

    watch.on_poll(broken)
    watch.on_poll(counted)
    running = asyncio.create_task(watch.run(period_s=0))
    async with asyncio.timeout(5):
        await polls.get()
        await polls.get()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert "defect" in caplog.text


async def test_a_published_change_is_read_before_the_period_is_over(
    store: MemoryStore, watch: StoreWatch, reports: list[Changes]
) -> None:
    running = asyncio.create_task(watch.run(period_s=3600))
    async with asyncio.timeout(5):
        while not reports:
            await asyncio.sleep(0)
        while len(reports) < 2:  # until the watch waits, nobody hears a publication
            await store.put_project(Project(name=f"p{len(await store.list_projects())}", created_at=1.0))
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])


async def test_a_store_that_lost_changes_is_logged_and_all_that_it_knows_is_read(
    store: MemoryStore, watch: StoreWatch, reports: list[Changes], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b", "c"):
        await store.put_project(Project(name=name, created_at=1.0))
    await watch.begin()
    restored = MemoryStore()
    await restored.put_project(Project(name="a", created_at=1.0))
    watch._store = restored
    await watch.poll()
    assert [set(changes.projects) for changes in reports] == [{"a"}]
    assert "lost its newest writes" in caplog.text
    await watch.poll()
    assert not reports[-1].projects
