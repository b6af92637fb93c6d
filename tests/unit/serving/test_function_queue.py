"""One function queue by itself: admission, deadlines, turns, capacity and its end."""

from __future__ import annotations

import asyncio
import math

import msgspec
import pytest

from clipper_platform.errors import QueueFull, Unavailable
from clipper_platform.serving.function_queue import GIVEN_UP_S
from tests.unit.serving.queue_world import ONE_AT_A_TIME, QueueWorld

pytestmark = pytest.mark.virtual_time


def world(**options: object) -> QueueWorld:
    return QueueWorld(asyncio.get_running_loop(), **options)


# Admission


async def test_what_is_admitted_is_counted_and_asks_for_one_turn() -> None:
    w = world()
    w.submit(b"a", b"b", b"c")
    assert (w.queue.waiting.live, w.admission.total, w.admission.queues) == (3, 3, 1)
    assert w.queue.submitted == 3
    assert w.scheduled == 1


async def test_a_full_queue_refuses_counts_the_refusal_and_keeps_nothing() -> None:
    w = world(max_queued_requests=2)
    w.submit(b"a", b"b")
    refused = w.invocation()
    assert w.queue.offer(refused) is False
    with pytest.raises(QueueFull, match="p/f has 2 invocations waiting"):
        w.queue.submit(refused)
    assert w.metrics.refused.child("p/f", "1", "function").value == 2
    assert (w.admission.total, w.queue.submitted, w.done) == (2, 2, [])


async def test_a_refusal_of_the_limit_over_all_queues_is_counted_as_one() -> None:
    w = world(max_queued_total=2)
    w.submit(b"a", b"b")
    assert w.queue.offer(w.invocation()) is False
    assert w.metrics.refused.child("p/f", "1", "all").value == 1


async def test_a_refusal_says_when_a_place_should_be_free() -> None:
    w = world(max_queued_requests=4, max_batch_size=1)
    assert w.queue.queue_full().retry_after_s == 1.0  # nothing is known of its pace
    replica, endpoint = w.replica()
    w.submit(b"a", b"b")
    for _ in range(2):
        w.pump()
        w.clock.now += 4.0
        w.answer(replica, endpoint)
    w.submit(*[b"x"] * 4)
    retry_after_s = w.queue.queue_full().retry_after_s
    assert retry_after_s is not None
    assert 8.0 <= retry_after_s <= 60.0


async def test_without_capacity_calls_are_refused_and_with_it_admitted_again() -> None:
    w = world()
    (waiting,) = w.submit(b"a")
    w.queue.endpoints.no_capacity("gave up after 5 failed starts", math.inf)
    assert w.codes() == ["unavailable"]
    assert "p/f@1 has no replica: gave up after 5 failed starts" in str(waiting.error)
    with pytest.raises(Unavailable, match="gave up") as refusal:
        w.submit(b"b")
    assert refusal.value.retry_after_s == GIVEN_UP_S
    w.queue.endpoints.no_capacity("", math.inf)
    w.submit(b"c")
    assert w.queue.waiting.live == 1


async def test_a_replica_that_is_left_serves_although_no_other_will_come_and_its_end_refuses_what_waits() -> None:
    w = world()
    w.replica()
    w.queue.endpoints.no_capacity("gave up", math.inf)
    w.submit(b"a")
    assert w.done == []
    w.gone()
    assert w.codes() == ["unavailable"]
    w.check_idle()


async def test_the_first_call_of_an_idle_function_is_announced_once() -> None:
    w = world()
    called: list[str] = []
    w.queue.on_call = lambda id: called.append(str(id))
    w.submit(b"a", b"b")
    assert called == ["p/f@1"]
    assert w.queue.on_call is None


# Deadlines and cancellation


async def test_a_deadline_in_the_queue_and_one_on_a_replica_are_answered_and_the_others_are_not() -> None:
    w = world(max_batch_size=1)
    replica, _ = w.replica()
    w.submit(b"runs", timeout_s=1.0)
    w.pump()
    w.submit(b"waits", timeout_s=1.0)
    w.submit(b"patient", timeout_s=5.0)
    w.clock.now += 1.02
    w.wheel.tick()
    assert w.codes() == ["deadline_exceeded"] * 2
    assert [str(i.error).rpartition("the last ")[2] for i in w.done] == ["in the queue", "on a replica"]
    assert len(replica.cancelled) == 1
    w.clock.now += 4.0
    w.wheel.tick()
    assert len(w.done) == 3
    w.check_idle()


