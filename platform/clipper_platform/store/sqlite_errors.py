"""Translates errors of the SQLite driver and the file system into the platform's, with what to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from clipper_platform.errors import InternalError, StoreUnavailable

__all__ = ["damaged", "translate"]


def damaged(path: Path, how: object) -> str:
    return (
        f"{path} is damaged or is no SQLite database ({how}): restore it from a backup, or move it away to start empty"
    )


def translate(error: sqlite3.Error | OSError, path: Path) -> StoreUnavailable | InternalError:
    """The platform's error for one of the driver or the file system."""
    if isinstance(error, OSError):
        return StoreUnavailable(f"the store {path} cannot be used: {error.strerror or error}")
    if isinstance(error, (sqlite3.ProgrammingError, sqlite3.IntegrityError, sqlite3.NotSupportedError)):
        return InternalError(f"the store {path} refused a statement of the platform: {error}")
    # Extended codes carry the primary one in their low byte.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    advice = {
        sqlite3.SQLITE_BUSY: "is locked by another process: end that process, or try again when it is done",
        sqlite3.SQLITE_LOCKED: "is locked: try again",
        sqlite3.SQLITE_FULL: "cannot grow, the disk is full: free some space",
        sqlite3.SQLITE_READONLY: "cannot be written: give the platform's user write access to it and its directory",
        sqlite3.SQLITE_PERM: "cannot be accessed: give the platform's user access to the file and its directory",
        sqlite3.SQLITE_CANTOPEN: "cannot be opened: check that its directory exists and can be written",
        sqlite3.SQLITE_IOERR: "cannot be read or written: check the disk and its free space",
    }
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreUnavailable(damaged(path, error))
    return StoreUnavailable(f"the store {path} {advice.get(code, 'failed')} ({error})")
