"""What a queue looks like from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from clipper_platform.backends.base import StartError
from clipper_platform.core.pooling import ReplicaState
from clipper_platform.core.scaling import LATE_SHARE, Sample, Service
from clipper_platform.metrics import Metrics
from clipper_platform.serving.base import FunctionState, FunctionStatus, ReplicaStatus, Target
from clipper_platform.serving.cache import InvocationCache
from clipper_platform.serving.endpoint import Endpoint
from clipper_platform.serving.function_queue import FunctionQueue

__all__ = ["function_sample", "function_status", "observe_queues", "start_hint"]

LOG_LINES = 10
_new: Final = tuple.__new__


def observe_queues(metrics: Metrics, queues: Callable[[], Iterable[FunctionQueue]]) -> None:
    """Have the gauges of all queues read whenever somebody looks."""

    def each(read: Callable[[FunctionQueue], int]) -> Callable[[], Iterator[tuple[tuple[str, ...], float]]]:
        return lambda: ((queue.instruments.labels, read(queue)) for queue in queues())

    metrics.queue_depth.callback = each(lambda queue: queue.waiting.live)
    metrics.running.callback = each(lambda queue: queue.running)
    metrics.batch_limit.callback = each(_batch_limit)
    metrics.replicas.callback = lambda: (
        ((*queue.instruments.labels, state.value), queue.pool.state.count(state))
        for queue in queues()
        for state in ReplicaState
    )


def _batch_limit(queue: FunctionQueue) -> int:
    return max((handle.controller.limit for handle in queue.pool.handles.values()), default=0)


def function_sample(queue: FunctionQueue, now: float) -> Sample | None:
    """What the autoscaler decides by; None while someone waits for replicas to be ready."""
    if queue.held:
        return None
    pool, slo_s = queue.pool.state, queue.slo_s
    handles = queue.pool.handles
    # As Sample(…) does, at half the cost: it is made 20,000 times a second where 10,000 functions have load.
    made: Sample = _new(Sample, (
        queue.waiting.live, queue.running, pool.wanted, pool.ready, pool.starting, queue.submitted, queue.idle_since,
        slo_s is not None and queue.latency.above(slo_s, now) > LATE_SHARE,
        _service(handles), bool(pool.failed) and not handles,
    ))  # fmt: skip
    return made


def _service(handles: Mapping[str, Endpoint]) -> Service | None:
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


def function_status(queue: FunctionQueue, now: float, cache: InvocationCache) -> FunctionStatus:
    state, reason = _state(queue)
    handles = queue.pool.handles
    ready = next(iter(handles.values()), None)
    replicas = []
    for member in queue.pool.state.members.values():
        handle = handles.get(member.id)
        replicas.append(
            ReplicaStatus(
                id=member.id,
                state=member.state.value,
                details=handle.replica.details if handle else {},
                version=queue.target.id.version,
                started_at=handle.started_at if handle else 0.0,
                invocations=handle.answered if handle else 0,
                in_flight=handle.load if handle else 0,
                memory_bytes=handle.replica.memory_bytes() if handle else None,
            )
        )
    return FunctionStatus(
        id=queue.target.id,
        state=state,
        reason=reason,
        schema=ready.ready.schema if ready else None,
        queue_depth=queue.waiting.live,
        running=queue.running,
        replicas_wanted=queue.pool.state.wanted,
        restarts=queue.pool.state.restarts,
        replicas=tuple(replicas),
        p50_s=queue.answers.quantile(0.5, now),
        p99_s=queue.answers.quantile(0.99, now),
        rate_per_s=queue.answers.rate(now),
        cache_hits=queue.cache_hits,
        cache_misses=queue.cache_misses,
        cache_bytes=cache.results.owned_bytes(queue.name),
        snapshot=queue.pool.snapshot(),
    )


def _state(queue: FunctionQueue) -> tuple[FunctionState, str]:
    pool = queue.pool.state
    ready = pool.count(ReplicaState.READY)
    lines = queue.pool.start_error.log[-LOG_LINES:] if queue.pool.start_error else []
    tail = "".join(f"\n  {line}" for line in lines)
    if pool.failed and not ready:
        return "failed", pool.failed + tail
    if queue.closed:
        return "stopped", queue.closed
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
