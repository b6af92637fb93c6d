"""Calls from inside the platform: `Dispatcher.call`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from clipper.contract import wire
from clipper.contract.media_types import JSON, MSGPACK
from clipper_platform.errors import (
    DeadlineExceeded,
    FunctionError,
    InvalidResult,
    NotFound,
    QueueFull,
    ReplicaLost,
    Unavailable,
)
from clipper_platform.serving import call as call_module
from clipper_platform.serving.call import Answer
from clipper_platform.types import FunctionId
from tests.support.memory_backend import InMemoryBackend, echo
from tests.support.serving import Harness, harness, target

pytestmark = pytest.mark.virtual_time

F = FunctionId("p", "f", 1)
UNBATCHED = wire.Ready(schema={}, batched=False, streaming=False, concurrency=1, phases={})
STREAMING = wire.Ready(schema={}, batched=False, streaming=True, concurrency=8, phases={})


class Gate:
    """A behaviour that holds every batch until it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.seen: list[wire.Invoke] = []

    async def __call__(self, invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        self.seen.append(invoke)
        await self.open.wait()
        return await echo(invoke, payloads)


async def turns(n: int = 10) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def calling(h: Harness, body: bytes = b"1", **options: Any) -> asyncio.Task[Answer]:
    return asyncio.create_task(h.dispatcher.call("p/f", body, **options))


async def test_the_answer_says_what_was_answered_by_which_version() -> None:
    async with harness() as h:
        await h.deploy(target(version=3))
        answer = await h.dispatcher.call("p/f", b"[1]")
        assert answer == Answer(payload=b"[1]", content_type=JSON, version=3, cache_status="", default_reason="")


async def test_the_body_travels_with_its_type_the_wanted_type_and_the_callers_id() -> None:
    gate = Gate()
    gate.open.set()
    async with harness(InMemoryBackend(gate)) as h:
        await h.deploy(target())
        answer = await h.dispatcher.call("p/f", b"\x01", content_type=MSGPACK, accept="image/png", request_id="r-7")
        (item,) = gate.seen[0].items
        assert (item.content_type, item.accept, item.request_id) == (MSGPACK, "image/png", "r-7")
        assert answer.content_type == MSGPACK  # an echo


async def test_calls_without_an_id_get_different_ones() -> None:
    gate = Gate()
    gate.open.set()
    async with harness(InMemoryBackend(gate)) as h:
        await h.deploy(target())
        for _ in range(2):
            await h.dispatcher.call("p/f", b"1")
        ids = {item.request_id for invoke in gate.seen for item in invoke.items}
        assert len(ids) == 2
        assert all(ids)


async def test_a_path_leads_where_the_route_leads_and_an_id_leads_to_its_version_routed_or_not() -> None:
    async with harness() as h:
        await h.deploy(target())
        await h.replica_sets.start(target(version=2), replicas=1)
        assert (await h.dispatcher.call("p/f", b"1")).version == 1
        assert (await h.dispatcher.call("p/f@2", b"1")).version == 2
        h.dispatcher.drop_route("p")
        assert (await h.dispatcher.call(FunctionId("p", "f", 2), b"1")).version == 2


async def test_a_version_is_tried_before_any_route_leads_to_it_and_its_answers_are_counted() -> None:
    async with harness() as h:
        await h.replica_sets.start(target(), replicas=1)
        await h.dispatcher.call(F, b"{}")
        answers = h.facts.answers(F)
        assert (answers.answered, answers.failed, answers.broken) == (1, 0, False)


@pytest.mark.parametrize("function", ["q/f", "p/g", "p/f@2", FunctionId("p", "f", 2)])
async def test_what_does_not_run_is_not_found(function: Any) -> None:
    async with harness() as h:
        await h.deploy(target())
        with pytest.raises(NotFound):
            await h.dispatcher.call(function, b"1")


# Errors


async def test_what_the_function_raised_is_raised() -> None:
    async def fail(invoke: wire.Invoke, _: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        status = wire.Status.FUNCTION_ERROR
        outcomes = [wire.Outcome(i.id, status, error_type="ValueError", message="no such model") for i in invoke.items]
        return wire.Result(invoke.batch, outcomes), [b""] * len(outcomes)

    async with harness(InMemoryBackend(fail)) as h:
        await h.deploy(target())
        with pytest.raises(FunctionError, match="no such model"):
            await h.dispatcher.call("p/f", b"1")
        assert h.facts.answers(F).failed == 1


async def test_a_refusal_is_raised_and_nothing_is_held() -> None:
    gate = Gate()
    async with harness(InMemoryBackend(gate, ready=UNBATCHED)) as h:
        await h.deploy(target(max_queued_requests=1))
        waiting = calling(h)
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await h.dispatcher.call("p/f", b"2")
        gate.open.set()
        await waiting


async def test_the_end_of_a_version_is_raised_in_the_calls_that_wait_for_it() -> None:
    async with harness() as h:
        await h.deploy(target(graceful_shutdown_timeout_s=0), replicas=0)
        waiting = calling(h)
        await turns()
        await h.replica_sets.stop("p", 1)
        with pytest.raises(Unavailable):
            await waiting


async def test_a_lost_replica_without_retries_is_raised() -> None:
    backend = InMemoryBackend(Gate(), ready=UNBATCHED)
    async with harness(backend) as h:
        await h.deploy(target(max_retries=0))
        waiting = calling(h)
        await turns()
        backend.replicas[0].crash()
        with pytest.raises(ReplicaLost):
            await waiting


# Deadlines


@pytest.mark.parametrize(
    ("limits", "waited_s"),
    [
        (lambda _: {}, 2.0),
        (lambda _: {"timeout_s": 0.5}, 0.5),
        (lambda _: {"timeout_s": 9.0}, 2.0),
        (lambda now: {"deadline": now + 0.25}, 0.25),
        (lambda now: {"deadline": now + 0.25, "timeout_s": 0.125}, 0.125),
        (lambda now: {"deadline": now - 1.0}, 0.0),
    ],
)
async def test_the_earliest_of_the_limits_counts(limits: Callable[[float], dict[str, float]], waited_s: float) -> None:
    async with harness(InMemoryBackend(Gate())) as h:
        await h.deploy(target(timeout_s=2, graceful_shutdown_timeout_s=0))
        before = h.clock.monotonic()
        with pytest.raises(DeadlineExceeded):
            await h.dispatcher.call("p/f", b"1", **limits(before))
        assert h.clock.monotonic() - before == pytest.approx(waited_s, abs=0.03)


@pytest.mark.parametrize(("accept", "decode"), [(JSON, msgspec.json.decode), (MSGPACK, msgspec.msgpack.decode)])
async def test_the_default_output_answers_with_its_reason_in_the_wanted_form(
    accept: str, decode: Callable[[bytes], Any]
) -> None:
    async with harness(InMemoryBackend(Gate())) as h:
        await h.deploy(target(default_output={"label": None}, graceful_shutdown_timeout_s=0))
        answer = await h.dispatcher.call("p/f", b"1", accept=accept, timeout_s=0.1)
        assert (answer.content_type, answer.default_reason) == (accept, "deadline_exceeded")
        assert decode(answer.payload) == {"label": None}


# Cache


async def test_the_result_cache_answers_where_it_may() -> None:
    gate = Gate()
    gate.open.set()
    async with harness(InMemoryBackend(gate)) as h:
        await h.deploy(target(cache_ttl_s=60))
        statuses = [(await h.dispatcher.call("p/f", b"1")).cache_status for _ in range(2)]
        assert statuses == ["miss", "hit"]
        passed_by = await h.dispatcher.call("p/f", b"1", use_cache=False)
        assert (passed_by.cache_status, passed_by.payload) == ("", b"1")
        assert len(gate.seen) == 2


async def test_identical_calls_share_one_execution() -> None:
    gate = Gate()
    async with harness(InMemoryBackend(gate)) as h:
        await h.deploy(target(cache_ttl_s=60))
        calls = [calling(h) for _ in range(3)]
        await turns()
        gate.open.set()
        assert sorted([(await call).cache_status for call in calls]) == ["collapsed", "collapsed", "miss"]
        assert len(gate.seen) == 1


# Cancellation


async def cancel(call: asyncio.Task[Answer]) -> None:
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_cancelled_before_it_began_it_holds_nothing() -> None:
    async with harness() as h:
        await h.deploy(target())
        await cancel(calling(h))
        h.check_idle()


async def test_cancelled_in_the_queue_it_leaves_its_place() -> None:
    async with harness() as h:
        await h.deploy(target(), replicas=0)
        call = calling(h)
        await turns()
        assert h.dispatcher.admission.total == 1
        await cancel(call)
        h.check_idle()


async def test_a_call_that_is_cancelled_on_a_replica_is_cancelled_there() -> None:
    gate = Gate()
    backend = InMemoryBackend(gate)
    async with harness(backend) as h:
        await h.deploy(target())
        call = calling(h)
        await turns()
        assert gate.seen
        await cancel(call)
        assert len(backend.replicas[0].cancelled) == 1
        h.check_idle()
        gate.open.set()


async def test_cancelled_in_a_flight_it_leaves_the_others_their_answer() -> None:
    gate = Gate()
    async with harness(InMemoryBackend(gate)) as h:
        await h.deploy(target(cache_ttl_s=60))
        first, second = calling(h), calling(h)
        await turns()
        await cancel(first)
        gate.open.set()
        assert (await second).payload == b"1"


async def test_a_cancellation_that_meets_the_answer_leaves_nothing() -> None:
    gate = Gate()
    async with harness(InMemoryBackend(gate)) as h:
        await h.deploy(target())
        call = calling(h)
        await turns()
        gate.open.set()
        while h.dispatcher.resolve("p/f").running:
            await asyncio.sleep(0)
        await cancel(call)
        h.check_idle()


# Streams


def stream_of(backend: list[InMemoryBackend], items: list[bytes], media_type: str = JSON) -> Any:
    async def stream(invoke: wire.Invoke, _: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        id = invoke.items[0].id
        for n, item in enumerate(items):
            backend[0].replicas[0].emit_chunk(wire.Chunk(id, n, media_type), item)
        await turns(3)
        return wire.Result(invoke.batch, [wire.Outcome(id, wire.Status.OK)]), [b""]

    return stream


def streaming(items: list[bytes], media_type: str = JSON) -> InMemoryBackend:
    holder: list[InMemoryBackend] = []
    holder.append(InMemoryBackend(stream_of(holder, items, media_type), ready=STREAMING))
    return holder[0]


async def test_the_items_of_a_stream_are_collected_into_an_array_and_paid_for_one_by_one() -> None:
    backend = streaming([b"1", b'"two"', b"3"])
    async with harness(backend) as h:
        await h.deploy(target())
        answer = await h.dispatcher.call("p/f", b"1")
        assert (answer.payload, answer.content_type) == (b'[1,"two",3]', JSON)
        assert [n for _, n in backend.replicas[0].credits] == [1, 1, 1]


async def test_a_stream_in_messagepack_is_an_array_in_messagepack_and_an_empty_one_is_an_empty_array() -> None:
    async with harness(streaming([msgspec.msgpack.encode(n) for n in range(20)], MSGPACK)) as h:
        await h.deploy(target())
        answer = await h.dispatcher.call("p/f", b"1", accept=MSGPACK)
        assert answer.content_type == MSGPACK
        assert msgspec.msgpack.decode(answer.payload) == list(range(20))
    async with harness(streaming([])) as h:
        await h.deploy(target())
        assert (await h.dispatcher.call("p/f", b"1")).payload == b"[]"


async def test_a_stream_that_grows_over_the_limit_is_cancelled_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_module, "MAX_COLLECTED_BYTES", 10)
    backend = streaming([b"1234", b"5678", b"9012", b"3456"])
    async with harness(backend) as h:
        await h.deploy(target())
        with pytest.raises(InvalidResult, match="over 10 bytes"):
            await h.dispatcher.call("p/f", b"1")
        assert len(backend.replicas[0].credits) == 2
        assert len(backend.replicas[0].cancelled) == 1


async def test_a_stream_that_is_cancelled_in_the_middle_ends_on_the_replica() -> None:
    holder: list[InMemoryBackend] = []

    async def endless(invoke: wire.Invoke, _: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        holder[0].replicas[0].emit_chunk(wire.Chunk(invoke.items[0].id, 0, JSON), b"1")
        await asyncio.Event().wait()
        raise AssertionError

    holder.append(InMemoryBackend(endless, ready=STREAMING))
    async with harness(holder[0]) as h:
        await h.deploy(target(graceful_shutdown_timeout_s=0))
        call = calling(h)
        await turns()
        assert holder[0].replicas[0].credits
        await cancel(call)
        assert len(holder[0].replicas[0].cancelled) == 1
        h.check_idle()
