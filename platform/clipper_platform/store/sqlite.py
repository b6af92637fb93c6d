"""Metadata in one SQLite file: the default store, for one machine and one platform."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec

from clipper_platform.errors import InvalidRequest, NotFound
from clipper_platform.store import records
from clipper_platform.store.base import (
    EVENTS_KEPT,
    Application,
    Changes,
    Event,
    Key,
    Policy,
    Project,
    Route,
    Version,
)
from clipper_platform.store.sqlite_applications import SqliteApplicationData
from clipper_platform.store.sqlite_database import SqliteDatabase

__all__ = ["SqliteStore", "database_files"]

T = TypeVar("T")


def database_files(url: str) -> list[Path]:
    """The files of the database, of which some exist only while it is open; none for another store's address."""
    if not url.startswith("sqlite:"):
        return []
    path = _database_path(url)
    return [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")]


def _database_path(url: str) -> Path:
    """Raises InvalidRequest."""
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
        return Path(path[1:]).expanduser()
    return Path(path)


class SqliteStore:
    """The metadata at `path`, created with mode 0600. Secrets are in it in clear. See `SqliteDatabase`."""

    def __init__(self, path: Path, *, busy_timeout_s: float = 2.0) -> None:
        self._database = SqliteDatabase(path, busy_timeout_s=busy_timeout_s)
        self.path = self._database.path
        self._read, self._write = self._database.read, self._database.write
        self.application_data = SqliteApplicationData(self._database)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """`sqlite:///absolute/path`, `sqlite:///./relative` or `sqlite:///~/in/home`. Raises InvalidRequest."""
        return cls(_database_path(url))

    @property
    def url(self) -> str:
        return self._database.url

    async def open(self) -> None:
        """Create or migrate the file. Raises StoreUnavailable if it is damaged, or not this Clipper's to use."""
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()

    # One process has the file, so nothing changes but by this store

    async def changes(self, since: int) -> Changes:
        await self._database.ping()
        return Changes(revision=0)

    async def wait_changed(self, timeout_s: float) -> None:
        await asyncio.sleep(timeout_s)

    async def renew_lease(self, instance: str, ttl_s: float) -> None:
        pass

    async def live_instances(self) -> set[str]:
        return set()

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

    async def delete_project(self, project: Project) -> None:
        def job(db: sqlite3.Connection) -> None:
            if self._project(db, project.name) != project:
                raise records.changed(project)
            db.execute("DELETE FROM projects WHERE name = ?", (project.name,))  # the rest goes by foreign key

        await self._write(job)

    # Versions

    async def add_version(self, version: Version, *, after: int = 0) -> Version:
        def job(db: sqlite3.Connection) -> Version:
            self._project(db, version.project)
            number = _next(db, version.project, "version", after)
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

    async def update_version(self, version: Version) -> Version:
        def job(db: sqlite3.Connection) -> Version:
            new = records.successor(version, self._version(db, version.project, version.number))
            row = (records.encode(new), new.project, new.number)
            db.execute("UPDATE versions SET record = ? WHERE project = ? AND number = ?", row)
            return new

        return await self._write(job)

    async def delete_version(self, version: Version) -> None:
        project, number = version.project, version.number

        def job(db: sqlite3.Connection) -> None:
            stored = self._version(db, project, number)
            records.check_deletable(version, stored=stored, route=self._route(db, project))
            db.execute("DELETE FROM versions WHERE project = ? AND number = ?", (project, number))

        await self._write(job)

    # Routes

    async def get_route(self, project: str) -> Route | None:
        return await self._read(lambda db: self._route(db, project))

    async def list_routes(self) -> list[Route]:
        return await self._read(lambda db: self._all(Route, db, "SELECT record FROM routes ORDER BY project"))

    async def set_route(self, route: Route) -> Route:
        def job(db: sqlite3.Connection) -> Route:
            self._version(db, route.project, route.version)
            new = records.successor(route, self._route(db, route.project))
            db.execute("INSERT OR REPLACE INTO routes VALUES (?, ?)", (new.project, records.encode(new)))
            return new

        return await self._write(job)

    # Keys

    async def put_key(self, key: Key) -> Key:
        def job(db: sqlite3.Connection) -> Key:
            new = records.successor(key, self._one(Key, db, "SELECT record FROM keys WHERE id = ?", (key.id,)))
            db.execute("INSERT OR REPLACE INTO keys VALUES (?, ?)", (new.id, records.encode(new)))
            return new

        return await self._write(job)

    async def list_keys(self) -> list[Key]:
        keys = await self._read(lambda db: self._all(Key, db, "SELECT record FROM keys"))
        return sorted(keys, key=lambda key: (key.created_at, key.id))

    # Secrets

    async def set_secret(self, project: str, name: str, value: str | None, *, expected: str | None) -> None:
        def job(db: sqlite3.Connection) -> None:
            self._project(db, project)
            found = db.execute("SELECT value FROM secrets WHERE project = ? AND name = ?", (project, name)).fetchone()
            if not records.next_secret(name, value, expected=expected, stored=found[0] if found else None):
                return
            if value is None:
                db.execute("DELETE FROM secrets WHERE project = ? AND name = ?", (project, name))
            else:
                db.execute("INSERT OR REPLACE INTO secrets VALUES (?, ?, ?)", (project, name, value))

        await self._write(job)

    async def get_secrets(self, project: str) -> dict[str, str]:
        def job(db: sqlite3.Connection) -> dict[str, str]:
            self._project(db, project)
            sql = "SELECT name, value FROM secrets WHERE project = ? ORDER BY name"
            return dict(db.execute(sql, (project,)).fetchall())

        return await self._read(job)

    # Policies

    async def put_policy(self, policy: Policy) -> Policy:
        def job(db: sqlite3.Connection) -> Policy:
            self._project(db, policy.project)
            new = records.successor(policy, self._policy(db, policy))
            row = (new.project, new.function, records.encode(new))
            db.execute("INSERT OR REPLACE INTO policies VALUES (?, ?, ?)", row)
            return new

        return await self._write(job)

    async def list_policies(self) -> list[Policy]:
        sql = "SELECT record FROM policies ORDER BY project, function"
        return await self._read(lambda db: self._all(Policy, db, sql))

    async def delete_policy(self, policy: Policy) -> None:
        def job(db: sqlite3.Connection) -> None:
            self._project(db, policy.project)
            stored = _found(self._policy(db, policy), records.no_policy(policy.project, policy.function))
            if stored.revision != policy.revision:
                raise records.changed(policy)
            row = (policy.project, policy.function)
            db.execute("DELETE FROM policies WHERE project = ? AND function = ?", row)

        await self._write(job)

    # Applications

    async def put_application(self, application: Application) -> Application:
        def job(db: sqlite3.Connection) -> Application:
            new = records.successor(application, self._application(db, application.name))
            sql = "INSERT INTO applications VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET record = excluded.record"
            db.execute(sql, (new.name, records.encode(new)))
            return new

        return await self._write(job)

    async def list_applications(self) -> list[Application]:
        return await self._read(lambda db: self._all(Application, db, "SELECT record FROM applications ORDER BY name"))

    async def delete_application(self, application: Application) -> None:
        def job(db: sqlite3.Connection) -> None:
            name = application.name
            stored = _found(self._application(db, name), records.no_application(name))
            if stored.revision != application.revision:
                raise records.changed(application)
            db.execute("DELETE FROM applications WHERE name = ?", (name,))  # the rest goes by foreign key

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

    def _application(self, db: sqlite3.Connection, name: str) -> Application | None:
        return self._one(Application, db, "SELECT record FROM applications WHERE name = ?", (name,))

    def _policy(self, db: sqlite3.Connection, policy: Policy) -> Policy | None:
        sql = "SELECT record FROM policies WHERE project = ? AND function = ?"
        return self._one(Policy, db, sql, (policy.project, policy.function))


def _found(record: T | None, missing: NotFound) -> T:
    if record is None:
        raise missing
    return record


def _next(db: sqlite3.Connection, project: str, kind: str, after: int = 0) -> int:
    """The next number of a kind ("version" or "event") for a project, from 1 on, whether or not it existed before;
    above `after`."""
    row = (project, kind)
    sql = "ON CONFLICT (project, kind) DO UPDATE SET last = max(last + 1, excluded.last)"
    db.execute(f"INSERT INTO counters VALUES (?, ?, ?) {sql}", (*row, after + 1))
    return int(db.execute("SELECT last FROM counters WHERE project = ? AND kind = ?", row).fetchone()[0])
