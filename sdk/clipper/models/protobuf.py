"""Protocol buffers on the wire, as far as reading a few fields of a large file takes: no schema, no copy.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["BYTES", "VARINT", "Message", "WireError"]

VARINT: Final = 0
BYTES: Final = 2
_FIXED64: Final = 1
_FIXED32: Final = 5
_MAX_VARINT_BYTES: Final = 10
# Of one message: a network of a million nodes has as many. What lies in nested messages is counted there.
_MAX_FIELDS: Final = 4_000_000


class WireError(ValueError):
    """These bytes are no message."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message: the bytes of `data` from `start` to `end`."""

    data: bytes | mmap.mmap
    start: int
    end: int

    @classmethod
    def of(cls, data: bytes | mmap.mmap) -> Message:
        return cls(data, 0, len(data))

    def fields(self) -> Iterator[tuple[int, int, int | Message]]:
        """(number, wire type, value) of each field; what has a length is a message, whose `raw` are its bytes.

        Raises WireError where the bytes end too early or are no fields.
        """
        at = self.start
        for _ in range(_MAX_FIELDS):
            if at == self.end:
                return
            tag, at = self._varint(at)
            number, kind = tag >> 3, tag & 7
            if not number:
                raise WireError("a field without a number")
            value: int | Message
            if kind == VARINT:
                value, at = self._varint(at)
            elif kind in (_FIXED64, _FIXED32):
                width = 8 if kind == _FIXED64 else 4
                value, at = int.from_bytes(self._slice(at, at + width), "little"), at + width
            elif kind == BYTES:
                length, at = self._varint(at)
                if length > self.end - at:
                    raise WireError("a field is longer than what holds it")
                value, at = Message(self.data, at, at + length), at + length
            else:
                raise WireError(f"an unknown wire type, {kind}")
            yield number, kind, value
        raise WireError("too many fields")

    def messages(self, wanted: int) -> Iterator[Message]:
        for number, kind, value in self.fields():
            if number == wanted and kind == BYTES and isinstance(value, Message):
                yield value

    def message(self, wanted: int) -> Message | None:
        """The last field of this number, which counts."""
        return next(iter(deque(self.messages(wanted), maxlen=1)), None)

    def number(self, wanted: int) -> int | None:
        found = None
        for number, _, value in self.fields():
            if number == wanted and isinstance(value, int):
                found = value
        return found

    def texts(self, wanted: int) -> list[str]:
        return [one.text for one in self.messages(wanted)]

    @property
    def raw(self) -> bytes:
        return self._slice(self.start, self.end)

    @property
    def text(self) -> str:
        """Raises WireError for bytes that are no UTF-8."""
        try:
            return self.raw.decode()
        except UnicodeDecodeError:
            raise WireError("a text is not UTF-8") from None

    def _slice(self, start: int, end: int) -> bytes:
        if end > self.end:
            raise WireError("the message ends too early")
        return self.data[start:end]

    def _varint(self, at: int) -> tuple[int, int]:
        value = 0
        for place in range(_MAX_VARINT_BYTES):
            if at >= self.end:
                raise WireError("the message ends too early")
            byte = self.data[at]
            at += 1
            value |= (byte & 127) << (7 * place)
            if byte < 128:
                return value, at
        raise WireError("a number is too long")
