"""The fast path of `POST /fn/…`: uvicorn's own protocol, answering invocations without the ASGI cycle.

What it buys: no scope, no task, no `receive`/`send` round trips for each request. The body's bytes go to the
dispatcher as they came, its callback writes the answer with one `transport.write`. On a machine with two cores and 64
connections that is more than five times the throughput of the same invocation through Starlette
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

from clipper_platform.core import caching
from clipper_platform.errors import ClipperError, HeadersTooLarge, InternalError, PayloadTooLarge, RequestTimeout
from clipper_platform.gateway.errors import render
from clipper_platform.gateway.http.answer import CACHE_STATUS, answer_of, batch_timing, header_lines
from clipper_platform.gateway.http.invoke_service import InvokeService
from clipper_platform.gateway.http.request_head import RequestHead, read_head
from clipper_platform.gateway.http.request_id import new_request_id, request_id
from clipper_platform.serving.cache import CachedResult
from clipper_platform.serving.invocation import Invocation, OwningQueue

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

__all__ = ["FastPathOptions", "fast_protocol"]

access_logger = logging.getLogger("clipper_platform.access")

PREFIX = b"/fn/"
# Heads that are remembered by their bytes, over all connections; forgotten all at once when there are more, since
# clients with ever new heads gain nothing from any memory.
MAX_KNOWN_HEADS = 1024
MAX_KNOWN_HEAD_BYTES = 2048
# Headers of requests that want more than an answer.
SLOW_HEADERS = frozenset(
    {
        *(b"expect", b"origin", b"sec-fetch-site", b"upgrade", b"prefer", b"idempotency-key", b"content-encoding"),
        *(b"traceparent", b"x-request-id"),  # the latter: given twice
    }
)
# Requests of one connection that may wait behind the first. Only beyond that does the server stop reading, because
# a connection that is not read is one whose end is not seen.
MAX_PIPELINED = 16
# A request's line and headers, as in nginx's defaults; checked to within one read of the socket.
MAX_HEAD_BYTES = 64 * 1024
# Above this, head and body are handed to the transport apart: joining would copy more than a system call costs.
JOIN_BELOW = 64 * 1024

HIT_LINES = CACHE_STATUS["hit"] + b"server-timing: queue;dur=%.3f\r\nx-request-id: %b\r\n\r\n"
# Stands for the request's id in a refusal that many get, and is as long.
NO_ID = "#" * 16


class KnownHead:
    """A head that httptools has parsed before: equal bytes mean the same."""

    __slots__ = ("end", "head", "path", "raw", "total")

    def __init__(self, raw: bytes, path: str, head: RequestHead, length: int) -> None:
        self.raw = raw
        self.path = path
        self.head = head
        self.end = len(raw)
        self.total = len(raw) + length  # with the body


class FastPathOptions:
    """What the protocol needs of the platform, and what all its connections remember together.

    `host_allowed` is the gateway's own check of the Host header; with `enabled` False everything goes to Starlette.
    """

    def __init__(
        self, service: InvokeService, *, host_allowed: Callable[[str], bool], body_timeout_s: float, enabled: bool
    ) -> None:
        self.service = service
        self.host_allowed = host_allowed
        self.body_timeout_s = body_timeout_s
        self.enabled = enabled
        self.known: dict[bytes, KnownHead] = {}
        self.date_source: object = None  # uvicorn's list that `date_lines` was made from
        self.date_lines = b""
        self._heads: dict[tuple[OwningQueue, str, int], bytes] = {}
        self._dispatched = self._finished = 0.0
        self._batch_timing = b""
        self._refusals: dict[OwningQueue, tuple[float, bytes, bytes]] = {}

    def remember(self, known: KnownHead) -> None:
        if len(self.known) >= MAX_KNOWN_HEADS:
            self.known.clear()
        self.known[known.raw] = known

    def renew(self, source: list[tuple[bytes, bytes]]) -> None:
        """uvicorn's own headers (the date) changed: encode them, once for as long as it keeps the list."""
        self.date_source = source
        self.date_lines = b"".join(b"%b: %b\r\n" % pair for pair in source)
        self._heads.clear()
        self._refusals.clear()

    def head(self, queue: OwningQueue, content_type: str, length: int) -> bytes:
        """The lines of a plain answer that say the same for many requests, Content-Length among them: answers of a
        function have few lengths."""
        head = self._heads.get((queue, content_type, length))
        if head is None:
            if len(self._heads) >= MAX_KNOWN_HEADS:
                self._heads.clear()
            version = queue.target.id.version
            head = self._heads[queue, content_type, length] = (
                b"%b%bcontent-type: %b\r\ncontent-length: %d\r\nx-clip-version: %d\r\n"
                % (STATUS_LINE[200], self.date_lines, content_type.encode("latin-1"), length, version)
            )
        return head

    def plain(self, cycle: FastCycle) -> bytes:
        """A whole answer with status 200 on a connection that stays."""
        payload: Any = cycle.payload  # of either type
        dispatched = cycle.dispatched
        if dispatched:
            if dispatched != self._dispatched or cycle.finished != self._finished:  # another batch than the last one
                self._dispatched, self._finished = dispatched, cycle.finished
                self._batch_timing = batch_timing(cycle)
            waited, timing = dispatched - cycle.queued, self._batch_timing
        else:
            waited, timing = cycle.finished - cycle.arrived, b""
        return b"%b%bserver-timing: queue;dur=%.3f%b\r\nx-request-id: %b\r\n\r\n%b" % (
            self.head(cycle.queue, cycle.content_type_out, len(payload)),
            CACHE_STATUS[cycle.cache_status],
            waited * 1000,
            timing,
            cycle.request_id.encode(),
            payload,
        )

    def refusal(self, cycle: FastCycle, now: float) -> bytes:
        """A whole 429. Rendered anew ten times a second: all that is refused in between gets the same numbers."""
        queue = cycle.queue
        until, head, body = self._refusals.get(queue, (0.0, b"", b""))
        if now >= until:
            status, headers, body = render(queue.queue_full(), NO_ID)
            head = STATUS_LINE[status] + self.date_lines + header_lines(headers)
            self._refusals[queue] = (now + 0.1, head, body)
        id = cycle.request_id.encode()
        return b"%bserver-timing: total;dur=%.3f\r\nx-request-id: %b\r\n\r\n%b" % (
            head,
            (now - cycle.arrived) * 1000,
            id,
            body.replace(NO_ID.encode(), id),
        )


