"""What is known of a function version that runs: the facts of its queue and of its replica set, put together.

The one place that looks at both: for the autoscaler (`ScaledFunctions`), and for the API and deploys (`FunctionFacts`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

from clipper_platform.backends.base import SnapshotState
from clipper_platform.clock import Clock
from clipper_platform.core.batching import BUDGET_FRACTION
from clipper_platform.core.canary import Answers
from clipper_platform.core.pooling import ReplicaState
from clipper_platform.core.scaling import LATE_SHARE, Sample
from clipper_platform.core.service import Service
from clipper_platform.replicas.replica_set import ReplicaSet
from clipper_platform.replicas.replica_sets import ReplicaSets
from clipper_platform.serving.batch_waits import Waits
from clipper_platform.serving.dispatcher import Dispatcher
from clipper_platform.serving.endpoint import Endpoint
from clipper_platform.serving.function_queue import FunctionQueue
from clipper_platform.types import FunctionId

__all__ = ["FunctionBatches", "FunctionFacts", "FunctionState", "FunctionStatus", "ReplicaStatus", "ScaledFunctions"]

LOG_LINES: Final = 10
_new: Final = tuple.__new__

FunctionState = Literal["ready", "starting", "degraded", "failed", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    id: str
    state: str  # core.pooling.ReplicaState
    details: Mapping[str, Any]  # backends.base.Replica.details
    version: int
    started_at: float  # Unix seconds
    invocations: int
    in_flight: int
    memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionStatus:
    """`reason`: why the function is not ready, with the last log lines of the replica that failed."""

    id: FunctionId
    state: FunctionState
    reason: str
    schema: Mapping[str, Any] | None
    queue_depth: int
    running: int
    replicas_wanted: int
    restarts: int
    replicas: tuple[ReplicaStatus, ...]
    p50_s: float | None
    p99_s: float | None
    rate_per_s: float
    cache_hits: int
    cache_misses: int
    cache_bytes: int
    snapshot: SnapshotState | None = None

    @property
    def replicas_ready(self) -> int:
        return sum(r.state == "ready" for r in self.replicas)


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionBatches:
    """How a batched function's batches are made. Times in seconds.

    limit: the size that is allowed now, by the `policy`; budget_s: what a batch may take of the objective, None without
    one. base_s, per_item_s: a batch of n should run for base + n · per item; None before the first. sent: batches by
    the reason why they were sent (`serving.batch_waits.Sent`). waits, waited_s, joined: how many batches waited for
    company, for how long in all, and how many invocations came meanwhile. returning: whether the same callers seem to
    come back after each answer.
    """

    policy: str
    limit: int
    max_batch_size: int
    budget_s: float | None
    base_s: float | None
    per_item_s: float | None
    adaptive: bool
    returning: bool
    sent: Mapping[str, int]
    batches: int
    invocations: int
    waits: int
    waited_s: float
    joined: int


class FunctionFacts:
    """Status and answers of function versions."""

    def __init__(self, dispatcher: Dispatcher, replica_sets: ReplicaSets, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._replica_sets = replica_sets
        self._clock = clock

    def status(self, id: FunctionId) -> FunctionStatus | None:
        """None where the function version is not running."""
        queue, replicas = self._dispatcher.queue(id), self._replica_sets.get(id)
        if queue is None or replicas is None:
            return None
        cache_bytes = self._dispatcher.cache.results.owned_bytes(queue.cached_as)
        return function_status(queue, replicas, self._clock.monotonic(), cache_bytes)

    def answers(self, id: FunctionId) -> Answers:
        """What callers of a function version got since it started; the p99 is that of recent answers."""
        queue, replicas = self._dispatcher.queue(id), self._replica_sets.get(id)
        if queue is None or replicas is None:
            return Answers()
        answered, failed = queue.metrics.totals()
        return Answers(
            answered=answered,
            failed=failed,
            p99_s=queue.latency.quantile(0.99, self._clock.monotonic()),
            broken=bool(replicas.state.failed) and not replicas.running,
        )

    def batches(self, id: FunctionId) -> FunctionBatches | None:
        """None where the function version is not running, or is not batched."""
        queue = self._dispatcher.queue(id)
        return None if queue is None or not queue.spec.batched else _function_batches(queue)


class ScaledFunctions:
    """Implements `autoscaler.ScaleTarget`."""

    def __init__(self, dispatcher: Dispatcher, replica_sets: ReplicaSets) -> None:
        self._dispatcher = dispatcher
        self.scale = replica_sets.scale
        self._replica_sets = replica_sets

    def sampler(self, id: FunctionId) -> Callable[[float], Sample | None]:
        queue, replicas = self._dispatcher.queue(id), self._replica_sets.get(id)
        if queue is None or replicas is None:
            return lambda _: None
        return partial(function_sample, queue, replicas)

    def on_call(self, id: FunctionId, callback: Callable[[FunctionId], None] | None) -> None:
        queue = self._dispatcher.queue(id)
        if queue is not None:
            queue.on_call = callback


def function_sample(queue: FunctionQueue, replicas: ReplicaSet, now: float) -> Sample | None:
    """What the autoscaler decides by; None while a deploy waits for the replicas to be ready."""
    if replicas.held:
        return None
    pool, slo_s = replicas.state, queue.spec.latency_slo_s
    endpoints = queue.endpoints.by_id
    idle_since = queue.idle_since
    if idle_since is not None and queue.submitted and pool.ready_at > idle_since:
        idle_since = pool.ready_at  # its call did not wait so long
    unbegun = queue.endpoints.unbegun if queue.running else 0
    running = queue.running - unbegun
    if queue.background:  # it takes what is idle, and asks for no replica
        running = max(0, running - queue.background)
    # As Sample(…) does, at half the cost: 20,000 are made per second where 10,000 functions have load.
    sample: Sample = _new(Sample, (
        queue.waiting.live + unbegun, running, pool.wanted, pool.ready, pool.starting, queue.submitted,
        idle_since,
        slo_s is not None and queue.latency.above(slo_s, now) > LATE_SHARE,
        _service(endpoints), bool(pool.failed) and not endpoints,
        pool.start_s if queue.missed_start else 0.0,
    ))  # fmt: skip
    return sample


def _service(endpoints: Mapping[str, Endpoint]) -> Service | None:
    """What executions take, by the replica that answered most. None before the first execution, and where a replica
    works on several calls at once: the duration of one cannot be seen from outside then."""
    if not endpoints:
        return None
    if len(endpoints) == 1:
        (endpoint,) = endpoints.values()
    else:
        endpoint = max(endpoints.values(), key=lambda e: e.answered)
    if endpoint.concurrency > 1:
        return None
    controller = endpoint.controller
    costs = controller.costs()
    return None if costs is None else _new(Service, (*costs, controller.limit, 1))


def _function_batches(queue: FunctionQueue) -> FunctionBatches:
    spec, batcher = queue.spec, queue.batcher
    waits = batcher.waits or Waits()
    endpoint = max(queue.endpoints.by_id.values(), key=lambda e: e.answered, default=None)
    costs = endpoint.controller.costs() if endpoint is not None else None
    slo_s = spec.latency_slo_s
    return FunctionBatches(
        policy=spec.effective_batch_policy,
        limit=queue.endpoints.batch_limit,
        max_batch_size=spec.max_batch_size,
        budget_s=None if slo_s is None else slo_s * BUDGET_FRACTION,
        base_s=costs[0] if costs else None,
        per_item_s=costs[1] if costs else None,
        adaptive=spec.batch_wait_timeout_s is None,
        returning=batcher.returning,
        sent={str(reason): n for reason, n in waits.sent.items()},
        batches=sum(waits.sent.values()),
        invocations=waits.invocations,
        waits=waits.count,
        waited_s=waits.seconds,
        joined=waits.joined,
    )


def function_status(queue: FunctionQueue, replicas: ReplicaSet, now: float, cache_bytes: int) -> FunctionStatus:
    state, reason = _state(queue, replicas)
    ready = next(iter(replicas.running.values()), None)
    return FunctionStatus(
        id=queue.target.id,
        state=state,
        reason=reason,
        schema=ready.replica.ready.schema if ready else None,
        queue_depth=queue.depth,
        running=queue.begun,
        replicas_wanted=replicas.state.wanted,
        restarts=replicas.state.restarts,
        replicas=tuple(_replica_statuses(queue, replicas)),
        p50_s=queue.answers.quantile(0.5, now),
        p99_s=queue.answers.quantile(0.99, now),
        rate_per_s=queue.answers.rate(now),
        cache_hits=queue.cache_hits,
        cache_misses=queue.cache_misses,
        cache_bytes=cache_bytes,
        snapshot=replicas.snapshot(),
    )


def _replica_statuses(queue: FunctionQueue, replicas: ReplicaSet) -> list[ReplicaStatus]:
    statuses = []
    for member in replicas.state.members.values():
        running, endpoint = replicas.running.get(member.id), queue.endpoints.by_id.get(member.id)
        statuses.append(
            ReplicaStatus(
                id=member.id,
                state=member.state.value,
                details=running.replica.details if running else {},
                version=queue.target.id.version,
                started_at=running.started_at if running else 0.0,
                invocations=endpoint.answered if endpoint else 0,
                in_flight=endpoint.load if endpoint else 0,
                memory_bytes=running.replica.memory_bytes() if running else None,
            )
        )
    return statuses


def _state(queue: FunctionQueue, replicas: ReplicaSet) -> tuple[FunctionState, str]:
    pool = replicas.state
    ready = pool.count(ReplicaState.READY)
    lines = replicas.start_error.log[-LOG_LINES:] if replicas.start_error else []
    tail = "".join(f"\n  {line}" for line in lines)
    if pool.failed and not ready:
        return "failed", pool.failed + tail
    if queue.closed:
        return "stopped", queue.closed
    if ready >= pool.wanted:
        return "ready", ""
    why = f"the last replica ended: {pool.last_failure}{tail}" if pool.last_failure else "replicas are starting"
    return ("degraded" if ready else "starting"), why
