"""The life of an HTTP connection on uvicorn's protocol: turns of pipelined requests, timeouts, write pauses, its end.

It bounds what uvicorn leaves unbounded: the size of a request's head, and the time in which a client must send head and
body.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from uvicorn.config import Config

from clipper_platform.errors import ClipperError, RequestTimeout
from clipper_platform.gateway.errors import render
from clipper_platform.gateway.http.answer import header_lines
from clipper_platform.gateway.http.answer_templates import AnswerTemplates
from clipper_platform.gateway.http.cycle import FastCycle
from clipper_platform.gateway.http.request_id import new_request_id
from clipper_platform.gateway.http.uvicorn_parts import STATUS_LINE, HttpToolsProtocol, ServerState

__all__ = ["Connection"]


class Connection(HttpToolsProtocol):
    """Works with both kinds of cycles, uvicorn's and `FastCycle`."""

    # With a dict for everything, a plain request takes 4% more at 64 connections (hot_path).
    __slots__ = ("_held", "_incomplete_timer", "body_timeout_s", "in_head", "requests", "templates", "turn", "used")

    body_timeout_s: float
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

    def resume_writing(self) -> None:
        super().resume_writing()
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
        if self.transport.is_closing():
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
        error = RequestTimeout(f"the request did not arrive within {self.body_timeout_s:g} s")
        if self.in_head:
            self.reject(error)
        else:
            self.cycle.keep_alive = False
            self.cycle.refuse(error)

    # End

    def reject(self, error: ClipperError) -> None:
        """Refuse a request whose head is not complete, and close the connection."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            status, headers, body = render(error, new_request_id())
            date = self.templates.date(self.server_state.default_headers)
            start = (STATUS_LINE[status], date, header_lines(headers))
            self.transport.write(b"".join((*start, b"connection: close\r\n\r\n", body)))
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._incomplete_timer is not None:
            self._incomplete_timer.cancel()
            self._incomplete_timer = None
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        self._held = None
        turn, self.turn = self.turn, None  # uvicorn disconnects the cycle of the latest request only
        if turn is not None and not turn.response_complete:
            turn.disconnected = True
            turn.message_event.set()
        super().connection_lost(exc)
