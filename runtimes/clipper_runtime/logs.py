"""User output as log records: lines of stdout, stderr and `logging`, with the request that caused them.

Every function here may be called from any thread, also re-entrantly (a `__del__` that prints while a line is added).
Records wait in a bounded buffer until the server sends them; lines over the rate limit are counted and dropped.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextvars import ContextVar

from clipper.contract.log_levels import LevelReader
from clipper.contract.wire import Log, LogRecord, encode

__all__ = [
    "MAX_LINE_CHARACTERS",
    "REQUEST_ID",
    "LogBuffer",
    "LogHandler",
    "LogStream",
    "clean_text",
    "format_error",
    "install",
]

# The request that the running code serves; "" outside of a request, and while a batch of several items runs.
REQUEST_ID: ContextVar[str] = ContextVar("clip_request_id", default="")

MAX_LINE_CHARACTERS = 16 * 1024
MAX_TRACEBACK_CHARACTERS = 64 * 1024

# Limits between two takes, which are at most about 20 ms apart: 1 Mi characters are at most 4 MiB of UTF-8, and with
# the fields of 5,000 records stay below a frame's header limit of 8 MiB.
_MAX_WAITING_RECORDS = 5_000
_MAX_WAITING_CHARACTERS = 1024 * 1024
_MAX_UNFINISHED = 32  # lines of as many threads

# Sustained lines per second, and how many may come at once before that rate holds.
_RATE = 2_000.0
_BURST = 10_000.0

# Lines leave the process at once, since it may end in the next moment. Of lines that print without a flush, so many at
# once and per second: a function that prints in a tight loop would send each line alone; the others leave at the
# watcher's next tick, or with the next answer.
_SENDS_AT_ONCE = 1_000.0
_SENDS_PER_S = 500.0

# Stack frames of these files are not user code.
_RUNTIME_FILES = (os.path.dirname(os.path.abspath(__file__)) + os.sep, "<frozen importlib", importlib.__file__)


def clean_text(text: str, limit: int, cut: int = 0) -> str:
    """`text` cut to `limit` characters and without lone surrogates, which UTF-8 cannot carry.

    A shortened text ends with the number of missing characters; `cut` of them are missing from `text` already.
    """
    cut += max(0, len(text) - limit)
    if cut:
        text = f"{text[:limit]}… [{cut} more characters]"
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def format_error(error: BaseException) -> str:
    """The traceback as Python prints it, beginning at user code: the runtime's own frames are left out."""
    try:
        report = traceback.TracebackException.from_exception(error, compact=True)
        _drop_runtime_frames(report)
        return clean_text("".join(report.format()).rstrip("\n"), MAX_TRACEBACK_CHARACTERS)
    except Exception:  # noqa: BLE001 - a user's __str__ or __repr__ may raise anything
        return f"{type(error).__name__} (its traceback cannot be shown)"


def _drop_runtime_frames(report: traceback.TracebackException) -> None:
    seen: set[int] = set()
    waiting: list[traceback.TracebackException | None] = [report]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        frames = [f for f in one.stack if not f.filename.startswith(_RUNTIME_FILES)]
        one.stack = traceback.StackSummary.from_list(frames)
        waiting += [one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ())]


