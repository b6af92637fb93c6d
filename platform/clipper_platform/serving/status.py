"""What a lane looks like from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from clipper_platform.backends.base import StartError
from clipper_platform.core.pooling import ReplicaState
from clipper_platform.core.scaling import LATE_SHARE, Sample, Service
from clipper_platform.metrics import Metrics
from clipper_platform.serving.base import FunctionState, FunctionStatus, ReplicaStatus, Target
from clipper_platform.serving.cache import InvocationCache
from clipper_platform.serving.lane import Lane
from clipper_platform.serving.replica import ReplicaHandle

__all__ = ["lane_sample", "lane_status", "show_lanes", "start_hint"]

LOG_LINES = 10
_new: Final = tuple.__new__


def show_lanes(metrics: Metrics, lanes: Callable[[], Iterable[Lane]]) -> None:
    """Have the gauges of all lanes read whenever somebody looks."""

    def each(read: Callable[[Lane], int]) -> Callable[[], Iterator[tuple[tuple[str, ...], float]]]:
        return lambda: ((lane.instruments.labels, read(lane)) for lane in lanes())

    metrics.queue_depth.callback = each(lambda lane: lane.queue.live)
    metrics.running.callback = each(lambda lane: lane.running)
    metrics.batch_limit.callback = each(_batch_limit)
    metrics.replicas.callback = lambda: (
        ((*lane.instruments.labels, state.value), lane.pool.state.count(state))
        for lane in lanes()
        for state in ReplicaState
    )


def _batch_limit(lane: Lane) -> int:
    return max((handle.controller.limit for handle in lane.pool.handles.values()), default=0)


def lane_sample(lane: Lane, now: float) -> Sample | None:
    """What the autoscaler decides by; None while someone waits for replicas to be ready."""
    if lane.held:
        return None
    pool, slo_s = lane.pool.state, lane.slo_s
    handles = lane.pool.handles
    # As Sample(…) does, at half the cost: it is made 20,000 times a second where 10,000 functions have load.
    made: Sample = _new(Sample, (
        lane.queue.live, lane.running, pool.wanted, pool.ready, pool.starting, lane.submitted, lane.idle_since,
        slo_s is not None and lane.latency.above(slo_s, now) > LATE_SHARE,
        _service(handles), bool(pool.failed) and not handles,
    ))  # fmt: skip
    return made


def _service(handles: Mapping[str, ReplicaHandle]) -> Service | None:
    """What executions take, by the replica that answered most. None before the first, and where a replica works on
    several calls at once: what one takes is not seen from outside then."""
    if not handles:
        return None
    if len(handles) == 1:
        (handle,) = handles.values()
    else:
        handle = max(handles.values(), key=lambda h: h.answered)
    if handle.concurrency > 1:
        return None
    controller = handle.controller
    costs = controller.costs()
    return None if costs is None else _new(Service, (*costs, controller.limit, 1))


def lane_status(lane: Lane, now: float, cache: InvocationCache) -> FunctionStatus:
    state, reason = _state(lane)
    handles = lane.pool.handles
    ready = next(iter(handles.values()), None)
    replicas = []
    for member in lane.pool.state.members.values():
        handle = handles.get(member.id)
        replicas.append(
            ReplicaStatus(
                id=member.id,
                state=member.state.value,
                pid=handle.replica.pid if handle else None,
                version=lane.target.id.version,
                started_at=handle.started_at if handle else 0.0,
                invocations=handle.answered if handle else 0,
                in_flight=handle.load if handle else 0,
                memory_bytes=handle.replica.memory_bytes() if handle else None,
            )
        )
    return FunctionStatus(
        id=lane.target.id,
        state=state,
        reason=reason,
        schema=ready.ready.schema if ready else None,
        queue_depth=lane.queue.live,
        running=lane.running,
        replicas_wanted=lane.pool.state.wanted,
        restarts=lane.pool.state.restarts,
        replicas=tuple(replicas),
        p50_s=lane.answers.quantile(0.5, now),
        p99_s=lane.answers.quantile(0.99, now),
        rate_per_s=lane.answers.rate(now),
        cache_hits=lane.cache_hits,
        cache_misses=lane.cache_misses,
        cache_bytes=cache.results.owned_bytes(lane.name),
        snapshot=lane.pool.snapshot(),
    )


def _state(lane: Lane) -> tuple[FunctionState, str]:
    pool = lane.pool.state
    ready = pool.count(ReplicaState.READY)
    lines = lane.pool.start_error.log[-LOG_LINES:] if lane.pool.start_error else []
    tail = "".join(f"\n  {line}" for line in lines)
    if pool.failed and not ready:
        return "failed", pool.failed + tail
    if lane.closed:
        return "stopped", lane.closed
    if ready >= pool.wanted:
        return "ready", ""
    why = f"the last replica ended: {pool.last_failure}{tail}" if pool.last_failure else "replicas are starting"
    return ("degraded" if ready else "starting"), why


def start_hint(target: Target, error: StartError) -> str:
    """What to do about a replica that did not start."""
    name = target.id.function
    match error.phase:
        case "timeout":
            return (
                f"setup took longer than startup_timeout_s = {target.spec.startup_timeout_s:g}; raise it in "
                f"[functions.{name}], or load less in __init__"
            )
        case "import" if error.error_type in ("ModuleNotFoundError", "ImportError"):
            return "add the missing package to requirements in clip.toml, or the missing file to the project"
        case "import" | "load":
            return f"the entrypoint {target.spec.entrypoint!r} could not be loaded; the traceback says where"
        case "schema":
            return "correct the function's type hints; every parameter of a batched function is a list"
        case "setup":
            return f"{name}'s __init__ raised; the traceback says where"
        case _:
            return "the replica's process ended before it was ready; its last lines are above"
