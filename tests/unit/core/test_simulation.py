"""The controller on a virtual clock: load like that of real functions, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from clipper_platform.core.scaling import Policy
from clipper_platform.core.schedule import Window
from clipper_platform.core.simulation import (
    Function,
    Run,
    arrivals,
    diurnal,
    ramp,
    simulate,
    spike,
)

FAST = Function(base_s=0.1, cold_start_s=0.5)


def run(
    rate: Callable[[float], float],
    peak: float,
    duration_s: float,
    policy: Policy,
    function: Function = FAST,
    seed: int = 1,
) -> Run:
    calls = arrivals(rate, peak, duration_s, Random(seed))
    return simulate(function, lambda _: policy, calls, duration_s=duration_s, rows=20)


def test_every_call_is_answered_once_and_the_clock_runs_to_the_end() -> None:
    outcome = run(lambda _: 20.0, 20.0, 120.0, Policy())
    assert [row.at for row in outcome.rows] == pytest.approx([6.0 * n for n in range(1, 21)])
    assert outcome.summary.invocations == pytest.approx(2400, rel=0.1)
    assert outcome.summary.refused == 0
    assert sum(row.rate_per_s * 6 for row in outcome.rows) == pytest.approx(outcome.summary.invocations)


def test_a_constant_load_settles() -> None:
    outcome = run(lambda _: 50.0, 50.0, 600.0, Policy(max_replicas=20))
    assert {row.wanted for row in outcome.rows[10:]} == {7}
    assert len([d for d in outcome.decisions if d.at > 120]) == 0
    assert outcome.summary.p99_s is not None
    assert outcome.summary.p99_s < 0.5


def test_a_step_of_ten_times_is_carried_within_seconds() -> None:
    outcome = run(spike(50.0, 600.0), 50.0, 600.0, Policy(max_replicas=20, latency_slo_s=1.0))
    # The peak is from 200 s to 260 s: the rows that end at 210, 240 and 270 s see it, the last two after it was met.
    during = [row for row in outcome.rows if 230 <= row.at <= 260]
    before = [row for row in outcome.rows if 60 < row.at <= 190]
    assert all(row.ready >= 6 for row in during)
    assert all((row.p99_s or 0) < 2 * max(r.p99_s or 0 for r in before) for row in during)
    assert outcome.rows[-1].wanted == 1
    assert outcome.summary.within_slo is not None
    assert outcome.summary.within_slo > 0.9


def test_a_day_goes_to_nothing_at_night_and_costs_little() -> None:
    policy = Policy(max_replicas=10, downscale_to_zero_delay_s=60)
    outcome = run(diurnal(10.0, 7200.0), 10.0, 7200.0, policy)
    assert outcome.rows[0].wanted == outcome.rows[-1].wanted == 0
    assert outcome.rows[10].wanted >= 1
    assert outcome.summary.cost_s < 0.5 * 7200 * outcome.summary.most_replicas
    assert outcome.summary.cold >= 1


def test_a_ramp_is_followed_up_and_down_without_swinging() -> None:
    outcome = run(ramp(50.0, 1200.0), 50.0, 1200.0, Policy(max_replicas=20))
    numbers = [d.wanted - d.before for d in outcome.decisions]
    turns = sum((a > 0) != (b > 0) for a, b in pairwise(numbers))
    assert turns <= 3  # an early burst at a single replica, and the way down
    assert max(row.wanted for row in outcome.rows) >= 6


def test_batches_let_one_replica_carry_what_depth_would_give_many() -> None:
    function = Function(base_s=0.02, per_item_s=0.001, max_batch_size=64)
    by_time = run(lambda _: 300.0, 300.0, 60.0, Policy(max_replicas=20, latency_slo_s=0.2), function)
    by_depth = run(lambda _: 300.0, 300.0, 60.0, Policy(max_replicas=20), function)
    assert by_time.summary.most_replicas == 1
    assert by_depth.summary.most_replicas > 1
    assert by_time.summary.within_slo == 1.0


def test_a_sparse_trace_meets_a_cold_start_each_time_unless_it_is_learnt() -> None:
    """A call every ten minutes, as by cron: the shape of the most functions in the paper's trace."""
    calls = [600.0 * n + 5 for n in range(1, 40)]
    plain = Policy(downscale_to_zero_delay_s=300)
    fixed = simulate(FAST, lambda _: plain, calls, duration_s=24_000.0)
    clever = simulate(FAST, lambda _: replace(plain, keep_alive="learnt"), calls, duration_s=24_000.0)
    assert fixed.summary.cold == 39
    assert clever.summary.cold <= 15
    assert clever.summary.cost_s < 0.7 * fixed.summary.cost_s


