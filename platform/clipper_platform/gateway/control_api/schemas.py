"""The shapes of the control API: what is taken and what is answered. `/openapi.json` is generated from these."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from clipper_platform.gateway.control_api.schema_base import Answer, Asked

__all__ = [
    "BundleStored",
    "CacheInfo",
    "CanaryInfo",
    "Config",
    "DeletedProject",
    "DeployRequest",
    "DeployedFunction",
    "DeploymentInfo",
    "EnvironmentInfo",
    "ErrorBody",
    "ErrorInfo",
    "EventInfo",
    "EventList",
    "FunctionInfo",
    "FunctionLink",
    "FunctionSummary",
    "Info",
    "LatencyInfo",
    "Limits",
    "OwnKey",
    "ProblemInfo",
    "ProjectList",
    "ProjectStatus",
    "ProjectSummary",
    "ReplicaInfo",
    "RestartRequest",
    "Restarted",
    "RollbackRequest",
    "RolledBack",
    "SnapshotInfo",
    "VersionInfo",
    "VersionList",
]


# Errors


class ErrorInfo(Answer, frozen=True):
    """`code` is stable; further fields depend on it."""

    code: str
    message: str
    request_id: str


class ErrorBody(Answer, frozen=True):
    error: ErrorInfo


# Platform


class Limits(Answer, frozen=True):
    max_body_bytes: int
    max_bundle_bytes: int


class OwnKey(Answer, frozen=True):
    id: str
    name: str
    scopes: list[str]


class Info(Answer, frozen=True):
    """`key`: the one that asked."""

    version: str
    url: str
    backend: str
    store: str
    home: str
    started_at: float
    pythons: list[str]
    limits: Limits
    key: OwnKey


# Bundles


class BundleStored(Answer, frozen=True):
    digest: str
    bytes: int


# Deployments


class EnvironmentInfo(Asked, frozen=True):
    python: str | None = None
    requirements: list[str] = msgspec.field(default_factory=list)
    exclude: list[str] = msgspec.field(default_factory=list)
    warm_pool_size: int | None = None


class DeployRequest(Asked, frozen=True):
    """The manifest. `functions`: every key of a function, as in clip.toml, with `name` and `entrypoint`."""

    project: str
    bundle: str
    environment: EnvironmentInfo
    functions: list[dict[str, Any]]
    deploy: dict[str, Any] = msgspec.field(default_factory=dict)
    force: bool = False


class ProblemInfo(Answer, frozen=True):
    """`log`: the last lines of the build or of the replica that failed."""

    code: str
    message: str
    phase: str
    exception: str
    log: list[str]
    hint: str


class DeployedFunction(Answer, frozen=True):
    name: str
    url: str
    schema: dict[str, Any]


class DeploymentInfo(Answer, frozen=True):
    id: str
    project: str
    state: Literal["running", "succeeded", "failed", "cancelled", "unchanged"]
    version: int | None
    previous: int | None
    functions: list[DeployedFunction]
    error: ProblemInfo | None


# Projects


class FunctionSummary(Answer, frozen=True):
    name: str
    url: str
    state: str
    replicas_ready: int
    replicas_wanted: int


class ProjectSummary(Answer, frozen=True):
    """`version` is null while nothing was deployed successfully."""

    name: str
    version: int | None
    previous: int | None
    updated_at: float
    functions: list[FunctionSummary]


class ProjectList(Answer, frozen=True):
    projects: list[ProjectSummary]


class ReplicaInfo(Answer, frozen=True):
    """`restarts`: of the function's replicas; a replica that is started anew gets an id of its own."""

    id: str
    state: str
    pid: int | None
    version: int
    started_at: float
    invocations: int
    restarts: int
    memory_bytes: int | None
    in_flight: int


class LatencyInfo(Answer, frozen=True):
    p50_s: float
    p99_s: float | None


class CacheInfo(Answer, frozen=True):
    hits: int
    misses: int
    bytes: int


class SnapshotInfo(Answer, frozen=True):
    """What has become of a function's snapshot. `retry_in_s`: from when on a start of a replica makes it again."""

    state: Literal["making", "ready", "refused", "gone"]
    reason: str
    retry_in_s: float | None


class FunctionInfo(Answer, frozen=True):
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
    snapshot: SnapshotInfo | None  # None: it asks for none, or no replica was started yet


class EventInfo(Answer, frozen=True):
    seq: int
    at: float
    kind: str
    message: str
    function: str
    version: int | None
    data: dict[str, Any]


class EventList(Answer, frozen=True):
    events: list[EventInfo]


class CanaryInfo(Answer, frozen=True):
    """Two versions share the calls while a deploy compares them. Shares in percent, `step_s` in seconds.

    `functions`: those that both versions have; the others are answered by `previous`.
    """

    deployment: str
    version: int
    share: int
    previous: int
    previous_share: int
    step: int
    steps: int
    step_s: float
    functions: list[str]


class ProjectStatus(Answer, frozen=True):
    """`events`: the newest 20; empty, with the reason in `degraded`, while the store cannot be reached."""

    name: str
    url: str
    version: int | None
    previous: int | None
    updated_at: float
    functions: list[FunctionInfo]
    events: list[EventInfo]
    degraded: str
    canary: CanaryInfo | None  # while one runs


class DeletedProject(Answer, frozen=True):
    deleted: str


class VersionInfo(Answer, frozen=True):
    number: int
    created_at: float
    state: Literal["building", "ready", "failed"]
    detail: str
    current: bool
    bundle: str
    environment: str
    functions: list[str]


class VersionList(Answer, frozen=True):
    """Newest first."""

    versions: list[VersionInfo]


class RollbackRequest(Asked, frozen=True):
    """Without `version`: to the one before."""

    version: int | None = None


class FunctionLink(Answer, frozen=True):
    name: str
    url: str


class RolledBack(Answer, frozen=True):
    project: str
    version: int
    previous: int | None
    functions: list[FunctionLink]


class RestartRequest(Asked, frozen=True):
    """Without `function`, all functions of the project."""

    function: str | None = None


class Restarted(Answer, frozen=True):
    """How the functions are doing after it."""

    project: str
    version: int
    functions: list[FunctionInfo]


class Config(Answer, frozen=True):
    """`functions`: every option with its effective value."""

    version: int
    environment: dict[str, Any]
    functions: list[dict[str, Any]]
