from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial

import pytest

from clipper.contract.spec import BatchPolicy
from clipper_platform.core.batching import (
    BUDGET_FRACTION,
    MOMENT_S,
    NEVER,
    Aimd,
    Dispatch,
    LatencyModel,
    Policy,
    SizeController,
    WaitUntil,
    make_controller,
    overdue_at,
    plan,
)
from clipper_platform.core.fitting import DurationFit
from tests.support.batch_simulation import (
    CAP,
    MAIN,
    PaperAimd,
    linear,
    noisy,
    poisson,
    settled_at,
    simulate,
    slope_slows,
)

POLICY = Policy(max_batch_size=64, limit=8, lead_s=0.001)
WAITING = Policy(max_batch_size=64, limit=8, wait_timeout_s=0.005, lead_s=0.001)
ADAPTIVE: list[BatchPolicy] = ["aimd", "latency_model"]


# plan -----------------------------------------------------------------------------------------------------------------


def test_an_idle_replica_gets_what_waits_at_once() -> None:
    assert plan(3, 9.9, POLICY, 10.0) == Dispatch(3, full=False)


def test_a_batch_is_never_larger_than_the_limit_nor_than_the_hard_cap() -> None:
    assert plan(100, 9.9, POLICY, 10.0) == Dispatch(8, full=True)
    assert plan(100, 9.9, Policy(max_batch_size=4, limit=8), 10.0) == Dispatch(4, full=True)


def test_exactly_a_full_batch_is_full() -> None:
    assert plan(8, 9.9, WAITING, 9.9) == Dispatch(8, full=True)


def test_nothing_waits_means_wait_for_an_arrival() -> None:
    assert plan(0, math.inf, POLICY, 10.0) == NEVER


def test_the_oldest_item_decides_how_long_to_wait_for_company() -> None:
    assert plan(3, 10.0, WAITING, 10.001) == WaitUntil(10.005)
    assert plan(7, 10.0, WAITING, 10.005) == Dispatch(7, full=False)


def test_both_slots_taken_means_wait_for_a_reply() -> None:
    assert plan(100, 0.0, POLICY, 10.0, in_flight=2, running_since=9.0, expected_s=0.1) == NEVER


def test_a_full_batch_takes_the_second_slot_when_the_running_one_is_about_to_end() -> None:
    second = partial(plan, 8, 9.9, POLICY, in_flight=1, running_since=10.0, expected_s=0.020)
    assert second(10.001) == WaitUntil(10.0 + 0.020 - MOMENT_S)
    assert second(10.020) == Dispatch(8, full=True)


@pytest.mark.parametrize("pending", [3, 8])
def test_nothing_is_sent_behind_a_batch_that_takes_longer_than_expected(pending: int) -> None:
    second = partial(plan, pending, 9.9, POLICY, in_flight=1, running_since=10.0, expected_s=0.020)
    assert second(10.020 + 2 * MOMENT_S) == NEVER


@pytest.mark.parametrize(("expected_s", "at"), [(None, 10.0), (0.020, 10.020 + MOMENT_S)])
def test_a_batch_is_overdue_a_moment_after_its_expected_end(expected_s: float | None, at: float) -> None:
    assert overdue_at(10.0, expected_s) == pytest.approx(at)


def test_a_small_batch_takes_the_second_slot_just_before_the_running_one_ends() -> None:
    second = partial(plan, 3, 9.9, POLICY, in_flight=1, running_since=10.0, expected_s=0.020)
    step = second(10.001)
    assert isinstance(step, WaitUntil)
    assert step.t == pytest.approx(10.019)
    assert second(step.t) == Dispatch(3, full=False)


def test_a_small_batch_waits_for_the_reply_when_nobody_knows_how_long_the_running_one_takes() -> None:
    assert plan(3, 9.9, POLICY, 10.0, in_flight=1, running_since=10.0) == NEVER
    assert plan(3, 9.9, POLICY, 10.0, in_flight=1, expected_s=0.1) == NEVER


def test_the_second_slot_respects_the_wait_for_company_too() -> None:
    step = plan(3, 10.018, WAITING, 10.019, in_flight=1, running_since=10.0, expected_s=0.02)
    assert isinstance(step, WaitUntil)
    assert step.t == pytest.approx(10.023)


def test_depth_one_never_commits_a_second_batch() -> None:
    assert plan(100, 0.0, Policy(max_batch_size=64, limit=8, depth=1), 10.0, in_flight=1) == NEVER


