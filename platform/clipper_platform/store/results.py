"""The shared tier of the result cache: results in Redis, which all platforms on one store use together.

It never delays or fails an invocation that could be answered without it. A look-up that takes longer than 50 ms counts
as a miss, a Redis that fails is not asked for some seconds, writes that it does not accept in time are dropped, and no
finished answer waits for a write.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from clipper_platform.clock import Clock
from clipper_platform.store.redis_connection import connect
from clipper_platform.store.redis_keys import RedisKeys
from clipper_platform.store.redis_url import parsed

__all__ = ["RedisResults"]

logger = logging.getLogger(__name__)

LOOKUP_TIMEOUT_S: Final = 0.05  # a healthy server on the same network answers within 1 ms
WRITE_TIMEOUT_S: Final = 1.0
REST_S: Final = 5.0  # how long a server that failed is left alone
MAX_WAITING: Final = 1000  # writes that wait; further ones are dropped
MAX_RESULT_BYTES: Final = 1024 * 1024  # larger ones cost the server more than they save
CONNECTIONS: Final = 8
MAX_ASKING: Final = 256  # look-ups under way; further ones count as misses


class RedisResults:
    """Implements `serving.cache.SharedResults`. Raises InvalidRequest for a URL that cannot be used."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._address = parsed(url)
        self._shown = self._address.shown
        self._keys = RedisKeys(self._address.prefix)
        self._clock = clock
        self._client: Redis | None = None
        self._rests_until = 0.0
        self._writes: asyncio.Queue[tuple[str, bytes, int] | str | None] = asyncio.Queue(MAX_WAITING)
        self._writer: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Task[tuple[bytes, str] | None]] = set()
        self.dropped_writes = 0

    async def open(self) -> None:
        """Prepare to connect; connections are opened when they are needed."""
        self._client = connect(self._address, connections=CONNECTIONS, step_timeout_s=WRITE_TIMEOUT_S)
        self._writer = asyncio.create_task(self._write_all(), name="shared results")

    async def close(self) -> None:
        """Drop the writes that still wait, so that the shutdown is prompt. Those under way end by themselves, within
        WRITE_TIMEOUT_S: cancelling them could leave a connection half read."""
        client, self._client = self._client, None
        while not self._writes.empty():
            self._writes.get_nowait()
        self._writes.put_nowait(None)
        if self._writer is not None:
            await asyncio.wait([self._writer, *self._asking])
        if client is not None:
            try:
                await client.aclose()
            except (RedisError, OSError) as error:
                logger.info("closing the connections to %s: %s", self._shown, error)

    @property
    def resting(self) -> bool:
        """Whether the server failed lately and is not asked now."""
        return self._client is None or self._clock.monotonic() < self._rests_until

    async def get(self, owner: str, digest: bytes) -> tuple[bytes, str] | None:
        """(payload, content type), or None if it is not there, too slow, or not reachable."""
        client = self._client
        if client is None or self.resting or len(self._asking) >= MAX_ASKING:
            return None
        # In a task of its own: a look-up that is given up must not leave its connection half read.
        task = asyncio.create_task(self._read(client, self._keys.result(owner, digest)))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        done, _ = await asyncio.wait([task], timeout=LOOKUP_TIMEOUT_S)
        if not done:
            self._rest(TimeoutError(f"no answer within {LOOKUP_TIMEOUT_S:g} s"))
        return task.result() if done else None

    async def _read(self, client: Redis, key: str) -> tuple[bytes, str] | None:
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                raw = await client.get(key)
            if not isinstance(raw, bytes):
                return None
            content_type, payload = _decode(raw)
        except (RedisError, OSError, msgspec.MsgspecError) as error:  # TimeoutError is an OSError
            self._rest(error)
            return None
        return payload, content_type

    def put(self, owner: str, digest: bytes, payload: bytes, content_type: str, ttl_s: float) -> None:
        """Store a result for `ttl_s` in the background; returns at once."""
        milliseconds = int(ttl_s * 1000)
        if self.resting or len(payload) > MAX_RESULT_BYTES or milliseconds < 1:
            return
        self._later((self._keys.result(owner, digest), _encode((content_type, payload)), milliseconds))

    def drop(self, owner: str) -> None:
        """Delete all results of a version in the background."""
        self._later(self._keys.results_of(owner))

    def _later(self, write: tuple[str, bytes, int] | str) -> None:
        try:
            self._writes.put_nowait(write)
        except asyncio.QueueFull:
            self.dropped_writes += 1

    async def _write_all(self) -> None:
        while (write := await self._writes.get()) is not None:
            client = self._client
            if client is None or self.resting:
                self.dropped_writes += 1
                continue
            try:
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    if isinstance(write, str):
                        await self._delete(client, write)
                    else:
                        await client.set(write[0], write[1], px=write[2])
            except (RedisError, OSError) as error:
                self.dropped_writes += 1
                self._rest(error)

    async def _delete(self, client: Redis, pattern: str) -> None:
        found = [key async for key in client.scan_iter(match=pattern, count=1000)]
        for at in range(0, len(found), 1000):
            await client.unlink(*found[at : at + 1000])

    def _rest(self, error: Exception) -> None:
        now = self._clock.monotonic()
        if now >= self._rests_until:
            reason = str(error) or type(error).__name__
            logger.warning("the shared cache at %s is left alone for %g s: %s", self._shown, REST_S, reason)
        self._rests_until = now + REST_S


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[str, bytes]).decode
