"""Renders every error that leaves the platform, on every path."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from clipper.contract.errors import REFUSED_STATUSES
from clipper.contract.media_types import JSON
from clipper_platform import errors
from clipper_platform.errors import ClipperError, InternalError

__all__ = ["Rendered", "render", "translate"]

logger = logging.getLogger(__name__)

Rendered = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers (without X-Request-Id, which every answer carries), body."""

# The class for the status of an exception of Starlette: of several classes, the one that a route can mean.
_BY_STATUS: Final[dict[int, type[ClipperError]]] = {
    cls.status: cls
    for cls in (
        errors.InvalidRequest,
        errors.Unauthenticated,
        errors.Forbidden,
        errors.NotFound,
        errors.MethodNotAllowed,
        errors.NotAcceptable,
        errors.RequestTimeout,
        errors.Conflict,
        errors.PayloadTooLarge,
        errors.UnsupportedMediaType,
        errors.SchemaMismatch,
        errors.QueueFull,
        errors.Unavailable,
        errors.DeadlineExceeded,
    )
}

_MESSAGES: Final[dict[type[ClipperError], str]] = {
    errors.NotFound: "there is nothing at this address",
    errors.MethodNotAllowed: "this address has other methods",
}

# `Retry-After` of refusals for which no time was computed.
_DEFAULT_RETRY_AFTER_S: Final = 1.0


def translate(error: BaseException, request_id: str = "") -> ClipperError:
    """The ClipperError for any exception. An unknown one is a defect: it is logged with its traceback, never shown."""
    if isinstance(error, ClipperError):
        return error
    if isinstance(error, HTTPException):
        cls = _BY_STATUS.get(error.status_code)
        if cls is None:
            cls = errors.InvalidRequest if error.status_code < InternalError.status else InternalError
        translated = cls(_MESSAGES.get(cls) or error.detail)
        if (allow := (error.headers or {}).get("Allow")) is not None:
            translated.details["allow"] = sorted(part.strip() for part in allow.split(","))
        return translated
    if isinstance(error, ClientDisconnect):
        return errors.ClientClosed("the client went away")
    logger.error("an unexpected error in a request", exc_info=error, extra={"request_id": request_id})
    return InternalError("an unexpected error in the platform; its log has more under this request_id")


def render(error: BaseException, request_id: str) -> Rendered:
    """Status, headers and JSON body of an error."""
    known = translate(error, request_id)
    body = _encode({**known.details, "code": known.code, "message": known.message, "request_id": request_id})
    headers = [
        (b"content-type", JSON.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    if known.retry_after_s is not None or known.status in REFUSED_STATUSES:
        headers.append((b"retry-after", _seconds(known.retry_after_s)))
    if isinstance(known, errors.Unauthenticated):
        headers.append((b"www-authenticate", b'Bearer realm="clipper"'))
    if isinstance(known, errors.MethodNotAllowed) and (allow := known.details.get("allow")):
        headers.append((b"allow", ", ".join(allow).encode()))
    return known.status, headers, body


def _seconds(retry_after_s: float | None) -> bytes:
    """Whole seconds, at least one: `Retry-After` has no fractions, and after 0 all clients would return at once."""
    if retry_after_s is None or not math.isfinite(retry_after_s):
        retry_after_s = _DEFAULT_RETRY_AFTER_S
    return str(max(1, math.ceil(retry_after_s))).encode()


def _encode(content: Mapping[str, Any]) -> bytes:
    try:
        return msgspec.json.encode({"error": content}, enc_hook=_printable)
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError):
        # Messages quote requests, with lone surrogates and odd keys. The error must be sent nevertheless.
        safe = {str(k): _printable(v) for k, v in content.items()}
        return msgspec.json.encode({"error": safe})


def _printable(value: object) -> str:
    try:
        return str(value).encode(errors="backslashreplace").decode()
    except Exception:
        logger.exception("a detail of an error cannot be shown as text")
        return ""
