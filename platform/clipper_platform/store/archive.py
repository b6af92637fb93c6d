"""Reads bundles from untrusted clients: gzip-compressed tar archives, read strictly.

Python's `tarfile` parses the header blocks; the walk over them is ours, because tarfile's is lenient where a server
must not be: it takes a damaged header for the end of the archive, reads an extended header of any size into memory,
follows sparse maps, and lets a later member replace an earlier one. Here whatever is not a regular file or directory
with a plain relative path is refused by name, and nothing is inflated beyond the limits.
"""

from __future__ import annotations

import os
import tarfile
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from clipper_platform.errors import InvalidSpec

__all__ = ["Limits", "Member", "check", "extract", "members"]

CHUNK_BYTES = 256 * 1024
MAX_EXTENSION_BYTES = 64 * 1024  # of a pax or long-name header: sixteen of the longest paths that Linux takes
MAX_PATH_BYTES = 1024  # leaves room for the tree's own path within Linux' 4096
MAX_PART_BYTES = 255  # what Linux' file systems take as one name
MAX_DEPTH = 64  # directories; a real project has fewer than ten

_REFUSED_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`unpacked_bytes`: of the inflated archive, its headers included. `files`: files and directories together."""

    unpacked_bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class Member:
    """One file or directory. `chunks` are the file's bytes, to be taken before the next member."""

    path: tuple[str, ...]
    is_directory: bool
    executable: bool
    size: int
    chunks: Iterator[bytes]

    @property
    def name(self) -> str:
        return "/".join(self.path)


def check(file: BinaryIO, limits: Limits) -> None:
    """Read the archive to its end. Raises InvalidSpec naming the member that makes it unacceptable."""
    for member in members(file, limits):
        for _ in member.chunks:
            pass


def extract(file: BinaryIO, to: Path, limits: Limits) -> None:
    """Write the archive's files under `to`, an empty directory. Raises InvalidSpec as `check` does, and OSError.

    Of a mode only the owner's x bit is kept; owners and times are not.
    """
    for member in members(file, limits):
        target = to.joinpath(*member.path)
        if member.is_directory:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        # O_EXCL: on a file system that folds case, two members may still meet in one file.
        descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb", buffering=0) as out:
            os.fchmod(descriptor, 0o755 if member.executable else 0o644)
            for chunk in member.chunks:
                _write_all(out.fileno(), chunk)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def members(file: BinaryIO, limits: Limits) -> Iterator[Member]:
    """The archive's members in order. Raises InvalidSpec for anything but plain files and directories."""
    inflated = _Inflated(file, limits.unpacked_bytes)
    known: dict[tuple[str, ...], bool | None] = {}  # path → is it a directory; None: only implied by a path below it
    name: str | None = None  # from an extension, for the member after it
    while (header := _header(inflated)) is not None:
        if header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
            name = _extension(header, _small(inflated, header), name)
            continue
        path = _path(header.name if name is None else name)
        name = None
        is_directory = _is_directory(header, path)
        if not path and is_directory:
            continue  # ".", the directory that was packed
        _place(path, is_directory, known, limits)
        size = 0 if is_directory else header.size
        if size > inflated.left:
            raise _over(limits.unpacked_bytes, "/".join(path))
        chunks = inflated.take(size, "/".join(path))
        yield Member(path, is_directory, bool(header.mode & 0o100), size, chunks)
        for _ in chunks:
            pass
        inflated.exactly(-size % tarfile.BLOCKSIZE, "/".join(path))
    if name is not None:
        raise InvalidSpec("the archive ends after a header that announces a file")


class _Inflated:
    """The bytes of a gzip file of one member, inflated in pieces and no further than `limit` bytes."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file = file
        self._zlib = zlib.decompressobj(wbits=31)  # 31: a gzip header and trailer, whose checksum zlib verifies
        self._limit = limit
        self._inflated = 0
        self._buffer = b""
        self._at = 0

    @property
    def left(self) -> int:
        """How many more bytes may be read."""
        return self._limit - self._inflated + len(self._buffer) - self._at

    def some(self, most: int) -> bytes:
        """1 to `most` bytes, or none at the end."""
        if self._at == len(self._buffer):
            self._buffer, self._at = self._inflate(), 0
        piece = self._buffer[self._at : self._at + most]
        self._at += len(piece)
        return piece

    def exactly(self, count: int, what: str) -> bytes:
        """Only for small counts. Raises InvalidSpec if the archive ends before."""
        return b"".join(self.take(count, what))

    def take(self, count: int, what: str) -> Iterator[bytes]:
        """The next `count` bytes in pieces. Raises InvalidSpec if the archive ends before."""
        while count:
            piece = self.some(min(count, CHUNK_BYTES))
            if not piece:
                raise InvalidSpec(f"the archive is cut off within {what!r}")
            count -= len(piece)
            yield piece

    def _inflate(self) -> bytes:
        piece = b""
        most = min(CHUNK_BYTES, max(self._limit - self._inflated, 1))  # up to the limit, then one byte to see it passed
        try:
            while not piece and not self._zlib.eof:
                packed = self._zlib.unconsumed_tail or self._file.read(CHUNK_BYTES)
                piece = self._zlib.decompress(packed, most)
                if not packed and not piece and not self._zlib.eof:
                    raise InvalidSpec("the archive is cut off: its gzip stream has no end")
        except zlib.error as error:
            raise InvalidSpec(f"the archive is not gzip, or is damaged ({error})") from error
        if self._zlib.eof and (self._zlib.unused_data or self._file.read(1)):
            raise InvalidSpec("the archive goes on after the end of its gzip stream")
        self._inflated += len(piece)
        if self._inflated > self._limit:
            raise _over(self._limit, "")
        return piece


def _over(limit: int, name: str) -> InvalidSpec:
    where = f", at {name!r}" if name else ""
    return InvalidSpec(f"the archive unpacks to more than the {limit} bytes that are allowed{where}")


def _header(inflated: _Inflated) -> tarfile.TarInfo | None:
    """The next header, or None at the archive's end, after which only zeros may follow."""
    block = inflated.exactly(tarfile.BLOCKSIZE, "a header")
    if not any(block):
        while rest := inflated.some(CHUNK_BYTES):
            if any(rest):
                raise InvalidSpec("the archive goes on after its end marker")
        return None
    try:
        # Not strict: a long name, given in full by an extension, stands here cut off within a character.
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise InvalidSpec(f"the archive is not a tar, or is damaged ({error})") from error
    if header.size < 0:
        raise InvalidSpec(f"{header.name!r} has the size {header.size}")
    return header


