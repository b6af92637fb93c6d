"""The queue of one function, and the wheel of deadlines."""

from __future__ import annotations

import random
from typing import Any, cast

from clipper_platform.serving.deadlines import DeadlineWheel
from clipper_platform.serving.invocation import Invocation, State
from clipper_platform.serving.queue import InvocationQueue

NO_LANE = cast("Any", None)


def invocation(deadline: float, *, name: str = "", weight: int = 1) -> Invocation:
    made = Invocation(
        NO_LANE, request_id=name, content_type="", accept="", body=b"", arrived=0.0, deadline=deadline,
        on_done=lambda _: None,
    )  # fmt: skip
    made.weight = weight
    return made


def drain(queue: InvocationQueue) -> list[float]:
    out = []
    while (head := queue.pop()) is not None:
        out.append(head.deadline)
    return out


def test_the_earliest_deadline_leaves_first_whatever_the_order_of_arrival() -> None:
    rng = random.Random(3)
    deadlines = [rng.uniform(0, 100) for _ in range(500)]
    queue = InvocationQueue()
    for deadline in deadlines:
        queue.push(invocation(deadline))
    assert drain(queue) == sorted(deadlines)


def test_equal_deadlines_leave_in_order_of_arrival() -> None:
    queue = InvocationQueue()
    for name in "abc":
        queue.push(invocation(5.0, name=name))
    names = [head.request_id for head in iter(queue.pop, None)]
    assert names == ["a", "b", "c"]


def test_removed_invocations_never_leave_and_do_not_count() -> None:
    queue = InvocationQueue()
    made = [invocation(float(n % 7), weight=2) for n in range(50)]
    for each in made:
        queue.push(each)
    for each in made[::2]:
        queue.remove(each)
    assert len(queue) == 25
    assert queue.weight == 50
    assert len(drain(queue)) == 25
    assert (len(queue), queue.weight) == (0, 0)


def test_husks_are_swept_so_that_memory_follows_the_living() -> None:
    queue = InvocationQueue()
    for _ in range(200):
        made = [invocation(float(n)) for n in range(50)]
        for each in made:
            queue.push(each)
        for each in made:
            queue.remove(each)
    assert len(queue) == 0
    assert queue.held <= 130


def test_suspects_wait_apart_and_are_shown_first() -> None:
    queue = InvocationQueue()
    plain, suspect, gone = invocation(1.0), invocation(9.0), invocation(8.0)
    suspect.blamed = gone.blamed = 1
    for each in (plain, gone, suspect):
        queue.push(each)
    queue.remove(gone)
    assert queue.suspect() is suspect
    assert queue.peek() is plain
    assert queue.waiting == 1
    assert queue.pop_suspect() is suspect
    assert queue.suspect() is None
    assert len(queue) == 1


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
    return DeadlineWheel(cast("Any", loop), clock, expired.append), clock, loop, expired


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


def test_a_discarded_or_finished_invocation_does_not_expire() -> None:
    deadlines, clock, _, expired = wheel()
    discarded, done = invocation(100.1), invocation(100.1)
    deadlines.add(discarded)
    deadlines.add(done)
    deadlines.discard(discarded)
    done.state = State.DONE
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