async def test_the_default_output_answers_in_place_of_a_deadline_and_of_no_capacity_but_not_of_a_cancellation() -> None:
    w = world(default_output=0)
    late, refused, cancelled = *w.submit(b"late", timeout_s=1.0), *w.submit(b"b"), *w.submit(b"c")
    w.clock.now += 1.0
    w.wheel.tick()
    w.queue.cancel(cancelled)
    w.queue.endpoints.no_capacity("gave up", math.inf)
    assert [i.default_reason for i in (late, refused, cancelled)] == ["deadline_exceeded", "unavailable", ""]
    assert cancelled.error is not None
    assert late.finished <= late.deadline


async def test_a_cancelled_invocation_is_answered_once_and_frees_its_place() -> None:
    w = world(max_batch_size=1)
    replica, endpoint = w.replica()
    (running,) = w.submit(b"a")
    w.pump()
    (waiting,) = w.submit(b"b")
    for invocation in (running, waiting, running, waiting):
        w.queue.cancel(invocation)
    assert w.codes() == ["client_closed"] * 2
    w.check_idle()
    w.answer(replica, endpoint)  # too late: nobody waits
    assert len(w.done) == 2


async def test_an_answer_after_the_deadline_is_no_answer() -> None:
    w = world()
    replica, endpoint = w.replica()
    w.submit(b"a", timeout_s=1.0)
    w.pump()
    w.clock.now += 1.5
    w.answer(replica, endpoint)
    assert w.codes() == ["deadline_exceeded"]


# Turns


async def test_a_turn_dispatches_its_quantum_and_asks_for_another() -> None:
    w = world(max_batch_size=2)
    for name in ("r1", "r2"):
        w.quick(w.replica(name)[1])
    w.submit(*[b"x"] * 10)
    assert w.queue.pump(2) is True
    assert (w.queue.running, w.queue.waiting.live) == (2, 8)
    assert w.queue.pump(100) is False  # two batches for each replica is all that they take
    assert w.queue.running == 8


async def test_a_finished_batch_asks_for_a_turn_while_something_waits() -> None:
    w = world(max_batch_size=1)
    replica, endpoint = w.replica()
    w.submit(b"a", b"b", b"c")
    w.pump()
    before = w.scheduled
    w.answer(replica, endpoint)
    assert w.scheduled == before + 1
    w.pump()
    w.answer(replica, endpoint)
    w.answer(replica, endpoint)
    assert w.scheduled == before + 1
    assert [bytes(i.payload) for i in w.done] == [b"a", b"b", b"c"]


async def test_idle_time_begins_with_the_last_answer_and_ends_with_the_next_call() -> None:
    w = world()
    replica, endpoint = w.replica()
    assert w.queue.idle_since == w.clock.now
    w.submit(b"a")
    assert w.queue.idle_since is None
    w.pump()
    w.clock.now += 3.0
    w.answer(replica, endpoint)
    assert w.queue.idle_since == w.clock.now
    w.check_idle()


# The end


async def test_a_drain_refuses_new_calls_and_ends_with_the_last_answer() -> None:
    w = world()
    replica, endpoint = w.replica()
    w.submit(b"a")
    w.pump()
    draining = asyncio.create_task(w.queue.drain(30, "p/f@1 is draining"))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="is draining"):
        w.submit(b"b")
    assert not draining.done()
    w.answer(replica, endpoint)
    await draining
    assert w.codes() == ["ok"]


async def test_two_drains_at_once_both_end() -> None:
    w = world()
    replica, endpoint = w.replica()
    w.submit(b"a")
    w.pump()
    drains = [asyncio.create_task(w.queue.drain(timeout_s, "draining")) for timeout_s in (30, 1, 30)]
    await drains[1]
    w.answer(replica, endpoint)
    await asyncio.gather(*drains)


async def test_a_drain_that_takes_too_long_refuses_what_waits_and_leaves_what_runs() -> None:
    w = world(max_batch_size=1)
    replica, endpoint = w.replica()
    w.submit(b"runs")
    w.pump()
    w.submit(b"waits")
    await w.queue.drain(0.5, "draining")
    assert w.codes() == ["unavailable"]
    w.answer(replica, endpoint)
    assert w.codes() == ["unavailable", "ok"]
    w.check_idle()


async def test_a_refusal_says_when_the_next_replica_is_tried_or_should_be_ready() -> None:
    w = world(max_queued_requests=1)
    for retry_at, after_s in ((w.clock.now + 17, 17), (w.clock.now - 1, 1), (math.inf, GIVEN_UP_S)):
        w.queue.endpoints.no_capacity("the database is away", retry_at)
        with pytest.raises(Unavailable) as refused:
            w.submit(b"a")
        assert refused.value.retry_after_s == after_s
    w.queue.endpoints.no_capacity("", math.inf)
    w.replica(ready=msgspec.structs.replace(ONE_AT_A_TIME, phases={"import": 4.0, "setup": 3.5}))
    w.gone()
    w.submit(b"a")
    assert w.queue.queue_full().retry_after_s == 7.5, "as long as the last start took"
    w.replica()
    assert w.queue.queue_full().retry_after_s == 1


