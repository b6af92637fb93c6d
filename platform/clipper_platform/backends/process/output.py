"""A replica's standard output and error: bytes in, log records out, bounded in length and rate."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence

from clipper.contract.log_levels import LevelReader
from clipper.contract.wire import Log, LogRecord
from clipper_platform.clock import Clock

__all__ = ["LineSplitter", "ReplicaOutput"]

MAX_LINE_BYTES = 16 * 1024
TAIL_LINES = 100
TAIL_LINE_CHARS = 2_000
MAX_UNFINISHED = 32
LAST_WORDS = 10  # lines
LAST_WORD_CHARS = 500
USER_PLACES = 3  # frames of the thread that failed, the latest first

# Per second and replica. A log that people read needs less; one bad loop of prints must not fill the disk. What a
# replica did not use adds up to a burst, as many lines as the runtime takes at once: the report of a batch is whole.
WINDOW_S = 1.0
LINES_PER_WINDOW = 2_000
BYTES_PER_WINDOW = 1024 * 1024
BURST_LINES = 10_000
BURST_BYTES = 4 * 1024 * 1024
# Reading costs time of the platform's event loop: beyond this, reading stops until the window ends, and the writer
# waits. At 64 KiB and some 20 µs a read it is about 1% of a core.
PAUSE_BYTES_PER_WINDOW = 32 * 1024 * 1024

# Lines of faulthandler's report that say where all threads were; the log has them.
_REPORT = ("  File ", "Current thread ", "Thread 0x", "  <no Python frame>", "Extension modules: ")

_PLACE = re.compile(r'  File "(?:[^"]*/)?(?P<file>[^"/<>]+)", (?P<where>line \d+ in .+)')

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
        self._levels: dict[str, LevelReader] = {}
        self._unfinished: list[LogRecord] = []  # of the latest Log frame
        self._tail: deque[tuple[str, str]] = deque(maxlen=TAIL_LINES)  # (request, line)
        self._window_at = clock.monotonic()
        self._lines_left = BURST_LINES
        self._bytes_left = BURST_BYTES
        self._read = 0
        self._dropped = 0
        self._latest_dropped: deque[LogRecord] = deque(maxlen=LAST_WORDS)  # since a line passed

    @property
    def tail(self) -> list[str]:
        """The last lines, oldest first."""
        return [line for _, line in self._tail]

    def feed(self, stream: str, data: bytes) -> float:
        """Take bytes of `stdout` or `stderr`. Returns the seconds for which reading must pause, mostly 0."""
        self._turn()
        self._read += len(data)
        splitter = self._splitters.setdefault(stream, LineSplitter())
        if self._exhausted():
            self._skip(stream, splitter, data)
        else:
            self._take(stream, splitter.feed(data))
        if self._read <= PAUSE_BYTES_PER_WINDOW:
            return 0.0
        return max(0.0, self._window_at + WINDOW_S - self._clock.monotonic())

    def records(self, log: Log) -> None:
        """Take the lines of a Log frame."""
        self._turn()
        self._dropped += max(0, log.dropped)
        self._unfinished = log.unfinished[:MAX_UNFINISHED]
        self._admit(log.records)

    @property
    def last_words(self) -> tuple[tuple[str, str], ...]:
        """The last lines with their requests, oldest first; of faulthandler's report its first line and where user code
        was."""
        said: list[tuple[str, str]] = []
        places = 0  # of the thread that failed, still to be told
        for of, line in self._tail:
            if line.startswith(_REPORT):
                places = USER_PLACES if line.startswith("Current thread ") else places
                place = _PLACE.match(line) if places else None
                if place is None or "/clipper_runtime/" in line:
                    continue
                places -= 1
                line = f"  File {place['file']}, {place['where']}"  # without the directories of this machine
            if line:
                said.append((of, line[:LAST_WORD_CHARS]))
        return tuple(said[-LAST_WORDS:])

    def end(self, stream: str) -> None:
        """The stream ended: its unfinished line is a line."""
        splitter = self._splitters.pop(stream, None)
        if splitter is not None:
            self._take(stream, splitter.flush())

    def close(self) -> None:
        """Finish the streams and report what was dropped."""
        for stream in list(self._splitters):
            self.end(stream)
        unfinished, self._unfinished = self._unfinished, []
        self._admit(unfinished)
        self._report()
        if self._latest_dropped:  # the reason of its end is in them
            self._emit(list(self._latest_dropped))

    def _take(self, stream: str, lines: Sequence[bytes]) -> None:
        now, levels = self._clock.time(), self._levels.setdefault(stream, LevelReader())
        texts = [line.decode("utf-8", "replace") for line in lines]
        self._admit([LogRecord(now, stream, levels.of(text), "", text) for text in texts])

    def _admit(self, records: Sequence[LogRecord]) -> None:
        if not records:
            return
        self._tail.extend((record.request_id, record.message[:TAIL_LINE_CHARS]) for record in records[-TAIL_LINES:])
        passed = []
        for record in records:
            if self._exhausted():
                self._dropped += 1
                self._latest_dropped.append(_bounded(record))
                continue
            self._lines_left -= 1
            self._bytes_left -= len(record.message)
            passed.append(_bounded(record))
        if passed:
            self._latest_dropped.clear()
            self._emit(passed)

    def _skip(self, stream: str, splitter: LineSplitter, data: bytes) -> None:
        """Over the rate: count the lines and keep only the last ones."""
        self._dropped += max(1, data.count(b"\n"))
        splitter.skip(data)
        # The reason of a crash is in its last lines.
        lines = [line for line in data[-MAX_LINE_BYTES:].split(b"\n") if line]
        texts = (_clean(line).decode("utf-8", "replace") for line in lines[-TAIL_LINES:])
        for text in texts:
            self._tail.append(("", text[:TAIL_LINE_CHARS]))
            self._latest_dropped.append(LogRecord(self._clock.time(), stream, "INFO", "", text))

    def _exhausted(self) -> bool:
        return self._lines_left <= 0 or self._bytes_left <= 0

    def _turn(self) -> None:
        now = self._clock.monotonic()
        windows = int((now - self._window_at) / WINDOW_S)
        if windows > 0:
            self._window_at, self._read = now, 0
            self._lines_left = min(BURST_LINES, self._lines_left + windows * LINES_PER_WINDOW)
            self._bytes_left = min(BURST_BYTES, self._bytes_left + windows * BYTES_PER_WINDOW)
            self._report()

    def _report(self) -> None:
        if self._dropped:
            message = f"{self._dropped} lines were dropped: more than the log takes"
            self._on_dropped(self._dropped)
            self._dropped = 0
            self._emit([LogRecord(self._clock.time(), "system", "WARNING", "", message)])


def _bounded(record: LogRecord) -> LogRecord:
    if len(record.message) <= MAX_LINE_BYTES:
        return record
    message = record.message[:MAX_LINE_BYTES] + _CUT.decode()
    return LogRecord(record.ts, record.stream, record.level, record.request_id, message, record.logger)