@pytest.mark.parametrize(
    "wrong",
    [{"max_batch_size": 0}, {"limit": 0}, {"depth": 0}, {"wait_timeout_s": -1.0}, {"lead_s": math.nan}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_policy_that_cannot_be_is_refused_by_the_name_of_its_key(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Policy(**{"max_batch_size": 8, **wrong})  # type: ignore[arg-type]  # wrong on purpose


def test_a_policy_takes_over_a_new_limit_and_is_itself_with_the_old_one() -> None:
    assert POLICY.with_limit(8) is POLICY
    assert POLICY.with_limit(9) == Policy(max_batch_size=64, limit=9, lead_s=0.001)


# Controllers ----------------------------------------------------------------------------------------------------------


def feed(controller: SizeController, seconds: Callable[[float], float], batches: int) -> None:
    for _ in range(batches):
        controller.observe(controller.limit, seconds(controller.limit))


def test_aimd_grows_by_one_then_faster_and_stops_at_the_hard_cap() -> None:
    controller = Aimd(100, 0.009)
    limits = []
    for _ in range(40):
        limits.append(controller.limit)
        feed(controller, lambda n: 0.001, 1)
    assert limits[:9] == list(range(1, 10))
    assert limits[9] == 11
    assert limits[-1] == 100


def test_aimd_backs_off_by_ten_percent_and_then_grows_by_one_again() -> None:
    controller = Aimd(1000, 0.009)
    feed(controller, lambda n: 0.001, 40)
    before = controller.limit
    controller.observe(before, 0.010)
    assert controller.limit == int(before * 0.9)
    feed(controller, lambda n: 0.001, 1)
    assert controller.limit == int(before * 0.9) + 1


@pytest.mark.parametrize("policy", ADAPTIVE)
def test_small_batches_under_low_load_do_not_let_the_limit_grow_without_bound(policy: BatchPolicy) -> None:
    controller = make_controller(policy, CAP, 0.02)
    rng = random.Random(2)
    for _ in range(5000):
        controller.observe(rng.randint(1, 3), 0.0011)
    assert controller.limit <= 6


def test_a_batch_that_was_full_when_it_left_counts_though_the_limit_has_grown_since() -> None:
    controller = Aimd(64, 0.009)
    feed(controller, lambda n: 0.001, 5)
    grown = controller.limit
    controller.observe(grown - 2, 0.001, full=True)
    assert controller.limit == grown + 1
    controller.observe(grown + 1, 0.001, full=False)
    assert controller.limit == grown + 1


@pytest.mark.parametrize("policy", ADAPTIVE)
def test_the_limit_settles_where_a_batch_takes_the_budget(policy: BatchPolicy) -> None:
    controller = make_controller(policy, CAP, 0.02)
    feed(controller, lambda n: 0.005 + 0.00005 * n, 200)
    assert controller.limit == pytest.approx(MAIN.best_size, rel=0.15)
    assert controller.expected(40) == pytest.approx(0.007, rel=0.02)


@pytest.mark.parametrize("policy", ADAPTIVE)
def test_an_expensive_item_is_left_alone(policy: BatchPolicy) -> None:
    controller = make_controller(policy, CAP, 0.02)
    feed(controller, lambda n: 0.0001 + 0.008 * n, 200)
    assert controller.limit <= 2


@pytest.mark.parametrize("policy", ADAPTIVE)
def test_where_no_size_meets_the_objective_batches_stay_efficient(policy: BatchPolicy) -> None:
    # a = 25 ms of a 9 ms budget: half of a/b = 50 items keeps a third of the peak throughput, size 1 a hundredth.
    controller = make_controller(policy, CAP, 0.02)
    feed(controller, lambda n: 0.025 + 0.00025 * n, 200)
    assert 35 <= controller.limit <= 80


@pytest.mark.parametrize("policy", ADAPTIVE)
def test_a_limit_held_down_by_a_wrong_slope_is_tried_again(policy: BatchPolicy) -> None:
    controller = make_controller(policy, CAP, 0.02)
    feed(controller, lambda n: 0.020 * n, 100)
    assert controller.limit == 1
    feed(controller, lambda n: 0.004 + 0.00005 * n, 200)
    assert controller.limit > 60


@pytest.mark.parametrize("policy", ADAPTIVE)
def test_single_stalls_do_not_move_the_limit_far(policy: BatchPolicy) -> None:
    controller, rng, lowest = make_controller(policy, CAP, 0.02), random.Random(5), CAP
    for i in range(2000):
        stall = 0.3 if rng.random() < 0.01 else 0.0
        controller.observe(controller.limit, 0.005 + 0.00005 * controller.limit + stall)
        lowest = min(lowest, controller.limit) if i > 200 else lowest
    assert lowest > 0.5 * MAIN.best_size


@pytest.mark.parametrize("policy", ADAPTIVE)
def test_without_an_objective_the_limit_is_the_hard_cap_once_load_asks_for_it(policy: BatchPolicy) -> None:
    controller = make_controller(policy, 100, None)
    feed(controller, lambda n: 0.5 + 0.1 * n, 60)
    assert controller.limit == 100


@pytest.mark.parametrize(("policy", "limit"), [("static", 32), ("none", 1)])
def test_fixed_policies_keep_their_limit_and_learn_durations(policy: BatchPolicy, limit: int) -> None:
    controller = make_controller(policy, 32, 0.02)
    assert controller.expected(1) is None
    for _ in range(50):
        controller.observe(1, 5.0)
    assert controller.limit == limit
    assert controller.expected(1) == pytest.approx(5.0)


def test_items_that_run_one_after_another_are_followed_by_an_average_of_what_one_takes() -> None:
    controller = make_controller("static", 1, None)
    for size, duration in [(1, 0.01)] * 10 + [(4, 0.2)] * 10:
        controller.observe(size, duration)
    assert controller.limit == 1
    assert controller.expected(1) == pytest.approx(0.05, rel=0.1)
    assert controller.expected(3) == pytest.approx(0.15, rel=0.1)


@pytest.mark.parametrize("policy", [*ADAPTIVE, "static", "none"])
def test_before_the_first_batch_nothing_is_expected(policy: BatchPolicy) -> None:
    controller = make_controller(policy, 8, 0.02)
    assert controller.expected(4) is None
    assert controller.costs() is None
    controller.observe(2, 0.01)
    controller.observe(4, 0.014)
    costs = controller.costs()
    assert costs is not None
    assert costs[0] + 4 * costs[1] == controller.expected(4)


@pytest.mark.parametrize(
    ("policy", "size", "slo", "key"),
    [
        ("aimd", 0, 0.1, "max_batch_size"),
        ("aimd", 8, 0.0, "latency_slo_s"),
        ("aimd", 8, math.nan, "latency_slo_s"),
        ("fastest", 8, 0.1, "batch_policy"),
    ],
)
def test_a_controller_that_cannot_be_is_refused_by_the_name_of_its_key(
    policy: BatchPolicy, size: int, slo: float, key: str
) -> None:
    with pytest.raises(ValueError, match=key):
        make_controller(policy, size, slo)


# The fit --------------------------------------------------------------------------------------------------------------


def test_the_fit_finds_both_costs_under_noise() -> None:
    fit, rng = DurationFit(), random.Random(1)
    for _ in range(300):
        size = rng.randint(1, 64)
        fit.observe(size, (0.004 + 0.0002 * size) * rng.lognormvariate(0, 0.1))
    assert fit.predict(32) == pytest.approx(0.0104, rel=0.08)
    assert fit.b == pytest.approx(0.0002, rel=0.25)


def test_one_stall_hardly_moves_the_prediction_but_three_slow_batches_in_a_row_do() -> None:
    fit = DurationFit()
    for i in range(60):
        fit.observe(10 + i % 20, 0.005 + 0.0001 * (10 + i % 20))
    before = 0.007
    assert fit.predict(20) == pytest.approx(before, rel=0.01)
    fit.observe(20, 0.5)
    assert fit.predict(20) == pytest.approx(before, rel=0.05)
    fit.observe(20, before)
    for _ in range(3):
        fit.observe(20, 0.035)
    assert fit.predict(20) == pytest.approx(0.035, rel=0.1)
    assert fit.b == pytest.approx(0.0005, rel=0.2)


def test_far_off_durations_that_do_not_agree_are_no_change() -> None:
    fit = DurationFit()
    for i in range(60):
        fit.observe(10 + i % 20, 0.005 + 0.0001 * (10 + i % 20))
    for duration in (0.05, 0.0001, 0.05, 0.0001, 0.05):
        fit.observe(20, duration)
    assert fit.predict(20) == pytest.approx(0.007, rel=0.2)


def test_a_size_never_tried_teaches_the_slope_and_is_no_outlier() -> None:
    fit = DurationFit()
    for _ in range(20):
        fit.observe(1, 0.001)
    fit.observe(50, 0.05)
    assert fit.predict(50) == pytest.approx(0.05, rel=0.1)


def test_durations_of_zero_are_learnt_too() -> None:
    fit = DurationFit()
    for _ in range(5):
        fit.observe(4, 0.0)
    assert fit.predict(4) == 0.0
    fit.observe(4, 0.01)
    assert 0 < (fit.predict(4) or 0) < 0.01


def test_a_floor_rises_with_what_was_tried_only() -> None:
    fit = DurationFit()
    fit.observe(1, 0.025)
    assert fit.floor(0.009) == 2.0
    assert fit.floor(1.0) == 1.0


@pytest.mark.parametrize(("size", "duration"), [(0, 0.1), (-1, 0.1), (1, -0.1), (1, math.nan), (1, math.inf)])
def test_an_observation_that_cannot_be_is_refused(size: float, duration: float) -> None:
    with pytest.raises(ValueError, match="not an observation"):
        DurationFit().observe(size, duration)


def test_the_latency_model_shrinks_step_by_step() -> None:
    controller = LatencyModel(CAP, 0.009)
    feed(controller, lambda n: 0.005 + 0.00005 * n, 100)
    before = controller.limit
    for _ in range(3):
        controller.observe(before, 0.009 * 6)
    assert before * 0.6 < controller.limit < before


# Simulated ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ADAPTIVE)
@pytest.mark.parametrize("times", [20, 38])
def test_twenty_times_the_throughput_of_no_batching_with_p99_inside_the_objective(
    policy: BatchPolicy, times: int
) -> None:
    rate = times * MAIN.unbatched_per_s
    trace = MAIN.run(policy, rate, 9)
    assert trace.stay(0.99, 5) <= MAIN.slo_s
    assert trace.throughput(5, 8) == pytest.approx(rate, rel=0.02)
    assert all(duration == 0.005 + 0.00005 * size for _, size, duration, _ in trace.batches)  # nothing was padded


def test_without_batching_the_same_load_is_hopeless() -> None:
    trace = MAIN.run("none", 20 * MAIN.unbatched_per_s, 3, patience_s=0.2)
    assert trace.throughput(1, 3) == pytest.approx(MAIN.unbatched_per_s, rel=0.1)
    assert trace.stay(0.5) > MAIN.slo_s


@pytest.mark.parametrize("policy", ADAPTIVE)
def test_the_size_converges_within_five_seconds(policy: BatchPolicy) -> None:
    trace = MAIN.run(policy, 8000, 10)
    assert settled_at(trace, MAIN.best_size) < 5.0


@pytest.mark.parametrize("policy", ADAPTIVE)
def test_a_model_that_slows_five_times_keeps_its_throughput_and_recovers(policy: BatchPolicy) -> None:
    controller = make_controller(policy, CAP, MAIN.slo_s)
    cost = linear(MAIN.a_s, MAIN.b_s, slow=(4, 9))
    trace = simulate(controller, cost, poisson(1000, 14, random.Random(1)), patience_s=1.0)
    assert trace.throughput(6, 9) > 900
    assert trace.stay(0.99, 6, 8) < 0.1
    assert trace.stay(0.99, 11) < MAIN.slo_s


@pytest.mark.parametrize("policy", ADAPTIVE)
def test_the_size_shrinks_within_seconds_when_items_become_five_times_as_dear(policy: BatchPolicy) -> None:
    # 2 ms + 0.05 ms -> 0.25 ms per item, budget 9 ms: 140 items before, 28 after.
    controller = make_controller(policy, CAP, 0.02)
    cost = slope_slows(0.002, 0.00005, slow=(4, 9))
    trace = simulate(controller, cost, poisson(2500, 9, random.Random(1)), patience_s=1.0)
    assert trace.limit_at(7) == pytest.approx(28, rel=0.25)
    assert trace.stay(0.99, 7) <= 0.02


def test_the_papers_rule_alone_falls_into_the_spiral_that_ours_avoids() -> None:
    cost = linear(MAIN.a_s, MAIN.b_s, slow=(4, 9))
    arrivals = list(poisson(1000, 9, random.Random(1)))
    paper = simulate(PaperAimd(MAIN.slo_s * BUDGET_FRACTION), cost, arrivals, patience_s=1.0)
    assert paper.throughput(7, 9) < 100


@pytest.mark.parametrize("policy", ADAPTIVE)
def test_noise_and_stalls_leave_most_of_the_throughput(policy: BatchPolicy) -> None:
    rng = random.Random(1)
    cost = noisy(linear(MAIN.a_s, MAIN.b_s), rng, sigma=0.15)
    trace = simulate(make_controller(policy, CAP, MAIN.slo_s), cost, poisson(3960, 10, rng), patience_s=1.0)
    assert trace.throughput(5, 10) > 3800
    assert trace.stay(0.9, 5) <= MAIN.slo_s


def test_the_second_batch_in_flight_raises_the_throughput_and_lowers_the_latency() -> None:
    def run(depth: int) -> float:
        controller = make_controller("latency_model", CAP, MAIN.slo_s)
        cost, arrivals = linear(MAIN.a_s, MAIN.b_s), poisson(6000, 8, random.Random(1))
        return simulate(controller, cost, arrivals, depth=depth, hop_s=0.0005).stay(0.99, 4)

    assert run(2) < run(1)


def test_committing_the_second_batch_at_once_would_cost_latency() -> None:
    def run(lead_s: float) -> float:
        controller = make_controller("latency_model", CAP, MAIN.slo_s)
        cost, arrivals = linear(MAIN.a_s, MAIN.b_s), poisson(2000, 8, random.Random(1))
        return simulate(controller, cost, arrivals, lead_s=lead_s).stay(0.5, 4)

    assert run(0.001) < 0.8 * run(1.0)
