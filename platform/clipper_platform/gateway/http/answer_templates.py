"""Answers of the fast path as bytes: what many answers have in common is encoded once."""

from __future__ import annotations

from typing import Any, Final

from clipper_platform.gateway.errors import render
from clipper_platform.gateway.http.answer import CACHE_STATUS, VARY, batch_timing, content_type_value, header_lines
from clipper_platform.gateway.http.answer_coding import PACKED_FROM_BYTES, is_packable
from clipper_platform.gateway.http.uvicorn_parts import STATUS_LINE
from clipper_platform.serving.cache import CachedResult
from clipper_platform.serving.invocation import Invocation, OwningQueue

__all__ = ["AnswerTemplates"]

MAX_HEADS: Final = 1024
# Stands for the request's id in a refusal that many requests get.
NO_ID: Final = "#" * 16
REFUSAL_LIFETIME_S: Final = 0.1  # in between, all refused requests of a function get the same numbers


class AnswerTemplates:
    """Shared by the connections of a server.

    Each method takes uvicorn's `default_headers` (the date): a list that it replaces every second, which empties
    the templates.
    """

    def __init__(self) -> None:
        self._date_source: object = None
        self._date = b""
        self._heads: dict[tuple[OwningQueue, str, int], bytes] = {}
        self._refusals: dict[OwningQueue, tuple[float, bytes, bytes]] = {}
        self._dispatched = self._finished = 0.0  # of the latest batch
        self._batch_timing = b""

    def date(self, default_headers: list[tuple[bytes, bytes]]) -> bytes:
        """uvicorn's own header lines."""
        if default_headers is not self._date_source:
            self._date_source = default_headers
            self._date = header_lines(default_headers)
            self._heads.clear()
            self._refusals.clear()
        return self._date

    def result(self, invocation: Invocation, default_headers: list[tuple[bytes, bytes]]) -> bytes:
        """The whole answer with an invocation's result, on a connection that stays open."""
        if default_headers is not self._date_source:
            self.date(default_headers)
        payload: Any = invocation.payload  # bytes or a memoryview
        dispatched, finished = invocation.dispatched, invocation.finished
        if dispatched:
            if dispatched != self._dispatched or finished != self._finished:
                self._dispatched, self._finished = dispatched, finished
                self._batch_timing = batch_timing(invocation)
            waited, timing = dispatched - invocation.queued, self._batch_timing
        else:
            waited, timing = finished - invocation.arrived, b""
        return b"%b%bserver-timing: queue;dur=%.3f%b\r\nx-request-id: %b\r\n\r\n%b" % (
            self._head(invocation.queue, invocation.content_type_out, len(payload)),
            CACHE_STATUS[invocation.cache_status],
            waited * 1000,
            timing,
            invocation.request_id.encode(),
            payload,
        )

    def hit(
        self,
        queue: OwningQueue,
        result: CachedResult,
        request_id: str,
        taken_s: float,
        default_headers: list[tuple[bytes, bytes]],
    ) -> bytes:
        """The head of the answer with a cached result, on a connection that stays open."""
        if default_headers is not self._date_source:
            self.date(default_headers)
        return b"%b%bserver-timing: queue;dur=%.3f\r\nx-request-id: %b\r\n\r\n" % (
            self._head(queue, result.content_type, len(result.payload)),
            CACHE_STATUS["hit"],
            taken_s * 1000,
            request_id.encode(),
        )

    def queue_full(self, invocation: Invocation, now: float, default_headers: list[tuple[bytes, bytes]]) -> bytes:
        """The whole 429, on a connection that stays open."""
        date, queue = self.date(default_headers), invocation.queue
        until, head, body = self._refusals.get(queue, (0.0, b"", b""))
        if now >= until:
            status, headers, body = render(queue.queue_full(), NO_ID)
            # Ids that clients send have any length, and so has the body.
            head = STATUS_LINE[status] + date + header_lines([h for h in headers if h[0] != b"content-length"])
            self._refusals[queue] = (now + REFUSAL_LIFETIME_S, head, body)
        id = invocation.request_id.encode()
        body = body.replace(NO_ID.encode(), id)
        return b"%bcontent-length: %d\r\nserver-timing: total;dur=%.3f\r\nx-request-id: %b\r\n\r\n%b" % (
            head,
            len(body),
            (now - invocation.arrived) * 1000,
            id,
            body,
        )

    def _head(self, queue: OwningQueue, content_type: str, length: int) -> bytes:
        """The lines that depend on little; Content-Length is one of them, as answers of a function have few lengths."""
        head = self._heads.get((queue, content_type, length))
        if head is None:
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            version = queue.target.id.version
            vary = VARY if length >= PACKED_FROM_BYTES and is_packable(content_type) else b""
            head = self._heads[queue, content_type, length] = (
                b"%b%bcontent-length: %d\r\ncontent-type: %b\r\n%bx-clip-version: %d\r\n"
                % (STATUS_LINE[200], self._date, length, content_type_value(content_type), vary, version)
            )
        return head
