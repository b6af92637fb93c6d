"""Lines of user output: whole, bounded, and with the request they belong to."""

from __future__ import annotations

import contextvars
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.contract.frames import FrameReader
from clipper.contract.wire import Log, LogRecord
from clipper_runtime.logs import (
    MAX_LINE_CHARACTERS,
    REQUEST_ID,
    LogBuffer,
    LogHandler,
    LogStream,
    clean_text,
    format_error,
    install,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def taken(logs: LogBuffer) -> Log:
    buffers = logs.take()
    if not buffers:
        return Log([])
    (frame,) = FrameReader().feed(b"".join(buffers))
    assert isinstance(frame.message, Log)
    return frame.message


def lines(logs: LogBuffer) -> list[str]:
    return [record.message for record in taken(logs).records]


@pytest.fixture
def logs() -> LogBuffer:
    return LogBuffer(Clock())


@pytest.fixture
def stream(logs: LogBuffer) -> LogStream:
    return LogStream(logs, "stdout", 1)


@given(st.lists(st.text(alphabet="ab\n", max_size=8), max_size=12))
def test_any_split_of_a_text_gives_the_same_lines(pieces: list[str]) -> None:
    logs = LogBuffer(Clock())
    stream = LogStream(logs, "stdout", 1)
    for piece in pieces:
        assert stream.write(piece) == len(piece)
    stream.end_line()
    text = "".join(pieces)
    expected = text.split("\n")
    if expected[-1] == "":
        expected.pop()
    assert lines(logs) == expected


def test_a_line_carries_its_stream_level_time_and_request(logs: LogBuffer, stream: LogStream) -> None:
    def request() -> None:
        REQUEST_ID.set("req-1")
        print("hello", file=stream)

    contextvars.copy_context().run(request)
    assert taken(logs).records == [LogRecord(1000.0, "stdout", "INFO", "req-1", "hello")]


def test_a_progress_bar_is_one_line(logs: LogBuffer, stream: LogStream) -> None:
    for percent in range(101):
        stream.write(f"\r{percent}%")
        stream.flush()
    stream.write("\n")
    assert lines(logs) == ["100%"]


def test_windows_line_ends_are_line_ends(logs: LogBuffer, stream: LogStream) -> None:
    stream.write("a\r\nb\r\n")
    assert lines(logs) == ["a", "b"]


def test_a_long_line_is_cut_and_says_so(logs: LogBuffer, stream: LogStream) -> None:
    print("x" * (MAX_LINE_CHARACTERS + 7), file=stream)
    (line,) = lines(logs)
    assert line.endswith("… [7 more characters]")
    assert len(line) < MAX_LINE_CHARACTERS + 50


def test_a_line_without_end_does_not_grow_without_end(logs: LogBuffer, stream: LogStream) -> None:
    for _ in range(100):
        stream.write("x" * 10_000)
    assert len(stream._partial.text) <= MAX_LINE_CHARACTERS
    stream.write("\n")
    (line,) = lines(logs)
    assert line.endswith(f"… [{1_000_000 - MAX_LINE_CHARACTERS} more characters]")


def test_threads_do_not_mix_their_lines(logs: LogBuffer, stream: LogStream) -> None:
    stream.write("mine ")
    thread = threading.Thread(target=lambda: print("yours", file=stream))
    thread.start()
    thread.join()
    stream.write("still mine\n")
    assert lines(logs) == ["yours", "mine still mine"]


def test_bytes_go_the_same_way(logs: LogBuffer, stream: LogStream) -> None:
    stream.buffer.write("grün\n".encode())
    stream.buffer.write(b"\xff\n")
    assert lines(logs) == ["grün", "�"]


def test_the_streams_look_like_those_of_python(stream: LogStream) -> None:
    assert (stream.fileno(), stream.isatty(), stream.encoding, stream.writable()) == (1, False, "utf-8", True)
    stream.reconfigure(line_buffering=True)
    stream.close()
    stream.write("after close")
    with pytest.raises(TypeError):
        stream.write(b"bytes")


def test_what_utf8_cannot_carry_is_replaced(logs: LogBuffer, stream: LogStream) -> None:
    print("a\ud800b", file=stream)
    assert lines(logs) == ["a?b"]


def test_too_many_lines_at_once_are_counted_not_kept(logs: LogBuffer, stream: LogStream) -> None:
    for n in range(20_000):
        print(n, file=stream)
    log = taken(logs)
    assert 0 < len(log.records) < 20_000
    assert len(log.records) + log.dropped == 20_000
    assert not logs.waiting


def test_the_rate_recovers_with_time() -> None:
    clock = Clock()
    logs = LogBuffer(clock)
    for _ in range(40):
        for _ in range(1000):
            logs.add("stdout", "INFO", "x")
        logs.take()
    logs.add("stdout", "INFO", "lost")
    assert taken(logs).dropped == 1
    clock.now += 1.0
    logs.add("stdout", "INFO", "kept")
    assert lines(logs) == ["kept"]


def test_the_clock_may_go_backwards() -> None:
    clock = Clock()
    logs = LogBuffer(clock)
    clock.now = 10.0
    logs.add("stdout", "INFO", "x")
    assert lines(logs) == ["x"]


def test_large_output_fits_a_frame_header(logs: LogBuffer) -> None:
    for _ in range(5000):
        logs.add("stdout", "INFO", "\U0001f600" * MAX_LINE_CHARACTERS)
    log = taken(logs)
    assert log.dropped > 0
    assert log.records


def test_a_line_that_is_added_while_a_line_is_added_does_not_lock_up(logs: LogBuffer) -> None:
    class Chatty:
        def __del__(self) -> None:
            logs.add("stdout", "INFO", "gone")

    with logs._lock:
        chatty = Chatty()
        del chatty
        logs.add("stdout", "INFO", "still here")
    assert lines(logs) == ["gone", "still here"]


def test_logging_keeps_its_level_its_logger_and_its_traceback(logs: LogBuffer) -> None:
    logger = logging.Logger("my.model")
    logger.addHandler(LogHandler(logs))
    logger.warning("low on %s", "memory")
    try:
        raise ValueError("bad")
    except ValueError:
        logger.exception("failed")
    records = taken(logs).records
    assert [(r.stream, r.level, r.logger) for r in records[:1]] == [("log", "WARNING", "my.model")]
    assert records[0].message == "low on memory"
    assert (records[1].message, records[-1].message) == ("failed", "ValueError: bad")


@pytest.fixture
def restored_streams() -> Iterator[None]:
    saved = sys.stdout, sys.stderr, logging.getLogger().level, list(logging.getLogger().handlers)
    yield
    sys.stdout, sys.stderr = saved[:2]
    logging.getLogger().setLevel(saved[2])
    logging.getLogger().handlers[:] = saved[3]


@pytest.mark.usefixtures("restored_streams")
def test_installing_catches_print_stderr_and_logging_and_removing_lets_them_go(logs: LogBuffer) -> None:
    output = install(logs)
    print("out")
    print("err", file=sys.stderr)
    logging.getLogger("a").info("logged")
    logging.getLogger("a").debug("not this")
    print("unfinished", end="")
    output.end_lines()
    got = [(r.stream, r.level, r.message) for r in taken(logs).records]
    output.remove()
    assert got == [
        ("stdout", "INFO", "out"),
        ("stderr", "INFO", "err"),
        ("log", "INFO", "logged"),
        ("stdout", "INFO", "unfinished"),
    ]
    assert sys.stdout is sys.__stdout__
    assert output.handler not in logging.getLogger().handlers


def test_every_addition_calls_the_hook_for_waiting_records(logs: LogBuffer) -> None:
    calls = []
    logs.on_waiting = lambda: calls.append(logs.waiting)
    logs.add("stdout", "INFO", "x")
    assert calls == [True]


def test_clean_text_says_how_much_it_cut() -> None:
    assert clean_text("abc", 3) == "abc"
    assert clean_text("abcd", 3) == "abc… [1 more characters]"


def test_a_traceback_shows_causes_and_groups_without_the_runtimes_frames() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ExceptionGroup("several", [ValueError("one")]) from error
    except ExceptionGroup as error:
        text = format_error(error)
    assert "KeyError: 'inner'" in text
    assert "ValueError: one" in text
    assert "test_logs.py" in text


# The last words before a crash


class Wire:
    """What has left the process, as it would have when the process ended."""

    def __init__(self, logs: LogBuffer) -> None:
        self.logs = logs
        self.lines: list[str] = []
        self.unfinished: list[str] = []
        self.frames = 0
        logs.on_urgent = self._send

    def _send(self) -> None:
        log = taken(self.logs)
        self.frames += 1
        self.lines += [record.message for record in log.records]
        self.unfinished = [record.message for record in log.unfinished]


@pytest.mark.parametrize("write", [lambda s: s.write("last words\n"), lambda s: print("last words", file=s)])
def test_a_line_has_left_the_process_when_the_print_returns(
    logs: LogBuffer, stream: LogStream, write: Callable[[LogStream], object]
) -> None:
    wire = Wire(logs)
    write(stream)
    assert wire.lines == ["last words"]


def test_an_unfinished_line_leaves_with_a_flush_and_is_a_line_once(logs: LogBuffer, stream: LogStream) -> None:
    wire = Wire(logs)
    print("loading ", end="", file=stream)
    assert wire.unfinished == []
    stream.flush()
    assert (wire.lines, wire.unfinished) == ([], ["loading "])
    print("done", file=stream)
    assert (wire.lines, wire.unfinished) == (["loading done"], [])


def test_all_that_is_written_to_stderr_leaves_at_once(logs: LogBuffer) -> None:
    wire, stderr = Wire(logs), LogStream(logs, "stderr", 2, urgent=True)
    stderr.write("no line end")
    assert wire.unfinished == ["no line end"]
    stderr.end_line()
    assert (wire.lines, wire.unfinished) == (["no line end"], [])


def test_of_many_lines_in_a_tight_loop_some_wait_for_each_other_and_a_flush_takes_them_along(
    logs: LogBuffer, stream: LogStream
) -> None:
    wire = Wire(logs)
    for n in range(1_500):
        print(n, file=stream)
    assert wire.frames == len(wire.lines) == 1_000
    stream.flush()
    assert wire.frames == 1_001
    assert wire.lines == [str(n) for n in range(1_500)]


def test_unfinished_lines_of_many_threads_are_bounded(logs: LogBuffer) -> None:
    stderr, barrier = LogStream(logs, "stderr", 2, urgent=True), threading.Barrier(40)

    def leave_unfinished() -> None:
        stderr.write("x")
        barrier.wait()

    threads = [threading.Thread(target=leave_unfinished) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken(logs).unfinished) == 32


def test_a_traceback_on_a_stream_is_an_error_and_the_line_after_it_is_not(logs: LogBuffer, stream: LogStream) -> None:
    try:
        raise ValueError("no")
    except ValueError:
        traceback.print_exc(file=stream)
    stream.write("going on\nDEBUG:app:detail\n")
    levels = [(record.level, record.message) for record in taken(logs).records]
    assert levels[0][0] == levels[1][0] == "ERROR"
    assert levels[-3:] == [("ERROR", "ValueError: no"), ("INFO", "going on"), ("DEBUG", "DEBUG:app:detail")]