class _Signal:
    """Stands where uvicorn's cycles keep an `asyncio.Event`."""

    __slots__ = ("cycle",)

    def __init__(self, cycle: FastCycle) -> None:
        self.cycle = cycle

    def set(self) -> None:
        self.cycle.wake()


class FastCycle(Invocation):
    """One request, its invocation and its answer in a single object; takes the place of uvicorn's
    RequestResponseCycle in the protocol's bookkeeping.
    """

    __slots__ = (
        "disconnected", "head", "keep_alive", "more_body", "parts", "protocol", "response_complete", "size", "started",
    )  # fmt: skip

    body: bytes
    parts: list[bytes] | None  # where the body came in several pieces
    started: bool  # its turn came; a pipelined one waits for those before it

    def __init__(
        self, protocol: FastPathProtocol, queue: OwningQueue, head: RequestHead, id: str, arrived: float
    ) -> None:
        self.begin_life(queue, id, head.content_type, head.accept, arrived)
        self.protocol = protocol
        self.head = head
        self.parts = None
        self.size = 0
        self.more_body = self.keep_alive = True
        self.started = self.response_complete = self.disconnected = False

    @property
    def message_event(self) -> _Signal:
        return _Signal(self)

    def wake(self) -> None:
        """uvicorn sets the event when the connection is lost."""
        if self.disconnected:
            self.protocol.options.service.dispatcher.cancel(self)

    def receive(self, part: bytes) -> None:
        if not self.size:
            self.body = part
        elif self.parts is None:
            self.parts = [self.body, part]
        else:
            self.parts.append(part)
        self.size += len(part)

    def begin(self) -> None:
        """Body complete and its turn come: invoke."""
        if self.parts is not None:
            self.body, self.parts = b"".join(self.parts), None
        queue, head = self.queue, self.head
        try:
            timeout_s = queue.timeout_s
            self.deadline = self.arrived + (head.timeout_s(timeout_s) if head.timeout_ms else timeout_s)
            self.protocol.options.service.dispatcher.invoke(self)
        except ClipperError as error:
            self.refuse(error)

    def refuse(self, error: ClipperError) -> None:
        status, headers, body = render(error, self.request_id)
        taken_ms = (self.protocol.now() - self.arrived) * 1000
        self._write(status, b"%bserver-timing: total;dur=%.3f\r\n" % (header_lines(headers), taken_ms), body)

    def on_done(self, invocation: Invocation) -> None:
        """The invocation, which is this, was answered."""
        if self.disconnected:
            return
        protocol = self.protocol
        options = protocol.options
        transport = protocol.transport
        if (
            self.error is not None
            or self.default_reason
            or self.cold is not None
            or not self.keep_alive
            or len(self.payload) >= JOIN_BELOW
            or transport.is_closing()
        ):
            self._write(*answer_of(self))
            return
        source = protocol.server_state.default_headers
        if source is not options.date_source:
            options.renew(source)
        self.response_complete = True
        transport.write(options.plain(self))
        self.body = self.payload = b""  # as `release`
        if protocol.pipeline or protocol.flow.read_paused or protocol.timeout_keep_alive_task is None:
            protocol.on_response_complete()
        else:
            protocol.server_state.total_requests += 1
            protocol._moved = True

    def _write(self, status: int, head: bytes, body: bytes | memoryview) -> None:
        protocol = self.protocol
        self.response_complete = True
        transport = protocol.transport
        if transport.is_closing():
            return
        options = protocol.options
        source = protocol.server_state.default_headers
        if source is not options.date_source:
            options.renew(source)
        start = b"%b%b%bx-request-id: %b\r\n%b\r\n" % (
            STATUS_LINE[status],
            options.date_lines,
            head,
            self.request_id.encode(),
            b"" if self.keep_alive else b"connection: close\r\n",
        )
        if len(body) < JOIN_BELOW:
            transport.write(b"".join((start, body)))
        else:
            transport.writelines([start, body])
        self.release()
        if status >= InternalError.status and access_logger.isEnabledFor(logging.INFO):
            access_logger.info("POST /fn/%s %d", self.queue.name, status, extra={"request_id": self.request_id})
        if not self.keep_alive:
            transport.close()
        protocol.on_response_complete()

    def release(self) -> None:
        """The connection remembers its last cycle; what that was about must not stay with an idle client."""
        self.body = self.payload = b""


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
        self.now = self.options.service.clock.monotonic
        self._known: KnownHead | None = None  # that of the last request
        self._length = -1  # not given
        self._given_id = ""
        self._known_url = b""  # of the last plain request of this connection, with its headers and what they say
        self._known_headers: list[tuple[bytes, bytes]] = []
        self._known_head: RequestHead | None = None
        self._known_path = ""
        self._raw = b""  # what was read last
        self._between = True  # the parser is between two messages
        self._in_head = False  # a request has begun and its headers are not complete
        self._head_bytes = 0
        self._messages = 0  # requests that began on this connection
        self._late_timer: asyncio.TimerHandle | None = None
        self._moved = False  # something happened since the keep-alive timer was set
        self._active: Any = None  # the cycle whose answer is next; uvicorn remembers the latest request's only
        self._held: FastCycle | None = None  # waits for the client to read earlier answers

    # Requests

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self._length = -1  # not given
        self._given_id = ""
        self._in_head = True
        self._between = False
        self._head_bytes = 0
        self._messages += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        # What differs from request to request stays out of the list, so that a connection's requests compare equal.
        name = name.lower()
        if name == b"content-length":
            self._length = int(value)
        elif name == b"x-request-id" and not self._given_id:
            self._given_id = value.decode("latin-1")
        else:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        cycle = self._fast_cycle()
        if cycle is None:
            self._hand_on()
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

    def _hand_on(self) -> None:
        """To uvicorn, which builds the scope when a message begins: rebuild it around what was parsed since."""
        url, headers = self.url, list(self.headers)
        if self._length >= 0:
            headers.append((b"content-length", b"%d" % self._length))
        if self._given_id:
            headers.append((b"x-request-id", self._given_id.encode("latin-1")))
        super().on_message_begin()
        self.url, self.headers, self.scope["headers"] = url, headers, headers
        self.expect_100_continue = any(n == b"expect" and v.lower() == b"100-continue" for n, v in headers)
        super().on_headers_complete()
        if 0 < len(self.pipeline) < MAX_PIPELINED:
            self.flow.resume_reading()

    def _fast_cycle(self) -> FastCycle | None:
        """The cycle for a plain invocation, else None."""
        parser = self.parser
        head: RequestHead | None
        if (
            self._known_head is not None
            and self.headers == self._known_headers
            and self.url == self._known_url
            and parser.get_method() == b"POST"
            and parser.should_keep_alive()
        ):
            head = self._known_head
            keep_alive = True
        else:
            head = self._read_head()
            keep_alive = parser.should_keep_alive()
        service = self.options.service
        if head is None or self._length > service.max_body_bytes:
            return None
        try:
            queue = service.queue(self._known_path, head)
        except ClipperError:
            return None  # Starlette's way refuses it, in one place
        if queue.streaming is not False:
            return None
        given = self._given_id
        cycle = FastCycle(self, queue, head, request_id(given) if given else new_request_id(), self.now())
        if not keep_alive:
            cycle.keep_alive = False
        return cycle

    def _read_head(self) -> RequestHead | None:
        """What the headers say if the request is plain, else None; remembered for the connection's next one."""
        url, headers, parser, options = self.url, self.headers, self.parser, self.options
        self._known_headers, self._known_url, self._known_head = headers, url, None
        if not options.enabled or not url.startswith(PREFIX) or parser.get_method() != b"POST":
            return None
        if b"?" in url or b"%" in url or b"#" in url or not url.isascii():
            return None
        # Standby-alive without saying so is HTTP/1.1: what a later request with the same headers is recognised by.
        if parser.get_http_version() != "1.1" or parser.should_upgrade():
            return None
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not options.host_allowed(hosts[0].decode("latin-1")):
            return None
        if any(name in SLOW_HEADERS for name, _ in headers):
            return None
        head = read_head(headers)
        if head.wants_events:
            return None
        self._known_path = url[len(PREFIX) :].decode()
        if all(name != b"connection" or value.lower() == b"keep-alive" for name, value in headers):
            self._known_head = head
        return head

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if not isinstance(cycle, FastCycle):
            super().on_body(body)
            return
        if cycle.response_complete:
            return
        cycle.receive(body)
        if cycle.size > self.options.service.max_body_bytes:
            self._too_large(cycle)

    def _too_large(self, cycle: FastCycle) -> None:
        """A chunked body that grew over the limit: refuse once its turn has come, and stop reading."""
        cycle.parts = None
        cycle.keep_alive = False
        limit = self.options.service.max_body_bytes
        if cycle.started:
            cycle.refuse(PayloadTooLarge(f"the body is over the limit of {limit} bytes (max_body_bytes)"))
        else:
            self.transport.close()

    def on_message_complete(self) -> None:
        self._between = True
        cycle = self.cycle
        if not isinstance(cycle, FastCycle):
            super().on_message_complete()
            return
        if cycle.response_complete:
            return
        cycle.more_body = False
        if cycle.head is self._known_head:
            self._remember_head(cycle)
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
        self._moved = True
        if self._between:
            before = self.cycle
            if before is None or before.response_complete:
                known = self._known  # the connection's last one, most likely
                if known is None or len(data) != known.total or not data.startswith(known.raw):
                    known = self.options.known.get(data[: data.find(b"\r\n\r\n") + 4])
                    self._known = known
                if known is not None and len(data) == known.total and self._take_known(known, data[known.end :]):
                    return
        self._raw = data
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

    def _take_known(self, known: KnownHead, body: bytes) -> bool:
        """Answer a request that is here as a whole, and whose head was here before, without parsing it again. What is
        not exactly that is left to the parser, which is at the beginning of a message then as before."""
        head = known.head
        service = self.options.service
        queue = service.dispatcher.routed.get(known.path) if service.open_invoke else None
        if queue is None:
            try:
                queue = service.queue(known.path, head)
            except ClipperError:
                return False
        if queue.streaming is not False:
            return False
        now = self.now()
        unusual = self.flow.write_paused or head.timeout_ms  # for `FastCycle.begin`
        key = b""
        if queue.cached and not unusual:
            key = caching.key(queue.name, head.content_type, head.accept, body)
            result = service.dispatcher.cached(queue, key, now, self.now())
            if result is not None:
                self._answer_hit(queue, result, now)
                return True
        cycle = FastCycle(self, queue, head, new_request_id(), now)
        cycle.more_body = False
        cycle.started = True
        cycle.body = body
        self.cycle = self._active = cycle  # type: ignore[assignment]  # as in on_headers_complete
        if unusual:
            self._begin(cycle)
            return True
        cycle.deadline = now + queue.timeout_s
        try:
            if not service.dispatcher.offer(cycle, key):
                self._refuse(cycle)
        except ClipperError as error:
            cycle.refuse(error)
        return True

    def _answer_hit(self, queue: OwningQueue, result: CachedResult, arrived: float) -> None:
        """From the cache, without making anything of the request: `self.cycle` stays the one before, which is done."""
        options, transport = self.options, self.transport
        source = self.server_state.default_headers
        if source is not options.date_source:
            options.renew(source)
        if not transport.is_closing():
            head = options.head(queue, result.content_type, len(result.payload)) + HIT_LINES % (
                (self.now() - arrived) * 1000,
                new_request_id().encode(),
            )
            if len(result.payload) < JOIN_BELOW:
                transport.write(head + result.payload)
            else:
                transport.writelines([head, result.payload])
        if self.flow.read_paused or self.timeout_keep_alive_task is None:
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1
            self._moved = True

    def _refuse(self, cycle: FastCycle) -> None:
        """Too many wait: say so for less than it costs to raise an error."""
        options = self.options
        source = self.server_state.default_headers
        if source is not options.date_source:
            options.renew(source)
        cycle.response_complete = True
        if not self.transport.is_closing():
            self.transport.write(options.refusal(cycle, self.now()))
        cycle.release()
        self.on_response_complete()

    def _remember_head(self, cycle: FastCycle) -> None:
        """Remember the head of a message that is complete, if nothing but it was in the last read."""
        raw = self._raw
        end = raw.find(b"\r\n\r\n") + 4
        if self._given_id or cycle.parts is not None or not cycle.keep_alive:
            return
        if 4 <= end <= MAX_KNOWN_HEAD_BYTES and len(raw) == end + cycle.size and self._length == cycle.size:
            self.options.remember(KnownHead(raw[:end], self._known_path, cycle.head, cycle.size))

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
            start = (STATUS_LINE[status], self.options.date_lines, header_lines(headers))
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
        self._moved = True

    def _next_in_pipeline(self) -> None:
        if self.pipeline and not self.transport.is_closing():
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if nothing happened on it for at least one whole period, at most two."""
        self.timeout_keep_alive_task = None
        if self.transport is None or self.transport.is_closing():
            return
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy or self._moved:
            self._moved = False
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            self.transport.close()


def fast_protocol(options: FastPathOptions) -> type[HttpToolsProtocol]:
    """A protocol class for `uvicorn.Config(http=…)`, bound to this platform."""
    return type("ClipperHttpProtocol", (FastPathProtocol,), {"options": options})
