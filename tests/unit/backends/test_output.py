"""Lines out of bytes, however they are cut; bounded in length, rate and memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from clipper.contract.wire import Log, LogRecord
from clipper_platform.backends.process.output import (
    BURST_BYTES,
    BURST_LINES,
    LAST_WORDS,
    LINES_PER_WINDOW,
    MAX_LINE_BYTES,
    PAUSE_BYTES_PER_WINDOW,
    TAIL_LINES,
    WINDOW_S,
    LineSplitter,
    ReplicaOutput,
)


class FakeClock:
    now = 50.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_000.0 + self.now


def output() -> tuple[ReplicaOutput, list[LogRecord], FakeClock]:
    clock, records = FakeClock(), list[LogRecord]()

    def emit(more: Sequence[LogRecord]) -> None:
        assert more
        records.extend(more)

    return ReplicaOutput(emit, clock), records, clock


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=10))
def test_any_cut_of_the_bytes_gives_the_same_lines(data: bytes, cuts: list[int]) -> None:
    whole, pieces = LineSplitter(), LineSplitter()
    positions = [0, *sorted(cut for cut in cuts if cut <= len(data)), len(data)]
    lines = [line for a, b in pairwise(positions) for line in pieces.feed(data[a:b])]
    assert lines + pieces.flush() == whole.feed(data) + whole.flush()


def test_an_overlong_line_is_cut_and_the_next_one_is_whole() -> None:
    splitter = LineSplitter()
    lines = splitter.feed(b"a" * (MAX_LINE_BYTES + 5))
    lines += splitter.feed(b"a" * 100_000)
    lines += splitter.feed(b"tail\nnext\n")
    assert [line[:1] for line in lines] == [b"a", b"n"]
    assert lines[0].endswith("… [cut]".encode())
    assert lines[1] == b"next"


def test_of_a_progress_bar_the_last_state_is_kept() -> None:
    splitter = LineSplitter()
    for percent in range(100):
        assert splitter.feed(b"\r" + b"#" * 1_000 + b" %d" % percent) == []
    assert splitter.feed(b"\r\ndone\r\n")[-1] == b"done"
    assert LineSplitter().feed(b"10%\r50%\r100%\n") == [b"100%"]


def test_lines_become_records_with_their_stream_and_level_and_an_unfinished_one_at_the_end() -> None:
    collected, records, _ = output()
    assert collected.feed("stdout", b"one\ntw") == 0.0
    collected.feed("stderr", b"\xff oops\n")
    collected.feed("stdout", b"o")
    collected.end("stdout")
    assert [(r.stream, r.level, r.message) for r in records] == [
        ("stdout", "INFO", "one"),
        ("stderr", "INFO", "� oops"),
        ("stdout", "INFO", "two"),
    ]
    assert records[0].ts == 1_050.0
    assert collected.tail == ["one", "� oops", "two"]


def test_beyond_the_rate_lines_are_counted_and_the_count_is_reported_when_the_second_is_over() -> None:
    collected, records, clock = output()
    for number in range(BURST_LINES + 300):
        collected.feed("stdout", b"%d\n" % number)
    assert len(records) == BURST_LINES
    clock.now += WINDOW_S
    collected.feed("stdout", b"after\n")
    assert [r.message for r in records[-2:]] == ["300 lines were dropped: more than the log takes", "after"]
    assert records[-2].stream == "system"


def test_after_a_burst_the_rate_holds_and_what_is_not_used_is_a_burst_again() -> None:
    collected, records, clock = output()
    burst = Log([LogRecord(3.0, "log", "INFO", "", "x")] * (BURST_LINES * 2))
    collected.records(burst)
    clock.now += WINDOW_S
    records.clear()
    collected.records(burst)
    assert sum(record.stream == "log" for record in records) == LINES_PER_WINDOW
    clock.now += WINDOW_S * 1_000
    records.clear()
    collected.records(burst)
    assert sum(record.stream == "log" for record in records) == BURST_LINES


def test_the_rate_also_bounds_bytes_and_the_last_words_are_remembered_all_the_same() -> None:
    collected, records, _ = output()
    line = b"z" * 999 + b"\n"
    for _ in range(2 * BURST_BYTES // (len(line) * 100)):
        collected.feed("stdout", line * 100)
    collected.feed("stderr", b"Fatal Python error: Segmentation fault\n")
    collected.close()
    assert sum(len(record.message) for record in records) <= BURST_BYTES + 1_000 * 100
    assert collected.tail[-1] == "Fatal Python error: Segmentation fault"
    (dropped,) = (n for n, record in enumerate(records) if record.stream == "system")
    assert records[dropped].message.endswith("lines were dropped: more than the log takes")
    assert records[-1].message == "Fatal Python error: Segmentation fault"
    assert len(records) - dropped - 1 == LAST_WORDS


def test_a_writer_far_over_the_rate_waits_for_the_rest_of_the_second() -> None:
    collected, _, clock = output()
    chunk = b"y" * 65_535 + b"\n"
    pauses = [collected.feed("stdout", chunk) for _ in range(PAUSE_BYTES_PER_WINDOW // len(chunk) + 1)]
    assert set(pauses[:-1]) == {0.0}
    assert pauses[-1] == WINDOW_S
    clock.now += WINDOW_S
    assert collected.feed("stdout", chunk) == 0.0


def test_records_of_log_frames_pass_with_their_fields_and_the_same_bounds() -> None:
    collected, records, clock = output()
    record = LogRecord(3.0, "log", "WARNING", "r-1", "m" * (MAX_LINE_BYTES * 2), "app")
    collected.records(Log([record], 7))
    assert (records[0].ts, records[0].request_id, records[0].logger) == (3.0, "r-1", "app")
    assert len(records[0].message) < MAX_LINE_BYTES + 20
    collected.records(Log([LogRecord(3.0, "log", "INFO", "", "x")] * (BURST_LINES * 2)))
    assert len(records) == BURST_LINES
    clock.now += WINDOW_S
    collected.records(Log([]))
    assert records[-1].message.startswith(f"{BURST_LINES + 1 + 7} lines were dropped")


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=5_000)), max_size=30))
def test_whatever_is_written_the_memory_of_it_stays_bounded(writes: list[tuple[str, bytes]]) -> None:
    collected, records, _ = output()
    for stream, data in writes:
        collected.feed(stream, data)
    collected.close()
    assert len(collected.tail) <= TAIL_LINES
    assert all(len(record.message) <= MAX_LINE_BYTES + 10 for record in records)


def test_lines_that_had_not_ended_are_lines_when_the_replica_ended_and_only_the_latest_count() -> None:
    collected, records, _ = output()
    collected.records(Log([], 0, [LogRecord(3.0, "stderr", "INFO", "r-1", "load")]))
    collected.records(Log([], 0, [LogRecord(3.0, "stderr", "INFO", "r-1", "loading")]))
    collected.close()
    assert [r.message for r in records] == ["loading"]
    collected, records, _ = output()
    collected.records(Log([], 0, [LogRecord(3.0, "stderr", "INFO", "r-1", "load")]))
    collected.records(Log([LogRecord(3.0, "stderr", "INFO", "r-1", "loaded")]))
    collected.close()
    assert [r.message for r in records] == ["loaded"]


def test_of_a_fault_the_last_words_say_where_user_code_was_without_the_directories() -> None:
    collected, _, _ = output()
    report = [
        "Fatal Python error: Segmentation fault",
        "",
        "Thread 0x00007f4b680ac6c0 (most recent call first):",
        '  File "/home/x/runtime/a8f3/clipper_runtime/watcher.py", line 66 in _run',
        "",
        "Current thread 0x00007f4b693beb80 (most recent call first):",
        '  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at',
        '  File "/home/x/bundles/trees/2d79/app.py", line 10 in last',
        '  File "/home/x/runtime/a8f3/clipper_runtime/core.py", line 117 in run_now',
        '  File "<frozen runpy>", line 88 in _run_code',
    ]
    collected.feed("stderr", "\n".join([*report, ""]).encode())
    assert [line for _, line in collected.last_words] == [
        "Fatal Python error: Segmentation fault",
        "  File __init__.py, line 519 in string_at",
        "  File app.py, line 10 in last",
    ]


def test_the_last_words_leave_out_where_all_threads_were() -> None:
    collected, _, _ = output()
    collected.records(Log([LogRecord(3.0, "stdout", "INFO", "r-1", "about to fail")]))
    collected.feed("stderr", b"Fatal Python error: Aborted\n\nCurrent thread 0x1 (most recent call first):\n  File x\n")
    assert collected.last_words == (("r-1", "about to fail"), ("", "Fatal Python error: Aborted"))
