"""Whole answers from a platform on this machine, with the standard library alone.

Loading the HTTP library and making its client takes some 0.35 s of CPU where its own command line's packages are
installed (the platform brings them), else 0.2 s; a command of one or two small requests has no other use for it. This
takes 0.03 s. Everything that streams, uploads, runs asynchronously or leaves the machine goes through `transport`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from typing import Final
from urllib.parse import urlencode, urlsplit

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

__all__ = ["DirectConnection", "reaches"]

DEFAULT_PORT: Final = 80


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
        self._host, self._port = parts.hostname or "", parts.port or DEFAULT_PORT
        self._headers = client_headers(location) | {"Accept": "*/*", "Connection": "close"}
        self._retry, self._clock, self._sleep = retry or RetryPolicy(), clock, sleep
        self._rng, self._on_retry = rng or random.Random(), on_retry

    def send(self, request: Request) -> Answer:
        """The whole answer. Raises ClipperError."""
        attempts = Attempts(request, self._retry, self._clock, self._rng, self._on_retry)
        while True:
            try:
                return self._once(attempts, request)
            except ClipperError as error:
                delay = attempts.delay_after(error)
            self._sleep(delay)

    def _once(self, attempts: Attempts, request: Request) -> Answer:
        attempt, url = attempts.next(), self.location.url
        connection = HTTPConnection(self._host, self._port, timeout=attempt.connect_s)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise errors.PlatformUnreachable(
                    f"nothing answers at {url}; is `clip up` running? ({_reason(error)})"
                ) from error
            connection.sock.settimeout(attempt.read_s)
            query = f"?{urlencode(request.params)}" if request.params else ""
            connection.request(request.method, request.path + query, attempt.body, {**self._headers, **attempt.headers})
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            if is_error(answer.status, request):
                raise error_from(answer.status, headers, answer.read(MAX_ERROR_BYTES), url)
            return Answer(answer.status, headers, answer.read())
        except TimeoutError as error:
            raise errors.DeadlineExceeded(f"no answer from {url} in time ({type(error).__name__})") from error
        except (OSError, HTTPException) as error:
            raise errors.ConnectionLost(f"the connection to {url} broke: {_reason(error)}") from error
        finally:
            connection.close()


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
