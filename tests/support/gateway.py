"""The gateway's HTTP on a real socket, over scripted replicas; with the fast path or without."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request

from clipper_platform.applications.applications import Applications
from clipper_platform.gateway.http.fast_path import FastPathOptions, fast_protocol
from clipper_platform.gateway.http.invoke_endpoint import invoke_routes
from clipper_platform.gateway.http.invoke_service import Authorize, InvokeService
from clipper_platform.gateway.http.predict_endpoint import application_routes
from clipper_platform.gateway.http.predict_service import PredictService
from clipper_platform.gateway.middleware import RequestMiddleware
from clipper_platform.gateway.origin_policy import OriginPolicy
from tests.support.applications import applications_over
from tests.support.memory_backend import InMemoryBackend
from tests.support.serving import Harness, harness

__all__ = ["Gateway", "gateway"]


class Gateway:
    def __init__(self, h: Harness, applications: Applications, server: uvicorn.Server, port: int) -> None:
        self.harness = h
        self.applications = applications
        self.server = server
        self.port = port

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def exchange(self, data: bytes, *, timeout_s: float = 5) -> bytes:
        """Send bytes on a connection of their own, half-close nothing, read until the server closes."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            async with asyncio.timeout(timeout_s):
                return await reader.read()
        finally:
            writer.close()


async def _raise(request: Request, error: Exception) -> None:
    raise error


@asynccontextmanager
async def gateway(
    backend: InMemoryBackend | None = None,
    *,
    fast_path: bool,
    max_body_bytes: int = 1 << 20,
    body_timeout_s: float = 5.0,
    authorize: Authorize = lambda _, __: None,
) -> AsyncIterator[Gateway]:
    async with harness(backend) as h:
        service = InvokeService(h.dispatcher, clock=h.clock, authorize=authorize, max_body_bytes=max_body_bytes)
        applications = applications_over(h.dispatcher, clock=h.clock, metrics=h.metrics)
        predictions = PredictService(applications, clock=h.clock, authorize=authorize, max_body_bytes=max_body_bytes)
        policy = OriginPolicy("127.0.0.1")
        app = Starlette(
            routes=[
                *invoke_routes(service, body_timeout_s=body_timeout_s),
                *application_routes(predictions, body_timeout_s=body_timeout_s),
            ],
            middleware=[Middleware(RequestMiddleware, origin_policy=policy, clock=h.clock)],
            exception_handlers={HTTPException: _raise},
        )
        app.router.redirect_slashes = False
        options = FastPathOptions(
            service=service,
            predictions=predictions,
            host_allowed=policy.allows_host,
            body_timeout_s=body_timeout_s,
            enabled=fast_path,
        )
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, http=fast_protocol(options), ws="none", lifespan="off", log_config=None, access_log=False,
            server_header=False, timeout_graceful_shutdown=5,
        )  # fmt: skip
        server = uvicorn.Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        await server.on_tick(0)  # makes the Date header
        try:
            yield Gateway(h, applications, server, listener.getsockname()[1])
        finally:
            await server.shutdown(sockets=[listener])
