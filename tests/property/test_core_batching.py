from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipper.contract.spec import BatchPolicy
from clipper_platform.core.batching import Dispatch, Policy, WaitUntil, make_controller, plan
from tests.support.batch_simulation import simulate

policies = st.builds(
    Policy,
    max_batch_size=st.integers(1, 100),
    limit=st.integers(1, 100),
    depth=st.integers(1, 3),
    wait_timeout_s=st.floats(0, 10),
    lead_s=st.floats(0, 1),
)
times = st.floats(0, 1000)


@given(
    policy=policies,
    pending=st.integers(0, 300),
    now=times,
    age=times,
    in_flight=st.integers(0, 4),
    running=st.none() | times,
    expected=st.none() | st.floats(0, 10),
)
def test_a_plan_is_within_its_bounds_and_keeps_its_word(
    policy: Policy,
    pending: int,
    now: float,
    age: float,
    in_flight: int,
    running: float | None,
    expected: float | None,
) -> None:
    def at(when: float) -> Dispatch | WaitUntil:
        return plan(pending, now - age, policy, when, in_flight=in_flight, running_since=running, expected_s=expected)

    step = at(now)
    cap = min(policy.limit, policy.max_batch_size)
    if isinstance(step, Dispatch):
        assert 1 <= step.n <= min(pending, cap)
        assert step.n == min(pending, cap)  # work-conserving: never less than there is and fits
        assert step.full == (pending >= cap)
        assert in_flight < policy.depth
        if not in_flight:
            assert at(now + 1) == step
    else:
        assert step.t > now
        assert pending < cap or in_flight > 0
        if step.t < math.inf:
            assert isinstance(at(step.t), Dispatch)
        else:
            assert pending == 0 or in_flight > 0  # an idle replica never waits without end


@pytest.mark.parametrize("name", ["aimd", "latency_model", "static", "none"])
@given(
    observations=st.lists(st.tuples(st.floats(0.001, 1e6), st.floats(0, 1e4), st.none() | st.booleans()), max_size=60),
    max_batch_size=st.integers(1, 1000),
    slo=st.none() | st.floats(1e-6, 1e4),
)
def test_a_controller_survives_whatever_it_observes(
    name: BatchPolicy, observations: list[tuple[float, float, bool | None]], max_batch_size: int, slo: float | None
) -> None:
    controller = make_controller(name, max_batch_size, slo)
    for size, duration, full in observations:
        controller.observe(size, duration, full=full)
        expected = controller.expected(size)
        assert 1 <= controller.limit <= max_batch_size
        assert isinstance(controller.limit, int)
        assert expected is not None
        assert 0 <= expected < math.inf


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    name=st.sampled_from(["aimd", "latency_model", "static", "none"]),
    costs=st.tuples(st.floats(0, 0.05), st.floats(0, 0.005)),
    depth=st.integers(1, 3),
    wait_s=st.sampled_from([0.0, 0.002, 0.05]),
)
def test_every_item_is_answered_once_in_order_and_the_replica_runs_one_batch_at_a_time(
    seed: int, name: BatchPolicy, costs: tuple[float, float], depth: int, wait_s: float
) -> None:
    rng, now, arrivals = random.Random(seed), 0.0, []
    for _ in range(300):
        now += rng.choice((0.0, 0.0001, 0.001, 0.05))
        arrivals.append(now)
    controller = make_controller(name, 16, 0.02)
    trace = simulate(
        controller, lambda size, at: costs[0] + costs[1] * size, arrivals, depth=depth, wait_timeout_s=wait_s
    )
    assert [at for at, _ in trace.items] == arrivals
    assert sum(size for _, size, _, _ in trace.batches) == len(arrivals)
    free_at = 0.0
    for start, size, duration, _ in trace.batches:
        assert size <= 16
        assert start >= free_at
        free_at = start + duration
