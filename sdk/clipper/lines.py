"""Lines and server-sent events from a byte stream that is split anywhere. No I/O.

Lines end with LF or CRLF and nothing else: text may hold U+2028 and the other marks at which `str.splitlines` breaks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from clipper.errors import UnexpectedAnswer

__all__ = ["MAX_LINE_BYTES", "EventReader", "LineReader", "ServerEvent", "media_type"]

# A streamed item is one line; the platform's default limit for a body is 64 MiB.
MAX_LINE_BYTES: Final = 128 * 1024 * 1024


def media_type(headers: Mapping[str, str]) -> str:
    """The type of an answer's body without its parameters, as in "application/json"; "" where it names none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


class LineReader:
    """Bytes in, whole lines out (without their ends). Holds at most one incomplete line."""

    __slots__ = ("_held", "_held_bytes", "_limit")

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._limit = max_line_bytes
        self._held: list[bytes] = []  # pieces of the incomplete line: joined once, not at every chunk
        self._held_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes. Raises UnexpectedAnswer when a line is over the limit."""
        first, *rest = data.split(b"\n")
        self._held.append(first)
        self._held_bytes += len(first)
        if self._held_bytes > self._limit or any(len(part) > self._limit for part in rest):
            raise UnexpectedAnswer(f"the answer holds a line of more than {self._limit} bytes")
        if not rest:
            return []
        lines = [b"".join(self._held), *rest[:-1]]
        self._held, self._held_bytes = [rest[-1]], len(rest[-1])
        return [line.removesuffix(b"\r") for line in lines]


class ServerEvent(NamedTuple):
    """One server-sent event. `event` is "message" where the stream named none; `data` joins its data lines."""

    event: str
    data: str


class EventReader:
    """Bytes in, server-sent events out (WHATWG HTML, section 9.2: event and data fields; comments are heartbeats)."""

    __slots__ = ("_data", "_event", "_lines")

    def __init__(self) -> None:
        self._lines = LineReader()
        self._event = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> Iterator[ServerEvent]:
        """The events that `data` completes. Raises UnexpectedAnswer."""
        for line in self._lines.feed(data):
            if not line:
                if self._data or self._event:
                    yield ServerEvent(self._event or "message", "\n".join(self._data))
                self._event, self._data = "", []
                continue
            name, _, raw = line.partition(b":")
            try:
                value = raw.removeprefix(b" ").decode()
            except UnicodeDecodeError as error:
                raise UnexpectedAnswer(f"the stream is not UTF-8: {error}") from None
            if name == b"event":
                self._event = value
            elif name == b"data":
                self._data.append(value)
