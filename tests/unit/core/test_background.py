"""How much background work runs beside live calls."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_platform.core.background import LATE_SHARE, LONGEST_S, RARE_SHARE, SPARE_SHARE, Load, allowance
from tests.support.background_simulation import simulate

QUIET = Load(
    waiting=0, idle=2, replicas=2, batch_limit=32, fixed_s=0.001, each_s=0.001, live_p99_s=0.02, since_live_s=60.0,
    since_batch_s=math.inf,
)  # fmt: skip
LIVE = QUIET._replace(since_live_s=0.01)


def test_without_live_calls_every_idle_replica_gets_a_batch() -> None:
    assert allowance(QUIET) == 2 * 24
    assert allowance(QUIET._replace(idle=1)) == 24
    assert allowance(QUIET._replace(idle=1, each_s=0.0001)) == 32
    assert allowance(QUIET._replace(live_p99_s=None, since_live_s=0.0)) == 48


def test_a_batch_of_slow_items_is_short_and_has_one_item_at_least() -> None:
    assert allowance(QUIET._replace(idle=1, each_s=0.01)) == int((LONGEST_S - 0.001) / 0.01)
    assert allowance(QUIET._replace(idle=2, each_s=30.0)) == 2


@pytest.mark.parametrize("load", [QUIET._replace(waiting=1), LIVE._replace(waiting=1), QUIET._replace(idle=0)])
def test_nothing_runs_while_live_calls_wait_or_no_replica_is_idle(load: Load) -> None:
    assert allowance(load) == 0


def test_the_first_item_measures() -> None:
    assert allowance(QUIET._replace(each_s=None)) == 1
    assert allowance(LIVE._replace(each_s=None)) == 1


def test_beside_live_calls_batches_are_short_by_their_measure() -> None:
    alone = LIVE._replace(live_p99_s=0.2, idle=1, replicas=1)
    assert allowance(alone) == int((LATE_SHARE * 0.2 - 0.001) / 0.001)


def test_one_of_several_replicas_stays_free() -> None:
    assert allowance(LIVE) == int((SPARE_SHARE * 0.02 - 0.001) / 0.001)
    assert allowance(LIVE._replace(idle=1)) == 0
    assert allowance(LIVE._replace(idle=3, replicas=3)) == 2 * int((SPARE_SHARE * 0.02 - 0.001) / 0.001)


def test_where_even_one_item_is_long_they_are_rare() -> None:
    long = LIVE._replace(each_s=0.05, idle=1, replicas=1, fixed_s=0.0)
    rest_s = 0.05 * (1 / RARE_SHARE - 1)
    assert allowance(long._replace(since_batch_s=rest_s)) == 1
    assert allowance(long._replace(since_batch_s=rest_s * 0.99)) == 0


def test_items_that_take_no_time_are_bounded_by_the_batch() -> None:
    assert allowance(QUIET._replace(idle=1, each_s=0.0)) == 32


loads = st.builds(
    Load,
    waiting=st.integers(0, 3), idle=st.integers(0, 4), replicas=st.integers(1, 4), batch_limit=st.integers(1, 128),
    fixed_s=st.floats(0, 1), each_s=st.none() | st.floats(0, 10), live_p99_s=st.none() | st.floats(0.001, 10),
    since_live_s=st.floats(0, 100), since_batch_s=st.floats(0, 1e6),
)  # fmt: skip


@given(loads)
def test_no_replica_gets_more_than_a_batch_and_no_live_call_waits_for_more_than_its_share(load: Load) -> None:
    n = allowance(load)
    assert 0 <= n <= load.idle * max(1, load.batch_limit)
    if n > 1 and load.each_s is not None and load.since_live_s < 1.0 and load.live_p99_s is not None:
        each = math.ceil(n / load.idle)
        assert load.fixed_s + load.each_s * each <= SPARE_SHARE * load.live_p99_s + load.each_s + 1e-9


@pytest.mark.parametrize(
    ("rate_per_s", "fixed_s", "each_s", "limit", "replicas"),
    [(100, 0.002, 0.0001, 32, 1), (150, 0.005, 0.001, 32, 1), (25, 0.03, 0.0, 32, 1), (80, 0.0, 0.01, 1, 1),
     (100, 0.0, 0.01, 1, 2), (300, 0.005, 0.001, 32, 3)],
)  # fmt: skip
def test_the_p99_of_live_calls_stays_within_a_tenth_beside_background_work(
    rate_per_s: float, fixed_s: float, each_s: float, limit: int, replicas: int
) -> None:
    """On a virtual clock, over several thousand calls."""
    ratios = []
    for seed in range(2):
        alone, beside = (
            simulate(
                rate_per_s=rate_per_s, fixed_s=fixed_s, each_s=each_s, limit=limit, seconds=4000 / rate_per_s,
                background=background, replicas=replicas, seed=seed,
            )
            for background in (False, True)
        )  # fmt: skip
        assert beside.rows > 0
        ratios.append(beside.p99_s / alone.p99_s)
    assert sum(ratios) / len(ratios) < 1.1