async def test_a_caller_who_leaves_before_the_first_replica_is_ready_missed_its_start() -> None:
    w = world()
    (late,) = w.submit(b"a")
    w.replica()
    w.queue.cancel(late)
    assert not w.queue.missed_start, "a replica was ready"
    w.gone()
    (left,) = w.submit(b"b")
    w.queue.cancel(left)
    assert w.queue.missed_start


async def test_a_drain_that_is_taken_back_admits_again_and_loses_nothing() -> None:
    w = world(max_batch_size=1)
    replica, endpoint = w.replica()
    w.submit(b"runs")
    w.pump()
    w.submit(b"waits")
    drain = asyncio.create_task(w.queue.drain(30, "draining"))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        w.submit(b"too late")
    w.queue.reopen()
    assert await drain == "reopened"
    w.submit(b"again")
    for _ in range(3):
        w.answer(replica, endpoint)
        w.pump()
    assert w.codes() == ["ok", "ok", "ok"]


async def test_a_drain_that_is_cut_short_ends_at_once() -> None:
    w = world(max_batch_size=1)
    replica, endpoint = w.replica()
    w.submit(b"runs")
    w.pump()
    drain = asyncio.create_task(w.queue.drain(30, "draining"))
    await asyncio.sleep(0)
    w.queue.cut()
    assert await drain == "cut"
    w.queue.close("gone")
    w.queue.reopen()
    assert w.queue.closed, "what has ended stays so"
    w.answer(replica, endpoint)
    assert w.codes() == ["ok"]
    assert await w.queue.drain(30, "draining") == "answered"


async def test_what_has_not_begun_goes_to_the_next_version_unless_its_caller_pinned_this_one() -> None:
    old, new = world(max_batch_size=1), world(max_batch_size=1)
    replica, endpoint = new.replica()
    old.replica()
    first, *_ = old.submit(b"runs")
    old.pump()
    pinned, *_ = old.submit(b"pinned", b"waits", b"waits too")
    pinned.pinned = True
    old.successor = new.queue
    old.queue.close("p/f@1 is not running")
    assert old.codes() == ["unavailable"]
    for _ in range(2):
        new.pump()
        new.answer(replica, endpoint)
    assert old.codes() == ["unavailable", "ok", "ok"], "the callers are those of before"
    assert [invocation.queue for invocation in old.done[1:]] == [new.queue, new.queue]
    old.gone(at_fault=False)
    assert old.codes()[-1] == "replica_lost"
    assert first.error is not None
    old.check_idle()
    new.check_idle()


async def test_what_has_not_begun_is_refused_where_the_next_version_streams_or_is_full() -> None:
    for other in (world(max_queued_requests=1), world()):
        old = world()
        old.queue.streaming = False
        other.queue.streaming = other.queue.spec.max_queued_requests > 1
        other.submit(b"before")
        old.submit(b"waits")
        old.successor = other.queue
        old.queue.close("p/f@1 is not running")
        assert old.codes() == (["unavailable"] if other.queue.streaming else ["queue_full"])


async def test_a_replica_that_is_lost_during_a_drain_is_replaced_and_its_call_runs_again() -> None:
    w = world()
    w.replica()
    w.submit(b"a")
    w.pump()
    drain = asyncio.create_task(w.queue.drain(30, "draining"))
    await asyncio.sleep(0)
    w.gone(at_fault=False)
    replica, endpoint = w.replica("r2")
    w.pump()
    w.answer(replica, endpoint)
    assert (w.codes(), await drain) == (["ok"], "answered")


async def test_a_closed_queue_answers_what_runs_and_then_leaves_the_wheel() -> None:
    w = world()
    w.replica()
    w.submit(b"a")
    w.pump()
    w.queue.close("p/f@1 is not running")
    assert w.queue.bucket, "its deadline still counts"
    w.gone(at_fault=False)
    assert w.codes() == ["replica_lost"]
    assert w.queue.bucket == 0
    w.check_idle()


# What it publishes


async def test_the_schema_is_the_one_of_the_latest_replica_or_of_an_earlier_platform() -> None:
    w = world()
    assert (w.queue.schema, w.queue.streaming) == (None, None)
    w.queue.restore({"title": "old", "streaming": True})
    assert (w.queue.schema, w.queue.streaming) == ({"title": "old", "streaming": True}, True)
    w.replica()
    assert (w.queue.schema, w.queue.streaming) == ({"title": "f", "streaming": False}, False)
