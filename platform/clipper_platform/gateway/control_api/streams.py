"""NDJSON responses that stay open until their source ends, the client disconnects, or the platform drains."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from clipper.contract.media_types import NDJSON
from clipper_platform.gateway.lifecycle import Lifecycle

__all__ = ["HEARTBEAT_S", "LineStream"]

# Shorter than the idle timeouts of common proxies (60 s) and of clients that wait for a byte (30 s).
HEARTBEAT_S: Final = 15.0


class LineStream(Response):
    """`source` yields encoded lines, each with its line break. `on_close` is called at the end in every case."""

    media_type = NDJSON

    def __init__(
        self, source: AsyncGenerator[bytes, None], lifecycle: Lifecycle, on_close: Callable[[], None] | None = None
    ) -> None:
        self._source = source
        self._lifecycle = lifecycle
        self._on_close = on_close
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._stream(receive, send)
        finally:
            if self._on_close is not None:
                self._on_close()

    async def _stream(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        ends = [
            asyncio.create_task(self._pump(send), name="stream lines"),
            asyncio.create_task(_disconnected(receive), name="watch for the client's disconnect"),
            asyncio.create_task(self._lifecycle.drained(), name="watch for the platform's drain"),
        ]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ends:
                task.cancel()
            await asyncio.wait(ends)
        pump, gone, _ = ends
        if not pump.cancelled() and (error := pump.exception()) is not None:
            raise error
        if gone.cancelled():  # the client is still connected: end the response properly
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, send: Send) -> None:
        async with aclosing(self._source) as lines:
            async for line in lines:
                await send({"type": "http.response.body", "body": line, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
