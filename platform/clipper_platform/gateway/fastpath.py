"""The fast path of `POST /fn/…`: uvicorn's own protocol, answering invocations without the ASGI cycle.

What it buys: no scope, no task, no `receive`/`send` round trips for each request. The body's bytes go to the
dispatcher as they came, its callback writes the answer with one `transport.write`. On a machine with two cores and 64
connections that is about three times the throughput of the same invocation through Starlette
(`infra/scripts/bench --quick` measures both).

It takes plain requests only: HTTP/1.1, POST, a path of unescaped characters without a query, none of the headers that
ask for more (`Expect`, `Origin`, `Sec-Fetch-Site`, `Upgrade`, `Prefer`, `Idempotency-Key`, an event stream), a function
that is known not to stream, a body within the limit. Everything else, every refusal before the body included, goes on
to Starlette untouched, which therefore defines the behaviour; `tests/integration/test_http_conformance.py` runs one
suite over both. `fast_path = false` in the settings turns it off.

For both ways it also bounds what uvicorn leaves unbounded: the size of a request's head, and the time that a client may
take to send head and body.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from clipper_platform.errors import ClipperError, HeadersTooLarge, InternalError, PayloadTooLarge, RequestTimeout
from clipper_platform.gateway.errors import render
from clipper_platform.gateway.invoke import (
    EVENT_STREAM,
    InvokeService,
    RequestHead,
    header_lines,
    new_request_id,
    read_head,
)
from clipper_platform.serving.invocation import Invocation, State
from clipper_platform.serving.lane import Lane

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

__all__ = ["FastPathOptions", "fast_protocol"]

access_logger = logging.getLogger("clipper_platform.access")

PREFIX = b"/fn/"
# Headers of requests that want more than an answer.
SLOW_HEADERS = frozenset(
    {b"expect", b"origin", b"sec-fetch-site", b"upgrade", b"prefer", b"idempotency-key", b"content-encoding"}
)
# Requests of one connection that may wait behind the first. Only beyond that does the server stop reading, because
# a connection that is not read is one whose end is not seen.
MAX_PIPELINED = 16
# A request's line and headers, as in nginx's defaults; checked to within one read of the socket.
MAX_HEAD_BYTES = 64 * 1024
# Above this, head and body are handed to the transport apart: joining would copy more than a system call costs.
JOIN_BELOW = 64 * 1024


class FastPathOptions:
    """What the protocol needs of the platform. `host_allowed` is the gateway's own check of the Host header;
    with `enabled` False everything goes to Starlette."""

    __slots__ = ("body_timeout_s", "enabled", "host_allowed", "service")

    def __init__(
        self, service: InvokeService, *, host_allowed: Callable[[str], bool], body_timeout_s: float, enabled: bool
    ) -> None:
        self.service = service
        self.host_allowed = host_allowed
        self.body_timeout_s = body_timeout_s
        self.enabled = enabled


class _Signal:
    """Stands where uvicorn's cycles keep an `asyncio.Event`."""

    __slots__ = ("cycle",)

    def __init__(self, cycle: FastCycle) -> None:
        self.cycle = cycle

    def set(self) -> None:
        self.cycle.wake()


