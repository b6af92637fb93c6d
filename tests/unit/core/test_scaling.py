"""Scaling decisions, case by case: each step, each rule, and their explanations."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from clipper_platform.core.averages import SlidingAverages, SlidingMax
from clipper_platform.core.explaining import explain
from clipper_platform.core.keepalive import IdleTimes, IdleWatch
from clipper_platform.core.scaling import (
    Decision,
    NoData,
    Policy,
    Sample,
    State,
    decide,
)
from clipper_platform.core.schedule import Bounds, Window, bounds
from clipper_platform.core.service import Service, capacity, latency_capacity

NOW = 1000.0
POLICY = Policy(max_replicas=100)
ONE_SECOND = Service(1.0, 0.0)


def sample(queued: int = 0, running: int = 0, wanted: int = 1, **changes: Any) -> Sample:
    values: dict[str, Any] = {"ready": wanted, "idle_since": None if queued or running else NOW}
    return Sample(queued, running, wanted, **{**values, **changes})


class History:
    """The state from one decision to the next."""

    def __init__(self, policy: Policy, wanted: int, now: float, idle: IdleTimes | None = None) -> None:
        self.state = State.initial(policy, wanted, now, idle)


def decided(what: Sample, policy: Policy = POLICY, history: History | None = None, now: float = NOW) -> Decision:
    history = history or History(policy, what.wanted, now)
    decision, history.state = decide(what, policy, history.state, now)
    assert isinstance(decision, Decision)
    return decision


def lasting(seconds: float, what: Sample, policy: Policy = POLICY, history: History | None = None) -> list[Decision]:
    """Decisions every half second while the same is so, each carried out at once."""
    history = history or History(policy, what.wanted, NOW)
    decisions = []
    for half in range(int(seconds * 2) + 1):
        decision = decided(what, policy, history, NOW + half / 2)
        decisions.append(decision)
        what = what._replace(wanted=decision.wanted, ready=decision.wanted)
    return decisions


# Averages


class Averages:
    """The averages from one observation to the next."""

    def __init__(self, stable_s: float, panic_s: float) -> None:
        self.now = SlidingAverages.over(stable_s, panic_s)

    def observe(self, load: float, rate: float, now: float) -> tuple[float, ...]:
        *averages, self.now = self.now.observe(load, rate, now)
        return tuple(averages)

    def presume(self, rate: float) -> None:
        self.now = self.now.presume(rate)


class Highest:
    """The highest value from one observation to the next."""

    def __init__(self, span_s: float, value: float) -> None:
        self.now = SlidingMax(span_s, 0.0, value)

    def observe(self, value: float, now: float) -> float:
        highest, self.now = self.now.observe(value, now)
        return highest


def averaged(averages: Averages, level: float, now: float) -> tuple[float, float]:
    """Over both windows, of a load; a rate that is ten times as high must give ten times as much."""
    stable, panic, rate_stable, rate_panic = averages.observe(level, 10 * level, now)
    assert (rate_stable, rate_panic) == (pytest.approx(10 * stable), pytest.approx(10 * panic))
    return stable, panic


def test_the_first_level_is_the_average() -> None:
    assert averaged(Averages(60, 6), 5.0, 123.4) == (5.0, 5.0)


def test_an_average_follows_its_window() -> None:
    averages = Averages(60, 6)
    for second in range(60):
        averaged(averages, 0.0, second)
    for second in range(60, 66):
        stable, panic = averaged(averages, 10.0, second)
    assert panic == pytest.approx(10.0)
    assert stable == pytest.approx(1.0)
    for second in range(66, 120):
        stable, panic = averaged(averages, 10.0, second)
    assert (stable, panic) == (pytest.approx(10.0), pytest.approx(10.0))


def test_a_level_stays_what_it_was_between_observations() -> None:
    averages = Averages(60, 6)
    averaged(averages, 4.0, 0.0)
    stable, panic = averaged(averages, 0.0, 30.0)
    assert panic == pytest.approx(4.0 * 5 / 6)
    assert stable == pytest.approx(4.0 * 30 / 31)
    assert averaged(averages, 0.0, 10_000.0) == (0.0, 0.0)


def test_an_average_of_nothing_is_exactly_nothing() -> None:
    averages = Averages(60, 6)
    for second in range(200):
        averaged(averages, 0.1 * (second % 7), second)
    for second in range(200, 400):
        averaged(averages, 0.0, second)
    assert averaged(averages, 0.0, 400.0) == (0.0, 0.0)


def test_a_rate_without_a_load_and_a_load_without_a_rate_are_kept_apart() -> None:
    averages = Averages(60, 6)
    for second in range(30):
        averages.observe(0.0, 0.0, second)
    for second in range(30, 36):
        averages.observe(3.0, 0.0, second)
    assert averages.observe(0.0, 0.0, 36) == (pytest.approx(18 / 37), pytest.approx(2.5), 0.0, 0.0)
    assert averages.observe(0.0, 8.0, 37) == (pytest.approx(18 / 38), 2.0, pytest.approx(8 / 38), pytest.approx(8 / 6))


def test_a_rate_that_is_known_late_counts_as_if_it_had_been_all_along() -> None:
    for bucket in range(10):
        averages = Averages(60, 6)
        for second in range(bucket + 1):
            averages.observe(4.0, 0.0, second)
            averages.observe(2.0, 0.0, second + 0.5)
        averages.presume(7.0)
        stable, panic, *rates = averages.observe(3.0, 7.0, bucket + 0.9)
        assert (stable, panic, *rates) == (pytest.approx(3.0), pytest.approx(3.0), 7.0, 7.0)
        for second in range(bucket + 1, bucket + 200):
            rates = list(averages.observe(0.0, 7.0, second)[2:])
        assert rates == [pytest.approx(7.0)] * 2


def test_several_levels_of_one_moment_count_alike_and_time_may_stand_still() -> None:
    averages = Averages(60, 60)
    averaged(averages, 2.0, 5.0)
    averaged(averages, 4.0, 5.5)
    assert averaged(averages, 6.0, 4.0) == (4.0, 4.0)


def test_the_highest_value_is_remembered_for_its_span() -> None:
    highest = Highest(10.0, 3.0)
    assert highest.observe(8.0, 1.0) == 8.0
    assert [highest.observe(2.0, float(t)) for t in (2, 5, 10)] == [8.0, 8.0, 8.0]
    assert highest.observe(2.0, 11.0) == 2.0
    assert highest.observe(1.0, 11.1) == 2.0
    assert highest.observe(1.0, 40.0) == 1.0


def test_without_a_span_only_the_present_counts() -> None:
    highest = Highest(0.0, 9.0)
    assert highest.observe(1.0, 0.0) == 1.0
    assert highest.observe(2.0, 1.0) == 2.0


def test_the_highest_value_costs_few_entries_whatever_is_seen() -> None:
    highest = Highest(1000.0, 0.0)
    for step in range(100_000):
        highest.observe(100_000 - step, step / 100)
    assert len(highest.now.higher) <= 33


# Bounds


def test_open_windows_replace_the_bounds() -> None:
    morning = Window(100, 200, 2, None, "morning")
    noon = Window(150, 180, 5, 20, "noon")
    assert bounds(0, 8, (), 0) == Bounds(0, 8)
    assert bounds(0, 8, (morning, noon), 50) == Bounds(0, 8, 100)
    assert bounds(0, 8, (morning, noon), 100) == Bounds(2, 8, 150, ("morning",))
    assert bounds(0, 8, (morning, noon), 160) == Bounds(5, 20, 180, ("morning", "noon"))
    assert bounds(0, 8, (morning, noon), 200) == Bounds(0, 8, math.inf)


def test_a_window_s_minimum_never_exceeds_its_maximum() -> None:
    assert bounds(0, 8, (Window(0, 10, 9, 3, "odd"),), 5)[:2] == (3, 3)


# Demand


@pytest.mark.parametrize(
    ("queued", "running", "wanted"), [(0, 1, 1), (0, 4, 1), (1, 4, 2), (4, 4, 2), (12, 8, 5), (400, 8, 100)]
)
def test_replicas_follow_the_queue_depth(queued: int, running: int, wanted: int) -> None:
    assert decided(sample(queued, running)).wanted == wanted


def test_ongoing_requests_leave_out_what_waits_while_replicas_have_room() -> None:
    policy = Policy(target_ongoing_requests=2, max_replicas=100)
    assert decided(sample(10, 3, wanted=2), policy).wanted == 2
    assert decided(sample(10, 4, wanted=2), policy).wanted == 7
    assert decided(sample(10, 4, wanted=2), policy).rule == "ongoing_requests"


def test_a_demand_within_the_tolerance_changes_nothing() -> None:
    calm = Policy(max_replicas=100, panic_threshold=1000)
    assert [decided(sample(running=n, wanted=5), calm).demanded for n in (14, 15, 20, 22, 23)] == [4, 5, 5, 5, 6]


def test_a_burst_asks_at_once_and_holds_for_the_stable_window() -> None:
    policy = Policy(max_replicas=100, upscale_delay_s=60)
    state = History(policy, 1, NOW)
    for second in range(60):
        decided(sample(running=1), policy, state, NOW + second)
    decision = decided(sample(200, 1), policy, state, NOW + 60)
    assert (decision.rule, decision.panic) == ("panic", True)
    assert decision.wanted == math.ceil((200 + 1 + 5) / 6 / 4)
    decided(sample(wanted=9, idle_since=NOW + 61), policy, state, NOW + 61)
    after = decided(sample(wanted=9, idle_since=NOW + 61), policy, state, NOW + 100)
    assert (after.wanted, after.rule) == (9, "panic")
    over = decided(sample(wanted=9, idle_since=NOW + 61), policy, state, NOW + 121)
    assert not over.panic


def test_the_service_time_says_how_few_can_carry_the_load() -> None:
    """50 arrivals a second of 0.1 s each: 5 replicas' worth, at 80% 6.25; the queue alone asks for 2."""
    policy = Policy(max_replicas=100)
    state = History(policy, 7, NOW)
    decision = None
    for half in range(20):
        what = sample(running=5, wanted=7, arrivals=25 * half, service=Service(0.0, 0.1))
        decision = decided(what, policy, state, NOW + half / 2)
    assert decision is not None
    assert decision.need == pytest.approx(6.25)
    assert (decision.wanted, decision.rule) == (7, "capacity")


