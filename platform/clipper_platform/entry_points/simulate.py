"""`clip policy simulate`: an autoscaling policy under a load, on a virtual clock."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from clipper.contract.spec import AutoscalingPolicy
from clipper_platform.control.scaling.schedules import Plan
from clipper_platform.core import simulation
from clipper_platform.errors import ClipperError

__all__ = ["simulate"]

_PATTERNS = {"ramp": simulation.ramp, "spike": simulation.spike, "diurnal": simulation.diurnal}


def simulate(
    policy: Mapping[str, Any],
    function: Mapping[str, Any],
    load: Mapping[str, Any],
    *,
    begins_at: float,
    duration_s: float,
    latency_slo_s: float | None,
    rows: int,
) -> dict[str, Any]:
    """{"summary", "rows", "decisions"} of a simulation, or {"error": {"code", "message", …}}.

    `policy` is `AutoscalingPolicy.to_dict()`, `function` the fields of `core.simulation.Function`. `load` is either
    {"times"}: the calls, in seconds from 0; or {"times", "rates", "seed"}: calls per second from each time on; or
    {"pattern", "peak", "seed"}. `begins_at` is the Unix time of second 0, for schedules.
    """
    try:
        plan = Plan(AutoscalingPolicy.parse(policy, where="policy"), latency_slo_s, lambda: begins_at)
    except ClipperError as error:
        return {"error": {**error.details, "code": error.code, "message": str(error)}}
    run = simulation.simulate(
        simulation.Function(**function), plan.at, _calls(load, duration_s), duration_s=duration_s, rows=rows
    )
    return {
        "summary": run.summary._asdict(),
        "rows": [row._asdict() for row in run.rows],
        "decisions": [decision._asdict() for decision in run.decisions],
    }


def _calls(load: Mapping[str, Any], duration_s: float) -> Iterator[float]:
    if "pattern" in load:
        peak = load["peak"]
        rate = _PATTERNS[load["pattern"]](peak, duration_s)
    elif "rates" in load:
        peak = max(load["rates"])
        rate = _piecewise(load["times"], load["rates"])
    else:
        return iter(load["times"])
    return simulation.arrivals(rate, peak, duration_s, Random(load["seed"]))


def _piecewise(times: Sequence[float], rates: Sequence[float]) -> Callable[[float], float]:
    return lambda at: rates[max(0, bisect_right(times, at) - 1)]
