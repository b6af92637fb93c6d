"""How many replicas a function should have: demand → rate limit → bounds → delay, as named steps.

The demand is knative's: the load per replica, averaged over a stable window, and over a panic window that notices a
burst. Two things are added. What is known of the service time: replicas that suffice for the arrivals inside the
objective are enough however deep a batch's queue looks, and no fewer are kept than can carry the arrivals, however
short the queue is; by depth alone a function would swing between too few replicas, whose queue grows, and too many,
whose queue is empty. And a tolerance: a demand that is within 10% of what there is changes nothing.

A platform with 10,000 busy functions decides 20,000 times a second, in 6 µs each with the sample
(`python -m tests.benchmarks.deciding`): so results are built by position, what two steps have in common is calculated
once, and steps that cannot change the number are not taken. A state that is a value costs 1 µs of these: one that is
changed in place took 5 µs.

A demand is a number of replicas with a fraction ("need"); 2.3 replicas' worth of load need 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple, overload

from clipper.contract.policies import AutoscalingPolicy
from clipper_platform.core.averages import SlidingAverages, SlidingMax
from clipper_platform.core.keepalive import IdleTimes
from clipper_platform.core.schedule import Bounds, Window, bounds
from clipper_platform.core.service import UTILISATION, Service, capacity, latency_capacity

__all__ = [
    "LATE_SHARE",
    "NOTHING",
    "TOLERANCE",
    "Decision",
    "NoData",
    "Policy",
    "Sample",
    "State",
    "decide",
]

# Kubernetes' tolerance: averages of a constant load differ by less than this, and nothing flaps.
TOLERANCE: Final = 0.1
LATE_SHARE: Final = 0.01  # of the answers: where more of them are beyond the objective, the 99th percentile is
_new: Final = tuple.__new__
NOTHING: Final = 1e-9  # rounding errors of a load that ended are below this
_STARTING_LOOK_S: Final = 0.5  # how often to look whether a replica that nobody waits for any more is ready
# Where calls do not wait as long as a start takes, the last replica stays for so many starts, and at least for so long:
# with less, each call would begin a start that the next one finds ended.
_SLOW_STARTS: Final = 2.0
_SLOW_START_LEAST_S: Final = 10.0
_RATE_PERIOD_S: Final = 0.2  # arrivals of a shorter time are not taken for a rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(AutoscalingPolicy):
    """A checked autoscaling policy at a time: `windows` are those that its schedules open now and next."""

    latency_slo_s: float | None = None
    windows: tuple[Window, ...] = ()


class Sample(NamedTuple):
    """Load and replica counts at one instant. `arrivals`: invocations admitted since the start.

    `idle_since`: None while invocations wait or run.
    `late`: the 99th percentile of the recent latencies is beyond the objective. `failed`: the pool stopped starting
    replicas after failures. `missed_start_s`: how long the latest start took, where callers did not wait for its end.
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
    missed_start_s: float = 0.0


class NoData(NamedTuple):
    """There is nothing to decide by: the wanted number stays."""

    reason: str