class LogBuffer:
    """Records that wait to be sent. `clock` gives Unix time in seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._records: list[LogRecord] = []
        self._characters = 0
        self._dropped = 0
        self._tokens = _BURST
        self._refilled_at = clock()
        self._unfinished: dict[tuple[str, int], LogRecord] = {}  # by stream and thread
        self._unfinished_changed = False
        self._sends = _SENDS_AT_ONCE
        self._sent_at = self._refilled_at
        self._detached = False
        self.on_waiting: Callable[[], None] = lambda: None  # called after each addition; wakes the watcher
        self.on_urgent: Callable[[], None] = lambda: None  # called when what waits is to leave the process now

    @property
    def waiting(self) -> bool:
        return bool(self._records) or self._dropped > 0 or self._unfinished_changed

    def add(
        self,
        stream: str,
        level: str,
        message: str,
        *,
        logger: str = "",
        request_id: str | None = None,
        cut: int = 0,
        urgent: bool = False,
    ) -> None:
        """Add a record per line of `message`, which has lost `cut` characters already.

        `urgent`: it leaves the process before this returns.
        """
        request_id = REQUEST_ID.get() if request_id is None else request_id
        now = self._clock()
        for line in message.split("\n"):
            self._add_line(now, stream, level, request_id, clean_text(line, MAX_LINE_CHARACTERS, cut), logger)
        if self._detached:
            return
        if self._records and (urgent or self._may_send(now)):
            self.on_urgent()
        self.on_waiting()

    def _may_send(self, now: float) -> bool:
        self._sends = min(_SENDS_AT_ONCE, self._sends + max(0.0, now - self._sent_at) * _SENDS_PER_S)
        self._sent_at = now
        if self._sends < 1:
            return False
        self._sends -= 1
        return True

    def hold(self, stream: str, level: str, text: str, *, urgent: bool) -> None:
        """The calling thread's unfinished line of the stream is `text`, which becomes a line if the process ends."""
        if self._detached:
            return
        line = clean_text(text, MAX_LINE_CHARACTERS)
        with self._lock:
            key = (stream, threading.get_ident())
            if key not in self._unfinished and len(self._unfinished) >= _MAX_UNFINISHED:
                del self._unfinished[next(iter(self._unfinished))]
            self._unfinished[key] = LogRecord(self._clock(), stream, level, REQUEST_ID.get(), line)
            self._unfinished_changed = True
        if urgent:
            self.on_urgent()
        self.on_waiting()

    def release(self, stream: str) -> None:
        """The calling thread's unfinished line of the stream has ended."""
        if self._unfinished and self._unfinished.pop((stream, threading.get_ident()), None) is not None:
            self._unfinished_changed = True

    def send_now(self) -> None:
        """Let what waits leave the process."""
        if self.waiting and not self._detached:
            self.on_urgent()

    def detach(self) -> None:
        """Write further lines to the descriptors, without the lock: a fork may have copied it in the locked state."""
        self._detached = True

    def _add_line(self, now: float, stream: str, level: str, request_id: str, line: str, logger: str) -> None:
        if self._detached:
            os.write(1 if stream == "stdout" else 2, f"{line}\n".encode())
            return
        with self._lock:
            self._tokens = min(_BURST, self._tokens + max(0.0, now - self._refilled_at) * _RATE)
            self._refilled_at = now
            if (
                self._tokens < 1
                or len(self._records) >= _MAX_WAITING_RECORDS
                or self._characters + len(line) > _MAX_WAITING_CHARACTERS
            ):
                self._dropped += 1
                return
            self._tokens -= 1
            self._characters += len(line)
            self._records.append(LogRecord(now, stream, level, request_id, line, clean_text(logger, 256)))

    def take(self) -> list[bytes | memoryview]:
        """A Log frame with all waiting records, as buffers to send; empty when there are none."""
        if not self.waiting:
            return []
        with self._lock:
            log = Log(self._records, self._dropped, list(self._unfinished.values()))
            self._records, self._characters, self._dropped = [], 0, 0
            self._unfinished_changed = False
        return [encode(log)]


class _Partial(threading.local):
    """A thread's unfinished line."""

    text = ""
    cut = 0  # characters beyond the limit, which are not kept

    def __init__(self) -> None:
        self.levels = LevelReader()  # called once in each thread


