"""Whole answers from a platform on this machine over a plain socket, for commands of one or two small requests.

Loading httpx and making its client takes 60 ms of CPU, `http.client` (with its parser of mail headers and with TLS)
12 ms; this takes 2 ms. What streams, uploads, runs asynchronously or leaves the machine goes through `transport`.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Mapping
from typing import IO, Final
from urllib.parse import urlencode, urlsplit

from clipper import errors
from clipper.errors import ClipperError
from clipper.location import Location
from clipper.retrying import (
    Answer,
    Attempts,
    OnRetry,
    Request,
    RetryPolicy,
    Try,
    client_headers,
    error_from,
    is_error,
)

__all__ = ["DirectConnection", "reaches"]

DEFAULT_PORT: Final = 80
_MAX_LINE_BYTES: Final = 64 * 1024


def reaches(location: Location) -> bool:
    """Whether the platform is on this machine, without TLS and without anything in front of it."""
    parts = urlsplit(location.url)
    return location.loopback and parts.scheme == "http" and not parts.path


class DirectConnection:
    """Blocking requests to a platform that `reaches`, a connection for each; safe to share between threads."""

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
        parts = urlsplit(location.url)
        self._address = parts.hostname or "", parts.port or DEFAULT_PORT
        self._headers = {
            "Host": parts.netloc,
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
            **client_headers(location),
        }
        self._retry, self._clock, self._sleep = retry or RetryPolicy(), clock, sleep
        self._rng, self._on_retry = rng or random.Random(), on_retry

    def send(self, request: Request) -> Answer:
        """The whole answer. Raises ClipperError."""
        attempts = Attempts(request, self._retry, self._clock, self._rng, self._on_retry)
        while True:
            try:
                return self._once(attempts.next(), request)
            except ClipperError as error:
                delay = attempts.delay_after(error)
            self._sleep(delay)

    def _once(self, attempt: Try, request: Request) -> Answer:
        url = self.location.url
        try:
            connection = socket.create_connection(self._address, attempt.connect_s)
        except OSError as error:
            raise errors.PlatformUnreachable(
                f"nothing answers at {url}; is `clip up` running? ({_reason(error)})"
            ) from error
        try:
            with connection, connection.makefile("rb") as file:
                connection.settimeout(attempt.read_s)
                connection.sendall(self._bytes(attempt, request))
                status, headers = _head(file)
                content = b"" if request.method == "HEAD" else _body(file, headers)
        except TimeoutError as error:
            raise errors.DeadlineExceeded(f"no answer from {url} in time ({type(error).__name__})") from error
        except (OSError, ValueError) as error:
            raise errors.ConnectionLost(f"the connection to {url} broke: {_reason(error)}") from error
        if is_error(status, headers, request):
            raise error_from(status, headers, content, url)
        return Answer(status, headers, content)

    def _bytes(self, attempt: Try, request: Request) -> bytes:
        """The request as it is sent. Raises InvalidRequest for a header that would break out of its line."""
        query = f"?{urlencode(request.params)}" if request.params else ""
        body = attempt.body if isinstance(attempt.body, bytes) else b"".join(attempt.body or ())
        headers = {**self._headers, **attempt.headers}
        if body or request.method in ("POST", "PUT"):
            headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            if not value.isascii() or not value.isprintable():
                raise errors.InvalidRequest(f"the header {name} holds a character that HTTP does not allow")
        lines = [f"{request.method} {request.path}{query} HTTP/1.1", *(f"{n}: {v}" for n, v in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii") + body


def _head(file: IO[bytes]) -> tuple[int, dict[str, str]]:
    """Status and headers. Raises ValueError for what is not HTTP/1.x."""
    version, _, rest = _line(file).partition(" ")
    status = rest.partition(" ")[0]
    if not version.startswith("HTTP/1.") or len(status) != 3 or not status.isdecimal():
        raise ValueError("the answer is not HTTP")
    headers: dict[str, str] = {}
    while line := _line(file):
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(status), headers


def _body(file: IO[bytes], headers: Mapping[str, str]) -> bytes:
    """The body by its length, in chunks, or up to the end of the connection. Raises ValueError for less than that."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        pieces = []
        while size := int(_line(file).partition(";")[0], 16):
            pieces.append(_exactly(file, size))
            _line(file)
        return b"".join(pieces)
    length = headers.get("content-length")
    return file.read() if length is None else _exactly(file, int(length))


def _line(file: IO[bytes]) -> str:
    line = file.readline(_MAX_LINE_BYTES)
    if not line.endswith(b"\n"):
        raise ValueError("the answer ended inside its head" if len(line) < _MAX_LINE_BYTES else "a line is too long")
    return line.decode("latin-1").rstrip("\r\n")


def _exactly(file: IO[bytes], count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise ValueError(f"the answer ended after {len(content)} of {count} bytes")
    return content


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
