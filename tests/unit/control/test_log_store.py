from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.contract.wire import LogRecord
from clipper_platform.control import log_store, log_stream
from clipper_platform.control.log_store import LogStore
from clipper_platform.control.log_stream import LogLine, encoded
from clipper_platform.errors import Unavailable
from clipper_platform.types import FunctionId
from tests.support.waiting import until
from tests.unit.control.doubles import FakeClock

F = FunctionId("digits", "classify", 3)


def record(message: str, ts: float = 1.0) -> LogRecord:
    return LogRecord(ts=ts, stream="stdout", level="info", request_id="r", message=message, logger="app")


@pytest.fixture
def logs(tmp_path: Path) -> LogStore:
    return LogStore(tmp_path, FakeClock())


async def messages(logs: LogStore, n: int = 100, since: float | None = None) -> list[str]:
    return [line.message for line in await logs.tail("digits", "classify", n=n, since=since)]


async def test_a_line_can_be_read_at_once_with_all_that_is_known_of_it(logs: LogStore) -> None:
    logs.append(F, "replica-1", [record("hello")])
    assert await logs.tail("digits", "classify") == [
        LogLine(
            ts=1.0,
            stream="stdout",
            level="info",
            message="hello",
            request_id="r",
            logger="app",
            version=3,
            replica="replica-1",
        )
    ]


async def test_the_tail_is_the_newest_lines_oldest_first_and_since_leaves_older_ones_out(logs: LogStore) -> None:
    logs.append(F, "r", [record(str(i), ts=i) for i in range(10)])
    assert await messages(logs, 3) == ["7", "8", "9"]
    assert await messages(logs, since=8) == ["8", "9"]
    assert await messages(logs, 1, since=8) == ["9"]
    assert await messages(logs, 0) == []


async def test_lines_survive_a_restart(logs: LogStore, tmp_path: Path) -> None:
    logs.append(F, "r", [record(str(i), ts=i) for i in range(5)])
    await logs.close()
    again = LogStore(tmp_path, FakeClock())
    assert again.known("digits", "classify")
    assert not again.known("digits", "other")
    again.append(F, "r", [record("new", ts=9)])
    assert await messages(again) == ["0", "1", "2", "3", "4", "new"]
    assert await messages(again, 2) == ["4", "new"]
    assert await messages(again, since=4) == ["4", "new"]


@pytest.mark.parametrize("flushed_after", [0, 7, 40, 100])
async def test_memory_and_disk_are_joined_without_gap_or_repetition(
    logs: LogStore, monkeypatch: pytest.MonkeyPatch, flushed_after: int
) -> None:
    monkeypatch.setattr(log_stream, "RING_LINES", 20)
    for i in range(100):
        if i == flushed_after:
            await logs.flush()
        logs.append(F, "r", [record(str(i), ts=i)])
    expected = [str(i) for i in range(100)]
    ring = expected[80:]
    # What fell out of the ring and was not written yet cannot be shown; nothing is shown twice or out of order.
    assert (await messages(logs))[-20:] == ring
    await logs.flush()
    assert await messages(logs) == expected
    assert await messages(logs, since=50) == expected[50:]
    assert await messages(logs, 30) == expected[70:]


async def test_files_are_rotated_and_bounded(logs: LogStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_store, "MAX_FILE_BYTES", 2000)
    monkeypatch.setattr(log_stream, "RING_LINES", 2)
    for i in range(200):
        logs.append(F, "r", [record(f"line {i}", ts=i)])
        await logs.flush()
    files = sorted(p.name for p in (tmp_path / "digits").iterdir())
    assert files == ["classify.jsonl", "classify.jsonl.1"]
    assert sum(p.stat().st_size for p in (tmp_path / "digits").iterdir()) <= 4000
    found = await messages(logs, 1000)
    assert found == [f"line {i}" for i in range(200 - len(found), 200)]
    assert len(found) > 10


async def test_a_flood_is_bounded_in_memory_and_the_loss_is_told(
    logs: LogStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_stream, "MAX_PENDING_BYTES", 1000)
    logs.append(F, "r", [record("x" * 100) for _ in range(50)])
    await logs.flush()
    rows = [msgspec.json.decode(row) for row in (tmp_path / "digits" / "classify.jsonl").read_bytes().splitlines()]
    assert len(rows) < 10
    assert rows[-1]["stream"] == "system"
    assert "were lost" in rows[-1]["message"]


async def test_a_very_long_message_is_cut_and_says_so(logs: LogStore) -> None:
    logs.append(F, "r", [record("x" * 100_000)])
    (message,) = await messages(logs)
    assert len(message) < 17_000
    assert message.endswith("more characters)")


async def test_a_disk_that_fails_costs_the_lines_and_nothing_else(
    logs: LogStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "digits").write_text("not a directory")
    for i in range(3):
        logs.append(F, "r", [record(str(i))])
        await logs.flush()
    assert await messages(logs) == ["0", "1", "2"]
    assert len([r for r in caplog.records if "cannot be written" in r.message]) == 1
    (tmp_path / "digits").unlink()
    logs.append(F, "r", [record("3")])
    await logs.flush()
    assert "3" in (tmp_path / "digits" / "classify.jsonl").read_text()