def test_a_burst_from_nothing_loses_no_call() -> None:
    calls = [100.0 + n / 1e6 for n in range(500)]
    policy = Policy(max_replicas=50, downscale_to_zero_delay_s=10)
    outcome = simulate(FAST, lambda _: policy, calls, duration_s=120.0, replicas=1)
    assert (outcome.summary.refused, outcome.summary.cold) == (0, 500)
    first = outcome.decisions[1]
    assert (first.rule, first.at) == ("cold_start", 100.0)
    assert outcome.decisions[2].at - 100.0 < 0.1
    assert outcome.summary.longest_s is not None
    assert outcome.summary.longest_s < 0.5 + 0.05 + 1.1


def test_a_full_queue_refuses() -> None:
    function = Function(base_s=10.0, cold_start_s=0.0, max_queued=5)
    outcome = simulate(function, lambda _: Policy(max_replicas=1), [1.0 + n / 100 for n in range(10)], duration_s=20.0)
    assert outcome.summary.refused == 4
    assert outcome.summary.longest_s == pytest.approx(60.0, abs=0.1)


def test_a_window_opens_and_closes() -> None:
    policy = Policy(windows=(Window(30, 60, 4, None, "w"),), downscale_delay_s=0, downscale_to_zero_delay_s=5)
    outcome = simulate(FAST, lambda _: policy, [], duration_s=100.0, rows=10)
    assert [row.wanted for row in outcome.rows[3:5]] == [4, 4]
    assert outcome.rows[-1].wanted == 0
    assert outcome.summary.p50_s is outcome.summary.longest_s is outcome.summary.within_slo is None


def test_a_busy_replica_that_goes_finishes_first() -> None:
    slow = Function(base_s=30.0, cold_start_s=0.0)
    policy = Policy(max_replicas=2, max_scale_down_rate=2.0, downscale_delay_s=0)
    closing = (Window(0, 5, 2, 2, "w"),)
    outcome = simulate(
        slow, lambda now: replace(policy, windows=closing, max_replicas=1), [1.0, 1.1], duration_s=90.0, replicas=2
    )
    assert outcome.summary.longest_s == 30.0
    assert outcome.rows[-1].ready == 1
    assert outcome.decisions[0].wanted == 1


def test_an_unneeded_start_is_given_up_first() -> None:
    slow = Function(base_s=0.1, cold_start_s=50.0)
    opened = Policy(windows=(Window(2, 4, 3, 3, "w"),), downscale_delay_s=0)
    outcome = simulate(slow, lambda _: opened, [], duration_s=90.0, rows=9)
    assert outcome.decisions[0].wanted == 3
    assert [row.ready for row in outcome.rows] == [1] * 9


def test_nothing_arrives_where_the_rate_is_nothing() -> None:
    assert list(arrivals(lambda _: 0.0, 0.0, 10.0, Random(1))) == []
    times = list(arrivals(lambda _: 5.0, 10.0, 100.0, Random(1)))
    assert times == sorted(times)
    assert len(times) == pytest.approx(500, rel=0.2)


def test_the_patterns_have_their_shapes() -> None:
    assert [ramp(10.0, 100.0)(at) for at in (0, 25, 50, 75, 100)] == [0, 5, 10, 5, 0]
    assert [spike(10.0, 300.0)(at) for at in (0, 100, 129, 131)] == [1, 10, 10, 1]
    day = diurnal(10.0, 86400.0)
    assert (day(0), day(43200)) == (0.0, pytest.approx(10.0))
