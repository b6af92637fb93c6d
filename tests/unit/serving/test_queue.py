"""The queue of one function, and the wheel of deadlines."""

from __future__ import annotations

import random
from typing import Any, cast

from clipper_platform.serving.admission import Admission
from clipper_platform.serving.deadlines import DeadlineWheel
from clipper_platform.serving.invocation import Invocation
from clipper_platform.serving.queue import InvocationQueue

NO_QUEUE = cast("Any", None)


def invocation(deadline: float, *, name: str = "", weight: int = 1) -> Invocation:
    new = Invocation(
        NO_QUEUE, request_id=name, content_type="", accept="", body=b"", arrived=0.0, deadline=deadline,
        on_done=lambda _: None,
    )  # fmt: skip
    new.weight = weight
    return new


def pop(queue: InvocationQueue) -> Invocation | None:
    head = queue.peek()
    if head is not None:
        queue.remove(head)
    return head


def drain(queue: InvocationQueue) -> list[float]:
    out = []
    while (head := pop(queue)) is not None:
        out.append(head.deadline)
    return out


def test_the_earliest_deadline_leaves_first_whatever_the_order_of_arrival() -> None:
    rng = random.Random(3)
    deadlines = [rng.uniform(0, 100) for _ in range(500)]
    queue = InvocationQueue(Admission(10_000))
    for deadline in deadlines:
        queue.push(invocation(deadline))
    assert drain(queue) == sorted(deadlines)


def test_equal_deadlines_leave_in_order_of_arrival() -> None:
    queue = InvocationQueue(Admission(10_000))
    for name in "abc":
        queue.push(invocation(5.0, name=name))
    names = [head.request_id for head in iter(lambda: pop(queue), None)]
    assert names == ["a", "b", "c"]


def test_removed_invocations_never_leave_and_do_not_count() -> None:
    queue = InvocationQueue(Admission(10_000))
    invocations = [invocation(float(n % 7), weight=2) for n in range(50)]
    for each in invocations:
        queue.push(each)
    for each in invocations[::2]:
        queue.remove(each)
    assert len(queue) == 25
    assert queue.weight == 50
    assert len(drain(queue)) == 25
    assert (len(queue), queue.weight) == (0, 0)


def test_tombstones_are_swept_so_that_memory_follows_the_live_count() -> None:
    queue = InvocationQueue(Admission(10_000))
    for _ in range(200):
        invocations = [invocation(float(n)) for n in range(50)]
        for each in invocations:
            queue.push(each)
        for each in invocations:
            queue.remove(each)
    assert len(queue) == 0
    assert queue.held <= 130


def test_the_last_one_that_is_removed_leaves_nothing_in_memory() -> None:
    queue = InvocationQueue(Admission(10_000))
    invocations = [invocation(float(n % 3)) for n in range(10)]
    invocations[4].blamed = 1
    for each in invocations:
        queue.push(each)
    for each in invocations:
        queue.remove(each)
    assert queue.held == 0
    queue.push(invocation(5.0))
    assert drain(queue) == [5.0]


def test_a_queue_at_rest_keeps_what_waits() -> None:
    queue = InvocationQueue(Admission(10_000))
    for deadline in (2.0, 1.0):
        queue.push(invocation(deadline))
    queue.rest()
    assert drain(queue) == [1.0, 2.0]


def test_what_one_queue_holds_is_in_no_other() -> None:
    first, second = InvocationQueue(Admission(10_000)), InvocationQueue(Admission(10_000))
    suspect = invocation(1.0)
    suspect.blamed = 1
    first.push(invocation(2.0))
    first.push(suspect)
    assert (second.held, second.peek(), second.suspect()) == (0, None, None)


def test_suspects_wait_apart_and_are_shown_first() -> None:
    queue = InvocationQueue(Admission(10_000))
    plain, suspect, gone = invocation(1.0), invocation(9.0), invocation(8.0)
    suspect.blamed = gone.blamed = 1
    for each in (plain, gone, suspect):
        queue.push(each)
    queue.remove(gone)
    assert queue.suspect() is suspect
    assert queue.peek() is plain
    assert queue.pop_suspect() is suspect
    assert queue.suspect() is None
    assert len(queue) == 1


