"""The weight of an invocation in a batch, where the function names the parameter that makes an invocation big."""

from __future__ import annotations

import re
from collections.abc import Callable, Sized
from typing import Any, Final

import msgspec

from clipper.contract.media_types import MSGPACK, NPY, NPY_EXTENSION, canonical_media_type

__all__ = ["weigh_by"]

_MOST: Final = 1 << 31


# The header of a `.npy` file holds the shape as text, near its beginning.
_HEADER_BYTES: Final = 512
_FIRST_AXIS: Final = re.compile(rb"'shape': \((\d{1,18}),")


def weigh_by(key: str) -> Callable[[str, bytes | memoryview], int]:
    """A function of (content type, body) that gives the weight: the named argument's length, or the number that it
    is; at least 1. Only this argument is decoded, the others are skipped. An array weighs the length of its first axis
    in every format. A body that cannot be read weighs 1: the replica reports what is wrong with it.
    """
    shape = msgspec.defstruct("Sized", [("value", Any, None)], rename={"value": key})
    decode_json = msgspec.json.Decoder(shape).decode
    decode_msgpack = msgspec.msgpack.Decoder(shape, ext_hook=_read_extension).decode

    def weigh(content_type: str, body: bytes | memoryview) -> int:
        media = canonical_media_type(content_type)
        if media == NPY:  # the body is the one argument
            return max(1, _array_length(body))
        decode = decode_msgpack if media == MSGPACK else decode_json
        try:
            value = getattr(decode(body), "value", None)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return 1
        if isinstance(value, bool):
            return 1
        if isinstance(value, (int, float)):
            return int(max(1, min(value, _MOST))) if value == value else 1
        return max(1, len(value)) if isinstance(value, Sized) else 1

    return weigh


def _read_extension(code: int, data: memoryview) -> Any:
    return range(_array_length(data)) if code == NPY_EXTENSION else None


def _array_length(data: bytes | memoryview) -> int:
    """The length of the first axis of the array in a `.npy` file; 1 for one that has none or cannot be read."""
    found = _FIRST_AXIS.search(bytes(data[:_HEADER_BYTES]))
    return min(int(found[1]), _MOST) if found else 1
