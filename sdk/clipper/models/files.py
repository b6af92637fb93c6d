"""Bounded reading of files: a few bytes, a text, an archive's members, and a window on all of a file."""

from __future__ import annotations

import mmap
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from clipper.models.description import ModelError
from clipper.packaging import Limits

__all__ = ["check_size", "mapped", "member", "read_head", "read_text"]

MAX_TEXT_BYTES: Final = 16 * 1024 * 1024
"""Of a text file beside weights: a configuration, a network's description."""


def check_size(path: Path) -> int:
    """The file's size in bytes. Raises ModelError for one that is empty, unreadable or too large for a bundle."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ModelError("is not a file", where=str(path))
        with path.open("rb"):
            pass
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if not size:
        raise ModelError("the file is empty; save the model again", where=str(path))
    limit = Limits().uncompressed_bytes
    if size > limit:
        raise ModelError(
            f"the file has {size / 2**20:,.0f} MiB, and a deploy carries at most {limit / 2**20:,.0f} MiB; put the "
            "model where replicas can read it, and load it in a function's __init__",
            where=str(path),
        )
    return size


def read_head(path: Path, count: int) -> bytes:
    """The first `count` bytes, or fewer. Raises ModelError."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from None


def read_text(path: Path, limit: int = MAX_TEXT_BYTES) -> str:
    """A text file as UTF-8. Raises ModelError for one that is larger than `limit` or is no text."""
    data = read_head(path, limit + 1)
    if len(data) > limit:
        raise ModelError(f"the file is larger than {limit / 2**20:,.0f} MiB", where=str(path))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelError(f"is not UTF-8 text: {error.reason} at byte {error.start}", where=str(path)) from None


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """The file's bytes, which come into memory where they are looked at. The file must not be empty."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as window:
        yield window


def member(archive: zipfile.ZipFile, name: str, limit: int = MAX_TEXT_BYTES) -> bytes:
    """An archive's member. Raises ModelError for one that is damaged, or unpacks to more than `limit` bytes."""
    where = str(archive.filename)
    try:
        with archive.open(name) as file:
            data = file.read(limit + 1)
    except Exception as error:  # noqa: BLE001 - zipfile and zlib raise many types for damaged archives
        raise ModelError(f"the archive is damaged at {name}: {error}; save the model again", where=where) from None
    if len(data) > limit:
        raise ModelError(f"{name} unpacks to more than {limit / 2**20:,.0f} MiB", where=where)
    return data
