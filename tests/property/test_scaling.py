"""What holds of every scaling decision, whatever the policy and the load."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from clipper_platform.core.averages import SlidingAverages, SlidingMax
from clipper_platform.core.explaining import explain
from clipper_platform.core.keepalive import IdleTimes
from clipper_platform.core.scaling import Decision, Policy, Sample, State, decide
from clipper_platform.core.schedule import Window, bounds
from clipper_platform.core.service import Service

SECONDS = st.floats(0, 600)

WINDOWS = st.lists(
    st.builds(
        Window,
        st.floats(900, 1200),
        st.floats(1200, 1500),
        st.integers(0, 30),
        st.none() | st.integers(1, 30),
        st.just("w"),
    ),
    max_size=3,
).map(tuple)


@st.composite
def policies(draw: st.DrawFn, **fixed: Any) -> Policy:
    low = draw(st.integers(0, 10))
    stable = draw(st.floats(5, 300))
    drawn = Policy(
        target_queue_depth=draw(st.floats(0.1, 100)),
        target_ongoing_requests=draw(st.none() | st.floats(0.1, 100)),
        min_replicas=low,
        max_replicas=draw(st.integers(max(1, low), 40)),
        buffer_replicas=draw(st.integers(0, 5)),
        max_scale_up_rate=draw(st.floats(1.1, 1000)),
        max_scale_down_rate=draw(st.floats(1.1, 10)),
        upscale_delay_s=draw(st.just(0.0) | SECONDS),
        downscale_delay_s=draw(SECONDS),
        downscale_to_zero_delay_s=draw(SECONDS),
        keep_alive=draw(st.sampled_from(["fixed", "learnt"])),
        stable_window_s=stable,
        panic_window_s=draw(st.floats(0.5, stable)),
        panic_threshold=draw(st.floats(1, 20)),
        latency_slo_s=draw(st.none() | st.floats(0.001, 10)),
        windows=draw(WINDOWS),
    )
    return replace(drawn, **fixed)


SERVICES = st.none() | st.builds(Service, st.floats(0, 1), st.floats(0, 1), st.integers(1, 64), st.integers(1, 8))


@st.composite
def loads(draw: st.DrawFn) -> tuple[int, int, int, bool, Service | None, float]:
    """Queued, running, arrivals since before, late, service, seconds since before."""
    return (
        draw(st.integers(0, 500)),
        draw(st.integers(0, 100)),
        draw(st.integers(0, 1000)),
        draw(st.booleans()),
        draw(SERVICES),
        draw(st.floats(0, 60)),
    )


def sampled(load: tuple[Any, ...], wanted: int, ready: int, arrivals: int, idle_since: float, now: float) -> Sample:
    queued, running, came, late, service, _ = load
    return Sample(
        queued=queued, running=running, wanted=wanted, ready=ready, arrivals=arrivals + came,
        idle_since=None if queued or running else idle_since, late=late, service=service,
    )  # fmt: skip


@given(policies(), st.lists(loads(), min_size=1, max_size=25), st.integers(0, 20), st.data())
def test_the_bounds_that_hold_now_are_always_kept(
    policy: Policy, story: list[tuple[Any, ...]], wanted: int, data: st.DataObject
) -> None:
    now, arrivals, idle_since = 1000.0, 0, 1000.0
    state = State.initial(policy, wanted, now)
    for load in story:
        now += load[-1]
        ready = data.draw(st.integers(0, wanted))
        sample = sampled(load, wanted, ready, arrivals, idle_since, now)
        decision, state = decide(sample, policy, state, now)
        assert isinstance(decision, Decision)
        limits = bounds(policy.min_replicas, policy.max_replicas, policy.windows, now)
        assert limits.floor <= decision.wanted <= limits.ceiling
        assert decision.next_at >= now
        assert math.isfinite(decision.need)
        if sample.idle_since is None:
            assert decision.wanted >= 1
        if decision.panic:
            assert decision.wanted >= min(wanted, limits.ceiling)
        explanation = explain(decision, policy)
        assert explanation.why
        assert len(explanation.steps) == 4
        wanted, arrivals = decision.wanted, sample.arrivals
        if sample.idle_since is None:
            idle_since = now


@given(policies(), st.lists(loads(), max_size=8), loads(), st.integers(1, 300), st.integers(0, 20))
def test_more_load_never_leads_to_fewer_replicas(
    policy: Policy, story: list[tuple[Any, ...]], load: tuple[Any, ...], more: int, wanted: int
) -> None:
    """With the same history, and everything else equal, but what waits."""
    now, arrivals = 1000.0, 0
    state = State.initial(policy, wanted, now)
    for before in story:
        now += before[-1]
        decision, state = decide(sampled(before, wanted, wanted, arrivals, now, now), policy, state, now)
        assert isinstance(decision, Decision)
        wanted, arrivals = decision.wanted, arrivals + before[2]
    now += load[-1]
    less = sampled((max(1, load[0]), *load[1:]), wanted, wanted, arrivals, now, now)
    few, _ = decide(less, policy, state, now)
    many, _ = decide(less._replace(queued=less.queued + more), policy, state, now)
    assert isinstance(few, Decision)
    assert isinstance(many, Decision)
    assert many.wanted >= few.wanted


@settings(max_examples=60)
@given(
    st.floats(0.5, 60), st.floats(0.5, 20), st.floats(0.0, 0.25), st.integers(1, 20), st.integers(0, 2**32),
    st.integers(0, 3),
)  # fmt: skip
def test_a_constant_load_with_noise_does_not_flap(
    worth: int, target: float, noise: float, wanted: int, seed: int, buffer: int
) -> None:
    """After three minutes of it nothing goes up and down any more; also of a load that is just what some replicas are
    for. One late correction may come: 23 replicas are kept for 20 replicas' worth until the average was below 19.8."""
    policy = Policy(target_queue_depth=target, max_replicas=200, buffer_replicas=buffer, downscale_delay_s=10)
    rng, now = Random(seed), 1000.0
    state = State.initial(policy, wanted, now)
    numbers = []
    for _ in range(1200):
        now += 0.5
        load = max(1, round(worth * target * (1 + rng.uniform(-noise, noise))))
        decision, state = decide(Sample(0, load, wanted, wanted), policy, state, now)
        assert isinstance(decision, Decision)
        wanted = decision.wanted
        numbers.append(wanted)
    settled = numbers[360:]
    assert sum(before != after for before, after in pairwise(settled)) <= 1


