"""What the data plane is given and what it tells: targets to serve, the state of what it serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from clipper.contract.spec import FunctionSpec
from clipper_platform.backends.base import SnapshotState
from clipper_platform.types import BundleDigest, EnvironmentId, FunctionId

__all__ = ["EventSink", "FunctionState", "FunctionStatus", "Progress", "ReplicaStatus", "Target"]

FunctionState = Literal["ready", "starting", "degraded", "failed", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One function of one version, with all that its replicas need."""

    id: FunctionId
    spec: FunctionSpec
    environment: EnvironmentId
    bundle: BundleDigest
    warm_pool_size: int | None = None  # of the environment, as the project declares it
    env: Mapping[str, str] = field(default_factory=dict)


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
    """`reason` says in words why the function is not ready, with the last log lines of what failed."""

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


Progress = Callable[[FunctionId, int, int], None]
"""(function, ready, wanted), as replicas become ready."""

EventSink = Callable[[FunctionId, str, str, Mapping[str, Any]], None]
"""(function, kind, message, data): something that people should be able to read later."""