class FastCycle:
    """One request and its answer; takes the place of uvicorn's RequestResponseCycle in the protocol's bookkeeping."""

    __slots__ = (
        "arrived", "body", "disconnected", "head", "invocation", "keep_alive", "lane", "more_body", "parts",
        "protocol", "response_complete", "size", "started",
    )  # fmt: skip

    def __init__(self, protocol: FastPathProtocol, lane: Lane, head: RequestHead, arrived: float) -> None:
        self.protocol = protocol
        self.lane = lane
        self.head = head
        self.arrived = arrived
        self.parts: list[bytes] = []
        self.size = 0
        self.more_body = True
        self.started = False  # its turn came; a pipelined one waits for those before it
        self.keep_alive = True
        self.response_complete = False
        self.disconnected = False
        self.invocation: Invocation | None = None

    @property
    def message_event(self) -> _Signal:
        return _Signal(self)

    def wake(self) -> None:
        """uvicorn sets the event when the connection is lost."""
        if self.disconnected:
            self.abandon()

    def abandon(self) -> None:
        invocation = self.invocation
        if invocation is not None and invocation.state is not State.DONE:
            self.protocol.options.service.dispatcher.cancel(invocation)

    def begin(self) -> None:
        """Body complete and its turn come: invoke."""
        self.started = True
        if self.more_body:
            return
        service = self.protocol.options.service
        body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        self.parts.clear()
        try:
            self.invocation = service.begin(self.lane, self.head, body, self.finish, arrived=self.arrived)
        except ClipperError as error:
            self.refuse(error)

    def refuse(self, error: ClipperError) -> None:
        status, headers, body = render(error, self.head.request_id)
        taken_ms = (self.protocol.now() - self.arrived) * 1000
        self._write(status, b"%bserver-timing: total;dur=%.3f\r\n" % (header_lines(headers), taken_ms), body)

    def finish(self, invocation: Invocation) -> None:
        if not self.disconnected:
            self._write(*self.protocol.options.service.answer(invocation))

    def _write(self, status: int, head: bytes, body: bytes | memoryview) -> None:
        protocol = self.protocol
        self.response_complete = True
        transport = protocol.transport
        if transport.is_closing():
            return
        start = b"%b%b%bx-request-id: %b\r\n%b\r\n" % (
            STATUS_LINE[status],
            protocol.default_head(),
            head,
            self.head.request_id.encode("latin-1"),
            b"" if self.keep_alive else b"connection: close\r\n",
        )
        if len(body) < JOIN_BELOW:
            transport.write(b"".join((start, body)))
        else:
            transport.writelines([start, body])
        if status >= InternalError.status and access_logger.isEnabledFor(logging.INFO):
            access_logger.info("POST /fn/%s %d", self.lane.name, status, extra={"request_id": self.head.request_id})
        if not self.keep_alive:
            transport.close()
        protocol.on_response_complete()