def test_a_deep_batch_queue_asks_for_nothing_while_the_objective_is_kept() -> None:
    """64 in one batch of 60 ms, 600 a second: one replica carries 853 a second within 200 ms."""
    policy = Policy(max_replicas=100, latency_slo_s=0.2)
    service = Service(0.02, 0.000625, 64)
    decisions = []
    state = History(policy, 1, NOW)
    for half in range(20):
        what = sample(30, 64, arrivals=300 * half, service=service)
        decisions.append(decided(what, policy, state, NOW + half / 2))
    assert {(d.wanted, d.rule) for d in decisions} == {(1, "latency")}


def test_a_missed_objective_lets_the_queue_speak_again() -> None:
    policy = Policy(max_replicas=100, latency_slo_s=0.2)
    missed = sample(30, 64, service=Service(0.02, 0.000625, 64), late=True)
    assert decided(missed, policy).need == 94 / 4
    assert decided(missed, policy).rule == "queue_depth"
    policy = Policy(max_replicas=1000, latency_slo_s=0.2)
    state = History(policy, 1, NOW)
    decided(sample(1, 1, service=ONE_SECOND, late=True), policy, state, NOW)
    late = decided(sample(1, 1, arrivals=100, service=ONE_SECOND, late=True), policy, state, NOW + 1)
    assert late.rule == "latency"
    assert late.need > 2 / 4


