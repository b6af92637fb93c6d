"""One SQLite file, used from one dedicated thread.

The synchronous driver runs in that thread, so the event loop never waits for the disk and statements of this process
never meet. Each job is one transaction, begun and ended inside the thread: a cancelled caller leaves a job that runs to
its end or never starts, not an open transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from clipper_platform.errors import StoreUnavailable
from clipper_platform.store import records
from clipper_platform.store.sqlite_errors import damaged, translate
from clipper_platform.store.sqlite_schema import migrate, refuse_foreign, use_wal

__all__ = ["Job", "SqliteDatabase"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]

OP_TIMEOUT_S = 10.0  # a disk that takes longer hangs; above the busy timeout, below any client's patience
PING_TIMEOUT_S = 1.0


class SqliteDatabase:
    """The file at `path`, created with mode 0600.

    `busy_timeout_s` is how long a write waits for another process's write. Durability: `synchronous=FULL`, one fsync
    per write. With WAL the cheaper NORMAL could lose the last commits in a power failure, and so give a version number
    out twice; writes are deploys and events, a few per second at most, so the milliseconds don't matter.
    """

    def __init__(self, path: Path, *, busy_timeout_s: float) -> None:
        self.path = Path(os.path.abspath(path))
        self._busy_timeout_s = busy_timeout_s
        self._executor: ThreadPoolExecutor | None = None
        # Touched by the dedicated thread only.
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None

    @property
    def url(self) -> str:
        return f"sqlite://{quote(str(self.path))}"

    async def open(self) -> None:
        """Create or migrate the file. Raises StoreUnavailable if it is damaged, or not this Clipper's to use."""
        if self._executor is not None:
            return
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        try:
            await self._submit(self._connect, OP_TIMEOUT_S)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        executor, self._executor = self._executor, None
        if executor is None:
            return
        closing = asyncio.get_running_loop().run_in_executor(executor, self._disconnect)
        try:
            # After the jobs that still run. A hung disk must not hang the shutdown; SQLite recovers at the next open.
            await asyncio.wait({closing}, timeout=OP_TIMEOUT_S)
        finally:
            executor.shutdown(wait=False)

    async def ping(self) -> None:
        """Read one page, within about a second."""
        await self._submit(lambda: self._transaction("BEGIN", _read_one_page), PING_TIMEOUT_S)

    async def read(self, job: Job[T]) -> T:
        """Run the job on one consistent snapshot."""
        return await self._submit(lambda: self._transaction("BEGIN", job), OP_TIMEOUT_S)

    async def write(self, job: Job[T]) -> T:
        """Run the job alone: the write lock is taken first, so what the job read still holds when it writes."""
        return await self._submit(lambda: self._transaction("BEGIN IMMEDIATE", job), OP_TIMEOUT_S)

    async def _submit(self, work: Callable[[], T], timeout_s: float) -> T:
        if self._executor is None:
            raise StoreUnavailable(f"the store at {self.url} is not open")
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._executor, self._translated, work)
        except TimeoutError:
            raise StoreUnavailable(f"the store at {self.url} did not answer within {timeout_s:g} s") from None

    def _translated(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except UnicodeEncodeError as error:
            raise records.not_unicode(error) from error
        except (sqlite3.Error, OSError) as error:
            raise translate(error, self.path) from error

    def _transaction(self, begin: str, job: Job[T]) -> T:
        connection = self._connection
        if connection is None:
            raise StoreUnavailable(f"the store at {self.url} is not open")
        if _inode(self.path) is None and self.path.parent.is_dir():
            connection = self._bring_back(connection)
        if _inode(self.path) != self._inode:
            # Writes would go to a file that no longer has a name, and be lost silently.
            raise StoreUnavailable(
                f"{self.path} was replaced or removed while the platform had it open: restart the platform"
            )
        connection.execute(begin)
        try:
            result = job(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # a full disk may have rolled it back already
                connection.execute("ROLLBACK")
            raise
        return result

    def _bring_back(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """Write the file again, whose name was removed: all that it held is still there through the connection."""
        copy = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        copy.unlink(missing_ok=True)
        _create(copy)
        try:
            with contextlib.closing(sqlite3.connect(copy)) as target:
                connection.backup(target)
            with contextlib.suppress(FileExistsError):  # another one was put there meanwhile
                os.link(copy, self.path)
                logger.error("%s was removed while the platform had it open: it was written again", self.path)
        finally:
            copy.unlink()
        connection.close()
        return self._use()

    def _connect(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create(self.path)
        self._use()

    def _use(self) -> sqlite3.Connection:
        """Open the file, check and migrate it."""
        connection = sqlite3.connect(self.path, timeout=self._busy_timeout_s, isolation_level=None)
        self._connection = connection
        self._inode = _inode(self.path)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")  # a deleted secret leaves no bytes in the file
        connection.execute("PRAGMA trusted_schema = OFF")
        refuse_foreign(connection, self.path)
        use_wal(connection, self._busy_timeout_s)
        self._transaction("BEGIN IMMEDIATE", lambda db: migrate(db, self.path))
        damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise StoreUnavailable(damaged(self.path, damage))
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _create(path: Path) -> None:
    """Create the file with mode 0600, which the -wal and -shm files beside it inherit; an older one gets the mode.

    An existing file must not be opened here: closing it would drop the locks that SQLite holds on it in this process
    (POSIX locks belong to the process, not to the descriptor).
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        os.chmod(path, 0o600)


def _read_one_page(db: sqlite3.Connection) -> None:
    db.execute("SELECT 1 FROM projects LIMIT 1").fetchone()


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
