"""One replica set: what it announces, whom it gives up, and what it leaves when it ends."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from clipper.contract import wire
from clipper_platform.backends.base import Exit, LaunchSpec, SnapshotState, StartError
from clipper_platform.core.pooling import ReplicaState
from tests.support.memory_backend import CRASH, InMemoryBackend
from tests.support.waiting import until
from tests.unit.replicas.doubles import World

pytestmark = pytest.mark.virtual_time

KILLED_EXTERNALLY = Exit("killed_externally", "killed by SIGKILL")


@asynccontextmanager
async def world(backend: InMemoryBackend | None = None, **options: Any) -> AsyncIterator[World]:
    opened = World(backend, **options)
    try:
        yield opened
    finally:
        await opened.replicas.close(1)
        assert not opened.backend.alive
        assert opened.replicas._health is None


async def turns(n: int = 10) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


# Launch


async def test_a_launch_carries_what_the_function_declares() -> None:
    async with world(memory_bytes=1 << 30, startup_timeout_s=7) as w:
        await w.ready()
        (spec,) = w.backend.launches
        assert (spec.replica, str(spec.function), spec.environment, spec.bundle) == (
            "f-1-1-1", "p/f@1", "env", "sha256:b",
        )  # fmt: skip
        assert (spec.memory_bytes, spec.startup_timeout_s) == (1 << 30, 7)
        assert spec.spec["name"] == "f"


async def test_a_ready_replica_is_announced_once_and_its_phases_are_measured() -> None:
    phases = {"import": 0.25, "setup": 1.5}
    ready = wire.Ready(schema={}, batched=True, streaming=False, concurrency=1, phases=phases)
    async with world(InMemoryBackend(ready=ready)) as w:
        await w.ready(2)
        assert w.listener.of("ready") == [("f-1-1-1",), ("f-1-1-2",)]
        for phase, seconds in phases.items():
            child = w.metrics.cold_start.child("p/f", phase)
            assert (sum(child.counts), child.sum) == (2, 2 * seconds)


async def test_a_wait_reports_how_many_are_ready_on_the_way() -> None:
    late = asyncio.Event()

    async def second_is_late(spec: LaunchSpec) -> None:
        if spec.replica.endswith("-2"):
            await late.wait()

    async with world(InMemoryBackend(before_ready=second_is_late)) as w:
        counts: list[int] = []
        w.replicas.want(2)
        waiting = asyncio.create_task(w.replicas.wait_ready(2, counts.append))
        await turns()
        assert (counts[-1], waiting.done()) == (1, False)
        late.set()
        await waiting
        assert counts[-1] == 2


async def test_a_start_that_fails_is_repeated_later_and_raised_to_who_waits() -> None:
    errors = [StartError("setup", "no model", log=["loading"])]
    async with world(InMemoryBackend(start_error=lambda _: errors.pop() if errors else None)) as w:
        with pytest.raises(StartError, match="no model"):
            await w.ready()
        assert w.replicas.start_error is not None
        assert w.restarts("start_failed") == 1
        assert w.events == ["replica f-1-1-1 did not start: setup: no model"]
        await until(lambda: w.listener.of("ready"))
        assert w.listener.of("ready") == [("f-1-1-2",)]
        assert w.replicas.start_error is None


async def test_a_set_that_gives_up_says_why_and_says_so_when_it_tries_again() -> None:
    broken = [True]
    backend = InMemoryBackend(start_error=lambda _: StartError("setup", "no model") if broken else None)
    async with world(backend) as w:
        w.replicas.want(1)
        await until(lambda: w.replicas.state.failed)
        (announced,) = w.listener.of("no capacity")
        assert "no model" in announced[0]
        tried = len(backend.launches)
        await asyncio.sleep(600)
        assert len(backend.launches) == tried
        broken.clear()
        await w.replicas.restart()
        assert w.listener.of("no capacity")[-1] == ("",)
        assert w.replicas.state.ready == 1


async def test_a_replica_that_is_ready_when_nobody_wants_it_any_more_is_killed() -> None:
    late = asyncio.Event()

    class Uncancellable(InMemoryBackend):
        async def launch(self, spec: LaunchSpec) -> Any:
            with pytest.raises(asyncio.CancelledError):
                await late.wait()
            return await super().launch(spec)

    async with world(Uncancellable()) as w:
        w.replicas.want(1)
        await turns()
        w.replicas.want(0)
        await turns()
        assert len(w.backend.replicas) == 1
        assert w.backend.alive == []
        assert w.listener.of("ready") == []


# Scale and restart


async def test_scaling_down_announces_which_replica_closes_before_it_drains_it() -> None:
    async with world() as w:
        await w.ready(2)
        w.replicas.want(1)
        ((closing,),) = w.listener.of("closing")
        await until(lambda: len(w.replicas.running) == 1)
        assert closing not in w.replicas.running
        assert w.listener.of("gone") == [(closing, "exited", True)]
        assert w.events == [], "an exit that was asked for is no event"


async def test_scaling_down_ends_a_start_that_is_not_needed_any_more() -> None:
    async def never(_: LaunchSpec) -> None:
        await asyncio.Event().wait()

    async with world(InMemoryBackend(before_ready=never)) as w:
        w.replicas.want(1)
        await turns()
        w.replicas.want(0)
        await turns()
        assert w.replicas.state.members == {}
        assert not w.replicas._launches


async def test_a_restart_replaces_one_replica_after_the_other() -> None:
    async with world() as w:
        await w.ready(2)
        before = set(w.replicas.running)
        fewest = 2

        def watch(_: Any) -> None:
            nonlocal fewest
            fewest = min(fewest, w.replicas.state.ready + w.replicas.state.starting)

        restarting = asyncio.create_task(w.replicas.restart())
        while not restarting.done():
            watch(None)
            await asyncio.sleep(0)
        assert not before & {m.id for m in w.replicas.state.members.values() if m.state is ReplicaState.READY}
        assert fewest == 2


async def test_a_recycled_replica_is_replaced_and_drained() -> None:
    async with world() as w:
        await w.ready()
        w.listener.replicas.recycle("f-1-1-1")
        w.listener.replicas.recycle("f-1-1-1")
        assert w.listener.of("closing") == [("f-1-1-1",)]
        await until(lambda: list(w.replicas.running) == ["f-1-1-2"])


# Exits


@pytest.mark.parametrize(
    ("exit", "at_fault"),
    [
        (CRASH, True),
        (Exit("oom", "out of memory"), True),
        (Exit("exited", "exit status 0"), True),
        (KILLED_EXTERNALLY, False),
        (Exit("lost", "the channel broke"), False),
    ],
)
async def test_an_exit_is_announced_with_whether_what_ran_may_be_its_cause(exit: Exit, at_fault: bool) -> None:
    async with world() as w:
        await w.ready()
        w.backend.replicas[0].crash(exit)
        await turns()
        assert w.listener.of("gone") == [("f-1-1-1", exit.reason, at_fault)]
        assert w.restarts(exit.reason) == 1
        assert w.events == [f"replica f-1-1-1 ended: {exit.message}"]


@pytest.mark.parametrize(
    ("exit", "served", "failures", "crashes"),
    [(CRASH, False, 1, 0), (CRASH, True, 0, 1), (KILLED_EXTERNALLY, False, 1, 0), (KILLED_EXTERNALLY, True, 0, 0)],
)
async def test_what_counts_against_a_function(exit: Exit, served: bool, failures: int, crashes: int) -> None:
    """An exit before any answer counts towards a crash loop; one from outside, after answers, counts for nothing."""
    async with world() as w:
        await w.ready()
        if served:
            w.listener.replicas.served("f-1-1-1")
        w.backend.replicas[0].crash(exit)
        await turns()
        assert (w.replicas.state.failures, w.replicas.state.crashes) == (failures, crashes)


async def test_a_replica_that_serving_calls_served_as_it_ends_is_no_failed_start() -> None:
    async with world() as w:
        await w.ready()
        w.listener.serves.add("f-1-1-1")
        w.backend.replicas[0].crash()
        await turns()
        assert (w.replicas.state.failures, w.replicas.state.crashes) == (0, 1)


# Health


async def test_a_replica_that_answers_health_checks_lives() -> None:
    async with world(health_check_period_s=10) as w:
        await w.ready()
        await asyncio.sleep(600)
        assert list(w.replicas.running) == ["f-1-1-1"]


async def test_a_replica_that_answers_no_health_check_is_killed_blamed_and_replaced() -> None:
    async with world(health_check_period_s=10) as w:
        await w.ready()
        began = asyncio.get_running_loop().time()
        w.backend.replicas[0].answers_pings = False
        await until(lambda: w.listener.of("gone"), timeout_s=100)
        assert asyncio.get_running_loop().time() - began == pytest.approx(40, abs=1)
        assert w.listener.of("closing") == [("f-1-1-1",)]
        assert w.listener.of("gone") == [("f-1-1-1", "killed", True)]
        assert w.restarts("hung") == 1
        assert w.events == ["replica f-1-1-1 is hung: it answered none of 3 health checks (health_check_period_s)"]
        await until(lambda: list(w.replicas.running) == ["f-1-1-2"])


async def test_two_missed_answers_are_forgiven_by_the_next_one() -> None:
    async with world(health_check_period_s=10) as w:
        await w.ready()
        w.backend.replicas[0].answers_pings = False
        await asyncio.sleep(25)
        w.backend.replicas[0].answers_pings = True
        await asyncio.sleep(600)
        assert list(w.replicas.running) == ["f-1-1-1"]


async def test_a_replica_that_is_stuck_is_killed_and_those_beside_it_are_not_blamed() -> None:
    async with world(health_check_period_s=10, graceful_shutdown_timeout_s=5) as w:
        await w.ready()
        w.listener.stuck_replicas.add("f-1-1-1")
        await until(lambda: w.listener.of("gone"))
        assert w.listener.of("gone") == [("f-1-1-1", "killed", False)]
        assert w.events == ["replica f-1-1-1 is hung: it worked on a batch for 5 s past its deadline (timeout_s)"]


async def test_a_replica_that_drains_is_killed_only_for_a_call_long_past_its_deadline() -> None:
    busy = asyncio.Event()

    async def work(*_: Any) -> Any:
        await busy.wait()

    async with world(InMemoryBackend(work), health_check_period_s=10, timeout_s=600) as w:
        await w.ready()
        w.backend.replicas[0].answers_pings = False
        w.backend.replicas[0].send_invoke(wire.Invoke(1, []), [])
        w.replicas.want(0)
        await asyncio.sleep(300)
        assert list(w.replicas.running) == ["f-1-1-1"], "its `close` may answer no pings"
        w.listener.stuck_replicas.add("f-1-1-1")
        await until(lambda: not w.replicas.running)
        assert w.events == ["replica f-1-1-1 is hung: it worked on a batch for 30 s past its deadline (timeout_s)"]
        assert (w.replicas.state.failures, w.replicas.state.restarts) == (0, 0)


def out_of(code: int) -> StartError:
    error = StartError("launch", os.strerror(code))
    error.__cause__ = OSError(code, os.strerror(code))
    return error


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC])
async def test_a_platform_without_descriptors_or_disk_starts_the_replica_once_it_has_them(code: int) -> None:
    failing = True

    def start_error(_: LaunchSpec) -> StartError | None:
        return out_of(code) if failing else None

    async with world(InMemoryBackend(start_error=start_error)) as w:
        w.replicas.want(1)
        await asyncio.sleep(60)
        assert len(w.backend.launches) > 10
        assert (w.replicas.state.failed, w.replicas.state.failures) == ("", 0)
        failing = False
        await until(lambda: bool(w.replicas.running), timeout_s=6)


async def test_a_launch_that_raises_anything_else_is_a_failed_start_and_is_tried_again() -> None:
    raising = True

    async def before_ready(_: LaunchSpec) -> None:
        if raising:
            raise RuntimeError("a defect")

    async with world(InMemoryBackend(before_ready=before_ready)) as w:
        w.replicas.want(1)
        await turns()
        assert w.replicas.state.failures == 1
        raising = False
        await until(lambda: bool(w.replicas.running), timeout_s=6)


async def test_the_health_timer_runs_only_while_there_are_replicas() -> None:
    async with world() as w:
        assert w.replicas._health is None
        await w.ready()
        assert w.replicas._health is not None
        w.replicas.want(0)
        await until(lambda: not w.replicas.running)
        assert w.replicas._health is None


# What serving gets of a replica


async def test_results_and_chunks_go_to_serving() -> None:
    async with world() as w:
        await w.ready()
        w.backend.replicas[0].send_invoke(wire.Invoke(5, []), [])
        w.backend.replicas[0].emit_chunk(wire.Chunk(7, 0, "application/json"), b"1")
        await turns()
        assert [result.batch for result in w.listener.results] == [5]
        assert [chunk.id for chunk in w.listener.chunks] == [7]


# The end


@pytest.mark.parametrize("state", ["ready", "starting", "failed"])
async def test_a_closed_set_leaves_nothing_behind(state: str) -> None:
    async def never(_: LaunchSpec) -> None:
        await asyncio.Event().wait()

    before_ready = never if state == "starting" else None
    start_error: Callable[[LaunchSpec], StartError | None] = lambda _: (  # noqa: E731
        StartError("setup", "no model") if state == "failed" else None
    )
    w = World(InMemoryBackend(before_ready=before_ready, start_error=start_error))
    w.replicas.want(2)
    await turns()
    await w.replicas.close(1)
    assert w.backend.alive == []
    assert w.replicas.running == {}
    assert w.replicas._tasks == []
    launches = len(w.backend.launches)
    await asyncio.sleep(600)
    assert len(w.backend.launches) == launches


async def test_replicas_that_outlive_the_time_to_drain_are_killed() -> None:
    async def hang(*_: Any) -> Any:
        await asyncio.Event().wait()

    w = World(InMemoryBackend(hang), graceful_shutdown_timeout_s=30)
    await w.ready()
    w.backend.replicas[0].send_invoke(wire.Invoke(1, []), [])
    began = asyncio.get_running_loop().time()
    await w.replicas.close(1)
    assert asyncio.get_running_loop().time() - began == pytest.approx(1)
    assert w.backend.replicas[0].exit == Exit("killed", "killed by the platform")


async def test_the_state_of_a_snapshot_is_reported_only_where_the_function_asks_for_one() -> None:
    for asked in (True, False):
        async with world(snapshot=asked) as w:
            state = SnapshotState("refused", "it started 1 threads", 12.0)
            w.backend.snapshots[w.replicas.target.id] = state
            assert w.replicas.snapshot() == (state if asked else None)


async def test_each_launch_has_the_secrets_of_that_moment_above_the_declared_variables() -> None:
    async with world(env={"MODE": "fast", "TOKEN": "none"}) as w:
        w.secrets = {"TOKEN": "old"}
        await w.ready(1)
        w.secrets = {"TOKEN": "new"}
        await w.replicas.restart()
        assert [launch.env for launch in w.backend.launches] == [
            {"MODE": "fast", "TOKEN": "old"},
            {"MODE": "fast", "TOKEN": "new"},
        ]


async def test_a_launch_whose_secrets_cannot_be_read_fails_and_is_tried_again() -> None:
    async with world() as w:
        w.secrets = None
        w.replicas.want(1)
        await until(lambda: w.replicas.start_error is not None)
        assert "secrets cannot be read" in str(w.replicas.start_error)
        w.secrets = {}
        await until(lambda: bool(w.replicas.running))
