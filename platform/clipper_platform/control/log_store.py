"""The log store: the functions' logs, bounded in memory and on disk, to read and to follow.

A line enters its function's ring in memory at once, where readers see it, and a thread writes it to disk within
`FLUSH_PERIOD_S`. On disk a function has at most two files of `MAX_FILE_BYTES` of JSON lines; the oldest are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from clipper.contract.wire import LogRecord
from clipper_platform.clock import Clock
from clipper_platform.control.log_stream import LogLine, LogReader, LogStream
from clipper_platform.control.tasks import uninterrupted
from clipper_platform.errors import Unavailable
from clipper_platform.types import FunctionId

__all__ = ["LogStore", "Tap"]

logger = logging.getLogger(__name__)

MAX_FILE_BYTES: Final = 8 * 1024 * 1024
MAX_MESSAGE_CHARACTERS: Final = 16 * 1024
MOST_RINGS: Final = 1000  # functions with lines in memory; those silent for longest are read from disk
MAX_READERS: Final = 64  # per function
MAX_TAIL: Final = 10_000
FLUSH_PERIOD_S: Final = 0.2


Tap = Callable[[FunctionId, LogLine], None]

_decode: Final = msgspec.json.Decoder(LogLine).decode


def _cut(message: str) -> str:
    if len(message) <= MAX_MESSAGE_CHARACTERS:
        return message
    return f"{message[:MAX_MESSAGE_CHARACTERS]}… ({len(message) - MAX_MESSAGE_CHARACTERS} more characters)"


class LogStore:
    """All functions' logs. `append` is the backends' log sink: it is called in the event loop, and neither waits nor
    fails."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root
        self._clock = clock
        self._streams: dict[tuple[str, str], LogStream] = {}  # the last one used comes last
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
        """Adds a line by the platform about the function: that a replica started, or crashed."""
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

    def _stream(self, project: str, function: str) -> LogStream:
        stream = self._streams.pop((project, function), None)
        if stream is None:
            stream = LogStream(self._path(project, function), self._clock)
        self._streams[project, function] = stream
        return stream

    def _path(self, project: str, function: str) -> Path:
        # Both are checked names (clipper.contract.spec.NAME_PATTERN): neither can leave the directory.
        return self._root / project / f"{function}.jsonl"

    @contextmanager
    def tap(self, project: str, version: int, tap: Tap) -> Iterator[None]:
        """Calls `tap` with each new line of that version's functions while the context lasts."""
        entry = ((project, version), tap)
        self._taps.append(entry)
        try:
            yield
        finally:
            self._taps.remove(entry)

    async def run(self) -> None:
        """Writes new lines to disk, for ever."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(FLUSH_PERIOD_S)  # gathers lines: one write per function and period
            try:
                await self.flush()
            except Exception:
                logger.exception("a round of writing the functions' logs failed")

    async def flush(self) -> None:
        """Writes the pending lines now. A full or broken disk loses them, and is logged once."""
        self._wake.clear()
        async with self._disk:
            for key in sorted(self._dirty):
                self._dirty.discard(key)
                stream = self._streams.get(key)
                if stream is None:
                    continue
                count, data = stream.count, stream.take_pending()
                try:
                    # A thread cannot be cancelled, and two must not write one file.
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
        """Drops the streams beyond `MOST_RINGS` that were silent for longest and have no reader: their lines are all on
        disk."""
        over = len(self._streams) - MOST_RINGS
        for key in list(islice(self._streams, max(0, over))):
            stream = self._streams[key]
            if key not in self._dirty and not stream.pending and not stream.readers:
                del self._streams[key]

    async def close(self) -> None:
        """Ends all readers and writes the pending lines."""
        self._closed = True
        for stream in self._streams.values():
            for reader in list(stream.readers):
                reader.end()
        await self.flush()

    # Reading

    def known(self, project: str, function: str) -> bool:
        """Whether a line of this function is stored."""
        return (project, function) in self._streams or self._path(project, function).exists()

    async def tail(self, project: str, function: str, *, n: int = 100, since: float | None = None) -> list[LogLine]:
        """The newest `n` lines (at most 10,000) not older than `since` (Unix seconds), oldest first."""
        reader = await self.open(project, function, tail=n, since=since)
        reader.close()
        return await reader.next() or []

    async def open(self, project: str, function: str, *, tail: int = 100, since: float | None = None) -> LogReader:
        """A reader that starts with the newest `tail` lines and follows from there, without gap or repetition.

        The caller closes it. Raises Unavailable where the function has `MAX_READERS` readers.
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

    async def sizes(self) -> dict[str, int]:
        """Bytes on disk by project, also of projects that are not known any more."""
        return await asyncio.to_thread(_sizes, self._root)

    async def delete(self, project: str) -> None:
        """Deletes a project's logs and ends their readers."""
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


def _sizes(root: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for file in root.glob("*/*"):
        with contextlib.suppress(FileNotFoundError):  # rotated or deleted meanwhile
            found[file.parent.name] = found.get(file.parent.name, 0) + file.stat().st_size
    return found
