"""The loop around the decisions, on a fake clock; and the same on real replica sets in memory."""

from __future__ import annotations

import asyncio
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from clipper.contract.spec import AutoscalingPolicy, FunctionSpec, Schedule
from clipper_platform.control.scaling.autoscaler import FOLLOW_UP_S, SLICE, Autoscaler
from clipper_platform.core.scaling import Decision, NoData, Sample
from clipper_platform.core.service import Service
from clipper_platform.types import FunctionId
from tests.support.memory_backend import InMemoryBackend
from tests.support.serving import harness, target
from tests.unit.control.doubles import FakeClock

pytestmark = pytest.mark.virtual_time

ID = FunctionId("p", "f", 1)


class FakeScaleTarget:
    """Functions by id; what is wanted is there at once."""

    def __init__(self) -> None:
        self.samples: dict[FunctionId, Sample] = {}
        self.callbacks: dict[FunctionId, Callable[[FunctionId], None] | None] = {}
        self.scaled: list[tuple[FunctionId, int]] = []
        self.asked = 0

    def sampler(self, id: FunctionId) -> Callable[[float], Sample | None]:
        return lambda _: self.sample(id)

    def sample(self, id: FunctionId) -> Sample | None:
        self.asked += 1
        return self.samples.get(id)

    def scale(self, id: FunctionId, replicas: int) -> None:
        self.scaled.append((id, replicas))
        self.samples[id] = self.samples[id]._replace(wanted=replicas, ready=replicas)

    def on_call(self, id: FunctionId, callback: Callable[[FunctionId], None] | None) -> None:
        self.callbacks[id] = callback

    def set(self, id: FunctionId = ID, **changes: Any) -> None:
        self.samples[id] = self.samples[id]._replace(**changes)


def spec(**options: Any) -> FunctionSpec:
    return FunctionSpec.parse("f", "app:f", options)


class Loop:
    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock()
        self.scale_target = FakeScaleTarget()
        self.events: list[tuple[FunctionId, str, str, Any]] = []
        self.counted: list[tuple[str, str]] = []
        self.errors = 0
        self.policy: AutoscalingPolicy | None = None
        self.autoscaler = Autoscaler(
            self.scale_target,
            clock=self.clock,
            events=lambda *event: self.events.append(event),
            count=lambda *labels: self.counted.append(labels),
            policy_of=lambda _, declared: self.policy or declared.autoscaling,
            on_error=self._error,
        )
        self.spec = spec(**options)

    def _error(self) -> None:
        self.errors += 1

    def add(self, id: FunctionId = ID, wanted: int = 1) -> None:
        self.scale_target.samples[id] = Sample(0, 0, wanted, wanted, idle_since=self.clock.now)
        self.autoscaler.appeared(id, self.spec)

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * 2)):
            self.clock.now += 0.5
            self.autoscaler.tick()

    @property
    def wanted(self) -> int:
        return self.scale_target.samples[ID].wanted


def test_load_adds_replicas_and_says_so() -> None:
    loop = Loop(max_replicas=5)
    loop.add()
    loop.scale_target.set(queued=12, running=4, idle_since=None)
    loop.pass_time(1)
    assert loop.wanted == 4
    assert loop.counted == [("p/f", "queue_depth")]
    ((id, kind, message, data),) = loop.events
    assert (id, kind) == (ID, "scale")
    assert message.startswith("1 → 4 replicas (queue_depth): 16 queued and running on average")
    assert data == {"rule": "queue_depth", "before": 1, "wanted": 4}


def test_an_idle_function_is_left_alone_until_its_time_comes() -> None:
    loop = Loop(downscale_to_zero_delay_s=100)
    loop.add()
    loop.pass_time(1)
    asked = loop.scale_target.asked
    loop.pass_time(98)
    assert (loop.scale_target.asked, loop.autoscaler.active) == (asked, 0)
    loop.pass_time(2)
    assert loop.wanted == 0
    loop.pass_time(1000)
    assert loop.scale_target.scaled == [(ID, 0)]
    assert loop.scale_target.asked == asked + 1


async def test_a_call_at_zero_replicas_acts_in_its_own_turn() -> None:
    loop = Loop(downscale_to_zero_delay_s=0)
    loop.add()
    loop.pass_time(1)
    assert loop.wanted == 0
    loop.scale_target.set(queued=1, idle_since=None, arrivals=1)
    callback = loop.scale_target.callbacks[ID]
    assert callback is not None
    callback(ID)
    assert loop.wanted == 1
    assert loop.counted[-1] == ("p/f", "cold_start")
    loop.scale_target.set(queued=40, arrivals=40, ready=0)
    loop.clock.now += 0.05
    await asyncio.sleep(2 * FOLLOW_UP_S)
    assert loop.wanted == 8


