"""The life of an HTTP connection on uvicorn's protocol: turns of pipelined requests, timeouts, write pauses, its end.

It bounds what uvicorn leaves unbounded: the size of a request's head, and the time in which a client must send head and
body. What cannot be read as a request is refused in its turn, after the answers to the requests before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

import httptools
from uvicorn.config import Config

from clipper_platform.errors import ClipperError, InvalidRequest, MethodNotAllowed, RequestTimeout, Unavailable
from clipper_platform.gateway.errors import render
from clipper_platform.gateway.http.answer import header_lines
from clipper_platform.gateway.http.answer_templates import AnswerTemplates
from clipper_platform.gateway.http.connection_limit import Admission, ConnectionLimit
from clipper_platform.gateway.http.cycle import FastCycle
from clipper_platform.gateway.http.half_close import can_tell, peer_is_gone, send_ahead
from clipper_platform.gateway.http.request_id import request_id
from clipper_platform.gateway.http.uvicorn_parts import STATUS_LINE, HttpToolsProtocol, ServerState

__all__ = ["Connection"]

# How long the rest of a refused request is read and dropped. When a socket is closed while bytes of the client are
# unread, TCP resets the connection, and the client may lose the answer.
LINGER_S: Final = 2.0
# A client has to take this much of a waiting answer in this time, 1 KiB/s. As with nginx, the time is a minute.
SLOWEST_READ_BYTES: Final = 60 * 1024
SLOWEST_READ_S: Final = 60.0
# Between two looks at a half-closed connection; the first reset comes after one round trip.
FIRST_LOOK_S: Final = 0.01
LAST_LOOK_S: Final = 1.0


class _Discard:
    """In place of the parser: what follows a refused request is not read."""

    def feed_data(self, data: bytes) -> None:
        pass


class Connection(HttpToolsProtocol):
    """Works with both kinds of cycles, uvicorn's and `FastCycle`."""

    # With a dict for everything, a plain request takes 4% more at 64 connections (hot_path).
    __slots__ = (
        "_held", "_incomplete_timer", "_lingering", "_refusal", "_refused_id", "_slow_timer", "_watch_timer",
        "body_timeout_s", "ending", "given_id", "in_head", "length", "limit", "problem", "requests", "templates",
        "turn", "used",
    )  # fmt: skip

    body_timeout_s: float
    limit: ConnectionLimit
    templates: AnswerTemplates
    cycle: Any  # of the latest request
    pipeline: deque[Any]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.in_head = False  # a request has begun and its headers are not complete
        self.requests = 0  # that began on this connection
        self.used = False  # since the keep-alive timer was set
        self.turn: Any = None  # the cycle whose answer is sent next
        self._held: FastCycle | None = None  # begins when the client has read earlier answers
        self._incomplete_timer: asyncio.TimerHandle | None = None
        self.length = -1  # Content-Length of the latest request; -1 where it is not given
        self.given_id = ""  # X-Request-Id of the latest request
        self.problem: ClipperError | None = None  # why a callback stopped the parser
        self.ending = False  # the connection is closed after the answers that are due
        self._refusal: ClipperError | None = None  # the last one of them
        self._refused_id = ""
        self._lingering = False
        self._slow_timer: asyncio.TimerHandle | None = None  # while the client does not take what is written
        self._watch_timer: asyncio.TimerHandle | None = None  # looks after a half-closed connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        admission = self.limit.admit(transport)
        if admission is not Admission.ADMITTED:
            self.reject(Unavailable("the platform has as many connections as it can have", retry_after_s=1.0))
            if admission is Admission.CLOSED:
                transport.close()

    # Reading

    def feed(self, data: bytes) -> None:
        """Parse what was read.

        Offers to upgrade are ignored (RFC 9110 §7.8). The parser stops after the head of such a request and drops its
        body, so the head is parsed again without the offer.
        """
        rest: bytes | memoryview = data
        try:
            while True:
                try:
                    self.parser.feed_data(rest)
                    return
                except httptools.HttpParserUpgrade as upgrade:
                    rest = memoryview(rest)[upgrade.args[0] :]
                if self.parser.get_method() == b"CONNECT":
                    self.reject(MethodNotAllowed("CONNECT is for proxies, and this is none"))
                    return
                self.parser.feed_data(self._head_without_upgrade())
        except httptools.HttpParserCallbackError:
            self.reject(self.problem or InvalidRequest("the request's address cannot be read"))
        except httptools.HttpParserError as error:
            self.reject(InvalidRequest(f"this cannot be read as an HTTP request: {error}"))

    def _head_without_upgrade(self) -> bytes:
        parser, lines = self.parser, [header for header in self.headers if header[0] != b"upgrade"]
        if self.length >= 0:
            lines.append((b"content-length", b"%d" % self.length))
        if self.given_id:
            lines.append((b"x-request-id", self.given_id.encode("latin-1")))
        version = parser.get_http_version().encode()
        return b"%b %b HTTP/%b\r\n%b\r\n" % (parser.get_method(), self.url, version, header_lines(lines))

    # Turns

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Begin the turn of a request."""
        self.turn = cycle
        if isinstance(cycle, FastCycle):
            cycle.started = True
            if not cycle.more_body:
                self.begin(cycle)
        else:
            super()._start_asgi_task(cycle, app)

    def begin(self, cycle: FastCycle, cache_key: bytes = b"") -> None:
        """Invoke, but only when the client has read earlier answers."""
        if self.flow.write_paused:
            self._held = cycle
            self.flow.pause_reading()
        else:
            cycle.begin(cache_key)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reads()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._slow_timer is not None:
            self._slow_timer.cancel()
            self._slow_timer = None
        cycle, self._held = self._held, None
        if cycle is not None and not cycle.disconnected:
            self.flow.resume_reading()
            cycle.begin()

    def on_response_complete(self) -> None:
        """As uvicorn's, but with one keep-alive timer per connection, which looks again when it fires, instead of one
        per request."""
        self.server_state.total_requests += 1
        self.used = True
        if self.timeout_keep_alive_task is not None and not self.pipeline and not self.flow.read_paused:
            return
        if self.transport.is_closing() or self._lingering:
            return
        if self.ending and not self.pipeline:
            self._end()
            return
        self.flow.resume_reading()
        if self.pipeline:
            # In a later turn: a pipeline of a thousand cached answers would be a thousand calls deep.
            self.loop.call_soon(self._next_in_pipeline)
        elif self.timeout_keep_alive_task is None:
            self._set_keep_alive_timer()

    def _next_in_pipeline(self) -> None:
        if self.pipeline and not self.transport.is_closing():
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)

    # Timeouts

    def _set_keep_alive_timer(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it was idle for at least one whole period, at most two."""
        self.timeout_keep_alive_task = None
        if self.transport is None or self.transport.is_closing():
            return
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy or self.used:
            self.used = False
            self._set_keep_alive_timer()
        else:
            self.transport.close()

    def _expect_reads(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        self._slow_timer = self.loop.call_later(SLOWEST_READ_S, self._too_slow, waiting)

    def _too_slow(self, waiting_before: int) -> None:
        """Abort a connection whose client reads a byte now and then, so that the answer does not occupy memory."""
        if waiting_before - self.transport.get_write_buffer_size() < SLOWEST_READ_BYTES:
            self.transport.abort()
        else:
            self._expect_reads()

    def incomplete(self) -> bool:
        """Whether part of a request has arrived. (The ASGI endpoint limits the time of its own bodies.)"""
        cycle = self.cycle
        return self.in_head or (isinstance(cycle, FastCycle) and cycle.more_body and not cycle.response_complete)

    def expect_the_rest(self) -> None:
        """Refuse the incomplete request unless the rest of it arrives within `body_timeout_s`."""
        if self._incomplete_timer is None:
            self._incomplete_timer = self.loop.call_later(self.body_timeout_s, self._late, self.requests)

    def _late(self, request: int) -> None:
        self._incomplete_timer = None
        if not self.incomplete():
            return
        if request != self.requests:  # another one than when the timer was set
            self.expect_the_rest()
            return
        self.reject(RequestTimeout(f"the request did not arrive within {self.body_timeout_s:g} s"))

    # End

    def reject(self, error: ClipperError) -> None:
        """Refuse what cannot be read as a request, and close the connection, once the requests before are answered."""
        if self._refusal is not None or self.transport.is_closing() or self._lingering:
            return
        self._refusal = error
        cycle = self.cycle
        in_body = cycle is not None and cycle.more_body and not cycle.response_complete
        self._refused_id = request_id(self.given_id if self.in_head or in_body else "")
        self._expect_nothing()
        if in_body:
            self._drop_incomplete(cycle)
        if not self._busy():
            self._end()

    def _expect_nothing(self) -> None:
        self.parser = _Discard()  # type: ignore[assignment]
        self.in_head = False
        self.ending = True
        self._unset_keepalive_if_required()

    def _drop_incomplete(self, cycle: Any) -> None:
        """The refusal takes the place of the latest request, whose body is not complete."""
        if cycle is not self.turn:
            self.pipeline.popleft()
        elif not isinstance(cycle, FastCycle):
            if cycle.response_started:
                self._refusal = None
            cycle.disconnected = True  # ends its task, which then writes nothing
            cycle.waiting_for_100_continue = False
            cycle.message_event.set()
        cycle.response_complete = True

    def _busy(self) -> bool:
        """Whether an answer is due."""
        return bool(self.pipeline) or (self.turn is not None and not self.turn.response_complete)

    def _end(self) -> None:
        """All answers but the refusal are sent."""
        error, self._refusal = self._refusal, None
        if error is None:
            self.transport.close()
            return
        id = self._refused_id
        status, headers, body = render(error, id)
        date = self.templates.date(self.server_state.default_headers)
        start = (STATUS_LINE[status], date, header_lines([*headers, (b"x-request-id", id.encode())]))
        self.transport.write(b"".join((*start, b"connection: close\r\n\r\n", body)))
        self.linger()

    def linger(self) -> None:
        """Close when the client has read the answer, or after `LINGER_S`."""
        self._expect_nothing()
        if self._watch_timer is not None or not self.transport.can_write_eof():
            self.transport.close()
            return
        self._lingering = True
        self.flow.resume_reading()
        self.transport.write_eof()
        self._watch_timer = self.loop.call_later(LINGER_S, self.transport.close)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client closed the connection, or its sending side alone. True keeps ours open for the answers."""
        if self.in_head or (self.cycle is not None and self.cycle.more_body and not self.cycle.response_complete):
            self.reject(InvalidRequest("the connection ended within the request"))
        if self._lingering or not self._busy() or not can_tell(self.transport):
            return False
        self.ending = True
        self._unset_keepalive_if_required()
        if self._watch_timer is None:
            # In between two turns, the next one begins in a moment.
            turn = self.pipeline[-1][0] if self.turn.response_complete else self.turn
            started = getattr(turn, "response_started", False)
            chunked = started and bool(turn.chunked_encoding) and not turn.response_complete
            self.transport = send_ahead(self.transport, started=started, chunked=chunked)
            if not isinstance(turn, FastCycle):
                turn.transport = self.transport
            self._watch(FIRST_LOOK_S)
        return True

    def _watch(self, delay_s: float) -> None:
        self._watch_timer = self.loop.call_later(delay_s, self._look, min(2 * delay_s, LAST_LOOK_S))

    def _look(self, delay_s: float) -> None:
        if self.transport.is_closing():
            return
        if peer_is_gone(self.transport):
            self.transport.abort()
        else:
            self._watch(delay_s)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._incomplete_timer, self._slow_timer, self._watch_timer):
            if timer is not None:
                timer.cancel()
        self._incomplete_timer = self._slow_timer = self._watch_timer = None
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        self._held = None
        turn, self.turn = self.turn, None  # uvicorn disconnects the cycle of the latest request only
        if turn is not None and not turn.response_complete:
            turn.disconnected = True
            turn.message_event.set()
        super().connection_lost(exc)
