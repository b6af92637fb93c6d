"""The SQLite file of answers that were computed beforehand: its tables, and connections to it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final
from urllib.parse import quote

from clipper_platform.errors import StoreUnavailable
from clipper_platform.store.materialized_records import Job

__all__ = ["connect", "job_of"]

_APPLICATION_ID: Final = 0x434C4D54  # "CLMT"
_SCHEMA: Final = 1
# Rows live until they have a result, failed ones with their job. `expires_at` of an answer that does not expire is far.
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS generations (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL, version INTEGER NOT NULL, identity TEXT NOT NULL, stale TEXT NOT NULL,
    complete INTEGER NOT NULL DEFAULT 0, count INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
    UNIQUE (path, version));
CREATE TABLE IF NOT EXISTS answers (
    generation INTEGER NOT NULL, digest BLOB NOT NULL, form TEXT NOT NULL,
    payload BLOB NOT NULL, expires_at REAL NOT NULL, PRIMARY KEY (generation, digest, form)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, path TEXT NOT NULL, version INTEGER NOT NULL, identity TEXT NOT NULL, source TEXT NOT NULL,
    ttl_s REAL,
    stale TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'receiving', total INTEGER, received INTEGER NOT NULL DEFAULT 0,
    done INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0, created_at REAL NOT NULL, ended_at REAL,
    reason TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS rows (
    job TEXT NOT NULL, number INTEGER NOT NULL, body BLOB NOT NULL, code TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '', PRIMARY KEY (job, number)) WITHOUT ROWID;
"""


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open the file; make it, with mode 0600, where it is not there. Raises StoreUnavailable for another program's."""
    if not read_only:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    mode = "ro" if read_only else "rw"
    address = f"file:{quote(str(path))}?mode={mode}"
    connection = sqlite3.connect(address, uri=True, timeout=5.0, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA mmap_size = 1073741824")  # pages are read where the kernel has them
    if read_only:
        return connection
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    schema = connection.execute("PRAGMA user_version").fetchone()[0]
    if (tables or owner) and owner != _APPLICATION_ID:
        raise StoreUnavailable(f"{path} is a database of another program")
    if schema > _SCHEMA:
        raise StoreUnavailable(f"{path} was written by a newer Clipper; remove it, or use that one")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {_SCHEMA}")
    connection.executescript(_TABLES)
    return connection


def job_of(row: sqlite3.Row) -> Job:
    return Job(**{key: row[key] for key in row.keys()})  # noqa: SIM118 - a row iterates over its values
