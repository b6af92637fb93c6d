"""Bundles as content-addressed files, and as unpacked trees beside them.

    ROOT/{hex}.tar.gz     an archive; its name is the SHA-256 of its bytes
    ROOT/trees/{hex}/     the same, unpacked for replicas, read-only; beside it {hex}.seal (see `trees`)
    ROOT/damaged/         archives whose bytes no longer have their digest: the newest of each
    ROOT/tmp/             what is being written; emptied at open

Files and trees appear under their names whole, by rename. The directory is the owner's only (mode 0700). One platform
process uses it at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from clipper_platform.clock import Clock, SystemClock
from clipper_platform.errors import InternalError, InvalidSpec, NotFound, PayloadTooLarge, StoreUnavailable
from clipper_platform.store import archive, trees
from clipper_platform.types import BundleDigest

__all__ = ["Artifact", "ArtifactStore"]

T = TypeVar("T")

DIGEST_PATTERN = re.compile(r"sha256:([0-9a-f]{64})\Z")
ARCHIVE_PATTERN = re.compile(r"([0-9a-f]{64})\.tar\.gz\Z")

WRITE_BYTES = (
    1024 * 1024
)  # buffered before a thread is asked to write: a hop costs about 0.1 ms, a megabyte of SHA-256 2
THREADS = 4  # a long unpacking must not hold up the small uploads


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored bundle; `bytes` is the archive's size, `used_at` when it was stored or asked for last (Unix seconds)."""

    digest: BundleDigest
    bytes: int
    used_at: float


