"""Whatever the sequence of arrivals, cancellations, deaths and time, each invocation is answered exactly once."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from clipper.contract import wire
from clipper_platform.backends.base import Exit
from clipper_platform.core.batching import MOMENT_S
from clipper_platform.core.pooling import Tick
from clipper_platform.errors import ClipperError
from clipper_platform.serving.function_queue import FunctionQueue
from clipper_platform.serving.invocation import State
from tests.support.memory_backend import CRASH, InMemoryBackend
from tests.support.serving import Harness, ManualClock, harness, target

OUTCOMES = {
    "ok", "function_error", "deadline_exceeded", "client_closed", "replica_lost", "quarantined", "unavailable",
}  # fmt: skip


class Script:
    """Replicas that answer on command: `release` finishes the oldest batch that runs."""

    def __init__(self) -> None:
        self.gates: list[asyncio.Future[None]] = []
        self.runs: Counter[str] = Counter()  # by request

    async def __call__(self, invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        gate = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        self.runs.update(item.request_id for item in invoke.items)
        try:
            await gate
        finally:
            self.gates.remove(gate)
        bodies = [bytes(p) for p in payloads]
        outcomes = [
            wire.Outcome(i.id, wire.Status.FUNCTION_ERROR, error_type="ValueError", message="no")
            if body == b"bad"
            else wire.Outcome(i.id, wire.Status.OK, "application/json", len(body))
            for i, body in zip(invoke.items, bodies, strict=True)
        ]
        return wire.Result(invoke.batch, outcomes), [b"" if body == b"bad" else body for body in bodies]

    def release(self, count: int) -> None:
        for gate in self.gates[:count]:
            if not gate.done():
                gate.set_result(None)


async def settle() -> None:
    for _ in range(12):  # withdrawn, answered, queued and sent to another replica
        await asyncio.sleep(0)


def check_books(h: Harness) -> None:
    """What must hold after every step."""
    queues = h.dispatcher.queues()
    assert h.dispatcher.admission.total == sum(queue.waiting.live for queue in queues)
    assert h.dispatcher.admission.queues == sum(bool(queue.waiting.live) for queue in queues)
    for queue in queues:
        assert queue.running >= 0
        replicas = h.replica_set(str(queue.target.id))
        assert queue.endpoints.by_id.keys() == replicas.running.keys()
        assert queue.no_capacity == replicas.state.failed
        assert queue.waiting.live <= queue.spec.max_queued_requests + queue.spec.max_batch_size * 8
        for endpoint in queue.endpoints.by_id.values():
            assert endpoint.load == sum(batch.left for batch in endpoint.batches.values())
            assert len(endpoint.batches) <= (2 if endpoint.one_at_a_time else endpoint.concurrency)
            assert all(batch.left > 0 for batch in endpoint.batches.values())
            if any(batch.solo for batch in endpoint.batches.values()):
                assert len(endpoint.batches) == 1
        check_waits(queue, h.clock.monotonic())
    assert all(caller.answers <= 1 for caller in h.callers)


def check_waits(queue: FunctionQueue, now: float) -> None:
    """Nothing that has not begun waits for longer than a few milliseconds while a replica is free: it waits in the
    queue, where a free replica takes it, or that short a time behind a call that is about to end."""
    endpoints = queue.endpoints.by_id.values()
    if any(not endpoint.draining and not endpoint.batches for endpoint in endpoints):
        assert not queue.waiting.live
    for endpoint in endpoints:
        _, *behind = endpoint.batches.values() if endpoint.one_at_a_time and endpoint.batches else [None]
        for invocation in (i for batch in behind for i in batch.items if i is not None):
            if invocation.state is State.RUNNING and invocation.hedge is None and invocation.endpoint is endpoint:
                assert now - invocation.dispatched <= 2 * MOMENT_S + 1e-9
    assert queue.depth + queue.begun == queue.waiting.live + queue.running


async def play(steps: list[tuple[Any, ...]], options: dict[str, Any], ready: wire.Ready, replicas: int) -> None:
    script, clock = Script(), ManualClock()
    backend = InMemoryBackend(script, ready=ready)
    async with harness(backend, clock=clock, max_queued_total=40) as h:
        # What a step leaves behind must not hold up the end of an example: that drain runs in real time.
        await h.deploy(target(max_queued_requests=30, graceful_shutdown_timeout_s=0.5, **options), replicas=replicas)
        for step in steps:
            match step:
                case ("call", count, body, timeout_s):
                    try:
                        for _ in range(count):
                            h.call(body=body, timeout_s=timeout_s)
                    except ClipperError as refusal:
                        assert refusal.status in (429, 503)  # noqa: PT017  refusing is allowed, not demanded
                case ("learn", each_s):  # so that replicas get the next batch ahead
                    for endpoint in h.dispatcher.resolve("p/f").endpoints.by_id.values():
                        endpoint.controller.observe(1, each_s)
                case ("cancel", index) if h.callers:
                    h.dispatcher.cancel(h.callers[index % len(h.callers)].invocation)
                case ("crash", index, exit) if backend.alive:
                    backend.alive[index % len(backend.alive)].crash(exit)
                case ("release", count):
                    script.release(count)
                case ("scale", count):
                    h.replica_sets.scale(target().id, count)
                case ("pass", seconds):
                    clock.now += seconds
                    h.dispatcher.wheel.tick()
                    h.replica_set()._handle(Tick())
                    h.dispatcher.resolve("p/f").endpoints.withdrawals.look()
                case _:
                    continue
            await settle()
            check_books(h)
        for _ in range(200):  # let everything come to its end
            clock.now += 0.5
            script.release(len(script.gates))
            h.dispatcher.wheel.tick()
            await settle()
            idle = not any(queue.running or queue.waiting.live for queue in h.dispatcher.queues())
            if idle and all(caller.answers for caller in h.callers):
                break
        assert {caller.code for caller in h.callers} <= OUTCOMES
        if not options.keys() & {"cache_ttl_s", "hedge_after"}:
            for caller in h.callers:
                assert script.runs[caller.invocation.request_id] <= 1 + caller.invocation.attempts
        for caller in h.callers:
            if caller.code == "ok" and not caller.invocation.default_reason:
                assert caller.payload == bytes(caller.invocation.body)
                assert caller.invocation.finished <= caller.invocation.deadline


EXTERNAL = Exit("killed_externally", "killed by SIGKILL")
STEPS = st.one_of(
    st.tuples(st.just("learn"), st.sampled_from([0.0001, 0.001, 0.1])),
    st.tuples(
        st.just("call"),
        st.sampled_from([1, 1, 4]),
        st.sampled_from([b"a", b"b", b"c", b"bad"]),
        st.sampled_from([0.05, 1.0, 60.0]),
    ),
    st.tuples(st.just("cancel"), st.integers(0, 60)),
    st.tuples(st.just("crash"), st.integers(0, 3), st.sampled_from([CRASH, EXTERNAL])),
    st.tuples(st.just("release"), st.integers(1, 4)),
    st.tuples(st.just("scale"), st.integers(0, 3)),
    st.tuples(st.just("pass"), st.sampled_from([0.0, 0.001, 0.02, 0.3, 2.0])),
)
OPTIONS = st.fixed_dictionaries(
    {
        "max_batch_size": st.sampled_from([1, 3, 8]),
        "max_retries": st.integers(0, 2),
    },
    optional={
        "cache_ttl_s": st.just(60.0),
        "default_output": st.just("default"),
        "max_invocations": st.integers(1, 5),
        "latency_slo_s": st.just(0.5),
        "hedge_after": st.just(0.5),
    },
)
READY = st.builds(
    wire.Ready,
    schema=st.just({}),
    batched=st.booleans(),
    streaming=st.just(False),
    concurrency=st.sampled_from([1, 4]),
    phases=st.just({}),
)


@settings(max_examples=120, deadline=None)
@given(st.lists(STEPS, max_size=60), OPTIONS, READY, st.integers(1, 3))
def test_each_invocation_is_answered_exactly_once_whatever_happens(
    steps: list[tuple[Any, ...]], options: dict[str, Any], ready: wire.Ready, replicas: int
) -> None:
    asyncio.run(play(steps, options, ready, replicas))


QUICK = [("learn", 0.001), ("call", 8, b"a", 60.0), ("pass", 0.001)]
ONE_AT_A_TIME = [
    wire.Ready(schema={}, batched=batched, streaming=False, concurrency=1, phases={}) for batched in (False, True)
]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([*QUICK, ("pass", 0.02), ("release", 1), ("release", 2), ("scale", 2), ("scale", 3)])),
    st.fixed_dictionaries({"max_batch_size": st.sampled_from([1, 3])}, optional={"hedge_after": st.just(0.5)}),
    st.sampled_from(ONE_AT_A_TIME),
    st.integers(1, 2),
)
def test_with_a_free_replica_nothing_that_has_not_begun_waits_for_long(
    steps: list[tuple[Any, ...]], options: dict[str, Any], ready: wire.Ready, replicas: int
) -> None:
    asyncio.run(play([*QUICK, *steps], options, ready, replicas))