def test_a_backlog_is_worked_off_inside_the_objective() -> None:
    policy = Policy(max_replicas=100, latency_slo_s=0.5)
    decision = decided(sample(50, 1, service=Service(0.0, 0.1)), policy)
    assert decision.need_panic == pytest.approx(50 / (10 * 0.5))
    assert (decision.wanted, decision.rule) == (10, "panic")


def test_the_capacity_of_a_replica() -> None:
    assert capacity(Service(0.1, 0.01, 10)) == pytest.approx(10 / 0.2)
    assert capacity(Service(0.1, 0.0, 1, 4)) == pytest.approx(40)
    assert capacity(Service(0.0, 0.0)) == math.inf


def test_the_capacity_within_an_objective() -> None:
    batch = Service(0.02, 0.001, 64)
    assert latency_capacity(batch, 0.1) == pytest.approx(0.8 * 30 / 0.05)  # (0.05 − 0.02) / 0.001 = 30 fit
    assert latency_capacity(batch, 10) == pytest.approx(0.8 * capacity(batch))
    assert latency_capacity(batch, 0.03) == pytest.approx(0.8 * capacity(batch))  # cannot be kept
    assert latency_capacity(Service(0.02, 0.0, 8), 1) == pytest.approx(0.8 * 8 / 0.02)
    assert latency_capacity(Service(0.02, 0.0, 8), 0.01) == pytest.approx(0.8 * 8 / 0.02)
    assert latency_capacity(Service(0.1, 0.0), 0.05) == pytest.approx(8)  # cannot be kept
    assert latency_capacity(Service(0.0, 0.0), 0.05) == math.inf
    tight, wide = latency_capacity(Service(0.1, 0.0), 0.15), latency_capacity(Service(0.1, 0.0), 5)
    assert 0 < tight < wide == pytest.approx(8)


