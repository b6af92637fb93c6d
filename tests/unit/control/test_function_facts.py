"""What is known of a function version: the facts of its queue and its replica set, put together."""

from __future__ import annotations

import asyncio

import pytest

from clipper.contract import wire
from clipper_platform.backends.base import LaunchSpec, SnapshotState, StartError
from clipper_platform.core.canary import Answers
from clipper_platform.types import FunctionId
from tests.support.memory_backend import InMemoryBackend, echo
from tests.support.serving import Harness, harness, target
from tests.support.waiting import until

pytestmark = pytest.mark.virtual_time

F = FunctionId("p", "f", 1)


def state_of(h: Harness) -> tuple[str, str]:
    status = h.facts.status(F)
    assert status is not None
    return status.state, status.reason


async def turns(n: int = 10) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def test_nothing_is_known_of_what_does_not_run() -> None:
    async with harness() as h:
        assert h.facts.status(F) is None
        assert h.facts.answers(F) == Answers()
        assert h.scaled.sampler(F)(h.clock.monotonic()) is None


async def test_the_status_of_a_busy_function_has_what_waits_what_runs_and_each_replica() -> None:
    release = asyncio.Event()

    async def hold(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        await release.wait()
        return await echo(invoke, payloads)

    async with harness(InMemoryBackend(hold)) as h:
        await h.deploy(target(max_batch_size=1), replicas=2)
        for _ in range(6):
            h.call()
        await turns()
        status = h.facts.status(F)
        assert status is not None
        assert (status.state, status.queue_depth, status.running) == ("ready", 4, 2)
        assert (status.replicas_ready, status.replicas_wanted, status.restarts) == (2, 2, 0)
        assert [(r.state, r.version, r.in_flight, r.invocations, r.memory_bytes) for r in status.replicas] == [
            ("ready", 1, 1, 0, 1 << 20)
        ] * 2
        release.set()


async def test_what_callers_got_is_in_the_status_and_in_the_answers() -> None:
    async with harness() as h:
        await h.deploy(target(cache_ttl_s=60))
        for _ in range(20):
            await h.call(body=b"same").wait()
        status = h.facts.status(F)
        assert status is not None
        assert (status.cache_hits, status.cache_misses) == (19, 1)
        assert status.cache_bytes > 0
        assert status.p99_s is not None
        answers = h.facts.answers(F)
        assert (answers.answered, answers.failed, answers.broken) == (20, 0, False)


async def test_the_state_says_whether_it_can_answer_and_why_not() -> None:
    broken: list[str] = []
    late = asyncio.Event()

    async def second_is_late(spec: object) -> None:
        if len(backend.launches) > 1 and not broken:
            await late.wait()

    def refuse(_: object) -> StartError | None:
        return StartError("setup", "no model", log=["line 1", "line 2"]) if broken else None

    backend = InMemoryBackend(start_error=refuse, before_ready=second_is_late)
    async with harness(backend) as h:
        await h.deploy(target())
        assert state_of(h) == ("ready", "")
        h.replica_sets.scale(F, 2)
        assert state_of(h) == ("degraded", "replicas are starting")
        h.replica_sets.scale(F, 0)
        await until(lambda: not backend.alive)
        assert state_of(h) == ("ready", "")
        h.replica_sets.scale(F, 1)
        assert state_of(h) == ("starting", "replicas are starting")
        broken.append("model.bin")
        late.set()
        await until(lambda: h.replica_set().state.failed, timeout_s=600)
        state, reason = state_of(h)
        assert state == "failed"
        assert reason.startswith("5 starts failed in a row")
        assert reason.endswith("no model\n  line 1\n  line 2")
        assert h.facts.answers(F).broken


async def test_a_function_that_drains_is_stopped_for_callers() -> None:
    release = asyncio.Event()

    async def hold(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        await release.wait()
        return await echo(invoke, payloads)

    async with harness(InMemoryBackend(hold)) as h:
        await h.deploy(target())
        h.call()
        await turns()
        stopping = asyncio.create_task(h.replica_sets.stop("p", 1))
        await turns()
        assert state_of(h) == ("stopped", "p/f@1 is draining")
        release.set()
        await stopping


async def test_the_state_of_a_snapshot_is_known_only_where_the_function_asks_for_one() -> None:
    backend = InMemoryBackend()
    async with harness(backend) as h:
        for name, asked in (("f", True), ("g", False)):
            made = target(name, snapshot=asked)
            backend.snapshots[made.id] = SnapshotState("refused", "it started 1 threads", 12.0)
            await h.deploy(made)
            status = h.facts.status(made.id)
            assert status is not None
            assert status.snapshot == (backend.snapshots[made.id] if asked else None)


async def test_keep_alive_counts_from_readiness_where_that_is_later_than_the_end_of_the_call() -> None:
    may_start = asyncio.Event()

    async def slow(_: LaunchSpec) -> None:
        await may_start.wait()

    async with harness(InMemoryBackend(before_ready=slow)) as h:
        await h.replica_sets.start(target(), replicas=1, wait=False)
        h.dispatcher.set_route("p", 1)
        call = h.call(timeout_s=1.0)
        assert (await call.wait()).code == "deadline_exceeded"
        await asyncio.sleep(5)
        may_start.set()
        await turns()
        sample = h.scaled.sampler(F)(h.clock.monotonic())
        assert sample is not None
        assert (sample.ready, sample.idle_since) == (1, pytest.approx(h.clock.monotonic(), abs=0.1))


async def test_a_sample_has_load_and_replica_counts_at_one_instant() -> None:
    release = asyncio.Event()

    async def hold(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        await release.wait()
        return await echo(invoke, payloads)

    async with harness(InMemoryBackend(hold)) as h:
        await h.deploy(target(max_batch_size=1))
        sampler = h.scaled.sampler(F)
        for _ in range(5):
            h.call()
        await turns()
        sample = sampler(h.clock.monotonic())
        assert sample is not None
        assert (sample.queued, sample.running, sample.wanted, sample.ready, sample.starting) == (4, 1, 1, 1, 0)
        assert (sample.arrivals, sample.idle_since, sample.service) == (5, None, None)
        h.scaled.scale(F, 3)
        sample = sampler(h.clock.monotonic())
        assert sample is not None
        assert (sample.wanted, sample.ready, sample.starting) == (3, 1, 2)
        release.set()
