"""The answer to a finished invocation: status, header lines and body; the same on the fast path and over ASGI."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec
from starlette.types import Send

from clipper.contract.media_types import JSON, MSGPACK, OCTET_STREAM
from clipper_platform.gateway.errors import render
from clipper_platform.gateway.http.request_head import prefers_msgpack
from clipper_platform.serving.invocation import Invocation

__all__ = [
    "CACHE_STATUS",
    "Answer",
    "answer_of",
    "batch_timing",
    "common_lines",
    "content_type_value",
    "header_lines",
    "send_answer",
    "wait_timing",
]

# RFC 9211: what the platform's cache did, under its name.
CACHE_STATUS: Final = {
    "": b"",
    "hit": b"cache-status: clipper; hit\r\n",
    "shared": b"cache-status: clipper-shared; hit\r\n",
    "miss": b"cache-status: clipper; fwd=miss; stored\r\n",
    "collapsed": b"cache-status: clipper; fwd=miss; collapsed\r\n",
}


_VISIBLE: Final = re.compile(r"[ -~]{1,256}")


class Answer(NamedTuple):
    """`head`: header lines, each ended by CRLF, Content-Length included. X-Request-Id is left to the writer."""

    status: int
    head: bytes
    body: bytes | memoryview


def answer_of(invocation: Invocation) -> Answer:
    error = invocation.error
    if error is not None:
        status, headers, body = render(error, invocation.request_id)
        return Answer(status, header_lines(headers) + common_lines(invocation), body)
    content_type, payload, reason = invocation.content_type_out, invocation.payload, b""
    if invocation.default_reason:
        content_type, payload = _default_output(invocation)
        reason = b"x-clip-default: %b\r\n" % invocation.default_reason.encode()
    head = b"content-type: %b\r\ncontent-length: %d\r\n%b%b" % (
        content_type_value(content_type),
        len(payload),
        reason,
        common_lines(invocation),
    )
    return Answer(200, head, payload)


@lru_cache(maxsize=1024)
def content_type_value(content_type: str) -> bytes:
    """The value of the header. It comes from the replica: one with a line break would begin another answer."""
    return content_type.encode() if _VISIBLE.fullmatch(content_type) else OCTET_STREAM.encode()


def _default_output(invocation: Invocation) -> tuple[str, bytes]:
    value = invocation.queue.spec.default_output
    if prefers_msgpack(invocation.accept):
        return MSGPACK, msgspec.msgpack.encode(value)
    return JSON, msgspec.json.encode(value)


def common_lines(invocation: Invocation) -> bytes:
    """The header lines that every answer of a function has: version, Cache-Status and Server-Timing."""
    cache = CACHE_STATUS[invocation.cache_status]
    dispatched = invocation.dispatched
    if not dispatched:
        timing = b"queue;dur=%.3f" % ((invocation.finished - invocation.arrived) * 1000)
    else:
        timing = wait_timing(invocation) + batch_timing(invocation)
        if invocation.cold is not None:
            timing += b", first_batch;dur=%.3f" % ((invocation.finished - dispatched) * 1000)
    version = invocation.queue.target.id.version
    return b"x-clip-version: %d\r\n%bserver-timing: %b\r\n" % (version, cache, timing)


def wait_timing(invocation: Invocation) -> bytes:
    """Server-Timing's entries for the time before the batch: `queue`, or on a cold start the phases of the start."""
    if invocation.cold is None:
        return b"queue;dur=%.3f" % ((invocation.dispatched - invocation.queued) * 1000)
    return ", ".join(f"{phase};dur={s * 1000:.3f}" for phase, s in invocation.cold.items()).encode()


def batch_timing(invocation: Invocation) -> bytes:
    """Server-Timing's entries for the batch; they follow those of `wait_timing`."""
    batch_ms, exec_ms = (invocation.finished - invocation.dispatched) * 1000, invocation.exec_s * 1000
    return b", batch;dur=%.3f, exec;dur=%.3f" % (batch_ms, exec_ms)


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % pair for pair in headers)


async def send_answer(send: Send, answer: Answer) -> None:
    """Send an answer over ASGI."""
    headers = []
    for line in answer.head.split(b"\r\n"):
        if line:
            name, _, value = line.partition(b": ")
            headers.append((name, value))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": bytes(answer.body), "more_body": False})