def test_arrivals_of_less_than_a_moment_are_no_rate() -> None:
    state = History(POLICY, 1, NOW)
    decided(sample(1, arrivals=1, service=ONE_SECOND), POLICY, state, NOW)
    assert decided(sample(1, arrivals=100, service=ONE_SECOND), POLICY, state, NOW + 0.1).rate_per_s == 0.0
    assert decided(sample(1, arrivals=100, service=ONE_SECOND), POLICY, state, NOW + 1).rate_per_s == 100.0


# To zero and back


def test_a_first_call_starts_a_replica_at_once() -> None:
    decision = decided(sample(1, wanted=0), Policy(upscale_delay_s=60))
    assert (decision.wanted, decision.rule, decision.next_at) == (1, "cold_start", NOW)


def test_calls_that_come_together_start_as_many_as_they_need() -> None:
    policy = Policy(max_replicas=100)
    state = History(policy, 0, NOW)
    for second in range(60):
        decided(sample(wanted=0, idle_since=NOW - 500), policy, state, NOW + second)
    assert decided(sample(500, wanted=0), policy, state, NOW + 60).wanted == 100


@pytest.mark.parametrize(("ready", "wanted"), [(0, 1), (1, 0)])
def test_a_replica_that_was_started_for_a_call_may_become_ready_though_the_call_is_over(
    ready: int, wanted: int
) -> None:
    policy = replace(POLICY, downscale_to_zero_delay_s=0.0, downscale_delay_s=0.0)
    idle = sample(wanted=1, ready=ready, starting=1 - ready, idle_since=NOW - 1.0)
    decision = decided(idle, policy)
    assert decision.wanted == wanted
    assert NOW < decision.next_at < math.inf or ready


@pytest.mark.parametrize(("start_s", "stays_s"), [(2.0, 10.0), (60.0, 120.0)])
def test_a_replica_whose_start_no_caller_waited_for_stays_until_the_next_call_had_time_to_come(
    start_s: float, stays_s: float
) -> None:
    policy = replace(POLICY, downscale_to_zero_delay_s=0.0, downscale_delay_s=0.0)
    slow = partial(sample, wanted=1, ready=1, idle_since=NOW, missed_start_s=start_s)
    kept = decided(slow(), policy, now=NOW + stays_s - 1)
    assert (kept.wanted, kept.rule, kept.next_at) == (1, "slow_start", NOW + stays_s)
    assert "callers did not wait" in explain(kept, policy).why
    assert "timeout_s" in explain(kept, policy).change[0]
    gone = decided(slow(), policy, now=NOW + stays_s)
    assert (gone.wanted, gone.rule) == (0, "scale_to_zero")
    assert decided(slow(wanted=0, ready=0), policy, now=NOW + 1).wanted == 0, "it starts none without a call"


def test_the_last_replica_goes_after_its_own_delay() -> None:
    policy = Policy(downscale_delay_s=1000, downscale_to_zero_delay_s=300)
    kept = decided(sample(idle_since=NOW - 299), policy)
    assert (kept.wanted, kept.rule, kept.next_at) == (1, "keep_alive", NOW + 1)
    gone = decided(sample(idle_since=NOW - 300), policy)
    assert (gone.wanted, gone.rule, gone.next_at) == (0, "scale_to_zero", math.inf)