async def test_a_follow_up_ends_with_the_loop_and_with_its_function() -> None:
    loop = Loop(downscale_to_zero_delay_s=0)
    loop.add()
    loop.pass_time(1)
    running = asyncio.create_task(loop.autoscaler.run())
    await asyncio.sleep(0)
    loop.scale_target.set(queued=1, idle_since=None)
    loop.autoscaler.called(ID)
    loop.autoscaler.gone(ID)
    await asyncio.sleep(2 * FOLLOW_UP_S)  # the function is gone by the time of the follow-up
    loop.add()
    loop.scale_target.set(queued=1, idle_since=None, wanted=0, ready=0)
    loop.autoscaler.tick()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert loop.errors == 0


def test_a_call_to_an_idle_function_is_looked_at_at_once() -> None:
    loop = Loop(min_replicas=1)
    loop.add()
    loop.pass_time(2)
    assert loop.autoscaler.active == 0
    loop.scale_target.set(running=1, idle_since=None)
    loop.autoscaler.called(ID)
    assert loop.autoscaler.active == 1
    loop.scale_target.set(running=0, idle_since=loop.clock.now)
    loop.pass_time(70)
    assert loop.autoscaler.active == 0


def test_a_schedule_opens_while_nobody_calls() -> None:
    window = {"cron": "* * * * *", "duration_s": 10, "min_replicas": 3}
    loop = Loop(autoscaling={"schedule": [window], "downscale_to_zero_delay_s": 1, "downscale_delay_s": 0})
    loop.clock.now = 1_200_001.0 + 15  # 15 s past a minute
    loop.add()
    loop.pass_time(5)
    assert loop.wanted == 0
    loop.pass_time(45)
    assert loop.wanted == 3
    assert loop.counted[-1][1] == "schedule"
    loop.pass_time(15)
    assert loop.wanted == 0


def test_a_function_of_which_nothing_can_be_said_is_asked_again_later() -> None:
    loop = Loop()
    loop.add()
    loop.scale_target.set(failed=True, queued=5, idle_since=None)
    loop.pass_time(1)
    outlook = loop.autoscaler.outlook(ID)
    assert outlook is not None
    assert isinstance(outlook.latest, NoData)
    assert outlook.explanation is None
    asked = loop.scale_target.asked
    loop.pass_time(4)
    assert loop.scale_target.asked == asked
    loop.scale_target.set(failed=False)
    loop.pass_time(2)
    assert isinstance(loop.autoscaler.outlook(ID).latest, Decision)  # type: ignore[union-attr]


def test_one_functions_defect_does_not_stop_the_others() -> None:
    loop = Loop()
    other = FunctionId("p", "g", 1)
    loop.add()
    loop.add(other)
    loop.scale_target.set(queued="many", idle_since=None)
    loop.scale_target.set(other, queued=30, idle_since=None)
    loop.pass_time(1)
    assert loop.errors == 1
    assert loop.scale_target.samples[other].wanted == 8


def test_another_policy_counts_at_once() -> None:
    loop = Loop(max_replicas=3)
    loop.add()
    loop.pass_time(1)
    loop.policy = AutoscalingPolicy(min_replicas=2, max_replicas=4)
    loop.autoscaler.policy_changed("p", "other")
    assert loop.wanted == 1
    loop.autoscaler.policy_changed("p", "f")
    assert loop.wanted == 2
    outlook = loop.autoscaler.outlook(ID)
    assert outlook is not None
    assert outlook.policy.min_replicas == 2


def test_what_leaves_a_function_as_it_is_is_decided_in_words_when_somebody_asks() -> None:
    loop = Loop()
    loop.add()
    loop.scale_target.set(queued=2, running=1, idle_since=None)
    loop.pass_time(3)
    asked = loop.scale_target.asked
    outlook = loop.autoscaler.outlook(ID)
    assert loop.scale_target.asked == asked + 1
    assert outlook is not None
    assert isinstance(outlook.latest, Decision)
    assert (outlook.latest.at, outlook.latest.queued, outlook.latest.wanted) == (loop.clock.now, 2, 1)
    assert outlook.explanation is not None
    assert "3 queued and running" in outlook.explanation.why
    assert loop.autoscaler.active == 1


