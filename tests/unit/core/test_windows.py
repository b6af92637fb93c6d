from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_platform.core.windows import DrainRate, LatencyHistogram


def filled(durations: list[float], *, window_s: float = 60.0, now: float = 100.0) -> LatencyHistogram:
    histogram = LatencyHistogram(window_s)
    for duration in durations:
        histogram.observe(duration, now)
    return histogram


def test_without_observations_there_is_no_quantile_and_no_rate() -> None:
    histogram = LatencyHistogram()
    assert histogram.quantile(0.99, 5.0) is None
    assert histogram.rate(5.0) == 0.0


@given(
    durations=st.lists(st.floats(1e-6, 9_999), min_size=1, max_size=200),
    q=st.floats(0, 1),
)
def test_a_quantile_is_within_five_percent_of_the_observation_of_its_rank(durations: list[float], q: float) -> None:
    ordered = sorted(durations)
    exact = ordered[max(0, math.ceil(q * len(ordered) - 1e-6) - 1)]
    above = ordered[min(len(ordered) - 1, math.floor(q * len(ordered) + 1e-6))]  # rounding may take the next one
    found = filled(durations).quantile(q, 100.0)
    assert found is not None
    assert exact * 0.9499 <= found <= above * 1.0501


@pytest.mark.parametrize(("duration", "low", "high"), [(0.0, 0, 2e-6), (-1.0, 0, 2e-6), (1e9, 9e3, 1.2e4)])
def test_durations_outside_the_range_are_clamped(duration: float, low: float, high: float) -> None:
    found = filled([duration]).quantile(0.5, 100.0)
    assert found is not None
    assert low < found < high


def test_old_observations_give_way_to_new_ones_within_a_few_windows() -> None:
    histogram = LatencyHistogram(window_s=10.0)
    for i in range(1000):
        histogram.observe(0.010, i * 0.01)
    for i in range(1000):
        histogram.observe(0.100, 30.0 + i * 0.01)
    found = histogram.quantile(0.2, 40.0)
    assert found is not None
    assert found == pytest.approx(0.1, rel=0.051)


def test_five_windows_after_the_last_observation_there_is_no_data() -> None:
    histogram = filled([0.01], window_s=10.0, now=0.0)
    assert histogram.quantile(0.5, 50.0) is not None
    assert histogram.quantile(0.5, 50.1) is None


def test_an_answer_is_kept_until_enough_was_observed_to_change_it() -> None:
    histogram = filled([0.01] * 10_000)
    assert histogram.quantile(0.99, 100.0) == pytest.approx(0.01, rel=0.051)
    for _ in range(20):
        histogram.observe(1.0, 100.0)
    assert histogram.quantile(0.99, 100.0) == pytest.approx(0.01, rel=0.051)
    for _ in range(200):
        histogram.observe(1.0, 100.0)
    assert histogram.quantile(0.99, 100.0) == pytest.approx(1.0, rel=0.051)


def test_an_answer_is_asked_anew_in_the_next_tick() -> None:
    histogram = filled([0.01] * 1000, window_s=64.0)
    assert histogram.quantile(0.0, 100.0) == pytest.approx(0.01, rel=0.051)
    histogram.observe(0.001, 101.5)
    assert histogram.quantile(0.0, 101.5) == pytest.approx(0.001, rel=0.051)


def test_the_rate_is_right_from_the_first_seconds_on_and_follows_a_change() -> None:
    histogram = LatencyHistogram(window_s=10.0)
    for i in range(2000):
        histogram.observe(0.01, i * 0.001)
    assert histogram.rate(2.0) == pytest.approx(1000, rel=0.03)
    for i in range(10_000):
        histogram.observe(0.01, 2.0 + i * 0.01)
    assert histogram.rate(102.0) == pytest.approx(100, rel=0.03)
    assert histogram.rate(112.0) == pytest.approx(100 / math.e, rel=0.05)


def test_a_first_observation_alone_is_no_storm() -> None:
    assert filled([0.01], window_s=64.0).rate(100.0) == pytest.approx(1.0, rel=0.02)


def test_weights_survive_months_of_uptime_and_long_silence() -> None:
    histogram = LatencyHistogram(window_s=1.0)
    for day in range(100):
        for i in range(100):
            histogram.observe(0.02, day * 86_400.0 + i * 0.01)
    now = 99 * 86_400.0 + 1.0
    assert histogram.quantile(0.5, now) == pytest.approx(0.02, rel=0.051)
    assert histogram.rate(now) == pytest.approx(100 * (1 - 1 / math.e), rel=0.03)


def test_continuous_load_through_many_rescalings_keeps_its_rate() -> None:
    histogram, rng = LatencyHistogram(window_s=1.0), random.Random(3)
    for i in range(20_000):
        histogram.observe(rng.uniform(0.01, 0.02), i * 0.01)
    assert histogram.rate(200.0) == pytest.approx(100, rel=0.03)
    median = histogram.quantile(0.5, 200.0)
    assert median is not None
    assert 0.0125 < median < 0.0175


