"""The taxonomy of errors: every refusal and failure that leaves the platform is one of these.

    ClipperError
    ├── InvalidRequest         400  malformed: not JSON, a bad header, a bad name
    │   └── InvalidSpec        400  a manifest, policy or bundle that cannot be accepted
    ├── Unauthenticated        401  no key, or one that is not known
    ├── Forbidden              403  the key's scopes do not allow it, or the origin or host is refused
    ├── NotFound               404
    ├── MethodNotAllowed       405
    ├── NotAcceptable          406  no form of the value fits `Accept`
    ├── RequestTimeout         408  the client was too slow to send its body
    ├── Conflict               409
    ├── PayloadTooLarge        413
    ├── UnsupportedMediaType   415
    ├── HeadersTooLarge        431
    ├── SchemaMismatch         422  arguments that do not fit the function's schema
    ├── QueueFull              429  retry after the time given
    ├── ClientClosed           499  the caller went away (in metrics only: nobody reads the answer)
    ├── FunctionError          500  the user's code raised
    ├── InvalidResult          500  the user's code returned what cannot be sent
    ├── Quarantined            500  the invocation ended several replicas and is not tried again
    ├── InternalError          500  a defect of the platform
    ├── ReplicaLost            502  the replica died and the retries are spent
    ├── Unavailable            503  no capacity, draining, not deployable
    │   └── StoreUnavailable   503  the metadata store cannot be reached
    ├── DeployFailed           422  a deploy that ended before the route flipped
    └── DeadlineExceeded       504

`code` is the stable word that clients match; `status` is HTTP's; `retryable` says whether the same request may
succeed later. Statuses stand in this file only; `gateway.errors` renders.
"""

from __future__ import annotations

from typing import Any, ClassVar

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


class ClipperError(Exception):
    """Base of all. `details` are extra JSON fields of the rendered error; `retry_after_s` becomes `Retry-After`."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after_s: float | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.details = details


class InvalidRequest(ClipperError):
    code = "invalid_request"
    status = 400


class InvalidSpec(InvalidRequest):
    code = "invalid_spec"


class Unauthenticated(ClipperError):
    code = "unauthenticated"
    status = 401


class Forbidden(ClipperError):
    code = "forbidden"
    status = 403


class NotFound(ClipperError):
    code = "not_found"
    status = 404


class MethodNotAllowed(ClipperError):
    code = "method_not_allowed"
    status = 405


class NotAcceptable(ClipperError):
    code = "not_acceptable"
    status = 406


class RequestTimeout(ClipperError):
    code = "request_timeout"
    status = 408
    retryable = True


class Conflict(ClipperError):
    code = "conflict"
    status = 409


class PayloadTooLarge(ClipperError):
    code = "payload_too_large"
    status = 413


class UnsupportedMediaType(ClipperError):
    code = "unsupported_media_type"
    status = 415


class SchemaMismatch(ClipperError):
    code = "schema_mismatch"
    status = 422


class DeployFailed(ClipperError):
    """`details`: phase, exception, log (its last lines) and hint."""

    code = "deploy_failed"
    status = 422


class HeadersTooLarge(ClipperError):
    code = "headers_too_large"
    status = 431


class QueueFull(ClipperError):
    code = "queue_full"
    status = 429
    retryable = True


class ClientClosed(ClipperError):
    code = "client_closed"
    status = 499


class FunctionError(ClipperError):
    """`details`: type, the user's exception type."""

    code = "function_error"
    status = 500


class InvalidResult(ClipperError):
    code = "invalid_result"
    status = 500


class Quarantined(ClipperError):
    code = "quarantined"
    status = 500


class InternalError(ClipperError):
    code = "internal_error"
    status = 500


class ReplicaLost(ClipperError):
    code = "replica_lost"
    status = 502
    retryable = True


class Unavailable(ClipperError):
    code = "unavailable"
    status = 503
    retryable = True


class StoreUnavailable(Unavailable):
    code = "store_unavailable"


class DeadlineExceeded(ClipperError):
    code = "deadline_exceeded"
    status = 504
    retryable = True
