"""The step between HTTP and applications: which application a request may query, and the forms of its answers."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from clipper_platform.applications.applications import Applications
from clipper_platform.applications.live import LiveApplication
from clipper_platform.applications.refusals import BadQuery
from clipper_platform.clock import Clock
from clipper_platform.errors import ClipperError
from clipper_platform.gateway.errors import render
from clipper_platform.gateway.http.answer import Answer, header_lines
from clipper_platform.gateway.http.invoke_service import Authorize
from clipper_platform.gateway.http.request_head import RequestHead

__all__ = ["PredictService", "json_answer", "refusal"]


class PredictService:
    """`open_invoke`: every query is allowed, so `authorize` is not called."""

    def __init__(
        self,
        applications: Applications,
        *,
        clock: Clock,
        authorize: Authorize,
        max_body_bytes: int,
        open_invoke: bool = False,
    ) -> None:
        self.applications = applications
        self.clock = clock
        self.max_body_bytes = max_body_bytes
        self._authorize = authorize
        self._open_invoke = open_invoke

    def application(self, name: str, head: RequestHead) -> LiveApplication:
        """The application, if the caller may query it. Raises the refusal."""
        live = self.applications.live.get(name)
        if live is None:
            self._authorize(head.authorization, False)  # without a key, nobody learns which applications exist
            return self.applications.get(name)
        if not self._open_invoke:
            self._authorize(head.authorization, live.spec.public)
        return live

    def timeout_s(self, head: RequestHead) -> float:
        """What the caller allows; the application's objective may be shorter. Raises InvalidRequest."""
        return head.timeout_s(math.inf) if head.timeout_ms else math.inf


def json_answer(body: bytes, taken_s: float, reasons: Iterable[str] = (), status: int = 200) -> Answer:
    """`reasons`: for which default outputs answered."""
    default = b"x-clip-default: %b\r\n" % ", ".join(dict.fromkeys(reasons)).encode() if reasons else b""
    head = b"content-type: application/json\r\ncontent-length: %d\r\n%bserver-timing: total;dur=%.3f\r\n" % (
        len(body),
        default,
        taken_s * 1000,
    )
    return Answer(status, head, body)


def refusal(error: ClipperError, request_id: str, taken_s: float) -> Answer:
    """As every error is rendered, but for a bad query in the form of Clipper's."""
    if isinstance(error, BadQuery):
        return json_answer(bad_query_json(error), taken_s, status=error.status)
    status, headers, body = render(error, request_id)
    return Answer(status, header_lines(headers) + b"server-timing: total;dur=%.3f\r\n" % (taken_s * 1000), body)


def bad_query_json(error: BadQuery) -> bytes:
    return msgspec.json.encode({"error": error.kind, "cause": error.message})
