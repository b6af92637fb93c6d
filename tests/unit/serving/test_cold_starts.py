"""The phases of a cold start: in the answer that waited for it, and in the metric, each second once."""

from __future__ import annotations

import asyncio

import pytest

from clipper.contract import wire
from clipper_platform.backends.base import LaunchSpec
from clipper_platform.gateway.http.answer import common_lines
from clipper_platform.metrics import Metrics
from tests.support.memory_backend import InMemoryBackend, echo
from tests.support.serving import Harness, ManualClock, harness, target

pytestmark = pytest.mark.virtual_time

START_S = {"place": 0.1, "fork": 0.4, "setup": 1.5}
READY = wire.Ready(schema={}, batched=False, streaming=False, concurrency=1, phases=START_S)


class World:
    """A backend whose start takes 2 s of the manual clock, and whose first answer takes 0.25 s."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.backend = InMemoryBackend(self.answer, ready=READY, before_ready=self.start)
        self.started = asyncio.Event()
        self.late = asyncio.Event()

    async def start(self, _: LaunchSpec) -> None:
        self.clock.now += 1.0
        self.started.set()
        await self.late.wait()
        self.clock.now += 1.0

    async def answer(self, invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        self.clock.now += 0.25
        return await echo(invoke, payloads)


async def cold(world: World, h: Harness) -> None:
    """From nothing deployed to nothing running, as far as a call finds it."""
    await h.deploy(target(), replicas=0)


def observed(metrics: Metrics) -> dict[str, tuple[int, float]]:
    """phase -> (observations, their sum in seconds)."""
    return {
        labels[1]: (sum(child.counts), round(child.sum, 6))
        for labels, child in metrics.cold_start.children.items()
        if labels[0] == "p/f"
    }


async def test_the_answer_that_waited_tells_the_wait_beside_the_start_and_the_starts_own_phases() -> None:
    world = World()
    async with harness(world.backend, clock=world.clock) as h:
        await cold(world, h)
        call = h.call(timeout_s=60.0)
        world.clock.now += 0.5  # until somebody decides to start a replica
        h.replica_sets.scale(call.invocation.queue.target.id, 1)
        await world.started.wait()
        world.late.set()
        await call.wait()
        assert call.invocation.cold == {"queue": pytest.approx(0.5), **START_S}
        line = common_lines(call.invocation).decode()
        assert (
            "server-timing: queue;dur=500.000, place;dur=100.000, fork;dur=400.000, setup;dur=1500.000, "
            "batch;dur=250.000, exec;dur=0.000, first_batch;dur=250.000\r\n"
        ) in line
        assert observed(h.metrics) == {
            "place": (1, 0.1), "fork": (1, 0.4), "setup": (1, 1.5), "queue": (1, 0.5), "first_batch": (1, 0.25),
        }  # fmt: skip
        warm = await h.call(timeout_s=60.0).wait()
        assert warm.invocation.cold is None
        assert "place" not in common_lines(warm.invocation).decode()
        assert observed(h.metrics)["queue"] == (1, 0.5), "observed once for each start"


async def test_who_came_in_the_middle_of_a_start_did_not_wait_beside_it() -> None:
    world = World()
    async with harness(world.backend, clock=world.clock) as h:
        await cold(world, h)
        first = h.call(timeout_s=60.0)
        h.replica_sets.scale(first.invocation.queue.target.id, 1)
        await world.started.wait()
        second = h.call(timeout_s=60.0)
        world.late.set()
        await first.wait()
        await second.wait()
        assert second.invocation.cold is not None
        assert second.invocation.cold["queue"] == pytest.approx(0.0, abs=0.3)


async def test_a_start_that_nobody_waited_for_has_no_first_batch_among_its_phases() -> None:
    world = World()
    world.late.set()
    async with harness(world.backend, clock=world.clock) as h:
        await h.deploy(target())
        await h.call(timeout_s=60.0).wait()
        assert set(observed(h.metrics)) == set(START_S)
