"""A project's files as one deterministic archive: the bundle.

The same files give the same bytes, whatever their order on disk, their times and their owner: paths are sorted,
metadata is reduced to the executable bit, the gzip header is constant. The digest is that of the compressed bytes, so
it is equal across processes and machines that compress with the same zlib. Another zlib may compress differently: the
same tree deployed from there is uploaded again and becomes a version of its own.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from clipper.contract.spec import SpecError
from clipper.ignoring import Ignores

__all__ = ["Bundle", "Limits", "bundle_directory", "bundle_files", "file_stamps"]

# zlib's default: higher levels save about 1% on source and nothing on weights, and take twice the time.
COMPRESSION_LEVEL: Final = 6

# How often a tree is read again that changes while it is read.
MAX_TRIES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How large a bundle may be, in bytes."""

    uncompressed_bytes: int = 512 * 1024 * 1024
    compressed_bytes: int = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A gzip-compressed tar. `digest` is "sha256:" and the SHA-256 of `data`; `files` are (path, bytes), sorted."""

    digest: str
    data: bytes = field(repr=False)
    files: tuple[tuple[str, int], ...]
    uncompressed_bytes: int


@dataclass(frozen=True, slots=True, order=True)
class _Member:
    path: str  # relative, with "/" between parts
    source: Path | bytes = field(compare=False)
    size: int = field(compare=False)
    executable: bool = field(compare=False, default=False)


class _Changed(Exception):
    """A file changed while it was read."""


def bundle_directory(directory: str | Path, *, limits: Limits | None = None) -> Bundle:
    """The files of a project, without those that `clipper.ignoring` leaves out.

    Raises SpecError for a bundle over the limits, a file that cannot be packed, and a tree that keeps changing.
    """
    root = Path(directory).resolve()
    changed = ""
    for _ in range(MAX_TRIES):
        try:
            return _pack(sorted(_members(root, Ignores.of_project(root))), limits or Limits())
        except _Changed as error:
            changed = str(error)
    raise SpecError(
        f"{changed} changed while the bundle was made; stop what writes it, or name it in .clipignore", where="bundle"
    )


def bundle_files(files: Mapping[str, bytes], *, limits: Limits | None = None) -> Bundle:
    """A bundle of contents in memory, by path."""
    return _pack(sorted(_Member(path, data, len(data)) for path, data in files.items()), limits or Limits())


def file_stamps(directory: str | Path) -> dict[str, tuple[int, int]] | None:
    """Path → (size in bytes, time of the last change in ns) of the files that a bundle of `directory` would hold.

    None while files appear and disappear. Raises SpecError as `bundle_directory` does. The ignore files are in no
    bundle, but here, since they decide what is in it.
    """
    root = Path(directory).resolve()
    stamps: dict[str, tuple[int, int]] = {}
    try:
        ignores = Ignores.of_project(root)
        for member in _members(root, ignores):
            if isinstance(member.source, Path):
                found = member.source.stat()
                stamps[member.path] = (found.st_size, found.st_mtime_ns)
        for path in ignores.files:
            found = path.stat()
            stamps[os.path.relpath(path, root)] = (found.st_size, found.st_mtime_ns)
    except (_Changed, OSError):
        return None
    return stamps


# Which files


def _members(root: Path, above: Ignores) -> Iterator[_Member]:
    yield from _walk(root, root, "", above, (root,))


def _walk(root: Path, directory: Path, prefix: str, above: Ignores, chain: tuple[Path, ...]) -> Iterator[_Member]:
    """Files of one directory and those below. `chain` are the real directories on the way, to notice a loop."""
    ignores = above.below(directory, prefix)
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except FileNotFoundError:
        raise _Changed(prefix) from None
    except OSError as error:
        if above.inside_ignored:
            return
        raise SpecError(f"the directory {prefix or '.'} cannot be read: {error.strerror}", where="bundle") from None
    for entry in entries:
        path = prefix + entry.name
        is_directory = _is_directory(entry)
        name = path + "/" if is_directory else path
        if ignores.ignored(name):
            if is_directory and ignores.may_include_below(name) and not entry.is_symlink():
                yield from _walk(root, Path(entry.path), name, ignores.entered(name), (*chain, Path(entry.path)))
            continue
        _check_path(path)
        target = _target(root, entry, path)
        if not is_directory:
            yield _file(target, path)
        elif not (target / "pyvenv.cfg").exists():  # a virtual environment, whatever its name
            if target in chain:
                raise SpecError(f"{path} is a link to a directory that holds it", where="bundle")
            yield from _walk(root, target, name, ignores.entered(name), (*chain, target))


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _check_path(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise SpecError(f"the file name {os.fsencode(path)!r} is not UTF-8; rename it", where="bundle") from None
    if any(ord(c) < 32 or ord(c) == 127 for c in path):
        raise SpecError(f"the file name {path!r} holds a control character; rename it", where="bundle")


def _target(root: Path, entry: os.DirEntry[str], path: str) -> Path:
    """The path to read for an entry: its own, or the target of a link inside the project."""
    if not entry.is_symlink():
        return Path(entry.path)
    try:
        target = Path(entry.path).resolve(strict=True)
    except (OSError, RuntimeError):
        raise SpecError(f"{path} is a link to nothing; remove it, or name it in .clipignore", where="bundle") from None
    if not target.is_relative_to(root):
        raise SpecError(
            f"{path} is a link to a place outside the project; copy it in, or name it in .clipignore", where="bundle"
        )
    return target


def _file(target: Path, path: str) -> _Member:
    try:
        found = target.stat()
    except OSError:
        raise _Changed(path) from None
    if not stat.S_ISREG(found.st_mode):
        raise SpecError(
            f"{path} is neither a file nor a directory; remove it, or name it in .clipignore", where="bundle"
        )
    return _Member(path, target, found.st_size, bool(found.st_mode & stat.S_IXUSR))


# The archive


def _pack(members: list[_Member], limits: Limits) -> Bundle:
    total = sum(member.size for member in members)
    if total > limits.uncompressed_bytes:
        raise _too_large(members, f"{_mib(total)} of files", limits.uncompressed_bytes)
    out = io.BytesIO()
    # The header holds no name and no time, and Python writes "unknown" for the operating system.
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=COMPRESSION_LEVEL, fileobj=out, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive,
    ):
        for member in members:
            _add(archive, member)
            if out.tell() > limits.compressed_bytes:
                raise _too_large(members, "the bundle", limits.compressed_bytes)
    data = out.getvalue()
    if len(data) > limits.compressed_bytes:
        raise _too_large(members, "the bundle", limits.compressed_bytes)
    return Bundle(
        digest="sha256:" + hashlib.sha256(data).hexdigest(),
        data=data,
        files=tuple((member.path, member.size) for member in members),
        uncompressed_bytes=total,
    )


def _add(archive: tarfile.TarFile, member: _Member) -> None:
    info = tarfile.TarInfo(member.path)
    info.size = member.size
    info.mode = 0o755 if member.executable else 0o644
    if isinstance(member.source, bytes):
        archive.addfile(info, io.BytesIO(member.source))
        return
    try:
        with open(member.source, "rb") as file:
            before = os.fstat(file.fileno())
            # A file that shrank ends early, which tarfile reports; one that grew or was rewritten shows in its times.
            archive.addfile(info, file)
            after = os.fstat(file.fileno())
    except PermissionError:
        raise SpecError(f"{member.path} may not be read by this user", where="bundle") from None
    except OSError:
        raise _Changed(member.path) from None
    if after.st_size != member.size or (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
        raise _Changed(member.path)


def _mib(count: int) -> str:
    return f"{count / (1024 * 1024):.1f} MiB"


def _too_large(members: Iterable[_Member], what: str, limit: int) -> SpecError:
    largest = sorted(members, key=lambda member: -member.size)[:5]
    listed = ", ".join(f"{member.path} ({_mib(member.size)})" for member in largest)
    return SpecError(
        f"{what} over the limit of {_mib(limit)}; the largest files are {listed}; name in .clipignore what the "
        "functions do not need",
        where="bundle",
    )