def test_the_outlook_tells_the_last_changes_newest_first() -> None:
    loop = Loop(downscale_to_zero_delay_s=0, stable_window_s=6, panic_window_s=1)
    assert loop.autoscaler.outlook(ID) is None
    loop.add()
    for _ in range(8):
        loop.scale_target.set(queued=0, running=0, idle_since=loop.clock.now)
        loop.pass_time(20)
        loop.scale_target.set(running=1, idle_since=None)
        loop.autoscaler._guarded(loop.autoscaler._entries[ID], loop.clock.now)
    outlook = loop.autoscaler.outlook(ID)
    assert outlook is not None
    assert outlook.explanation is not None
    assert len(outlook.changes) == 10
    assert [decision.wanted for decision, _ in outlook.changes[:4]] == [1, 0, 1, 0]
    assert all(why for _, why in outlook.changes)


def test_what_was_learnt_of_idle_times_outlives_a_version() -> None:
    loop = Loop(keep_alive="learnt")
    loop.add()
    times = loop.autoscaler._entries[ID].state.idle
    times.observe(30.0)
    newer = FunctionId("p", "f", 2)
    loop.add(newer)
    loop.autoscaler.gone(ID)
    assert loop.autoscaler._entries[newer].state.idle is times
    loop.autoscaler.gone(newer)
    loop.autoscaler.called(newer)
    loop.add()
    assert loop.autoscaler._entries[ID].state.idle is times


def test_a_function_that_was_restarted_keeps_its_history() -> None:
    loop = Loop()
    loop.add()
    loop.scale_target.set(running=20, idle_since=None)
    loop.pass_time(1)
    loop.add()
    assert len(loop.autoscaler) == 1
    assert loop.autoscaler.outlook(ID).changes  # type: ignore[union-attr]


def test_a_function_that_nobody_calls_follows_a_wall_clock_that_is_set() -> None:
    window = {"cron": "0 8 * * *", "duration_s": 3600, "min_replicas": 3}
    loop = Loop(autoscaling={"schedule": [window], "downscale_to_zero_delay_s": 1, "downscale_delay_s": 0})
    loop.clock.now = 86_400.0 * 10 + 3 * 3600  # 03:00
    loop.add()
    loop.pass_time(5)
    assert loop.wanted == 0
    loop.clock.set_by = 5.5 * 3600  # suspended until 08:30, while the monotonic clock stood still
    loop.pass_time(1)
    assert loop.wanted == 3
    loop.clock.set_by = 0.0
    loop.pass_time(5)
    assert loop.wanted == 0


def test_a_stored_schedule_in_a_zone_that_is_not_known_here_leaves_the_rest_of_the_policy() -> None:
    loop = Loop()
    zone = Schedule(cron="0 8 * * *", duration_s=5, min_replicas=1, timezone="Mars/Olympus")
    loop.policy = AutoscalingPolicy(min_replicas=2, schedule=(zone,))
    loop.add()
    loop.pass_time(1)
    assert loop.wanted == 2


def test_a_stored_schedule_that_never_comes_true_leaves_the_rest_of_the_policy() -> None:
    never = {"cron": "0 0 30 2 *", "duration_s": 5, "min_replicas": 1}
    loop = Loop(autoscaling={"min_replicas": 2, "schedule": [never]})
    loop.add()
    loop.pass_time(1)
    assert loop.wanted == 2


# Ten thousand functions


def many(count: int, busy: int) -> Loop:
    loop = Loop()
    for n in range(count):
        id = FunctionId("p", f"f{n}", 1)
        loop.add(id)
        if n < busy:
            loop.scale_target.set(id, queued=1, running=1, idle_since=None, service=Service(0.01, 0.001, 8), arrivals=5)
    loop.pass_time(1)
    return loop


def test_idle_functions_cost_nothing_per_round() -> None:
    loop = many(10_000, 0)
    asked = loop.scale_target.asked
    loop.pass_time(10)
    assert loop.scale_target.asked == asked


def test_ten_thousand_functions_with_load_are_decided_on_in_one_round_by_few_calls_each() -> None:
    """Calls of Python functions are counted, which do not depend on the machine; `python -m tests.benchmarks.deciding`
    measures their time."""
    loop = many(10_000, 10_000)
    loop.clock.now += 0.5
    asked, calls = loop.scale_target.asked, 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        loop.autoscaler.tick()
    finally:
        sys.setprofile(before)
    assert loop.autoscaler.active == 10_000
    assert loop.scale_target.asked - asked == 10_000
    assert calls < 18 * 10_000


