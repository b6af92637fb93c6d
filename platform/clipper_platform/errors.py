"""The platform's errors: every refusal and failure that leaves the platform is one of these.

One class per entry of the table in `clipper.contract.errors`, which gives its code, status and retryability. All derive
directly from `ClipperError` but two:

    ClipperError
    ├── InvalidRequest
    │   └── InvalidSpec
    ├── Unavailable
    │   └── StoreUnavailable
    └── …

`gateway.errors` renders them.
"""

from __future__ import annotations

from typing import Any

from clipper.contract import errors as table
from clipper.contract.errors import CodedError

__all__ = [
    "ClientClosed",
    "ClipperError",
    "Conflict",
    "DeadlineExceeded",
    "DeployFailed",
    "Forbidden",
    "FunctionError",
    "HeadersTooLarge",
    "InternalError",
    "InvalidRequest",
    "InvalidResult",
    "InvalidSpec",
    "MethodNotAllowed",
    "NotAcceptable",
    "NotFound",
    "PayloadTooLarge",
    "Quarantined",
    "QueueFull",
    "ReplicaLost",
    "RequestTimeout",
    "SchemaMismatch",
    "StoreUnavailable",
    "Unauthenticated",
    "Unavailable",
    "UnsupportedMediaType",
]


class ClipperError(CodedError, entry=table.INTERNAL_ERROR):
    """Base of all. `details` are extra JSON fields of the rendered error; `retry_after_s` becomes `Retry-After`."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.details = details


class InvalidRequest(ClipperError, entry=table.INVALID_REQUEST):
    """Malformed: not JSON or msgpack, a bad header, a bad name."""


class InvalidSpec(InvalidRequest, entry=table.INVALID_SPEC):
    """A manifest, policy or bundle that the platform cannot accept."""


class Unauthenticated(ClipperError, entry=table.UNAUTHENTICATED):
    """No key, or one that the platform does not know."""


class Forbidden(ClipperError, entry=table.FORBIDDEN):
    """The key's scopes do not allow it, or the origin or host is refused."""


class NotFound(ClipperError, entry=table.NOT_FOUND):
    """The project, function, version or route does not exist."""


class MethodNotAllowed(ClipperError, entry=table.METHOD_NOT_ALLOWED):
    """The route exists, but not for this HTTP method."""


class NotAcceptable(ClipperError, entry=table.NOT_ACCEPTABLE):
    """No form of the value fits `Accept`."""


class RequestTimeout(ClipperError, entry=table.REQUEST_TIMEOUT):
    """The client was too slow to send its body."""


class Conflict(ClipperError, entry=table.CONFLICT):
    """The request contradicts the present state: a name that is taken, or a deploy that is running."""


class PayloadTooLarge(ClipperError, entry=table.PAYLOAD_TOO_LARGE):
    """The body is over the platform's limit."""


class UnsupportedMediaType(ClipperError, entry=table.UNSUPPORTED_MEDIA_TYPE):
    """The function cannot read the body's content type."""


class SchemaMismatch(ClipperError, entry=table.SCHEMA_MISMATCH):
    """The arguments do not fit the function's schema."""


class DeployFailed(ClipperError, entry=table.DEPLOY_FAILED):
    """A deploy ended before the route flipped. `details`: phase, exception, log (its last lines) and hint."""


class HeadersTooLarge(ClipperError, entry=table.HEADERS_TOO_LARGE):
    """The request's headers are over the platform's limit."""


class QueueFull(ClipperError, entry=table.QUEUE_FULL):
    """Too many invocations wait for the function; `retry_after_s` says when to come back."""


class ClientClosed(ClipperError, entry=table.CLIENT_CLOSED):
    """The client went away before the answer; it appears in metrics and logs only."""


class FunctionError(ClipperError, entry=table.FUNCTION_ERROR):
    """The user's code raised. `details`: type, the name of its exception class."""


class InvalidResult(ClipperError, entry=table.INVALID_RESULT):
    """The function returned a value that cannot be sent."""


class Quarantined(ClipperError, entry=table.QUARANTINED):
    """The invocation ended several replicas and is not tried again."""


class InternalError(ClipperError, entry=table.INTERNAL_ERROR):
    """A defect of the platform."""


class ReplicaLost(ClipperError, entry=table.REPLICA_LOST):
    """The replica died and the retries are spent."""


class Unavailable(ClipperError, entry=table.UNAVAILABLE):
    """No capacity, draining, or the function cannot start."""


class StoreUnavailable(Unavailable, entry=table.STORE_UNAVAILABLE):
    """The metadata store cannot be reached."""


class DeadlineExceeded(ClipperError, entry=table.DEADLINE_EXCEEDED):
    """The deadline passed before the answer."""
