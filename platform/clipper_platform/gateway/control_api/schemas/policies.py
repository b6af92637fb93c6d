"""Autoscaling policies and decisions."""

from __future__ import annotations

from typing import Any, Literal

from clipper_platform.gateway.control_api.schemas.base import RequestBody, ResponseBody

__all__ = ["DecisionInfo", "DecisionList", "PolicyInfo", "PolicyRequest", "ScalingChange"]


class PolicyRequest(RequestBody, frozen=True):
    """`policy`: keys as in a policy file. `digest`: of that file, for people."""

    policy: dict[str, Any]
    digest: str = ""


class PolicyInfo(ResponseBody, frozen=True):
    """`policy`: every key of the policy in effect. `digest`, `applied_at`: of an applied policy."""

    function: str
    source: Literal["applied", "deployed"]
    policy: dict[str, Any]
    deployed: dict[str, Any]
    digest: str
    applied_at: float | None


class DecisionInfo(ResponseBody, frozen=True):
    """`rule` decided last; `steps` lead from the demand to the number; `change`: what would change it."""

    at: float
    before: int
    wanted: int
    rule: str
    why: str
    steps: list[str]
    change: list[str]
    inputs: dict[str, Any]
    schedules: list[str]


class ScalingChange(ResponseBody, frozen=True):
    at: float
    before: int
    wanted: int
    rule: str
    why: str


class DecisionList(ResponseBody, frozen=True):
    """`latest` None: nothing can be decided, for the reason in `no_data`. `changes`: newest first, the last 10."""

    function: str
    version: int
    source: Literal["applied", "deployed"]
    policy: dict[str, Any]
    latest: DecisionInfo | None
    no_data: str
    changes: list[ScalingChange]
