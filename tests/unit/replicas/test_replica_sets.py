"""The replica sets of all function versions: start, scale, stop, and the queue beside each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from clipper_platform.backends.base import StartError
from clipper_platform.errors import DeployFailed, Unavailable
from clipper_platform.metrics import Metrics
from clipper_platform.replicas.replica_sets import ReplicaSets
from clipper_platform.types import FunctionId
from tests.support.memory_backend import InMemoryBackend
from tests.support.serving import no_secrets, target
from tests.support.virtual_time import LoopClock
from tests.support.waiting import until
from tests.unit.replicas.doubles import FakeQueues

pytestmark = pytest.mark.virtual_time

F = FunctionId("p", "f", 1)


class Sets:
    def __init__(self, backend: InMemoryBackend) -> None:
        self.backend = backend
        self.queues = FakeQueues()
        self.metrics = Metrics()
        self.sets = ReplicaSets(
            self.queues,
            backend=backend,
            clock=LoopClock(),
            metrics=self.metrics,
            events=lambda *_: None,
            secrets=no_secrets,
        )
        self.running: list[tuple[str, bool]] = []
        self.sets.on_running = lambda target, runs: self.running.append((str(target.id), runs))


@asynccontextmanager
async def sets(backend: InMemoryBackend | None = None) -> AsyncIterator[Sets]:
    opened = Sets(backend or InMemoryBackend())
    yield opened
    await opened.sets.close()
    assert opened.backend.alive == []


async def turns(n: int = 10) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


# Start


async def test_a_version_that_has_the_number_of_another_one_takes_its_place() -> None:
    async with sets() as s:
        await s.sets.start(replace(target(), identity="a"), replicas=1)
        first = s.sets.get(F)
        await s.sets.start(replace(target(), identity="a"), replicas=1)
        assert s.sets.get(F) is first
        await s.sets.start(replace(target(), identity="b"), replicas=1)
        assert (found := s.sets.get(F)) is not None
        assert found.target.identity == "b"
        assert s.running == [("p/f@1", True), ("p/f@1", True), ("p/f@1", False), ("p/f@1", True)]
        assert len(s.backend.alive) == 1


async def test_a_start_opens_a_queue_waits_for_the_replicas_and_returns_the_schema() -> None:
    async with sets() as s:
        progress: list[tuple[str, int, int]] = []
        schema = await s.sets.start(
            target(), replicas=2, on_progress=lambda id, ready, wanted: progress.append((str(id), ready, wanted))
        )
        assert schema == {"streaming": False}
        assert s.queues.history == [("open", "p/f@1", None, 0.0)]
        assert (progress[0], progress[-1]) == (("p/f@1", 0, 2), ("p/f@1", 2, 2))
        assert s.running == [("p/f@1", True)]
        assert s.sets.ready(F) == 2


async def test_a_second_start_of_the_same_version_uses_its_replicas() -> None:
    async with sets() as s:
        await s.sets.start(target(), replicas=1)
        await s.sets.start(target(), replicas=1)
        assert len(s.backend.launches) == 1
        assert len(s.queues.history) == 1


async def test_a_start_without_waiting_returns_at_once_with_what_the_version_was_before() -> None:
    async with sets() as s:
        assert await s.sets.start(target(), replicas=0, wait=False, schema={"x": 1}, idle_s=300.0) == {}
        assert s.queues.history == [("open", "p/f@1", {"x": 1}, 300.0)]
        assert s.running == [("p/f@1", True)]
        assert s.sets.ready(F) == 0


async def test_a_replica_that_does_not_start_fails_the_deploy_with_its_log_and_a_hint_and_leaves_nothing() -> None:
    error = StartError("import", "No module named 'torch'", error_type="ModuleNotFoundError", log=["line 1"])
    async with sets(InMemoryBackend(start_error=lambda _: error)) as s:
        with pytest.raises(DeployFailed) as failure:
            await s.sets.start(target(), replicas=1)
        assert failure.value.details["log"] == ["line 1"]
        assert "requirements" in failure.value.details["hint"]
        assert s.sets.get(F) is None
        assert s.queues.history[-1] == ("remove", "p/f@1", "p/f@1 is not running")
        assert s.running == [("p/f@1", False)]


async def test_a_cancelled_start_leaves_nothing_behind() -> None:
    async def never(_: object) -> None:
        await asyncio.Event().wait()

    async with sets(InMemoryBackend(before_ready=never)) as s:
        starting = asyncio.create_task(s.sets.start(target(), replicas=1))
        await turns()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert s.sets.versions("p") == set()
        assert s.backend.alive == []


async def test_while_replicas_are_waited_for_the_set_is_held() -> None:
    late = asyncio.Event()

    async def wait(_: object) -> None:
        await late.wait()

    async with sets(InMemoryBackend(before_ready=wait)) as s:
        starting = asyncio.create_task(s.sets.start(target(), replicas=1))
        await turns()
        replicas = s.sets.get(F)
        assert replicas is not None
        assert replicas.held == 1
        late.set()
        await starting
        assert replicas.held == 0


# What there is


async def test_versions_and_functions_are_those_with_replica_sets() -> None:
    async with sets() as s:
        for each in (target(), target("g"), target(version=2), target(project="q", version=7)):
            await s.sets.start(each, replicas=0, wait=False)
        assert s.sets.versions("p") == {1, 2}
        assert s.sets.versions("none") == set()
        assert s.sets.functions("p", 1) == ["f", "g"]
        await s.sets.stop("p", 1)
        assert s.sets.versions("p") == {2}
        assert s.sets.get(FunctionId("q", "f", 7)) is not None
        assert s.sets.get(F) is None


async def test_replicas_are_counted_by_state() -> None:
    async with sets() as s:
        await s.sets.start(target(), replicas=2)
        counted = dict(s.metrics.replicas.callback())
        assert counted["p/f", "1", "ready"] == 2
        assert counted["p/f", "1", "starting"] == 0


async def test_scaling_is_counted_only_where_a_start_changes_the_number() -> None:
    async with sets() as s:
        await s.sets.start(target(), replicas=1)
        await s.sets.start(target(), replicas=1)
        assert s.metrics.scaling_decisions.child("p/f", "fixed").value == 1


async def test_changes_to_what_does_not_run_are_ignored() -> None:
    async with sets() as s:
        s.sets.scale(F, 3)
        await s.sets.restart(F)
        await s.sets.stop("p", 1)
        assert s.backend.launches == []


async def test_scaling_changes_the_number_of_replicas() -> None:
    async with sets() as s:
        await s.sets.start(target(), replicas=1)
        s.sets.scale(F, 3)
        await until(lambda: s.sets.ready(F) == 3)
        s.sets.scale(F, 0)
        await until(lambda: not s.backend.alive)


# Stop


async def test_a_stop_drains_the_queue_then_removes_it_then_ends_the_replicas() -> None:
    async with sets() as s:
        await s.sets.start(target(graceful_shutdown_timeout_s=7), replicas=1)
        alive: list[int] = []

        def remove(id: FunctionId, reason: str) -> None:
            s.queues.history.append(("remove", str(id), reason))
            alive.append(len(s.backend.alive))

        s.queues.remove = remove  # type: ignore[method-assign]
        await s.sets.stop("p", 1)
        assert s.queues.history[1:] == [
            ("drain", "p/f@1", 7, "p/f@1 is draining"),
            ("remove", "p/f@1", "p/f@1 is not running"),
        ]
        assert alive == [1]
        assert s.backend.alive == []
        assert s.running == [("p/f@1", True), ("p/f@1", False)]


@pytest.mark.parametrize(
    ("options", "grace_s", "seconds"), [({}, 600, 600), ({"graceful_shutdown_timeout_s": 7}, 600, 7), ({}, 5, 5)]
)
async def test_a_drain_takes_as_long_as_a_call_may_unless_the_function_or_the_caller_says_less(
    options: dict[str, Any], grace_s: float, seconds: float
) -> None:
    async with sets() as s:
        await s.sets.start(target(timeout_s=600, **options), replicas=1)
        await s.sets.stop("p", 1, grace_s=grace_s)
        assert s.queues.history[1] == ("drain", "p/f@1", seconds, "p/f@1 is draining")


async def test_a_version_whose_drain_is_taken_back_keeps_its_replicas() -> None:
    async with sets() as s:
        await s.sets.start(target(), replicas=1)
        s.queues.outcome = "reopened"
        s.sets.resume("p", 1)
        await s.sets.stop("p", 1)
        assert ("reopen", "p/f@1") in s.queues.history
        assert (s.sets.ready(F), s.running) == (1, [("p/f@1", True)])
        s.queues.outcome = "answered"


async def test_the_drains_of_a_project_can_be_cut_short() -> None:
    async with sets() as s:
        await s.sets.start(target(), replicas=1)
        s.sets.cut("p")
        s.sets.cut("nobody")
        assert s.queues.history[1:] == [("cut", "p/f@1")]


async def test_the_platforms_own_end_bounds_every_drain_from_its_signal_on() -> None:
    async with sets() as s:
        await s.sets.start(target(timeout_s=600), replicas=1)
        s.sets.shut_down()
        await asyncio.sleep(10)
        s.sets.shut_down()  # the limit counts from the first
        await s.sets.close()
        assert s.queues.history[1] == ("drain", "p/f@1", 20, "the platform is shutting down")
        s.sets.resume("p", 1)
        assert "reopen" not in [event[0] for event in s.queues.history]


async def test_two_stops_of_one_version_end_it_once() -> None:
    async with sets() as s:
        await s.sets.start(target(), replicas=1)
        await asyncio.gather(s.sets.stop("p", 1), s.sets.stop("p", 1))
        assert [event[0] for event in s.queues.history].count("remove") == 1


async def test_a_cancelled_stop_ends_the_replicas_all_the_same() -> None:
    async with sets() as s:
        await s.sets.start(target(), replicas=1)

        async def drain(*_: Any) -> None:
            await asyncio.Event().wait()

        s.queues.drain = drain  # type: ignore[method-assign]
        stopping = asyncio.create_task(s.sets.stop("p", 1))
        await turns()
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        await until(lambda: not s.backend.alive)
        assert s.sets.versions("p") == set()


async def test_after_the_close_nothing_starts() -> None:
    async with sets() as s:
        await s.sets.start(target(), replicas=1)
        await s.sets.close()
        assert ("drain", "p/f@1", 30.0, "the platform is shutting down") in s.queues.history
        with pytest.raises(Unavailable):
            await s.sets.start(target(version=2), replicas=1)