@given(st.lists(st.floats(1e-5, 1e3), min_size=1, max_size=200), st.floats(1e-5, 1e3))
def test_the_share_above_a_limit_is_right_but_for_durations_near_to_it(durations: list[float], limit_s: float) -> None:
    histogram = LatencyHistogram()
    for duration in durations:
        histogram.observe(duration, 1.0)
    share = histogram.above(limit_s, 1.0)
    surely, perhaps = (sum(d > limit_s * factor for d in durations) for factor in (1.106, 1.0))
    assert surely - 1e-6 <= share * len(durations) <= perhaps + 1e-6


def test_of_nothing_recent_no_share_is_above_a_limit() -> None:
    histogram = LatencyHistogram(10.0)
    assert histogram.above(1.0, 0.0) == 0.0
    histogram.observe_all([2.0, 0.5], 0.0)
    assert histogram.above(1.0, 1.0) == pytest.approx(0.5)
    assert histogram.above(2e4, 1.0) == 0.0
    assert histogram.above(1e-9, 1.0) == pytest.approx(1.0)
    assert histogram.above(1.0, 61.0) == 0.0


def test_what_lasted_long_is_forgotten_as_everything_is_and_counts_when_it_comes_again() -> None:
    histogram = LatencyHistogram(10.0)
    histogram.observe(5.0, 0.0)
    for second in range(1, 300):
        histogram.observe_all([0.1] * 10, second)
        if second == 20:
            assert histogram.above(1.0, second) > 1e-4
    assert histogram.above(1.0, 300) < 1e-4
    assert histogram.above(1.0, 300) == 0.0
    histogram.observe(1.5, 300.0)
    assert histogram.above(1.0, 300) > 1e-3


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_a_quantile_outside_zero_and_one_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        filled([0.01]).quantile(q, 100.0)


@pytest.mark.parametrize("window_s", [0.0, -1.0, math.inf, math.nan])
def test_a_window_that_is_no_time_is_refused(window_s: float) -> None:
    with pytest.raises(ValueError, match="window_s"):
        LatencyHistogram(window_s)
    with pytest.raises(ValueError, match="window_s"):
        DrainRate(window_s)


def test_a_drain_rate_without_completions_is_no_data() -> None:
    drain = DrainRate()
    assert drain.rate(1.0) is None
    drain.resume(1.0)
    assert drain.rate(5.0) is None


def test_the_drain_rate_is_completions_per_second() -> None:
    drain = DrainRate(window_s=10.0)
    drain.resume(0.0)
    for i in range(1, 101):
        drain.observe(32, i * 0.1)
    assert drain.rate(10.0) == pytest.approx(320, rel=0.02)


def test_idle_time_does_not_lower_the_drain_rate() -> None:
    drain = DrainRate(window_s=10.0)
    drain.resume(0.0)
    for i in range(1, 11):
        drain.observe(10, i * 0.1)
    drain.pause(1.0)
    assert drain.rate(3600.0) == pytest.approx(100, rel=0.03)
    drain.resume(3600.0)
    drain.resume(3600.5)
    drain.observe(100, 3601.0)
    assert drain.rate(3601.0) == pytest.approx(100, rel=0.03)


def test_the_drain_rate_falls_while_work_is_stuck() -> None:
    drain = DrainRate(window_s=10.0)
    drain.resume(0.0)
    for i in range(1, 101):
        drain.observe(10, i * 0.1)
    moving, stuck = drain.rate(10.0), drain.rate(30.0)
    assert moving is not None
    assert stuck is not None
    assert stuck < moving / 4


def test_a_completion_that_is_observed_after_the_pause_counts_for_the_work_before_it() -> None:
    drain = DrainRate(window_s=10.0)
    drain.resume(0.0)
    drain.pause(2.0)
    drain.observe(10, 5.0)
    assert drain.rate(60.0) == pytest.approx(10 / 1.81, rel=0.02)  # 2 s of work, which count as 1.81


def test_completions_while_paused_or_out_of_order_still_count() -> None:
    drain = DrainRate(window_s=10.0)
    drain.resume(0.0)
    drain.observe(10, 2.0)
    drain.observe(10, 1.0)
    assert drain.rate(2.0) == pytest.approx(11, rel=0.02)  # 20 in 2 s, which count as 1.81
    drain.pause(2.0)
    drain.observe(5, 3.0)
    assert drain.rate(3.0) == pytest.approx(25 / 1.81, rel=0.02)


def test_durations_that_ended_together_count_as_one_after_the_other() -> None:
    together, apart = LatencyHistogram(), LatencyHistogram()
    durations = [0.01, 0.02, 0.5, 0.0, 1e5]
    for now in (0.0, 10.0, 10.1):
        together.observe_all(durations, now)
        for duration_s in durations:
            apart.observe(duration_s, now)
    for q in (0.0, 0.3, 0.5, 0.7, 0.99):
        assert together.quantile(q, 11.0) == apart.quantile(q, 11.0)
    assert together.rate(11.0) == pytest.approx(apart.rate(11.0))
