"""The answer to a finished invocation: status, header lines and body; the same on the fast path and over ASGI."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec
from starlette.types import Send

from clipper.contract.media_types import JSON, MSGPACK, OCTET_STREAM
from clipper.contract.response import (
    BODILESS_STATUSES,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    RESPONSE_MARK,
    header_problem,
    status_problem,
)
from clipper.contract.wire import ResponseHead
from clipper_platform.core.caching import keeps_response
from clipper_platform.errors import InvalidResult
from clipper_platform.gateway.errors import render
from clipper_platform.gateway.http.answer_coding import PACKED_FROM_BYTES, is_packable, packed
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
    "header_pairs",
    "packable",
    "response_lines",
    "send_answer",
    "send_result",
    "wait_timing",
]

# RFC 9211: what the platform's cache did, under its name.
CACHE_STATUS: Final = {
    "": b"",
    "hit": b"cache-status: clipper; hit\r\n",
    "shared": b"cache-status: clipper-shared; hit\r\n",
    "miss": b"cache-status: clipper; fwd=miss; stored\r\n",
    "collapsed": b"cache-status: clipper; fwd=miss; collapsed\r\n",
    "materialized": b"cache-status: clipper; hit; detail=materialized\r\n",
    "materialized-stale": b"cache-status: clipper; hit; detail=materialized; stale\r\n",
}
UNSTORED: Final = {"miss": b"cache-status: clipper; fwd=miss\r\n"}

VARY: Final = b"vary: accept-encoding\r\n"
LENGTHLESS_STATUSES: Final = frozenset({204, 304})  # RFC 9110 §8.6

_VISIBLE: Final = re.compile(r"[ -~]{1,256}")


class Answer(NamedTuple):
    """`head`: header lines, each ended by CRLF, Content-Length included. X-Request-Id is left to the writer."""

    status: int
    head: bytes
    body: bytes | memoryview


def answer_of(invocation: Invocation, packed_body: bytes | None = None, coding: str = "") -> Answer:
    """`packed_body`: the payload in the `coding`, where the client takes it (`packable`)."""
    error = invocation.error
    if error is None and invocation.response is not None and (problem := status_problem(invocation.response.status)):
        error = InvalidResult(f"the replica's answer: {problem}")
    if error is not None:
        status, headers, body = render(error, invocation.request_id)
        return Answer(status, header_lines(headers) + common_lines(invocation), body)
    status, content_type, payload, lines = 200, invocation.content_type_out, invocation.payload, b""
    if invocation.default_reason:
        content_type, payload = _default_output(invocation)
        lines = b"x-clip-default: %b\r\n" % invocation.default_reason.encode()
    elif invocation.response is not None:
        status, lines = invocation.response.status, response_lines(invocation.response)
    if packable(invocation):
        lines += VARY
    if packed_body is not None:
        payload = packed_body
        lines += b"content-encoding: %b\r\n" % coding.encode()
    if content_type or invocation.response is None:
        lines = b"content-type: %b\r\n%b" % (content_type_value(content_type), lines)
    if status in BODILESS_STATUSES:
        payload = b""
    if status not in LENGTHLESS_STATUSES:
        lines = b"content-length: %d\r\n%b" % (len(payload), lines)
    return Answer(status, lines + common_lines(invocation), payload)


def packable(invocation: Invocation) -> bool:
    """Whether the payload is sent packed to a client that takes it so."""
    if len(invocation.payload) < PACKED_FROM_BYTES or invocation.error is not None or invocation.default_reason:
        return False
    head = invocation.response
    if head is not None and (
        head.status in BODILESS_STATUSES or any(name == "content-encoding" for name, _ in head.headers)
    ):
        return False
    return is_packable(invocation.content_type_out)


@lru_cache(maxsize=1024)
def response_lines(response: ResponseHead) -> bytes:
    """The header lines of what a function said about its answer. They come from the replica: what a function may not
    set is left out."""
    size, lines = 0, [b"%b: 1\r\n" % RESPONSE_MARK.encode()]
    for name, value in response.headers[:MAX_HEADERS]:
        size += len(name) + len(value) + 4
        if size <= MAX_HEADER_BYTES and not header_problem(name, value):
            lines.append(b"%b: %b\r\n" % (name.lower().encode(), value.encode("latin-1")))
    return b"".join(lines)


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
    if invocation.cache_status in UNSTORED and not _is_kept(invocation):
        cache = UNSTORED[invocation.cache_status]
    dispatched = invocation.dispatched
    if not dispatched:
        timing = b"queue;dur=%.3f" % ((invocation.finished - invocation.arrived) * 1000)
    else:
        timing = wait_timing(invocation) + batch_timing(invocation)
        if invocation.cold is not None:
            timing += b", first_batch;dur=%.3f" % ((invocation.finished - dispatched) * 1000)
    version = invocation.queue.target.id.version
    return b"x-clip-version: %d\r\n%bserver-timing: %b\r\n" % (version, cache, timing)


def _is_kept(invocation: Invocation) -> bool:
    """Whether it is a result that the cache keeps: no error, no default output."""
    head = invocation.response
    if invocation.error is not None or invocation.default_reason:
        return False
    return head is None or keeps_response(head.status, head.headers)


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


def header_pairs(lines: bytes) -> list[tuple[bytes, bytes]]:
    pairs = []
    for line in lines.split(b"\r\n"):
        if line:
            name, _, value = line.partition(b": ")
            pairs.append((name, value))
    return pairs


async def send_result(send: Send, invocation: Invocation, coding: str) -> None:
    """Send the answer to an invocation over ASGI, in the coding that the client prefers."""
    body = await packed(invocation.payload, coding) if coding and packable(invocation) else None
    await send_answer(send, answer_of(invocation, body, coding))


async def send_answer(send: Send, answer: Answer) -> None:
    """Send an answer over ASGI."""
    await send({"type": "http.response.start", "status": answer.status, "headers": header_pairs(answer.head)})
    await send({"type": "http.response.body", "body": bytes(answer.body), "more_body": False})
