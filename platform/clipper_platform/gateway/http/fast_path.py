"""The fast path of `POST /fn/…` and `/{app}/predict`: uvicorn's own protocol, answering without the ASGI cycle.

It saves the scope, the task and the `receive`/`send` round trips of each request: the body's bytes go to the dispatcher
as they arrive, and its callback writes the answer with one `transport.write`. On a machine with two cores and 64
connections that is more than five times the throughput of the same invocation through Starlette
(`infra/scripts/bench --quick` measures both).

It takes plain requests only: HTTP/1.1, POST, a path of unescaped characters without a query, none of the headers of
`plain_request.SPECIAL_HEADERS`, no event stream, a function that is known not to stream, a body within the limit.
Starlette gets everything else, every refusal before the body included, and therefore defines the behaviour;
`tests/integration/test_http_conformance.py` runs one suite over both. `fast_path = false` in the settings turns it off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from uvicorn.config import Config

from clipper_platform.core import caching
from clipper_platform.errors import ClipperError, HeadersTooLarge, PayloadTooLarge
from clipper_platform.gateway.http.answer_coding import PACKED_FROM_BYTES
from clipper_platform.gateway.http.answer_templates import AnswerTemplates
from clipper_platform.gateway.http.connection import Connection
from clipper_platform.gateway.http.connection_limit import ConnectionLimit
from clipper_platform.gateway.http.cycle import JOIN_BELOW, FastCycle
from clipper_platform.gateway.http.invoke_service import InvokeService
from clipper_platform.gateway.http.known_heads import KnownHead, KnownHeads
from clipper_platform.gateway.http.message_framing import framing_problem, with_host_of
from clipper_platform.gateway.http.plain_request import PlainRequest, plain_request
from clipper_platform.gateway.http.predict_cycle import PredictCycle
from clipper_platform.gateway.http.predict_service import PredictService
from clipper_platform.gateway.http.request_head import RequestHead
from clipper_platform.gateway.http.request_id import new_request_id, request_id
from clipper_platform.gateway.http.uvicorn_parts import ServerState
from clipper_platform.serving.cache import CachedResult
from clipper_platform.serving.invocation import OwningQueue

__all__ = ["FastPathOptions", "FastPathProtocol", "fast_protocol"]

# Requests of one connection that may wait behind the first. Only beyond that does the server stop reading, because the
# end of a connection is not seen while it is not read.
MAX_PIPELINED: Final = 16
# A request's line and headers, as in nginx's defaults; checked to within one read of the socket.
MAX_HEAD_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class FastPathOptions:
    """`host_allowed`: the gateway's check of the Host header. Without `enabled`, Starlette gets everything."""

    service: InvokeService
    predictions: PredictService | None = None
    host_allowed: Callable[[str], bool]
    body_timeout_s: float
    enabled: bool
    limit: ConnectionLimit = field(default_factory=ConnectionLimit.none)


class _Shared:
    """What the connections of a server share."""

    def __init__(self, options: FastPathOptions) -> None:
        self.options = options
        self.known_heads = KnownHeads()
        self.templates = AnswerTemplates()


