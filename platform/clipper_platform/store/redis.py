"""Metadata in Redis: for a platform whose state must not live on its own disk.

Every method is one script on the server (or a compare-and-swap of one field), bounded in time, and never repeated by
itself: a lost answer is a StoreUnavailable, after which the write may have happened or not. The next call connects
again, so the store works as soon as the server is back. Secrets are in Redis in clear.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Self

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from clipper_platform.errors import Conflict, StoreUnavailable
from clipper_platform.store import records, redis_scripts
from clipper_platform.store.base import EVENTS_KEPT, Event, Key, Policy, Project, Route, Version
from clipper_platform.store.redis_keys import DEFAULT_PREFIX, RedisKeys
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
        if self._asking:
            await asyncio.wait(self._asking)  # each is bounded by OP_TIMEOUT_S
        try:
            await client.aclose()
        except (RedisError, OSError) as error:  # nothing is lost: every answered write is on the server
            logger.info("closing the connections to %s: %s", self.url, error)

    async def ping(self) -> None:
        await self._ask("PING", timeout_s=PING_TIMEOUT_S)

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

    async def _swap(
        self, key: str, field: str, change: Callable[[bytes | None], records.R], attempts: int = SWAP_ATTEMPTS
    ) -> records.R:
        """Replace a field's record by what `change` makes of it; again if another writer was first."""
        for _ in range(attempts):
            old = await self._ask("HGET", key, field)
            new = change(old)
            if await self._script(redis_scripts.SWAP_FIELD, [key], field, old, records.encode(new)):
                return new
        raise Conflict(f"{field!r} in the store at {self.url} changes all the time: try again")

    async def _records(self, kind: type[records.R], key: str) -> Iterator[records.R]:
        return (records.decode(kind, record, self.url) for record in await self._ask("HVALS", key))

    # Projects

    async def put_project(self, project: Project) -> Project:
        record = records.encode(project)
        stored = await self._script(redis_scripts.PUT_IF_ABSENT, [self._keys.projects], project.name, record)
        return records.decode(Project, stored, self.url)

    async def get_project(self, name: str) -> Project:
        record = await self._ask("HGET", self._keys.projects, name)
        if record is None:
            raise records.no_project(name)
        return records.decode(Project, record, self.url)

    async def list_projects(self) -> list[Project]:
        return sorted(await self._records(Project, self._keys.projects), key=lambda project: project.name)

    async def delete_project(self, name: str) -> None:
        keys = self._keys
        gone = await self._script(
            redis_scripts.DELETE_PROJECT,
            [keys.projects, keys.routes, keys.policies, keys.versions(name), keys.secrets(name), keys.events(name)],
            name,
            keys.policy_field(name, ""),
        )
        if gone is None:
            raise records.no_project(name)

    # Versions

    async def add_version(self, version: Version) -> Version:
        stored = records.storable(records.numbered(version, 0))
        keys = [self._keys.projects, self._keys.versions(version.project), self._keys.last_version]
        number = await self._script(redis_scripts.ADD_VERSION, keys, version.project, records.encode(stored))
        if number is None:
            raise records.no_project(version.project)
        return records.numbered(stored, number)

    async def get_version(self, project: str, number: int) -> Version:
        keys = [self._keys.projects, self._keys.versions(project)]
        record = await self._script(redis_scripts.GET_VERSION, keys, project, str(number))
        if record == redis_scripts.NO_PROJECT:
            raise records.no_project(project)
        return self._version(project, number, record)

    async def list_versions(self, project: str) -> list[Version]:
        found = await self._hash(project, self._keys.versions(project))
        versions = [self._version(project, int(number), record) for number, record in found]
        return sorted(versions, key=lambda version: version.number, reverse=True)

    async def update_version(
        self, project: str, number: int, *, state: str, detail: str = "", schemas: dict[str, Any] | None = None
    ) -> Version:
        await self.get_version(project, number)  # says which of the two is unknown

        def change(record: bytes | None) -> Version:
            old = self._version(project, number, record)
            return records.revised(old, state=state, detail=detail, schemas=schemas)

        return await self._swap(self._keys.versions(project), str(number), change)

    def _version(self, project: str, number: int, record: bytes | None) -> Version:
        if record is None:
            raise records.no_version(project, number)
        return records.numbered(records.decode(Version, record, self.url), number)

    # Routes

    async def get_route(self, project: str) -> Route | None:
        record = await self._ask("HGET", self._keys.routes, project)
        return None if record is None else records.decode(Route, record, self.url)

    async def list_routes(self) -> list[Route]:
        return sorted(await self._records(Route, self._keys.routes), key=lambda route: route.project)

    async def set_route(self, route: Route, *, expected_revision: int) -> Route:
        new = records.routed(route, expected_revision)
        keys = [self._keys.projects, self._keys.versions(route.project), self._keys.routes]
        values = (route.project, str(route.version), str(expected_revision), records.encode(new))
        said = await self._script(redis_scripts.SET_ROUTE, keys, *values)
        if said == redis_scripts.NO_PROJECT:
            raise records.no_project(route.project)
        if said == redis_scripts.NO_VERSION:
            raise records.no_version(route.project, route.version)
        if said == redis_scripts.LOST_RACE:
            raise records.lost_race(route.project)
        return new

    # Keys

    async def put_key(self, key: Key) -> None:
        record = records.encode(key)
        stored = await self._script(redis_scripts.PUT_IF_ABSENT, [self._keys.api_keys], key.id, record)
        if records.decode(Key, stored, self.url) != key:
            raise records.key_taken(key.id)

    async def list_keys(self) -> list[Key]:
        return sorted(await self._records(Key, self._keys.api_keys), key=lambda key: (key.created_at, key.id))

    async def revoke_key(self, key_id: str, at: float) -> Key:
        def change(record: bytes | None) -> Key:
            if record is None:
                raise records.no_key(key_id)
            return records.revoked(records.decode(Key, record, self.url), at)

        return await self._swap(self._keys.api_keys, key_id, change)

    # Secrets

    async def put_secret(self, project: str, name: str, value: str) -> None:
        await self._put(project, self._keys.secrets(project), name, value)

    async def list_secrets(self, project: str) -> list[str]:
        return list(await self.get_secrets(project))

    async def get_secrets(self, project: str) -> dict[str, str]:
        found = await self._hash(project, self._keys.secrets(project))
        return dict(sorted((name.decode(), value.decode()) for name, value in found))

    async def delete_secret(self, project: str, name: str) -> None:
        if not await self._delete(project, self._keys.secrets(project), name):
            raise records.no_secret(project, name)

    # Policies

    async def put_policy(self, policy: Policy) -> None:
        field = self._keys.policy_field(policy.project, policy.function)
        await self._put(policy.project, self._keys.policies, field, records.encode(policy))

    async def list_policies(self) -> list[Policy]:
        return sorted(await self._records(Policy, self._keys.policies), key=lambda p: (p.project, p.function))

    async def delete_policy(self, project: str, function: str) -> None:
        if not await self._delete(project, self._keys.policies, self._keys.policy_field(project, function)):
            raise records.no_policy(project, function)

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

    async def _put(self, project: str, key: str, field: str, value: str | bytes) -> None:
        keys = [self._keys.projects, key]
        if await self._script(redis_scripts.PUT_FIELD, keys, project, field, value) is None:
            raise records.no_project(project)

    async def _delete(self, project: str, key: str, field: str) -> bool:
        gone = await self._script(redis_scripts.DELETE_FIELD, [self._keys.projects, key], project, field)
        if gone is None:
            raise records.no_project(project)
        return bool(gone)