async def test_lines_that_a_crash_cut_short_are_skipped(logs: LogStore, tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    whole = msgspec.json.encode(LogLine(ts=1.0, stream="stdout", level="info", message="whole", version=1))
    (tmp_path / "digits" / "classify.jsonl").write_bytes(whole + b"\n" + whole[:20] + b"\n\xff\xfe\n")
    assert await messages(logs) == ["whole"]


@given(st.text(max_size=50), st.text(max_size=10))
def test_whatever_a_function_prints_makes_one_line_on_disk(message: str, logger: str) -> None:
    line = LogLine(ts=1.0, stream="stdout", level="info", message=message, logger=logger, version=1)
    data = encoded(line)
    assert b"\n" not in data
    assert b"\r" not in data
    assert msgspec.json.decode(data, type=LogLine).ts == 1.0


async def test_a_lone_surrogate_is_stored_as_an_escape(logs: LogStore, tmp_path: Path) -> None:
    logs.append(F, "r", [record("bad \udcff byte")])
    await logs.flush()
    assert rb"bad \\udcff byte" in (tmp_path / "digits" / "classify.jsonl").read_bytes()


# Following


async def test_a_follower_gets_history_and_then_every_new_line(logs: LogStore) -> None:
    logs.append(F, "r", [record("old")])
    reader = await logs.open("digits", "classify", tail=10)
    logs.append(F, "r", [record("new")])
    lines = await reader.next()
    assert lines is not None
    assert [line.message for line in lines] == ["old", "new"]
    waiting = asyncio.create_task(reader.next())
    await asyncio.sleep(0)
    logs.append(F, "r", [record("newer")])
    lines = await waiting
    assert lines is not None
    assert [line.message for line in lines] == ["newer"]
    assert await reader.next(timeout_s=0) == []
    reader.close()


@pytest.mark.parametrize("limit", ["READER_LINES", "READER_CHARACTERS"])
async def test_a_slow_reader_loses_lines_and_is_told_how_many(
    logs: LogStore, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(log_stream, limit, 5)
    reader = await logs.open("digits", "classify")
    logs.append(F, "r", [record(str(i)) for i in range(12)])
    lines = await reader.next()
    assert lines is not None
    assert [line.message for line in lines[:5]] == ["0", "1", "2", "3", "4"]
    assert "7 lines were not sent" in lines[5].message
    logs.append(F, "r", [record("again")])
    lines = await reader.next()
    assert lines is not None
    assert [line.message for line in lines] == ["again"]
    reader.close()


async def test_followers_end_when_the_store_closes_after_the_last_line(logs: LogStore) -> None:
    async def read() -> list[str]:
        return [line.message async for line in logs.follow("digits", "classify")]

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    logs.append(F, "r", [record("last")])
    await logs.close()
    assert await reading == ["last"]
    logs.append(F, "r", [record("too late")])
    assert await messages(logs) == ["last"]


async def test_followers_end_when_their_project_is_deleted(logs: LogStore, tmp_path: Path) -> None:
    logs.append(F, "r", [record("x")])
    await logs.flush()
    reader = await logs.open("digits", "classify", tail=0)
    await logs.delete("digits")
    assert await reader.next() is None
    assert not (tmp_path / "digits").exists()
    assert await messages(logs) == []


async def test_a_closed_reader_frees_its_place(logs: LogStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_store, "MAX_READERS", 2)
    readers = [await logs.open("digits", "classify") for _ in range(2)]
    with pytest.raises(Unavailable):
        await logs.open("digits", "classify")
    readers[0].close()
    (await logs.open("digits", "classify")).close()


async def test_a_tap_sees_the_lines_of_its_version_only_and_only_meanwhile(logs: LogStore) -> None:
    seen: list[str] = []
    with logs.tap("digits", 3, lambda id, line: seen.append(f"{id.function}: {line.message}")):
        logs.append(F, "r", [record("mine")])
        logs.system(F, "started")
        logs.append(FunctionId("digits", "classify", 2), "r", [record("older version")])
        logs.append(FunctionId("letters", "classify", 3), "r", [record("other project")])
    logs.append(F, "r", [record("later")])
    assert seen == ["classify: mine", "classify: started"]


async def test_the_writer_writes_what_comes(logs: LogStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_store, "FLUSH_PERIOD_S", 0.0)
    running = asyncio.create_task(logs.run())
    logs.append(F, "r", [record("written")])
    path = tmp_path / "digits" / "classify.jsonl"
    await until(lambda: path.exists() and b"written" in path.read_bytes())
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_of_many_functions_those_silent_for_longest_are_read_from_disk(
    logs: LogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipper_platform.control.log_store.MOST_RINGS", 2)
    followed = await logs.open("p", "f0")
    for number in range(5):
        logs.system(FunctionId("p", f"f{number}", 1), f"line of {number}")
    assert len(logs._streams) == 5, "nothing goes before it is on disk"
    await logs.flush()
    assert [function for _, function in logs._streams] == ["f0", "f3", "f4"]
    for number in range(5):
        assert [line.message for line in await logs.tail("p", f"f{number}")] == [f"line of {number}"]
    logs.system(FunctionId("p", "f1", 1), "one more")
    assert [line.message for line in await logs.tail("p", "f1")] == ["line of 1", "one more"]
    logs.system(FunctionId("p", "f0", 1), "the follower has it")
    assert [line.message for line in await followed.next() or []][-1] == "the follower has it"
    followed.close()
    await logs.flush()
    assert len(logs._streams) == 2
