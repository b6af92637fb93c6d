"""A replica's outcome of an item as an error of the platform's taxonomy."""

from __future__ import annotations

from clipper.contract.wire import Outcome, Status
from clipper_platform.errors import (
    ClientClosed,
    ClipperError,
    DeadlineExceeded,
    FunctionError,
    InternalError,
    InvalidRequest,
    InvalidResult,
    NotAcceptable,
    ReplicaLost,
    SchemaMismatch,
    Unavailable,
    UnsupportedMediaType,
)

__all__ = ["ERROR_OF_STATUS", "defaultable", "error_of"]

ERROR_OF_STATUS: dict[int, type[ClipperError]] = {
    Status.MALFORMED: InvalidRequest,
    Status.INVALID: SchemaMismatch,
    Status.UNSUPPORTED_MEDIA_TYPE: UnsupportedMediaType,
    Status.NOT_ACCEPTABLE: NotAcceptable,
    Status.UNENCODABLE: InvalidResult,
    Status.TOO_LARGE: InvalidResult,
    Status.CANCELLED: ClientClosed,
    Status.FUNCTION_ERROR: FunctionError,
}


def error_of(outcome: Outcome) -> ClipperError:
    """The error for an outcome that is not OK. A status of a newer protocol is an internal error."""
    kind = ERROR_OF_STATUS.get(outcome.status)
    if kind is None:
        return InternalError(f"the replica answered with the unknown status {outcome.status}")
    if kind is FunctionError:
        text = f"{outcome.error_type}: {outcome.message}" if outcome.message else outcome.error_type
        return FunctionError(text, type=outcome.error_type)
    return kind(outcome.message or kind.code)


def defaultable(error: ClipperError) -> bool:
    """Whether the default output may answer: the model was too slow or not there; not where the request is wrong."""
    return isinstance(error, DeadlineExceeded | Unavailable | ReplicaLost)