def test_an_idle_function_at_its_floor_need_not_be_looked_at_again() -> None:
    assert decided(sample(wanted=0, idle_since=0.0)).next_at == math.inf
    floor = decided(sample(wanted=2, idle_since=0.0), Policy(min_replicas=2))
    assert (floor.wanted, floor.rule, floor.next_at) == (2, "min_replicas", math.inf)
    window = Window(NOW + 50, NOW + 60, 1, None, "w")
    assert decided(sample(wanted=0, idle_since=0.0), Policy(windows=(window,))).next_at == NOW + 50


def test_a_failed_or_absent_function_gives_no_data() -> None:
    state = History(POLICY, 1, NOW)
    assert decide(None, POLICY, state, NOW) == (NoData("the function is not running"), state)
    decision, _ = decide(sample(5, failed=True), POLICY, state, NOW)
    assert isinstance(decision, NoData)


def test_buffer_replicas_come_on_top_while_there_is_demand() -> None:
    policy = Policy(buffer_replicas=2)
    assert decided(sample(running=4), policy).wanted == 3
    assert decided(sample(wanted=3, idle_since=NOW), policy).wanted == 3
    assert decided(sample(wanted=0, idle_since=0.0), policy).wanted == 0
    assert decided(sample(running=4, wanted=3), policy).demanded == 3


# Keep-alive


def learnt(*idle_s: float) -> IdleTimes:
    times = IdleTimes()
    for value in idle_s:
        times.observe(value)
    return times


def test_too_few_idle_times_or_too_long_ones_say_nothing() -> None:
    assert learnt(*[10] * 9).learnt() is None
    assert learnt(*[0.5] * 50).learnt() is None
    assert learnt(*[20_000] * 10, *[10] * 10).learnt() is None
    assert learnt(*[20_000] * 4, *[10] * 10).learnt() is not None


def test_short_idle_times_keep_the_replica_until_their_tail() -> None:
    kept = learnt(*range(1, 31)).learnt()
    assert kept is not None
    assert kept.from_s == 0
    assert 30 <= kept.until_s <= 30 * 1.17 * 1.1


def test_regular_long_idle_times_are_predicted() -> None:
    kept = learnt(*[600] * 20).learnt()
    assert kept is not None
    assert 600 / 1.17 * 0.9 <= kept.from_s <= 600 * 0.9
    assert 600 * 1.1 <= kept.until_s <= 600 * 1.17 * 1.1


def test_idle_times_are_the_same_after_they_were_stored() -> None:
    times = learnt(*range(1, 31), *[20_000] * 5)
    again = IdleTimes.restored(times.stored())
    assert (again.total, again.learnt()) == (times.total, times.learnt())
    assert len(times.stored()) == 130


@pytest.mark.parametrize("stored", [b"", b"1" * 129, b"\xff" * 130])
def test_what_was_never_stored_is_refused(stored: bytes) -> None:
    with pytest.raises(ValueError, match="idle times"):
        IdleTimes.restored(stored)


def test_old_idle_times_fade() -> None:
    times = learnt(*[10] * 999)
    assert times.total == 999
    for _ in range(2000):
        times.observe(1000)
    kept = times.learnt()
    assert times.total < 1000
    assert kept is not None
    assert kept.until_s > 1000


def test_a_predicted_function_goes_early_and_returns_before_the_call() -> None:
    policy = Policy(keep_alive="learnt", downscale_delay_s=30, downscale_to_zero_delay_s=300)
    state = History(policy, 1, NOW, learnt(*[600] * 20))

    def at(idle_s: float, wanted: int) -> Decision:
        return decided(sample(wanted=wanted, idle_since=NOW), policy, state, NOW + idle_s)

    kept = at(10, 1)
    assert (kept.rule, kept.next_at) == ("keep_alive", NOW + 30)
    away = at(40, 1)
    assert (away.wanted, away.rule) == (0, "scale_to_zero")
    assert 450 < away.next_at - NOW < 550
    back = at(away.next_at - NOW, 0)
    assert (back.wanted, back.rule) == (1, "prewarm")
    late = at(back.next_at - NOW, 1)
    assert (late.wanted, late.rule, late.next_at) == (0, "scale_to_zero", math.inf)


