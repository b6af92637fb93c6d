"""A query of an application on the fast path: as `FastCycle`, with an application's request for an invocation."""

from __future__ import annotations

from collections.abc import Sequence

from clipper_platform.applications.live import LiveApplication
from clipper_platform.applications.requests import Request, begin_request
from clipper_platform.errors import ClipperError
from clipper_platform.gateway.http.answer import Answer
from clipper_platform.gateway.http.cycle import JOIN_BELOW, FastConnection, FastCycle
from clipper_platform.gateway.http.predict_service import json_answer, refusal
from clipper_platform.gateway.http.uvicorn_parts import STATUS_LINE

__all__ = ["PredictCycle"]


class PredictCycle(FastCycle):
    """`request` is there while the application works on it."""

    __slots__ = ("arrived", "body", "live", "request", "request_id", "timeout_s")

    def __init__(
        self,
        connection: FastConnection,
        live: LiveApplication,
        request_id: str,
        arrived: float,
        timeout_s: float,
        body: bytes = b"",
    ) -> None:
        self.connection = connection
        self.invocation = None
        self.live = live
        self.request_id = request_id
        self.arrived = arrived
        self.timeout_s = timeout_s
        self.body: bytes = body
        self.request: Request | None = None
        self.parts: list[bytes | memoryview] | None = None
        self.size = 0
        self.more_body = self.keep_alive = True
        self.started = False
        self.response_complete = self.disconnected = False

    def set(self) -> None:
        if self.disconnected and self.request is not None:
            request, self.request = self.request, None
            request.cancel()

    def receive(self, part: bytes) -> None:
        if self.parts is not None:
            self.parts.append(part)
        elif self.size:
            self.parts = [self.body, part]
        else:
            self.body = part
        self.size += len(part)

    def begin(self, cache_key: bytes = b"") -> None:
        body = self.body if self.parts is None else b"".join(self.parts)
        self.body, self.parts = b"", None
        try:
            request = begin_request(self.live, body, self.request_id, self.arrived, self.timeout_s, self.predicted)
        except ClipperError as error:
            self.refuse(error)
            return
        if not self.response_complete:
            self.request = request

    def predicted(self, body: bytes, reasons: Sequence[str], error: ClipperError | None) -> None:
        """The application answered the request."""
        self.request = None
        if self.disconnected:
            return
        connection = self.connection
        transport = connection.transport
        taken_s = connection.now() - self.arrived
        if error is not None:
            self._send(refusal(error, self.request_id, taken_s))
            return
        if reasons or not self.keep_alive or len(body) >= JOIN_BELOW:
            self._send(json_answer(body, taken_s, reasons))
            return
        self.response_complete = True
        if transport.is_closing():
            return
        transport.write(
            b"%b%bcontent-type: application/json\r\ncontent-length: %d\r\nserver-timing: total;dur=%.3f\r\n"
            b"x-request-id: %b\r\n\r\n%b"
            % (
                STATUS_LINE[200],
                connection.templates.date(connection.server_state.default_headers),
                len(body),
                taken_s * 1000,
                self.request_id.encode(),
                body,
            )
        )
        connection.on_response_complete()

    def refuse(self, error: ClipperError) -> None:
        self.request = None
        self._send(refusal(error, self.request_id, self.connection.now() - self.arrived))

    def _send(self, answer: Answer) -> None:
        connection, transport = self.connection, self.connection.transport
        self.response_complete = True
        if transport.is_closing():
            return
        start = b"%b%b%bx-request-id: %b\r\n%b\r\n" % (
            STATUS_LINE[answer.status],
            connection.templates.date(connection.server_state.default_headers),
            answer.head,
            self.request_id.encode(),
            b"" if self.keep_alive else b"connection: close\r\n",
        )
        if len(answer.body) < JOIN_BELOW:
            transport.write(start + answer.body)
        else:
            transport.writelines([start, answer.body])
        if not self.keep_alive:
            transport.close()
        connection.on_response_complete()
