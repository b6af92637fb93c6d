"""A function's state."""

from __future__ import annotations

from typing import Any, Literal

from clipper_platform.gateway.control_api.schemas.base import ResponseBody

__all__ = ["CacheInfo", "FunctionInfo", "LatencyInfo", "ReplicaInfo", "SnapshotInfo"]


class ReplicaInfo(ResponseBody, frozen=True):
    """`restarts`: of all replicas of the function; each start of a replica gets a new id."""

    id: str
    state: str
    pid: int | None
    version: int
    started_at: float
    invocations: int
    restarts: int
    memory_bytes: int | None
    in_flight: int


class LatencyInfo(ResponseBody, frozen=True):
    p50_s: float
    p99_s: float | None


class CacheInfo(ResponseBody, frozen=True):
    hits: int
    misses: int
    bytes: int


class SnapshotInfo(ResponseBody, frozen=True):
    """The state of a function's snapshot. `retry_in_s`: after this time the next start of a replica makes it again."""

    state: Literal["making", "ready", "refused", "gone"]
    reason: str
    retry_in_s: float | None


class FunctionInfo(ResponseBody, frozen=True):
    """`reason` says in words why a function is not ready."""

    name: str
    url: str
    version: int
    state: Literal["ready", "starting", "degraded", "failed", "stopped"]
    reason: str
    spec: dict[str, Any]
    queue_depth: int
    running: int
    restarts: int
    replicas_ready: int
    replicas_wanted: int
    replicas: list[ReplicaInfo]
    latency: LatencyInfo | None
    rate_per_s: float
    cache: CacheInfo
    snapshot: SnapshotInfo | None  # None: the function asks for none, or has had no replica
