"""Invokes functions and queries applications of a platform, blocking or awaited."""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from clipper import codec, errors
from clipper.address import FunctionAddress
from clipper.background import BackgroundLoop
from clipper.contract.media_types import EVENT_STREAM, JSON, MSGPACK, OCTET_STREAM
from clipper.contract.response import BODILESS_STATUSES
from clipper.item_stream import stream_of
from clipper.lines import media_type
from clipper.location import Location, find_platform
from clipper.remote_responses import body_of, is_own, response_of
from clipper.response import is_json
from clipper.transport import Answer, AsyncConnection, Connection, Request, RetryPolicy

__all__ = ["Client", "shared_client"]

T = TypeVar("T")


class Client:
    """A platform's functions. Safe to share between threads and event loops; each loop gets its own connections.

    Without arguments the platform is found by `CLIP_URL` and `CLIP_API_KEY`, else in `~/.clip`.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None, *, retry: RetryPolicy | None = None) -> None:
        self.location = find_platform(url, api_key)
        self._retry = retry or RetryPolicy()
        self._connection = Connection(self.location, retry=self._retry)
        self._background = BackgroundLoop()
        self._lock = threading.Lock()
        self._of_loop: WeakKeyDictionary[
            asyncio.AbstractEventLoop, tuple[AsyncConnection, AsyncGenerator[None, None]]
        ] = WeakKeyDictionary()

    # Blocking

    def invoke(self, address: FunctionAddress, arguments: Mapping[str, Any], *, timeout_s: float | None = None) -> Any:
        """One invocation's value. `timeout_s` bounds it with its retries. Raises ClipperError, TypeError."""
        return _value(self._connection.send(_invocation(address, arguments, MSGPACK, timeout_s)))

    def stream(
        self, address: FunctionAddress, arguments: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> Iterator[Any]:
        """The items of a streaming function as they come; closing the iterator cancels the invocation."""
        request = _invocation(address, arguments, EVENT_STREAM, timeout_s)
        with self._connection.open(request) as response:
            items = stream_of(response.status_code, response.headers)
            yield from items.begin()
            for piece in self._connection.pieces(response):
                yield from items.feed(piece)
                if items.ended:
                    return
        items.check_ended()

    def schema(self, address: FunctionAddress) -> dict[str, Any]:
        """What the function takes and gives, as its JSON Schema."""
        return _schema(self._connection.send(_schema_request(address)))

    def send(self, request: Request) -> Answer:
        """Any request's whole answer. Raises ClipperError."""
        return self._connection.send(request)

    # Awaited

    async def ainvoke(
        self, address: FunctionAddress, arguments: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> Any:
        """`invoke`, awaited; cancelling it closes the connection, which cancels the invocation."""
        connection = await self._for_this_loop()
        return _value(await connection.send(_invocation(address, arguments, MSGPACK, timeout_s)))

    async def astream(
        self, address: FunctionAddress, arguments: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> AsyncGenerator[Any, None]:
        """`stream`, asynchronously."""
        connection = await self._for_this_loop()
        request = _invocation(address, arguments, EVENT_STREAM, timeout_s)
        async with connection.open(request) as response:
            items = stream_of(response.status_code, response.headers)
            for head in items.begin():
                yield head
            async for piece in connection.pieces(response):
                for item in items.feed(piece):
                    yield item
                if items.ended:
                    return
        items.check_ended()

    async def aschema(self, address: FunctionAddress) -> dict[str, Any]:
        """`schema`, awaited."""
        connection = await self._for_this_loop()
        return _schema(await connection.send(_schema_request(address)))

    async def asend(self, request: Request) -> Answer:
        """`send`, awaited."""
        return await (await self._for_this_loop()).send(request)

    # In the background

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine of this client's on its own loop, in a thread."""
        return self._background.submit(work)

    def close(self) -> None:
        """Cancel background calls and close the blocking connections; those of an event loop close with the loop."""
        self._background.close()
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _for_this_loop(self) -> AsyncConnection:
        loop = asyncio.get_running_loop()
        with self._lock:
            held = self._of_loop.get(loop)
            if held is not None:
                return held[0]
            connection = AsyncConnection(self.location, retry=self._retry)
            keeper = _close_with_the_loop(connection)
            self._of_loop[loop] = connection, keeper
        # Once started, the generator is closed by the loop at its end (`asyncio.run`, `shutdown_asyncgens`).
        await anext(keeper)
        return connection


async def _close_with_the_loop(connection: AsyncConnection) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await connection.close()


def _invocation(
    address: FunctionAddress, arguments: Mapping[str, Any], accept: str, timeout_s: float | None
) -> Request:
    return Request(
        method="POST",
        path=address.url_path,
        content=codec.encode(arguments),
        headers={"Content-Type": MSGPACK, "Accept": accept},
        timeout_s=timeout_s,
        deadline=True,
    )


def _schema_request(address: FunctionAddress) -> Request:
    return Request(method="GET", path=f"{address.url_path}/schema", safe=True, timeout_s=30.0)


def _schema(answer: Answer) -> dict[str, Any]:
    table = codec.decode_json(answer.content)
    if not isinstance(table, dict):
        raise errors.UnexpectedAnswer("the function's schema is not an object")
    return table


def _value(answer: Answer) -> Any:
    if is_own(answer.headers):
        return response_of(answer.status, answer.headers, _content(answer))
    return _content(answer)


def _content(answer: Answer) -> Any:
    if answer.status in BODILESS_STATUSES:
        return None
    kind = media_type(answer.headers)
    if not answer.content and kind in ("", JSON, MSGPACK):
        return None
    if kind == MSGPACK:
        return codec.decode(answer.content)
    if kind == JSON:
        return codec.decode_json(answer.content)
    if kind == OCTET_STREAM or kind.startswith("image/"):
        return answer.content
    if is_own(answer.headers):
        return codec.decode_json(answer.content) if is_json(kind) else body_of(answer.content, answer.headers)
    raise errors.UnexpectedAnswer(f"the answer's content type is {kind or 'missing'!r}, not {MSGPACK}")


def shared_client(location: Location | None = None) -> Client:
    """The client of functions that were given none: one per platform, key and process, so that connections are reused.

    The platform is looked up at each call, so that a change of `CLIP_URL` or of its port takes effect.
    """
    location = location or find_platform()
    return _client_of(location.url, location.api_key, os.getpid())


# The process id is a key because a forked child must not write into its parent's sockets.
@functools.cache
def _client_of(url: str, api_key: str | None, _pid: int) -> Client:
    client = Client(url, api_key)
    atexit.register(client.close)
    return client