def test_a_round_is_cut_into_slices_and_everybody_has_a_turn() -> None:
    loop = many(2 * SLICE + 50, 2 * SLICE + 50)
    asked = loop.scale_target.asked
    loop.clock.now += 0.5
    turns = []
    for _ in loop.autoscaler.round():
        turns.append(loop.scale_target.asked - asked)
        asked = loop.scale_target.asked
    assert turns == [SLICE, SLICE, 50]


def test_a_function_that_goes_while_a_round_pauses_is_not_looked_at() -> None:
    loop = many(SLICE + 1, SLICE + 1)
    loop.clock.now += 0.5
    last = FunctionId("p", f"f{SLICE}", 1)
    rounds = loop.autoscaler.round()
    next(rounds)
    loop.autoscaler.gone(last)
    asked = loop.scale_target.asked
    assert list(rounds)
    assert loop.scale_target.asked == asked


async def test_decisions_leave_most_of_the_loop_to_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a round takes as long as the period, the pause after it is three times as long."""
    loop = many(1, 1)
    pauses: list[float] = []
    real = loop.scale_target.sample

    def slow(id: FunctionId) -> Sample | None:
        loop.clock.now += 0.5
        return real(id)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            raise asyncio.CancelledError

    loop.scale_target.sample = slow  # type: ignore[method-assign]
    monkeypatch.setattr("clipper_platform.control.scaling.autoscaler.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await loop.autoscaler.run()
    assert pauses == [0.5, 0, 1.5, 0, 1.5]


def test_what_is_to_be_looked_at_later_does_not_pile_up() -> None:
    loop = Loop()
    loop.add()
    for _ in range(2000):
        loop.scale_target.set(failed=True)
        loop.autoscaler.called(ID)
        loop.clock.now += 0.001
    assert len(loop.autoscaler._later) <= SLICE + 10


# On a real data plane


async def test_an_idle_function_costs_less_than_ten_kilobytes_in_all() -> None:
    """Its spec, its queue and replica set, its series, its route, and what the autoscaler knows of it."""
    async with harness(InMemoryBackend()) as h:
        autoscaler = Autoscaler(h.scaled, clock=h.clock, events=lambda *_: None, count=lambda *_: None)

        async def add(n: int) -> None:
            decision = target(project=f"p{n}")
            await h.replica_sets.start(decision, replicas=0, wait=False, idle_s=300.0)
            h.dispatcher.set_route(decision.id.project, 1)
            autoscaler.appeared(decision.id, decision.spec)
            autoscaler.tick()

        await add(0)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for n in range(1, 501):
                await add(n)
            each = (tracemalloc.get_traced_memory()[0] - before) / 500
        finally:
            tracemalloc.stop()
        assert autoscaler.active == 0
        assert each < 10_000


async def test_a_function_goes_to_zero_and_a_call_brings_it_back() -> None:
    async with harness(InMemoryBackend()) as h:
        autoscaler = Autoscaler(
            h.scaled, clock=h.clock, events=lambda *_: None, count=lambda *_: None,
        )  # fmt: skip
        h.replica_sets.on_running = lambda decision, runs: (
            autoscaler.appeared(decision.id, decision.spec) if runs else autoscaler.gone(decision.id)
        )
        decision = await h.deploy(target(downscale_to_zero_delay_s=0))
        assert len(autoscaler) == 1
        autoscaler.tick()
        sample = h.scaled.sampler(decision.id)(h.clock.monotonic())
        assert sample is not None
        assert (sample.wanted, sample.queued) == (0, 0)
        callers = [h.call() for _ in range(20)]
        assert h.scaled.sampler(decision.id)(h.clock.monotonic()).wanted == 1  # type: ignore[union-attr]
        for caller in callers:
            assert (await caller.wait()).code == "ok"
        after = h.scaled.sampler(decision.id)(h.clock.monotonic())
        assert after is not None
        assert (after.arrivals, after.queued, after.running) == (20, 0, 0)
        assert after.idle_since is not None
        assert after.service is not None
        await h.replica_sets.stop("p", 1)
        assert len(autoscaler) == 0
        assert h.scaled.sampler(decision.id)(h.clock.monotonic()) is None
        h.replica_sets.scale(decision.id, 3)
        h.scaled.on_call(decision.id, autoscaler.called)


async def test_nobody_scales_a_function_while_its_first_replicas_are_waited_for() -> None:
    async with harness(InMemoryBackend()) as h:
        decision = target()
        starting = asyncio.create_task(h.replica_sets.start(decision, replicas=1))
        await asyncio.sleep(0)
        assert h.scaled.sampler(decision.id)(h.clock.monotonic()) is None
        await starting
        assert h.scaled.sampler(decision.id)(h.clock.monotonic()) is not None
