"""`POST /fn/{project}/{function}[@{version}]` and the function's schema, over ASGI.

This is the way of everything that the fast path does not take: streams, unusual requests, and every refusal that comes
before the body.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import Any

import msgspec
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from clipper.contract.media_types import FORM
from clipper_platform.errors import InvalidRequest, NotFound
from clipper_platform.gateway.http.answer import Answer, send_answer, send_result
from clipper_platform.gateway.http.content_coding import unpacked
from clipper_platform.gateway.http.invoke_service import InvokeRequest, InvokeService
from clipper_platform.gateway.http.request_body import read_request_body
from clipper_platform.gateway.http.request_head import RequestHead, read_head
from clipper_platform.gateway.http.request_id import new_request_id
from clipper_platform.gateway.http.stream import FRAMINGS, ItemSink, send_array, send_items
from clipper_platform.serving.invocation import Invocation

__all__ = ["InvokeEndpoint", "SchemaEndpoint", "invoke_routes"]


class InvokeEndpoint:
    def __init__(self, service: InvokeService, *, body_timeout_s: float) -> None:
        self._service = service
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        arrived = service.clock.monotonic()
        head = read_head(scope["headers"])
        path = _path(scope)
        queue = await service.find(path, head)
        limit = service.max_body_bytes
        body = await read_request_body(scope, receive, limit_bytes=limit, timeout_s=self._body_timeout_s)
        if head.encoding:
            body = await unpacked(body, head.encoding, limit)
        if query := scope["query_string"]:
            head, body = _query_as_form(query, head, body)
        request = InvokeRequest(
            queue=queue,
            pinned="@" in path,
            head=head,
            id=scope.get("state", {}).get("request_id") or new_request_id(),  # the middleware sets it
            body=body,
            arrived=arrived,
        )
        # A function whose first replica is still starting may turn out to stream.
        if queue.streaming is not False or head.stream_type:
            await self._stream(request, receive, send)
        else:
            await self._single(request, receive, send)

    async def _single(self, request: InvokeRequest, receive: Receive, send: Send) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def finish(_: Invocation) -> None:
            if not done.done():
                done.set_result(None)

        invocation = self._service.begin(request, finish)
        if await self._wait(done, invocation, receive):
            await send_result(send, invocation, request.head.coding)

    async def _wait(self, done: asyncio.Future[None], invocation: Invocation, receive: Receive) -> bool:
        """True once the answer exists; False when the client disconnected first, which cancels the invocation."""
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
            await _cancelled(gone)

    async def _stream(self, request: InvokeRequest, receive: Receive, send: Send) -> None:
        dispatcher, sink, coding = self._service.dispatcher, ItemSink(), request.head.coding
        invocation = self._service.begin(request, lambda _: sink.end(), sink)

        def credit() -> None:
            dispatcher.credit(invocation, 1)

        gone = asyncio.ensure_future(self._watch(invocation, receive))
        try:
            if request.head.stream_type:
                await send_items(invocation, sink, credit, send, framing=FRAMINGS[request.head.stream_type])
            else:
                await send_array(invocation, sink, credit, send, max_bytes=self._service.max_body_bytes, coding=coding)
        finally:
            dispatcher.cancel(invocation)
            await _cancelled(gone)

    async def _watch(self, invocation: Invocation, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._service.dispatcher.cancel(invocation)


class SchemaEndpoint:
    """`GET /fn/{project}/{function}/schema`."""

    def __init__(self, service: InvokeService) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        queue = await self._service.find(_path(scope), read_head(scope["headers"]))
        schema, id = queue.schema, queue.target.id
        if schema is None:
            raise NotFound(f"{id} has no schema yet: its first replica is starting")
        body = msgspec.json.encode({"function": id.path, "version": id.version, **schema})
        head = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        await send_answer(send, Answer(200, head, body))


def invoke_routes(service: InvokeService, *, body_timeout_s: float) -> list[BaseRoute]:
    return [
        Route("/fn/{project}/{function}", InvokeEndpoint(service, body_timeout_s=body_timeout_s), methods=["POST"]),
        Route("/fn/{project}/{function}/schema", SchemaEndpoint(service), methods=["GET"]),
    ]


def _path(scope: Scope) -> str:
    params = scope["path_params"]
    return f"{params['project']}/{params['function']}"


def _query_as_form(query: bytes, head: RequestHead, body: bytes) -> tuple[RequestHead, bytes]:
    """Arguments in the address, as a form sends them: instead of a body, not beside one. Raises InvalidRequest."""
    if body:
        raise InvalidRequest(
            "arguments stand in the body or in the address, not in both: "
            f"leave out ?{query[:100].decode('latin-1')}, or the body"
        )
    return dataclasses.replace(head, content_type=FORM), query


async def _cancelled(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
