"""Deployments: the request, and its state."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from clipper_platform.gateway.control_api.schemas.base import RequestBody, ResponseBody

__all__ = ["DeployRequest", "DeployedFunction", "DeploymentInfo", "EnvironmentInfo", "ProblemInfo"]


class EnvironmentInfo(RequestBody, frozen=True):
    python: str | None = None
    requirements: list[str] = msgspec.field(default_factory=list)
    exclude: list[str] = msgspec.field(default_factory=list)
    warm_pool_size: int | None = None


class DeployRequest(RequestBody, frozen=True):
    """The manifest. `functions`: every key of a function, as in clip.toml, with `name` and `entrypoint`."""

    project: str
    bundle: str
    environment: EnvironmentInfo
    functions: list[dict[str, Any]]
    deploy: dict[str, Any] = msgspec.field(default_factory=dict)
    force: bool = False


class ProblemInfo(ResponseBody, frozen=True):
    """`log`: the last lines of the build or of the replica that failed."""

    code: str
    message: str
    phase: str
    exception: str
    log: list[str]
    hint: str


class DeployedFunction(ResponseBody, frozen=True):
    name: str
    url: str
    schema: dict[str, Any]


class DeploymentInfo(ResponseBody, frozen=True):
    id: str
    project: str
    state: Literal["running", "succeeded", "failed", "cancelled", "unchanged"]
    version: int | None
    previous: int | None
    functions: list[DeployedFunction]
    error: ProblemInfo | None
