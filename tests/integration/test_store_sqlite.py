"""The SQLite store on a real disk: damage, other processes, full disks, kills, and files of someone else."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clipper_platform.errors import StoreUnavailable
from clipper_platform.store.base import Project, Route, Version
from clipper_platform.store.sqlite import SqliteStore
from clipper_platform.store.sqlite_schema import APPLICATION_ID, MIGRATIONS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "clipper.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, busy_timeout_s=0.2)
    await store.open()
    await store.put_project(Project(name="digits", created_at=1.0))
    yield store
    await store.close()


def version(size: int = 0) -> Version:
    return Version(project="digits", number=0, created_at=1.0, manifest={"x": "y" * size}, bundle="b", environment="e")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def content_of(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


# The file


async def test_the_file_and_those_beside_it_are_the_owners_only(store: SqliteStore, path: Path) -> None:
    modes = {file.name: mode_of(file) for file in path.parent.iterdir()}
    assert modes == {"clipper.db": 0o600, "clipper.db-wal": 0o600, "clipper.db-shm": 0o600}
    assert mode_of(path.parent) == 0o700


async def test_a_file_that_others_could_read_is_closed_to_them(path: Path) -> None:
    write(path, b"")
    os.chmod(path, 0o644)
    store = SqliteStore(path)
    await store.open()
    assert mode_of(path) == 0o600
    await store.close()


async def test_closing_folds_everything_into_the_one_file(store: SqliteStore, path: Path) -> None:
    await store.add_version(version())
    await store.close()
    assert [file.name for file in path.parent.iterdir()] == ["clipper.db"]


async def test_a_deleted_secret_leaves_no_bytes_in_the_file(store: SqliteStore, path: Path) -> None:
    await store.set_secret("digits", "TOKEN", "very-s3cret-value" * 10, expected=None)
    await store.close()
    assert b"very-s3cret-value" in content_of(path)
    await store.open()
    await store.set_secret("digits", "TOKEN", None, expected="very-s3cret-value" * 10)
    await store.close()
    assert b"very-s3cret-value" not in content_of(path)


# Files that are not ours, or damaged


@pytest.mark.parametrize("content", [b"garbage" * 1_000, b"SQLite format 3\0" + b"\xff" * 8_000])
async def test_garbage_in_place_of_the_database_is_refused_and_left_as_it_is(path: Path, content: bytes) -> None:
    write(path, content)
    store = SqliteStore(path)
    with pytest.raises(StoreUnavailable, match=rf"{path} is damaged.*restore it from a backup, or move it away"):
        await store.open()
    assert content_of(path) == content
    with pytest.raises(StoreUnavailable, match="is not open"):
        await store.changes(0)


async def test_damage_in_the_middle_is_found_at_open(store: SqliteStore, path: Path) -> None:
    for _ in range(20):
        await store.add_version(version(size=20_000))
    await store.close()
    data = bytearray(content_of(path))
    data[4096 * 3 : 4096 * 20] = os.urandom(4096 * 17)
    write(path, bytes(data))
    with pytest.raises(StoreUnavailable, match=f"{path} is damaged"):
        await store.open()


async def test_a_file_replaced_while_it_is_open_is_noticed_before_a_write_is_lost(
    store: SqliteStore, path: Path
) -> None:
    (path.parent / "other").write_bytes(b"garbage" * 1_000)
    os.replace(path.parent / "other", path)
    for call in (store.changes(0), store.list_projects(), store.add_version(version())):
        with pytest.raises(StoreUnavailable, match=f"{path} was replaced or removed"):
            await call


@pytest.mark.parametrize("beside", ["", "-wal", "-shm"])
async def test_a_file_removed_while_it_is_open_is_written_again_with_all_that_it_held(
    store: SqliteStore, path: Path, beside: str
) -> None:
    added = await store.add_version(version())
    await store.set_secret("digits", "TOKEN", "x", expected=None)
    os.unlink(path)
    if beside:
        os.unlink(f"{path}{beside}")
    await store.changes(0)
    assert os.stat(path).st_mode & 0o777 == 0o600
    again = await store.add_version(version())
    assert again.number == added.number + 1
    await store.close()
    await store.open()
    assert [again, added] == (await store.list_versions("digits"))[:2]
    assert await store.get_secrets("digits") == {"TOKEN": "x"}
    assert [each.name for each in path.parent.iterdir() if each.name.startswith(".")] == []


async def test_a_file_whose_directory_was_removed_is_an_outage(store: SqliteStore, path: Path) -> None:
    shutil.rmtree(path.parent)
    with pytest.raises(StoreUnavailable, match="was replaced or removed"):
        await store.changes(0)


async def test_a_database_of_a_newer_clipper_is_refused_and_left_as_it_is(store: SqliteStore, path: Path) -> None:
    await store.close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(StoreUnavailable, match=f"{path} was written by a newer Clipper.*upgrade Clipper"):
        await store.open()


async def test_a_database_of_another_program_is_refused_and_left_as_it_is(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.close()
    before = content_of(path)
    with pytest.raises(StoreUnavailable, match="database of another program"):
        await SqliteStore(path).open()
    assert content_of(path) == before


async def test_an_empty_file_becomes_a_database_that_says_whose_it_is(path: Path) -> None:
    write(path, b"")
    store = SqliteStore(path)
    await store.open()
    await store.close()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()


async def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        broken = (*MIGRATIONS[0], "CREATE TABLE projects (again TEXT)")
        patch.setattr("clipper_platform.store.sqlite_schema.MIGRATIONS", (broken,))
        with pytest.raises(StoreUnavailable):
            await SqliteStore(path).open()
    store = SqliteStore(path)
    await store.open()  # as if it had never been tried
    await store.put_project(Project(name="digits", created_at=1.0))
    await store.close()


async def test_a_place_where_no_file_can_be_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    for place in (tmp_path / "file" / "clipper.db", tmp_path / "directory", Path("/proc/clipper.db")):
        with pytest.raises(StoreUnavailable, match=str(place)):
            await SqliteStore(place).open()


# Locks, space, time


async def test_a_database_locked_by_another_process_is_an_outage_that_ends_with_the_lock(
    store: SqliteStore, path: Path
) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match=f"{path} is locked by another process"):
        await store.add_version(version())
    assert len(await store.list_projects()) == 1  # readers don't wait for the writer
    await store.changes(0)
    other.execute("ROLLBACK")
    other.close()
    assert (await store.add_version(version())).number == 1


@contextmanager
def files_no_larger_than(count: int) -> Iterator[None]:
    """What a full disk does to a write, for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_is_an_outage_that_loses_nothing_and_ends_with_the_shortage(
    store: SqliteStore, path: Path
) -> None:
    await store.add_version(version())
    wal = path.with_name("clipper.db-wal")
    refused = pytest.raises(StoreUnavailable, match=f"{path} cannot .*free s")
    with files_no_larger_than(wal.stat().st_size + 8_192), refused:
        await store.add_version(version(size=1_000_000))
    assert [v.number for v in await store.list_versions("digits")] == [1]
    assert (await store.add_version(version(size=1_000_000))).number == 2


