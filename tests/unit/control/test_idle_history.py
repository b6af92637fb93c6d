"""Idle times that survive a restart, and files that do not."""

from __future__ import annotations

import logging
import os
import zlib
from pathlib import Path

import msgspec
import pytest

from clipper_platform.control.scaling import idle_history
from clipper_platform.control.scaling.idle_history import IdleHistory
from clipper_platform.core.keepalive import IdleTimes

HEAD = b"clip idle times 1\n"


async def remembered(path: Path) -> IdleHistory:
    made = IdleHistory(path)
    await made.open()
    return made


async def test_what_was_learnt_is_known_after_a_restart(tmp_path: Path) -> None:
    before = await remembered(tmp_path / "idle")
    for _ in range(12):
        before.of("p/f").observe(600.0)
    before.of("p/quiet")
    await before.close()
    after = await remembered(tmp_path / "idle")
    assert len(after) == 1
    assert after.of("p/f").learnt() == before.of("p/f").learnt() is not None
    assert os.listdir(tmp_path) == ["idle"]


async def test_the_file_is_written_only_when_something_was_learnt(tmp_path: Path) -> None:
    path = tmp_path / "idle"
    known = await remembered(path)
    await known.save()
    assert not path.exists()
    known.of("p/f").observe(30.0)
    await known.save()
    path.unlink()
    await known.save()
    assert not path.exists()
    known.of("p/f").observe(30.0)
    await known.save()
    assert path.exists()


async def test_a_missing_file_is_no_matter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(await remembered(tmp_path / "idle")) == 0
    assert not caplog.records


def packed(content: object) -> bytes:
    return HEAD + zlib.compress(msgspec.msgpack.encode(content))


GOOD = packed({"p/f": IdleTimes().stored()})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"something else",
        HEAD,
        HEAD + b"no compressed data",
        GOOD[:-5],
        packed([1, 2]),
        packed({"p/f": b"short"}),
        packed({"p/f": b"\xff" * 130}),
        packed({str(n): b"" for n in range(idle_history.MOST_FUNCTIONS + 1)}),
        packed(b"\0" * (idle_history.MAX_BYTES + 1)),
        HEAD + bytes(idle_history.MAX_BYTES),
    ],
)  # fmt: skip
async def test_a_damaged_file_is_logged_ignored_and_replaced(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "idle"
    path.write_bytes(content)
    known = await remembered(path)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "ignored" in record.getMessage()
    assert len(known) == 0
    known.of("p/f").observe(30.0)
    await known.close()
    assert (await remembered(path)).of("p/f").total == 1


async def test_a_file_that_cannot_be_written_is_told_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "later" / "idle"
    known = await remembered(path)
    known.of("p/f").observe(30.0)
    await known.save()
    assert "could not be written" in caplog.text
    path.parent.mkdir()
    await known.save()
    assert path.exists()


async def test_a_deleted_project_is_forgotten_and_no_other(tmp_path: Path) -> None:
    known = await remembered(tmp_path / "idle")
    for name in ("p/f", "p/g", "pp/f"):
        known.of(name).observe(30.0)
    known.forget("p")
    await known.close()
    after = await remembered(tmp_path / "idle")
    assert [after.of(name).total for name in ("p/f", "p/g", "pp/f")] == [0, 0, 1]


async def test_only_so_many_functions_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle_history, "MOST_FUNCTIONS", 3)
    known = IdleHistory()
    for name in ("p/a", "p/b", "p/c"):
        known.of(name).observe(30.0)
    known.of("p/a")
    known.of("p/d")
    assert len(known) == 3
    assert known.of("p/a").total == 1
    assert known.of("p/b").total == 0
    await known.close()
