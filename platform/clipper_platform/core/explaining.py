"""A scaling decision in words: why it is what it is, and what would change it."""

from __future__ import annotations

import math
from typing import NamedTuple

from clipper_platform.core.scaling import NOTHING, TOLERANCE, UTILISATION, Decision, Policy

__all__ = ["Explanation", "explain"]


class Explanation(NamedTuple):
    """`why` is a sentence; `steps` are the steps from the demand to the number; `change` says what would change it."""

    why: str
    steps: tuple[str, ...]
    change: tuple[str, ...]


def explain(made: Decision, policy: Policy, cores: int | None = None) -> Explanation:
    """`cores`: processor cores that the replicas share; None where they have their own."""
    return Explanation(_why(made, policy), _steps(made, policy), (*_change(made, policy), *_beyond(made, cores)))


def _beyond(made: Decision, cores: int | None) -> tuple[str, ...]:
    """More replicas than cores are right for a function that waits. Of one that calculates, each takes from the others,
    and its service time grows with their number; nothing here tells the one from the other."""
    if cores is None or made.wanted <= cores:
        return ()
    return (
        f"{_counted(made.wanted, 'replica')} share {_counted(cores, 'core')}: right for a function that waits (for "
        f"other services, disks, accelerators); for one that calculates, max_replicas = {cores} is as fast and takes "
        "less memory",
    )


def _why(made: Decision, policy: Policy) -> str:
    load, per = f"{_figure(made.load_stable)} queued and running", f"{made.target:g} per replica"
    worth = _replicas(made.need) + _near(made, policy)
    match made.rule:
        case "queue_depth" | "ongoing_requests":
            key = "target_queue_depth" if made.rule == "queue_depth" else "target_ongoing_requests"
            return f"{load} on average, {per} wanted ({key}): {worth}"
        case "capacity":
            return (
                f"{made.rate_per_s:.3g} invocations arrive per second and a replica carries "
                f"{made.capacity_per_s:.3g} at {UTILISATION:.0%}: {worth}"
            )
        case "latency":
            return (
                f"{made.rate_per_s:.3g} invocations arrive per second and a replica carries "
                f"{made.capacity_per_s:.3g} within latency_slo_s = {policy.latency_slo_s:g}: {worth}"
            )
        case "panic":
            return (
                f"a burst: the last {policy.panic_window_s:g} s asked for {_replicas(made.need_panic)} with "
                f"{made.ready} ready; nothing is taken away for {policy.stable_window_s:g} s"
            )
        case "cold_start":
            return f"{_counted(made.queued, 'invocation')} came while there was no replica"
        case "keep_alive":
            return f"idle for {made.idle_s:.3g} s; the last replica is kept for the next call"
        case "prewarm":
            return f"idle for {made.idle_s:.3g} s; at this time the next call is expected"
        case "scale_to_zero":
            return f"idle for {made.idle_s:.3g} s: longer than the last replica is kept"
        case "rate_limit":
            return f"{made.demanded} are needed, but one step leads no further than to {made.limited}"
        case "min_replicas" | "max_replicas":
            bound = made.floor if made.rule == "min_replicas" else made.ceiling
            return f"{made.demanded} are needed, but {made.rule} = {bound}"
        case "schedule":
            names = ", ".join(made.schedules)
            return f"{made.demanded} are needed, but the schedule {names} asks for {_range(made)}"
        case "upscale_delay":
            return f"{made.bounded} are needed, but not yet for upscale_delay_s = {policy.upscale_delay_s:g}"
        case _:
            return f"{made.bounded} would do, but not yet for downscale_delay_s = {policy.downscale_delay_s:g}"


def _replicas(need: float) -> str:
    return f"{_figure(need)} replicas' worth"


def _near(made: Decision, policy: Policy) -> str:
    """Where the tolerance is why the number is not the demand rounded up."""
    current = made.demanded - policy.buffer_replicas
    if made.need > NOTHING and current != math.ceil(made.need - NOTHING):
        return f", near enough to the {current} that there are"
    return ""


def _figure(number: float) -> str:
    return f"{number:.3g}" if number > NOTHING else "0"


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _range(made: Decision) -> str:
    return f"{made.floor} to {made.ceiling}"


def _steps(made: Decision, policy: Policy) -> tuple[str, ...]:
    buffered = f", {policy.buffer_replicas} of them buffer_replicas" if policy.buffer_replicas and made.demanded else ""
    return (
        f"demand {made.demanded} (stable {_figure(made.need)}, panic {_figure(made.need_panic)}{buffered})",
        f"rate limit {made.limited}",
        f"bounds {made.bounded} ({_range(made)})",
        f"delay {made.wanted}",
    )


def _change(made: Decision, policy: Policy) -> tuple[str, ...]:
    told = [*_by_option(made, policy)]
    if made.rule in ("queue_depth", "ongoing_requests", "capacity", "latency") and made.wanted < made.ceiling:
        by_depth = made.rule in ("queue_depth", "ongoing_requests")
        unit, what = (made.target, "queued and running") if by_depth else (made.capacity_per_s, "arrivals per second")
        current = max(1, made.wanted - policy.buffer_replicas)
        told.append(f"more replicas: above {current * (1 + TOLERANCE) * unit:.3g} {what}")
        if current > 1 and made.wanted > made.floor:
            fewer = (current - 1) * (1 - TOLERANCE) * unit
            told.append(f"fewer: below {fewer:.3g} {what} for {policy.downscale_delay_s:g} s")
    if math.isfinite(made.next_at) and made.next_at > made.at:
        told.append(f"without a call, the next look is in {made.next_at - made.at:.3g} s")
    return tuple(told)


def _by_option(made: Decision, policy: Policy) -> tuple[str, ...]:
    match made.rule:
        case "max_replicas":
            return (f"raise max_replicas above {made.ceiling}, or raise the target so that fewer are needed",)
        case "min_replicas":
            return (f"lower min_replicas below {made.floor}",)
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
        case "scale_to_zero":
            return ("a call starts a replica at once; min_replicas = 1 keeps one",)
    return ()
