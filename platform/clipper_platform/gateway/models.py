"""The shapes of the control API: what is taken and what is answered. `/openapi.json` is generated from these."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = [
    "BundleStored",
    "CacheInfo",
    "Config",
    "DecisionInfo",
    "DecisionList",
    "DeletedProject",
    "DeletedSecret",
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
    "KeyInfo",
    "KeyList",
    "KeyMade",
    "KeyRequest",
    "LatencyInfo",
    "Limits",
    "OwnKey",
    "PolicyInfo",
    "PolicyRequest",
    "ProblemInfo",
    "ProjectList",
    "ProjectStatus",
    "ProjectSummary",
    "ReplicaInfo",
    "RollbackRequest",
    "RolledBack",
    "ScalingChange",
    "SecretList",
    "SecretName",
    "SecretRequest",
    "VersionInfo",
    "VersionList",
]


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what is answered."""


class _Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what is asked: an unknown key is refused by name."""


# Errors


class ErrorInfo(_Answer, frozen=True):
    """`code` is stable; further fields depend on it."""

    code: str
    message: str
    request_id: str


class ErrorBody(_Answer, frozen=True):
    error: ErrorInfo


# Platform


class Limits(_Answer, frozen=True):
    max_body_bytes: int
    max_bundle_bytes: int


class OwnKey(_Answer, frozen=True):
    id: str
    name: str
    scopes: list[str]


class Info(_Answer, frozen=True):
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


class BundleStored(_Answer, frozen=True):
    digest: str
    bytes: int


# Deployments


class EnvironmentInfo(_Asked, frozen=True):
    python: str | None = None
    requirements: list[str] = []
    exclude: list[str] = []
    warm_pool_size: int | None = None


class DeployRequest(_Asked, frozen=True):
    """The manifest. `functions`: every key of a function, as in clip.toml, with `name` and `entrypoint`."""

    project: str
    bundle: str
    environment: EnvironmentInfo
    functions: list[dict[str, Any]]
    deploy: dict[str, Any] = {}
    force: bool = False


class ProblemInfo(_Answer, frozen=True):
    """`log`: the last lines of the build or of the replica that failed."""

    code: str
    message: str
    phase: str
    exception: str
    log: list[str]
    hint: str


class DeployedFunction(_Answer, frozen=True):
    name: str
    url: str
    schema: dict[str, Any]


class DeploymentInfo(_Answer, frozen=True):
    id: str
    project: str
    state: Literal["running", "succeeded", "failed", "cancelled", "unchanged"]
    version: int | None
    previous: int | None
    functions: list[DeployedFunction]
    error: ProblemInfo | None


# Projects


class FunctionSummary(_Answer, frozen=True):
    name: str
    url: str
    state: str
    replicas_ready: int
    replicas_wanted: int


class ProjectSummary(_Answer, frozen=True):
    """`version` is null while nothing was deployed successfully."""

    name: str
    version: int | None
    previous: int | None
    updated_at: float
    functions: list[FunctionSummary]


class ProjectList(_Answer, frozen=True):
    projects: list[ProjectSummary]


class ReplicaInfo(_Answer, frozen=True):
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


class LatencyInfo(_Answer, frozen=True):
    p50_s: float
    p99_s: float | None


class CacheInfo(_Answer, frozen=True):
    hits: int
    misses: int
    bytes: int


class FunctionInfo(_Answer, frozen=True):
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


class EventInfo(_Answer, frozen=True):
    seq: int
    at: float
    kind: str
    message: str
    function: str
    version: int | None
    data: dict[str, Any]


class EventList(_Answer, frozen=True):
    events: list[EventInfo]


class ProjectStatus(_Answer, frozen=True):
    """`events`: the newest 20; empty, with the reason in `degraded`, while the store cannot be reached."""

    name: str
    url: str
    version: int | None
    previous: int | None
    updated_at: float
    functions: list[FunctionInfo]
    events: list[EventInfo]
    degraded: str


class DeletedProject(_Answer, frozen=True):
    deleted: str


class VersionInfo(_Answer, frozen=True):
    number: int
    created_at: float
    state: Literal["building", "ready", "failed"]
    detail: str
    current: bool
    bundle: str
    environment: str
    functions: list[str]


class VersionList(_Answer, frozen=True):
    """Newest first."""

    versions: list[VersionInfo]


class RollbackRequest(_Asked, frozen=True):
    """Without `version`: to the one before."""

    version: int | None = None


class FunctionLink(_Answer, frozen=True):
    name: str
    url: str


class RolledBack(_Answer, frozen=True):
    project: str
    version: int
    previous: int | None
    functions: list[FunctionLink]


class Config(_Answer, frozen=True):
    """`functions`: every option with its effective value."""

    version: int
    environment: dict[str, Any]
    functions: list[dict[str, Any]]


# Autoscaling


class PolicyRequest(_Asked, frozen=True):
    """`policy`: keys as in a policy file. `digest`: of that file, for people."""

    policy: dict[str, Any]
    digest: str = ""


class PolicyInfo(_Answer, frozen=True):
    """`policy` is the one that counts: every key with its value. `digest` and `applied_at` of an applied one."""

    function: str
    source: Literal["applied", "deployed"]
    policy: dict[str, Any]
    deployed: dict[str, Any]
    digest: str
    applied_at: float | None


class DecisionInfo(_Answer, frozen=True):
    """`rule` had the last word; `steps` lead from the demand to the number; `change` says what would change it."""

    at: float
    before: int
    wanted: int
    rule: str
    why: str
    steps: list[str]
    change: list[str]
    inputs: dict[str, Any]
    schedules: list[str]


class ScalingChange(_Answer, frozen=True):
    at: float
    before: int
    wanted: int
    rule: str
    why: str


class DecisionList(_Answer, frozen=True):
    """`latest` None: nothing can be decided, for the reason in `no_data`. `changes`: newest first, the last 10."""

    function: str
    version: int
    source: Literal["applied", "deployed"]
    policy: dict[str, Any]
    latest: DecisionInfo | None
    no_data: str
    changes: list[ScalingChange]


# Keys and secrets


class KeyRequest(_Asked, frozen=True):
    """`scopes`: one or more of invoke, deploy, admin; admin includes deploy, deploy includes invoke."""

    name: str
    scopes: list[str]


class KeyInfo(_Answer, frozen=True):
    id: str
    name: str
    scopes: list[str]
    created_at: float
    revoked_at: float | None


class KeyMade(_Answer, frozen=True):
    """`key` is shown this once."""

    id: str
    name: str
    scopes: list[str]
    created_at: float
    key: str


class KeyList(_Answer, frozen=True):
    keys: list[KeyInfo]


class SecretRequest(_Asked, frozen=True):
    value: str


class SecretName(_Answer, frozen=True):
    name: str


class SecretList(_Answer, frozen=True):
    secrets: list[str]


class DeletedSecret(_Answer, frozen=True):
    deleted: str
