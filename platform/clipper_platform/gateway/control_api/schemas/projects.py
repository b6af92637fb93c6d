"""Projects and their versions."""

from __future__ import annotations

from typing import Any, Literal

from clipper_platform.gateway.control_api.schemas.base import RequestBody, ResponseBody
from clipper_platform.gateway.control_api.schemas.functions import FunctionInfo

__all__ = [
    "CanaryInfo",
    "Config",
    "DeletedProject",
    "EventInfo",
    "EventList",
    "FunctionLink",
    "FunctionSummary",
    "ProjectList",
    "ProjectStatus",
    "ProjectSummary",
    "RestartRequest",
    "Restarted",
    "RollbackRequest",
    "RolledBack",
    "VersionInfo",
    "VersionList",
]


class FunctionSummary(ResponseBody, frozen=True):
    name: str
    url: str
    state: str
    replicas_ready: int
    replicas_wanted: int


class ProjectSummary(ResponseBody, frozen=True):
    """`version` is null while nothing was deployed successfully."""

    name: str
    version: int | None
    previous: int | None
    updated_at: float
    functions: list[FunctionSummary]


class ProjectList(ResponseBody, frozen=True):
    projects: list[ProjectSummary]


class EventInfo(ResponseBody, frozen=True):
    seq: int
    at: float
    kind: str
    message: str
    function: str
    version: int | None
    data: dict[str, Any]


class EventList(ResponseBody, frozen=True):
    events: list[EventInfo]


class CanaryInfo(ResponseBody, frozen=True):
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


class ProjectStatus(ResponseBody, frozen=True):
    """`events`: the newest 20; empty, with the reason in `degraded`, while the store cannot be reached. `degraded` also
    says what the store lost, and why a stored version cannot be run by this platform. `isolation`: what keeps its code
    from other projects on this machine."""

    name: str
    url: str
    isolation: str
    version: int | None
    previous: int | None
    updated_at: float
    functions: list[FunctionInfo]
    events: list[EventInfo]
    degraded: str
    canary: CanaryInfo | None  # while one runs


class DeletedProject(ResponseBody, frozen=True):
    deleted: str


class VersionInfo(ResponseBody, frozen=True):
    number: int
    created_at: float
    state: Literal["building", "ready", "failed"]
    detail: str
    current: bool
    bundle: str
    environment: str
    functions: list[str]


class VersionList(ResponseBody, frozen=True):
    """Newest first."""

    versions: list[VersionInfo]


class RollbackRequest(RequestBody, frozen=True):
    """Without `version`: to the one before."""

    version: int | None = None


class FunctionLink(ResponseBody, frozen=True):
    name: str
    url: str


class RolledBack(ResponseBody, frozen=True):
    project: str
    version: int
    previous: int | None
    functions: list[FunctionLink]


class RestartRequest(RequestBody, frozen=True):
    """Without `function`, all functions of the project."""

    function: str | None = None


class Restarted(ResponseBody, frozen=True):
    """`functions`: their state after the restart."""

    project: str
    version: int
    functions: list[FunctionInfo]


class Config(ResponseBody, frozen=True):
    """`functions`: every option with its effective value. `apps`: names of the applications that its file declared."""

    version: int
    environment: dict[str, Any]
    env: dict[str, str]
    functions: list[dict[str, Any]]
    apps: list[str]