async def test_the_event_loop_goes_on_while_the_database_waits(store: SqliteStore, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.ensure_future(store.add_version(version()))
    longest, last = 0.0, time.monotonic()
    while not waiting.done():
        await asyncio.sleep(0.001)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    other.execute("ROLLBACK")
    other.close()
    assert isinstance(waiting.exception(), StoreUnavailable)
    assert longest < 0.15  # the database waited for 0.2 s


async def test_a_ping_behind_a_job_that_hangs_is_refused_within_about_a_second(store: SqliteStore) -> None:
    go = threading.Event()
    hanging = asyncio.ensure_future(store._database.read(lambda _: go.wait(10)))
    await asyncio.sleep(0.01)
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="did not answer within 1 s"):
        await store.changes(0)
    assert time.monotonic() - started < 2
    go.set()
    await hanging
    await store.changes(0)


async def test_a_call_cancelled_in_the_middle_leaves_no_transaction_open(store: SqliteStore, path: Path) -> None:
    entered, go = threading.Event(), threading.Event()

    def job(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO counters VALUES ('digits', 'version', 41)")
        entered.set()
        assert go.wait(10)

    call = asyncio.ensure_future(store._database.write(job))
    await asyncio.to_thread(entered.wait, 10)
    queued = asyncio.ensure_future(store.add_version(version()))
    await asyncio.sleep(0)
    call.cancel()
    queued.cancel()
    await asyncio.gather(call, queued, return_exceptions=True)
    go.set()
    # The job that ran was whole; the one that was queued never began.
    assert (await store.add_version(version())).number == 42
    other = sqlite3.connect(path, isolation_level=None, timeout=0)
    other.execute("BEGIN IMMEDIATE")  # nobody holds the lock
    other.execute("ROLLBACK")
    other.close()


async def test_no_thread_is_left_after_closing(path: Path) -> None:
    store = SqliteStore(path)
    for _ in range(3):
        await store.open()
        await store.changes(0)
        await store.close()
    give_up = time.monotonic() + 5
    while any(thread.name.startswith("sqlite") for thread in threading.enumerate()):
        assert time.monotonic() < give_up
        await asyncio.sleep(0.01)


# Other processes

WRITER = """
    import asyncio, sys
    from pathlib import Path
    from clipper_platform.store.base import Project, Version
    from clipper_platform.store.sqlite import SqliteStore

    async def main():
        store = SqliteStore(Path(sys.argv[1]), busy_timeout_s=10)
        await store.open()
        await store.put_project(Project(name="digits", created_at=1.0))
        for _ in range(int(sys.argv[2])):
            version = Version(project="digits", number=0, created_at=1.0, manifest={}, bundle="b", environment="e")
            print((await store.add_version(version)).number, flush=True)
        await store.close()

    asyncio.run(main())
"""


def writer(path: Path, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_that_create_and_write_one_file_at_once_share_no_number(path: Path) -> None:
    writers = [writer(path, 30) for _ in range(3)]
    numbers: list[int] = []
    for process in writers:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        numbers += map(int, out.split())
    assert sorted(numbers) == list(range(1, 91))


async def test_what_a_killed_process_was_told_is_stored_survives(path: Path) -> None:
    process = writer(path, 1_000_000)
    assert process.stdout is not None
    numbers = [int(process.stdout.readline()) for _ in range(25)]
    process.send_signal(signal.SIGKILL)
    numbers += [int(line) for line in process.communicate(timeout=30)[0].split("\n")[:-1]]

    store = SqliteStore(path)
    await store.open()
    kept = [v.number for v in await store.list_versions("digits")]
    assert kept == list(range(len(kept), 0, -1))
    assert len(kept) >= len(numbers) >= 25
    assert (await store.add_version(version())).number == len(kept) + 1
    await store.set_route(Route(project="digits", version=1))
    await store.close()
