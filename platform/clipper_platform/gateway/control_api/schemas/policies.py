"""Autoscaling policies and decisions."""

from __future__ import annotations

from typing import Any, Literal

from clipper_platform.gateway.control_api.schemas.base import RequestBody, ResponseBody

__all__ = ["BatchesInfo", "DecisionInfo", "DecisionList", "PolicyInfo", "PolicyRequest", "ScalingChange"]


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


class BatchesInfo(ResponseBody, frozen=True):
    """How batches are made.

    limit: the size allowed now, by `policy` and `budget_s`, the share of the objective that a batch may run. A batch of
    n should run for `base_s` + n · `per_item_s`. sent: batches by why they were sent: full, lead (the running one was
    about to end), no_company, joined (all who were expected came), waited, objective. `waits` batches waited `waited_s`
    in all for company; `joined` invocations came meanwhile. returning: the same callers seem to come back.
    """

    policy: str
    limit: int
    max_batch_size: int
    budget_s: float | None
    base_s: float | None
    per_item_s: float | None
    adaptive: bool
    returning: bool
    sent: dict[str, int]
    batches: int
    invocations: int
    waits: int
    waited_s: float
    joined: int


class DecisionList(ResponseBody, frozen=True):
    """`latest` None: nothing can be decided, for the reason in `no_data`. `changes`: newest first, the last 10.
    `batches` None: the function is not batched."""

    function: str
    version: int
    source: Literal["applied", "deployed"]
    policy: dict[str, Any]
    latest: DecisionInfo | None
    no_data: str
    changes: list[ScalingChange]
    batches: BatchesInfo | None = None