def _small(inflated: _Inflated, header: tarfile.TarInfo) -> bytes:
    """The content of an extension header."""
    if header.size > MAX_EXTENSION_BYTES:
        raise InvalidSpec(f"the archive holds an extended header of {header.size} bytes")
    data = inflated.exactly(header.size, "an extended header")
    inflated.exactly(-header.size % tarfile.BLOCKSIZE, "an extended header")
    return data


def _extension(header: tarfile.TarInfo, data: bytes, name: str | None) -> str | None:
    """The name that an extension gives to the next member, else the one known so far."""
    try:
        if header.type == tarfile.GNUTYPE_LONGNAME:
            return data.partition(b"\0")[0].decode()
        records = _pax_records(data)
        refused = [key for key in records if key == "size" or key.startswith("GNU.sparse.")]
        if header.type == tarfile.XGLTYPE and "path" in records:
            refused.append("path")
        if refused:
            raise InvalidSpec(f"an extended header sets {refused[0]!r}, which a bundle may not")
        return records["path"].decode() if "path" in records else name
    except UnicodeDecodeError as error:
        raise InvalidSpec("the archive names a file in another encoding than UTF-8") from error


def _pax_records(data: bytes) -> dict[str, bytes]:
    """POSIX.1-2001: records of `LENGTH KEY=VALUE\\n`, LENGTH being that of the whole record in decimal."""
    records: dict[str, bytes] = {}
    while data:
        digits, _, _ = data[:8].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record, data = data[:length], data[length:]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not record or len(record) != length or not record.endswith(b"\n") or not equals:
            raise InvalidSpec("the archive holds an extended header that is damaged")
        records[key.decode()] = value
    return records


def _path(name: str) -> tuple[str, ...]:
    """The parts of a member's path. Raises InvalidSpec for one that must not be written."""
    why = None
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    kinds = {unicodedata.category(character) for character in name}
    if "Cs" in kinds:
        why = "has a name in another encoding than UTF-8"
    elif "Cc" in kinds:
        why = "holds a control character"
    elif "\\" in name:
        why = "holds a backslash"
    elif name.startswith("/"):
        why = "is an absolute path"
    elif ".." in parts:
        why = "leads out of the bundle with '..'"
    elif len(name.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        why = f"is too long: {MAX_PATH_BYTES} bytes are allowed, {MAX_PART_BYTES} for each part"
    elif len(parts) > MAX_DEPTH:
        why = f"is too deep: {MAX_DEPTH} levels are allowed"
    if why:
        raise InvalidSpec(f"the archive's member {name[:200]!r} {why}")
    return parts


def _is_directory(header: tarfile.TarInfo, path: tuple[str, ...]) -> bool:
    """Raises InvalidSpec for what is neither a directory nor a regular file with a name."""
    if header.type == tarfile.DIRTYPE:
        return True
    if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        kind = _REFUSED_KINDS.get(header.type, f"of the unknown type {header.type!r}")
        raise InvalidSpec(f"the archive's member {'/'.join(path)!r} is {kind}: only files and directories are allowed")
    if not path:
        raise InvalidSpec("the archive holds a file without a name")
    return False


def _place(
    path: tuple[str, ...], is_directory: bool, known: dict[tuple[str, ...], bool | None], limits: Limits
) -> None:
    """Note the member among those known. Raises InvalidSpec for one that is there already, or is one too many."""
    if path in known and (known[path] is not None or not is_directory):
        raise InvalidSpec(f"the archive holds {'/'.join(path)!r} twice")
    known[path] = is_directory
    for depth in range(1, len(path)):
        if known.setdefault(path[:depth], None) is False:
            raise InvalidSpec(f"the archive holds {'/'.join(path[:depth])!r} as a file and as a directory")
    if len(known) > limits.files:
        raise InvalidSpec(
            f"the archive holds more than the {limits.files} files and directories that are allowed, "
            f"at {'/'.join(path)!r}"
        )
