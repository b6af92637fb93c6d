"""Metadata in Redis: for a platform whose state must not live on its own disk, and for platforms that share it.

Every method is one script on the server, or a read and a compare-and-set. It is bounded in time and does not repeat a
write: a lost answer is a StoreUnavailable, after which the write may have happened or not. The next call connects
again, so the store works as soon as the server is back. Secrets are in Redis in clear.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Self

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from clipper_platform.errors import ClipperError, StoreUnavailable
from clipper_platform.store import records, redis_scripts
from clipper_platform.store.base import EVENTS_KEPT, Changes, Event, Key, Policy, Project, Route, Version
from clipper_platform.store.redis_keys import (
    DEFAULT_PREFIX,
    KEYS_CHANGE,
    POLICIES_CHANGE,
    RedisKeys,
    changed_project,
    project_change,
)
from clipper_platform.store.redis_server import SCHEMA, check_schema, check_server, risks, translate
from clipper_platform.store.redis_url import checked, shown

__all__ = ["RedisStore"]

logger = logging.getLogger(__name__)

# A control call may wait for the store, but not long: connecting, waiting for one of the pool's connections and each
# exchange get a second, which is a thousand round trips on a local network; together they stay under OP_TIMEOUT_S.
STEP_TIMEOUT_S = 1.0
OP_TIMEOUT_S = 2.5
PING_TIMEOUT_S = 1.0

MAX_CONNECTIONS = 8  # of this process: control calls are few, the data plane never asks the store
SWAP_ATTEMPTS = 64  # each failed one means that another writer's succeeded
LISTEN_S = 5.0  # for how long a read of the subscription waits, and a lost one is left alone

# What a method needs to exist: the hash, the field, and the refusal where it is missing.
Need = tuple[str, str, ClipperError]


class RedisStore:
    """The metadata on the Redis server at `url` (redis://, rediss:// or unix://), under keys that begin with `prefix`.

    Needs Redis 6 or newer, or a compatible server, neither in cluster mode nor a replica. Raises InvalidRequest for a
    URL or prefix that cannot be used.
    """

    def __init__(self, url: str, prefix: str = DEFAULT_PREFIX) -> None:
        self._address = checked(url)
        self._shown = shown(url)
        self._keys = RedisKeys(prefix)
        self._client: Redis | None = None
        self._asking: set[asyncio.Task[Any]] = set()
        self._published = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None

    @classmethod
    def from_url(cls, url: str, prefix: str = DEFAULT_PREFIX) -> Self:
        return cls(url, prefix)

    @property
    def url(self) -> str:
        return self._shown

    async def open(self) -> None:
        """Connect and check the server: its version, its role, and the version of the data under the prefix."""
        if self._client is not None:
            return
        pool = BlockingConnectionPool.from_url(
            self._address,
            max_connections=MAX_CONNECTIONS,
            timeout=STEP_TIMEOUT_S,
            socket_timeout=STEP_TIMEOUT_S,
            socket_connect_timeout=STEP_TIMEOUT_S,
            # The client's own retries would repeat an increment whose answer was lost, and wait for seconds.
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            decode_responses=False,
        )
        self._client = Redis.from_pool(pool)
        try:
            info = await self._ask("INFO")
            check_server(info, self.url)
            for warning in risks(info, await self._snapshots(), self.url):
                logger.warning("%s", warning)
            found = await self._script(redis_scripts.CLAIM_SCHEMA, [self._keys.schema], SCHEMA)
            check_schema(found, self.url, self._keys.schema)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        listener, self._listener = self._listener, None
        while listener is not None and not listener.done():
            listener.cancel()  # more than once: the library loses a cancellation that meets its connecting
            await asyncio.wait([listener], timeout=0.1)
        if self._asking:
            await asyncio.wait(self._asking)  # each is bounded by OP_TIMEOUT_S
        try:
            await client.aclose()
        except (RedisError, OSError) as error:  # nothing is lost: every answered write is on the server
            logger.info("closing the connections to %s: %s", self.url, error)

    async def _snapshots(self) -> str | None:
        """The server's `save` setting, or None: managed servers hide it."""
        try:
            found = await self._ask("CONFIG GET", "save")
        except StoreUnavailable:
            return None
        return {records.text(k): records.text(v) for k, v in found.items()}.get("save")

    # The server

    async def _script(self, script: str, keys: Sequence[str], *values: str | bytes | int) -> Any:
        return await self._ask("EVAL", script, len(keys), *keys, *values)

    async def _ask(self, *command: str | bytes | int, timeout_s: float = OP_TIMEOUT_S) -> Any:
        """One command. In a task of its own, so that a cancelled caller cannot leave a connection half read or
        outside the pool: the command ends by itself, within `timeout_s`."""
        if self._client is None:
            raise StoreUnavailable(f"the store at {self.url} is not open")
        task = asyncio.create_task(self._answer(self._client, command, timeout_s))
        self._asking.add(task)
        task.add_done_callback(self._answered)
        return await asyncio.shield(task)

    def _answered(self, task: asyncio.Task[Any]) -> None:
        self._asking.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also where the caller is gone

    async def _answer(self, client: Redis, command: Sequence[str | bytes | int], timeout_s: float) -> Any:
        execute: Callable[..., Awaitable[Any]] = client.execute_command  # untyped in the library
        try:
            async with asyncio.timeout(timeout_s):
                return await execute(*command)
        except UnicodeEncodeError as error:
            raise records.not_unicode(error) from error
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            raise translate(error, self.url) from error

    async def _read(self, key: str, field: str, *needs: Need) -> bytes | None:
        """A field of a hash, None if it is not there. Raises the refusal of the first need that is missing."""
        found = await self._script(
            redis_scripts.READ_FIELD, [key, *(n[0] for n in needs)], field, *(n[1] for n in needs)
        )
        if isinstance(found, int):
            raise needs[found - 1][2]
        stored: bytes | None = found
        return stored

    async def _swap(
        self, key: str, field: str, old: bytes | None, new: bytes | None, change: str, *needs: Need
    ) -> bool:
        """Replace a field's value (None: no value) if it is still `old`. Returns whether it was replaced."""
        outcome = await self._script(
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
        return (records.decode(kind, record, self.url) for record in await self._ask("HVALS", key))

    # What other platforms on this server do

    async def changes(self, since: int) -> Changes:
        keys = self._keys.revision, self._keys.changes
        revision, found = await self._ask("EVAL", redis_scripts.CHANGES, 2, *keys, since, timeout_s=PING_TIMEOUT_S)
        members = [records.text(member) for member in found]
        return Changes(
            revision=revision,
            projects=frozenset(name for member in members if (name := changed_project(member)) is not None),
            keys=KEYS_CHANGE in members,
            policies=POLICIES_CHANGE in members,
        )

    async def wait_changed(self, timeout_s: float) -> None:
        if self._listener is None and self._client is not None:
            self._listener = asyncio.create_task(self._listen(self._client), name="published changes")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._published.wait()
        self._published.clear()

    async def _listen(self, client: Redis) -> None:
        """Note what is published, until closed. Where that fails `wait_changed` waits for its whole time."""
        while self._client is client:
            try:
                async with client.pubsub(ignore_subscribe_messages=True) as subscription:
                    await subscription.subscribe(self._keys.revision)
                    while True:
                        if await subscription.get_message(timeout=LISTEN_S) is not None:
                            self._published.set()
            except (RedisError, OSError) as error:
                logger.debug("no changes are published by %s: %s", self.url, error)
            await asyncio.sleep(LISTEN_S)

    async def renew_lease(self, instance: str, ttl_s: float) -> None:
        await self._script(redis_scripts.RENEW_LEASE, [self._keys.instances], instance, int(ttl_s * 1000))

    async def live_instances(self) -> set[str]:
        found = await self._script(redis_scripts.LIVE_INSTANCES, [self._keys.instances])
        return {records.text(instance) for instance in found}

    # Projects

    async def put_project(self, project: Project) -> Project:
        record = records.encode(project)
        keys = [self._keys.projects, self._keys.revision, self._keys.changes]
        values = (project.name, record, project_change(project.name))
        return records.decode(Project, await self._script(redis_scripts.PUT_PROJECT, keys, *values), self.url)

    async def get_project(self, name: str) -> Project:
        record = await self._ask("HGET", self._keys.projects, name)
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

    async def add_version(self, version: Version) -> Version:
        stored = records.storable(records.numbered(version, 0))
        keys = [self._keys.projects, self._keys.versions(version.project), self._keys.last_version]
        keys += [self._keys.revision, self._keys.changes]
        values = (version.project, records.encode(stored), project_change(version.project))
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
            route = await self._ask("HGET", keys.routes, project)
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
        record = await self._ask("HGET", self._keys.routes, project)
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
