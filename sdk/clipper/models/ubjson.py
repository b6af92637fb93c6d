"""UBJSON as XGBoost writes it: the objects and short values; long arrays are stepped over.

https://ubjson.org/type-reference/, xgboost/src/common/json.cc
"""

from __future__ import annotations

import mmap
import struct
from typing import Any, Final

__all__ = ["UbjsonError", "read_ubjson"]

_NUMBERS: Final = {
    b"i": ">b", b"U": ">B", b"I": ">h", b"l": ">i", b"L": ">q", b"d": ">f", b"D": ">d", b"u": ">H", b"m": ">I",
}  # fmt: skip
_CONSTANTS: Final = {b"Z": None, b"T": True, b"F": False}
_MAX_DEPTH: Final = 64
_MAX_VALUES: Final = 5_000_000
_KEPT_ITEMS: Final = 65_536


class UbjsonError(ValueError):
    """These bytes are no UBJSON, or not a whole one."""


def read_ubjson(data: bytes | mmap.mmap) -> Any:
    """The value; None stands for an array of more numbers than anybody would look at. Raises UbjsonError."""
    return _Reader(data).value(0)


class _Reader:
    def __init__(self, data: bytes | mmap.mmap) -> None:
        self.data, self.at, self.left = data, 0, _MAX_VALUES

    def take(self, count: int) -> bytes:
        if count < 0 or count > len(self.data) - self.at:
            raise UbjsonError("the file ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def peek(self, mark: bytes) -> bool:
        """Whether `mark` is next; it is taken if so."""
        found = self.data[self.at : self.at + 1] == mark
        self.at += found
        return found

    def value(self, depth: int) -> Any:
        return self.typed(self.take(1), depth)

    def typed(self, mark: bytes, depth: int) -> Any:
        self.left -= 1
        if depth > _MAX_DEPTH or self.left < 0:
            raise UbjsonError("too many values")
        if mark in _NUMBERS:
            form = _NUMBERS[mark]
            return struct.unpack(form, self.take(struct.calcsize(form)))[0]
        if mark in _CONSTANTS:
            return _CONSTANTS[mark]
        if mark == b"C":
            return self.take(1).decode("latin-1")
        if mark == b"S":
            return self.text()
        if mark == b"{":
            return self.object(depth + 1)
        if mark == b"[":
            return self.array(depth + 1)
        raise UbjsonError(f"an unknown type at byte {self.at - 1:,}")

    def text(self) -> str:
        return self.take(self.length()).decode("utf-8", "replace")

    def length(self) -> int:
        length = self.value(_MAX_DEPTH)
        if type(length) is not int or length < 0:
            raise UbjsonError("a length that is no number")
        return length

    def object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        count = self.length() if self.peek(b"#") else None
        while not self.peek(b"}") if count is None else count:
            key = self.text()
            found[key] = self.value(depth)
            count = count if count is None else count - 1
        return found

    def array(self, depth: int) -> list[Any] | None:
        mark = self.take(1) if self.peek(b"$") else None
        count = self.length() if self.peek(b"#") else None
        if mark is not None and count is None:
            raise UbjsonError("an array with a type and without a length")
        if mark in _NUMBERS and mark is not None and count is not None:
            raw = self.take(struct.calcsize(_NUMBERS[mark]) * count)
            if count > _KEPT_ITEMS:
                return None
            return list(struct.unpack(f">{count}{_NUMBERS[mark][1]}", raw))
        found: list[Any] = []
        while not self.peek(b"]") if count is None else len(found) < count:
            found.append(self.typed(mark, depth) if mark is not None else self.value(depth))
        return found
