from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from clipper_platform.control import events as module
from clipper_platform.control.events import RETRY_S, EventLog
from clipper_platform.control.log_store import LogStore
from clipper_platform.store.base import Event, Project
from clipper_platform.types import FunctionId
from tests.support.memory_store import MemoryStore
from tests.support.waiting import until
from tests.unit.control.doubles import FakeClock

pytestmark = pytest.mark.virtual_time

F = FunctionId("digits", "classify", 2)


class World:
    def __init__(self, root: Path) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore()
        self.logs = LogStore(root, self.clock)
        self.events = EventLog(self.store, self.logs, self.clock)

    async def stored(self) -> list[str]:
        return [event.message for event in await self.store.list_events("digits")]


@pytest.fixture
async def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    await world.store.put_project(Project(name="digits", created_at=0.0))
    return world


async def test_an_event_of_a_replica_is_a_line_of_its_functions_log_and_a_stored_event(world: World) -> None:
    world.events(F, "replica", "replica r1 ended: killed by SIGSEGV", {"replica": "r1", "reason": "crashed"})
    (line,) = await world.logs.tail("digits", "classify")
    assert (line.stream, line.level, line.replica, line.version) == ("system", "warning", "r1", 2)
    assert await world.events.flush()
    (event,) = await world.store.list_events("digits")
    assert (event.kind, event.function, event.version, event.at) == ("replica", "classify", 2, 1000.0)
    assert event.data == {"replica": "r1", "reason": "crashed"}


async def test_events_wait_while_the_store_is_away_and_are_stored_in_order(world: World) -> None:
    world.store.outage = "gone"
    for i in range(3):
        world.events.record("digits", "deploy", str(i))
    assert not await world.events.flush()
    assert world.events.waiting == 3
    world.store.outage = ""
    assert await world.events.flush()
    assert await world.stored() == ["0", "1", "2"]


async def test_too_many_waiting_events_lose_the_oldest_which_is_counted_and_logged(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 5)
    world.store.outage = "gone"
    for i in range(8):
        world.events.record("digits", "deploy", str(i))
    assert world.events.lost == 3
    assert "events are lost" in caplog.text
    world.store.outage = ""
    await world.events.flush()
    assert await world.stored() == ["3", "4", "5", "6", "7"]


async def test_an_event_that_overflowed_while_it_was_being_stored_costs_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    gate, add_event = asyncio.Event(), world.store.add_event

    async def slow(event: Event) -> Event:
        await gate.wait()
        return await add_event(event)

    monkeypatch.setattr(world.store, "add_event", slow)
    for message in ("0", "1"):
        world.events.record("digits", "deploy", message)
    flushing = asyncio.create_task(world.events.flush())
    await asyncio.sleep(0)
    world.events.record("digits", "deploy", "2")  # pushes "0" out while it is on its way
    gate.set()
    assert await flushing
    assert await world.stored() == ["0", "1", "2"]


async def test_an_event_of_a_project_that_is_gone_holds_up_no_other(world: World) -> None:
    world.events.record("deleted", "deploy", "x")
    world.events.record("digits", "deploy", "y")
    assert await world.events.flush()
    assert await world.stored() == ["y"]


async def test_the_loop_stores_events_as_they_come_and_tries_again_after_an_outage(
    world: World,
) -> None:
    running = asyncio.create_task(world.events.run())
    world.store.outage = "gone"
    world.events.record("digits", "deploy", "x")
    await asyncio.sleep(3.5 * RETRY_S)
    assert world.events.waiting == 1
    world.store.outage = ""
    await until(lambda: not world.events.waiting)
    assert await world.stored() == ["x"]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_closing_stores_the_rest_or_says_what_stays_behind(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.events.record("digits", "deploy", "x")
    await world.events.close()
    assert await world.stored() == ["x"]
    world.store.outage = "gone"
    world.events.record("digits", "deploy", "y")
    await world.events.close()
    assert "1 events were not stored" in caplog.text
