"""Plain values as JSON, and beside it the bytes and arrays that JSON cannot carry, each under a text in its place."""

from __future__ import annotations

import json
from datetime import date, datetime, time, timedelta
from typing import Any, Final

import msgspec

__all__ = ["Beside", "as_json", "taken"]

_AS_THEY_ARE: Final = (str, bool, int, float, type(None))
_AS_TEXT: Final = (datetime, date, time, timedelta)


class Beside:
    """The values that stand beside one JSON document. `all_taken`: each was put into its place again."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._taken: set[str] = set()

    @property
    def count(self) -> int:
        return len(self._values)

    @property
    def all_taken(self) -> bool:
        return self._taken == self._values.keys()

    def put(self, value: Any) -> str:
        name = f"\0{len(self._values)}"
        self._values[name] = value
        return name

    def take(self, name: Any) -> Any:
        """The value of this name; anything else as it is."""
        if not isinstance(name, str) or name not in self._values:
            return name
        self._taken.add(name)
        return self._values[name]


def as_json(value: Any) -> tuple[bytes, Beside]:
    """`value`, as MessagePack carries it, as JSON in which NaN and infinities are names of JavaScript.

    What keys other than text have no place in it and stand beside it with their object.
    """
    beside = Beside()
    return json.dumps(_plain(value, beside)).encode(), beside


def _plain(value: Any, beside: Beside) -> Any:
    if isinstance(value, _AS_THEY_ARE):
        return value
    if isinstance(value, list):
        return [_plain(one, beside) for one in value]
    if isinstance(value, dict) and all(type(key) is str for key in value):
        return {key: _plain(one, beside) for key, one in value.items()}
    if isinstance(value, _AS_TEXT):
        return msgspec.to_builtins(value)
    return beside.put(value)


def taken(value: Any, info: Any) -> Any:
    """In a validator of pydantic: the value, or what stands beside the JSON for it."""
    return info.context.take(value) if isinstance(info.context, Beside) else value
