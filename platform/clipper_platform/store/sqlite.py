"""Metadata in one SQLite file: the default store, for one machine.

The synchronous driver runs in one dedicated thread, so the event loop never waits for the disk and statements of this
process never meet. Each method is one job of that thread and one transaction, begun and ended inside the job: a
cancelled caller leaves a job that runs to its end or never starts, not an open transaction.
"""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote, unquote, urlsplit

import msgspec

from clipper_platform.errors import InvalidRequest, NotFound, StoreUnavailable
from clipper_platform.store import records
from clipper_platform.store.base import EVENTS_KEPT, Event, Key, Policy, Project, Route, Version
from clipper_platform.store.sqlite_errors import damaged, translate
from clipper_platform.store.sqlite_schema import migrate, refuse_foreign, use_wal

__all__ = ["SqliteStore"]

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]

OP_TIMEOUT_S = 10.0  # a disk that takes longer hangs; above the busy timeout, below any client's patience
PING_TIMEOUT_S = 1.0


class SqliteStore:
    """The metadata at `path`, created with mode 0600. Secrets are in it in clear.

    `busy_timeout_s` is how long a write waits for another process's write. Durability: `synchronous=FULL`, one fsync
    per write. With WAL the cheaper NORMAL could lose the last commits in a power failure, and so give a version number
    out twice; writes are deploys and events, a few per second at most, so the milliseconds don't matter.
    """

    def __init__(self, path: Path, *, busy_timeout_s: float = 2.0) -> None:
        self.path = Path(os.path.abspath(path))
        self._busy_timeout_s = busy_timeout_s
        self._executor: ThreadPoolExecutor | None = None
        # Touched by the dedicated thread only.
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        """`sqlite:///absolute/path`, `sqlite:///./relative` or `sqlite:///~/in/home`. Raises InvalidRequest."""
        try:
            parts = urlsplit(url)
        except ValueError:
            raise InvalidRequest(f"{url!r} is not a store: write sqlite:///path/to/clipper.db") from None
        path = re.sub("^/+", "/", unquote(parts.path))
        if parts.scheme != "sqlite" or parts.netloc or parts.query or parts.fragment or "\0" in path:
            raise InvalidRequest(f"{url!r} is not a store: write sqlite:///path/to/clipper.db")
        if path.endswith("/") or not path or path == "/:memory:":
            raise InvalidRequest(f"{url!r} names no file: write sqlite:///path/to/clipper.db")
        if path.startswith(("/./", "/../", "/~/")):
            return cls(Path(path[1:]).expanduser())
        return cls(Path(path))

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
            # Behind whatever still runs. A hung disk must not hang the shutdown; SQLite recovers at the next open.
            await asyncio.wait({closing}, timeout=OP_TIMEOUT_S)
        finally:
            executor.shutdown(wait=False)

    async def ping(self) -> None:
        await self._submit(lambda: self._transaction("BEGIN", _read_one_page), PING_TIMEOUT_S)

    # The dedicated thread

    async def _read(self, job: Job[T]) -> T:
        """Run the job on one consistent snapshot."""
        return await self._submit(lambda: self._transaction("BEGIN", job), OP_TIMEOUT_S)

    async def _write(self, job: Job[T]) -> T:
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
        if _inode(self.path) != self._inode:
            # Writes would go to a file that no longer has a name, and be lost without a word.
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

    def _connect(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create(self.path)
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

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # Projects

    async def put_project(self, project: Project) -> Project:
        def job(db: sqlite3.Connection) -> Project:
            db.execute("INSERT OR IGNORE INTO projects VALUES (?, ?)", (project.name, records.encode(project)))
            return self._project(db, project.name)

        return await self._write(job)

    async def get_project(self, name: str) -> Project:
        return await self._read(lambda db: self._project(db, name))

    async def list_projects(self) -> list[Project]:
        return await self._read(lambda db: self._all(Project, db, "SELECT record FROM projects ORDER BY name"))

    async def delete_project(self, name: str) -> None:
        def job(db: sqlite3.Connection) -> None:
            self._project(db, name)
            db.execute("DELETE FROM projects WHERE name = ?", (name,))  # what is under it goes by foreign key

        await self._write(job)

    # Versions

    async def add_version(self, version: Version) -> Version:
        def job(db: sqlite3.Connection) -> Version:
            self._project(db, version.project)
            number = _next(db, version.project, "version")
            stored = records.storable(records.numbered(version, number))
            db.execute("INSERT INTO versions VALUES (?, ?, ?)", (stored.project, number, records.encode(stored)))
            return stored

        return await self._write(job)

    async def get_version(self, project: str, number: int) -> Version:
        return await self._read(lambda db: self._version(db, project, number))

    async def list_versions(self, project: str) -> list[Version]:
        def job(db: sqlite3.Connection) -> list[Version]:
            self._project(db, project)
            sql = "SELECT record FROM versions WHERE project = ? ORDER BY number DESC"
            return self._all(Version, db, sql, (project,))

        return await self._read(job)

    async def update_version(
        self, project: str, number: int, *, state: str, detail: str = "", schemas: dict[str, Any] | None = None
    ) -> Version:
        def job(db: sqlite3.Connection) -> Version:
            old = self._version(db, project, number)
            new = records.revised(old, state=state, detail=detail, schemas=schemas)
            row = (records.encode(new), project, number)
            db.execute("UPDATE versions SET record = ? WHERE project = ? AND number = ?", row)
            return new

        return await self._write(job)

    # Routes

    async def get_route(self, project: str) -> Route | None:
        return await self._read(lambda db: self._route(db, project))

    async def list_routes(self) -> list[Route]:
        return await self._read(lambda db: self._all(Route, db, "SELECT record FROM routes ORDER BY project"))

    async def set_route(self, route: Route, *, expected_revision: int) -> Route:
        def job(db: sqlite3.Connection) -> Route:
            self._version(db, route.project, route.version)
            old = self._route(db, route.project)
            if (old.revision if old else 0) != expected_revision:
                raise records.lost_race(route.project)
            new = records.routed(route, expected_revision)
            db.execute("INSERT OR REPLACE INTO routes VALUES (?, ?)", (new.project, records.encode(new)))
            return new

        return await self._write(job)

    # Keys

    async def put_key(self, key: Key) -> None:
        def job(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR IGNORE INTO keys VALUES (?, ?)", (key.id, records.encode(key)))
            if self._key(db, key.id) != key:
                raise records.key_taken(key.id)

        await self._write(job)

    async def list_keys(self) -> list[Key]:
        keys = await self._read(lambda db: self._all(Key, db, "SELECT record FROM keys"))
        return sorted(keys, key=lambda key: (key.created_at, key.id))

    async def revoke_key(self, key_id: str, at: float) -> Key:
        def job(db: sqlite3.Connection) -> Key:
            key = records.revoked(self._key(db, key_id), at)
            db.execute("UPDATE keys SET record = ? WHERE id = ?", (records.encode(key), key_id))
            return key

        return await self._write(job)

    # Secrets

    async def put_secret(self, project: str, name: str, value: str) -> None:
        def job(db: sqlite3.Connection) -> None:
            self._project(db, project)
            db.execute("INSERT OR REPLACE INTO secrets VALUES (?, ?, ?)", (project, name, value))

        await self._write(job)

    async def list_secrets(self, project: str) -> list[str]:
        return list(await self.get_secrets(project))

    async def get_secrets(self, project: str) -> dict[str, str]:
        def job(db: sqlite3.Connection) -> dict[str, str]:
            self._project(db, project)
            sql = "SELECT name, value FROM secrets WHERE project = ? ORDER BY name"
            return dict(db.execute(sql, (project,)).fetchall())

        return await self._read(job)

    async def delete_secret(self, project: str, name: str) -> None:
        def job(db: sqlite3.Connection) -> None:
            self._project(db, project)
            gone = db.execute("DELETE FROM secrets WHERE project = ? AND name = ?", (project, name))
            if not gone.rowcount:
                raise records.no_secret(project, name)

        await self._write(job)

    # Policies

    async def put_policy(self, policy: Policy) -> None:
        def job(db: sqlite3.Connection) -> None:
            self._project(db, policy.project)
            row = (policy.project, policy.function, records.encode(policy))
            db.execute("INSERT OR REPLACE INTO policies VALUES (?, ?, ?)", row)

        await self._write(job)

    async def list_policies(self) -> list[Policy]:
        sql = "SELECT record FROM policies ORDER BY project, function"
        return await self._read(lambda db: self._all(Policy, db, sql))

    async def delete_policy(self, project: str, function: str) -> None:
        def job(db: sqlite3.Connection) -> None:
            self._project(db, project)
            gone = db.execute("DELETE FROM policies WHERE project = ? AND function = ?", (project, function))
            if not gone.rowcount:
                raise records.no_policy(project, function)

        await self._write(job)

    # Events

    async def add_event(self, event: Event) -> Event:
        def job(db: sqlite3.Connection) -> Event:
            self._project(db, event.project)
            seq = _next(db, event.project, "event")
            stored = records.storable(msgspec.structs.replace(event, seq=seq))
            db.execute("INSERT INTO events VALUES (?, ?, ?)", (stored.project, seq, records.encode(stored)))
            db.execute("DELETE FROM events WHERE project = ? AND seq <= ?", (stored.project, seq - EVENTS_KEPT))
            return stored

        return await self._write(job)

    async def list_events(self, project: str, *, after: int = 0, limit: int = 100) -> Sequence[Event]:
        after, limit = records.event_window(after, limit)
        order = "ASC" if after else "DESC"

        def job(db: sqlite3.Connection) -> list[Event]:
            self._project(db, project)
            sql = f"SELECT record FROM events WHERE project = ? AND seq > ? ORDER BY seq {order} LIMIT ?"
            return self._all(Event, db, sql, (project, after, limit))

        events = await self._read(job)
        return events if after else events[::-1]

    # One record, or NotFound

    def _one(self, kind: type[records.R], db: sqlite3.Connection, sql: str, row: Sequence[Any]) -> records.R | None:
        found = db.execute(sql, row).fetchone()
        return None if found is None else records.decode(kind, found[0], self.url)

    def _all(self, kind: type[records.R], db: sqlite3.Connection, sql: str, row: Sequence[Any] = ()) -> list[records.R]:
        return [records.decode(kind, found, self.url) for (found,) in db.execute(sql, row)]

    def _project(self, db: sqlite3.Connection, name: str) -> Project:
        return _found(
            self._one(Project, db, "SELECT record FROM projects WHERE name = ?", (name,)), records.no_project(name)
        )

    def _version(self, db: sqlite3.Connection, project: str, number: int) -> Version:
        self._project(db, project)
        missing = records.no_version(project, number)
        if not 0 < number <= records.MAX_NUMBER:
            raise missing
        sql = "SELECT record FROM versions WHERE project = ? AND number = ?"
        return _found(self._one(Version, db, sql, (project, number)), missing)

    def _route(self, db: sqlite3.Connection, project: str) -> Route | None:
        return self._one(Route, db, "SELECT record FROM routes WHERE project = ?", (project,))

    def _key(self, db: sqlite3.Connection, key_id: str) -> Key:
        return _found(self._one(Key, db, "SELECT record FROM keys WHERE id = ?", (key_id,)), records.no_key(key_id))


def _create(path: Path) -> None:
    """Make the file with mode 0600, which the -wal and -shm files beside it inherit; an older one gets the mode.

    An existing file must not be opened here: closing it would drop the locks that SQLite holds on it in this process
    (POSIX locks belong to the process, not to the descriptor).
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        os.chmod(path, 0o600)


def _found(record: T | None, missing: NotFound) -> T:
    if record is None:
        raise missing
    return record


def _next(db: sqlite3.Connection, project: str, kind: str) -> int:
    """The next number of a kind ("version" or "event") for a project, from 1 on, whether or not it existed before."""
    row = (project, kind)
    db.execute("INSERT INTO counters VALUES (?, ?, 1) ON CONFLICT (project, kind) DO UPDATE SET last = last + 1", row)
    return int(db.execute("SELECT last FROM counters WHERE project = ? AND kind = ?", row).fetchone()[0])


def _read_one_page(db: sqlite3.Connection) -> None:
    db.execute("SELECT 1 FROM projects LIMIT 1").fetchone()


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
