"""One request of the fast path: its body, its invocation and its answer.

A cycle has an invocation. That the cycle were one, a subclass, would save an object per request and 2.5% of a plain
request's processor time (`python -m tests.benchmarks.hot_path`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from clipper_platform.errors import ClipperError, InternalError
from clipper_platform.gateway.errors import render
from clipper_platform.gateway.http.answer import Answer, answer_of, header_lines, packable
from clipper_platform.gateway.http.answer_coding import IN_LOOP_BYTES, PACKED_FROM_BYTES, pack
from clipper_platform.gateway.http.answer_templates import AnswerTemplates
from clipper_platform.gateway.http.request_head import RequestHead
from clipper_platform.gateway.http.uvicorn_parts import STATUS_LINE, ServerState
from clipper_platform.serving.dispatcher import Dispatcher
from clipper_platform.serving.invocation import Invocation, OwningQueue

__all__ = ["JOIN_BELOW", "FastConnection", "FastCycle"]

access_logger = logging.getLogger("clipper_platform.access")

# Above this, head and body are passed to the transport apart: joining would copy more than a system call costs.
JOIN_BELOW: Final = 64 * 1024


class FastConnection(Protocol):
    """What a cycle needs of its connection."""

    transport: asyncio.Transport
    server_state: ServerState
    dispatcher: Dispatcher
    templates: AnswerTemplates
    now: Callable[[], float]

    def on_response_complete(self) -> None: ...


class FastCycle:
    """Takes the place of uvicorn's RequestResponseCycle, with the attributes that uvicorn's protocol uses:
    `keep_alive`, `disconnected`, `response_complete` and `message_event`."""

    __slots__ = (
        "coding", "connection", "disconnected", "invocation", "keep_alive", "more_body", "parts", "response_complete",
        "size", "started",
    )  # fmt: skip

    def __init__(
        self,
        connection: FastConnection,
        queue: OwningQueue,
        head: RequestHead,
        request_id: str,
        arrived: float,
        timeout_s: float,
        body: bytes = b"",
    ) -> None:
        self.connection = connection
        self.coding = head.coding
        # None once it is answered. Positional: with keywords a plain request takes 8% more (hot_path, Python 3.11).
        self.invocation: Invocation | None = Invocation(
            queue, request_id, head.content_type, head.accept, body, arrived, arrived + timeout_s, self.done
        )
        self.parts: list[bytes | memoryview] | None = None  # of a body that came in several pieces
        self.size = 0  # of the body, in bytes
        self.more_body = self.keep_alive = True
        self.started = False  # its turn came; a pipelined one waits for those before it
        self.response_complete = self.disconnected = False

    @property
    def message_event(self) -> FastCycle:
        """uvicorn sets the event when the connection is lost, after `disconnected`."""
        return self

    def set(self) -> None:
        if self.disconnected and self.invocation is not None:
            invocation, self.invocation = self.invocation, None
            self.connection.dispatcher.cancel(invocation)

    def receive(self, part: bytes) -> None:
        if self.invocation is None:
            return
        if self.parts is not None:
            self.parts.append(part)
        elif self.size:
            self.parts = [self.invocation.body, part]
        else:
            self.invocation.body = part
        self.size += len(part)

    def begin(self, cache_key: bytes = b"") -> None:
        """Invoke: the body is complete and the turn has come. `cache_key`: of a look-up that found nothing."""
        invocation = self.invocation
        if invocation is None:
            return
        if self.parts is not None:
            invocation.body, self.parts = b"".join(self.parts), None
        try:
            if not self.connection.dispatcher.offer(invocation, cache_key):
                self._refuse_full(invocation)
        except ClipperError as error:
            self.refuse(error)

    def done(self, invocation: Invocation) -> None:
        """The dispatcher answered the invocation."""
        self.invocation = None
        if self.disconnected:
            return
        connection = self.connection
        transport = connection.transport
        size = len(invocation.payload)
        if (
            invocation.error is not None
            or invocation.default_reason
            or invocation.response is not None
            or invocation.cold is not None
            or not self.keep_alive
            or (size >= PACKED_FROM_BYTES and (self.coding or size >= JOIN_BELOW))
            or transport.is_closing()
        ):
            if self.coding and packable(invocation):
                self._pack(invocation)
            else:
                self._write(answer_of(invocation), invocation)
            return
        self.response_complete = True
        transport.write(connection.templates.result(invocation, connection.server_state.default_headers))
        connection.on_response_complete()

    def _pack(self, invocation: Invocation) -> None:
        """Answer with the packed result: at once, or where packing takes long when a thread has done it."""
        coding, payload = self.coding, invocation.payload
        if len(payload) <= IN_LOOP_BYTES:
            self._write(answer_of(invocation, pack(payload, coding), coding), invocation)
            return

        def answer(packing: asyncio.Future[bytes | None]) -> None:
            if not self.disconnected and not packing.cancelled():
                packed = None if packing.exception() is not None else packing.result()
                self._write(answer_of(invocation, packed, coding), invocation)

        asyncio.get_running_loop().run_in_executor(None, pack, payload, coding).add_done_callback(answer)

    def refuse(self, error: ClipperError) -> None:
        invocation, self.invocation = self.invocation, None
        if invocation is None:
            return
        status, headers, body = render(error, invocation.request_id)
        taken_ms = (self.connection.now() - invocation.arrived) * 1000
        head = b"%bserver-timing: total;dur=%.3f\r\n" % (header_lines(headers), taken_ms)
        self._write(Answer(status, head, body), invocation)

    def _refuse_full(self, invocation: Invocation) -> None:
        """As `refuse` with QueueFull, from a template: under overload most requests get this answer."""
        if not self.keep_alive:
            self.refuse(invocation.queue.queue_full())
            return
        self.invocation = None
        self.response_complete = True
        connection = self.connection
        if not connection.transport.is_closing():
            headers = connection.server_state.default_headers
            connection.transport.write(connection.templates.queue_full(invocation, connection.now(), headers))
        connection.on_response_complete()

    def _write(self, answer: Answer, invocation: Invocation) -> None:
        connection, transport = self.connection, self.connection.transport
        self.response_complete = True
        if transport.is_closing():
            return
        start = b"%b%b%bx-request-id: %b\r\n%b\r\n" % (
            STATUS_LINE[answer.status],
            connection.templates.date(connection.server_state.default_headers),
            answer.head,
            invocation.request_id.encode(),
            b"" if self.keep_alive else b"connection: close\r\n",
        )
        if len(answer.body) < JOIN_BELOW:
            transport.write(b"".join((start, answer.body)))
        else:
            transport.writelines([start, answer.body])
        if answer.status >= InternalError.status and access_logger.isEnabledFor(logging.INFO):
            extra = {"request_id": invocation.request_id}
            access_logger.info("POST /fn/%s %d", invocation.queue.name, answer.status, extra=extra)
        if not self.keep_alive:
            transport.close()
        connection.on_response_complete()
