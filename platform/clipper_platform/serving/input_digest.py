"""The digest of an invocation's arguments: equal for equal arguments, however they are written.

A result cache looks at the bytes of a body, since most of what it is asked for came from one client a moment ago. What
was computed beforehand is asked for by others, in JSON with other spaces or in MessagePack. So arguments are read, as
data, and digested in one form: MessagePack with sorted keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

import msgspec

from clipper.contract.media_types import JSON, MSGPACK

__all__ = ["InputDigest"]

_encode: Final = msgspec.msgpack.Encoder(order="deterministic").encode
_from_json: Final = msgspec.json.Decoder().decode
_from_msgpack: Final = msgspec.msgpack.Decoder().decode
_PLAIN: Final = frozenset({"string", "boolean", "null", "integer", "number"})
_EXACT: Final = 2.0**53  # up to here, every whole number has a float of its own


class InputDigest:
    """For one function version, by the schema that it published.

    Where the types of all its parameters say which numbers are whole, a function cannot tell 1 from 1.0, and both have
    one digest. Elsewhere they are different arguments.
    """

    __slots__ = ("_numbers_typed",)

    def __init__(self, schema: Mapping[str, Any] | None) -> None:
        self._numbers_typed = schema is not None and _numbers_typed(schema.get("parameters"))

    def __call__(self, content_type: str, body: bytes | memoryview) -> bytes | None:
        """32 bytes; None for a body that cannot be read, which no answer was computed for."""
        try:
            if content_type == JSON:
                form, data = b"arguments", self._data(_from_json(body))
            elif content_type == MSGPACK:
                form, data = b"arguments", self._data(_from_msgpack(body))
            else:
                form, data = content_type.encode("utf-8", "surrogatepass"), bytes(body)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
            return None
        digest = blake2b(b"%d," % len(form), digest_size=32, person=b"clipper.input.01")
        digest.update(form)
        digest.update(data)
        return digest.digest()

    def _data(self, arguments: Any) -> bytes:
        return _encode(_whole(arguments) if self._numbers_typed else arguments)


def _whole(value: Any) -> Any:
    """With a whole number for each float that is one."""
    if type(value) is float:
        return int(value) if value.is_integer() and -_EXACT < value < _EXACT else value
    if type(value) is list:
        return [_whole(item) for item in value]
    return {key: _whole(item) for key, item in value.items()} if type(value) is dict else value


def _numbers_typed(schema: Any) -> bool:
    """Whether a JSON schema says of every number whether it is whole."""
    if not isinstance(schema, Mapping):
        return False
    if "anyOf" in schema:
        kinds = {found.get("type") for found in schema["anyOf"] if isinstance(found, Mapping)}
        return not {"integer", "number"} <= kinds and all(map(_numbers_typed, schema["anyOf"]))
    match schema.get("type"):
        case "array":
            return _numbers_typed(schema.get("items"))
        case "object":
            others = schema.get("additionalProperties", False)
            return all(map(_numbers_typed, schema.get("properties", {}).values())) and (
                others is False or _numbers_typed(others)
            )
        case kind:
            return kind in _PLAIN