def filled(rng: random.Random, n: int = 60) -> InvocationQueue:
    """Deadlines in any order, some of them gone again, and a suspect."""
    queue = InvocationQueue(Admission(10_000))
    invocations = [
        invocation(rng.choice([1.0, 2.0, 3.0, 50.0]) + rng.random(), weight=rng.randint(1, 4)) for _ in range(n)
    ]
    invocations[0].blamed = 1
    for each in invocations:
        queue.push(each)
    for each in rng.sample(invocations, n // 3):
        queue.remove(each)
    return queue


def test_taking_a_batch_is_popping_one_by_one() -> None:
    for seed in range(50):
        batched, single = filled(random.Random(seed)), filled(random.Random(seed))
        limit, room, latest = seed % 11 + 1, seed % 7 + 1, 2.5
        items, weight, late = batched.take(limit, room, latest, max_bytes=1 << 20)
        assert weight == sum(i.weight for i in items)
        assert len(items) <= room
        assert weight <= limit or len(items) == 1
        assert all(i.deadline <= latest for i in late)
        assert all(i.deadline > latest for i in items)
        popped = [head for _ in range(len(items) + len(late)) if (head := pop(single)) is not None]
        assert sorted(i.deadline for i in [*items, *late]) == [i.deadline for i in popped]
        assert (batched.live, batched.weight) == (single.live, single.weight)
        assert drain(batched) == drain(single)


def test_a_batch_ends_before_the_bytes_are_too_many_but_takes_one_that_alone_is_too_large() -> None:
    queue = InvocationQueue(Admission(10_000))
    for n, size in enumerate((100, 10, 10, 10)):
        large = invocation(float(n))
        large.body = bytes(size)
        queue.push(large)
    assert [len(queue.take(9, 9, -1.0, max_bytes=25)[0]) for _ in range(3)] == [1, 2, 1]


def test_what_is_due_is_found_wherever_it_waits() -> None:
    for seed in range(50):
        queue = filled(random.Random(seed))
        everything, _ = queue.due(1 << 40, ordered=False)
        due, earliest = queue.due(250, ordered=True)
        assert sorted(i.deadline for i in due) == sorted(i.deadline for i in everything if i.deadline < 2.5)
        assert earliest == min(i.deadline for i in everything if i.deadline >= 2.5)
        assert len(everything) == queue.live


def test_a_deadline_that_moved_is_looked_for_where_it_may_have() -> None:
    queue = InvocationQueue(Admission(10_000))
    moved, behind = invocation(1.0), invocation(2.0)
    queue.push(moved)
    queue.push(behind)
    moved.deadline = 9.0
    assert queue.due(500, ordered=False) == ([behind], 9.0)


class FakeLoop:
    """Holds the one timer that the wheel arms."""

    def __init__(self) -> None:
        self.armed: list[tuple[float, Any]] = []

    def call_later(self, delay: float, callback: Any) -> Any:
        self.armed.append((delay, callback))
        return self

    def cancel(self) -> None:
        self.armed.clear()


class FakeClock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


def wheel() -> tuple[DeadlineWheel, FakeClock, FakeLoop, list[Invocation]]:
    clock, loop, expired = FakeClock(), FakeLoop(), list[Invocation]()
    return (
        DeadlineWheel(cast("Any", loop), clock, lambda timed, _: expired.append(cast("Any", timed))),
        clock,
        loop,
        expired,
    )


def test_an_invocation_expires_at_most_one_tick_after_its_deadline_and_never_before() -> None:
    deadlines, clock, _, expired = wheel()
    late = invocation(100.5)
    deadlines.add(late)
    clock.now = 100.499
    deadlines.tick()
    assert expired == []
    clock.now = 100.5101
    deadlines.tick()
    assert expired == [late]
    assert len(deadlines) == 0


def test_an_early_one_expires_before_its_deadline() -> None:
    deadlines, clock, _, expired = wheel()
    early = invocation(100.505)
    deadlines.add(early, early=True)
    clock.now = 100.5001
    deadlines.tick()
    assert expired == [early]


def test_a_discarded_invocation_does_not_expire() -> None:
    deadlines, clock, _, expired = wheel()
    discarded = invocation(100.1)
    deadlines.add(discarded)
    deadlines.discard(discarded)
    clock.now = 101.0
    deadlines.tick()
    assert expired == []


def test_the_timer_follows_the_earliest_deadline() -> None:
    deadlines, _, loop, _ = wheel()
    deadlines.add(invocation(160.0))
    assert 59.9 < loop.armed[-1][0] < 60.1
    deadlines.add(invocation(101.0))
    assert 0.9 < loop.armed[-1][0] < 1.1
    deadlines.close()
    assert loop.armed == []
