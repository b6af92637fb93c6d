"""One function's log: its lines, the newest of them in memory, and the readers that follow it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from clipper_platform.clock import Clock

__all__ = ["LogLine", "LogReader", "LogStream", "encoded"]

# What a slow disk may leave unwritten per function; more is dropped, and a line says how many.
MAX_PENDING_BYTES: Final = 4 * 1024 * 1024
RING_LINES: Final = 1000
RING_CHARACTERS: Final = 1024 * 1024
# What waits for a reader: a replica's burst of lines (10,000, up to 4 MiB) comes in a few turns of the event loop.
READER_LINES: Final = 20_000
READER_CHARACTERS: Final = 8 * 1024 * 1024


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line, as it is stored and shown. `ts`: Unix seconds. `stream`: stdout, stderr, log or system."""

    ts: float
    stream: str
    level: str
    message: str
    request_id: str = ""
    logger: str = ""
    version: int
    replica: str = ""


_encode: Final = msgspec.json.Encoder().encode


def encoded(line: LogLine) -> bytes:
    """The line as JSON."""
    try:
        return _encode(line)
    except UnicodeEncodeError:  # a lone surrogate: user output may hold anything
        clean = line.message.encode(errors="backslashreplace").decode()
        return _encode(msgspec.structs.replace(line, message=clean, request_id="", logger=""))


class LogReader:
    """Lines of one function as they come. A reader that is too slow loses lines, and a line says how many."""

    def __init__(self, stream: LogStream, history: Sequence[LogLine]) -> None:
        self._stream = stream
        self._waiting: deque[LogLine] = deque()
        self._characters = 0
        self._history = list(history)
        self._dropped = 0
        self._closed = False
        self._wake = asyncio.Event()

    def push(self, line: LogLine) -> None:
        if len(self._waiting) >= READER_LINES or self._characters >= READER_CHARACTERS:
            self._dropped += 1
        else:
            self._waiting.append(line)
            self._characters += len(line.message)
        self._wake.set()

    async def next(self, timeout_s: float | None = None) -> list[LogLine] | None:
        """The lines since the last call; waits for the first. [] where none came in time, None at the end."""
        if not self._history and not self._waiting and not self._closed:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                return []
        self._wake.clear()
        lines = [*self._history, *self._waiting]
        self._history.clear()
        self._waiting.clear()
        self._characters = 0
        if self._dropped:
            lines.append(self._stream.note(f"{self._dropped} lines were not sent: this reader is too slow"))
            self._dropped = 0
        if not lines and self._closed:
            return None
        return lines

    async def __aiter__(self) -> AsyncIterator[LogLine]:
        while (lines := await self.next()) is not None:
            for line in lines:
                yield line

    def prepend(self, history: Sequence[LogLine]) -> None:
        """Lines from before the reader was opened. Only before the first `next`."""
        self._history[:0] = history

    def end(self) -> None:
        """Ends the log for this reader; `next` still returns the lines that wait."""
        self._closed = True
        self._wake.set()

    def close(self) -> None:
        """Stops following, and frees the reader's place at once."""
        self._stream.readers.discard(self)
        self.end()


class LogStream:
    """One function's newest lines in a ring, the lines that are not on disk yet, and the readers."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.clock = clock
        self.ring: deque[LogLine] = deque()
        self.ring_characters = 0
        self.count = 0  # lines added since the start
        self.written = 0  # of these, the lines on disk and the dropped ones
        self.pending: list[bytes] = []
        self.pending_bytes = 0
        self.given_up = 0
        self.readers: set[LogReader] = set()
        self.whole = not path.exists()  # the ring holds all lines of the function
        self.last_version = 0

    def note(self, message: str) -> LogLine:
        return LogLine(
            ts=self.clock.time(), stream="system", level="warning", message=message, version=self.last_version
        )

    def add(self, line: LogLine) -> None:
        self.count += 1
        self.last_version = line.version
        self.ring.append(line)
        self.ring_characters += len(line.message)
        while len(self.ring) > RING_LINES or (self.ring_characters > RING_CHARACTERS and len(self.ring) > 1):
            self.ring_characters -= len(self.ring.popleft().message)
            self.whole = False
        data = encoded(line) + b"\n"
        if self.pending_bytes + len(data) > MAX_PENDING_BYTES:
            self.given_up += 1
        else:
            self.pending.append(data)
            self.pending_bytes += len(data)
        for reader in self.readers:
            reader.push(line)

    def take_pending(self) -> list[bytes]:
        taken, self.pending, self.pending_bytes = self.pending, [], 0
        if self.given_up:
            taken.append(encoded(self.note(f"{self.given_up} lines were lost: the disk is too slow")) + b"\n")
            self.given_up = 0
        return taken

    def snapshot(self, n: int, since: float | None) -> tuple[list[LogLine], bool]:
        """Lines of the ring, and whether older ones on disk are wanted as well."""
        lines = list(self.ring)
        if since is not None:
            chosen = [line for line in lines if line.ts >= since]
            older = not self.whole and len(chosen) == len(lines) and len(chosen) < n
            return chosen[-n:] if n else [], older
        return lines[-n:] if n else [], not self.whole and len(lines) < n
