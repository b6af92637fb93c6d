"""The weight of an invocation in a batch, where the function names the parameter that makes an invocation big."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any, Final

import msgspec

from clipper.contract.media_types import MSGPACK

__all__ = ["weigh_by"]

_MOST: Final = 1 << 31


def weigh_by(key: str) -> Callable[[str, bytes | memoryview], int]:
    """A function of (content type, body) that gives the weight: the named argument's length, or the number that it
    is; at least 1. Only this argument is decoded, the others are skipped. A body that cannot be read weighs 1: the
    replica reports what is wrong with it.
    """
    shape = msgspec.defstruct("Sized", [("value", Any, None)], rename={"value": key})
    decode_json = msgspec.json.Decoder(shape).decode
    decode_msgpack = msgspec.msgpack.Decoder(shape).decode

    def weigh(content_type: str, body: bytes | memoryview) -> int:
        decode = decode_msgpack if content_type == MSGPACK else decode_json
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
