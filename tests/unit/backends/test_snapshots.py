"""Snapshots under a manual clock: one template each, refused with a reason, tried again later."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from clipper.contract.zygote import Prepare
from clipper_platform.backends.base import SnapshotState
from clipper_platform.backends.process.launch import Launch
from clipper_platform.backends.process.output import ReplicaOutput
from clipper_platform.backends.process.snapshots import (
    IDLE_S,
    REMAKE_S,
    RETRY_FIRST_S,
    RETRY_MOST_S,
    Snapshots,
)
from clipper_platform.backends.process.zygotes import Zygote, ZygoteRefused
from clipper_platform.types import FunctionId
from tests.support.replicas import launch_on, launch_spec
from tests.support.serving import ManualClock

FUNCTION = FunctionId("demo", "obey", 3)
THREADS = ZygoteRefused("it started 1 threads ('poller'), which a forked process would lack")


class FakeZygote:
    """Becomes a template, or refuses, once `go` is set."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.go = asyncio.Event()
        self.usable = False
        self.retired = False
        self.children: dict[int, object] = {}

    async def become(self, _timeout_s: float) -> None:
        await self.go.wait()
        if self.error is not None:
            raise self.error
        self.usable = True

    def retire(self) -> None:
        self.usable, self.retired = False, True


class Place:
    """Snapshots whose templates raise `error`, if there is one when they are started."""

    def __init__(self, tmp_path: Path, error: Exception | None = None) -> None:
        self.clock = ManualClock()
        self.error = error
        self.hold = False
        self.made: list[FakeZygote] = []
        self.log_lines: list[str] = []
        self.tasks: list[asyncio.Task[Zygote | None]] = []
        self.spec = launch_on(launch_spec(tmp_path, function=FUNCTION))
        self.snapshots = Snapshots(self._start, lambda _, line: self.log_lines.append(line), self._spawn, self.clock)

    def _start(self, _launch: Launch, _request: Prepare, _output: ReplicaOutput) -> Zygote:
        zygote = FakeZygote(self.error)
        self.made.append(zygote)
        if not self.hold:
            zygote.go.set()
        return cast(Zygote, zygote)

    def _spawn(self, work: Coroutine[Any, Any, Zygote | None]) -> asyncio.Task[Zygote | None]:
        self.tasks.append(asyncio.get_running_loop().create_task(work))
        return self.tasks[-1]

    async def source(self) -> Zygote | None:
        async with asyncio.timeout(5):
            return await self.snapshots.source(self.spec)

    async def settle(self) -> None:
        await asyncio.gather(*self.tasks)

    @property
    def state(self) -> SnapshotState | None:
        return self.snapshots.state(FUNCTION)


async def test_the_first_launch_waits_for_the_template_and_the_others_share_it(tmp_path: Path) -> None:
    here = Place(tmp_path)
    assert here.state is None
    here.hold = True
    first, second = (asyncio.create_task(here.source()) for _ in range(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert here.state == SnapshotState("making")
    assert not first.done()
    here.made[0].go.set()
    assert await first is await second is cast(Zygote, here.made[0])
    assert here.state == SnapshotState("ready")
    assert len(here.made) == 1


async def test_a_refusal_says_why_and_from_when_it_is_tried_again(tmp_path: Path) -> None:
    here = Place(tmp_path, THREADS)
    assert await here.source() is None
    assert here.state == SnapshotState("refused", THREADS.why, RETRY_FIRST_S)
    here.clock.now += 10
    assert here.state == SnapshotState("refused", THREADS.why, RETRY_FIRST_S - 10)
    assert here.log_lines == [f"no snapshot of {FUNCTION}: {THREADS.why}; its replicas start without one"]


async def test_a_refused_template_is_made_again_after_longer_and_longer_pauses(tmp_path: Path) -> None:
    here = Place(tmp_path, THREADS)
    pauses: list[float] = []
    for _ in range(8):
        tried = len(here.made)
        began = here.clock.now
        while len(here.made) == tried:
            assert await here.source() is None
            await here.settle()
            here.clock.now += 5
        pauses.append(here.clock.now - began)
    assert pauses[1] <= RETRY_FIRST_S + 10
    assert all(later >= earlier for earlier, later in pairwise(pauses))
    assert RETRY_MOST_S < IDLE_S
    assert max(pauses) <= RETRY_MOST_S + 10


async def test_no_launch_waits_for_another_attempt_and_its_success_is_used(tmp_path: Path) -> None:
    here = Place(tmp_path, THREADS)
    assert await here.source() is None
    here.error, here.hold = None, True
    here.clock.now += RETRY_FIRST_S
    assert await here.source() is None, "the replica that caused the attempt starts without a snapshot"
    await asyncio.sleep(0)
    assert len(here.made) == 2
    assert here.state is not None
    assert here.state.state == "refused"
    here.made[1].go.set()
    await here.settle()
    assert await here.source() is cast(Zygote, here.made[1])
    assert here.state == SnapshotState("ready")


async def test_what_cannot_succeed_for_a_version_is_not_tried_again(tmp_path: Path) -> None:
    here = Place(tmp_path, ZygoteRefused("it is async", lasting=True))
    assert await here.source() is None
    here.clock.now += 10 * RETRY_MOST_S
    assert await here.source() is None
    assert len(here.made) == 1
    assert here.state == SnapshotState("refused", "it is async", None)


async def test_a_template_that_is_gone_is_made_again_after_a_pause(tmp_path: Path) -> None:
    here = Place(tmp_path)
    assert await here.source() is not None
    here.made[0].usable = False
    assert await here.source() is None
    assert here.state is not None
    assert (here.state.state, here.state.retry_s) == ("gone", REMAKE_S)
    here.clock.now += REMAKE_S + 1
    assert await here.source() is cast(Zygote, here.made[1])


async def test_templates_that_no_launch_uses_go_unless_they_have_replicas(tmp_path: Path) -> None:
    here = Place(tmp_path)
    assert await here.source() is not None
    here.made[0].children[7] = object()
    here.clock.now += IDLE_S
    here.snapshots.forget_idle()
    assert not here.made[0].retired
    here.made[0].children.clear()
    here.snapshots.forget_idle()
    assert here.made[0].retired
    assert here.state is None


async def test_changed_secrets_end_the_template_that_holds_the_earlier_ones(tmp_path: Path) -> None:
    here = Place(tmp_path)
    await here.source()
    here.snapshots.forget_project("another")
    assert not here.made[0].retired
    here.snapshots.forget_project("demo")
    await asyncio.sleep(0)
    assert here.made[0].retired
    await here.source()
    here.spec = launch_on(launch_spec(tmp_path, function=FUNCTION, env={"TOKEN": "new"}))
    await here.source()
    await asyncio.sleep(0)
    assert [zygote.retired for zygote in here.made] == [True, True, False]


async def test_a_template_that_is_made_while_the_secrets_change_is_not_used(tmp_path: Path) -> None:
    here = Place(tmp_path)
    here.hold = True
    waiting = asyncio.create_task(here.source())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    here.snapshots.forget_project("demo")
    here.made[0].go.set()
    assert await waiting is None
    assert here.made[0].retired
    assert here.state is None


async def test_a_template_that_is_refused_while_the_secrets_change_is_forgotten(tmp_path: Path) -> None:
    here = Place(tmp_path, THREADS)
    here.hold = True
    waiting = asyncio.create_task(here.source())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    here.snapshots.forget_project("demo")
    here.made[0].go.set()
    assert await waiting is None
    assert here.state is None
