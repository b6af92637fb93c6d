"""Answers that were computed beforehand, in their file: jobs go on where they were, and the bytes are bounded."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import pytest

from clipper.contract.media_types import JSON, MSGPACK
from clipper_platform.errors import NotFound, StoreUnavailable
from clipper_platform.store.materialized import MaterializedStore
from clipper_platform.store.materialized_records import ANY, Job, RowResult, StalePolicy
from clipper_platform.store.materialized_statements import ROW_OVERHEAD_BYTES

FOR_EVER = 1e18


def digest(number: int) -> bytes:
    return blake2b(str(number).encode(), digest_size=32).digest()


def answered(number: int, payload: bytes = b"answer", form: str = ANY) -> RowResult:
    return RowResult(number=number, digest=digest(number), answers={form: payload})


async def opened(tmp_path: Path, max_bytes: int = 10**9) -> MaterializedStore:
    store = MaterializedStore(tmp_path / "home" / "materialized.db", max_bytes)
    await store.open()
    return store


async def begun(store: MaterializedStore, version: int = 1, rows: int = 0, *, stale: StalePolicy = "miss") -> Job:
    job = await store.begin("p/f", version, "i", "file", ttl_s=None, stale=stale, now=1.0)
    return await store.add_rows(job.id, job.received, [b"%d" % n for n in range(rows)]) if rows else job


async def recorded(store: MaterializedStore, job: Job, *results: RowResult, expires_at: float = FOR_EVER) -> Job:
    generation = await store.generation(job)
    return await store.record(job.id, generation, results, expires_at)


async def test_an_answer_is_found_under_its_version_and_digest(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    job = await recorded(store, await begun(store, rows=2), answered(0))
    assert (job.done, job.failed, job.pending) == (1, 0, 1)
    found = store.find("p/f", 1, "i", digest(0), JSON, 5.0)
    assert found is not None
    assert (found.payload, found.form, found.stale) == (b"answer", ANY, False)
    for path, version, other in (("p/f", 2, digest(0)), ("p/g", 1, digest(0)), ("p/f", 1, digest(1))):
        assert store.find(path, version, "i", other, JSON, 5.0) is None
    assert store.has("p/f", 1, "i")
    assert not store.has("p/f", 2, "i")
    await store.close()
    assert store.find("p/f", 1, "i", digest(0), JSON, 5.0) is None


async def test_an_answer_of_one_format_is_for_callers_of_that_format(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    both = RowResult(number=0, digest=digest(0), answers={JSON: b"[1]", MSGPACK: b"\x91\x01"})
    await recorded(store, await begun(store, rows=1), both)
    assert [store.find("p/f", 1, "i", digest(0), form, 5.0)[0] for form in (JSON, MSGPACK)] == [b"[1]", b"\x91\x01"]  # type: ignore[index]
    assert store.find("p/f", 1, "i", digest(0), "image/png", 5.0) is None
    await store.close()


async def test_an_expired_answer_is_not_given(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await recorded(store, await begun(store, rows=1), answered(0), expires_at=10.0)
    assert store.find("p/f", 1, "i", digest(0), JSON, 9.0) is not None
    assert store.find("p/f", 1, "i", digest(0), JSON, 11.0) is None
    await store.close()


async def test_rows_that_are_there_are_left_alone_and_none_may_be_missing(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    job = await begun(store, rows=3)
    job = await store.add_rows(job.id, 1, [b"other", b"other", b"3"])
    assert job.received == 4
    assert await store.pending(job.id, -1, 10) == [(0, b"0"), (1, b"1"), (2, b"2"), (3, b"3")]
    with pytest.raises(ValueError, match="the next row is 4, not 5"):
        await store.add_rows(job.id, 5, [b"5"])
    job = await store.complete(job.id)
    assert (job.state, job.total) == ("running", 4)
    assert (await store.add_rows(job.id, 4, [b"late"])).received == 4
    await store.close()


async def test_a_client_that_begins_again_goes_on_with_its_job_until_that_ends(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    first = await begun(store, rows=3)
    again = await begun(store)
    assert (again.id, again.received) == (first.id, 3)
    assert (await begun(store, version=2)).id != first.id
    await store.end(first.id, 2.0)
    assert (await begun(store)).id != first.id
    await store.close()


async def test_what_was_recorded_outlives_the_process_and_the_rest_is_pending(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    job = await begun(store, rows=5)
    await recorded(store, job, answered(0), RowResult(number=1, code="function_error", message="bad"), answered(3))
    other = await opened(tmp_path)  # as after kill -9: the first one was not closed
    (found,) = await other.jobs()
    assert (found.id, found.done, found.failed, found.received) == (job.id, 2, 1, 5)
    assert [number for number, _ in await other.pending(job.id, -1, 10)] == [2, 4]
    assert [number for number, _ in await other.pending(job.id, 2, 10)] == [4]
    assert [(f.number, f.code, f.message) for f in await other.failures(job.id, -1, 10)] == [
        (1, "function_error", "bad")
    ]
    assert await other.failures(job.id, 1, 10) == []
    assert other.find("p/f", 1, "i", digest(3), JSON, 5.0) is not None
    await other.close()
    await store.close()


async def test_the_filter_is_filled_again_after_a_restart(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await recorded(store, await begun(store, rows=100), *(answered(n) for n in range(100)))
    await store.close()
    store = await opened(tmp_path)
    (generation,) = store.index.all()
    assert generation.perhaps_has(digest(-1))  # not filled yet: the file is asked
    await recorded(store, await begun(store, rows=1), answered(1000))
    async with asyncio.timeout(10):
        while generation.perhaps_has(digest(-1)):
            await asyncio.sleep(0)
    assert all(store.find("p/f", 1, "i", digest(n), JSON, 5.0) for n in (*range(100), 1000))
    await store.close()


async def test_a_failed_row_stays_listed_when_the_job_ends_and_its_body_goes(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    job = await recorded(store, await begun(store, rows=3), RowResult(number=1, code="x", message="y"))
    ended = await store.end(job.id, 7.0, reason="cancelled")
    assert (ended.state, ended.reason, ended.ended_at) == ("stopped", "cancelled", 7.0)
    assert [f.number for f in await store.failures(job.id, -1, 10)] == [1]
    assert await store.pending(job.id, -1, 10) == []
    assert (await store.end(job.id, 8.0)).state == "stopped"
    with pytest.raises(NotFound):
        await store.job("nope")
    await store.close()


async def test_old_answers_are_given_as_stale_until_the_new_version_is_complete(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await recorded(store, await begun(store, rows=2, stale="serve"), answered(0), answered(1))
    found = store.find("p/f", 2, "i", digest(0), JSON, 5.0)
    assert found is not None
    assert found.stale
    newer = await begun(store, version=2, rows=1, stale="serve")
    await recorded(store, newer, answered(0, b"new"))
    assert store.find("p/f", 2, "i", digest(0), JSON, 5.0)[0] == b"new"  # type: ignore[index]
    assert store.find("p/f", 2, "i", digest(1), JSON, 5.0) is not None
    await store.complete(newer.id)
    await store.end(newer.id, 9.0)
    assert store.find("p/f", 2, "i", digest(1), JSON, 5.0) is None
    assert store.find("p/f", 1, "i", digest(1), JSON, 5.0) is not None  # after a rollback
    await store.close()


async def test_with_miss_no_version_gives_the_answers_of_another(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await recorded(store, await begun(store, rows=1), answered(0))
    assert store.find("p/f", 2, "i", digest(0), JSON, 5.0) is None
    await store.close()


async def test_the_bytes_are_bounded_older_versions_give_way_and_then_rows_are_refused(tmp_path: Path) -> None:
    each = len(b"answer") + ROW_OVERHEAD_BYTES
    store = await opened(tmp_path, max_bytes=3 * each)
    await recorded(store, await begun(store, rows=2), answered(0), answered(1))
    assert store.index.size == 2 * each
    newer = await begun(store, version=2, rows=4)
    await recorded(store, newer, answered(0), answered(1))
    assert store.index.size == 2 * each
    assert not store.has("p/f", 1, "i")
    job = await recorded(store, newer, answered(2), answered(3))
    assert (job.done, job.failed) == (2, 2)
    assert {f.code for f in await store.failures(newer.id, -1, 10)} == {"table_full"}
    assert store.index.size == 2 * each
    await store.close()


async def test_a_number_that_was_given_out_again_has_none_of_the_old_answers(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await recorded(store, await begun(store, rows=1), answered(0))
    assert store.find("p/f", 1, "another", digest(0), JSON, 5.0) is None
    assert not store.has("p/f", 1, "another")
    job = await store.begin("p/f", 1, "another", "file", ttl_s=None, stale="miss", now=1.0)
    assert job.received == 0
    await recorded(store, await store.add_rows(job.id, 0, [b"1"]), answered(0, b"new"))
    assert store.find("p/f", 1, "another", digest(0), JSON, 5.0)[0] == b"new"  # type: ignore[index]
    assert store.find("p/f", 1, "i", digest(0), JSON, 5.0) is None
    await store.close()


async def test_a_deleted_project_takes_its_answers_and_jobs_with_it(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    await recorded(store, await begun(store, rows=3), answered(0), RowResult(number=1, code="x", message="y"))
    other = await store.begin("p2/f", 1, "i", "file", ttl_s=None, stale="miss", now=1.0)
    await recorded(store, other, answered(0))
    await store.forget_project("p")
    assert [job.path for job in await store.jobs()] == ["p2/f"]
    assert store.index.paths() == {"p2/f"}
    await store.close()
    store = await opened(tmp_path)
    assert store.find("p/f", 1, "i", digest(0), JSON, 5.0) is None
    assert store.find("p2/f", 1, "i", digest(0), JSON, 5.0) is not None
    await store.close()


async def test_an_answer_that_is_computed_again_replaces_the_old_one(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    job = await begun(store, rows=1)
    await recorded(store, job, answered(0, b"a"))
    await recorded(store, job, answered(0, b"longer"))
    (generation,) = store.index.all()
    assert (generation.count, generation.size) == (1, len(b"longer") + ROW_OVERHEAD_BYTES)
    assert store.find("p/f", 1, "i", digest(0), JSON, 5.0)[0] == b"longer"  # type: ignore[index]
    await store.close()


def _foreign(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE theirs (x)")


def _newer(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA application_id = 1129074004")
    db.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize("spoil", [_foreign, _newer])
async def test_a_file_that_is_not_ours_is_refused(tmp_path: Path, spoil: Callable[[sqlite3.Connection], None]) -> None:
    (tmp_path / "home").mkdir()
    db = sqlite3.connect(tmp_path / "home" / "materialized.db")
    spoil(db)
    db.commit()
    db.close()
    with pytest.raises(StoreUnavailable):
        await opened(tmp_path)


async def test_a_store_that_is_not_open_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="is not open"):
        await MaterializedStore(tmp_path / "x.db", 1).jobs()
