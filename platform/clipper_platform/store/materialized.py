"""Answers that were computed beforehand, and the jobs that compute them, in a SQLite file of their own.

Writes run in one dedicated thread, as those of the metadata store do. Look-ups run in the event loop, on a connection
of their own that only reads: in WAL mode it waits for nobody, and a look-up in pages that are in memory takes less than
a change of threads (`python -m tests.benchmarks.materialize`). For what is not there, a filter in memory says so.

A power failure may lose the last moments of writes (`synchronous=NORMAL`), the end of a process does not: rows and
their answers are written in one transaction, so that a row that was not recorded is computed again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from clipper_platform.core.bloom import Bloom
from clipper_platform.errors import ClipperError, StoreUnavailable
from clipper_platform.store.materialized_index import Generation, GenerationIndex
from clipper_platform.store.materialized_records import ANY, FoundAnswer, Job, RowFailure, RowResult, StalePolicy
from clipper_platform.store.materialized_schema import connect
from clipper_platform.store.materialized_statements import (
    DELETE_SOME,
    FIND,
    FULL,
    OPEN,
    SLICE,
    all_jobs,
    answer_size,
    digests_after,
    find_job,
    generations,
    keep,
)
from clipper_platform.store.sqlite_errors import translate

__all__ = ["MaterializedStore"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class MaterializedStore:
    """At most `max_bytes` of answers; those of older versions give way to newer ones, and then rows are refused."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.index = GenerationIndex()
        self._executor: ThreadPoolExecutor | None = None
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Cursor | None = None
        self._writing = 0  # transactions that run or wait
        self._filling: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Raises StoreUnavailable where the file cannot be used."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="materialized")
        try:
            self._writer = await self._run(lambda: connect(self.path))
            self._reader = connect(self.path, read_only=True).cursor()
            self._reader.row_factory = None
            for generation in await self._write(generations):
                self.index.add(generation)
        except BaseException:
            await self.close()
            raise
        self._filling = asyncio.create_task(self._fill_filters(), name="filters of materialized answers")

    async def close(self) -> None:
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.wait({self._filling})
        executor, self._executor = self._executor, None
        if executor is None:
            return
        try:
            if (writer := self._writer) is not None:
                await asyncio.get_running_loop().run_in_executor(executor, writer.close)
            if self._reader is not None:
                self._reader.connection.close()
        finally:
            self._writer = self._reader = None
            executor.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._executor is None:
            raise StoreUnavailable(f"{self.path} is not open")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except (sqlite3.Error, OSError) as error:
            raise translate(error, self.path) from error

    async def _write(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run it as one transaction."""

        def transaction() -> T:
            writer = self._writer
            if writer is None:
                raise StoreUnavailable(f"{self.path} is not open")
            with writer:
                writer.execute("BEGIN IMMEDIATE")
                return job(writer)

        if self._reader is not None and self._reader.connection.in_transaction:
            self._reader.execute("COMMIT")
        self._writing += 1
        try:
            return await self._run(transaction)
        finally:
            self._writing -= 1

    async def _fill_filters(self) -> None:
        """Read all digests once, in slices. Until then, look-ups go to the file."""
        try:
            for generation in self.index.all():
                await self._fill_filter(generation)
        except ClipperError as error:
            logger.error("look-ups of what was not computed beforehand go to the disk: %s", error.message)

    async def _fill_filter(self, generation: Generation) -> None:
        known, after = Bloom(generation.count), b""
        while True:
            found = await self._write(partial(digests_after, generation=generation.id, after=after))
            for digest in found:
                known.add(digest)
            if len(found) < SLICE:
                break
            after = found[-1]
            await asyncio.sleep(0)
        for digest in generation.added:
            known.add(digest)
        generation.filled(known)

    # Look-ups: implements `serving.materialized.AnswerTable`

    def has(self, path: str, version: int, identity: str) -> bool:
        return bool(self.index.for_version(path, version, identity))

    def find(self, path: str, version: int, identity: str, digest: bytes, form: str, now: float) -> FoundAnswer | None:
        for generation in self.index.for_version(path, version, identity):
            if generation.perhaps_has(digest):
                for payload, found_form, expires_at in self._read(generation.id, digest):
                    if found_form in (form, ANY) and now < expires_at:
                        return FoundAnswer(payload, found_form, generation.version != version)
        return None

    def _read(self, generation: int, digest: bytes) -> list[tuple[bytes, str, float]]:
        """(payload, form, when it expires). A transaction is held open from look-up to look-up: to begin one for each
        takes as long as two look-ups. Writes end it, since the log could not begin anew beside it."""
        reader = self._reader
        if reader is None:
            return []
        try:
            if not self._writing and not reader.connection.in_transaction:
                reader.execute("BEGIN")
            return reader.execute(FIND, (generation, digest)).fetchall()
        except sqlite3.Error:
            logger.exception("an answer that was computed beforehand cannot be read from %s", self.path)
            return []

    # Jobs

    async def begin(
        self,
        path: str,
        version: int,
        identity: str,
        source: str,
        *,
        ttl_s: float | None,
        stale: StalePolicy,
        now: float,
    ) -> Job:
        """A new job, or the open one of the same function, version and source."""

        def begin(db: sqlite3.Connection) -> Job:
            row = db.execute(
                f"SELECT * FROM jobs WHERE path = ? AND version = ? AND identity = ? AND source = ? AND {OPEN}",
                (path, version, identity, source),
            ).fetchone()
            if row is not None:
                db.execute("UPDATE jobs SET ttl_s = ?, stale = ? WHERE id = ?", (ttl_s, stale, row["id"]))
                return find_job(db, row["id"])
            id = secrets.token_hex(6)
            db.execute(
                "INSERT INTO jobs (id, path, version, identity, source, ttl_s, stale, created_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (id, path, version, identity, source, ttl_s, stale, now),
            )
            return find_job(db, id)

        return await self._write(begin)

    async def add_rows(self, id: str, at: int, bodies: Sequence[bytes]) -> Job:
        """Rows `at`, `at` + 1, …; those that are there already are left as they are. Raises NotFound, and ValueError
        where rows before `at` are missing."""

        def add(db: sqlite3.Connection) -> Job:
            job = find_job(db, id)
            if at > job.received:
                raise ValueError(f"the next row is {job.received}, not {at}")
            new = list(enumerate(bodies, at))[job.received - at :] if job.state == "receiving" else []
            db.executemany("INSERT INTO rows (job, number, body) VALUES (?, ?, ?)", [(id, n, body) for n, body in new])
            db.execute("UPDATE jobs SET received = received + ? WHERE id = ?", (len(new), id))
            return find_job(db, id)

        return await self._write(add)

    async def complete(self, id: str) -> Job:
        """All rows have come."""

        def complete(db: sqlite3.Connection) -> Job:
            db.execute(
                "UPDATE jobs SET state = 'running', total = received WHERE id = ? AND state = 'receiving'", (id,)
            )
            return find_job(db, id)

        return await self._write(complete)

    async def end(self, id: str, now: float, *, reason: str = "") -> Job:
        """It is done, or, with a reason, stopped. Failed rows are kept to be listed."""

        def end(db: sqlite3.Connection) -> Job:
            state = "stopped" if reason else "done"
            changed = db.execute(
                f"UPDATE jobs SET state = ?, reason = ?, ended_at = ? WHERE id = ? AND {OPEN}",
                (state, reason, now, id),
            ).rowcount
            db.execute("DELETE FROM rows WHERE job = ? AND code = ''", (id,))
            job = find_job(db, id)
            if changed and not reason:
                db.execute(
                    "UPDATE generations SET complete = 1 WHERE path = ? AND version = ?", (job.path, job.version)
                )
            return job

        job = await self._write(end)
        if job.state == "done" and (generation := self.index.of(job.path, job.version)) is not None:
            generation.complete = True
        return job

    async def jobs(self) -> list[Job]:
        """Newest first."""
        return await self._write(lambda db: all_jobs(db))

    async def job(self, id: str) -> Job:
        """Raises NotFound."""
        return await self._write(lambda db: find_job(db, id))

    async def failures(self, id: str, after: int, limit: int) -> list[RowFailure]:
        """Rows that failed with a number above `after`."""

        def read(db: sqlite3.Connection) -> list[RowFailure]:
            find_job(db, id)
            rows = db.execute(
                "SELECT number, code, message FROM rows WHERE job = ? AND number > ? AND code != '' "
                "ORDER BY number LIMIT ?",
                (id, after, limit),
            )
            return [RowFailure(number=row["number"], code=row["code"], message=row["message"]) for row in rows]

        return await self._write(read)

    # Rows and their answers

    async def pending(self, id: str, after: int, limit: int) -> list[tuple[int, bytes]]:
        """(number, body) of rows without a result, with a number above `after`."""
        return await self._write(
            lambda db: [
                (row["number"], row["body"])
                for row in db.execute(
                    "SELECT number, body FROM rows WHERE job = ? AND number > ? AND code = '' ORDER BY number LIMIT ?",
                    (id, after, limit),
                )
            ]
        )

    async def generation(self, job: Job) -> Generation:
        """Where the job's answers go, made if there is none. By its `stale`, older ones are given meanwhile or not."""
        known = self.index.of(job.path, job.version)
        if known is not None and known.identity != job.identity:
            await self.forget(known)

        def make(db: sqlite3.Connection) -> Generation:
            db.execute(
                "INSERT INTO generations (path, version, identity, stale) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (path, version) DO NOTHING",
                (job.path, job.version, job.identity, job.stale),
            )
            db.execute("UPDATE generations SET stale = ? WHERE path = ?", (job.stale, job.path))
            return next(g for g in generations(db) if (g.path, g.version) == (job.path, job.version))

        made = await self._write(make)
        self.index.set_stale(job.path, job.stale)
        if (known := self.index.of(job.path, job.version)) is not None:
            return known
        made.filled(Bloom(made.count))
        self.index.add(made)
        return made

    async def record(self, id: str, generation: Generation, results: Sequence[RowResult], expires_at: float) -> Job:
        """Answers and the ends of their rows, in one transaction. Rows of answers that there is no room for fail."""
        size = sum(answer_size(payload) for r in results for payload in r.answers.values())
        if not await self._make_room(generation, size):
            results = [r if r.code else RowResult(number=r.number, code="table_full", message=FULL) for r in results]

        def write(db: sqlite3.Connection) -> tuple[Job, int, int]:
            count, grown = keep(db, generation.id, results, expires_at)
            failed = [(r.code, r.message, id, r.number) for r in results if r.code]
            db.executemany("UPDATE rows SET code = ?, message = ?, body = x'' WHERE job = ? AND number = ?", failed)
            db.executemany(
                "DELETE FROM rows WHERE job = ? AND number = ?", [(id, r.number) for r in results if not r.code]
            )
            db.execute(
                "UPDATE jobs SET done = done + ?, failed = failed + ? WHERE id = ?",
                (len(results) - len(failed), len(failed), id),
            )
            return find_job(db, id), count, grown

        job, count, grown = await self._write(write)
        generation.grow([r.digest for r in results if r.answers], count, grown)
        return job

    async def _make_room(self, generation: Generation, size: int) -> bool:
        """Whether `size` bytes more fit, once the answers of older versions have given way."""
        while self.index.size + size > self.max_bytes:
            older = self.index.oldest_before(generation)
            if older is None:
                return False
            await self.forget(older)
        return True

    async def forget(self, generation: Generation) -> None:
        """Delete all answers of one version, a piece at a time, so that other writes go on meanwhile."""
        self.index.remove(generation)
        while await self._write(lambda db: db.execute(DELETE_SOME, (generation.id,)).rowcount):
            pass
        await self._write(lambda db: db.execute("DELETE FROM generations WHERE id = ?", (generation.id,)))

    async def forget_project(self, project: str) -> None:
        """Delete all answers and jobs of a project."""
        for generation in self.index.all():
            if generation.path.startswith(f"{project}/"):
                await self.forget(generation)

        def delete(db: sqlite3.Connection) -> None:
            ids = [
                (row["id"],) for row in db.execute("SELECT id, path FROM jobs") if row["path"].startswith(f"{project}/")
            ]
            db.executemany("DELETE FROM rows WHERE job = ?", ids)
            db.executemany("DELETE FROM jobs WHERE id = ?", ids)

        await self._write(delete)
