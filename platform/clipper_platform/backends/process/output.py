"""A replica's standard output and error: bytes in, log records out, bounded in length and rate."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from clipper.contract.wire import LogRecord
from clipper_platform.clock import Clock

__all__ = ["LineSplitter", "ReplicaOutput"]

MAX_LINE_BYTES = 16 * 1024
TAIL_LINES = 100
TAIL_LINE_CHARS = 2_000

# Per second and replica. A log that people read needs less; one bad loop of prints must not fill the disk.
WINDOW_S = 1.0
MAX_LINES_PER_WINDOW = 2_000
MAX_BYTES_PER_WINDOW = 1024 * 1024
# Reading costs time of the platform's event loop: beyond this, reading stops until the window ends, and the writer
# waits. At 64 KiB and some 20 µs a read it is about 1% of a core.
PAUSE_BYTES_PER_WINDOW = 32 * 1024 * 1024

_CUT = b" \xe2\x80\xa6 [cut]"


class LineSplitter:
    """Cuts a byte stream into lines. A line over MAX_LINE_BYTES is cut and marked; of a progress bar, which writes
    carriage returns, the last state is kept."""

    def __init__(self) -> None:
        self._partial = b""
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their ends."""
        if b"\n" not in data:
            return self._keep(data)
        first, *lines = data.split(b"\n")
        whole = [] if self._skipping else [_clean(self._partial + first)]
        self._skipping = False
        self._partial = b""
        last = lines.pop()
        whole += map(_clean, lines)
        return whole + self._keep(last)

    def flush(self) -> list[bytes]:
        """Returns the unfinished last line, if any, and drops it."""
        line, self._partial = self._partial, b""
        return [_clean(line)] if line else []

    def skip(self, data: bytes) -> None:
        """Take `data` and drop its lines."""
        self._skipping = not data.endswith(b"\n")
        self._partial = b""

    def _keep(self, data: bytes) -> list[bytes]:
        if self._skipping:
            return []
        self._partial += data
        if len(self._partial) > MAX_LINE_BYTES:
            self._partial = self._partial.rsplit(b"\r", 1)[-1]
        if len(self._partial) <= MAX_LINE_BYTES:
            return []
        line, self._partial, self._skipping = self._partial, b"", True
        return [_clean(line)]


def _clean(line: bytes) -> bytes:
    line = line.rstrip(b"\r")
    if b"\r" in line:
        line = line.rsplit(b"\r", 1)[-1]
    return line if len(line) <= MAX_LINE_BYTES else line[:MAX_LINE_BYTES] + _CUT


class ReplicaOutput:
    """Collects a replica's lines from its pipes and its Log frames, passes to `emit` what the rate allows, counts the
    rest, and keeps the last `TAIL_LINES` at any rate."""

    def __init__(
        self,
        emit: Callable[[Sequence[LogRecord]], None],
        clock: Clock,
        on_dropped: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._emit = emit
        self._on_dropped = on_dropped
        self._clock = clock
        self._splitters: dict[str, LineSplitter] = {}
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._window_at = clock.monotonic()
        self._lines = 0
        self._bytes = 0
        self._read = 0
        self._dropped = 0

    @property
    def tail(self) -> list[str]:
        """The last lines, oldest first."""
        return list(self._tail)

    def feed(self, stream: str, data: bytes) -> float:
        """Take bytes of `stdout` or `stderr`. Returns the seconds for which reading must pause, mostly 0."""
        self._turn()
        self._read += len(data)
        splitter = self._splitters.setdefault(stream, LineSplitter())
        if self._exhausted():
            self._skip(splitter, data)
        else:
            self._take(stream, splitter.feed(data))
        if self._read <= PAUSE_BYTES_PER_WINDOW:
            return 0.0
        return max(0.0, self._window_at + WINDOW_S - self._clock.monotonic())

    def records(self, records: Sequence[LogRecord], dropped: int = 0) -> None:
        """Take the lines of a Log frame, before which the replica dropped `dropped` lines."""
        self._turn()
        self._dropped += max(0, dropped)
        self._admit(records)

    def end(self, stream: str) -> None:
        """The stream ended: its unfinished line is a line."""
        splitter = self._splitters.pop(stream, None)
        if splitter is not None:
            self._take(stream, splitter.flush())

    def close(self) -> None:
        """Finish the streams and report what was dropped."""
        for stream in list(self._splitters):
            self.end(stream)
        self._report()

    def _take(self, stream: str, lines: Sequence[bytes]) -> None:
        now, level = self._clock.time(), "INFO" if stream == "stdout" else "ERROR"
        self._admit([LogRecord(now, stream, level, "", line.decode("utf-8", "replace")) for line in lines])

    def _admit(self, records: Sequence[LogRecord]) -> None:
        if not records:
            return
        self._tail.extend(record.message[:TAIL_LINE_CHARS] for record in records[-TAIL_LINES:])
        passed = []
        for record in records:
            if self._exhausted():
                self._dropped += 1
                continue
            self._lines += 1
            self._bytes += len(record.message)
            passed.append(_bounded(record))
        if passed:
            self._emit(passed)

    def _skip(self, splitter: LineSplitter, data: bytes) -> None:
        """Over the rate: count the lines and keep only the last ones."""
        self._dropped += max(1, data.count(b"\n"))
        splitter.skip(data)
        # The reason of a crash is in its last lines.
        lines = [line for line in data[-MAX_LINE_BYTES:].split(b"\n") if line]
        self._tail.extend(_clean(line).decode("utf-8", "replace")[:TAIL_LINE_CHARS] for line in lines[-TAIL_LINES:])

    def _exhausted(self) -> bool:
        return self._lines >= MAX_LINES_PER_WINDOW or self._bytes >= MAX_BYTES_PER_WINDOW

    def _turn(self) -> None:
        now = self._clock.monotonic()
        if now - self._window_at >= WINDOW_S:
            self._window_at, self._lines, self._bytes, self._read = now, 0, 0, 0
            self._report()

    def _report(self) -> None:
        if self._dropped:
            message = f"{self._dropped} lines were dropped: more than the log takes in a second"
            self._on_dropped(self._dropped)
            self._dropped = 0
            self._emit([LogRecord(self._clock.time(), "system", "WARNING", "", message)])


def _bounded(record: LogRecord) -> LogRecord:
    if len(record.message) <= MAX_LINE_BYTES:
        return record
    message = record.message[:MAX_LINE_BYTES] + _CUT.decode()
    return LogRecord(record.ts, record.stream, record.level, record.request_id, message, record.logger)
