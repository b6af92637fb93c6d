"""One Redis server, or the master that Sentinels name: its connections, its check, and the id of the data on it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from clipper_platform.errors import StoreUnavailable
from clipper_platform.store import records, redis_scripts
from clipper_platform.store.redis_keys import RedisKeys
from clipper_platform.store.redis_server import SCHEMA, check_schema, check_server, lost, risks, translate
from clipper_platform.store.redis_url import RedisAddress

__all__ = ["RedisConnection", "connect"]

logger = logging.getLogger(__name__)

# A control call may wait for the store, but not long: connecting, waiting for one of the pool's connections and each
# exchange get a second, which is a thousand round trips on a local network; together they stay under OP_TIMEOUT_S.
STEP_TIMEOUT_S = 1.0
OP_TIMEOUT_S = 2.5
PING_TIMEOUT_S = 1.0
SENTINEL_TIMEOUT_S = 0.3  # for each Sentinel: two dead ones of three leave time for the third and for the master

MAX_CONNECTIONS = 8  # of this process: control calls are few, the data plane never asks the store
MAX_ANCESTORS = 20  # ids of lost data that are remembered; losses of a lifetime
RECOVERY_WAIT_S = 2.0  # writing back thousands of projects takes longer; callers try again then
LISTEN_S = 5.0  # for how long a read of the subscription waits, and a lost one is left alone


class _MasterPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the master of the moment: each new connection asks the Sentinels where it is."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """With `inuse_connections` for good: the library leaves the connections to the Sentinels open."""
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for client in self.sentinel_manager.sentinels:
                await client.aclose()


# Untyped in the library.
_sentinel: Callable[..., Sentinel] = Sentinel
_master_pool: Callable[..., _MasterPool] = _MasterPool


def connect(address: RedisAddress, *, connections: int, step_timeout_s: float) -> Redis:
    """A client of the address; connections are opened when they are needed."""
    options: dict[str, Any] = {
        "max_connections": connections,
        "timeout": step_timeout_s,
        "socket_timeout": step_timeout_s,
        "socket_connect_timeout": step_timeout_s,
        # The client's own retries would repeat an increment whose answer was lost, and wait for seconds.
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "decode_responses": False,
    }
    if not address.sentinels:
        return Redis.from_pool(BlockingConnectionPool.from_url(address.url, **options))
    server: dict[str, Any] = {**parse_url(address.url)}
    for name in ("host", "port"):
        server.pop(name, None)
    tls = server.pop("connection_class", None) is SSLConnection
    to_sentinels = {name: value for name, value in server.items() if name.startswith("ssl_")}
    sentinel = _sentinel(
        address.sentinels,
        sentinel_kwargs={
            **to_sentinels,
            "ssl": tls,
            "username": address.sentinel_username,
            "password": address.sentinel_password,
            "socket_timeout": min(step_timeout_s, SENTINEL_TIMEOUT_S),
            "socket_connect_timeout": min(step_timeout_s, SENTINEL_TIMEOUT_S),
            "retry": Retry(NoBackoff(), 0),
        },
    )
    kind = SentinelManagedSSLConnection if tls else SentinelManagedConnection
    return Redis.from_pool(_master_pool(address.service, sentinel, connection_class=kind, **server, **options))


class RedisConnection:
    """Runs commands and scripts, each bounded in time and never repeated by itself."""

    def __init__(self, address: RedisAddress, keys: RedisKeys, *, wait_s: float = 0.0) -> None:
        """`wait_s`: how long `open` waits for a server that cannot be reached."""
        self._address = address
        self._wait_s = wait_s
        self._keys = keys
        self._client: Redis | None = None
        self._id = ""  # of the data that the scripts work on
        self._settled = asyncio.Event()  # whether the data is there, and nothing is being written back to it
        self._asking: set[asyncio.Task[Any]] = set()
        self._published = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None

    @property
    def shown(self) -> str:
        return self._address.shown

    async def open(self) -> None:
        """Connect and check the server. Raises StoreUnavailable."""
        if self._client is not None:
            return
        self._client = connect(self._address, connections=MAX_CONNECTIONS, step_timeout_s=STEP_TIMEOUT_S)
        try:
            info = await self._greeted()
            check_server(info, self.shown)
            for warning in risks(info, await self._snapshots(), self.shown):
                logger.warning("%s", warning)
            await self.accept(())
            self._settled.set()
        except BaseException:
            await self.close()
            raise

    async def _greeted(self) -> Any:
        """The server's INFO. One that starts, or that a network does not reach yet, is waited for."""
        give_up, pause_s = time.monotonic() + self._wait_s, 0.1
        while True:
            try:
                return await self.ask("INFO")
            except StoreUnavailable as error:
                left_s = give_up - time.monotonic()
                if error.retry_after_s is None or left_s <= 0:
                    raise
                if pause_s == 0.1:
                    logger.warning("%s; trying again for %.0f s", error, left_s)
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 2, 2.0)

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
            logger.info("closing the connections to %s: %s", self.shown, error)

    async def _snapshots(self) -> str | None:
        """The server's `save` setting, or None: managed servers hide it."""
        try:
            found = await self.ask("CONFIG GET", "save")
        except StoreUnavailable:
            return None
        return {records.text(k): records.text(v) for k, v in found.items()}.get("save")

    # Commands

    async def script(self, script: str, keys: Sequence[str], *values: str | bytes | int) -> Any:
        """Run a script on the data whose id is known. Where that was lost, waits a moment until it is written back: a
        script that was refused for its id has changed nothing, so it may be repeated."""
        if self._client is not None and not self._settled.is_set():
            await self._until_settled()
        try:
            return await self.recovery_script(script, keys, *values)
        except StoreUnavailable as error:
            if not str(error.__cause__).startswith(redis_scripts.DATA_LOST):
                raise
        self._settled.clear()
        self._published.set()  # who waits for changes is to notice at once
        await self._until_settled()
        return await self.recovery_script(script, keys, *values)

    async def _until_settled(self) -> None:
        try:
            async with asyncio.timeout(RECOVERY_WAIT_S):
                await self._settled.wait()
        except TimeoutError:
            raise lost(self.shown) from None

    async def recovery_script(self, script: str, keys: Sequence[str], *values: str | bytes | int) -> Any:
        """The same for what writes the data back."""
        return await self.evaluate(redis_scripts.guarded(script), [*keys, self._keys.id], *values, self._id)

    async def evaluate(
        self, script: str, keys: Sequence[str], *values: str | bytes | int, timeout_s: float = OP_TIMEOUT_S
    ) -> Any:
        """Run a script on whatever data there is."""
        return await self.ask("EVAL", script, len(keys), *keys, *values, timeout_s=timeout_s)

    async def ask(self, *command: str | bytes | int, timeout_s: float = OP_TIMEOUT_S) -> Any:
        """One command. In a task of its own, so that a cancelled caller cannot leave a connection half read or
        outside the pool: the command ends by itself, within `timeout_s`."""
        if self._client is None:
            raise StoreUnavailable(f"the store at {self.shown} is not open")
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
            raise translate(error, self.shown) from error

    # The data

    async def accept(self, lost: Sequence[str]) -> tuple[str, ...]:
        """See `RecoverableStore`."""
        self._settled.clear()
        schema = await self.evaluate(redis_scripts.CLAIM_SCHEMA, [self._keys.schema], SCHEMA)
        check_schema(schema, self.shown, self._keys.schema)
        fresh = " ".join([secrets.token_hex(8), *lost[:MAX_ANCESTORS]])
        self._id = records.text(await self.evaluate(redis_scripts.CLAIM_ID, [self._keys.id], fresh))
        return tuple(self._id.split())

    def found(self, id: str) -> None:
        """The data has this id now, and nothing is being written back."""
        if id == self._id:
            self._settled.set()

    async def wait_changed(self, timeout_s: float) -> None:
        """Return when something is published or the data is found lost, at the latest after `timeout_s`."""
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
                logger.debug("no changes are published by %s: %s", self.shown, error)
            await asyncio.sleep(LISTEN_S)
