"""The table of error codes: what the platform answers with, and what the SDK raises for it.

`clipper_platform.errors` and `clipper.errors` each have one exception class per entry. A class takes its code, status
and retryability from here, so neither a code nor a status is written twice. Standard library only: user code may catch
the SDK's exceptions inside a replica.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["ERRORS", "REFUSED_STATUSES", "RETRYABLE_STATUSES", "CodedError", "ErrorCode"]


class ErrorCode(NamedTuple):
    """`code` is the stable word that clients match, `status` is HTTP's (0: no answer came). `retryable`: the same
    request may succeed later."""

    code: str
    status: int
    retryable: bool = False


INVALID_REQUEST: Final = ErrorCode("invalid_request", 400)
INVALID_SPEC: Final = ErrorCode("invalid_spec", 400)
UNAUTHENTICATED: Final = ErrorCode("unauthenticated", 401)
FORBIDDEN: Final = ErrorCode("forbidden", 403)
NOT_FOUND: Final = ErrorCode("not_found", 404)
METHOD_NOT_ALLOWED: Final = ErrorCode("method_not_allowed", 405)
NOT_ACCEPTABLE: Final = ErrorCode("not_acceptable", 406)
REQUEST_TIMEOUT: Final = ErrorCode("request_timeout", 408, retryable=True)
CONFLICT: Final = ErrorCode("conflict", 409)
PAYLOAD_TOO_LARGE: Final = ErrorCode("payload_too_large", 413)
UNSUPPORTED_MEDIA_TYPE: Final = ErrorCode("unsupported_media_type", 415)
SCHEMA_MISMATCH: Final = ErrorCode("schema_mismatch", 422)
DEPLOY_FAILED: Final = ErrorCode("deploy_failed", 422)
QUEUE_FULL: Final = ErrorCode("queue_full", 429, retryable=True)
HEADERS_TOO_LARGE: Final = ErrorCode("headers_too_large", 431)
CLIENT_CLOSED: Final = ErrorCode("client_closed", 499)
FUNCTION_ERROR: Final = ErrorCode("function_error", 500)
INVALID_RESULT: Final = ErrorCode("invalid_result", 500)
QUARANTINED: Final = ErrorCode("quarantined", 500)
INTERNAL_ERROR: Final = ErrorCode("internal_error", 500)
REPLICA_LOST: Final = ErrorCode("replica_lost", 502, retryable=True)
UNAVAILABLE: Final = ErrorCode("unavailable", 503, retryable=True)
STORE_UNAVAILABLE: Final = ErrorCode("store_unavailable", 503, retryable=True)
DEADLINE_EXCEEDED: Final = ErrorCode("deadline_exceeded", 504, retryable=True)

ERRORS: Final = {entry.code: entry for entry in list(globals().values()) if isinstance(entry, ErrorCode)}
"""Every entry by its code."""

# The platform has not begun the request, so a client may send it again; these answers carry `Retry-After`.
REFUSED_STATUSES: Final = frozenset({QUEUE_FULL.status, UNAVAILABLE.status})

# For an answer with a code that this version does not know.
RETRYABLE_STATUSES: Final = frozenset(entry.status for entry in ERRORS.values() if entry.retryable)


class CodedError(Exception):
    """Base of both hierarchies. A subclass names its entry: `class QueueFull(ClipperError, entry=QUEUE_FULL)`."""

    code: str
    status: int
    retryable: bool

    def __init_subclass__(cls, entry: ErrorCode | None = None) -> None:
        if entry is not None:
            cls.code, cls.status, cls.retryable = entry
