"""The data plane on scripted replicas: each invocation is answered once, with the right answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from clipper.contract import wire
from clipper_platform.backends.base import Exit, StartError
from clipper_platform.core import caching
from clipper_platform.core.pooling import ReplicaState
from clipper_platform.errors import NotFound, QueueFull, Unavailable
from clipper_platform.replicas.replica_set import ReplicaSet
from tests.support.memory_backend import InMemoryBackend, echo
from tests.support.serving import ManualClock, harness, target
from tests.support.waiting import until

pytestmark = pytest.mark.virtual_time

UNBATCHED = wire.Ready(schema={}, batched=False, streaming=False, concurrency=1, phases={})
CONCURRENT = wire.Ready(schema={}, batched=False, streaming=False, concurrency=8, phases={})
STREAMING = wire.Ready(schema={}, batched=False, streaming=True, concurrency=8, phases={})


class Gate:
    """A behaviour that holds every batch until it is opened, and counts what it was given."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.seen: list[list[bytes]] = []

    async def __call__(self, invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        self.seen.append([bytes(p) for p in payloads])
        await self.open.wait()
        return await echo(invoke, payloads)


async def turns(n: int = 10) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def test_an_invocation_is_answered_with_its_own_payload() -> None:
    async with harness() as h:
        await h.deploy(target())
        calls = [h.call(body=str(n).encode()) for n in range(100)]
        for n, call in enumerate(calls):
            assert (await call.wait()).payload == str(n).encode()


async def test_what_arrives_together_is_batched_up_to_the_limit() -> None:
    gate = Gate()
    async with harness(InMemoryBackend(gate)) as h:
        await h.deploy(target(max_batch_size=8))
        for n in range(20):
            h.call(body=str(n).encode())
        await turns()
        assert [len(batch) for batch in gate.seen] == [8]
        gate.open.set()
        await asyncio.gather(*(c.wait() for c in h.callers))
        assert [len(batch) for batch in gate.seen] == [8, 8, 4]


async def test_an_unbatched_function_runs_one_invocation_per_frame_until_it_is_known_to_be_quick() -> None:
    gate = Gate()
    async with harness(InMemoryBackend(gate, ready=UNBATCHED)) as h:
        await h.deploy(target())
        for _ in range(5):
            h.call()
        await turns()
        assert [len(batch) for batch in gate.seen] == [1]
        gate.open.set()


async def test_a_concurrent_replica_takes_as_many_as_it_says() -> None:
    gate = Gate()
    async with harness(InMemoryBackend(gate, ready=CONCURRENT)) as h:
        await h.deploy(target(max_ongoing_requests=8))
        for _ in range(20):
            h.call()
        await turns()
        assert sum(map(len, gate.seen)) == 8
        gate.open.set()


async def test_a_bounded_wait_lets_a_batch_fill() -> None:
    gate = Gate()
    gate.open.set()
    async with harness(InMemoryBackend(gate)) as h:
        await h.deploy(target(max_batch_size=4, batch_wait_timeout_s=5))
        for _ in range(3):
            h.call()
        await turns()
        assert gate.seen == []
        await h.call().wait()
        assert [len(batch) for batch in gate.seen] == [4]


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    gate = Gate()
    async with harness(InMemoryBackend(gate, ready=UNBATCHED)) as h:
        await h.deploy(target(max_queued_requests=3))
        for _ in range(3):
            h.call()
        with pytest.raises(QueueFull) as refusal:
            h.call()
        assert refusal.value.retry_after_s is not None
        assert refusal.value.retry_after_s >= 1
        gate.open.set()


@pytest.mark.parametrize("options", [{}, {"cache_ttl_s": 60}])
async def test_an_offer_to_a_full_queue_is_a_false_instead_of_an_error_and_keeps_nothing(
    options: dict[str, Any],
) -> None:
    gate = Gate()
    async with harness(InMemoryBackend(gate, ready=UNBATCHED)) as h:
        await h.deploy(target(max_queued_requests=1, **options))
        h.call(body=b"first")
        refused = h.caller(body=b"second")
        assert h.dispatcher.offer(refused.invocation) is False
        assert refused.answers == 0
        assert h.metrics.refused.child("p/f", "1", "function").value == 1
        gate.open.set()


async def test_a_hit_is_answered_without_an_invocation_and_a_miss_follows_with_its_key() -> None:
    async with harness() as h:
        await h.deploy(target(cache_ttl_s=60))
        queue = h.dispatcher.resolve("p/f")
        miss = h.caller(body=b"x").invocation
        key = caching.key(queue.name, miss.content_type, miss.accept, miss.body)
        assert h.dispatcher.cached(queue, key, h.clock.monotonic(), h.clock.monotonic()) is None
        caller = h.caller(body=b"x")
        h.callers.append(caller)
        assert h.dispatcher.offer(caller.invocation, key)
        await caller.wait()
        hit = h.dispatcher.cached(queue, key, h.clock.monotonic(), h.clock.monotonic())
        assert hit is not None
        assert hit.payload == b"x"
        assert (queue.cache_hits, queue.cache_misses) == (1, 1)


async def test_the_limit_over_all_queues_spares_a_function_below_its_share() -> None:
    gate = Gate()
    async with harness(InMemoryBackend(gate, ready=UNBATCHED), max_queued_total=10) as h:
        await h.deploy(target("greedy", project="a"))
        await h.deploy(target("modest", project="b"))
        h.call("b/modest")
        for _ in range(7):
            h.call("a/greedy")
        with pytest.raises(QueueFull):
            h.call("a/greedy")
        h.call("b/modest")
        gate.open.set()


async def test_a_deadline_is_answered_in_the_queue_and_on_the_replica() -> None:
    gate = Gate()
    async with harness(InMemoryBackend(gate, ready=UNBATCHED)) as h:
        await h.deploy(target())
        calls = [h.call(timeout_s=0.05) for _ in range(4)]
        await asyncio.gather(*(c.wait(2) for c in calls))
        assert Counter(c.code for c in calls) == {"deadline_exceeded": 4}
        assert len(h.backend.replicas[0].cancelled) == 1
        gate.open.set()


async def test_a_default_output_answers_in_time_with_its_reason() -> None:
    gate, clock = Gate(), ManualClock()
    async with harness(InMemoryBackend(gate, ready=UNBATCHED), clock=clock) as h:
        await h.deploy(target(default_output=-1))
        call = h.call(timeout_s=0.105)
        await turns()
        clock.now += 0.09
        h.dispatcher.wheel.tick()
        assert call.answers == 0
        clock.now += 0.011
        h.dispatcher.wheel.tick()
        assert call.code == "ok"
        assert call.invocation.default_reason == "deadline_exceeded"
        assert call.invocation.finished <= call.invocation.deadline
        gate.open.set()


async def test_a_cancelled_invocation_frees_its_place_wherever_it_is() -> None:
    gate = Gate()
    async with harness(InMemoryBackend(gate, ready=UNBATCHED)) as h:
        await h.deploy(target(max_queued_requests=2))
        running = h.call()
        await turns()
        queued = [h.call(), h.call()]
        for call in [running, *queued]:
            h.dispatcher.cancel(call.invocation)
            h.dispatcher.cancel(call.invocation)
        assert [c.code for c in h.callers] == ["client_closed"] * 3
        h.check_idle()
        gate.open.set()


async def test_a_lost_replica_costs_its_invocations_nothing_but_time() -> None:
    gate = Gate()
    backend = InMemoryBackend(gate, ready=UNBATCHED)
    async with harness(backend) as h:
        await h.deploy(target())
        calls = [h.call(body=str(n).encode()) for n in range(5)]
        await turns()
        backend.replicas[0].crash(Exit("killed_externally", "killed by SIGKILL"))
        gate.open.set()
        for n, call in enumerate(calls):
            assert (await call.wait()).payload == str(n).encode()
        assert h.metrics.retries.child("p/f", "1").value == 1


async def poisoned(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
    if any(bytes(p) == b"poison" for p in payloads):
        raise RuntimeError("segmentation fault")
    return await echo(invoke, payloads)


async def test_an_item_that_ends_two_replicas_is_quarantined_and_its_mates_are_answered() -> None:
    backend = InMemoryBackend(poisoned)
    async with harness(backend) as h:
        await h.deploy(target(max_batch_size=32))
        calls = [h.call(body=b"poison" if n == 7 else str(n).encode()) for n in range(32)]
        await asyncio.gather(*(c.wait() for c in calls))
        assert Counter(c.code for c in calls) == {"ok": 31, "quarantined": 1}
        assert calls[7].code == "quarantined"
        assert len(backend.replicas) == 3


async def test_suspects_are_not_starved_by_a_queue_that_never_ends() -> None:
    """One of two replicas crashes and does not come back; the other one is never idle by itself."""
    crashed: list[str] = []
    ends: dict[str, asyncio.Lock] = {}

    async def once(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        if b"first" in map(bytes, payloads) and not crashed:
            crashed.append("first")
            raise RuntimeError("segmentation fault")
        async with ends.setdefault("second", asyncio.Lock()):  # a batch begins when the one before has ended
            await turns(3)
        return await echo(invoke, payloads)

    async def never_again(_: object) -> None:
        if len(backend.launches) > 2:
            await asyncio.Event().wait()

    backend = InMemoryBackend(once, before_ready=never_again)
    async with harness(backend) as h:
        await h.deploy(target(max_batch_size=4, graceful_shutdown_timeout_s=0), replicas=2)
        suspects = [h.call(body=b"first") for _ in range(4)]
        for _ in range(400):  # more than two batches of others wait at any moment
            while h.dispatcher.admission.total < 12:
                h.call()
            await asyncio.sleep(0)
        assert [call.code for call in suspects if call.done.is_set()] == ["ok"] * 4


async def test_what_waited_behind_a_crash_is_not_blamed() -> None:
    gate = Gate()
    backend = InMemoryBackend(gate)
    async with harness(backend) as h:
        await h.deploy(target(max_batch_size=2))
        calls = [h.call() for _ in range(4)]
        await turns()
        backend.replicas[0].crash()
        await turns()
        assert [c.invocation.blamed for c in calls] == [1, 1, 0, 0]
        gate.open.set()


async def test_an_outcome_that_is_an_error_becomes_the_taxonomys_error() -> None:
    async def fail(invoke: wire.Invoke, _: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        status = wire.Status.FUNCTION_ERROR
        outcomes = [wire.Outcome(i.id, status, error_type="KeyError", message="'x'") for i in invoke.items]
        return wire.Result(invoke.batch, outcomes), [b""] * len(outcomes)

    async with harness(InMemoryBackend(fail)) as h:
        await h.deploy(target())
        call = await h.call().wait()
        assert call.code == "function_error"
        assert str(call.invocation.error) == "KeyError: 'x'"
        assert call.invocation.error is not None
        assert call.invocation.error.details == {"type": "KeyError"}


async def test_identical_misses_share_one_flight_and_hits_skip_the_replica() -> None:
    gate = Gate()
    async with harness(InMemoryBackend(gate)) as h:
        await h.deploy(target(cache_ttl_s=60))
        calls = [h.call(body=b"same") for _ in range(5)]
        await turns()
        gate.open.set()
        await asyncio.gather(*(c.wait() for c in calls))
        hit = await h.call(body=b"same").wait()
        assert gate.seen == [[b"same"]]
        assert [c.invocation.cache_status for c in calls] == ["miss", *["collapsed"] * 4]
        assert (hit.invocation.cache_status, hit.payload) == ("hit", b"same")


async def test_the_first_of_a_flight_may_leave_without_the_others() -> None:
    gate = Gate()
    async with harness(InMemoryBackend(gate)) as h:
        await h.deploy(target(cache_ttl_s=60))
        first, second = h.call(body=b"same"), h.call(body=b"same")
        await turns()
        h.dispatcher.cancel(first.invocation)
        gate.open.set()
        assert (await second.wait()).payload == b"same"
        assert first.code == "client_closed"
        assert len(gate.seen) == 1


async def test_the_last_one_to_leave_cancels_the_flight() -> None:
    gate = Gate()
    backend = InMemoryBackend(gate)
    async with harness(backend) as h:
        await h.deploy(target(cache_ttl_s=60))
        calls = [h.call(body=b"same") for _ in range(3)]
        await turns()
        for call in calls:
            h.dispatcher.cancel(call.invocation)
        assert h.dispatcher.cache.flights == 0
        assert len(backend.replicas[0].cancelled) == 1
        gate.open.set()


async def test_a_follower_with_more_time_is_not_cut_short_by_the_first() -> None:
    gate = Gate()
    async with harness(InMemoryBackend(gate)) as h:
        await h.deploy(target(cache_ttl_s=60))
        hurried, patient = h.call(body=b"same", timeout_s=0.05), h.call(body=b"same", timeout_s=10)
        assert (await hurried.wait(2)).code == "deadline_exceeded"
        gate.open.set()
        assert (await patient.wait(2)).code == "ok"


async def test_errors_are_shared_by_a_flight_but_not_kept() -> None:
    backend = InMemoryBackend(poisoned)
    async with harness(backend) as h:
        await h.deploy(target(cache_ttl_s=60, max_retries=0))
        assert (await h.call(body=b"poison").wait()).code == "replica_lost"
        again = await h.call(body=b"poison").wait()
        assert again.invocation.cache_status == "miss"


async def test_a_version_takes_its_cached_results_with_it() -> None:
    async with harness() as h:
        await h.deploy(target(cache_ttl_s=60))
        await h.call(body=b"a").wait()
        assert h.dispatcher.cache.results.bytes > 0
        await h.deploy(target(version=2, cache_ttl_s=60))
        await h.replica_sets.stop("p", 1)
        assert h.dispatcher.cache.results.bytes == 0
        assert (await h.call(body=b"a").wait()).invocation.cache_status == "miss"


async def test_the_route_flips_at_once_and_versions_stay_addressable_until_stopped() -> None:
    async with harness() as h:
        await h.deploy(target())
        await h.deploy(target(version=2))
        assert h.dispatcher.resolve("p/f").target.id.version == 2
        assert h.dispatcher.resolve("p/f@1").target.id.version == 1
        await h.replica_sets.stop("p", 1)
        with pytest.raises(NotFound):
            h.dispatcher.resolve("p/f@1")


async def test_a_drain_answers_what_was_admitted_and_admits_nothing_more() -> None:
    gate = Gate()
    async with harness(InMemoryBackend(gate, ready=UNBATCHED)) as h:
        await h.deploy(target())
        calls = [h.call() for _ in range(4)]
        stopping = asyncio.create_task(h.replica_sets.stop("p", 1))
        await turns()
        with pytest.raises(Unavailable):
            h.call()
        gate.open.set()
        await stopping
        assert [c.code for c in calls] == ["ok"] * 4


async def test_series_go_with_their_version_and_those_over_all_versions_with_the_last() -> None:
    async with harness(InMemoryBackend()) as h:
        for version in (1, 2):
            await h.deploy(target(version=version))
            assert (await h.call().wait()).code == "ok"
        await h.deploy(target("f", project="q"))

        def series(path: str) -> set[str]:
            series = (line for part in h.metrics.slices() for line in part.decode().splitlines())
            return {line.partition(" ")[0] for line in series if line.startswith("clip_") and f'"{path}"' in line}

        await h.replica_sets.stop("p", 1)
        assert 'clip_invocations_total{function="p/f",version="2",code="200"}' in series("p/f")
        assert 'clip_scaling_decisions_total{function="p/f",rule="fixed"}' in series("p/f")
        assert not any('version="1"' in name for name in series("p/f"))
        await h.replica_sets.stop("p", 2)
        assert series("p/f") == set()
        assert series("q/f")


class Breakable:
    """A backend whose starts fail while `broken`."""

    def __init__(self) -> None:
        self.broken = False
        self.backend = InMemoryBackend(start_error=self._refuse)

    def _refuse(self, _: object) -> StartError | None:
        return StartError("setup", "model.bin is gone") if self.broken else None

    async def give_up(self, replicas: ReplicaSet) -> None:
        """End its replica, and wait until the pool has tried often enough to start another."""
        replicas.state.base_delay_s = 0.001
        self.broken = True
        self.backend.replicas[0].crash()
        await until(lambda: replicas.state.failed)


async def test_a_function_whose_pool_gave_up_refuses_with_the_reason() -> None:
    breakable = Breakable()
    async with harness(breakable.backend) as h:
        deployed = await h.deploy(target())
        await breakable.give_up(h.replica_set())
        with pytest.raises(Unavailable, match=r"model\.bin is gone"):
            h.call()
        status = h.facts.status(deployed.id)
        assert status is not None
        assert status.state == "failed"
        assert "model.bin is gone" in status.reason


async def test_a_restart_lets_a_pool_that_gave_up_try_again() -> None:
    breakable = Breakable()
    async with harness(breakable.backend) as h:
        deployed = await h.deploy(target())
        replicas = h.replica_set()
        await breakable.give_up(replicas)
        async with asyncio.timeout(5):
            await h.replica_sets.restart(deployed.id)
            assert "model.bin is gone" in replicas.state.failed
            breakable.broken = False
            await h.replica_sets.restart(deployed.id)
        assert (await h.call(body=b"x").wait()).payload == b"x"


async def test_a_restart_replaces_the_replicas_and_answers_what_waits() -> None:
    backend = InMemoryBackend()
    async with harness(backend) as h:
        deployed = await h.deploy(target(), replicas=2)
        before = set(h.replica_set().running)
        calls = [h.call(body=b"%d" % n) for n in range(20)]
        async with asyncio.timeout(5):
            await h.replica_sets.restart(deployed.id)
            assert [(await call.wait()).payload for call in calls] == [b"%d" % n for n in range(20)]
        pool = h.replica_set()
        assert pool.state.count(ReplicaState.READY) == 2
        assert not before & {m.id for m in pool.state.members.values() if m.state is ReplicaState.READY}


async def test_an_impatient_caller_does_not_cost_a_slow_replica_its_life() -> None:
    gate = Gate()
    backend = InMemoryBackend(gate, ready=UNBATCHED)
    async with harness(backend) as h:
        await h.deploy(target(health_check_period_s=0.01, graceful_shutdown_timeout_s=0.01))
        assert (await h.call(timeout_s=0.02).wait()).code == "deadline_exceeded"
        await asyncio.sleep(0.1)
        assert backend.replicas[0].exit is None
        gate.open.set()


async def test_a_hung_replica_is_replaced() -> None:
    backend = InMemoryBackend(ready=UNBATCHED)
    async with harness(backend) as h:
        await h.deploy(target(health_check_period_s=0.01))
        backend.replicas[0].answers_pings = False
        await until(lambda: len(backend.replicas) == 2)
        assert backend.replicas[0].exit is not None
        assert (await h.call().wait()).code == "ok"


async def test_a_slow_invocation_is_hedged_on_another_replica_and_answered_once() -> None:
    release = asyncio.Event()
    slow: list[int] = []

    async def sometimes(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        if bytes(payloads[0]) == b"slow" and not slow:
            slow.append(invoke.batch)
            await release.wait()
        return await echo(invoke, payloads)

    backend = InMemoryBackend(sometimes, ready=UNBATCHED)
    async with harness(backend) as h:
        await h.deploy(target(hedge_after=0.9), replicas=2)
        for _ in range(50):
            await h.call().wait()
        call = await h.call(body=b"slow").wait(3)
        assert call.payload == b"slow"
        assert h.metrics.hedges.child("p/f", "1").value >= 1
        assert any(replica.cancelled for replica in backend.replicas)
        release.set()
        await turns()


class Sink:
    def __init__(self) -> None:
        self.chunks: list[bytes] = []

    def chunk(self, payload: bytes, content_type: str, response: wire.ResponseHead | None) -> None:
        self.chunks.append(payload)


async def test_a_streams_chunks_reach_the_sink_before_its_end_and_credit_goes_back() -> None:
    end = asyncio.Event()

    async def stream(invoke: wire.Invoke, _: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        item = invoke.items[0].id
        backend.replicas[0].emit_chunk(wire.Chunk(item, 0, "application/json"), b"1")
        await end.wait()
        return wire.Result(invoke.batch, [wire.Outcome(item, wire.Status.OK)]), [b""]

    backend = InMemoryBackend(stream, ready=STREAMING)
    async with harness(backend) as h:
        await h.deploy(target())
        sink = Sink()
        call = h.call(sink=sink)
        await turns()
        assert sink.chunks == [b"1"]
        assert not call.done.is_set()
        h.dispatcher.credit(call.invocation, 1)
        assert backend.replicas[0].credits == [(call.invocation.item, 1)]
        end.set()
        assert (await call.wait()).code == "ok"


async def test_recycling_after_max_invocations_drops_nothing() -> None:
    backend = InMemoryBackend(ready=UNBATCHED)
    async with harness(backend) as h:
        await h.deploy(target(max_invocations=10))
        for n in range(35):
            assert (await h.call(body=str(n).encode()).wait()).payload == str(n).encode()
        assert len(backend.replicas) >= 3


async def test_big_items_count_for_more_where_the_function_says_so() -> None:
    gate = Gate()
    async with harness(InMemoryBackend(gate)) as h:
        await h.deploy(target(max_batch_size=10, batch_size_key="tokens"))
        for n in (6, 3, 5, 1, 20, 1):
            h.call(body=b'{"other": 1, "tokens": [%s]}' % b",".join([b"0"] * n))
        await turns()
        gate.open.set()
        await asyncio.gather(*(c.wait() for c in h.callers))
        assert [len(batch) for batch in gate.seen] == [2, 2, 1, 1]
