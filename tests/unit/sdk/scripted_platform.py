"""A small real HTTP server that answers as the platform does, for the SDK's own tests."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

JSON = "application/json"
MSGPACK = "application/msgpack"


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes


def error_response(
    status: int, code: str, message: str = "no", headers: Mapping[str, str] | None = None, **details: Any
) -> Response:
    body = {"error": {"code": code, "message": message, "request_id": "req-1", **details}}
    return Response(json.dumps(body), status, dict(headers or {}), JSON)


def json_response(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value), status, media_type=JSON)


Handler = Callable[[Seen], Response]


@dataclass
class ScriptedPlatform:
    """`functions` answer invocations (arguments in, value out); `scripted` answers come first, in turn.

    `api` maps "METHOD /path" to a handler. `seen` are all requests, oldest first.
    """

    functions: dict[str, Callable[..., Any]] = field(default_factory=dict)
    schemas: dict[str, dict[str, Any]] = field(default_factory=dict)
    streams: dict[str, list[bytes]] = field(default_factory=dict)
    scripted: deque[Response] = field(default_factory=deque)
    api: dict[str, Handler] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0
    disconnects: int = 0
    url: str = ""

    def __post_init__(self) -> None:
        self.entered = threading.Event()  # an invocation of "hang" arrived
        self.left = threading.Event()  # and its client went away

    def paths(self) -> list[str]:
        return [f"{seen.method} {seen.path}" for seen in self.seen]

    async def handle(self, request: Request) -> Response:
        seen = Seen(
            request.method,
            request.scope["path"],
            {k.lower(): v for k, v in request.headers.items()},
            dict(request.query_params),
            await request.body(),
        )
        self.seen.append(seen)
        if self.scripted:
            return self.scripted.popleft()
        if handler := self.api.get(f"{seen.method} {seen.path}"):
            return handler(seen)
        parts = seen.path.strip("/").split("/")
        if parts[0] == "fn" and seen.method == "GET" and parts[-1] == "schema":
            schema = self.schemas.get(parts[2].partition("@")[0])
            return json_response(schema) if schema else error_response(404, "not_found", "no such function")
        if parts[0] == "fn" and seen.method == "POST" and len(parts) == 3:
            self.open_now += 1
            self.most_open = max(self.most_open, self.open_now)
            try:
                return await self.invoke(request, parts[2].partition("@")[0], seen)
            finally:
                self.open_now -= 1
        return error_response(404, "not_found", f"nothing at {seen.path}")

    async def invoke(self, request: Request, name: str, seen: Seen) -> Response:
        if name == "hang":
            self.entered.set()
            while (await request.receive())["type"] != "http.disconnect":
                pass
            self.left.set()
            return Response(status_code=499)
        if "text/event-stream" in seen.headers.get("accept", "") and name in self.streams:
            return StreamingResponse(self.pieces(name), media_type="text/event-stream")
        if name not in self.functions:
            return error_response(404, "not_found", f"no function {name}")
        binary = seen.headers.get("content-type") == MSGPACK
        arguments = msgspec.msgpack.decode(seen.body) if binary else json.loads(seen.body)
        value = self.functions[name](**arguments)
        if asyncio.iscoroutine(value):
            value = await value
        if isinstance(value, Response):
            return value
        if MSGPACK in seen.headers.get("accept", ""):
            return Response(msgspec.msgpack.encode(value), media_type=MSGPACK)
        return json_response(value)

    async def pieces(self, name: str) -> AsyncIterator[bytes]:
        try:
            for piece in self.streams[name]:
                yield piece
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.disconnects += 1
            raise


class Served:
    """Runs a scripted platform on a loopback port, in a thread, while the context lasts; `platform` may be replaced."""

    def __init__(self) -> None:
        self.platform = ScriptedPlatform()
        methods = ["GET", "HEAD", "POST", "PUT", "DELETE"]
        config = uvicorn.Config(
            Starlette(routes=[Route("/{path:path}", self.handle, methods=methods)]),
            log_level="critical",
            lifespan="off",
            ws="none",
            loop="asyncio",
            timeout_graceful_shutdown=1,
        )
        self.server = uvicorn.Server(config)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    async def handle(self, request: Request) -> Response:
        return await self.platform.handle(request)

    def __enter__(self) -> Served:
        # The socket listens already: requests made before the server's first turn wait in its backlog.
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        self.socket.close()
        assert not self.thread.is_alive()
