"""The outcomes of items that fail: user code raised, the codec rejected a payload or value, the item was cancelled."""

from __future__ import annotations

from typing import Any, Final

from clipper.contract.wire import Item, Outcome, Status
from clipper_runtime.codec import Rejected
from clipper_runtime.error_text import error_text
from clipper_runtime.logs import clean_text

__all__ = ["failed", "not_a_list", "refused", "skipped", "too_large", "wrong_length"]

_MAX_MESSAGE_CHARACTERS: Final = 4 * 1024
_MAX_TYPE_CHARACTERS: Final = 256


def failed(item: int, error: BaseException) -> Outcome:
    """The outcome of an item whose code raised `error`."""
    message = error_text(error)
    kind = clean_text(type(error).__qualname__, _MAX_TYPE_CHARACTERS)
    return Outcome(item, Status.FUNCTION_ERROR, "", 0, kind, clean_text(message, _MAX_MESSAGE_CHARACTERS))


def refused(item: Item, rejected: Rejected) -> Outcome:
    return Outcome(item.id, rejected.status, "", 0, "", clean_text(rejected.message, _MAX_MESSAGE_CHARACTERS))


def skipped(item: int, message: str = "cancelled before it ran") -> Outcome:
    return Outcome(item, Status.CANCELLED, message=message)


def too_large(size: int, limit: int) -> Rejected:
    return Rejected(Status.TOO_LARGE, f"the encoded return value has {size} bytes, the limit is {limit}")


def wrong_length(returned: int, expected: int) -> Rejected:
    return Rejected(
        Status.UNENCODABLE,
        f"the function returned {returned} values for {expected} invocations: "
        f"expected {expected}, one per entry of its arguments, in their order",
    )


def not_a_list(value: Any, error: BaseException | None = None) -> Rejected:
    """`error`: the exception that reading the value as a list raised, if it did."""
    kind = type(value).__name__
    if error is not None:
        return Rejected(Status.UNENCODABLE, f"the returned {kind} cannot be read as a list: {error}")
    return Rejected(
        Status.UNENCODABLE,
        f"a function with max_batch_size above 1 must return a list with one value per invocation, not {kind}",
    )
