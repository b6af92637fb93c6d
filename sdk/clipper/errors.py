"""What can go wrong with a call, as exceptions: the platform's codes, and what a client alone can see.

    ClipperError
    ├── one class per code of the platform: SchemaMismatch, QueueFull, FunctionError, …
    ├── PlatformUnreachable    nothing answers at the address: the request was not sent
    ├── ConnectionLost         the connection broke before the whole answer came; the function may have run
    ├── UnexpectedAnswer       something answered, but not the platform (a proxy, another server)
    └── CallCancelled          `Call.cancel()` ended the call

`code` is the stable word to match; `status` is HTTP's (0 where no answer came); `retryable` says whether the same
request may succeed later. Standard library only: user code may catch these inside a replica.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

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


class ClipperError(Exception):
    """Base of all. `details` are the extra fields of the platform's error; `retry_after_s` is its `Retry-After`."""

    code: str = "internal_error"
    status: int = 500
    retryable: bool = False

    # The code that the platform sends for this class; None for what only a client can see.
    platform_code: ClassVar[str | None] = None

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


class InvalidRequest(ClipperError):
    """Malformed: not JSON or msgpack, a bad header, a bad name."""

    code = platform_code = "invalid_request"
    status = 400


class InvalidSpec(InvalidRequest):
    """A manifest, policy or bundle that the platform cannot accept."""

    code = platform_code = "invalid_spec"


class Unauthenticated(ClipperError):
    """No key, or one that the platform does not know."""

    code = platform_code = "unauthenticated"
    status = 401


class Forbidden(ClipperError):
    """The key's scopes do not allow it, or the origin or host is refused."""

    code = platform_code = "forbidden"
    status = 403


class NotFound(ClipperError):
    code = platform_code = "not_found"
    status = 404


class MethodNotAllowed(ClipperError):
    code = platform_code = "method_not_allowed"
    status = 405


class NotAcceptable(ClipperError):
    """No form of the value fits what was asked for."""

    code = platform_code = "not_acceptable"
    status = 406


class RequestTimeout(ClipperError):
    """The platform waited too long for the request's body."""

    code = platform_code = "request_timeout"
    status = 408
    retryable = True


class Conflict(ClipperError):
    code = platform_code = "conflict"
    status = 409


class PayloadTooLarge(ClipperError):
    code = platform_code = "payload_too_large"
    status = 413


class UnsupportedMediaType(ClipperError):
    code = platform_code = "unsupported_media_type"
    status = 415


class SchemaMismatch(ClipperError):
    """The arguments do not fit the function's schema; the message names the path, as in `$.pixels[0]`."""

    code = platform_code = "schema_mismatch"
    status = 422


class DeployFailed(ClipperError):
    """A deploy ended before callers saw it; what was routed before still is."""

    code = platform_code = "deploy_failed"
    status = 422

    @property
    def phase(self) -> str:
        """Where it ended: environment, replicas or route; "" where the platform did not say."""
        return str(self.details.get("phase") or "")

    @property
    def exception(self) -> str:
        """The type and message of what user code raised, if it did."""
        return str(self.details.get("exception") or "")

    @property
    def log(self) -> list[str]:
        """The last lines of the build's or the replica's log."""
        lines = self.details.get("log")
        return [str(line) for line in lines] if isinstance(lines, list) else []

    @property
    def hint(self) -> str:
        """What to do about it, if the platform knows."""
        return str(self.details.get("hint") or "")


class HeadersTooLarge(ClipperError):
    code = platform_code = "headers_too_large"
    status = 431


class QueueFull(ClipperError):
    """Too many invocations wait for the function; `retry_after_s` says when to come back."""

    code = platform_code = "queue_full"
    status = 429
    retryable = True


class ClientClosed(ClipperError):
    """The caller went away before the answer (the platform's name for it; a client does not meet it)."""

    code = platform_code = "client_closed"
    status = 499


class FunctionError(ClipperError):
    """The function's own code raised; its traceback is in the function's log."""

    code = platform_code = "function_error"
    status = 500

    @property
    def exception_type(self) -> str:
        """Name of the exception class that the function raised, as in "ValueError"."""
        return str(self.details.get("type") or "")


class InvalidResult(ClipperError):
    """The function returned what cannot be sent."""

    code = platform_code = "invalid_result"
    status = 500


class Quarantined(ClipperError):
    """The invocation ended several replicas and is not tried again."""

    code = platform_code = "quarantined"
    status = 500


class InternalError(ClipperError):
    """A defect of the platform."""

    code = platform_code = "internal_error"
    status = 500


class ReplicaLost(ClipperError):
    """The replica died and the retries are spent."""

    code = platform_code = "replica_lost"
    status = 502
    retryable = True


class Unavailable(ClipperError):
    """No capacity, draining, or the function cannot start."""

    code = platform_code = "unavailable"
    status = 503
    retryable = True


class StoreUnavailable(Unavailable):
    """The platform's metadata store cannot be reached; serving goes on."""

    code = platform_code = "store_unavailable"


class DeadlineExceeded(ClipperError):
    """No answer inside the time given."""

    code = platform_code = "deadline_exceeded"
    status = 504
    retryable = True


class PlatformUnreachable(ClipperError):
    """Nothing answers at the platform's address."""

    code = "platform_unreachable"
    status = 0
    retryable = True


class ConnectionLost(ClipperError):
    """The connection broke before the whole answer came; the function may have run."""

    code = "connection_lost"
    status = 0
    retryable = True


class UnexpectedAnswer(ClipperError):
    """What answered is not the platform, or is one that speaks otherwise. `status` is what it sent."""

    code = "unexpected_answer"
    status = 0


class CallCancelled(ClipperError):
    """The call was cancelled by `Call.cancel()`."""

    code = "call_cancelled"
    status = 0


def _classes() -> dict[str, type[ClipperError]]:
    found = {}
    pending = [ClipperError]
    while pending:
        cls = pending.pop()
        pending.extend(cls.__subclasses__())
        if cls.__module__ == __name__ and cls.platform_code is not None:
            found[cls.platform_code] = cls
    return found


_BY_CODE = _classes()


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
        error.retryable = status in (429, 502, 503, 504)
    return error


def status_of(code: str) -> int:
    """The HTTP status of a platform's code, for errors that come after the status line (in a stream)."""
    return _BY_CODE.get(code, ClipperError).status
