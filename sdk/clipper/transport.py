"""HTTP to the platform: pooled connections, what may be tried again and when, foreign errors into ours.

What to do after a failed try is decided in `RetryPolicy` and `_Attempts`, without I/O; `Connection` and
`AsyncConnection` carry it out. A request is repeated only where the platform cannot have begun it: the connection was
refused, or the answer was 429 or 503 — and, for requests marked `safe`, after a broken connection.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.request import getproxies

import httpx
import msgspec

from clipper import errors
from clipper.errors import ClipperError
from clipper.location import Location

__all__ = ["Answer", "AsyncConnection", "Connection", "Request", "RetryPolicy", "translate"]

CONNECT_TIMEOUT_S: Final = 5.0
WRITE_TIMEOUT_S: Final = 60.0

# The platform answers 504 at the deadline itself; the client waits this much longer for that answer to arrive.
DEADLINE_GRACE_S: Final = 2.0

# Of one pool; an event loop has several.
MAX_CONNECTIONS: Final = 256
MAX_IDLE_CONNECTIONS: Final = 64
MAX_POOLS: Final = 16

# An error's body is small; of a foreign server's page no more than this is read.
MAX_ERROR_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer with a status below 400 (or one that the request expected). Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to send. `timeout_s` bounds all tries together; `deadline` also tells the platform what is left of it."""

    method: str
    path: str  # from the root, quoted
    content: bytes | Callable[[], Iterable[bytes]] | None = None
    content_length: int | None = None  # with a callable content
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str | int | float] = field(default_factory=dict)
    timeout_s: float | None = None
    read_timeout_s: float | None = None  # between two pieces of the answer; default: what is left of timeout_s
    deadline: bool = False
    safe: bool = False
    expected: frozenset[int] = frozenset()  # statuses from 400 on that are an answer, not an error


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how long to try. `budget_s` stands in where a request has no timeout of its own."""

    max_attempts: int = 8
    max_connect_attempts: int = 3  # a platform that restarts is back soon; one that does not run is reported soon
    base_delay_s: float = 0.1
    max_delay_s: float = 5.0
    budget_s: float = 60.0

    def delay_s(
        self, error: ClipperError, *, attempt: int, remaining_s: float, safe: bool, rng: random.Random
    ) -> float | None:
        """Seconds until the next try after `attempt` (from 1) failed with `error`, or None to give up."""
        unreachable = isinstance(error, errors.PlatformUnreachable)
        refused = error.status in (429, 503)
        lost = safe and isinstance(error, errors.ConnectionLost)
        if not (unreachable or refused or lost):
            return None
        if attempt >= (self.max_connect_attempts if unreachable else self.max_attempts):
            return None
        backoff = min(self.max_delay_s, self.base_delay_s * 2 ** (attempt - 1)) * rng.uniform(0.5, 1.0)
        # Never before the platform asked for, and a little spread so that refused clients don't return together.
        wait = max(backoff, (error.retry_after_s or 0.0) * rng.uniform(1.0, 1.1))
        return wait if wait < remaining_s else None


class _Attempts:
    """One request's tries: what each may take, and whether another follows."""

    def __init__(self, request: Request, policy: RetryPolicy, clock: Callable[[], float], rng: random.Random) -> None:
        self._request, self._policy, self._clock, self._rng = request, policy, clock, rng
        self._begun_at = clock()
        self._count = 0

    def _left_s(self, total_s: float) -> float:
        return max(0.0, self._begun_at + total_s - self._clock())

    def options(self) -> dict[str, Any]:
        """Keyword arguments of the next try for `httpx.Client.build_request`. Raises DeadlineExceeded."""
        self._count += 1
        request = self._request
        headers = dict(request.headers)
        connect, read = CONNECT_TIMEOUT_S, request.read_timeout_s
        if request.timeout_s is not None:
            left = self._left_s(request.timeout_s)
            if left <= 0:
                raise errors.DeadlineExceeded(f"no answer within {request.timeout_s:g} s")
            connect = min(connect, left)
            read = left + DEADLINE_GRACE_S if read is None else read
            if request.deadline:
                headers["X-Clip-Timeout-Ms"] = str(max(1, int(left * 1000)))
        body: bytes | Iterable[bytes] | None
        if callable(request.content):
            headers["Content-Length"] = str(request.content_length)
            body = request.content()
        else:
            body = request.content
        return {
            "method": request.method,
            "url": request.path,
            "content": body,
            "headers": headers,
            "params": dict(request.params) or None,
            "timeout": httpx.Timeout(connect=connect, read=read, write=WRITE_TIMEOUT_S, pool=request.timeout_s),
        }

    def delay_after(self, error: ClipperError) -> float:
        """Seconds to wait before the next try; raises `error` itself when there is none."""
        total = self._request.timeout_s if self._request.timeout_s is not None else self._policy.budget_s
        delay = self._policy.delay_s(
            error, attempt=self._count, remaining_s=self._left_s(total), safe=self._request.safe, rng=self._rng
        )
        if delay is None:
            raise error
        return delay


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


