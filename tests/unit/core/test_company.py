from __future__ import annotations

import random

import pytest

from clipper_platform.core.company import Company, holds
from tests.support.batch_simulation import poisson
from tests.support.company_simulation import serve

FOREST_100 = (0.007, 0.0001)
FOREST_10 = (0.001, 0.00002)
CHEAP = (0.0002, 0.000003)


def returning(company: Company, *, callers: int, rounds: int, back_s: float = 0.002, cycle_s: float = 0.02) -> float:
    """All `callers` are answered together, and are back `back_s` later. Returns the time of the last answer."""
    total, now = callers, 0.0
    for _ in range(rounds):
        now += cycle_s
        company.completed(callers, callers, now)
        total += callers
        company.arrived(total, now + back_s)
    company.completed(callers, callers, now + cycle_s)
    return now + cycle_s


def test_nothing_is_concluded_from_a_few_batches() -> None:
    company = Company()
    returning(company, callers=8, rounds=10)
    assert not company.closed


def test_callers_who_come_back_are_a_closed_population() -> None:
    company = Company()
    returning(company, callers=8, rounds=40)
    assert company.closed


def test_independent_callers_are_not_taken_for_a_closed_population() -> None:
    rng, company, total, now = random.Random(1), Company(), 0, 0.0
    in_system = 0
    for _ in range(2000):
        now += 0.01
        company.completed(max(1, in_system), max(1, in_system), now)
        in_system = sum(1 for _ in poisson(800, 0.01, rng))
        total += in_system
        company.arrived(total, now + 0.005)
        assert not company.closed


def test_half_of_the_callers_wait_for_the_other_half_to_come_back() -> None:
    company = Company()
    now = returning(company, callers=32, rounds=60)
    wait_s = company.wait_s(32, 128, now, FOREST_100)
    assert 0.002 <= wait_s <= 0.003  # all are back after 2 ms; the next edge of the histogram is 2.8 ms


def test_a_crowd_does_not_wait_for_one() -> None:
    company = Company()
    returning(company, callers=64, rounds=60)
    lone = Company()
    lone._returns, lone._total = company._returns, company._total
    lone.completed(1, 64, 100.0)
    assert lone.wait_s(63, 128, 100.0, FOREST_100) == 0.0
    assert lone.wait_s(1, 128, 100.0, FOREST_100) > 0.0


def test_a_wait_is_never_longer_than_the_fixed_cost_that_it_may_save() -> None:
    company = Company()
    now = returning(company, callers=32, rounds=60, back_s=0.005)
    assert company.wait_s(32, 128, now, FOREST_100) <= 0.007
    assert company.wait_s(32, 128, now, FOREST_10) == 0.0


def test_a_batch_with_no_room_for_more_waits_for_nobody() -> None:
    company = Company()
    now = returning(company, callers=32, rounds=60)
    assert company.wait_s(32, 32, now, FOREST_100) == 0.0


def test_a_batch_of_no_cost_waits_for_nobody() -> None:
    company = Company()
    now = returning(company, callers=32, rounds=60)
    assert company.wait_s(32, 64, now, (0.0, 0.0)) == 0.0


def test_those_who_stay_away_are_expected_no_longer() -> None:
    company = Company()
    now = returning(company, callers=32, rounds=60)
    assert company.away(now) == 32
    assert company.away(now + 0.1) == 0
    assert company.wait_s(32, 128, now + 0.08, FOREST_100) == 0.0


def test_the_answered_who_never_return_are_forgotten() -> None:
    company = Company()
    for n in range(1000):
        company.completed(4, 8, n * 0.01)
    assert company.away(9.99) <= 9


def test_a_batch_is_held_for_the_end_of_the_one_before_if_that_answers_callers_who_return() -> None:
    company = Company()
    now = returning(company, callers=32, rounds=60)
    company.arrived(10**6, now + 0.002)
    assert company.holds(32, 128, now + 0.01, 32, FOREST_100)
    assert not company.holds(32, 32, now + 0.01, 32, FOREST_100)


@pytest.mark.parametrize(
    ("costs", "running_s", "held"),
    [
        (FOREST_100, 0.01, True),
        (FOREST_10, 0.0014, True),
        (CHEAP, 0.00023, False),
        (FOREST_100, None, False),
        (None, 1.0, False),
    ],
)
def test_a_batch_is_committed_ahead_only_where_the_gap_costs_more_than_those_it_misses(
    costs: tuple[float, float] | None, running_s: float | None, held: bool
) -> None:
    assert holds(costs, running_s, 0.001) is held


# On a simulated clock -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("costs", "callers", "gain"),
    [(FOREST_100, 2, 1.4), (FOREST_100, 8, 1.35), (FOREST_100, 64, 1.1), (FOREST_10, 8, 1.1), (FOREST_10, 64, 1.1)],
)
def test_callers_who_ask_again_are_served_in_fewer_and_larger_batches(
    costs: tuple[float, float], callers: int, gain: float
) -> None:
    never = serve(*costs, seconds=3.0, callers=callers, adaptive=False)
    waits = serve(*costs, seconds=3.0, callers=callers)
    assert waits.per_s >= gain * never.per_s
    assert waits.mean_s <= never.mean_s
    assert waits.mean_size > never.mean_size


@pytest.mark.parametrize("callers", [1, 2, 8, 64])
def test_a_cheap_model_loses_nothing(callers: int) -> None:
    never = serve(*CHEAP, seconds=2.0, callers=callers, adaptive=False)
    waits = serve(*CHEAP, seconds=2.0, callers=callers)
    assert waits.per_s >= 0.98 * never.per_s


@pytest.mark.parametrize("costs", [FOREST_100, FOREST_10])
def test_a_lone_caller_waits_for_nobody(costs: tuple[float, float]) -> None:
    never = serve(*costs, seconds=2.0, callers=1, adaptive=False)
    waits = serve(*costs, seconds=2.0, callers=1)
    assert not any(waits.waited_s)
    assert waits.mean_s <= never.mean_s * 1.001


def bursts(rate_per_s: float, seconds: float, rng: random.Random) -> list[float]:
    """On for 50 ms and off for 200 ms on average."""
    now, out = 0.0, []
    while now < seconds:
        end = now + rng.expovariate(1 / 0.05)
        out += [now + at for at in poisson(5 * rate_per_s, end - now, rng)]
        now = end + rng.expovariate(1 / 0.2)
    return out


@pytest.mark.parametrize("load", [0.1, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("costs", [FOREST_100, FOREST_10])
@pytest.mark.parametrize("shape", ["poisson", "bursts"])
def test_callers_who_come_by_themselves_wait_no_longer_than_without(
    shape: str, costs: tuple[float, float], load: float
) -> None:
    per_s = load * 128 / (costs[0] + 128 * costs[1])
    seconds = max(3.0, min(60.0, 20_000 / per_s))
    rng = random.Random(3)
    arrivals = list(poisson(per_s, seconds, rng)) if shape == "poisson" else bursts(0.6 * per_s, seconds, rng)
    never = serve(*costs, seconds=seconds, arrivals=arrivals, adaptive=False)
    waits = serve(*costs, seconds=seconds, arrivals=arrivals)
    assert waits.mean_s <= 1.03 * never.mean_s
    assert waits.quantile(0.99) <= 1.03 * never.quantile(0.99)