class LogStream(io.TextIOBase):
    """A text stream that replaces sys.stdout or sys.stderr and turns lines into records.

    A carriage return overwrites the line, as on a terminal, so that a progress bar costs one record. `buffer` takes
    bytes. `fileno()` is the descriptor that the launcher gave, for child processes. What is written to a stream of
    `urgent` lines, or is flushed, leaves the process at once, an unfinished line too.
    """

    def __init__(self, logs: LogBuffer, stream: str, descriptor: int, *, urgent: bool = False) -> None:
        super().__init__()
        self._logs = logs
        self._stream = stream
        self._urgent = urgent
        self._descriptor = descriptor
        self._partial = _Partial()
        self.written = False  # whether any thread ever wrote; else there is no unfinished line to look for
        self.buffer = _BytesView(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed declares an attribute
        return "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # typeshed declares an attribute
        return "backslashreplace"

    @property
    def name(self) -> str:
        return f"<{self._stream}>"

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self.written = True
        *lines, rest = text.split("\n")
        for line in lines:
            self._continue(line)
            self._emit()
        self._continue(rest)
        if rest and self._urgent:
            self._hold(urgent=True)
        return len(text)

    def _hold(self, *, urgent: bool) -> None:
        if self._partial.text:
            self._logs.hold(self._stream, "INFO", self._partial.text, urgent=urgent)

    def writelines(self, lines: Iterable[str], /) -> None:  # type: ignore[override]  # typeshed allows any buffer
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Let all that was written leave the process."""
        if self.written:
            self._hold(urgent=False)
            self._logs.send_now()

    def end_line(self) -> None:
        """Emit the calling thread's unfinished line."""
        if self._partial.text:
            self._emit()

    def reconfigure(self, **_options: object) -> None:
        """Does nothing; user code may call it on sys.stdout."""

    def close(self) -> None:
        """Does nothing: user code that closes sys.stdout must not lose later lines."""

    def _continue(self, text: str) -> None:
        partial = self._partial
        text = partial.text + text
        if "\r" in text[:-1]:  # one at the end may still become part of a line's end
            end = len(text.rstrip("\r"))
            text, partial.cut = text[text.rfind("\r", 0, end) + 1 :], 0
        # Bounds a line that never ends.
        partial.cut += max(0, len(text) - MAX_LINE_CHARACTERS)
        partial.text = text[:MAX_LINE_CHARACTERS]

    def _emit(self) -> None:
        partial = self._partial
        line, cut = partial.text.rstrip("\r"), partial.cut
        partial.text, partial.cut = "", 0
        self._logs.release(self._stream)
        self._logs.add(self._stream, partial.levels.of(line), line, cut=cut, urgent=self._urgent)


class _BytesView(io.RawIOBase):
    """`sys.stdout.buffer`: bytes, written as UTF-8 text."""

    def __init__(self, text: LogStream) -> None:
        super().__init__()
        self._text = text

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._text.fileno()

    def write(self, data: object, /) -> int:
        raw = bytes(memoryview(data))  # type: ignore[arg-type]  # TypeError without the buffer protocol
        self._text.write(raw.decode("utf-8", "replace"))
        return len(raw)

    def close(self) -> None:
        """Does nothing, as for the text stream."""


class LogHandler(logging.Handler):
    """Turns `logging` records into log records with level and logger; a traceback follows its message line by line."""

    def __init__(self, logs: LogBuffer) -> None:
        super().__init__()
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        try:
            urgent = record.levelno >= logging.WARNING
            self._logs.add("log", record.levelname, self.format(record), logger=record.name, urgent=urgent)
        except Exception:  # noqa: BLE001 - arguments that do not fit the format, as logging's own handlers treat them
            self.handleError(record)


class Output:
    """The streams and the handler that `install` set up."""

    def __init__(self, logs: LogBuffer) -> None:
        self.logs = logs
        self.stdout = LogStream(logs, "stdout", 1)
        self.stderr = LogStream(logs, "stderr", 2, urgent=True)
        self.handler = LogHandler(logs)

    def end_lines(self) -> None:
        """Emit this thread's unfinished lines at the end of an invocation, to which they belong."""
        if self.stdout.written:
            self.stdout.end_line()
        if self.stderr.written:
            self.stderr.end_line()

    def remove(self) -> None:
        """Print to the descriptors again: in a forked child, which has no channel, and at the exit."""
        self.logs.detach()
        sys.stdout = sys.__stdout__
        sys.stderr = sys.__stderr__
        root = logging.getLogger()
        if self.handler in root.handlers:
            root.removeHandler(self.handler)
            if not root.handlers:
                root.addHandler(logging.StreamHandler())


def install(logs: LogBuffer) -> Output:
    """Replace sys.stdout and sys.stderr and handle the root logger, at level INFO.

    Descriptors 1 and 2 stay as they are: output of C code, and faulthandler's report, reach the process that launched
    the replica.
    """
    output = Output(logs)
    sys.stdout = output.stdout
    sys.stderr = output.stderr
    root = logging.getLogger()
    root.addHandler(output.handler)
    root.setLevel(logging.INFO)
    return output
