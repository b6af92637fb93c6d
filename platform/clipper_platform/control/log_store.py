"""The functions' logs: collected from the replicas, bounded in memory and on disk, read and followed by people.

A line goes into its function's ring in memory at once (readers and followers see it) and to disk a moment later, from
a thread. On disk a function has at most two files of `MAX_FILE_BYTES`, JSON lines, oldest dropped.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from clipper.contract.wire import LogRecord
from clipper_platform.clock import Clock
from clipper_platform.control.tasks import uninterrupted
from clipper_platform.errors import Unavailable
from clipper_platform.types import FunctionId

__all__ = ["LogLine", "LogReader", "LogStore", "Tap"]

logger = logging.getLogger(__name__)

MAX_FILE_BYTES: Final = 8 * 1024 * 1024
# What a slow disk may leave unwritten per function; more is dropped and told.
MAX_PENDING_BYTES: Final = 4 * 1024 * 1024
MAX_MESSAGE_CHARACTERS: Final = 16 * 1024
RING_LINES: Final = 1000
RING_CHARACTERS: Final = 1024 * 1024
MOST_RINGS: Final = 1000  # functions whose newest lines are in memory; those silent for longest are read from disk
READER_LINES: Final = 1000
MAX_READERS: Final = 64  # per function
MAX_TAIL: Final = 10_000
FLUSH_PERIOD_S: Final = 0.2


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


Tap = Callable[[FunctionId, LogLine], None]

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(LogLine).decode


def _cut(message: str) -> str:
    if len(message) <= MAX_MESSAGE_CHARACTERS:
        return message
    return f"{message[:MAX_MESSAGE_CHARACTERS]}… ({len(message) - MAX_MESSAGE_CHARACTERS} more characters)"


def _encoded(line: LogLine) -> bytes:
    try:
        return _encode(line)
    except UnicodeEncodeError:  # a lone surrogate: user output may hold anything
        clean = line.message.encode(errors="backslashreplace").decode()
        return _encode(msgspec.structs.replace(line, message=clean, request_id="", logger=""))


class LogReader:
    """Lines of one function as they come. Slow readers lose lines rather than hold them: the loss is told in a line."""

    def __init__(self, stream: _Stream, history: Sequence[LogLine]) -> None:
        self._stream = stream
        self._waiting: deque[LogLine] = deque()
        self._history = list(history)
        self._dropped = 0
        self._closed = False
        self._wake = asyncio.Event()

    def push(self, line: LogLine) -> None:
        if len(self._waiting) >= READER_LINES:
            self._dropped += 1
        else:
            self._waiting.append(line)
        self._wake.set()

    async def next(self, timeout_s: float | None = None) -> list[LogLine] | None:
        """The lines that came since the last call; waits for the first. [] when none came in time, None at the end."""
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
        """No more lines will come; those that wait are still given out."""
        self._closed = True
        self._wake.set()

    def close(self) -> None:
        """Stop following. The reader's place is free at once."""
        self._stream.readers.discard(self)
        self.end()


