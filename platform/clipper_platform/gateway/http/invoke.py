"""Invocations over HTTP: `POST /fn/{project}/{function}[@{version}]` and the function's schema.

`InvokeService` knows what the request's headers mean and what the answer's say; it serves both ways in, the Starlette
endpoint here and `gateway.fastpath`. The body passes through: neither decodes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from clipper_platform.clock import Clock
from clipper_platform.errors import (
    ClientClosed,
    InvalidRequest,
    InvalidResult,
    NotFound,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)
from clipper_platform.gateway.errors import render
from clipper_platform.serving.dispatcher import Dispatcher
from clipper_platform.serving.function_queue import FunctionQueue
from clipper_platform.serving.invocation import Invocation, StreamSink

__all__ = ["InvokeService", "RequestHead", "invoke_routes", "new_request_id", "read_head", "request_id"]

JSON = "application/json"
MSGPACK = "application/msgpack"
EVENT_STREAM = "text/event-stream"

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}\Z")
# W3C Trace Context: version, trace id, parent id, flags; an all-zero trace id is invalid.
TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}\Z")

Authorize = Callable[[str | None, bool], None]
"""(Authorization header, whether the function is public): returns, or raises Unauthenticated or Forbidden."""


request_ids: list[str] = []  # made and not used yet


def new_request_id() -> str:
    """64 random bits: unique among the requests of a log's lifetime. Made 256 at a time, which costs a third."""
    if not request_ids:
        digits = os.urandom(256 * 8).hex()
        request_ids.extend([digits[start : start + 16] for start in range(0, len(digits), 16)])
    return request_ids.pop()


def request_id(given: str, traceparent: str = "") -> str:
    """The caller's own id if it is one, else the trace that the request belongs to, so that logs and traces meet,
    else a new one."""
    if given and REQUEST_ID.match(given):
        return given
    if traceparent and (trace := TRACEPARENT.match(traceparent)):
        return trace[1]
    return new_request_id()


class RequestHead:
    """What the headers of an invocation say, its id aside. Shared by the requests that say the same."""

    __slots__ = ("accept", "authorization", "content_type", "encoding", "timeout_ms")

    def __init__(self) -> None:
        self.content_type = JSON
        self.accept = "*/*"
        self.authorization: str | None = None
        self.timeout_ms = b""
        self.encoding = b""

    def timeout_s(self, limit_s: float) -> float:
        """Seconds that the invocation may take, at most `limit_s`. Raises InvalidRequest."""
        if not self.timeout_ms:
            return limit_s
        try:
            milliseconds = float(self.timeout_ms)
        except ValueError:
            milliseconds = 0.0
        if not 0 < milliseconds < float("inf"):
            raise InvalidRequest(
                f"X-Clip-Timeout-Ms: {self.timeout_ms.decode('latin-1')!r} is not a number of milliseconds above 0"
            )
        return min(limit_s, milliseconds / 1000)


# Clients repeat the same few values, so each is normalised once; bounded, for clients that don't.
_media_types: dict[bytes, str] = {}


def media_type(raw: bytes) -> str:
    """The type without its parameters, in lower case."""
    known = _media_types.get(raw)
    if known is None:
        known = raw.split(b";", 1)[0].strip().lower().decode("latin-1")
        if len(_media_types) < 1024:
            _media_types[raw] = known
    return known


def read_head(headers: Iterable[tuple[bytes, bytes]]) -> RequestHead:
    """Pick what an invocation needs from header pairs with lower-case names. Never raises."""
    head = RequestHead()
    for name, value in headers:
        if name == b"content-type":
            head.content_type = media_type(value) or JSON
        elif name == b"accept":
            head.accept = value.decode("latin-1") if value != b"*/*" else "*/*"
        elif name == b"authorization":
            head.authorization = value.decode("latin-1")
        elif name == b"x-clip-timeout-ms":
            head.timeout_ms = value
        elif name == b"content-encoding":
            head.encoding = value
    return head


