"""What poison, hangs and deaths cost those who did nothing: their replica's time, never their answer."""

from __future__ import annotations

import asyncio

import pytest

from clipper.contract import wire
from clipper_platform.backends.base import Exit
from tests.support.memory_backend import InMemoryBackend, echo
from tests.support.serving import Caller, harness, target

pytestmark = pytest.mark.virtual_time

UNBATCHED = wire.Ready(schema={}, batched=False, streaming=False, concurrency=1, phases={})
CONCURRENT = wire.Ready(schema={}, batched=False, streaming=False, concurrency=8, phases={})


async def poisoned(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
    if any(bytes(p) == b"poison" for p in payloads):
        raise RuntimeError("segmentation fault")
    await asyncio.sleep(0.001)
    return await echo(invoke, payloads)


async def turns(n: int = 10) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def quick_restarts(h: object, path: str = "p/f") -> None:
    """Back-off in milliseconds, so that a test may see many deaths."""
    state = h.replica_set(path).state  # type: ignore[attr-defined]
    state.base_delay_s = state.served_max_delay_s = 0.001


async def test_poison_alone_never_stops_the_pool() -> None:
    backend = InMemoryBackend(poisoned, ready=UNBATCHED)
    async with harness(backend) as h:
        await h.deploy(target())
        quick_restarts(h)
        for _ in range(10):
            assert (await h.call(body=b"poison").wait()).code == "quarantined"
        assert (await h.call(body=b"bread").wait()).payload == b"bread"


async def test_a_replica_that_dies_without_work_still_counts_as_a_failed_start() -> None:
    backend = InMemoryBackend()
    async with harness(backend) as h:
        await h.deploy(target())
        state = h.replica_set().state
        backend.replicas[0].crash()
        await turns()
        assert state.failures == 1


async def test_who_waits_behind_poison_again_and_again_is_answered_all_the_same() -> None:
    backend = InMemoryBackend(poisoned)
    async with harness(backend) as h:
        await h.deploy(target(max_batch_size=2, max_retries=0))
        quick_restarts(h)
        # By deadline: batches of two, each with poison in it, and one innocent behind all of them.
        for n in range(10):
            h.call(body=b"poison" if n % 2 else b"bread", timeout_s=5)
        last = [h.call(body=b"water", timeout_s=10) for _ in range(2)]
        await asyncio.gather(*(c.wait() for c in h.callers))
        assert [c.payload for c in last] == [b"water", b"water"]
        assert last[0].invocation.attempts == 0


async def test_a_suspect_gets_its_turn_while_others_keep_coming() -> None:
    one_at_a_time = asyncio.Lock()

    async def in_turn(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        async with one_at_a_time:  # so that a second batch always waits behind the one that runs
            return await poisoned(invoke, payloads)

    backend = InMemoryBackend(in_turn)
    async with harness(backend) as h:
        await h.deploy(target(max_batch_size=2))
        quick_restarts(h)
        over = asyncio.Event()

        async def keep_asking() -> None:
            while not over.is_set():
                assert (await h.call(body=b"bread").wait()).code == "ok"

        async with asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(keep_asking())
            await asyncio.sleep(0.02)
            poison = h.call(body=b"poison", timeout_s=5)
            await poison.wait()
            assert poison.code == "quarantined"
            over.set()


@pytest.mark.parametrize("seconds", [0.5, 60.0])
async def test_a_replica_that_is_silent_inside_the_deadline_of_what_it_runs_is_left_alone(seconds: float) -> None:
    async def holds_the_lock(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        if any(bytes(p) == b"long" for p in payloads):
            backend.replicas[0].answers_pings = False
            await asyncio.sleep(seconds)
        return await echo(invoke, payloads)

    backend = InMemoryBackend(holds_the_lock)
    async with harness(backend) as h:
        await h.deploy(target(max_batch_size=4, health_check_period_s=0.01))
        long = h.call(body=b"long", timeout_s=1.0)
        if seconds < 1:
            assert (await long.wait()).code == "ok"
            assert len(backend.replicas) == 1
        else:
            assert (await long.wait()).code == "deadline_exceeded"
            await asyncio.sleep(0.1)
            assert (await h.call(body=b"short").wait()).code == "ok"
            assert len(backend.replicas) == 2
            assert any("health checks" in message for _, _, message, _ in h.events)


async def test_while_others_wait_a_call_past_its_deadline_has_its_replica_replaced_at_once() -> None:
    async def hangs(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        if any(bytes(p) == b"hang" for p in payloads):
            await asyncio.Event().wait()
        return await echo(invoke, payloads)

    backend = InMemoryBackend(hangs, ready=UNBATCHED)
    async with harness(backend) as h:
        await h.deploy(target(timeout_s=60))
        hang, other = h.call(body=b"hang", timeout_s=1.0), h.call(body=b"x", timeout_s=60)
        assert (await hang.wait()).code == "deadline_exceeded"
        assert (await other.wait()).code == "ok"
        assert other.invocation.finished - hang.invocation.finished < 0.1
        late = h.call(body=b"hang", timeout_s=1.0)
        assert (await late.wait()).code == "deadline_exceeded"
        await asyncio.sleep(5)
        came_later = h.call(body=b"x", timeout_s=60)
        assert (await came_later.wait()).code == "ok"
        assert came_later.invocation.finished - came_later.invocation.arrived < 0.1
        assert len(backend.alive) == 3


async def test_a_replica_stuck_in_one_call_is_not_the_fault_of_those_beside_it() -> None:
    stuck: list[int] = []

    async def gets_stuck(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        if len(backend.replicas) == 1:
            stuck.append(invoke.batch)
            await asyncio.Event().wait()
        return await echo(invoke, payloads)

    backend = InMemoryBackend(gets_stuck, ready=CONCURRENT)
    async with harness(backend) as h:
        await h.deploy(target(timeout_s=0.2, health_check_period_s=0.01, graceful_shutdown_timeout_s=0.01))
        short, long = h.call(timeout_s=0.05), h.call(timeout_s=10)
        assert (await short.wait()).code == "deadline_exceeded"
        assert (await long.wait()).code == "ok"
        assert long.invocation.blamed == 0
        assert len(backend.replicas) == 2


async def late(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
    """A replica whose turn for the items comes at 0.1 s: it passes over those that had less time."""
    await asyncio.sleep(0.1)
    outcomes = [
        wire.Outcome(item.id, wire.Status.CANCELLED)
        if item.timeout_s < 0.1
        else wire.Outcome(item.id, wire.Status.OK, "text/plain", len(payload))
        for item, payload in zip(invoke.items, payloads, strict=True)
    ]
    bodies = [bytes(p) for i, p in zip(invoke.items, payloads, strict=True) if i.timeout_s >= 0.1]
    return wire.Result(invoke.batch, outcomes), [*bodies, *[b""] * (len(outcomes) - len(bodies))]


async def test_what_a_replica_passes_over_for_its_time_is_a_missed_deadline() -> None:
    async with harness(InMemoryBackend(late, ready=UNBATCHED)) as h:
        await h.deploy(target())
        caller = h.call(timeout_s=0.099)
        assert (await caller.wait()).code == "deadline_exceeded"


async def test_a_flight_that_got_more_time_since_it_was_sent_is_sent_again() -> None:
    backend = InMemoryBackend(late, ready=UNBATCHED)
    async with harness(backend) as h:
        await h.deploy(target(cache_ttl_s=60))
        first = h.call(timeout_s=0.05)
        await turns()
        second = h.call(timeout_s=10)
        codes = [c.code for c in await asyncio.gather(first.wait(), second.wait())]
        assert codes == ["deadline_exceeded", "ok"]
        assert len(backend.replicas[0].invokes) == 2


async def test_a_kill_from_outside_blames_nobody() -> None:
    backend = InMemoryBackend(poisoned)
    async with harness(backend) as h:
        await h.deploy(target(max_batch_size=4))
        quick_restarts(h)
        calls: list[Caller] = [h.call() for _ in range(4)]
        await turns()
        backend.replicas[0].crash(Exit("killed_externally", "killed by SIGKILL"))
        assert {(await c.wait()).code for c in calls} == {"ok"}
        assert {c.invocation.blamed for c in calls} == {0}