@settings(max_examples=60)
@given(policies(), st.lists(loads(), min_size=1, max_size=25), st.integers(0, 20))
def test_what_is_not_said_quietly_changes_nothing(policy: Policy, story: list[tuple[Any, ...]], wanted: int) -> None:
    """None instead of a decision: that is one which leaves the number, and the state is the same afterwards."""
    now, arrivals = 1000.0, 0
    loud = quiet = State.initial(policy, wanted, now)
    for load in story:
        now += load[-1]
        sample = sampled(load, wanted, wanted, arrivals, now - load[-1] / 2, now)
        arrivals = sample.arrivals
        spoken, loud = decide(sample, policy, loud, now)
        decision, quiet = decide(sample, policy, quiet, now, quiet=True)
        assert isinstance(spoken, Decision)
        if decision is None:
            assert (spoken.wanted, spoken.next_at, spoken.panic) == (spoken.before, now, False)
        else:
            assert decision == spoken
        assert loud == quiet
        wanted = spoken.wanted


@given(policies(), st.lists(loads(), min_size=1, max_size=8), st.integers(0, 20))
def test_deciding_changes_none_of_its_arguments(policy: Policy, story: list[tuple[Any, ...]], wanted: int) -> None:
    now, arrivals = 1000.0, 0
    state = State.initial(policy, wanted, now)
    for load in story:
        now += load[-1]
        sample = sampled(load, wanted, wanted, arrivals, now - load[-1] / 2, now)
        arrivals = sample.arrivals
        before = copy.deepcopy(state)
        decision, following = decide(sample, policy, state, now)
        assert state._replace(idle=before.idle) == before
        assert state.idle.stored() == before.idle.stored()
        assert decide(sample, policy, state, now) == (decision, following)
        state = following


@given(policies(windows=(), keep_alive="fixed", downscale_delay_s=5.0, upscale_delay_s=2.0),
       st.integers(0, 300), st.integers(0, 40))  # fmt: skip
def test_any_start_converges_to_what_the_load_needs(policy: Policy, load: int, wanted: int) -> None:
    policy = replace(policy, stable_window_s=10.0, panic_window_s=2.0, downscale_to_zero_delay_s=5.0)
    now = 1000.0
    idle_since = None if load else now
    state = State.initial(policy, wanted, now)
    numbers = []
    for _ in range(1500):
        now += 0.5
        decision, state = decide(Sample(0, load, wanted, wanted, idle_since=idle_since), policy, state, now)
        assert isinstance(decision, Decision)
        wanted = decision.wanted
        numbers.append(wanted)
    assert len(set(numbers[-200:])) == 1
    target = policy.target_ongoing_requests or policy.target_queue_depth
    exact = math.ceil(load / target) + policy.buffer_replicas if load else 0
    clamped = max(policy.min_replicas, min(policy.max_replicas, exact))
    # Within the tolerance of 10%, on either side.
    slack = math.ceil(0.1 * clamped) + 1 if load else 0
    assert abs(wanted - clamped) <= slack


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 30)), min_size=1, max_size=200),
       st.floats(1, 100), st.floats(0.1, 1))  # fmt: skip
def test_an_average_lies_between_the_levels_that_were_seen(
    story: list[tuple[float, float]], stable_s: float, share: float
) -> None:
    averages, now = SlidingAverages.over(stable_s, stable_s * share), 0.0
    seen = []
    for level, passed in story:
        now += passed
        seen.append(level)
        *loads, rate_stable, rate_panic, averages = averages.observe(level, 1000 - level, now)
        for value in (*loads, 1000 - rate_stable, 1000 - rate_panic):
            assert min(seen) - 1e-6 <= value <= max(seen) + 1e-6


@given(st.lists(st.tuples(st.integers(0, 100), st.floats(0, 10)), min_size=1, max_size=100), st.floats(0.5, 60))
def test_the_highest_value_is_one_that_was_seen_in_time(story: list[tuple[int, float]], span_s: float) -> None:
    now = 0.0
    peak = SlidingMax(span_s, now, 0.0)
    seen = [(0.0, 0)]
    for value, passed in story:
        now += passed
        seen.append((now, value))
        highest, peak = peak.observe(float(value), now)
        # Known to within a thirty-second of the span.
        assert highest >= max(v for at, v in seen if at > now - span_s * (1 - 2 / 32))
        assert highest <= max(v for at, v in seen if at > now - span_s)


@given(st.lists(st.floats(0, 30_000), max_size=300))
def test_what_is_learnt_of_idle_times_is_sound(times: list[float]) -> None:
    counted = IdleTimes()
    for idle_s in times:
        counted.observe(idle_s)
    kept = counted.learnt()
    if kept is not None:
        inside = [t for t in times if 1 <= t < 14_400]
        assert 0 <= kept.from_s < kept.until_s
        assert kept.from_s <= max(inside)
        assert kept.until_s >= min(inside)
