"""Requests to the platform: what they send, when they are tried again, what an error answer means. No I/O.

A request is repeated only where the platform cannot have begun it: the connection was refused, or the answer was 429 or
503 — and, for requests marked `safe`, after a broken connection. `transport` carries this out with pools of
connections, `direct` with a socket for each request.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from clipper import errors
from clipper.contract.errors import INVALID_REQUEST, REFUSED_STATUSES, RETRYABLE_STATUSES
from clipper.contract.response import RESPONSE_MARK
from clipper.contract.version import VERSION
from clipper.errors import ClipperError
from clipper.location import Location

__all__ = ["Answer", "Attempts", "OnRetry", "Request", "RetryPolicy", "Try", "client_headers", "error_from"]

CONNECT_TIMEOUT_S: Final = 5.0

# The platform answers 504 at the deadline itself; the client waits this much longer for that answer to arrive.
DEADLINE_GRACE_S: Final = 2.0

# What an error of an application means, whose form has no code.
_CODES: Final = {INVALID_REQUEST.status: INVALID_REQUEST.code}

# The platform's errors are small; of another server's error page no more than this is read.
MAX_ERROR_BYTES: Final = 1024 * 1024

OnRetry = Callable[[ClipperError, float], None]
"""Called after a failed try with its error and the seconds until the next, before that wait."""


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
    max_connect_attempts: int = 3  # a restart takes a moment; a platform that does not run is reported soon
    base_delay_s: float = 0.1
    max_delay_s: float = 5.0
    budget_s: float = 60.0

    def delay_s(
        self, error: ClipperError, *, attempt: int, remaining_s: float, safe: bool, rng: random.Random
    ) -> float | None:
        """Seconds until the next try after `attempt` (from 1) failed with `error`, or None to give up."""
        unreachable = isinstance(error, errors.PlatformUnreachable)
        refused = error.status in REFUSED_STATUSES
        lost = safe and isinstance(error, errors.ConnectionLost)
        if not (unreachable or refused or lost):
            return None
        if attempt >= (self.max_connect_attempts if unreachable else self.max_attempts):
            return None
        backoff = min(self.max_delay_s, self.base_delay_s * 2 ** (attempt - 1)) * rng.uniform(0.5, 1.0)
        # Never before the platform asked for, and a little spread so that refused clients don't return together.
        wait = max(backoff, (error.retry_after_s or 0.0) * rng.uniform(1.0, 1.1))
        return wait if wait < remaining_s else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One try of a request: what it sends besides method and path, and how long it may take, in seconds."""

    headers: Mapping[str, str]
    body: bytes | Iterable[bytes] | None
    connect_s: float
    read_s: float | None  # between two pieces of the answer


class Attempts:
    """The tries of one request: the timeouts of each, and whether another follows."""

    def __init__(
        self,
        request: Request,
        policy: RetryPolicy,
        clock: Callable[[], float],
        rng: random.Random,
        on_retry: OnRetry | None = None,
    ) -> None:
        self._request, self._policy, self._clock, self._rng = request, policy, clock, rng
        self._on_retry = on_retry
        self._begun_at = clock()
        self._count = 0

    def _left_s(self, total_s: float) -> float:
        return max(0.0, self._begun_at + total_s - self._clock())

    def next(self) -> Try:
        """The next try. Raises DeadlineExceeded."""
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
        return Try(headers=headers, body=body, connect_s=connect, read_s=read)

    def delay_after(self, error: ClipperError) -> float:
        """Seconds to wait before the next try; raises `error` itself when there is none."""
        total = self._request.timeout_s if self._request.timeout_s is not None else self._policy.budget_s
        delay = self._policy.delay_s(
            error, attempt=self._count, remaining_s=self._left_s(total), safe=self._request.safe, rng=self._rng
        )
        if delay is None:
            raise error
        if self._on_retry is not None:
            self._on_retry(error, delay)
        return delay


def _retry_after(headers: Mapping[str, str]) -> float | None:
    try:
        value = float(headers.get("retry-after", ""))
    except ValueError:
        return None  # absent, or a date: the back-off decides then
    return min(value, 3600.0) if value >= 0 else None


def error_from(status: int, headers: Mapping[str, str], content: bytes, url: str) -> ClipperError:
    """The exception for an error answer; `UnexpectedAnswer` where the platform did not write it."""
    retry_after_s = _retry_after(headers)
    try:
        answer = json.loads(content)
        if isinstance(answer["error"], str):  # the form of Clipper's contract for applications: a title and its cause
            answer = {"error": {"code": _CODES[status], "message": answer["cause"]}}
        table = dict(answer["error"])
        code, message = table.pop("code"), table.pop("message")
    except (RecursionError, TypeError, ValueError, LookupError):
        error: ClipperError = errors.UnexpectedAnswer(
            f"{url} answered {status}, and not as the platform does", retry_after_s=retry_after_s
        )
        error.status, error.retryable = status, status in RETRYABLE_STATUSES
        return error
    request_id = table.pop("request_id", None) or headers.get("x-request-id")
    return errors.error_for(
        str(code), status, str(message), request_id=request_id, retry_after_s=retry_after_s, details=table
    )


def is_error(status: int, headers: Mapping[str, str], request: Request) -> bool:
    # A redirect is an error too: the platform sends none, and following one would show the key to someone else. What a
    # function answered itself, with whatever status, is its value.
    return status >= 300 and status not in request.expected and RESPONSE_MARK not in headers


def client_headers(location: Location) -> dict[str, str]:
    """What every request carries."""
    headers = {"User-Agent": f"clipper/{VERSION}"}
    if location.loopback:
        headers["Accept-Encoding"] = "identity"  # packing takes longer than sending within a machine
    if location.api_key:
        headers["Authorization"] = f"Bearer {location.api_key}"
    return headers
