"""Metadata in Redis: for a platform whose state must not live on its own disk, and for platforms that share it.

Every method is one script on the server, or a read and a compare-and-set. It is bounded in time and does not repeat a
write: a lost answer is a StoreUnavailable, after which the write may have happened or not. The next call connects
again, so the store works as soon as the server is back. Secrets are in Redis in clear.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import Any

import msgspec

from clipper_platform.errors import ClipperError, NotFound
from clipper_platform.store import records, redis_application_scripts, redis_scripts
from clipper_platform.store.base import (
    EVENTS_KEPT,
    Application,
    Changes,
    Event,
    Key,
    Policy,
    Project,
    Record,
    Route,
    Version,
)
from clipper_platform.store.redis_applications import RedisApplicationData
from clipper_platform.store.redis_connection import PING_TIMEOUT_S, RedisConnection
from clipper_platform.store.redis_keys import (
    APPLICATIONS_CHANGE,
    KEYS_CHANGE,
    POLICIES_CHANGE,
    RedisKeys,
    changed_project,
    project_change,
)
from clipper_platform.store.redis_url import parsed

__all__ = ["RedisStore"]

SWAP_ATTEMPTS = 64  # each failed one means that another writer's succeeded

# What a method needs to exist: the hash, the field, and the refusal where it is missing.
Need = tuple[str, str, ClipperError]

Script = Callable[..., Awaitable[Any]]
"""Runs a script: (script, keys, *values)."""


class RedisStore:
    """The metadata on the Redis server at `url`, under keys that begin with the URL's `prefix`. See `redis_url`.

    Needs Redis 6 or newer, or a compatible server, neither in cluster mode nor a replica. Raises InvalidRequest for a
    URL that cannot be used.
    """

    def __init__(self, url: str, *, wait_s: float = 0.0) -> None:
        """`wait_s`: how long `open` waits for a server that cannot be reached."""
        address = parsed(url)
        self._keys = RedisKeys(address.prefix)
        self._server = RedisConnection(address, self._keys, wait_s=wait_s)
        self._script = self._server.script
        self.accept = self._server.accept
        self.wait_changed = self._server.wait_changed
        self.application_data = RedisApplicationData(self._server, self._keys)

    @property
    def url(self) -> str:
        return self._server.shown

    async def open(self) -> None:
        """Connect and check the server: its version, its role, and the version of the data under the prefix."""
        await self._server.open()

    async def close(self) -> None:
        await self._server.close()

    async def _read(self, key: str, field: str, *needs: Need, run: Script | None = None) -> bytes | None:
        """A field of a hash, None if it is not there. Raises the refusal of the first need that is missing."""
        keys = [key, *(n[0] for n in needs)]
        found = await (run or self._script)(redis_scripts.READ_FIELD, keys, field, *(n[1] for n in needs))
        if isinstance(found, int):
            raise needs[found - 1][2]
        stored: bytes | None = found
        return stored

    async def _swap(
        self,
        key: str,
        field: str,
        old: bytes | None,
        new: bytes | None,
        change: str,
        *needs: Need,
        run: Script | None = None,
    ) -> bool:
        """Replace a field's value (None: no value) if it is still `old`. Returns whether it was replaced."""
        outcome = await (run or self._script)(
            redis_scripts.SWAP_FIELD,
            [key, self._keys.revision, self._keys.changes, *(n[0] for n in needs)],
            field, _optional(old), _optional(new), change, *(n[1] for n in needs),
        )  # fmt: skip
        if outcome > redis_scripts.SWAPPED:
            raise needs[outcome - 1][2]
        return bool(outcome == redis_scripts.SWAPPED)

    async def _put(self, record: records.Revised, key: str, field: str, change: str, *needs: Need) -> records.Revised:
        """Compare-and-set of a record."""
        for _ in range(SWAP_ATTEMPTS):
            old = await self._read(key, field, *needs)
            stored = None if old is None else records.decode(type(record), old, self.url)
            if isinstance(stored, Version) and isinstance(record, Version):
                stored = msgspec.structs.replace(stored, number=record.number)  # a new version's bytes lack its number
            new = records.successor(record, stored)
            if new is stored or await self._swap(key, field, old, records.encode(new), change, *needs):
                return new
        raise records.changed(record)

    def _project(self, project: str) -> Need:
        return self._keys.projects, project, records.no_project(project)

    async def _records(self, kind: type[records.R], key: str) -> Iterator[records.R]:
        return (records.decode(kind, record, self.url) for record in await self._script(redis_scripts.VALUES, [key]))

    # What other platforms on this server do

    async def changes(self, since: int) -> Changes:
        keys = self._keys
        names = [keys.revision, keys.changes, keys.id, keys.projects, keys.routes, keys.api_keys]
        answer = await self._server.evaluate(redis_scripts.CHANGES, names, since, timeout_s=PING_TIMEOUT_S)
        revision, found, id, server, counts = answer
        self._server.found(records.text(id))
        members = [records.text(member) for member in found]
        return Changes(
            revision=revision,
            lineage=tuple(records.text(id).split()),
            server=records.text(server),
            holds=frozenset(kind for kind, count in zip(("projects", "routes", "keys"), counts, strict=True) if count),
            projects=frozenset(name for member in members if (name := changed_project(member)) is not None),
            keys=KEYS_CHANGE in members,
            policies=POLICIES_CHANGE in members,
            applications=APPLICATIONS_CHANGE in members,
        )

    async def put_back(self, record: Record) -> bool:
        key, field, change, *needs = self._place(record)
        kind: type[Any] = type(record)
        run = self._server.recovery_script
        for _ in range(SWAP_ATTEMPTS):
            try:
                old = await self._read(key, field, *needs, run=run)
                stored = None if old is None else records.decode(kind, old, self.url)
                if not records.is_newer(record, stored):
                    return False
                if not await self._swap(key, field, old, records.encode(record), change, *needs, run=run):
                    continue
            except NotFound:
                return False
            if isinstance(record, Version):
                await run(redis_scripts.TAKE_NUMBER, [self._keys.last_version], record.project, record.number)
            return True
        raise records.changed(record)

    async def put_back_secrets(self, project: str, secrets: Mapping[str, str]) -> frozenset[str]:
        key, need, run = self._keys.secrets(project), self._project(project), self._server.recovery_script
        stored = set()
        for name, value in secrets.items():
            with contextlib.suppress(NotFound):
                if await self._swap(key, name, None, value.encode(), "", need, run=run):
                    stored.add(name)
        return frozenset(stored)

    def _place(self, record: Record) -> tuple[str, str, str, *tuple[Need, ...]]:
        """Where a record is stored: hash, field, the change that storing it is, and what must exist."""
        keys = self._keys
        match record:
            case Project(name=name):
                return keys.projects, name, project_change(name)
            case Version(project=name, number=number):
                return keys.versions(name), str(number), project_change(name), self._project(name)
            case Route(project=name, version=number):
                needs = self._project(name), self._version(name, number)
                return keys.routes, name, project_change(name), *needs
            case Key(id=id):
                return keys.api_keys, id, KEYS_CHANGE
            case Policy(project=name, function=function):
                return keys.policies, keys.policy_field(name, function), POLICIES_CHANGE, self._project(name)
            case Application(name=name):
                return keys.applications, name, APPLICATIONS_CHANGE

    async def renew_lease(self, instance: str, ttl_s: float) -> None:
        await self._server.evaluate(redis_scripts.RENEW_LEASE, [self._keys.instances], instance, int(ttl_s * 1000))

    async def live_instances(self) -> set[str]:
        found = await self._server.evaluate(redis_scripts.LIVE_INSTANCES, [self._keys.instances])
        return {records.text(instance) for instance in found}

    # Projects

    async def put_project(self, project: Project) -> Project:
        record = records.encode(project)
        keys = [self._keys.projects, self._keys.revision, self._keys.changes]
        values = (project.name, record, project_change(project.name))
        return records.decode(Project, await self._script(redis_scripts.PUT_PROJECT, keys, *values), self.url)

    async def get_project(self, name: str) -> Project:
        record = await self._read(self._keys.projects, name)
        if record is None:
            raise records.no_project(name)
        return records.decode(Project, record, self.url)

    async def list_projects(self) -> list[Project]:
        return sorted(await self._records(Project, self._keys.projects), key=lambda project: project.name)

    async def delete_project(self, project: Project) -> None:
        keys, name = self._keys, project.name
        under = [keys.versions(name), keys.secrets(name), keys.events(name)]
        outcome = await self._script(
            redis_scripts.DELETE_PROJECT,
            [keys.projects, keys.routes, keys.policies, *under, keys.revision, keys.changes],
            name, records.encode(project), keys.policy_field(name, ""), project_change(name), POLICIES_CHANGE,
        )  # fmt: skip
        if outcome is None:
            raise records.no_project(name)
        if outcome == redis_scripts.LOST_RACE:
            raise records.changed(project)

    # Versions

    async def add_version(self, version: Version, *, after: int = 0) -> Version:
        stored = records.storable(records.numbered(version, 0))
        keys = [self._keys.projects, self._keys.versions(version.project), self._keys.last_version]
        keys += [self._keys.revision, self._keys.changes]
        values = (version.project, records.encode(stored), project_change(version.project), after)
        number = await self._script(redis_scripts.ADD_VERSION, keys, *values)
        if number is None:
            raise records.no_project(version.project)
        return records.numbered(stored, number)

    async def get_version(self, project: str, number: int) -> Version:
        record = await self._read(self._keys.versions(project), str(number), self._project(project))
        return self._decoded_version(project, number, record)

    async def list_versions(self, project: str) -> list[Version]:
        found = await self._hash(project, self._keys.versions(project))
        versions = [self._decoded_version(project, int(number), record) for number, record in found]
        return sorted(versions, key=lambda version: version.number, reverse=True)

    async def update_version(self, version: Version) -> Version:
        project, number = version.project, version.number
        needs = self._project(project), self._version(project, number)
        return await self._put(version, self._keys.versions(project), str(number), project_change(project), *needs)

    async def delete_version(self, version: Version) -> None:
        project, number, keys = version.project, version.number, self._keys
        for _ in range(SWAP_ATTEMPTS):
            old = await self._read(keys.versions(project), str(number), self._project(project))
            stored = self._decoded_version(project, number, old)
            route = await self._read(keys.routes, project)
            decoded = None if route is None else records.decode(Route, route, self.url)
            records.check_deletable(version, stored=stored, route=decoded)
            outcome = await self._script(
                redis_scripts.DELETE_VERSION,
                [keys.projects, keys.versions(project), keys.routes, keys.revision, keys.changes],
                project, str(number), _optional(old), _optional(route), project_change(project),
            )  # fmt: skip
            if outcome == redis_scripts.SWAPPED:
                return
        raise records.changed(version)

    def _version(self, project: str, number: int) -> Need:
        return self._keys.versions(project), str(number), records.no_version(project, number)

    def _decoded_version(self, project: str, number: int, record: bytes | None) -> Version:
        if record is None:
            raise records.no_version(project, number)
        return msgspec.structs.replace(records.decode(Version, record, self.url), number=number)

    # Routes

    async def get_route(self, project: str) -> Route | None:
        record = await self._read(self._keys.routes, project)
        return None if record is None else records.decode(Route, record, self.url)

    async def list_routes(self) -> list[Route]:
        return sorted(await self._records(Route, self._keys.routes), key=lambda route: route.project)

    async def set_route(self, route: Route) -> Route:
        needs = self._project(route.project), self._version(route.project, route.version)
        return await self._put(route, self._keys.routes, route.project, project_change(route.project), *needs)

    # Keys

    async def put_key(self, key: Key) -> Key:
        return await self._put(key, self._keys.api_keys, key.id, KEYS_CHANGE)

    async def list_keys(self) -> list[Key]:
        return sorted(await self._records(Key, self._keys.api_keys), key=lambda key: (key.created_at, key.id))

    # Secrets

    async def set_secret(self, project: str, name: str, value: str | None, *, expected: str | None) -> None:
        key, need = self._keys.secrets(project), self._project(project)
        old = await self._read(key, name, need)
        stored = None if old is None else old.decode()
        if not records.next_secret(name, value, expected=expected, stored=stored):
            return
        if not await self._swap(key, name, old, None if value is None else value.encode(), "", need):
            raise records.changed_secret(name)

    async def get_secrets(self, project: str) -> dict[str, str]:
        found = await self._hash(project, self._keys.secrets(project))
        return dict(sorted((name.decode(), value.decode()) for name, value in found))

    # Policies

    async def put_policy(self, policy: Policy) -> Policy:
        field = self._keys.policy_field(policy.project, policy.function)
        return await self._put(policy, self._keys.policies, field, POLICIES_CHANGE, self._project(policy.project))

    async def list_policies(self) -> list[Policy]:
        return sorted(await self._records(Policy, self._keys.policies), key=lambda p: (p.project, p.function))

    async def delete_policy(self, policy: Policy) -> None:
        key, field = self._keys.policies, self._keys.policy_field(policy.project, policy.function)
        need = self._project(policy.project)
        old = await self._read(key, field, need)
        if old is None:
            raise records.no_policy(policy.project, policy.function)
        current = records.decode(Policy, old, self.url).revision == policy.revision
        if not current or not await self._swap(key, field, old, None, POLICIES_CHANGE, need):
            raise records.changed(policy)

    # Applications

    async def put_application(self, application: Application) -> Application:
        return await self._put(application, self._keys.applications, application.name, APPLICATIONS_CHANGE)

    async def list_applications(self) -> list[Application]:
        return sorted(await self._records(Application, self._keys.applications), key=lambda a: a.name)

    async def delete_application(self, application: Application) -> None:
        keys, name = self._keys, application.name
        old = await self._read(keys.applications, name)
        if old is None:
            raise records.no_application(name)
        outcome = redis_scripts.LOST_RACE
        if records.decode(Application, old, self.url).revision == application.revision:
            names = [keys.applications, keys.revision, keys.changes, *astuple(keys.application(name))]
            script = redis_application_scripts.DELETE_APPLICATION
            outcome = await self._script(script, names, name, old, APPLICATIONS_CHANGE)
        if outcome == redis_scripts.LOST_RACE:
            raise records.changed(application)

    # Events

    async def add_event(self, event: Event) -> Event:
        stored = records.storable(msgspec.structs.replace(event, seq=0))
        keys = [self._keys.projects, self._keys.events(event.project), self._keys.last_event]
        values = (event.project, records.encode(stored), EVENTS_KEPT)
        seq = await self._script(redis_scripts.ADD_EVENT, keys, *values)
        if seq is None:
            raise records.no_project(event.project)
        return msgspec.structs.replace(stored, seq=seq)

    async def list_events(self, project: str, *, after: int = 0, limit: int = 100) -> Sequence[Event]:
        after, limit = records.event_window(after, limit)
        keys = [self._keys.projects, self._keys.events(project)]
        at_least_one = max(limit, 1)  # COUNT 0 means something else to each command
        if after:
            entries = await self._script(redis_scripts.LATER_EVENTS, keys, project, after + 1, at_least_one)
        else:
            entries = await self._script(redis_scripts.NEWEST_EVENTS, keys, project, at_least_one)
        if entries is None:
            raise records.no_project(project)
        events = [self._event(entry, fields[1]) for entry, fields in entries[:limit]]
        return events if after else events[::-1]

    def _event(self, entry: bytes, record: bytes) -> Event:
        seq = int(entry.partition(b"-")[0])
        return msgspec.structs.replace(records.decode(Event, record, self.url), seq=seq)

    # Hashes of things under a project, or NotFound without the project

    async def _hash(self, project: str, key: str) -> Iterator[tuple[bytes, bytes]]:
        flat = await self._script(redis_scripts.LIST_HASH, [self._keys.projects, key], project)
        if flat is None:
            raise records.no_project(project)
        return zip(flat[::2], flat[1::2], strict=True)


def _optional(value: bytes | None) -> bytes:
    """A value or its absence, as SWAP_FIELD takes them."""
    return b"" if value is None else b"=" + value