class FastPathProtocol(Connection):
    """uvicorn's protocol with a `FastCycle` for each plain request. `fast_protocol` makes subclasses of it."""

    __slots__ = (
        "_between_requests", "_framing_bytes", "_head_bytes", "_known", "_plain", "_plain_headers", "_plain_url",
        "_read", "dispatcher", "known_heads", "now", "options", "service",
    )  # fmt: skip

    shared: _Shared

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.options = options = self.shared.options
        self.body_timeout_s = options.body_timeout_s
        self.limit = options.limit
        self.known_heads = self.shared.known_heads
        self.templates = self.shared.templates
        self.service = options.service
        self.dispatcher = options.service.dispatcher
        self.now = options.service.clock.monotonic
        self._read = b""  # the latest read of the socket
        self._head_bytes = 0  # of the latest request's incomplete head, to within one read
        self._framing_bytes = 0  # of the latest request's body: chunk sizes, extensions and trailers
        self._between_requests = True  # the parser expects the beginning of one
        self._known: KnownHead | None = None  # the latest one
        # The latest plain request that was parsed, and what it was read from: the next is mostly equal. Without this, a
        # request whose head is not known takes 65% more (8.8 µs, not 5.3; hot_path without known heads).
        self._plain: PlainRequest | None = None
        self._plain_url = b""
        self._plain_headers: list[tuple[bytes, bytes]] = []

    # Reading

    def data_received(self, data: bytes) -> None:
        self.used = True
        if self._between_requests and self._answer_known(data):
            return
        self._read, before = data, self.requests
        self.feed(data)
        if not self._between_requests and self.requests == before:
            self._limit(len(data))
        if self.incomplete():
            self.expect_the_rest()

    def _limit(self, read_bytes: int) -> None:
        """Refuse an endless head, trailer or chunk extension. `read_bytes` belong to the request that began earlier."""
        if self.in_head:
            self._head_bytes += read_bytes
            if self._head_bytes > MAX_HEAD_BYTES:
                self.reject(_head_too_large())
        else:
            self._framing_bytes += read_bytes
            if self._framing_bytes > MAX_HEAD_BYTES:
                self.reject(HeadersTooLarge(f"the body's chunk extensions or trailers are over {MAX_HEAD_BYTES} bytes"))

    def on_message_begin(self) -> None:
        if self.ending:
            raise ValueError("the request before is the last one")  # stops the parser
        self.url = b""
        self.headers = []
        self.length = -1
        self.given_id = ""
        self._head_bytes = self._framing_bytes = 0
        self._between_requests = False
        self.in_head = True
        self.requests += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        # The list has no header that differs from request to request, so that a connection's requests compare equal.
        if not self.in_head:
            return  # a trailer, which means nothing here and must not pass for a header
        name = name.lower()
        if name == b"content-length":
            self.length = int(value)
        elif name == b"x-request-id" and not self.given_id:
            self.given_id = value.decode("latin-1")
        else:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # `feed` parses the head again
        self.in_head = False
        version = self.parser.get_http_version()
        if self.length < 0 or version != "1.1":
            self.problem = framing_problem(version, self.headers)
            if self.problem is not None:
                raise self.problem  # stops the parser
        cycle = self._fast_cycle()
        if cycle is None:
            self._pass_to_uvicorn()
            return
        latest, self.cycle = self.cycle, cycle
        if latest is None or latest.response_complete:
            cycle.started = True
            self.turn = cycle
        else:
            if len(self.pipeline) >= MAX_PIPELINED:
                self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def on_body(self, body: bytes) -> None:
        # A chunk of one byte takes five more.
        self._framing_bytes -= 8 * len(body)
        cycle = self.cycle
        if not isinstance(cycle, FastCycle):
            super().on_body(body)
            return
        if cycle.response_complete:
            return
        cycle.receive(body)
        limit = self.service.max_body_bytes
        if cycle.size > limit:  # a chunked body; the others are refused by their announcement
            self.reject(PayloadTooLarge(f"the body is over the limit of {limit} bytes (max_body_bytes)"))

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._between_requests = not self.ending
        cycle = self.cycle
        if not isinstance(cycle, FastCycle):
            super().on_message_complete()
            return
        if cycle.response_complete:
            return
        cycle.more_body = False
        self._remember_head(cycle)
        if cycle.started:
            self.begin(cycle)

    def _pass_to_uvicorn(self) -> None:
        """uvicorn makes its scope when a message begins. Do that now, with what was parsed since then."""
        url, headers = self.url, with_host_of(self.url, self.headers)
        if self.length >= 0:
            headers.append((b"content-length", b"%d" % self.length))
        if self.given_id:
            headers.append((b"x-request-id", self.given_id.encode("latin-1")))
        super().on_message_begin()
        self.url, self.headers, self.scope["headers"] = url, headers, headers
        self.expect_100_continue = any(n == b"expect" and v.lower() == b"100-continue" for n, v in headers)
        super().on_headers_complete()
        if 0 < len(self.pipeline) < MAX_PIPELINED:
            self.flow.resume_reading()

    # Plain requests and known heads

    def _fast_cycle(self) -> FastCycle | None:
        """The cycle of a plain request, else None."""
        keep_alive = self.parser.should_keep_alive()
        plain = self._plain_request(keep_alive)
        if plain is None or self.length > self.service.max_body_bytes:
            return None
        head = plain.head
        id = request_id(self.given_id) if self.given_id else new_request_id()
        cycle: FastCycle | None
        if plain.application:
            cycle = self._predict_cycle(plain.application, head, id)
        else:
            cycle = self._invoke_cycle(plain.path, head, id)
        if cycle is not None:
            cycle.keep_alive = keep_alive
        return cycle

    def _invoke_cycle(self, path: str, head: RequestHead, id: str) -> FastCycle | None:
        """The cycle of an invocation, None where Starlette takes or refuses it."""
        try:
            queue = self.service.queue(path, head)
            timeout_s = head.timeout_s(queue.timeout_s)
        except ClipperError:
            return None
        if queue.streaming is not False:
            return None
        cycle = FastCycle(self, queue, head, id, self.now(), timeout_s)
        if "@" in path and cycle.invocation is not None:
            cycle.invocation.pinned = True
        return cycle

    def _predict_cycle(self, application: str, head: RequestHead, id: str, body: bytes = b"") -> PredictCycle | None:
        """The cycle of a query of an application, None where Starlette refuses it."""
        predictions = self.options.predictions
        if predictions is None:
            return None
        try:
            live = predictions.application(application, head)
            timeout_s = predictions.timeout_s(head)
        except ClipperError:
            return None
        return PredictCycle(self, live, id, self.now(), timeout_s, body)

    def _plain_request(self, keep_alive: bool) -> PlainRequest | None:
        url, headers, plain = self.url, self.headers, self._plain
        post = self.parser.get_method() == b"POST" and self.options.enabled
        if post and plain is not None and keep_alive and headers == self._plain_headers and url == self._plain_url:
            return plain
        if len(url) + sum(len(name) + len(value) for name, value in headers) > MAX_HEAD_BYTES:
            self.problem = _head_too_large()
            raise self.problem  # stops the parser
        if not post or self.parser.get_http_version() != "1.1":
            return None
        plain = plain_request(url, headers, self.options.host_allowed)
        self._plain = plain if plain is not None and plain.keeps_alive else None
        self._plain_headers, self._plain_url = headers, url
        return plain

    def _remember_head(self, cycle: FastCycle) -> None:
        """Recognise the head by its bytes from now on, if the latest read was this request and nothing else."""
        plain = self._plain
        if plain is None or self.given_id or cycle.parts is not None:
            return
        if self.length == cycle.size and cycle.keep_alive:
            self.known_heads.add(self._read, plain.path, plain.head, cycle.size, plain.application)

    def _answer_known(self, data: bytes) -> bool:
        """Answer a request that arrived as a whole and whose head is known, without parsing it. False: nothing was
        done, and the parser, which expects the beginning of a request, gets the data."""
        if self.cycle is not None and not self.cycle.response_complete:
            return False
        known = self._known
        if known is None or not known.begins(data):
            known = self.known_heads.find(data)
            if known is None:
                return False
            self._known = known
        head = known.head
        if known.application:
            return self._query_known(known, data[len(known.raw) :])
        try:
            queue = self.service.queue(known.path, head)
            timeout_s = head.timeout_s(queue.timeout_s) if head.timeout_ms else queue.timeout_s
        except ClipperError:
            return False
        if queue.streaming is not False:
            return False
        now, body, key = self.now(), data[len(known.raw) :], b""
        if queue.cached and not self.flow.write_paused:
            key = caching.key(queue.cached_as, head.content_type, head.accept, body)
            result = self.dispatcher.cached(queue, key, now, self.now())
            if result is not None:
                self._answer_hit(queue, result, head, now)
                return True
        cycle = FastCycle(self, queue, head, new_request_id(), now, timeout_s, body)
        if known.pinned and cycle.invocation is not None:
            cycle.invocation.pinned = True
        self._begin_whole(cycle, key)
        return True

    def _query_known(self, known: KnownHead, body: bytes) -> bool:
        cycle = self._predict_cycle(known.application, known.head, new_request_id(), body)
        if cycle is not None:
            self._begin_whole(cycle)
        return cycle is not None

    def _begin_whole(self, cycle: FastCycle, cache_key: bytes = b"") -> None:
        """Begin the turn of a request that arrived as a whole."""
        cycle.more_body = False
        cycle.started = True
        self.cycle = self.turn = cycle
        if self.flow.write_paused:
            self.begin(cycle)
        else:
            cycle.begin(cache_key)

    def _answer_hit(self, queue: OwningQueue, result: CachedResult, head: RequestHead, arrived: float) -> None:
        """Answer from the cache without a cycle: `self.cycle` stays the one before, whose response is complete."""
        if result.response is not None or (head.coding and len(result.payload) >= PACKED_FROM_BYTES):
            self._answer_unusual_hit(queue, result, head, arrived)
            return
        transport = self.transport
        if not transport.is_closing():
            taken_s = self.now() - arrived
            lines = self.templates.hit(queue, result, new_request_id(), taken_s, self.server_state.default_headers)
            if len(result.payload) < JOIN_BELOW:
                transport.write(lines + result.payload)
            else:
                transport.writelines([lines, result.payload])
        self.on_response_complete()

    def _answer_unusual_hit(self, queue: OwningQueue, result: CachedResult, head: RequestHead, arrived: float) -> None:
        """One with a head of its own, or that may be packed."""
        cycle = FastCycle(self, queue, head, new_request_id(), arrived, 0.0)
        cycle.more_body = False
        cycle.started = True
        self.cycle = self.turn = cycle
        if cycle.invocation is not None:
            result.answer(cycle.invocation, self.now())
            cycle.done(cycle.invocation)


def _head_too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"the request's head is over {MAX_HEAD_BYTES} bytes")


def fast_protocol(options: FastPathOptions) -> type[FastPathProtocol]:
    """A protocol class for `uvicorn.Config(http=…)`, with what the connections of this server share."""
    return type("ClipperHttpProtocol", (FastPathProtocol,), {"__slots__": (), "shared": _Shared(options)})