class ArtifactStore:
    """The bundles under `root`. Files are read and written in threads of its own.

    Any method may raise InvalidSpec for a digest that is none, and StoreUnavailable if the disk fails or is full.
    """

    def __init__(
        self,
        root: Path,
        max_bundle_bytes: int = 256 * 1024**2,
        max_unpacked_bytes: int = 1024**3,
        max_files: int = 20_000,
        *,
        clock: Clock | None = None,
    ) -> None:
        self.root = root
        self.max_bundle_bytes = max_bundle_bytes
        self._limits = archive.Limits(unpacked_bytes=max_unpacked_bytes, files=max_files)
        self._clock = clock or SystemClock()
        self._trees, self._damaged, self._tmp = root / "trees", root / "damaged", root / "tmp"
        self._executor: ThreadPoolExecutor | None = None
        self._checked: set[str] = set()  # names of trees that were found sealed since the start
        self._unpacking: dict[str, asyncio.Future[Path]] = {}
        self.groups: range | None = None
        """Groups of which each tree gets one, so that only who has its group reads it; None: everybody may."""
        self._deleting = threading.Lock()  # a tree must not appear after its archive was deleted

    async def open(self) -> None:
        """Create the directories and remove the half-written files of a killed process."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="artifacts")
        await self._in_thread(self._prepare)

    async def close(self) -> None:
        """Wait for what is being written. Calls after this raise StoreUnavailable."""
        executor, self._executor = self._executor, None
        if executor is not None:
            await asyncio.to_thread(executor.shutdown)

    def has(self, digest: str) -> bool:
        """Whether the bundle is here. Asking counts as use: `collect` leaves it alone for a while."""
        try:
            os.utime(self._archive(_hex(digest)), (self._clock.time(),) * 2)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unavailable(error) from error
        return True

    async def put(self, digest: str, chunks: AsyncIterator[bytes]) -> Artifact:
        """Store a bundle as it arrives, under the digest it must turn out to have.

        Raises PayloadTooLarge as soon as it is over `max_bundle_bytes`, InvalidSpec for other bytes than the digest's
        or an archive that must not be unpacked. Whatever ends it early, cancellation too, leaves nothing behind.
        """
        name = _hex(digest)
        upload = _Upload(self._tmp / f"put-{uuid.uuid4().hex}", self.max_bundle_bytes)
        try:
            buffered = bytearray()
            async for chunk in chunks:
                upload.admit(len(chunk))
                buffered += chunk
                if len(buffered) >= WRITE_BYTES:
                    await self._in_thread(partial(upload.write, bytes(buffered)))
                    buffered.clear()
            await self._in_thread(lambda: upload.finish(bytes(buffered), name, self._archive(name), self._limits))
        finally:
            await asyncio.shield(self._in_thread(upload.discard))
        return Artifact(BundleDigest(digest), upload.admitted, self._clock.time())

    async def read(self, digest: str) -> bytes:
        """The archive, verified. Raises NotFound; InternalError if its bytes changed on disk: it is then moved to
        `damaged/`, so that the bundle can be uploaded again."""
        name = _hex(digest)
        return await self._in_thread(lambda: self._read(name))

    async def unpack(self, digest: str, *, check: bool = False) -> Path:
        """The directory with the bundle's files. Raises as `read` does.

        It is unpacked the first time, and anew where it is not as it was unpacked: that is looked at once after the
        start, and with `check`. Calls at the same time share the work, which goes on if some of them are cancelled.
        """
        name = _hex(digest)
        tree = self._trees / name
        if check:
            self._checked.discard(name)
        if name in self._checked and tree.is_dir():  # a look at the disk is quicker than a thread's turn
            return tree
        running = self._unpacking.get(name)
        if running is None:
            running = self._unpacking[name] = self._in_thread(lambda: self._unpack(name))
            running.add_done_callback(lambda done: self._unpacked(name, done))
        return await asyncio.shield(running)

    async def list(self) -> Sequence[Artifact]:
        """All bundles, by digest."""
        return await self._in_thread(self._archives)

    async def sizes(self) -> Mapping[BundleDigest, int]:
        """Bytes of each bundle's archive and tree together."""
        return await self._in_thread(self._sizes)

    async def delete(self, digest: str) -> None:
        """Remove the bundle and its tree. Raises NotFound."""
        name = _hex(digest)
        if not await self._in_thread(lambda: self._delete(name)):
            raise _missing(name)

    async def discard(self, digest: str, *, asked_before: float) -> bool:
        """Remove the bundle unless it was stored or asked for after `asked_before` (Unix seconds); whether it was
        removed."""
        name = _hex(digest)
        return await self._in_thread(lambda: self._discard(name, asked_before))

    async def collect(self, keep: Collection[str], *, min_age_s: float = 3600.0) -> Sequence[Artifact]:
        """Remove the bundles that are not in `keep` (digests) and return them.

        One uploaded or asked for within `min_age_s` stays: its deploy may not be recorded yet.
        """
        kept = {_hex(digest) for digest in keep}
        return await self._in_thread(lambda: self._collect(kept, self._clock.time() - min_age_s))

    # In a thread

    def _in_thread(self, work: Callable[[], T]) -> asyncio.Future[T]:
        if self._executor is None:
            raise StoreUnavailable(f"the artifact store at {self.root} is not open")

        def translated() -> T:
            try:
                return work()
            except OSError as error:
                raise self._unavailable(error) from error

        return asyncio.get_running_loop().run_in_executor(self._executor, translated)

    def _unavailable(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(f"the artifact store at {self.root} cannot be used: {error.strerror or error}")

    def _unpacked(self, name: str, done: asyncio.Future[Path]) -> None:
        del self._unpacking[name]
        if not done.cancelled():
            done.exception()  # seen, also where every caller is gone

    def _archive(self, name: str) -> Path:
        return self.root / f"{name}.tar.gz"

    def _prepare(self) -> None:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)
        for directory in (self._trees, self._damaged, self._tmp):
            directory.mkdir(exist_ok=True)
            directory.chmod(0o711 if directory == self._trees else 0o700)
        # Trees are not flushed to disk, which would cost a second per thousand files: a power failure may leave a
        # tree whose name survived and whose files did not. So those of another boot are unpacked anew.
        stamp, boot = self._trees / ".boot", _boot()
        if not boot or not stamp.exists() or stamp.read_text() != boot:
            for tree in self._trees.iterdir():
                trees.unseal(tree)
                if not tree.exists():
                    continue  # a seal that went with its tree
                tree.rename(self._tmp / f"old-{tree.name}-{uuid.uuid4().hex}")
            stamp.write_text(boot)
        for leftover in self._tmp.iterdir():
            _remove(leftover)

    def _read(self, name: str) -> bytes:
        try:
            data = self._archive(name).read_bytes()
        except FileNotFoundError:
            raise _missing(name) from None
        if hashlib.sha256(data).hexdigest() != name:
            raise self._quarantine(name)
        return data

    def _unpack(self, name: str) -> Path:
        tree = self._trees / name
        if trees.is_sealed(tree) and (self.groups is None or tree.stat().st_gid in self.groups):
            self._checked.add(name)
            return tree
        started = self._tmp / f"tree-{uuid.uuid4().hex}"
        try:
            with self._archive(name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != name:
                    raise self._quarantine(name)
                file.seek(0)
                started.mkdir(mode=0o755)
                archive.extract(file, started, self._limits)
            with self._deleting:
                if not self._archive(name).exists():
                    raise _missing(name)
                self._set_aside(tree)
                if self.groups is not None:
                    trees.give_group(started, self._trees, self.groups)
                started.rename(tree)
                trees.seal(tree)
                self._checked.add(name)
        except FileNotFoundError:
            raise _missing(name) from None
        finally:
            _remove(started)
        return tree

    def _set_aside(self, tree: Path) -> bool:
        """Remove it, by rename: half of one must never be seen. Returns whether it was there."""
        aside = self._tmp / f"deleted-{uuid.uuid4().hex}"
        trees.unseal(tree)
        try:
            tree.rename(aside)
        except FileNotFoundError:
            return False
        _remove(aside)
        return True

    def _quarantine(self, name: str) -> InternalError:
        aside = self._damaged / f"{name}.tar.gz"
        os.replace(self._archive(name), aside)
        return InternalError(
            f"the bundle sha256:{name} is damaged: its bytes on disk changed, and it was moved to {aside}; "
            "deploy the project again to upload it",
            digest=f"sha256:{name}",
        )

    def _archives(self) -> Sequence[Artifact]:
        found = []
        for entry in os.scandir(self.root):
            if match := ARCHIVE_PATTERN.match(entry.name):
                try:
                    stat = entry.stat()
                except FileNotFoundError:
                    continue  # deleted meanwhile
                found.append(Artifact(BundleDigest(f"sha256:{match[1]}"), stat.st_size, stat.st_mtime))
        return sorted(found, key=lambda artifact: artifact.digest)

    def _sizes(self) -> Mapping[BundleDigest, int]:
        return {a.digest: a.bytes + _size(self._trees / _hex(a.digest)) for a in self._archives()}

    def _discard(self, name: str, asked_before: float) -> bool:
        try:
            return self._archive(name).stat().st_mtime <= asked_before and self._delete(name)
        except FileNotFoundError:
            return False

    def _delete(self, name: str) -> bool:
        with self._deleting:
            gone = self._set_aside(self._trees / name)  # first: a tree without its archive is no use
            try:
                self._archive(name).unlink()
                gone = True
            except FileNotFoundError:
                pass  # a tree whose archive was quarantined
        return gone

    def _collect(self, keep: Collection[str], before: float) -> Sequence[Artifact]:
        idle = [artifact for artifact in self._archives() if artifact.used_at <= before]
        removed = [a for a in idle if _hex(a.digest) not in keep and self._delete(_hex(a.digest))]
        for tree in self._trees.glob("?" * 64):
            if tree.name not in keep and not self._archive(tree.name).exists():
                self._delete(tree.name)
        return removed


class _Upload:
    """A file that grows as chunks arrive. One thread writes at a time, and none after the end."""

    def __init__(self, path: Path, limit: int) -> None:
        self.admitted = 0
        self._path = path
        self._limit = limit
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None
        self._over = False
        self._lock = threading.Lock()

    def admit(self, count: int) -> None:
        """Count bytes before they are kept. Raises PayloadTooLarge."""
        self.admitted += count
        if self.admitted > self._limit:
            raise PayloadTooLarge(
                f"the bundle is over the {self._limit} bytes that are allowed: leave out what the function does not "
                "need with a .clipignore, or raise the platform's max_bundle_bytes"
            )

    def write(self, data: bytes) -> None:
        with self._lock:
            self._write(data)

    def finish(self, rest: bytes, name: str, target: Path, limits: archive.Limits) -> None:
        """Write the rest, check the whole and give it its name. Raises InvalidSpec."""
        with self._lock:
            file = self._write(rest)
            if self._hash.hexdigest() != name:
                raise InvalidSpec(
                    f"the body's digest is sha256:{self._hash.hexdigest()}, not the sha256:{name} of the address"
                )
            file.seek(0)
            archive.check(file, limits)
            os.fsync(file.fileno())
            file.close()
            os.replace(self._path, target)
            _sync_directory(target.parent)

    def discard(self) -> None:
        """Discard an unfinished upload; later writes are ignored."""
        with self._lock:
            self._over = True
            if self._file is not None:
                self._file.close()
                self._path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> BinaryIO:
        if self._over:
            raise InvalidSpec("the upload ended")
        if self._file is None:
            self._file = open(self._path, "xb+", opener=_private)  # noqa: SIM115 - closed by finish or discard
        self._file.write(data)
        self._hash.update(data)
        return self._file


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _hex(digest: str) -> str:
    match = DIGEST_PATTERN.match(digest)
    if match is None:
        raise InvalidSpec(f'{digest[:100]!r} is no digest of a bundle: it must be "sha256:" and 64 hexadecimal digits')
    return match[1]


def _missing(name: str) -> NotFound:
    return NotFound(f"there is no bundle sha256:{name}: upload it first")


def _boot() -> str:
    """An identifier of the machine's current boot; empty where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _sync_directory(path: Path) -> None:
    """Make a rename in it durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a file or tree if it is there. One that cannot be removed now is removed at the next open."""
    if path.is_dir() and not path.is_symlink():
        trees.unseal(path)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    total = 0
    for directory, _, files in os.walk(path):
        for file in files:
            try:
                total += os.lstat(os.path.join(directory, file)).st_size
            except FileNotFoundError:
                pass  # removed meanwhile
    return total