class Decision(NamedTuple):
    """The number of replicas from now on, and all that it was decided by.

    `rule` is the last step that changed the number. `next_at`: when to decide again unless a call comes before; `at`
    while there is load.
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


class Arrivals(NamedTuple):
    """The arrivals counted at a time, and their rate per second until then; None before two readings."""

    at: float
    total: int = 0
    rate: float | None = None


class State(NamedTuple):
    """What one decision leaves for the next: about 2 KiB while there is load, 1 KiB otherwise.

    `idle` is read here; its owner counts in it (`keepalive.IdleWatch`).
    """

    averages: SlidingAverages
    arrivals: Arrivals
    highs: SlidingMax  # of the numbers of replicas that the bounds left
    lows: SlidingMax  # of the same, negated: the lowest
    panic_until: float
    idle: IdleTimes

    @classmethod
    def initial(cls, policy: Policy, wanted: int, now: float, idle: IdleTimes | None = None) -> State:
        """Before the first decision, with `wanted` replicas."""
        return cls(
            SlidingAverages.over(policy.stable_window_s, policy.panic_window_s),
            Arrivals(now),
            SlidingMax(policy.downscale_delay_s, now, wanted),
            SlidingMax(policy.upscale_delay_s, now, -wanted),
            -math.inf,
            idle or IdleTimes(),
        )


class _Demand(NamedTuple):
    """Step 1: the demand by the averages of the stable and of the panic window, in replicas, and what it comes from."""

    need: float
    need_panic: float
    rule: str
    load_stable: float
    load_panic: float
    rate_per_s: float
    capacity_per_s: float
    target: float


@overload
def decide(sample: Sample | None, policy: Policy, state: State, now: float) -> tuple[Decision | NoData, State]: ...
@overload
def decide(
    sample: Sample | None, policy: Policy, state: State, now: float, *, quiet: bool
) -> tuple[Decision | NoData | None, State]: ...
def decide(
    sample: Sample | None, policy: Policy, state: State, now: float, *, quiet: bool = False
) -> tuple[Decision | NoData | None, State]:
    """The number of replicas from now on, and the state for the next decision.

    `now` and all other times are monotonic seconds. The decision is within the bounds that hold now, whatever the
    load; with everything else equal, more load never leads to fewer replicas. With `quiet`, None stands for the usual
    decision, which leaves a function with load as it is: building it costs 1 µs, and most callers do not read it.
    """
    if sample is None:
        return NoData("the function is not running"), state
    if sample.failed:
        return NoData("its replicas do not start, more of them would not either"), state
    averages, arrivals, highs, lows, panic_until, idle = state
    demand, averages, arrivals = _demand(sample, policy, averages, arrivals, now)
    need, need_panic, rule = demand[:3]
    if need_panic >= policy.panic_threshold * (sample.ready or 1):
        panic_until = now + policy.stable_window_s  # too much load for the ready replicas to wait for the average
    panic, current, floor, ceiling = now < panic_until, sample.wanted, policy.min_replicas, policy.max_replicas
    limits = bounds(floor, ceiling, policy.windows, now) if policy.windows else None
    if limits is not None:
        floor, ceiling, _, _ = limits
    usual = sample.idle_since is None and not panic and floor <= current <= ceiling and _holds(need, current, policy)
    if usual:
        _, highs = highs.observe(current, now)
        _, lows = lows.observe(-current, now)
        state = _new(State, (averages, arrivals, highs, lows, panic_until, idle))
        if quiet:
            return None, state
        steps, idle_until = (current, current, current, current), math.inf
    else:
        demanded, rule, idle_until = _demanded(demand, sample, policy, idle, now, panic=panic)
        limited = _limit_rate(demanded, sample, policy)
        bounded = _clamped(limited, floor, ceiling)
        wanted, highs, lows = _delay(bounded, current, highs, lows, now, panic=panic)
        state = _new(State, (averages, arrivals, highs, lows, panic_until, idle))
        steps = demanded, limited, bounded, _clamped(wanted, floor, ceiling)
    return _decision(sample, demand, steps, rule, limits or Bounds(floor, ceiling), idle_until, now, panic=panic), state


def _clamped(value: int, floor: int, ceiling: int) -> int:
    return floor if value < floor else ceiling if value > ceiling else value


def _decision(
    sample: Sample, demand: _Demand, steps: tuple[int, int, int, int], rule: str, limits: Bounds, idle_until: float,
    now: float, *, panic: bool,
) -> Decision:  # fmt: skip
    queued, running, current, ready, _, _, idle_since, _, _, _, _ = sample
    need, need_panic, _, load, load_panic, rate_per_s, capacity_per_s, target = demand
    demanded, limited, bounded, wanted = steps
    floor, ceiling, until, names = limits
    next_at, idle_s = now, 0.0
    if idle_since is not None:
        idle_s = now - idle_since
        if not panic and need < NOTHING and wanted == limits.clamp(demanded):
            next_at = min(idle_until, until)
    rule = _last_word(rule, steps, names, panic=panic)
    # As Decision(…) does, at half the cost of passing so many parameters.
    decision: Decision = _new(Decision, (
        now, wanted, current, rule, queued, running, ready, target, load, load_panic, rate_per_s, capacity_per_s, need,
        need_panic, demanded, limited, bounded, floor, ceiling, panic, idle_s, next_at, names,
    ))  # fmt: skip
    return decision


# Step 1: demand


def _demand(
    sample: Sample, policy: Policy, averages: SlidingAverages, arrivals: Arrivals, now: float
) -> tuple[_Demand, SlidingAverages, Arrivals]:
    queued, running, _, ready, _, total, idle_since, late, service, _, _ = sample
    if not ready and idle_since is None:
        # Nothing is answered yet: the load is what is here now, not the silence before it.
        averages = averages.cleared()
    if now - arrivals.at >= _RATE_PERIOD_S:
        seen = (total - arrivals.total) / (now - arrivals.at)
        if arrivals.rate is None:
            averages = averages.presume(seen)
        arrivals = _new(Arrivals, (now, total, seen))
    if policy.target_ongoing_requests is None:
        target, rule, load = policy.target_queue_depth, "queue_depth", queued + running
    else:
        target, rule = policy.target_ongoing_requests, "ongoing_requests"
        # What waits counts once no replica could run it: until then it waits for its turn or for company.
        load = running + queued if running >= target * ready else running
    stable, burst, rate, rate_panic, averages = averages.observe(load, arrivals.rate or 0.0, now)
    need, panic = stable / target, burst / target
    if service is None:
        rate = per_replica = 0.0
    elif policy.latency_slo_s is None:
        per_replica = capacity(service) * UTILISATION
        panic = max(panic, rate_panic / per_replica)
        if rate / per_replica > need:
            need, rule = rate / per_replica, "capacity"
    else:
        per_replica = latency_capacity(service, policy.latency_slo_s)
        if not late:
            # The objective is kept, so the service time decides and not the depth. The queue has to be worked off
            # inside the objective, on top of the arrivals.
            need, rule, panic = rate / per_replica, "latency", rate_panic / per_replica
            if queued:
                panic += queued / (capacity(service) * policy.latency_slo_s)
        elif rate / per_replica > need:
            need, rule = rate / per_replica, "latency"
    demand: _Demand = _new(_Demand, (need, panic, rule, stable, burst, rate, per_replica, target))
    return demand, averages, arrivals


def _demanded(
    demand: _Demand, sample: Sample, policy: Policy, idle: IdleTimes, now: float, *, panic: bool
) -> tuple[int, str, float]:
    """Whole replicas, the rule they come from, and until when an idle function's answer holds."""
    spare, rule, idle_until = policy.buffer_replicas, demand.rule, math.inf
    kept = _holds(demand.need, sample.wanted, policy)
    count = sample.wanted - spare if kept else math.ceil(demand.need - NOTHING)
    if panic and demand.need_panic - NOTHING > count:
        count, rule = math.ceil(demand.need_panic - NOTHING), "panic"
    if sample.idle_since is None:
        if not sample.wanted:
            rule = "cold_start"
        count = count or 1
    elif count <= 1:
        kept, idle_until, rule = _keep_alive(sample.idle_since, policy, idle, now)
        if not kept and sample.starting and not sample.ready:  # a replica that was started for a call may become ready
            kept, idle_until, rule = True, now + _STARTING_LOOK_S, "keep_alive"
        elif not kept and sample.wanted and sample.missed_start_s:
            kept, idle_until = _until(sample.idle_since + _slow_start_s(sample.missed_start_s), now)
            rule = "slow_start" if kept else rule
        count = int(kept)
    return (count + spare if count else 0), rule, idle_until


