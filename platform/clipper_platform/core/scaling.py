"""How many replicas a function should have: demand → rate limit → bounds → delay, as named steps.

The demand is knative's: the load per replica, averaged over a stable window, and over a panic window that notices a
burst. Two things are added. What is known of the service time: replicas that suffice for the arrivals inside the
objective are enough however deep a batch's queue looks, and no fewer are kept than can carry the arrivals, however
short the queue is; by depth alone a function would swing between too few replicas, whose queue grows, and too many,
whose queue is empty. And a tolerance: a demand that is within 10% of what there is changes nothing.

A platform with 10,000 busy functions decides 20,000 times a second, in 4 µs each: so results are built by position,
what two steps have in common is calculated once, and steps that cannot change the number are not taken.

A demand is a number of replicas with a fraction ("need"); 2.3 replicas' worth of load need 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple, overload

from clipper.contract.policies import AutoscalingPolicy
from clipper_platform.core.averages import SlidingAverages, SlidingMax
from clipper_platform.core.keepalive import IdleTimes
from clipper_platform.core.schedule import Window, bounds

__all__ = [
    "LATE_SHARE",
    "NOTHING",
    "TOLERANCE",
    "UTILISATION",
    "Decision",
    "NoData",
    "Policy",
    "Sample",
    "Service",
    "State",
    "capacity",
    "decide",
    "latency_capacity",
]

# Kubernetes' tolerance: averages of a constant load differ by less than this, and nothing flaps.
TOLERANCE: Final = 0.1
# Share of its capacity that a replica is planned for: with 80% the queue of random arrivals stays about as long as
# what runs, and the tolerance above it (88%) is still stable.
UTILISATION: Final = 0.8
# Waiting times of random arrivals have an about exponential tail: the 99th percentile is ln(100) means.
_P99_MEANS: Final = math.log(100)
LATE_SHARE: Final = 0.01  # of the answers: where more of them are beyond the objective, the 99th percentile is
_new: Final = tuple.__new__
NOTHING: Final = 1e-9  # what rounding leaves of a load that is gone
_RATE_PERIOD_S: Final = 0.2  # arrivals of less time than this are no rate yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(AutoscalingPolicy):
    """A checked autoscaling policy at a time: `windows` are those that its schedules open now and next."""

    latency_slo_s: float | None = None
    windows: tuple[Window, ...] = ()


class Service(NamedTuple):
    """What executions take, as fitted: a batch of n takes `a + b·n` seconds; `limit` is the largest batch now and
    `concurrency` how many a replica runs at once."""

    a: float
    b: float
    limit: int = 1
    concurrency: int = 1


class Sample(NamedTuple):
    """What is so now. `arrivals`: invocations admitted since the start. `idle_since`: None while there are any.

    `late`: the 99th percentile of what callers waited of late is beyond the objective. `failed`: the replicas do not
    start and nobody tries any more.
    """

    queued: int
    running: int
    wanted: int
    ready: int
    starting: int = 0
    arrivals: int = 0
    idle_since: float | None = None
    late: bool = False
    service: Service | None = None
    failed: bool = False


class NoData(NamedTuple):
    """Nothing can be said: what is wanted stays as it is."""

    reason: str


class Decision(NamedTuple):
    """What to have from now on, and all that it was decided by.

    `rule` is the step that had the last word. `next_at`: when to decide again if nothing is heard of the function
    until then; `now` while there is load.
    """

    at: float
    wanted: int
    before: int
    rule: str
    queued: int
    running: int
    ready: int
    target: float
    load_stable: float
    load_panic: float
    rate_per_s: float  # arrivals; 0 where no service time is known
    capacity_per_s: float  # of a replica; 0 where no service time is known
    need: float  # step 1: demand in replicas, with its fraction
    need_panic: float
    demanded: int
    limited: int  # step 2: rate limit
    bounded: int  # step 3: bounds
    floor: int
    ceiling: int
    panic: bool
    idle_s: float
    next_at: float
    schedules: tuple[str, ...] = ()


class State:
    """What is remembered of one function between decisions: about 2 KiB while there is load, 1 KiB otherwise."""

    __slots__ = ("arrivals", "averages", "called", "highs", "idle", "idle_since", "lows", "panic_until", "rate",
                 "seen_at")  # fmt: skip

    def __init__(self, policy: Policy, wanted: int, now: float, idle: IdleTimes | None = None) -> None:
        self.averages = SlidingAverages(policy.stable_window_s, policy.panic_window_s)
        self.highs = SlidingMax(policy.downscale_delay_s, wanted, now)
        self.lows = SlidingMax(policy.upscale_delay_s, -wanted, now)  # of negated values: the lowest
        self.rate: float | None = None  # of arrivals per second, as it was seen last
        self.panic_until = -math.inf
        self.idle = idle or IdleTimes()
        self.idle_since: float | None = None
        self.arrivals = 0
        self.called = False
        self.seen_at = now


# Step 1: the demand for the averages of the stable and of the panic window, in replicas; the rule; the averages of the
# load; invocations per second that arrive and that a replica carries; the target.
_Demand = tuple[float, float, str, float, float, float, float, float]


@overload
def decide(sample: Sample | None, policy: Policy, state: State, now: float) -> tuple[Decision | NoData, State]: ...
@overload
def decide(
    sample: Sample | None, policy: Policy, state: State, now: float, *, quiet: bool
) -> tuple[Decision | NoData | None, State]: ...
def decide(
    sample: Sample | None, policy: Policy, state: State, now: float, *, quiet: bool = False
) -> tuple[Decision | NoData | None, State]:
    """The number of replicas from now on. `state` is used up: the one returned takes its place.

    `now` and all other times are monotonic seconds. The decision is within the bounds that hold now, whatever the
    load; with everything else equal, more load never leads to fewer replicas. With `quiet`, None stands for the usual
    decision, which leaves a function with load as it is: that need not be made to be known.
    """
    if sample is None:
        return NoData("the function is not running"), state
    queued, running, current, ready, _, arrivals, idle_since, _, _, failed = sample
    if failed:
        return NoData("its replicas do not start, more of them would not either"), state
    floor, ceiling, until = policy.min_replicas, policy.max_replicas, math.inf
    names: tuple[str, ...] = ()
    if policy.windows:
        floor, ceiling, until, names = bounds(floor, ceiling, policy.windows, now)
    if idle_since != state.idle_since or state.called != (arrivals > 0):
        _learn(sample, state, now)
    need, burst, rule, load, load_panic, rate, per_replica, target = _demand(sample, policy, state, now)
    panic = _panics(burst, ready, policy, state, now)
    idle_until = math.inf
    if idle_since is None and not panic and floor <= current <= ceiling and _holds(need, current, policy):
        # The usual case: there is what there should be. The delays must know of it, and that is all.
        demanded = limited = bounded = wanted = current
        state.highs.observe(current, now)
        state.lows.observe(-current, now)
        if quiet:
            return None, state
    else:
        demanded, rule, idle_until = _demanded(need, burst if panic else 0.0, rule, sample, policy, state, now)
        limited = _limit_rate(demanded, sample, policy)
        bounded = _clamped(limited, floor, ceiling)
        wanted = _clamped(_delay(bounded, current, state, now, panic=panic), floor, ceiling)
        rule = _last_word(rule, (demanded, limited, bounded, wanted), names, panic=panic)
    next_at = now
    if idle_since is not None and not panic and need < NOTHING and wanted == _clamped(demanded, floor, ceiling):
        next_at = idle_until if idle_until < until else until
    # As Decision(…) does, at half the cost of passing so many parameters.
    made: Decision = _new(Decision, (
        now, wanted, current, rule, queued, running, ready, target, load, load_panic, rate, per_replica, need, burst,
        demanded, limited, bounded, floor, ceiling, panic,
        0.0 if idle_since is None else now - idle_since, next_at, names,
    ))  # fmt: skip
    return made, state


def _clamped(value: int, floor: int, ceiling: int) -> int:
    return floor if value < floor else ceiling if value > ceiling else value


def _learn(sample: Sample, state: State, now: float) -> None:
    """An idle time that has ended, and the start of one."""
    before, since = state.idle_since, sample.idle_since
    if before is not None and since != before and state.called:
        state.idle.observe((now if since is None else since) - before)
    state.idle_since = since
    state.called = sample.arrivals > 0


# Step 1: demand


def capacity(service: Service) -> float:
    """Invocations per second that one replica can carry at most."""
    return _carried(*service)


def _carried(a: float, b: float, size: int, concurrency: int) -> float:
    took = a + b * size
    return concurrency * size / took if took > 0 else math.inf


def latency_capacity(service: Service, slo_s: float) -> float:
    """Invocations per second that one replica can carry with a 99th percentile inside `slo_s`, at most `UTILISATION`
    of its capacity.

    Batches: an invocation may wait for the batch that runs and then takes as long as its own, so two must fit. One at
    a time: its own execution and a wait that grows with the utilisation r as r / (1 − r) half executions (M/D/1).
    Where the objective cannot be kept by any number of replicas, capacity alone counts.
    """
    a, b, limit, concurrency = service
    if limit > 1:
        room = slo_s / 2 - a
        # Where not even one fits, capacity alone counts.
        size = int(room / b) if b <= room < b * limit else limit
        return _carried(a, b, size, concurrency) * UTILISATION
    took = a + b
    room = slo_s - took
    if room <= 0 or took <= 0:
        return capacity(service) * UTILISATION
    odds = 2 * room / (took * _P99_MEANS)  # r / (1 − r) at which the wait just fits
    return capacity(service) * min(UTILISATION, odds / (1 + odds))


def _demand(sample: Sample, policy: Policy, state: State, now: float) -> _Demand:
    queued, running, _, ready, _, arrivals, idle_since, late, service, _ = sample
    if not ready and idle_since is None:
        # Nothing is answered yet: the load is what is here now, not the silence before it.
        state.averages.clear()
    passed = now - state.seen_at
    if passed >= _RATE_PERIOD_S:
        rate = (arrivals - state.arrivals) / passed
        if state.rate is None:
            state.averages.presume(rate)
        state.rate = rate
        state.seen_at, state.arrivals = now, arrivals
    if policy.target_ongoing_requests is None:
        target, rule, load = policy.target_queue_depth, "queue_depth", queued + running
    else:
        target, rule = policy.target_ongoing_requests, "ongoing_requests"
        # What waits counts once no replica could run it: until then it waits for its turn or for company.
        load = running + queued if running >= target * ready else running
    stable, burst, rate, rate_panic = state.averages.observe(load, state.rate or 0.0, now)
    need, panic = stable / target, burst / target
    if service is None:
        return need, panic, rule, stable, burst, 0.0, 0.0, target
    slo_s = policy.latency_slo_s
    if slo_s is None:
        per_replica = capacity(service) * UTILISATION
        carried, panic = rate / per_replica, max(panic, rate_panic / per_replica)
        if carried > need:
            need, rule = carried, "capacity"
    else:
        per_replica = latency_capacity(service, slo_s)
        carried = rate / per_replica
        if not late:
            # The objective is kept: depth says nothing that the service time does not say better. A queue has to be
            # worked off inside the objective, on top of what arrives.
            need, rule, panic = carried, "latency", rate_panic / per_replica
            if queued:
                panic += queued / (capacity(service) * slo_s)
        elif carried > need:
            need, rule = carried, "latency"
    return need, panic, rule, stable, burst, rate, per_replica, target


def _panics(burst: float, ready: int, policy: Policy, state: State, now: float) -> bool:
    """Whether there is, or lately was, so much more load than the ready replicas are for that it cannot wait."""
    if burst >= policy.panic_threshold * (ready or 1):
        state.panic_until = now + policy.stable_window_s
    return now < state.panic_until


def _demanded(
    need: float, burst: float, rule: str, sample: Sample, policy: Policy, state: State, now: float
) -> tuple[int, str, float]:
    """Whole replicas, the rule they come from, and until when an idle function's answer holds.

    `burst`: what the panic window asks for; 0 where there is no panic.
    """
    spare = policy.buffer_replicas
    count = sample.wanted - spare if _holds(need, sample.wanted, policy) else math.ceil(need - NOTHING)
    if burst - NOTHING > count:
        count, rule = math.ceil(burst - NOTHING), "panic"
    idle_until = math.inf
    if sample.idle_since is None:
        if not sample.wanted:
            rule = "cold_start"
        count = count or 1
    elif count <= 1:
        kept, idle_until, why = _keep_alive(sample.idle_since, policy, state, now)
        count, rule = int(kept), why
    return (count + spare if count else 0), rule, idle_until


def _holds(need: float, wanted: int, policy: Policy) -> bool:
    """Whether the demand is within the tolerance of what is wanted already."""
    current = wanted - policy.buffer_replicas
    return current > 0 and (current - 1) * (1 - TOLERANCE) < need <= current * (1 + TOLERANCE)


def _keep_alive(idle_since: float, policy: Policy, state: State, now: float) -> tuple[bool, float, str]:
    """Whether an idle function keeps a replica, until when that is the answer, and why."""
    learnt = state.idle.learnt() if policy.keep_alive == "learnt" else None
    if learnt is None:
        kept, until = _until(idle_since + policy.downscale_to_zero_delay_s, now)
        return kept, until, _kept(kept)
    back, end = idle_since + learnt.from_s, idle_since + learnt.until_s
    if now < back:
        kept, until = _until(idle_since + min(policy.downscale_delay_s, learnt.from_s), now)
        return kept, until if kept else back, _kept(kept)
    kept, until = _until(end, now)
    return kept, until, "prewarm" if kept and learnt.from_s else _kept(kept)


def _until(end: float, now: float) -> tuple[bool, float]:
    return (True, end) if now < end else (False, math.inf)


def _kept(kept: bool) -> str:
    return "keep_alive" if kept else "scale_to_zero"


# Steps 2 to 4


def _limit_rate(demanded: int, sample: Sample, policy: Policy) -> int:
    """As knative: per decision the ready replicas may be multiplied, and the wanted ones divided, by so much."""
    current = sample.wanted
    if demanded > current:
        most = math.ceil((sample.ready or 1) * policy.max_scale_up_rate)
        return min(demanded, max(current, most))
    if demanded < current:
        return max(demanded, math.floor(current / policy.max_scale_down_rate))
    return demanded


def _delay(bounded: int, current: int, state: State, now: float, *, panic: bool) -> int:
    """More only after it was wanted for the upscale delay, fewer only after it was for the downscale delay.

    A burst and a first call do not wait. The last replica has its own delay, in the demand.
    """
    highest = state.highs.observe(bounded or 1, now)
    lowest = state.lows.observe(-bounded, now)
    if bounded == current:
        return current
    if bounded > current:
        return bounded if panic or not current else max(current, -int(lowest))
    if panic:
        return current
    if bounded == 0 and highest <= 1:
        return 0
    return min(current, int(highest))


def _last_word(rule: str, steps: tuple[int, int, int, int], schedules: tuple[str, ...], *, panic: bool) -> str:
    """The name of the last step that changed the number."""
    demanded, limited, bounded, wanted = steps
    if wanted != bounded:
        if wanted > bounded:
            return "panic" if panic else "downscale_delay"
        return "upscale_delay"
    if bounded != limited:
        if schedules:
            return "schedule"
        return "min_replicas" if bounded > limited else "max_replicas"
    return "rate_limit" if limited != demanded else rule