class InvokeService:
    """Between HTTP and the dispatcher. `open_invoke`: `authorize` lets every invocation pass and need not be asked."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        clock: Clock,
        authorize: Authorize,
        max_body_bytes: int,
        open_invoke: bool = False,
        wake: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self.dispatcher = dispatcher
        self._wake = wake
        self.max_body_bytes = max_body_bytes
        self.clock = clock
        self._authorize = authorize
        self.open_invoke = open_invoke
        self._defaults: dict[tuple[FunctionQueue, str], bytes] = {}

    def queue(self, path: str, head: RequestHead) -> FunctionQueue:
        """The queue of `project/function[@version]`, if the caller may use it. Raises the refusal."""
        queue = self.dispatcher.routed.get(path)
        if queue is not None and self.open_invoke:
            return queue
        try:
            queue = self.dispatcher.resolve(path)
        except NotFound:
            self._authorize(head.authorization, False)  # who may not call learns nothing about what there is
            raise
        if not self.open_invoke:
            self._authorize(head.authorization, queue.spec.public)
        return queue

    async def find(self, path: str, head: RequestHead) -> FunctionQueue:
        """Like `queue`, but a version that does not run is started where there is a way to."""
        try:
            return self.queue(path, head)
        except NotFound:
            if self._wake is None:
                raise
        await self._wake(path)
        return self.queue(path, head)

    def begin(
        self,
        queue: FunctionQueue,
        head: RequestHead,
        id: str,
        body: bytes,
        on_done: Callable[[Invocation], Any],
        *,
        arrived: float,
        sink: StreamSink | None = None,
    ) -> Invocation:
        """Hand an invocation to the dispatcher, which will call `on_done` once. Raises a refusal instead."""
        if head.encoding and head.encoding != b"identity":
            raise UnsupportedMediaType("Content-Encoding is not supported: send the body as it is")
        invocation = Invocation(
            queue,
            request_id=id,
            content_type=head.content_type,
            accept=head.accept,
            body=body,
            arrived=arrived,
            deadline=arrived + (head.timeout_s(queue.spec.timeout_s) if head.timeout_ms else queue.spec.timeout_s),
            on_done=on_done,
            sink=sink,
        )
        self.dispatcher.invoke(invocation)
        return invocation

    def answer(self, invocation: Invocation) -> tuple[int, bytes, bytes | memoryview]:
        """Status, header lines (each ended by CRLF, Content-Length included) and body of a finished invocation.
        X-Request-Id is left to the way that it goes out by."""
        error = invocation.error
        if error is not None:
            status, headers, body = render(error, invocation.request_id)
            return status, header_lines(headers) + common_lines(invocation), body
        if invocation.default_reason:
            content_type, payload = self._default(invocation)
            reason = b"x-clip-default: %b\r\n" % invocation.default_reason.encode()
            head = b"content-type: %b\r\ncontent-length: %d\r\n%b%b"
            return 200, head % (content_type.encode(), len(payload), reason, common_lines(invocation)), payload
        head = b"content-type: %b\r\ncontent-length: %d\r\n%b" % (
            invocation.content_type_out.encode("latin-1"),
            len(invocation.payload),
            common_lines(invocation),
        )
        return 200, head, invocation.payload

    def _default(self, invocation: Invocation) -> tuple[str, bytes]:
        kind = MSGPACK if invocation.accept.startswith(MSGPACK) else JSON
        key = (invocation.queue, kind)
        if key not in self._defaults:
            encode = msgspec.msgpack.encode if kind == MSGPACK else msgspec.json.encode
            if len(self._defaults) > 1000:
                self._defaults.clear()  # queues come and go; the values are cheap to make again
            self._defaults[key] = encode(invocation.queue.spec.default_output)
        return kind, self._defaults[key]


# RFC 9211: what this cache did, under our name.
CACHE_STATUS = {
    "": b"",
    "hit": b"cache-status: clipper; hit\r\n",
    "shared": b"cache-status: clipper-shared; hit\r\n",
    "miss": b"cache-status: clipper; fwd=miss; stored\r\n",
    "collapsed": b"cache-status: clipper; fwd=miss; collapsed\r\n",
}


def common_lines(invocation: Invocation) -> bytes:
    """The header lines that every answer of a queue has."""
    cache = CACHE_STATUS[invocation.cache_status]
    dispatched = invocation.dispatched
    if not dispatched:
        return b"x-clip-version: %d\r\n%bserver-timing: queue;dur=%.3f\r\n" % (
            invocation.queue.target.id.version,
            cache,
            (invocation.finished - invocation.arrived) * 1000,
        )
    first = b""
    if invocation.cold is not None:
        first = b", first_batch;dur=%.3f" % ((invocation.finished - dispatched) * 1000)
    return b"x-clip-version: %d\r\n%bserver-timing: %b%b%b\r\n" % (
        invocation.queue.target.id.version,
        cache,
        wait_timing(invocation),
        batch_timing(invocation),
        first,
    )


def wait_timing(invocation: Invocation) -> bytes:
    """What Server-Timing says of the time before the batch: `queue` and, on a cold start, the phases of the start,
    which are no part of `queue` then."""
    if invocation.cold is None:
        return b"queue;dur=%.3f" % ((invocation.dispatched - invocation.queued) * 1000)
    return ", ".join(f"{phase};dur={s * 1000:.3f}" for phase, s in invocation.cold.items()).encode()


def batch_timing(invocation: Invocation) -> bytes:
    """What Server-Timing says of the batch, after the time in the queue."""
    batch_ms, exec_ms = (invocation.finished - invocation.dispatched) * 1000, invocation.exec_s * 1000
    return b", batch;dur=%.3f, exec;dur=%.3f" % (batch_ms, exec_ms)


class _Chunks:
    """Sink of a stream: what the replica sent and the client has not taken yet. Bounded by the credit given out."""

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[tuple[bytes, str] | None] = asyncio.Queue()
        self.kept: list[tuple[bytes, str]] = []  # where all are wanted in one answer

    def chunk(self, payload: bytes, content_type: str) -> None:
        self.waiting.put_nowait((payload, content_type))

    def end(self) -> None:
        self.waiting.put_nowait(None)


class InvokeEndpoint:
    """The ASGI way: everything that the fast path hands on, and streams."""

    def __init__(self, service: InvokeService, *, body_timeout_s: float) -> None:
        self._service = service
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        arrived = service.clock.monotonic()
        head = read_head(scope["headers"])
        id = scope.get("state", {}).get("request_id") or new_request_id()  # the one that the outer layers tell
        params = scope["path_params"]
        queue = await service.find(f"{params['project']}/{params['function']}", head)
        body = await self._read_body(scope, receive)
        # A function whose first replica is still starting may turn out to stream.
        if queue.streaming is not False or EVENT_STREAM in head.accept:
            await self._stream(queue, head, id, body, arrived, receive, send)
        else:
            await self._single(queue, head, id, body, arrived, receive, send)

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        limit = self._service.max_body_bytes
        too_large = PayloadTooLarge(f"the body is over the limit of {limit} bytes (max_body_bytes)")
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > limit:
                raise too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientClosed("the caller went away while it sent the body")
                    part = message.get("body", b"")
                    size += len(part)
                    if size > limit:
                        raise too_large
                    parts.append(part)
                    if not message.get("more_body", False):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError:
            raise RequestTimeout(f"the body did not arrive within {self._body_timeout_s:g} s") from None

    async def _single(
        self,
        queue: FunctionQueue,
        head: RequestHead,
        id: str,
        body: bytes,
        arrived: float,
        receive: Receive,
        send: Send,
    ) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def finish(_: Invocation) -> None:
            if not done.done():
                done.set_result(None)

        invocation = self._service.begin(queue, head, id, body, finish, arrived=arrived)
        if await self._wait(done, invocation, receive):
            await send_answer(send, *self._service.answer(invocation))

    async def _wait(self, done: asyncio.Future[None], invocation: Invocation, receive: Receive) -> bool:
        """Until the answer is there (True) or the caller went away and the invocation is cancelled (False)."""
        gone = asyncio.ensure_future(receive())
        waiting: set[asyncio.Future[Any]] = {done, gone}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if done.done():
                return True
            self._service.dispatcher.cancel(invocation)
            return False
        except asyncio.CancelledError:
            self._service.dispatcher.cancel(invocation)
            raise
        finally:
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone

    # Streams

    async def _stream(
        self,
        queue: FunctionQueue,
        head: RequestHead,
        id: str,
        body: bytes,
        arrived: float,
        receive: Receive,
        send: Send,
    ) -> None:
        events = EVENT_STREAM in head.accept
        if events:
            head.accept = JSON  # the form of each item
        sink = _Chunks()
        invocation = self._service.begin(queue, head, id, body, lambda _: sink.end(), arrived=arrived, sink=sink)
        gone = asyncio.ensure_future(self._watch(invocation, receive))
        try:
            if events:
                await self._send_events(queue, invocation, sink, send)
            else:
                await self._collect(queue, invocation, sink)
                await self._send_collected(invocation, sink, send)
        finally:
            self._service.dispatcher.cancel(invocation)
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone

    async def _watch(self, invocation: Invocation, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._service.dispatcher.cancel(invocation)

    async def _collect(self, queue: FunctionQueue, invocation: Invocation, sink: _Chunks) -> None:
        """All items of a stream that was not asked for as events, for one answer; bounded like a body."""
        size = 0
        while (chunk := await sink.waiting.get()) is not None:
            sink.kept.append(chunk)
            size += len(chunk[0])
            if size > self._service.max_body_bytes:
                raise InvalidResult(
                    f"the stream's items are over {self._service.max_body_bytes} bytes together; "
                    f"ask for them one by one with Accept: {EVENT_STREAM}"
                )
            queue.credit(invocation, 1)

    async def _send_events(self, queue: FunctionQueue, invocation: Invocation, sink: _Chunks, send: Send) -> None:
        """Server-sent events: a `data` for each item, then `event: end`, or `event: error` with the error."""
        first = await sink.waiting.get()
        if first is None and invocation.error is not None:
            await send_answer(send, *self._service.answer(invocation))
            return
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", b"text/event-stream; charset=utf-8"),
                    (b"cache-control", b"no-store"),
                    (b"x-accel-buffering", b"no"),
                    (b"x-clip-version", str(queue.target.id.version).encode()),
                    (b"server-timing", wait_timing(invocation)),
                ],
            }
        )
        chunk = first
        while chunk is not None:
            await send({"type": "http.response.body", "body": event(chunk[0]), "more_body": True})
            queue.credit(invocation, 1)
            chunk = await sink.waiting.get()
        if invocation.error is not None:
            _, _, body = render(invocation.error, invocation.request_id)
            tail = event(body, "error")
        else:
            # A plain function answers a request for events with one of them.
            single = event(bytes(invocation.payload)) if first is None and invocation.payload else b""
            tail = single + event(b"{}", "end")
        await send({"type": "http.response.body", "body": tail, "more_body": False})

    async def _send_collected(self, invocation: Invocation, sink: _Chunks, send: Send) -> None:
        if invocation.error is None and sink.kept:
            invocation.payload, invocation.content_type_out = join_items(sink.kept)
        elif invocation.error is None and invocation.queue.streaming:
            invocation.payload, invocation.content_type_out = b"[]", JSON
        await send_answer(send, *self._service.answer(invocation))


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % pair for pair in headers)


def event(data: bytes, name: str = "") -> bytes:
    """One server-sent event; the JSON that we put in holds no bare newline, but what a function yields as text may."""
    lines = b"".join(b"data: " + line + b"\n" for line in data.splitlines() or [b""])
    return (f"event: {name}\n".encode() if name else b"") + lines + b"\n"


def join_items(chunks: list[tuple[bytes, str]]) -> tuple[bytes, str]:
    """The items of a stream as one array, in JSON or MessagePack."""
    if chunks[0][1] == MSGPACK:
        count = len(chunks)
        # MessagePack array headers: up to 15, 2**16 - 1 and 2**32 - 1 elements.
        if count < 16:
            header = bytes([0x90 | count])
        elif count < 1 << 16:
            header = b"\xdc" + count.to_bytes(2, "big")
        else:
            header = b"\xdd" + count.to_bytes(4, "big")
        return header + b"".join(payload for payload, _ in chunks), MSGPACK
    return b"[" + b",".join(payload for payload, _ in chunks) + b"]", JSON


async def send_answer(send: Send, status: int, head: bytes, body: bytes | memoryview) -> None:
    """An answer as `InvokeService.answer` gives it, over ASGI."""
    headers = []
    for line in head.split(b"\r\n"):
        if line:
            name, _, value = line.partition(b": ")
            headers.append((name, value))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": bytes(body), "more_body": False})


class SchemaEndpoint:
    """`GET /fn/{project}/{function}/schema`."""

    def __init__(self, service: InvokeService) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        params = scope["path_params"]
        queue = await self._service.find(f"{params['project']}/{params['function']}", read_head(scope["headers"]))
        schema = queue.schema
        if schema is None:
            raise NotFound(f"{queue.target.id} has no schema yet: its first replica is starting")
        body = msgspec.json.encode({"function": queue.target.id.path, "version": queue.target.id.version, **schema})
        head = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        await send_answer(send, 200, head, body)


def invoke_routes(service: InvokeService, *, body_timeout_s: float) -> list[BaseRoute]:
    return [
        Route("/fn/{project}/{function}", InvokeEndpoint(service, body_timeout_s=body_timeout_s), methods=["POST"]),
        Route("/fn/{project}/{function}/schema", SchemaEndpoint(service), methods=["GET"]),
    ]
