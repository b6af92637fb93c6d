"""What a function keeps that nobody calls: platforms have thousands of them, and few that are busy."""

from __future__ import annotations

import gc
import tracemalloc
from types import ModuleType

import pytest

from clipper.contract import wire
from clipper_platform.core import windows
from clipper_platform.errors import QueueFull
from clipper_platform.metrics import Counter, Histogram, Metrics
from clipper_platform.serving import queue
from clipper_platform.types import FunctionId
from tests.support.memory_backend import InMemoryBackend, echo
from tests.support.serving import Harness, ManualClock, harness, target
from tests.support.waiting import until

pytestmark = pytest.mark.virtual_time

UNBATCHED = wire.Ready(schema={}, batched=False, streaming=False, concurrency=1, phases={})
GAUGES = {"clip_queue_depth", "clip_running", "clip_batch_limit", "clip_replicas"}


def series(metrics: Metrics, function: str = "p/f") -> set[str]:
    """The families that tell something of a version of the function."""
    kept = {
        family.name
        for family in metrics.families()
        if family.labels[:2] == ("function", "version") and any(key[0] == function for key in family.children)
    }
    observed = {g.name for g in metrics.observables() if any(key[0] == function for key, _ in g.callback())}
    return kept | observed


def counted(metrics: Metrics) -> dict[str, float]:
    """What the counters and histograms of version 1 of p/f tell, those without events left out."""
    found: dict[str, float] = {}
    for family in metrics.families():
        for (function, *rest), child in [(k, c) for k, c in family.children.items() if k]:
            value = child.value if isinstance(child, Counter) else 0.0
            value = sum(child.counts) if isinstance(child, Histogram) else value
            if function == "p/f" and value:
                found["/".join([family.name.removeprefix("clip_"), *(label for label in rest if label != "1")])] = value
    return found


def held_by(*modules: ModuleType) -> int:
    """Bytes that these modules' lines allocated since the trace began."""
    traces = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, str(m.__file__)) for m in modules])
    return sum(trace.size for trace in traces.traces)


async def to_zero(h: Harness, id: FunctionId) -> None:
    replicas = h.replica_set(id.path)
    h.replica_sets.scale(id, 0)
    await until(lambda: not replicas.running)


# Memory


async def test_an_idle_function_costs_less_than_five_kilobytes() -> None:
    targets = [target("f", project=f"p{n}") for n in range(500)]
    async with harness() as h:
        await h.replica_sets.start(target("first"), replicas=0, wait=False)
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for each in targets:
                await h.replica_sets.start(each, replicas=0, wait=False)
            each_bytes = (tracemalloc.get_traced_memory()[0] - before) / len(targets)
        finally:
            tracemalloc.stop()
    assert each_bytes < 5_000


async def test_a_function_that_was_busy_keeps_no_room_for_calls_and_latencies_at_zero() -> None:
    clock = ManualClock()
    async with harness(clock=clock) as h:
        ids = [(await h.deploy(target("f", project=f"p{n}"), replicas=0)).id for n in range(50)]
        gc.collect()
        tracemalloc.start()
        try:
            for id in ids:
                h.replica_sets.scale(id, 1)
                await h.call(id.path).wait()
            busy = held_by(queue, windows)
            clock.now += 400
            for id in ids:
                await to_zero(h, id)
            idle = held_by(queue, windows)
        finally:
            tracemalloc.stop()
    assert busy > 50 * 2_000
    assert idle < 50 * 300


async def test_without_replicas_nobody_looks_after_their_health_and_with_the_next_one_somebody_does() -> None:
    backend = InMemoryBackend(ready=UNBATCHED)
    async with harness(backend) as h:
        deployed = await h.deploy(target(health_check_period_s=0.01))
        await to_zero(h, deployed.id)
        assert h.replica_set()._health is None
        h.replica_sets.scale(deployed.id, 1)
        assert (await h.call().wait()).code == "ok"
        backend.replicas[-1].answers_pings = False
        await until(lambda: len(backend.replicas) == 3)
        assert (await h.call().wait()).code == "ok"


@pytest.mark.parametrize("options", [{}, {"cache_ttl_s": 1000}])
async def test_at_zero_latencies_that_are_too_old_to_be_told_are_forgotten(options: dict[str, float]) -> None:
    clock = ManualClock()
    async with harness(clock=clock) as h:
        deployed = await h.deploy(target(**options))
        await h.call().wait()
        await to_zero(h, deployed.id)
        status = h.facts.status(deployed.id)
        assert status is not None
        assert status.p99_s is not None  # recent
        h.replica_sets.scale(deployed.id, 1)
        await h.replica_set().wait_ready(1, lambda _: None)
        clock.now += 400
        await to_zero(h, deployed.id)
        status = h.facts.status(deployed.id)
        assert status is not None
        assert (status.p99_s, status.rate_per_s) == (None, 0.0)
        queue = h.dispatcher.resolve("p/f")
        assert queue.latency.rate(clock.now) == 0.0
        assert (queue.answers is queue.latency) == (not options)
        h.replica_sets.scale(deployed.id, 1)
        assert (await h.call(body=b"another").wait()).code == "ok"
        status = h.facts.status(deployed.id)
        assert status is not None
        assert status.rate_per_s > 0