def _retry_after(headers: Mapping[str, str]) -> float | None:
    try:
        value = float(headers.get("retry-after", ""))
    except ValueError:
        return None  # absent, or a date: the back-off decides then
    return min(value, 3600.0) if value >= 0 else None


def error_from(status: int, headers: Mapping[str, str], content: bytes, url: str) -> ClipperError:
    """The exception that an error answer stands for; `UnexpectedAnswer` where it is not the platform's."""
    retry_after_s = _retry_after(headers)
    try:
        table = dict(msgspec.json.decode(content)["error"])
        code, message = table.pop("code"), table.pop("message")
    except (msgspec.MsgspecError, RecursionError, TypeError, KeyError, ValueError, LookupError):
        error: ClipperError = errors.UnexpectedAnswer(
            f"{url} answered {status}, and not as the platform does", retry_after_s=retry_after_s
        )
        error.status, error.retryable = status, status in (429, 502, 503, 504)
        return error
    request_id = table.pop("request_id", None) or headers.get("x-request-id")
    return errors.error_for(
        str(code), status, str(message), request_id=request_id, retry_after_s=retry_after_s, details=table
    )


def _client_options(location: Location) -> dict[str, Any]:
    from clipper import __version__

    headers = {"User-Agent": f"clipper/{__version__}"}
    if location.api_key:
        headers["Authorization"] = f"Bearer {location.api_key}"
    return {"base_url": location.url, "headers": headers}


_LIMITS: Final = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_IDLE_CONNECTIONS)


def _transport_options(location: Location) -> dict[str, Any] | None:
    """Options of a transport of our own; None where the environment's proxies lie on the way."""
    # A proxy from the environment is right for a remote platform and never for this machine's own.
    if not location.loopback and getproxies():
        return None
    # Small requests must not wait for Nagle; a machine that vanished is noticed by keep-alive probes.
    sockets = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    options: dict[str, Any] = {"limits": _LIMITS, "socket_options": sockets}
    if location.url.startswith("http:"):
        # Reading the certificate authorities takes some 30 ms that plain HTTP has no use for; this context trusts none.
        options["verify"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return options


def _answer(response: httpx.Response, content: bytes) -> Answer:
    return Answer(response.status_code, dict(response.headers), content)


def _is_error(response: httpx.Response, request: Request) -> bool:
    # A redirect is an error too: the platform sends none, and following one would show the key to someone else.
    return response.status_code >= 300 and response.status_code not in request.expected


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
    ) -> None:
        self.location = location
        self._retry, self._clock, self._sleep = retry or RetryPolicy(), clock, sleep
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
        attempts = _Attempts(request, self._retry, self._clock, self._rng)
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

    def _once(self, attempts: _Attempts, request: Request) -> httpx.Response:
        url = self.location.url
        try:
            response = self._http.send(self._http.build_request(**attempts.options()), stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise translate(error, url) from error
        if not _is_error(response, request):
            return response
        content = b""
        try:
            for piece in response.iter_bytes():
                content += piece
                if len(content) > MAX_ERROR_BYTES:
                    break
        except httpx.HTTPError:
            pass  # the status says enough
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

    The HTTP library's pool looks at each of its connections several times per request: with 32 of them a request takes
    5.6 ms of CPU, in small pools 2.2 ms. So there are some, each made when those before it are busy; requests one after
    the other use the first one only.
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
        attempts = _Attempts(request, self._retry, self._clock, self._rng)
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
        # The least busy is at most the first that does not exist yet, so that pools are made in turn.
        if index == len(self._pools):
            direct = _transport_options(self.location)
            transport = httpx.AsyncHTTPTransport(**direct) if direct is not None else None
            self._pools.append(
                httpx.AsyncClient(
                    transport=transport, limits=_LIMITS, trust_env=direct is None, **_client_options(self.location)
                )
            )
        return self._pools[index]

    async def _once(self, pool: httpx.AsyncClient, attempts: _Attempts, request: Request) -> httpx.Response:
        url = self.location.url
        try:
            response = await pool.send(pool.build_request(**attempts.options()), stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise translate(error, url) from error
        if not _is_error(response, request):
            return response
        content = b""
        try:
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > MAX_ERROR_BYTES:
                    break
        except httpx.HTTPError:
            pass  # the status says enough
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
