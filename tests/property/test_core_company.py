from __future__ import annotations

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from clipper_platform.core.company import Company
from tests.support.company_simulation import serve

costs = st.tuples(st.floats(0.0001, 0.05), st.floats(0, 0.001))
cheap = st.tuples(st.floats(0.0001, 0.02), st.floats(0, 0.0003))


@settings(max_examples=60)
@given(
    costs=costs,
    callers=st.integers(1, 40),
    cap=st.integers(2, 64),
    think_s=st.tuples(st.floats(0, 0.01), st.floats(0, 0.0005), st.floats(0.0001, 0.005)),
    seed=st.integers(0, 1000),
)
def test_no_wait_exceeds_the_fixed_cost_and_everybody_is_answered(
    costs: tuple[float, float], callers: int, cap: int, think_s: tuple[float, float, float], seed: int
) -> None:
    out = serve(*costs, seconds=0.6, warm_up_s=0.0, callers=callers, cap=cap, think_s=think_s, seed=seed)
    slowest_a = costs[0] * 1.3 + costs[1] * cap  # what the fit may take for the fixed cost: batches of one size
    assert max(out.waited_s, default=0.0) <= slowest_a + 1e-9
    assert max(out.sizes) <= cap


@settings(max_examples=40)
@given(costs=cheap, callers=st.integers(2, 64), objective_s=st.floats(0.05, 0.2), seed=st.integers(0, 1000))
def test_no_objective_is_missed_because_of_a_wait(
    costs: tuple[float, float], callers: int, objective_s: float, seed: int
) -> None:
    """Where two batches of everybody fit the objective, all keep it: a wait ends while there is time to run."""
    assume(costs[0] + costs[1] * callers <= 0.3 * objective_s)
    out = serve(
        *costs, seconds=1.0, warm_up_s=0.0, callers=callers, cap=64, objective_s=objective_s, seed=seed, noise=0.0
    )
    assert max(out.stays_s, default=0.0) <= objective_s


@given(
    steps=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50), st.floats(0, 0.2)), max_size=80),
    waiting=st.integers(1, 100),
    room=st.integers(1, 100),
    costs=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_whatever_happened_a_wait_is_bounded(
    steps: list[tuple[int, int, float]], waiting: int, room: int, costs: tuple[float, float]
) -> None:
    company, now, total = Company(), 0.0, 0
    for arrived, answered, after_s in steps:
        now += after_s
        total += arrived
        company.arrived(total, now)
        company.completed(answered, answered + arrived, now)
        assert 0 <= company.wait_s(waiting, room, now, costs) <= costs[0]
        if waiting >= room:
            assert company.wait_s(waiting, room, now, costs) == 0
        company.holds(waiting, room, now + costs[0], answered, costs)
