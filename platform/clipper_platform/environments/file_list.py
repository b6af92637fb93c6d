"""What an environment's files were when it was complete, so that a changed one is noticed.

One line for each file: its size, time of change, inode and mode. Not the time of change of the inode (ctime): a file
may be shared with uv's cache by a hard link, and each environment that links it changes that time. Bytecode is left
out, since it is written later, and so is what the platform keeps beside the packages.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["changed_file", "record_files"]

_NAME: Final = ".clip-files"
_BYTECODE: Final = "__pycache__"


def record_files(environment: Path) -> None:
    """Raises OSError."""
    draft = environment / f"{_NAME}.draft"
    draft.write_text("".join(sorted(_lines(environment))), encoding="utf-8", errors="surrogateescape")
    os.replace(draft, environment / _NAME)


def changed_file(environment: Path) -> str | None:
    """A file that was changed, added or removed since; None if there is none, or nothing was recorded."""
    try:
        recorded = (environment / _NAME).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    different = set(recorded.splitlines(keepends=True)) ^ set(_lines(environment))
    return min((line.rstrip("\n").split(" ", 4)[4] for line in different), default=None)


def _lines(environment: Path) -> Iterator[str]:
    top = os.fspath(environment)
    for directory, directories, files in os.walk(top):
        directories[:] = [name for name in directories if name != _BYTECODE]
        for name in files:
            path = os.path.join(directory, name)
            if directory == top and name.startswith("."):
                continue  # the platform's, and uv's lock
            try:
                found = os.lstat(path)
            except FileNotFoundError:
                continue
            facts = f"{found.st_size} {found.st_mtime_ns} {found.st_ino} {found.st_mode:o}"
            yield f"{facts} {os.path.relpath(path, top)!r}\n"
