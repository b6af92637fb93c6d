"""The SDK's exceptions: one per error code of the platform, and four that only a client can meet.

    ClipperError
    ├── one class per entry of `clipper.contract.errors`: SchemaMismatch, QueueFull, FunctionError, …
    ├── PlatformUnreachable
    ├── ConnectionLost
    ├── UnexpectedAnswer
    └── CallCancelled

`code`, `status` and `retryable` are explained at `ErrorCode`. Standard library only: user code may catch these inside
a replica.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipper.contract import errors as table
from clipper.contract.errors import RETRYABLE_STATUSES, CodedError, ErrorCode

__all__ = [
    "CallCancelled",
    "ClientClosed",
    "ClipperError",
    "Conflict",
    "ConnectionLost",
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
    "PlatformUnreachable",
    "Quarantined",
    "QueueFull",
    "ReplicaLost",
    "RequestTimeout",
    "SchemaMismatch",
    "StoreUnavailable",
    "Unauthenticated",
    "Unavailable",
    "UnexpectedAnswer",
    "UnsupportedMediaType",
    "error_for",
    "status_of",
]


class ClipperError(CodedError, entry=table.INTERNAL_ERROR):
    """Base of all. `details` are the extra fields of the platform's error; `retry_after_s` is its `Retry-After`."""

    def __init__(
        self,
        message: str,
        *,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.details: dict[str, Any] = dict(details or {})

    def __reduce__(self) -> tuple[Any, ...]:
        # The default recipe would call the class with `args` only; a pickled error keeps its fields this way.
        return _restore, (type(self), self.message, self.__dict__)


def _restore(cls: type[ClipperError], message: str, state: dict[str, Any]) -> ClipperError:
    error = cls(message)
    error.__dict__.update(state)
    return error


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
    """No form of the value fits what was asked for."""


class RequestTimeout(ClipperError, entry=table.REQUEST_TIMEOUT):
    """The platform waited too long for the request's body."""


class Conflict(ClipperError, entry=table.CONFLICT):
    """The request contradicts the present state: a name that is taken, or a deploy that is running."""


class PayloadTooLarge(ClipperError, entry=table.PAYLOAD_TOO_LARGE):
    """The body is over the platform's limit."""


class UnsupportedMediaType(ClipperError, entry=table.UNSUPPORTED_MEDIA_TYPE):
    """The function cannot read the body's content type."""


class SchemaMismatch(ClipperError, entry=table.SCHEMA_MISMATCH):
    """The arguments do not fit the function's schema; the message names the path, as in `$.pixels[0]`."""


class DeployFailed(ClipperError, entry=table.DEPLOY_FAILED):
    """A deploy ended before the route flipped; the version before still answers."""

    @property
    def phase(self) -> str:
        """Where it ended: environment, replicas or route; "" where it is not known."""
        return str(self.details.get("phase") or "")

    @property
    def exception(self) -> str:
        """Type and message of the user code's exception, or "" if it raised none."""
        return str(self.details.get("exception") or "")

    @property
    def log(self) -> list[str]:
        """The last lines of the build's or the replica's log."""
        lines = self.details.get("log")
        return [str(line) for line in lines] if isinstance(lines, list) else []

    @property
    def hint(self) -> str:
        """Advice on what to do, or "" where the platform has none."""
        return str(self.details.get("hint") or "")


class HeadersTooLarge(ClipperError, entry=table.HEADERS_TOO_LARGE):
    """The request's headers are over the platform's limit."""


class QueueFull(ClipperError, entry=table.QUEUE_FULL):
    """Too many invocations wait for the function; `retry_after_s` is how long to wait."""


class ClientClosed(ClipperError, entry=table.CLIENT_CLOSED):
    """The caller went away before the answer (the platform's name for it; a client does not meet it)."""


class FunctionError(ClipperError, entry=table.FUNCTION_ERROR):
    """The function's own code raised; its traceback is in the function's log."""

    @property
    def exception_type(self) -> str:
        """Name of the exception class that the function raised, as in "ValueError"."""
        return str(self.details.get("type") or "")


class InvalidResult(ClipperError, entry=table.INVALID_RESULT):
    """The function returned what cannot be sent."""


class Quarantined(ClipperError, entry=table.QUARANTINED):
    """The invocation ended several replicas and is not tried again."""


class InternalError(ClipperError, entry=table.INTERNAL_ERROR):
    """A defect of the platform."""


class ReplicaLost(ClipperError, entry=table.REPLICA_LOST):
    """The replica died and the retries are spent."""


class Unavailable(ClipperError, entry=table.UNAVAILABLE):
    """No capacity, draining, or the function cannot start."""


class StoreUnavailable(Unavailable, entry=table.STORE_UNAVAILABLE):
    """The platform's metadata store cannot be reached; serving goes on."""


class DeadlineExceeded(ClipperError, entry=table.DEADLINE_EXCEEDED):
    """No answer inside the time given."""


class PlatformUnreachable(ClipperError, entry=ErrorCode("platform_unreachable", 0, retryable=True)):
    """Nothing answers at the platform's address: the request was not sent."""


class ConnectionLost(ClipperError, entry=ErrorCode("connection_lost", 0, retryable=True)):
    """The connection broke before the answer was complete; the function may have run."""


class UnexpectedAnswer(ClipperError, entry=ErrorCode("unexpected_answer", 0)):
    """What answered is not the platform (a proxy, another server), or a version of it that this client cannot read.
    `status` is the answer's."""


class CallCancelled(ClipperError, entry=ErrorCode("call_cancelled", 0)):
    """The call was cancelled by `Call.cancel()`."""


_BY_CODE = {
    cls.code: cls
    for cls in list(globals().values())
    if isinstance(cls, type) and issubclass(cls, ClipperError) and cls is not ClipperError and cls.code in table.ERRORS
}


def error_for(
    code: str,
    status: int,
    message: str,
    *,
    request_id: str | None = None,
    retry_after_s: float | None = None,
    details: Mapping[str, Any] | None = None,
) -> ClipperError:
    """The exception for a code of the platform; a code of a newer platform becomes a plain ClipperError with it."""
    cls = _BY_CODE.get(code, ClipperError)
    error = cls(message, request_id=request_id, retry_after_s=retry_after_s, details=details)
    error.code, error.status = code, status
    if cls is ClipperError:
        error.retryable = status in RETRYABLE_STATUSES
    return error


def status_of(code: str) -> int:
    """The HTTP status of a platform's code, for errors that come after the status line (in a stream)."""
    return table.ERRORS.get(code, table.INTERNAL_ERROR).status