def test_short_learnt_times_keep_the_replica_without_a_pause() -> None:
    policy = Policy(keep_alive="learnt", downscale_to_zero_delay_s=300)
    decision = decided(sample(idle_since=NOW - 5), policy, History(policy, 1, NOW, learnt(*[10] * 20)))
    assert decision.rule == "keep_alive"
    assert decision.next_at < NOW + 10


def test_idle_times_are_learnt_from_what_is_seen() -> None:
    times = IdleTimes()
    watch = IdleWatch(times)
    watch.observe(NOW, 0, NOW)
    watch.observe(None, 1, NOW + 20)  # the time before the first call is no idle time
    assert times.total == 0
    watch.observe(NOW + 21, 1, NOW + 21)
    watch.observe(NOW + 21, 1, NOW + 30)
    watch.observe(None, 2, NOW + 51)
    assert times.total == 1
    watch.observe(NOW + 52, 2, NOW + 52)
    watch.observe(NOW + 92, 3, NOW + 93)  # a call between two looks
    assert times.total == 2


# Rate limits and delays


def test_one_decision_multiplies_the_ready_replicas_at_most() -> None:
    policy = Policy(max_replicas=100, max_scale_up_rate=3)
    decision = decided(sample(400, wanted=2), policy)
    assert (decision.demanded, decision.wanted, decision.rule) == (100, 6, "rate_limit")
    waiting = decided(sample(400, wanted=6, ready=2), policy)
    assert waiting.wanted == 6


def test_one_decision_divides_the_wanted_replicas_at_most() -> None:
    policy = Policy(max_replicas=100, downscale_delay_s=0)
    decision = decided(sample(running=1, wanted=9), policy)
    assert (decision.demanded, decision.wanted, decision.rule) == (1, 4, "rate_limit")


def test_more_replicas_are_added_only_after_the_upscale_delay() -> None:
    policy = Policy(max_replicas=100, upscale_delay_s=10)
    decisions = lasting(12, sample(running=7), policy)
    assert {(d.wanted, d.rule) for d in decisions[:20]} == {(1, "upscale_delay")}
    assert decisions[-1].wanted == 2


def test_a_demand_that_was_lower_in_between_has_not_lasted() -> None:
    policy = Policy(max_replicas=100, upscale_delay_s=10, stable_window_s=1, panic_window_s=1)
    state = History(policy, 1, NOW)
    for second in range(30):
        decision = decided(sample(running=1 if second % 8 == 0 else 7), policy, state, NOW + second)
        assert decision.wanted == 1


def test_replicas_are_taken_away_only_after_the_downscale_delay() -> None:
    policy = Policy(max_replicas=100, downscale_delay_s=30)
    decisions = lasting(40, sample(running=3, wanted=2), policy)
    assert {(d.wanted, d.rule) for d in decisions[:60]} == {(2, "downscale_delay")}
    assert decisions[-1].wanted == 1


def test_bounds_hold_against_every_delay() -> None:
    closing = Policy(max_replicas=3, downscale_delay_s=1000)
    assert decided(sample(running=90, wanted=8), closing).wanted == 3
    opening = Policy(min_replicas=5, upscale_delay_s=1000)
    assert decided(sample(idle_since=NOW), opening).wanted == 5


def test_an_open_window_has_the_last_word() -> None:
    window = Window(NOW - 10, NOW + 10, 4, 5, "0 8 * * 1-5 UTC")
    policy = Policy(windows=(window,))
    low, high = decided(sample(idle_since=0.0), policy), decided(sample(100, wanted=4), policy)
    assert (low.wanted, low.rule, low.next_at) == (4, "schedule", NOW + 10)
    assert (high.wanted, high.rule) == (5, "schedule")


# Words


def words(decision: Decision, policy: Policy = POLICY) -> str:
    explanation = explain(decision, policy)
    return " | ".join([explanation.why, *explanation.steps, *explanation.change])


