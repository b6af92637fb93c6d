"""HTTP to the platform over pooled connections, blocking and asynchronous; translates httpx's errors into ours.

`retrying` decides what is tried again, and when.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final
from urllib.request import getproxies

import httpx

from clipper import errors
from clipper.errors import ClipperError
from clipper.location import Location
from clipper.retrying import (
    MAX_ERROR_BYTES,
    Answer,
    Attempts,
    OnRetry,
    Request,
    RetryPolicy,
    client_headers,
    error_from,
    is_error,
)

__all__ = ["Answer", "AsyncConnection", "Connection", "Request", "RetryPolicy", "error_from", "translate"]

WRITE_TIMEOUT_S: Final = 60.0

# Limits of one pool; an event loop has several pools.
MAX_CONNECTIONS: Final = 256
MAX_IDLE_CONNECTIONS: Final = 64
MAX_POOLS: Final = 16


def translate(error: Exception, url: str) -> ClipperError:
    """An exception of httpx as one of ours."""
    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.ProxyError():
            return errors.PlatformUnreachable(f"nothing answers at {url}; is `clip up` running? ({_reason(error)})")
        case httpx.TimeoutException():
            return errors.DeadlineExceeded(f"no answer from {url} in time ({type(error).__name__})")
        case httpx.DecodingError() | httpx.TooManyRedirects() | httpx.UnsupportedProtocol() | httpx.InvalidURL():
            return errors.UnexpectedAnswer(f"{url}: {_reason(error)}")
        case _:
            return errors.ConnectionLost(f"the connection to {url} broke: {_reason(error)}")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _options(request: Request, attempts: Attempts) -> dict[str, Any]:
    """Keyword arguments of the next try for `httpx.Client.build_request`. Raises DeadlineExceeded."""
    attempt = attempts.next()
    return {
        "method": request.method,
        "url": request.path,
        "content": attempt.body,
        "headers": dict(attempt.headers),
        "params": dict(request.params) or None,
        "timeout": httpx.Timeout(
            connect=attempt.connect_s, read=attempt.read_s, write=WRITE_TIMEOUT_S, pool=request.timeout_s
        ),
    }


def _client_options(location: Location) -> dict[str, Any]:
    return {"base_url": location.url, "headers": client_headers(location)}


_LIMITS: Final = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_IDLE_CONNECTIONS)


def _transport_options(location: Location) -> dict[str, Any] | None:
    """Options of our own transport; None where a proxy of the environment must be used."""
    # The environment's proxies are for remote platforms, never for one on this machine.
    if not location.loopback and getproxies():
        return None
    # Small requests must not wait for Nagle's algorithm; keep-alive probes detect a machine that is gone.
    sockets = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    options: dict[str, Any] = {"limits": _LIMITS, "socket_options": sockets}
    if location.url.startswith("http:"):
        # Reading the certificate authorities takes 30 ms, which plain HTTP does not need; this context trusts none.
        options["verify"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return options


def _answer(response: httpx.Response, content: bytes) -> Answer:
    return Answer(response.status_code, dict(response.headers), content)


class Connection:
    """Blocking requests to one platform over pooled connections; safe to share between threads."""

    def __init__(
        self,
        location: Location,
        *,
        retry: RetryPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
        on_retry: OnRetry | None = None,
    ) -> None:
        self.location = location
        self._retry, self._clock, self._sleep = retry or RetryPolicy(), clock, sleep
        self._on_retry = on_retry
        self._rng = rng or random.Random()
        direct = _transport_options(location)
        transport = httpx.HTTPTransport(**direct) if direct is not None else None
        self._http = httpx.Client(
            transport=transport, limits=_LIMITS, trust_env=direct is None, **_client_options(location)
        )

    def send(self, request: Request) -> Answer:
        """The whole answer. Raises ClipperError."""
        with self.open(request) as response:
            try:
                return _answer(response, response.read())
            except httpx.HTTPError as error:
                raise translate(error, self.location.url) from error

    @contextmanager
    def open(self, request: Request) -> Iterator[httpx.Response]:
        """The answer with its body still to be read. Raises ClipperError; retries end where the body begins."""
        attempts = Attempts(request, self._retry, self._clock, self._rng, self._on_retry)
        while True:
            try:
                response = self._once(attempts, request)
                break
            except ClipperError as error:
                delay = attempts.delay_after(error)
            self._sleep(delay)
        try:
            yield response
        finally:
            response.close()

    def _once(self, attempts: Attempts, request: Request) -> httpx.Response:
        url = self.location.url
        try:
            response = self._http.send(self._http.build_request(**_options(request, attempts)), stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise translate(error, url) from error
        if not is_error(response.status_code, response.headers, request):
            return response
        content = b""
        try:
            for piece in response.iter_bytes():
                content += piece
                if len(content) > MAX_ERROR_BYTES:
                    break
        except httpx.HTTPError:
            pass  # the status is enough for an error
        finally:
            response.close()
        raise error_from(response.status_code, response.headers, content, url)

    def pieces(self, response: httpx.Response) -> Iterator[bytes]:
        """The body of an open answer as it comes. Raises ClipperError."""
        try:
            yield from response.iter_bytes()
        except httpx.HTTPError as error:
            raise translate(error, self.location.url) from error

    def close(self) -> None:
        self._http.close()


class AsyncConnection:
    """`Connection` for one event loop.

    httpx's pool goes through all its connections several times per request: of 32 requests at a time, each takes
    1.9 ms of CPU in one pool and 0.65 ms in 16 small ones. A pool is made when those before it are busy; requests one
    after the other use the first one only.
    """

    def __init__(
        self,
        location: Location,
        *,
        retry: RetryPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.location = location
        self._retry, self._clock = retry or RetryPolicy(), clock
        self._rng = rng or random.Random()
        self._pools: list[httpx.AsyncClient] = []
        self._in_flight = [0] * MAX_POOLS

    async def send(self, request: Request) -> Answer:
        """The whole answer. Raises ClipperError."""
        async with self.open(request) as response:
            try:
                return _answer(response, await response.aread())
            except httpx.HTTPError as error:
                raise translate(error, self.location.url) from error

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[httpx.Response]:
        """The answer with its body still to be read. Raises ClipperError."""
        attempts = Attempts(request, self._retry, self._clock, self._rng)
        pool = min(range(MAX_POOLS), key=self._in_flight.__getitem__)  # the first of the least busy
        self._in_flight[pool] += 1
        try:
            while True:
                try:
                    response = await self._once(self._pool(pool), attempts, request)
                    break
                except ClipperError as error:
                    delay = attempts.delay_after(error)
                await asyncio.sleep(delay)
            try:
                yield response
            finally:
                await response.aclose()
        finally:
            self._in_flight[pool] -= 1

    def _pool(self, index: int) -> httpx.AsyncClient:
        # The first of the least busy is an existing pool or the next one: pools are made in turn.
        if index == len(self._pools):
            direct = _transport_options(self.location)
            transport = httpx.AsyncHTTPTransport(**direct) if direct is not None else None
            self._pools.append(
                httpx.AsyncClient(
                    transport=transport, limits=_LIMITS, trust_env=direct is None, **_client_options(self.location)
                )
            )
        return self._pools[index]

    async def _once(self, pool: httpx.AsyncClient, attempts: Attempts, request: Request) -> httpx.Response:
        url = self.location.url
        try:
            response = await pool.send(pool.build_request(**_options(request, attempts)), stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise translate(error, url) from error
        if not is_error(response.status_code, response.headers, request):
            return response
        content = b""
        try:
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > MAX_ERROR_BYTES:
                    break
        except httpx.HTTPError:
            pass  # the status is enough for an error
        finally:
            await response.aclose()
        raise error_from(response.status_code, response.headers, content, url)

    async def pieces(self, response: httpx.Response) -> AsyncIterator[bytes]:
        """The body of an open answer as it comes. Raises ClipperError."""
        try:
            async for piece in response.aiter_bytes():
                yield piece
        except httpx.HTTPError as error:
            raise translate(error, self.location.url) from error

    async def close(self) -> None:
        for pool in self._pools:
            await pool.aclose()
