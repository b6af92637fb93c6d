"""What a caller is told of an exception of user code."""

from __future__ import annotations

import errno
import os

__all__ = ["error_text"]

_HINT = "the files of a version are read-only: write to the directory $TMPDIR, or to a path outside of the platform's"


def error_text(error: BaseException) -> str:
    """Its message; with a hint where it is a refusal to write beside the code."""
    try:
        message = str(error)
        return f"{message} ({_HINT})" if _writes_beside_code(error, message) else message
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return "(its message cannot be shown)"


def _writes_beside_code(error: BaseException, message: str) -> bool:
    if not isinstance(error, OSError):
        return type(error).__name__ == "OperationalError" and "readonly database" in message  # SQLite's
    if error.errno == errno.EROFS:
        return True
    if error.errno not in (errno.EACCES, errno.EPERM) or not isinstance(error.filename, str):
        return False
    # With Landlock, or the permissions of files alone.
    return os.path.realpath(error.filename).startswith(os.getcwd() + os.sep)
