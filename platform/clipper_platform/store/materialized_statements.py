"""What the store of answers that were computed beforehand reads and writes in one transaction, or as part of one."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from clipper_platform.errors import NotFound
from clipper_platform.store.materialized_index import Generation
from clipper_platform.store.materialized_records import Job, RowResult
from clipper_platform.store.materialized_schema import job_of

__all__ = [
    "DELETE_SOME", "FIND", "FULL", "OPEN", "ROW_OVERHEAD_BYTES", "SLICE", "all_jobs", "answer_size", "digests_after",
    "find_job", "generations", "keep",
]  # fmt: skip

# Beside the payload: the digest, the form, the row's header and its place in the tree.
ROW_OVERHEAD_BYTES: Final = 96
# Digests that are read into a filter between two turns of the event loop.
SLICE: Final = 2000

OPEN: Final = "state IN ('receiving', 'running')"
FIND: Final = "SELECT payload, form, expires_at FROM answers WHERE generation = ? AND digest = ?"
DELETE_SOME: Final = (
    "DELETE FROM answers WHERE generation = ?1 AND digest IN "
    "(SELECT digest FROM answers WHERE generation = ?1 LIMIT 10000)"
)
FULL: Final = "there is no room for its answer: raise materialized_bytes"
_OLD_SIZE: Final = "SELECT length(payload) FROM answers WHERE generation = ? AND digest = ? AND form = ?"


def answer_size(payload: bytes) -> int:
    return len(payload) + ROW_OVERHEAD_BYTES


def keep(db: sqlite3.Connection, generation: int, results: Sequence[RowResult], expires_at: float) -> tuple[int, int]:
    """Write the answers; how many more there are now, and how many more bytes they take."""
    count = size = 0
    for result in results:
        for form, payload in result.answers.items():
            key = (generation, result.digest, form)
            old = db.execute(_OLD_SIZE, key).fetchone()
            count += old is None
            size += answer_size(payload) if old is None else len(payload) - old[0]
            db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", (*key, payload, expires_at))
    db.execute("UPDATE generations SET count = count + ?, bytes = bytes + ? WHERE id = ?", (count, size, generation))
    return count, size


def find_job(db: sqlite3.Connection, id: str) -> Job:
    """Raises NotFound."""
    row = db.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise NotFound(f"there is no materialization {id!r}")
    return job_of(row)


def all_jobs(db: sqlite3.Connection) -> list[Job]:
    """Newest first."""
    return [job_of(row) for row in db.execute("SELECT * FROM jobs ORDER BY created_at DESC, rowid DESC")]


def generations(db: sqlite3.Connection) -> list[Generation]:
    keys = ("id", "path", "version", "identity", "stale", "complete", "count", "bytes")
    return [Generation(*(row[key] for key in keys)) for row in db.execute("SELECT * FROM generations ORDER BY id")]


def digests_after(db: sqlite3.Connection, generation: int, after: bytes) -> list[bytes]:
    """A slice of them, in their order."""
    rows = db.execute(
        "SELECT digest FROM answers WHERE generation = ? AND digest > ? ORDER BY digest LIMIT ?",
        (generation, after, SLICE),
    )
    return [row["digest"] for row in rows]
