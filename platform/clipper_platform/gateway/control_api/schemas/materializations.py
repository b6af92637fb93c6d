"""Answers that are computed beforehand: jobs, and the rows of them that failed."""

from __future__ import annotations

from typing import Literal

from clipper_platform.gateway.control_api.schemas.base import RequestBody, ResponseBody

__all__ = ["FailedRow", "FailedRows", "Materialization", "MaterializationList", "MaterializationRequest"]


class MaterializationRequest(RequestBody, frozen=True):
    """`function`: project/function. `source`: where the rows come from, in any words: a job of the same source that
    is not done is gone on with. `ttl_s`: how long answers are kept; null: until others need the room. `stale`: whether
    answers of earlier versions are given until this version's job is done."""

    function: str
    source: str
    ttl_s: float | None = None
    stale: Literal["serve", "miss"] = "miss"


class Materialization(ResponseBody, frozen=True):
    """`total`: null until all rows have come. `waiting`: why nothing runs now; "" while something does. Times in Unix
    seconds."""

    id: str
    function: str
    version: int
    state: Literal["receiving", "running", "done", "stopped"]
    total: int | None
    received: int
    done: int
    failed: int
    ttl_s: float | None
    stale: Literal["serve", "miss"]
    created_at: float
    ended_at: float | None
    reason: str
    waiting: str


class MaterializationList(ResponseBody, frozen=True):
    """Newest first."""

    materializations: list[Materialization]


class FailedRow(ResponseBody, frozen=True):
    """`row` counts from 0."""

    row: int
    code: str
    message: str


class FailedRows(ResponseBody, frozen=True):
    failures: list[FailedRow]