def _holds(need: float, wanted: int, policy: Policy) -> bool:
    """Whether the demand is within the tolerance of what is wanted already."""
    current = wanted - policy.buffer_replicas
    return current > 0 and (current - 1) * (1 - TOLERANCE) < need <= current * (1 + TOLERANCE)


def _keep_alive(idle_since: float, policy: Policy, idle: IdleTimes, now: float) -> tuple[bool, float, str]:
    """Whether an idle function keeps a replica, until when that holds, and the rule."""
    learnt = idle.learnt() if policy.keep_alive == "learnt" else None
    if learnt is None:
        kept, until = _until(idle_since + policy.downscale_to_zero_delay_s, now)
        return kept, until, _kept(kept)
    back, end = idle_since + learnt.from_s, idle_since + learnt.until_s
    if now < back:
        kept, until = _until(idle_since + min(policy.downscale_delay_s, learnt.from_s), now)
        return kept, until if kept else back, _kept(kept)
    kept, until = _until(end, now)
    return kept, until, "prewarm" if kept and learnt.from_s else _kept(kept)


def _slow_start_s(start_s: float) -> float:
    return max(_SLOW_START_LEAST_S, _SLOW_STARTS * start_s)


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


def _delay(
    bounded: int, current: int, highs: SlidingMax, lows: SlidingMax, now: float, *, panic: bool
) -> tuple[int, SlidingMax, SlidingMax]:
    """More only after it was wanted for the upscale delay, fewer only after it was for the downscale delay.

    A burst and a first call do not wait. The last replica has its own delay, in the demand.
    """
    highest, highs = highs.observe(bounded or 1, now)
    lowest, lows = lows.observe(-bounded, now)
    wanted = current
    if bounded > current:
        wanted = bounded if panic or not current else max(current, -int(lowest))
    elif bounded < current and not panic:
        wanted = 0 if bounded == 0 and highest <= 1 else min(current, int(highest))
    return wanted, highs, lows


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
