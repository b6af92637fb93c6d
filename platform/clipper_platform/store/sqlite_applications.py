"""What applications learn, in the tables of the SQLite store."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

import msgspec

from clipper_platform.store import records
from clipper_platform.store.applications import (
    PAIRS_KEPT,
    AwaitedChunk,
    ContextState,
    Learned,
    Learning,
    Pair,
    StateWrite,
    last_to_forget,
)
from clipper_platform.store.sqlite_database import SqliteDatabase

__all__ = ["SqliteApplicationData"]


class SqliteApplicationData:
    """Implements `ApplicationData`."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._read, self._write = database.read, database.write

    async def states(self, application: str, *, after: int = 0) -> list[ContextState]:
        sql = """SELECT context, state, updated_at, revision, seq FROM application_states
            WHERE application = ? AND seq > ? ORDER BY seq"""

        def job(db: sqlite3.Connection) -> list[ContextState]:
            return [
                ContextState(context=context, state=msgspec.json.decode(state), updated_at=at, revision=rev, seq=seq)
                for context, state, at, rev, seq in db.execute(sql, (application, after))
            ]

        return await self._read(job)

    async def learn(self, application: str, learning: Learning) -> Learned:
        def job(db: sqlite3.Connection) -> Learned:
            _check(db, application)
            refused = Learned(
                duplicates=frozenset(
                    pair.query_id for pair in learning.pairs if _joined(db, application, pair.query_id)
                ),
                conflicts=frozenset(
                    write.context for write in learning.states if _revision(db, application, write) != write.revision
                ),
            )
            if not refused.stored:
                return refused
            _add_pairs(db, application, learning.pairs)
            for write in learning.states:
                _put_state(db, application, write)
            _add_counts(db, application, learning.counts)
            return Learned()

        return await self._write(job)

    async def add_awaited(self, application: str, chunk: AwaitedChunk) -> int:
        last = "SELECT coalesce(max(seq), 0) FROM application_awaited WHERE application = ?"

        def job(db: sqlite3.Connection) -> int:
            _check(db, application)
            seq = int(db.execute(last, (application,)).fetchone()[0]) + 1
            row = (application, seq, chunk.last_at, chunk.count, chunk.data)
            db.execute("INSERT INTO application_awaited VALUES (?, ?, ?, ?, ?)", row)
            return seq

        return await self._write(job)

    async def awaited(self, application: str, *, after: int = 0) -> list[AwaitedChunk]:
        sql = """SELECT last_at, count, data, seq FROM application_awaited
            WHERE application = ? AND seq > ? ORDER BY seq"""

        def job(db: sqlite3.Connection) -> list[AwaitedChunk]:
            return [
                AwaitedChunk(last_at=last_at, count=count, data=data, seq=seq)
                for last_at, count, data, seq in db.execute(sql, (application, after))
            ]

        return await self._read(job)

    async def prune_awaited(self, application: str, *, before: float, keep: int) -> None:
        chunks = "SELECT seq, last_at, count FROM application_awaited WHERE application = ? ORDER BY seq DESC"

        def job(db: sqlite3.Connection) -> None:
            _check(db, application)
            last = last_to_forget(db.execute(chunks, (application,)), before=before, keep=keep)
            db.execute("DELETE FROM application_awaited WHERE application = ? AND seq <= ?", (application, last))

        await self._write(job)

    async def joined(self, application: str, query_id: int) -> bool:
        return await self._read(lambda db: _joined(db, application, query_id))

    async def pairs(self, application: str, *, after: int = 0, since: float = 0.0, limit: int = 1000) -> list[Pair]:
        sql = """SELECT query_id, at, record, seq FROM application_pairs
            WHERE application = ? AND seq > ? AND at >= ? ORDER BY seq LIMIT ?"""
        return await self._read(lambda db: _pairs(db, sql, (application, after, since, limit)))

    async def last_pairs(self, application: str, limit: int) -> list[Pair]:
        sql = """SELECT query_id, at, record, seq FROM application_pairs
            WHERE application = ? ORDER BY seq DESC LIMIT ?"""
        return (await self._read(lambda db: _pairs(db, sql, (application, limit))))[::-1]

    async def counts(self, application: str) -> dict[str, float]:
        sql = "SELECT name, value FROM application_counts WHERE application = ? ORDER BY name"
        return await self._read(lambda db: dict(db.execute(sql, (application,)).fetchall()))

    async def add_counts(self, application: str, counts: Mapping[str, float]) -> None:
        def job(db: sqlite3.Connection) -> None:
            _check(db, application)
            _add_counts(db, application, counts)

        await self._write(job)


def _check(db: sqlite3.Connection, application: str) -> None:
    if db.execute("SELECT 1 FROM applications WHERE name = ?", (application,)).fetchone() is None:
        raise records.no_application(application)


def _joined(db: sqlite3.Connection, application: str, query_id: int) -> bool:
    sql = "SELECT 1 FROM application_pairs WHERE application = ? AND query_id = ?"
    return db.execute(sql, (application, query_id)).fetchone() is not None


def _pairs(db: sqlite3.Connection, sql: str, row: tuple[object, ...]) -> list[Pair]:
    return [Pair(query_id=id, at=at, record=record, seq=seq) for id, at, record, seq in db.execute(sql, row)]


def _add_pairs(db: sqlite3.Connection, application: str, pairs: Sequence[Pair]) -> None:
    sql = "SELECT coalesce(max(seq), 0) FROM application_pairs WHERE application = ?"
    last = db.execute(sql, (application,)).fetchone()[0]
    rows = [(application, seq, pair.query_id, pair.at, pair.record) for seq, pair in enumerate(pairs, last + 1)]
    db.executemany("INSERT INTO application_pairs VALUES (?, ?, ?, ?, ?)", rows)
    newest = last + len(rows)
    db.execute("DELETE FROM application_pairs WHERE application = ? AND seq <= ?", (application, newest - PAIRS_KEPT))


def _revision(db: sqlite3.Connection, application: str, write: StateWrite) -> int:
    sql = "SELECT revision FROM application_states WHERE application = ? AND context = ?"
    found = db.execute(sql, (application, write.context)).fetchone()
    return int(found[0]) if found is not None else 0


def _put_state(db: sqlite3.Connection, application: str, write: StateWrite) -> None:
    if write.state is None:
        sql = "DELETE FROM application_states WHERE application = ? AND context = ?"
        db.execute(sql, (application, write.context))
        return
    sql = """INSERT OR REPLACE INTO application_states SELECT ?, ?, ?, ?, ?,
        (SELECT coalesce(max(seq), 0) + 1 FROM application_states WHERE application = ?)"""
    state = msgspec.json.encode(write.state)
    db.execute(sql, (application, write.context, state, write.updated_at, write.revision + 1, application))


def _add_counts(db: sqlite3.Connection, application: str, counts: Mapping[str, float]) -> None:
    sql = """INSERT INTO application_counts VALUES (?, ?, ?)
        ON CONFLICT (application, name) DO UPDATE SET value = value + excluded.value"""
    db.executemany(sql, [(application, name, value) for name, value in counts.items()])