async def test_at_zero_what_waits_stays_in_the_queue() -> None:
    async with harness() as h:
        deployed = await h.deploy(target())
        h.replica_sets.scale(deployed.id, 0)
        calls = [h.call(body=b"%d" % n) for n in range(3)]
        await to_zero(h, deployed.id)
        h.replica_sets.scale(deployed.id, 1)
        assert [(await call.wait()).payload for call in calls] == [b"0", b"1", b"2"]


# Series


async def test_before_its_first_replica_a_function_has_its_gauges_alone_and_then_zeros() -> None:
    async with harness() as h:
        deployed = target()
        await h.replica_sets.start(deployed, replicas=0, wait=False)
        assert series(h.metrics) == GAUGES
        h.replica_sets.scale(deployed.id, 1)
        h.dispatcher.set_route("p", 1)
        await h.call().wait()
        assert series(h.metrics) == GAUGES | {
            "clip_invocations", "clip_invocation_duration_seconds", "clip_queue_duration_seconds", "clip_batch_size",
            "clip_batch_duration_seconds",
        }  # fmt: skip
        assert h.metrics.invocations.children.keys() == {("p/f", "1", "200")}


async def test_series_are_there_at_zero_once_a_replica_is_ready() -> None:
    async with harness() as h:
        await h.deploy(target())
        assert h.metrics.invocations.children["p/f", "1", "200"].value == 0
        assert sum(h.metrics.duration.children["p/f", "1"].counts) == 0


async def test_an_answer_without_a_replica_counts() -> None:
    clock = ManualClock()
    async with harness(clock=clock) as h:
        await h.deploy(target(), replicas=0)
        assert h.facts.answers(FunctionId("p", "f", 1)).answered == 0
        call = h.call(timeout_s=1)
        clock.now += 2
        h.dispatcher.wheel.tick()
        assert (await call.wait()).code == "deadline_exceeded"
        assert counted(h.metrics) == {"invocations/504": 1, "invocation_duration_seconds": 1}
        assert h.facts.answers(FunctionId("p", "f", 1)).answered == 1


async def test_the_first_refusal_counts_and_the_next_one_beside_it() -> None:
    async with harness() as h:
        await h.deploy(target(max_queued_requests=1), replicas=0)
        h.call()
        for _ in range(2):
            with pytest.raises(QueueFull):
                h.call()
        assert h.metrics.refused.children.keys() == {("p/f", "1", "function")}
        assert h.metrics.refused.child("p/f", "1", "function").value == 2
        assert h.metrics.invocations.child("p/f", "1", "429").value == 2
        h.dispatcher.cancel(h.callers[0].invocation)


async def test_the_first_answer_of_the_cache_counts_and_the_next_one_beside_it() -> None:
    async with harness() as h:
        await h.deploy(target(cache_ttl_s=60))
        await h.call().wait()
        assert ("p/f", "hit") not in h.metrics.cache_requests.children
        for hits in (1, 2):
            await h.call().wait()
            assert h.metrics.cache_requests.child("p/f", "hit").value == hits
        assert h.metrics.invocations.child("p/f", "1", "200").value == 3


async def test_the_first_rerun_and_the_first_quarantine_count() -> None:
    async def behave(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        if bytes(payloads[0]) == b"poison":
            raise RuntimeError
        result, bodies = await echo(invoke, payloads)
        return wire.Result(result.batch, result.outcomes, 0.0, 3), bodies

    async with harness(InMemoryBackend(behave)) as h:
        await h.deploy(target())
        await h.call().wait()
        assert h.metrics.batch_reruns.child("p/f", "1").value == 3
        assert (await h.call(body=b"poison").wait()).code == "quarantined"
        assert h.metrics.quarantined.child("p/f", "1").value == 1
        assert h.metrics.retries.child("p/f", "1").value == 1


async def test_all_series_of_a_version_go_with_it_and_those_of_another_stay() -> None:
    async with harness() as h:
        await h.deploy(target(default_output=1), replicas=0)
        h.call(timeout_s=0.001)
        await h.callers[0].wait()
        await h.deploy(target(version=2))
        await h.call().wait()
        assert "clip_default_outputs" in series(h.metrics)
        await h.replica_sets.stop("p", 1)
        left = {
            key[1] for family in h.metrics.families() for key in family.children if family.labels[1:2] == ("version",)
        }
        assert left == {"2"}
        assert h.metrics.invocations.child("p/f", "2", "200").value == 1
        await h.replica_sets.stop("p", 2)
        assert series(h.metrics) == set()