def test_every_rule_is_explained() -> None:
    assert "4 per replica" in words(decided(sample(4, 4)))
    ongoing = Policy(target_ongoing_requests=2, max_replicas=9)
    assert "target_ongoing_requests" in words(decided(sample(running=4, wanted=2), ongoing), ongoing)
    state = History(POLICY, 1, NOW - 60)
    decided(sample(), POLICY, state, NOW - 60)
    decided(sample(), POLICY, state, NOW - 1)
    assert "a burst: the last 6 s" in words(decided(sample(4, 200), POLICY, state))
    assert "1 invocation came" in words(decided(sample(1, wanted=0)))
    assert "3 invocations came" in words(decided(sample(3, wanted=0)))
    assert "kept for the next call" in words(decided(sample(idle_since=NOW - 5)))
    assert "longer than" in words(decided(sample(idle_since=0.0)))
    slow = Policy(max_replicas=100, max_scale_up_rate=2)
    assert "max_scale_up_rate = 2" in words(decided(sample(400), slow), slow)
    capped = Policy(max_replicas=2)
    assert "raise max_replicas above 2" in words(decided(sample(400), capped), capped)
    floor = Policy(min_replicas=2)
    assert "lower min_replicas below 2" in words(decided(sample(wanted=2, idle_since=0.0), floor), floor)
    held = Policy(max_replicas=9, upscale_delay_s=9)
    assert "upscale_delay_s = 9" in words(decided(sample(running=7), held), held)
    assert "downscale_delay_s = 30" in words(decided(sample(running=1, wanted=2)))
    open_now = Policy(windows=(Window(0, NOW + 5, 3, 4, "noon"),))
    assert "noon asks for 3 to 4" in words(decided(sample(idle_since=0.0), open_now), open_now)
    buffered = Policy(buffer_replicas=1)
    assert "1 of them buffer_replicas" in words(decided(sample(running=1), buffered), buffered)


def test_a_prediction_and_the_service_time_are_explained() -> None:
    policy = Policy(keep_alive="learnt")
    back = decided(sample(wanted=0, idle_since=NOW - 590), policy, History(policy, 0, NOW, learnt(*[600] * 20)))
    assert "the next call is expected" in words(back, policy)
    for slo_s, expected in ((None, "at 80%"), (5.0, "within latency_slo_s = 5")):
        policy = Policy(max_replicas=100, latency_slo_s=slo_s)
        state = History(policy, 3, NOW)
        for half in range(20):
            what = sample(running=2, wanted=3, arrivals=half, service=ONE_SECOND)
            decision = decided(what, policy, state, NOW + half / 2)
        assert expected in words(decision, policy)
        assert "arrivals per second" in words(decision, policy)


def test_a_number_that_the_tolerance_keeps_is_explained_by_it() -> None:
    policy = Policy(max_replicas=100, panic_threshold=1000, downscale_delay_s=0)
    for running, wanted, worth in ((27, 8, "6.75"), (30, 7, "7.5")):
        why = explain(decided(sample(running=running, wanted=wanted), policy), policy).why
        assert why.endswith(f"{worth} replicas' worth, near enough to the {wanted} that there are")
    assert explain(decided(sample(running=26, wanted=7), policy), policy).why.endswith("6.5 replicas' worth")


def test_what_rounding_leaves_of_a_load_is_nothing() -> None:
    decision = decided(sample(running=1, wanted=1))._replace(load_stable=4e-15, need=4e-15, need_panic=4e-15)
    explanation = explain(decision, POLICY)
    assert explanation.why.startswith("0 queued and running")
    assert explanation.why.endswith(": 0 replicas' worth")
    assert explanation.steps[0] == "demand 1 (stable 0, panic 0)"


def test_what_would_change_the_number_is_true() -> None:
    policy = Policy(max_replicas=100, panic_threshold=1000)
    decision = decided(sample(running=20, wanted=5), policy)
    changes = explain(decision, policy).change
    assert changes == ("more replicas: above 22 queued and running", "fewer: below 14.4 queued and running for 30 s")
    assert decided(sample(running=23, wanted=5), policy).wanted > 5
    assert decided(sample(running=14, wanted=5), policy).demanded < 5


def test_more_replicas_than_cores_are_remarked_on() -> None:
    decision = decided(sample(queued=40, running=2), replace(POLICY, max_replicas=3))
    assert decision.wanted == 3
    assert explain(decision, POLICY, 2).change[-1].startswith("3 replicas share 2 cores: right for")
    assert explain(decision, POLICY, 1).change[-1].startswith("3 replicas share 1 core:")
    for cores in (None, 3, 64):
        assert not [change for change in explain(decision, POLICY, cores).change if "share" in change]


def test_the_next_look_is_told_where_there_is_one() -> None:
    assert "the next look is in 295 s" in words(decided(sample(idle_since=NOW - 5)))