class FastPathProtocol(HttpToolsProtocol):
    """uvicorn's protocol with `FastCycle`s in its pipeline where a request is plain."""

    options: FastPathOptions  # set on the subclass that `fast_protocol` makes

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._clock = self.options.service.clock.monotonic
        self._head_source: object = None
        self._head = b""
        self._in_head = False  # a request has begun and its headers are not complete
        self._head_bytes = 0
        self._messages = 0  # requests that began on this connection
        self._late_timer: asyncio.TimerHandle | None = None
        self._last_activity = 0.0
        self._active: Any = None  # the cycle whose answer is next; uvicorn remembers the latest request's only
        self._held: FastCycle | None = None  # waits for the client to read earlier answers

    # Requests

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._in_head = True
        self._head_bytes = 0
        self._messages += 1

    def on_headers_complete(self) -> None:
        self._in_head = False
        cycle = self._fast_cycle()
        if cycle is None:
            # uvicorn builds the scope when a message begins; rebuild it around what was parsed since.
            url, headers, expect = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.url, self.headers, self.expect_100_continue = url, headers, expect
            self.scope["headers"] = headers
            super().on_headers_complete()
            if 0 < len(self.pipeline) < MAX_PIPELINED:
                self.flow.resume_reading()
            return
        before = self.cycle
        self.cycle = cycle  # type: ignore[assignment]  # the same interface, as far as the protocol uses it
        if before is None or before.response_complete:
            cycle.started = True
            self._active = cycle
        else:
            if len(self.pipeline) >= MAX_PIPELINED:
                self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))  # type: ignore[arg-type]  # as above

    def _fast_cycle(self) -> FastCycle | None:
        """The cycle for a plain invocation, else None."""
        url = self.url
        parser = self.parser
        if (
            not self.options.enabled
            or not url.startswith(PREFIX)
            or parser.get_method() != b"POST"
            or b"?" in url
            or b"%" in url
            or b"#" in url
        ):
            return None
        if parser.get_http_version() != "1.1" or parser.should_upgrade():
            return None
        options = self.options
        length = 0
        host = b""
        for name, value in self.headers:
            if name in SLOW_HEADERS:
                return None
            if name == b"content-length":
                length = int(value)
            elif name == b"host":
                if host:
                    return None
                host = value
        if length > options.service.max_body_bytes or not options.host_allowed(host.decode("latin-1")):
            return None
        head = read_head(self.headers)
        if EVENT_STREAM in head.accept:
            return None
        try:
            lane = options.service.lane(url[4:].decode("ascii"), head)
        except (ClipperError, UnicodeDecodeError):
            return None  # Starlette's way refuses it, in one place
        if lane.streaming is not False:
            return None
        cycle = FastCycle(self, lane, head, self._clock())
        cycle.keep_alive = parser.should_keep_alive()
        return cycle

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if not isinstance(cycle, FastCycle):
            super().on_body(body)
            return
        if cycle.response_complete:
            return
        cycle.parts.append(body)
        cycle.size += len(body)
        if cycle.size > self.options.service.max_body_bytes:
            self._too_large(cycle)

    def _too_large(self, cycle: FastCycle) -> None:
        """A chunked body that grew over the limit: refuse once its turn has come, and stop reading."""
        cycle.parts.clear()
        cycle.keep_alive = False
        limit = self.options.service.max_body_bytes
        if cycle.started:
            cycle.refuse(PayloadTooLarge(f"the body is over the limit of {limit} bytes (max_body_bytes)"))
        else:
            self.transport.close()

    def on_message_complete(self) -> None:
        cycle = self.cycle
        if not isinstance(cycle, FastCycle):
            super().on_message_complete()
            return
        if cycle.response_complete:
            return
        cycle.more_body = False
        if cycle.started:
            self._begin(cycle)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """A request's turn."""
        self._active = cycle
        if isinstance(cycle, FastCycle):
            cycle.started = True
            if not cycle.more_body:
                self._begin(cycle)
        else:
            super()._start_asgi_task(cycle, app)

    def _begin(self, cycle: FastCycle) -> None:
        if self.flow.write_paused:
            self._held = cycle  # the client does not read: no further work for it until it does
            self.flow.pause_reading()
        else:
            cycle.begin()

    def resume_writing(self) -> None:
        super().resume_writing()
        cycle, self._held = self._held, None
        if cycle is not None and not cycle.disconnected:
            self.flow.resume_reading()
            cycle.begin()

    # Connection

    def data_received(self, data: bytes) -> None:
        self._last_activity = self._clock()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            message = "Invalid HTTP request received."
            self.logger.warning(message)
            self.send_400_response(message)
            return
        except httptools.HttpParserUpgrade:
            self._unsupported_upgrade_warning()
        cycle = self.cycle
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._reject(HeadersTooLarge(f"the request's head is over {MAX_HEAD_BYTES} bytes"))
                return
        elif not isinstance(cycle, FastCycle) or not cycle.more_body:
            return
        if self._late_timer is None:
            self._late_timer = self.loop.call_later(self.options.body_timeout_s, self._late, self._messages)

    def _late(self, message: int) -> None:
        """A request that began is still incomplete: refuse it, so that a slow client holds no connection for ever."""
        self._late_timer = None
        cycle: object = self.cycle
        waiting = isinstance(cycle, FastCycle) and cycle.more_body and not cycle.response_complete
        if not (self._in_head or waiting):
            return
        if message != self._messages:  # another one than when the timer was set
            self._late_timer = self.loop.call_later(self.options.body_timeout_s, self._late, self._messages)
            return
        error = RequestTimeout(f"the request did not arrive within {self.options.body_timeout_s:g} s")
        if isinstance(cycle, FastCycle) and not self._in_head:
            cycle.keep_alive = False
            cycle.refuse(error)
        else:
            self._reject(error)

    def _reject(self, error: ClipperError) -> None:
        """Refuse a request whose head never became whole, and close."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            status, headers, body = render(error, new_request_id())
            start = (STATUS_LINE[status], self.default_head(), header_lines(headers))
            self.transport.write(b"".join((*start, b"connection: close\r\n\r\n", body)))
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._late_timer is not None:
            self._late_timer.cancel()
            self._late_timer = None
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        self._held = None
        active, self._active = self._active, None
        if active is not None and not active.response_complete:
            active.disconnected = True
            active.message_event.set()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Like uvicorn's, but with one keep-alive timer per connection that looks again when it fires, instead of
        one made and cancelled for each request."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            # Not from here: a pipeline of a thousand cached answers would be a thousand calls deep.
            self.loop.call_soon(self._next_in_pipeline)
        elif self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        self._last_activity = self._clock()

    def _next_in_pipeline(self) -> None:
        if self.pipeline and not self.transport.is_closing():
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self.transport is None or self.transport.is_closing():
            return
        busy = self.cycle is not None and not self.cycle.response_complete
        left = self.timeout_keep_alive - (self._clock() - self._last_activity)
        if busy or left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive if busy else left, self.timeout_keep_alive_handler
            )
        else:
            self.transport.close()

    def now(self) -> float:
        return self._clock()

    def default_head(self) -> bytes:
        """uvicorn's own headers (the date), encoded once for as long as it keeps the list."""
        source = self.server_state.default_headers
        if source is not self._head_source:
            self._head_source = source
            self._head = b"".join(b"%b: %b\r\n" % pair for pair in source)
        return self._head


def fast_protocol(options: FastPathOptions) -> type[HttpToolsProtocol]:
    """A protocol class for `uvicorn.Config(http=…)`, bound to this platform."""
    return type("ClipperHttpProtocol", (FastPathProtocol,), {"options": options})
