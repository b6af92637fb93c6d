"""Checks and migrations of the SQLite store's file: it is ours, has a write-ahead log, and these tables.

The tables stand here as the list of migrations that leads to them. Records are JSON in a `record` column
beside the columns that are looked up. `PRAGMA user_version` is the number of migrations applied; a migration, once
released, never changes.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from clipper_platform.errors import StoreUnavailable

__all__ = ["APPLICATION_ID", "MIGRATIONS", "migrate", "refuse_foreign", "use_wal"]

APPLICATION_ID = 0x434C4950  # "CLIP", in the file's header: distinguishes our database from another program's

_UNDER_PROJECT = "project TEXT NOT NULL REFERENCES projects (name) ON DELETE CASCADE"
_UNDER_APPLICATION = "application TEXT NOT NULL REFERENCES applications (name) ON DELETE CASCADE"

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE projects (name TEXT PRIMARY KEY, record BLOB NOT NULL)",
        # The last number given out. Refers to no project: it outlives the project, so that none is given out twice.
        """CREATE TABLE counters (project TEXT NOT NULL, kind TEXT NOT NULL CHECK (kind IN ('version', 'event')),
            last INTEGER NOT NULL, PRIMARY KEY (project, kind)) WITHOUT ROWID""",
        f"""CREATE TABLE versions ({_UNDER_PROJECT}, number INTEGER NOT NULL, record BLOB NOT NULL,
            PRIMARY KEY (project, number))""",
        f"CREATE TABLE routes ({_UNDER_PROJECT} PRIMARY KEY, record BLOB NOT NULL)",
        "CREATE TABLE keys (id TEXT PRIMARY KEY, record BLOB NOT NULL)",
        f"""CREATE TABLE secrets ({_UNDER_PROJECT}, name TEXT NOT NULL, value TEXT NOT NULL,
            PRIMARY KEY (project, name))""",
        f"""CREATE TABLE policies ({_UNDER_PROJECT}, function TEXT NOT NULL, record BLOB NOT NULL,
            PRIMARY KEY (project, function))""",
        f"""CREATE TABLE events ({_UNDER_PROJECT}, seq INTEGER NOT NULL, record BLOB NOT NULL,
            PRIMARY KEY (project, seq))""",
    ),
    (
        "CREATE TABLE applications (name TEXT PRIMARY KEY, record BLOB NOT NULL)",
        f"""CREATE TABLE application_states ({_UNDER_APPLICATION}, context TEXT NOT NULL, state BLOB NOT NULL,
            updated_at REAL NOT NULL, revision INTEGER NOT NULL, seq INTEGER NOT NULL,
            PRIMARY KEY (application, context)) WITHOUT ROWID""",
        "CREATE INDEX application_states_seq ON application_states (application, seq)",
        f"""CREATE TABLE application_awaited ({_UNDER_APPLICATION}, seq INTEGER NOT NULL, last_at REAL NOT NULL,
            count INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (application, seq))""",
        f"""CREATE TABLE application_pairs ({_UNDER_APPLICATION}, seq INTEGER NOT NULL, query_id INTEGER NOT NULL,
            at REAL NOT NULL, record BLOB NOT NULL, PRIMARY KEY (application, seq), UNIQUE (application, query_id))""",
        f"""CREATE TABLE application_counts ({_UNDER_APPLICATION}, name TEXT NOT NULL, value REAL NOT NULL,
            PRIMARY KEY (application, name)) WITHOUT ROWID""",
    ),
)


def refuse_foreign(db: sqlite3.Connection, path: Path) -> None:
    """Raises StoreUnavailable for a database of another program, before anything is written to it."""
    # In this order: a process that sees tables that another one has just created sees their owner too.
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    owner = db.execute("PRAGMA application_id").fetchone()[0]
    if owner != APPLICATION_ID and (owner or tables):
        raise StoreUnavailable(f"{path} is a database of another program: name another file for the store")


def use_wal(db: sqlite3.Connection, patience_s: float) -> None:
    """Switch to write-ahead logging: readers and the writer of several processes don't wait for each other.

    The switch itself needs the file alone and does not honour the busy timeout, so two first opens at once must retry.
    """
    give_up = time.monotonic() + patience_s
    while True:
        try:
            mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
            continue
        if mode != "wal":
            raise StoreUnavailable(
                f"the file system of the store does not support SQLite's write-ahead log (it stays in {mode!r} mode): "
                "put the file on a local disk"
            )
        return


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring the schema to the newest version, in the caller's transaction."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise StoreUnavailable(
            f"{path} was written by a newer Clipper (its schema is {version}, this one knows up to {len(MIGRATIONS)}): "
            "upgrade Clipper, or name another file for the store"
        )
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            db.execute(statement)
    if version < len(MIGRATIONS):
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
