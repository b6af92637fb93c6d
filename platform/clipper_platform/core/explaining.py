"""A scaling decision in words: the reason for the number, and what would change it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from clipper_platform.core.scaling import NOTHING, TOLERANCE, Decision, Policy
from clipper_platform.core.service import UTILISATION

__all__ = ["Explanation", "explain"]


class Explanation(NamedTuple):
    """`why` is a sentence; `steps` are the steps from the demand to the number; `change`: what would change it."""

    why: str
    steps: tuple[str, ...]
    change: tuple[str, ...]


def explain(decision: Decision, policy: Policy, cores: int | None = None) -> Explanation:
    """Explains a decision made with `policy`. `cores`: processor cores that the replicas share; None where each has its
    own."""
    change = (*_change(decision, policy), *_beyond(decision, cores))
    return Explanation(_why(decision, policy), _steps(decision, policy), change)


def _beyond(decision: Decision, cores: int | None) -> tuple[str, ...]:
    """A note where there are more replicas than cores. That is right for a function that waits. Replicas of one that
    calculates slow each other down, and nothing in a decision distinguishes the two."""
    if cores is None or decision.wanted <= cores:
        return ()
    return (
        f"{_counted(decision.wanted, 'replica')} share {_counted(cores, 'core')}: right for a function that waits (for "
        f"other services, disks, accelerators); for one that calculates, max_replicas = {cores} is as fast and takes "
        "less memory",
    )


def _why(decision: Decision, policy: Policy) -> str:
    needed = f"{decision.demanded} are needed, but"
    idle = f"idle for {decision.idle_s:.3g} s"
    match decision.rule:
        case "cold_start":
            return f"{_counted(decision.queued, 'invocation')} came while there was no replica"
        case "keep_alive":
            return f"{idle}; the last replica is kept for the next call"
        case "slow_start":
            return f"{idle}; callers did not wait for the last start to end, so that its replica is kept for a while"
        case "prewarm":
            return f"{idle}; at this time the next call is expected"
        case "scale_to_zero":
            return f"{idle}: longer than the last replica is kept"
        case "rate_limit":
            return f"{needed} one step leads no further than to {decision.limited}"
        case "min_replicas" | "max_replicas":
            bound = decision.floor if decision.rule == "min_replicas" else decision.ceiling
            return f"{needed} {decision.rule} = {bound}"
        case "schedule":
            return f"{needed} the schedule {', '.join(decision.schedules)} asks for {_range(decision)}"
        case "upscale_delay":
            return f"{decision.bounded} are needed, but not yet for upscale_delay_s = {policy.upscale_delay_s:g}"
        case "downscale_delay":
            return f"{decision.bounded} would do, but not yet for downscale_delay_s = {policy.downscale_delay_s:g}"
        case _:
            return _why_demanded(decision, policy)


def _why_demanded(decision: Decision, policy: Policy) -> str:
    """Where the demand itself had the last word."""
    worth = _replicas(decision.need) + _near(decision, policy)
    arriving = f"{decision.rate_per_s:.3g} invocations arrive per second and a replica carries"
    match decision.rule:
        case "capacity":
            return f"{arriving} {decision.capacity_per_s:.3g} at {UTILISATION:.0%}: {worth}"
        case "latency":
            slo_s = policy.latency_slo_s
            return f"{arriving} {decision.capacity_per_s:.3g} within latency_slo_s = {slo_s:g}: {worth}"
        case "panic":
            return (
                f"a burst: the last {policy.panic_window_s:g} s asked for {_replicas(decision.need_panic)} with "
                f"{decision.ready} ready; nothing is taken away for {policy.stable_window_s:g} s"
            )
        case rule:
            load, per = f"{_figure(decision.load_stable)} queued and running", f"{decision.target:g} per replica"
            return f"{load} on average, {per} wanted (target_{rule}): {worth}"


def _replicas(need: float) -> str:
    return f"{_figure(need)} replicas' worth"


def _near(decision: Decision, policy: Policy) -> str:
    """A note where the tolerance is the reason that the number is not the demand rounded up."""
    current = decision.demanded - policy.buffer_replicas
    if decision.need > NOTHING and current != math.ceil(decision.need - NOTHING):
        return f", near enough to the {current} that there are"
    return ""


def _figure(number: float) -> str:
    return f"{number:.3g}" if number > NOTHING else "0"


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _range(decision: Decision) -> str:
    return f"{decision.floor} to {decision.ceiling}"


def _steps(decision: Decision, policy: Policy) -> tuple[str, ...]:
    spare = policy.buffer_replicas if decision.demanded else 0
    buffered = f", {spare} of them buffer_replicas" if spare else ""
    return (
        f"demand {decision.demanded} (stable {_figure(decision.need)}, panic {_figure(decision.need_panic)}{buffered})",
        f"rate limit {decision.limited}",
        f"bounds {decision.bounded} ({_range(decision)})",
        f"delay {decision.wanted}",
    )


def _change(decision: Decision, policy: Policy) -> tuple[str, ...]:
    changes = [*_by_option(decision, policy), *_by_load(decision, policy)]
    if math.isfinite(decision.next_at) and decision.next_at > decision.at:
        changes.append(f"without a call, the next look is in {decision.next_at - decision.at:.3g} s")
    return tuple(changes)


def _by_load(decision: Decision, policy: Policy) -> Iterator[str]:
    """The loads at which the number changes."""
    if decision.wanted >= decision.ceiling:
        return
    if decision.rule in ("queue_depth", "ongoing_requests"):
        unit, what = decision.target, "queued and running"
    elif decision.rule in ("capacity", "latency"):
        unit, what = decision.capacity_per_s, "arrivals per second"
    else:
        return
    current = max(1, decision.wanted - policy.buffer_replicas)
    yield f"more replicas: above {current * (1 + TOLERANCE) * unit:.3g} {what}"
    if current > 1 and decision.wanted > decision.floor:
        fewer = (current - 1) * (1 - TOLERANCE) * unit
        yield f"fewer: below {fewer:.3g} {what} for {policy.downscale_delay_s:g} s"


def _by_option(decision: Decision, policy: Policy) -> tuple[str, ...]:
    match decision.rule:
        case "max_replicas":
            return (f"raise max_replicas above {decision.ceiling}, or raise the target so that fewer are needed",)
        case "min_replicas":
            return (f"lower min_replicas below {decision.floor}",)
        case "schedule":
            return ("change the schedule's bounds, or wait until its window closes",)
        case "rate_limit":
            return (f"max_scale_up_rate = {policy.max_scale_up_rate:g}, "
                    f"max_scale_down_rate = {policy.max_scale_down_rate:g}",)  # fmt: skip
        case "upscale_delay":
            return ("lower upscale_delay_s, or wait while the demand lasts",)
        case "downscale_delay":
            return ("lower downscale_delay_s, or wait while the demand stays low",)
        case "panic":
            return (f"wait {policy.stable_window_s:g} s without a burst, or raise panic_threshold",)
        case "keep_alive":
            return ("lower downscale_to_zero_delay_s to give the last replica up sooner",)
        case "slow_start":
            return (
                "raise timeout_s above what a start takes, make it shorter, or keep a replica with min_replicas = 1",
            )
        case "scale_to_zero":
            return ("a call starts a replica at once; min_replicas = 1 keeps one",)
    return ()