class _Stream:
    """One function's lines: the ring, what is not on disk yet, and who follows."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.clock = clock
        self.ring: deque[LogLine] = deque()
        self.ring_characters = 0
        self.count = 0  # lines ever added
        self.written = 0  # of those, lines that reached the disk or were given up
        self.pending: list[bytes] = []
        self.pending_bytes = 0
        self.given_up = 0
        self.readers: set[LogReader] = set()
        self.whole = not path.exists()  # the ring holds every line that there is
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
        data = _encoded(line) + b"\n"
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
            taken.append(_encoded(self.note(f"{self.given_up} lines were lost: the disk is too slow")) + b"\n")
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


class LogStore:
    """All functions' logs. `append` is the backends' log sink: called in the event loop, it neither waits nor fails."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root
        self._clock = clock
        self._streams: dict[tuple[str, str], _Stream] = {}  # that used last comes last
        self._dirty: set[tuple[str, str]] = set()
        self._wake = asyncio.Event()
        self._disk = asyncio.Lock()  # between flushing, reading and deleting files
        self._disk_error: str | None = None
        self._taps: list[tuple[tuple[str, int], Tap]] = []
        self._closed = False

    # Writing

    def append(self, function: FunctionId, replica: str, records: Sequence[LogRecord]) -> None:
        """Lines of a replica."""
        self._add(
            function,
            (
                LogLine(
                    ts=r.ts,
                    stream=r.stream,
                    level=r.level,
                    message=_cut(r.message),
                    request_id=r.request_id,
                    logger=r.logger,
                    version=function.version,
                    replica=replica,
                )
                for r in records
            ),
        )

    def system(self, function: FunctionId, message: str, *, level: str = "info", replica: str = "") -> None:
        """A line by the platform about the function: a replica started, crashed."""
        line = LogLine(
            ts=self._clock.time(),
            stream="system",
            level=level,
            message=_cut(message),
            version=function.version,
            replica=replica,
        )
        self._add(function, [line])

    def _add(self, function: FunctionId, lines: Iterable[LogLine]) -> None:
        if self._closed:
            return
        stream = self._stream(function.project, function.function)
        version = (function.project, function.version)
        taps = [tap for of, tap in self._taps if of == version]
        for line in lines:
            stream.add(line)
            for tap in taps:
                tap(function, line)
        self._dirty.add((function.project, function.function))
        self._wake.set()

    def _stream(self, project: str, function: str) -> _Stream:
        stream = self._streams.pop((project, function), None)
        if stream is None:
            stream = _Stream(self._path(project, function), self._clock)
        self._streams[project, function] = stream
        return stream

    def _path(self, project: str, function: str) -> Path:
        # Both are checked names (clipper.contract.spec.NAME_PATTERN): neither can leave the directory.
        return self._root / project / f"{function}.jsonl"

    @contextmanager
    def tap(self, project: str, version: int, tap: Tap) -> Iterator[None]:
        """While inside, `tap` is called with each new line of that version's functions."""
        entry = ((project, version), tap)
        self._taps.append(entry)
        try:
            yield
        finally:
            self._taps.remove(entry)

    async def run(self) -> None:
        """Write to disk what was appended, for ever."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(FLUSH_PERIOD_S)  # gathers lines: one write per function and period
            try:
                await self.flush()
            except Exception:
                logger.exception("a round of writing the functions' logs failed")

    async def flush(self) -> None:
        """Write what is pending now. A full or broken disk is logged once and costs the lines, nothing else."""
        self._wake.clear()
        async with self._disk:
            for key in sorted(self._dirty):
                self._dirty.discard(key)
                stream = self._streams.get(key)
                if stream is None:
                    continue
                count, data = stream.count, stream.take_pending()
                try:
                    # A thread cannot be cancelled: the next writer must not meet it.
                    await uninterrupted(asyncio.to_thread(_append_rotating, stream.path, data))
                except OSError as error:
                    if self._disk_error is None:
                        logger.error("the functions' logs cannot be written: %s", error)
                    self._disk_error = str(error)
                else:
                    if self._disk_error is not None:
                        logger.warning("the functions' logs can be written again")
                    self._disk_error = None
                stream.written = count
        self._let_go()

    def _let_go(self) -> None:
        """Of more functions than are kept in memory, forget those that were silent for longest and that nobody reads:
        all their lines are on disk."""
        over = len(self._streams) - MOST_RINGS
        for key in list(islice(self._streams, max(0, over))):
            stream = self._streams[key]
            if key not in self._dirty and not stream.pending and not stream.readers:
                del self._streams[key]

    async def close(self) -> None:
        """End all followers and write the rest."""
        self._closed = True
        for stream in self._streams.values():
            for reader in list(stream.readers):
                reader.end()
        await self.flush()

    # Reading

    def known(self, project: str, function: str) -> bool:
        """Whether this function ever wrote a line that is still there."""
        return (project, function) in self._streams or self._path(project, function).exists()

    async def tail(self, project: str, function: str, *, n: int = 100, since: float | None = None) -> list[LogLine]:
        """The newest `n` lines (at most 10,000) not older than `since` (Unix seconds), oldest first."""
        reader = await self.open(project, function, tail=n, since=since)
        reader.close()
        return await reader.next() or []

    async def open(self, project: str, function: str, *, tail: int = 100, since: float | None = None) -> LogReader:
        """A reader that starts with the newest `tail` lines and follows from there, without gap or repetition.

        The caller closes it. Raises Unavailable when too many follow already.
        """
        n = max(0, min(tail, MAX_TAIL))
        stream = self._stream(project, function)
        if len(stream.readers) >= MAX_READERS:
            raise Unavailable(f"{MAX_READERS} readers follow this log already", retry_after_s=10.0)
        lines, older = stream.snapshot(n, since)
        reader = LogReader(stream, lines)
        if self._closed:
            reader.end()
        stream.readers.add(reader)
        if older:
            first = stream.count - len(stream.ring)  # index of the ring's oldest line
            try:
                async with self._disk:
                    overlap = max(0, stream.written - first)
                    reader.prepend(await asyncio.to_thread(_read, stream.path, n - len(lines), overlap, since))
            except BaseException:
                reader.close()
                raise
        return reader

    async def follow(self, project: str, function: str) -> AsyncIterator[LogLine]:
        """New lines as they come, until the store is closed."""
        reader = await self.open(project, function, tail=0)
        try:
            async for line in reader:
                yield line
        finally:
            reader.close()

    async def delete(self, project: str) -> None:
        """Forget a project's logs; those who follow them come to the end."""
        for key in [key for key in self._streams if key[0] == project]:
            for reader in list(self._streams.pop(key).readers):
                reader.end()
        async with self._disk:
            await asyncio.to_thread(shutil.rmtree, self._root / project, ignore_errors=True)


def _append_rotating(path: Path, data: Sequence[bytes]) -> None:
    if not data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    blob = b"".join(data)
    size = path.stat().st_size if path.exists() else 0
    if size and size + len(blob) > MAX_FILE_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    with path.open("ab") as file:
        file.write(blob)


def _read(path: Path, n: int, overlap: int, since: float | None) -> list[LogLine]:
    """The newest `n` lines on disk, without the newest `overlap` ones, oldest first."""
    found: list[LogLine] = []
    for part in (path, path.with_name(path.name + ".1")):
        try:
            rows = part.read_bytes().splitlines()
        except FileNotFoundError:
            continue
        skipped = min(overlap, len(rows))
        overlap -= skipped
        for row in reversed(rows[: len(rows) - skipped]):
            if len(found) >= n:
                return found[::-1]
            try:
                line = _decode(row)
            except msgspec.MsgspecError:
                continue  # cut short by a crash or a full disk
            if since is not None and line.ts < since:
                return found[::-1]
            found.append(line)
    return found[::-1]
