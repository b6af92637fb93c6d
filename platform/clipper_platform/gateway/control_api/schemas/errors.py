"""The body of an error, the same on every route."""

from __future__ import annotations

from clipper_platform.gateway.control_api.schemas.base import ResponseBody

__all__ = ["ErrorBody", "ErrorInfo"]


class ErrorInfo(ResponseBody, frozen=True):
    """`code` is stable; further fields depend on it."""

    code: str
    message: str
    request_id: str


class ErrorBody(ResponseBody, frozen=True):
    error: ErrorInfo
