"""What SQLite's errors mean."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from clipper_platform.errors import InternalError, StoreUnavailable
from clipper_platform.store import sqlite_errors


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (sqlite3.SQLITE_BUSY, "locked by another process"),
        (sqlite3.SQLITE_BUSY | 1 << 8, "locked by another process"),  # an extended code
        (sqlite3.SQLITE_FULL, "disk is full"),
        (sqlite3.SQLITE_READONLY, "write access"),
        (sqlite3.SQLITE_CANTOPEN, "directory exists"),
        (sqlite3.SQLITE_IOERR, "check the disk"),
        (sqlite3.SQLITE_CORRUPT, "restore it from a backup"),
        (sqlite3.SQLITE_NOTADB, "no SQLite database"),
        (sqlite3.SQLITE_ERROR, "failed"),
    ],
)
def test_errors_of_sqlite_name_the_file_and_say_what_to_do(code: int, words: str) -> None:
    error = sqlite3.OperationalError("sqlite's words")
    error.sqlite_errorcode = code
    with pytest.raises(StoreUnavailable, match=f"/x/clipper.db.*{words}"):
        raise sqlite_errors.translate(error, Path("/x/clipper.db"))


def test_a_wrong_statement_is_a_defect_of_the_platform_not_an_outage() -> None:
    assert isinstance(sqlite_errors.translate(sqlite3.ProgrammingError("x"), Path("/x")), InternalError)
    assert isinstance(sqlite_errors.translate(sqlite3.IntegrityError("x"), Path("/x")), InternalError)
