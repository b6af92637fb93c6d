"""`1.0` for an integer: in JSON Schema, any number without a fraction is one, and some clients have floats alone."""

from __future__ import annotations

import re
from typing import Any, Final, Protocol

import msgspec

__all__ = ["with_whole_numbers"]


class Form(Protocol):
    """msgspec.json or msgspec.msgpack."""

    def encode(self, value: Any, /) -> bytes: ...
    def decode(self, data: bytes | memoryview, /) -> Any: ...


# In the words of msgspec, of pydantic where it is strict, and of arrays.
_REFUSED: Final = re.compile(
    r"Expected `[^`]*\bint\b[^`]*`, got `float`|Input should be a valid integer - at|"
    r"expected numbers of type u?int\d+, got floating-point numbers"
)
_EXACT: Final = 2.0**53  # beyond, a float stands for several integers


def with_whole_numbers(payload: bytes | memoryview, error: Exception, form: Form) -> bytes | None:
    """The document with integers in place of floats without a fraction; None where `error`, of its decoding, has
    another reason. Of the rest of it, only values without a hint are changed. `form`: msgspec's module of it."""
    if not isinstance(error, msgspec.ValidationError) or not _REFUSED.search(str(error)):
        return None
    return form.encode(_whole(form.decode(payload)))


def _whole(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= _EXACT else value
    if isinstance(value, list):
        return [_whole(one) for one in value]
    if isinstance(value, dict):
        return {key: _whole(one) for key, one in value.items()}
    return value
