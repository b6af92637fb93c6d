"""The ready replicas of a function: outcomes, retries, streams, and what serving reports about a replica."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from clipper.contract import wire
from clipper_platform.backends.base import Exit
from clipper_platform.core.batching import MOMENT_S
from clipper_platform.serving.deadlines import TICKS_PER_S
from clipper_platform.serving.endpoint import (
    MAX_STRAYS,
    MAX_WITHDRAWALS,
    MOST_DOUBTFUL_S,
    SHORTEST_PAUSE_S,
    UNUSUAL,
    Endpoint,
)
from clipper_platform.serving.retry_policy import MAX_PASSES, MAX_REQUEUES
from tests.unit.serving.queue_world import CONCURRENT, UNBATCHED, FakeReplica, QueueWorld

pytestmark = pytest.mark.virtual_time


def world(**options: object) -> QueueWorld:
    return QueueWorld(asyncio.get_running_loop(), **options)


class Sink:
    def __init__(self) -> None:
        self.chunks: list[bytes] = []

    def chunk(self, payload: bytes, content_type: str, response: wire.ResponseHead | None) -> None:
        self.chunks.append(payload)


# Outcomes


async def test_each_item_gets_its_own_outcome_and_unknown_ids_are_ignored() -> None:
    w = world(max_batch_size=4)
    replica, endpoint = w.replica()
    good, bad = w.submit(b"good", b"bad")
    w.pump()
    invoke, _ = replica.batches.pop()
    first, second = (item.id for item in invoke.items)
    outcomes = [
        wire.Outcome(second, wire.Status.FUNCTION_ERROR, error_type="ValueError", message="no"),
        wire.Outcome(999, wire.Status.OK),
        wire.Outcome(first, wire.Status.OK, "text/plain", 2),
        wire.Outcome(first, wire.Status.OK, "text/plain", 5),
    ]
    endpoint.on_result(wire.Result(invoke.batch, outcomes, 0.5), [memoryview(b) for b in (b"", b"?", b"ok", b"twice")])
    assert (bytes(good.payload), good.content_type_out, good.exec_s) == (b"ok", "text/plain", 0.5)
    assert str(bad.error) == "ValueError: no"
    assert len(w.done) == 2
    assert (endpoint.load, endpoint.answered, endpoint.batches) == (0, 2, {})


async def test_a_result_in_parts_ends_its_batch_with_the_last_part() -> None:
    w = world(max_batch_size=2)
    replica, endpoint = w.replica()
    w.submit(b"a", b"b")
    w.pump()
    invoke, _ = replica.batches.pop()
    for item, left in zip(invoke.items, (1, 0), strict=True):
        outcome = wire.Outcome(item.id, wire.Status.OK)
        endpoint.on_result(wire.Result(invoke.batch, [outcome]), [memoryview(b"")])
        assert (len(endpoint.batches), endpoint.load) == (left, left)


async def test_what_a_replica_passes_over_in_time_runs_again() -> None:
    w = world()
    replica, endpoint = w.replica()
    (invocation,) = w.submit(b"a")
    w.pump()
    w.answer(replica, endpoint, wire.Status.CANCELLED)
    assert (w.done, w.queue.waiting.live, w.queue.running) == ([], 1, 0)
    w.pump()
    w.answer(replica, endpoint)
    assert bytes(invocation.payload) == b"a"


async def test_what_replicas_pass_over_again_and_again_is_given_up() -> None:
    w = world()
    replica, endpoint = w.replica()
    w.submit(b"a")
    for _ in range(MAX_PASSES + 1):
        assert w.done == []
        w.pump()
        w.answer(replica, endpoint, wire.Status.CANCELLED)
    assert w.codes() == ["replica_lost"]
    w.check_idle()


async def test_every_requeue_is_counted_and_their_number_is_limited() -> None:
    w = world(max_retries=20)
    (invocation,) = w.submit(b"a")
    w.replica("r1")
    w.pump()
    w.gone("r1", at_fault=False)
    assert (invocation.requeues, w.metrics.retries.child("p/f", "1").value) == (1, 1)
    invocation.requeues = MAX_REQUEUES
    w.replica("r2")
    w.pump()
    w.gone("r2", at_fault=False)
    assert w.codes() == ["replica_lost"]


# Feedback


async def test_the_first_answers_of_a_replica_are_reported_once() -> None:
    w = world(max_batch_size=1)
    replica, endpoint = w.replica()
    for _ in range(2):
        w.submit(b"a")
        w.pump()
        w.answer(replica, endpoint)
    assert w.served_replicas == ["r1"]


async def test_a_replica_that_answered_its_most_is_recycled_once_and_gets_nothing_new() -> None:
    w = world(max_batch_size=1, max_invocations=2)
    replica, endpoint = w.replica()
    w.quick(endpoint)
    w.submit(b"a", b"b")
    w.pump()
    w.answer(replica, endpoint)
    assert w.recycled == []
    w.answer(replica, endpoint)
    assert w.recycled == ["r1"]
    w.submit(b"c")
    w.pump()
    assert (replica.batches, w.queue.waiting.live) == ([], 1)


async def test_a_closing_replica_finishes_what_it_has_and_gets_nothing_new() -> None:
    w = world(max_batch_size=1)
    replica, endpoint = w.replica()
    w.submit(b"a")
    w.pump()
    w.queue.endpoints.endpoint_closing("r1")
    w.queue.endpoints.endpoint_closing("unknown")
    w.submit(b"b")
    w.pump()
    w.answer(replica, endpoint)
    assert w.codes() == ["ok"]
    assert w.queue.waiting.live == 1


# Lost replicas


@pytest.mark.parametrize(("at_fault", "blamed"), [(True, 1), (False, 0)])
async def test_what_a_lost_replica_ran_is_tried_again_and_what_waited_behind_it_is_no_retry(
    at_fault: bool, blamed: int
) -> None:
    w = world(max_batch_size=1)
    _, endpoint = w.replica()
    w.quick(endpoint)
    running, behind = w.submit(b"a", b"b")
    w.pump()
    w.gone(at_fault=at_fault)
    assert ((running.attempts, running.blamed), (behind.attempts, behind.blamed)) == ((1, blamed), (0, 0))
    assert w.served_replicas == (["r1"] if at_fault else [])
    assert w.metrics.retries.child("p/f", "1").value == 2
    replica, endpoint = w.replica("r2")
    w.pump()
    while replica.batches:
        w.answer(replica, endpoint)
        w.pump()
    assert w.codes() == ["ok", "ok"]
    w.check_idle()


async def test_an_idle_replica_that_is_lost_is_not_reported_as_one_that_served() -> None:
    w = world()
    w.replica()
    w.gone()
    w.gone()
    assert (w.served_replicas, w.queue.endpoints.by_id) == ([], {})


async def test_without_retries_a_lost_replica_is_an_error() -> None:
    w = world(max_retries=0)
    w.replica()
    w.submit(b"a")
    w.pump()
    w.gone(at_fault=False)
    assert w.codes() == ["replica_lost"]


async def test_an_invocation_that_ended_two_replicas_is_quarantined() -> None:
    w = world(max_retries=5)
    w.submit(b"poison")
    for name in ("r1", "r2"):
        w.replica(name)
        w.pump()
        w.gone(name)
    assert w.codes() == ["quarantined"]
    assert w.metrics.quarantined.child("p/f", "1").value == 1


async def test_what_ran_when_its_version_ended_is_lost_and_not_offered_for_a_retry() -> None:
    w = world()
    w.replica()
    w.submit(b"a")
    w.pump()
    w.queue.close("p/f@1 is not running")
    w.queue.endpoints.endpoint_gone("r1", Exit("killed", "killed by the platform"), at_fault=False)
    error = w.done[0].error
    assert error is not None
    assert (error.code, error.retry_after_s) == ("replica_lost", None)
    assert "p/f@1 is not running" in error.message


# Several calls at once

SEVERAL = wire.Ready(schema={}, batched=False, streaming=False, concurrency=8, phases={})
A_MOMENT_S = 2 * MOMENT_S


def give_back(w: QueueWorld, replica: FakeReplica, endpoint: Endpoint) -> None:
    """The replica answers what it was asked for, which it has not begun."""
    ids, replica.withdrawn = replica.withdrawn, []
    for invoke, _ in replica.batches:
        outcomes = [wire.Outcome(item.id, wire.Status.CANCELLED) for item in invoke.items if item.id in ids]
        endpoint.on_result(wire.Result(invoke.batch, outcomes, 0.0), [memoryview(b"")] * len(outcomes))


async def test_what_a_replica_with_a_blocked_loop_has_not_begun_runs_where_there_is_room() -> None:
    w = world(max_ongoing_requests=8)
    first, blocked = w.replica("r1", SEVERAL)
    w.submit(b"blocks", b"waits", b"waits too")
    w.pump()
    w.clock.now += A_MOMENT_S
    w.queue.endpoints.withdrawals.look()
    assert first.withdrawn == [], "it can go nowhere else"
    second, free = w.replica("r2", SEVERAL)
    w.queue.endpoints.withdrawals.look()
    assert first.withdrawn == [0, 1, 2]
    w.queue.endpoints.withdrawals.look()
    assert first.withdrawn == [0, 1, 2], "each is asked for once"
    first.withdrawn = [1, 2]  # the first one has begun: nothing happens to it
    give_back(w, first, blocked)
    w.submit(b"new")
    w.pump()
    assert [bodies for _, bodies in second.batches] == [[b"waits", b"waits too", b"new"]], "none to the blocked one"
    w.answer(second, free)
    w.answer(first, blocked)
    assert w.codes() == ["ok"] * 4
    w.check_idle()


async def test_a_replica_whose_loop_was_blocked_gets_calls_again_once_it_answers_or_after_a_pause() -> None:
    w = world(max_ongoing_requests=8)
    replica, endpoint = w.replica("r1", SEVERAL)
    w.replica("r2", SEVERAL)[1].draining = True
    w.submit(b"blocks")
    w.pump()
    pauses = []
    for _ in range(2):
        endpoint.pause()
        endpoint.pause()  # of two calls that come back together
        pauses.append(endpoint.paused_until - w.clock.now)
        w.submit(b"waits")
        w.pump()
        assert w.queue.waiting.live == 1
        w.clock.now = endpoint.paused_until
        w.pump()
        assert w.queue.waiting.live == 0
    assert pauses == [pytest.approx(SHORTEST_PAUSE_S), pytest.approx(2 * SHORTEST_PAUSE_S)]
    endpoint.pause()
    w.answer(replica, endpoint)
    assert endpoint.ahead_from(w.clock.now) == w.clock.now


async def test_what_was_given_back_is_asked_for_later_each_time() -> None:
    w = world(max_ongoing_requests=8)
    w.replica("r1", SEVERAL)
    w.replica("r2", SEVERAL)
    (call,) = w.submit(b"a")
    call.withdrawals = 3
    w.pump()
    batch = call.endpoint.batches[1]
    assert batch.doubtful_from - batch.sent == pytest.approx(8 * MOMENT_S)
    call.withdrawals = 30
    assert batch.doubtful_from - batch.sent == pytest.approx(MOST_DOUBTFUL_S)


async def test_a_replica_that_was_found_blocked_is_the_last_choice_until_it_answers() -> None:
    w = world(max_ongoing_requests=8)
    blocked, endpoint = w.replica("r1", SEVERAL)
    w.submit(b"blocks")
    w.pump()
    endpoint.pause()
    w.clock.now = endpoint.paused_until
    busy, _ = w.replica("r2", SEVERAL)
    for _ in range(3):
        w.submit(b"x")
        w.pump()
    assert (len(blocked.batches), len(busy.batches)) == (1, 3)
    w.answer(blocked, endpoint)
    w.submit(b"x")
    w.pump()
    assert len(blocked.batches) == 1


async def test_a_call_past_its_deadline_that_blocks_others_is_replaced_although_its_replica_has_places() -> None:
    w = world(max_ongoing_requests=8)
    replica, endpoint = w.replica("r1", SEVERAL)
    w.submit(b"blocks", timeout_s=1)
    w.pump()
    w.submit(b"waits", timeout_s=60)
    w.pump()
    w.clock.now += 1.5
    w.queue.expire_due(int(w.clock.now * TICKS_PER_S))
    assert w.codes() == ["deadline_exceeded"]
    w.queue.endpoints.withdrawals.look()
    assert replica.withdrawn == [1]
    give_back(w, replica, endpoint)
    w.pump()
    assert w.overdue_replicas == ["r1"]
    second, free = w.replica("r2", SEVERAL)
    w.pump()
    w.answer(second, free)
    assert w.codes() == ["deadline_exceeded", "ok"]


# Streams


async def test_chunks_go_to_the_sink_credit_goes_to_the_replica_and_a_stream_that_began_is_not_retried() -> None:
    w = world(max_ongoing_requests=8)
    replica, endpoint = w.replica(ready=CONCURRENT)
    sink = Sink()
    invocation = w.invocation(sink=sink)
    w.queue.submit(invocation)
    w.pump()
    endpoint.on_chunk(wire.Chunk(invocation.item, 0, "application/json"), memoryview(b"1"))
    endpoint.on_chunk(wire.Chunk(999, 0, "application/json"), memoryview(b"2"))
    assert (sink.chunks, invocation.chunks) == ([b"1"], 1)
    endpoint.credit(invocation, 3)
    assert replica.credits == [(invocation.item, 3)]
    w.gone(at_fault=False)
    assert w.codes() == ["replica_lost"]


async def test_a_stream_that_sends_beyond_its_credit_is_a_violation() -> None:
    w = world(max_ongoing_requests=8)
    _, endpoint = w.replica(ready=CONCURRENT)
    invocation = w.invocation(sink=Sink())
    w.queue.submit(invocation)
    w.pump()
    endpoint.credit(invocation, 2)
    for n in range(wire.INITIAL_CREDIT + 2):
        endpoint.on_chunk(wire.Chunk(invocation.item, n, "application/json"), memoryview(b"1"))
    with pytest.raises(wire.ProtocolError, match="credit"):
        endpoint.on_chunk(wire.Chunk(invocation.item, 99, "application/json"), memoryview(b"1"))


@pytest.mark.parametrize("kind", ["results", "outcomes", "chunks"])
async def test_many_answers_to_what_was_not_asked_are_a_violation(kind: str) -> None:
    w = world(max_batch_size=4)
    _, endpoint = w.replica()
    w.submit(b"a")
    w.pump()
    batch = next(iter(endpoint.batches.values())).id

    def answer() -> None:
        outcomes = [wire.Outcome(999, wire.Status.OK)]
        if kind == "chunks":
            endpoint.on_chunk(wire.Chunk(999, 0, "application/json"), memoryview(b"1"))
        else:
            endpoint.on_result(wire.Result(batch if kind == "outcomes" else 77, outcomes), [memoryview(b"")])

    count = 0
    with contextlib.suppress(wire.ProtocolError):
        for count in range(2 * MAX_STRAYS):  # noqa: B007
            answer()
    assert MAX_STRAYS // 2 <= count <= MAX_STRAYS


async def test_a_stream_that_sent_items_is_never_queued_again() -> None:
    w = world(max_ongoing_requests=8)
    replica, endpoint = w.replica(ready=CONCURRENT)
    sink = Sink()
    invocation = w.invocation(sink=sink)
    w.queue.submit(invocation)
    w.pump()
    endpoint.on_chunk(wire.Chunk(invocation.item, 0, "application/json"), memoryview(b"1"))
    w.answer(replica, endpoint, wire.Status.CANCELLED)
    assert w.codes() == ["replica_lost"]
    w.check_idle()


# Hedging


async def hedged(w: QueueWorld) -> tuple[FakeReplica, FakeReplica]:
    """A slow replica, and one with a second copy of what it runs."""
    (slow, slow_endpoint), (quick, quick_endpoint) = w.replica("r1"), w.replica("r2")
    w.queue.endpoints.endpoint_closing("r2")
    for _ in range(50):
        w.submit(b"quick")
        w.pump()
        w.clock.now += 0.01
        w.answer(slow, slow_endpoint)
    w.done.clear()
    w.submit(b"hedged")
    w.pump()
    quick_endpoint.draining = False
    assert slow.batches
    await asyncio.sleep(1)
    assert quick.batches
    return slow, quick


@pytest.mark.parametrize("first", ["the replica", "the second copy"])
async def test_the_first_answer_of_two_copies_counts_and_the_other_copy_is_cancelled(first: str) -> None:
    w = world(max_batch_size=1, hedge_after=0.9)
    slow, quick = await hedged(w)
    assert w.metrics.hedges.child("p/f", "1").value == 1
    endpoints = w.queue.endpoints.by_id
    if first == "the replica":
        w.answer(slow, endpoints["r1"])
        w.answer(quick, endpoints["r2"])
        assert (len(slow.cancelled), len(quick.cancelled)) == (0, 1)
    else:
        w.answer(quick, endpoints["r2"])
        w.answer(slow, endpoints["r1"])
        assert slow.cancelled
    assert w.codes() == ["ok"]
    w.check_idle()


async def test_the_second_copy_answers_for_a_replica_that_was_lost_meanwhile() -> None:
    w = world(max_batch_size=1, hedge_after=0.9)
    _, quick = await hedged(w)
    w.gone("r1", at_fault=False)
    assert w.queue.waiting.live == 1
    w.answer(quick, w.queue.endpoints.by_id["r2"])
    assert w.codes() == ["ok"]
    w.check_idle()


# Stuck


async def test_a_replica_is_stuck_only_past_its_deadline_and_far_past_the_usual() -> None:
    w = world(max_batch_size=1, timeout_s=60)
    replica, endpoint = w.replica()
    w.submit(b"a")
    w.pump()
    w.clock.now += 0.1
    w.answer(replica, endpoint)  # a call takes 0.1 s
    w.submit(b"b", timeout_s=1.0)
    w.pump()
    usual_s = endpoint.controller.expected(1)
    assert usual_s is not None
    stuck = w.queue.endpoints.stuck
    w.clock.now += 1.5
    assert not stuck("r1", 1.0), "its caller's deadline passed, but not by the grace"
    w.clock.now += usual_s * UNUSUAL
    assert stuck("r1", 1.0)
    assert not stuck("r1", 10.0)
    assert not stuck("unknown", 1.0)


async def test_a_replica_in_its_first_call_gets_the_functions_own_time_unless_another_knows_better() -> None:
    w = world(max_batch_size=1, timeout_s=60)
    w.replica("r1")
    w.submit(b"hangs", timeout_s=1.0)
    w.pump()
    w.clock.now += 30.0
    assert not w.queue.endpoints.stuck("r1", 1.0)
    other, endpoint = w.replica("r2")
    w.submit(b"quick", timeout_s=60.0)
    w.pump()
    while not other.batches:
        w.submit(b"quick", timeout_s=60.0)
        w.pump()
    w.clock.now += 0.1
    w.answer(other, endpoint)
    assert w.queue.endpoints.stuck("r1", 1.0)
    w.gone("r2", at_fault=False)
    assert w.queue.endpoints.stuck("r1", 1.0), "what was seen once stays known"


# Withdrawals


async def test_what_waits_behind_a_call_that_takes_longer_than_expected_goes_to_a_free_replica() -> None:
    w = world(max_batch_size=1)
    busy, endpoint = w.replica("r1")
    w.quick(endpoint)
    long, short = w.submit(b"long", b"short")
    w.pump()
    assert (len(busy.batches), w.queue.waiting.live, w.queue.depth, w.queue.begun) == (2, 0, 1, 1)
    free, other = w.replica("r2")
    w.clock.now += 2 * MOMENT_S
    await asyncio.sleep(2 * MOMENT_S)  # the timer
    assert busy.withdrawn == [short.item]
    _, behind = busy.batches
    busy.batches.remove(behind)
    endpoint.on_result(wire.Result(behind[0].batch, [wire.Outcome(short.item, 8)]), [memoryview(b"")])
    assert w.metrics.withdrawn.child("p/f", "1").value == 1
    w.pump()
    w.answer(free, other)
    assert (w.done, short.attempts, short.requeues) == ([short], 0, 0)
    assert endpoint.controller.expected(1) == 0.001, "a batch that did not run says nothing about its duration"
    assert endpoint.answered == 0
    w.clock.now += 5
    w.answer(busy, endpoint)
    assert w.done == [short, long]
    assert other.answered + endpoint.answered == 2
    w.check_idle()


async def test_what_has_begun_meanwhile_is_not_taken_back() -> None:
    w = world(max_batch_size=1)
    replica, endpoint = w.replica()
    w.quick(endpoint)
    _, second = w.submit(b"a", b"b")
    w.pump()
    w.clock.now += 2 * MOMENT_S
    w.queue.endpoints.withdrawals.look()
    assert replica.withdrawn == [second.item]
    w.answer(replica, endpoint)
    w.answer(replica, endpoint)
    assert w.codes() == ["ok", "ok"]
    w.check_idle()


async def test_of_a_frame_of_tiny_calls_all_but_the_one_that_runs_are_taken_back() -> None:
    w = world(max_batch_size=1)
    replica, endpoint = w.replica(ready=UNBATCHED)
    w.quick(endpoint, 0.0001)
    first, *others = w.submit(*[b"x"] * 4)
    w.pump()
    (invoke, _), *_ = replica.batches
    assert len(invoke.items) == 4
    assert w.queue.depth == 3
    w.clock.now += 2 * MOMENT_S
    w.queue.endpoints.withdrawals.look()
    w.queue.endpoints.withdrawals.look()
    assert replica.withdrawn == [invocation.item for invocation in others], "once"
    back = [wire.Outcome(invocation.item, 8) for invocation in others]
    endpoint.on_result(wire.Result(invoke.batch, back), [memoryview(b"")] * 3)
    assert (w.queue.waiting.live, w.queue.running, endpoint.load) == (3, 1, 1)
    endpoint.on_result(wire.Result(invoke.batch, [wire.Outcome(first.item, 0)]), [memoryview(b"")])
    assert w.codes() == ["ok"]
    w.queue.close("the end")
    w.check_idle()


async def test_what_was_taken_back_too_often_waits_for_an_idle_replica() -> None:
    w = world(max_batch_size=1)
    replica, endpoint = w.replica()
    w.quick(endpoint)
    w.submit(b"a")
    w.pump()
    (second,) = w.submit(b"b")
    second.withdrawals = MAX_WITHDRAWALS
    w.pump()
    assert len(replica.batches) == 1
    w.answer(replica, endpoint)
    w.pump()
    assert len(replica.batches) == 1
    w.answer(replica, endpoint)
    assert w.codes() == ["ok", "ok"]


async def test_what_is_taken_back_from_a_function_that_ended_is_refused() -> None:
    w = world(max_batch_size=1)
    replica, endpoint = w.replica()
    w.quick(endpoint)
    _, second = w.submit(b"a", b"b")
    w.pump()
    w.clock.now += 2 * MOMENT_S
    w.queue.endpoints.withdrawals.look()
    w.queue.close("p/f@1 is not running")
    _, (behind, _) = replica.batches
    endpoint.on_result(wire.Result(behind.batch, [wire.Outcome(second.item, 8)]), [memoryview(b"")])
    assert w.codes() == ["unavailable"]
