"""The fast path's protocol on a transport that is a list, with a clock that is the loop's and replicas in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send

from clipper.contract import wire
from clipper_platform.gateway.http.fast_path import FastPathOptions, FastPathProtocol, fast_protocol
from clipper_platform.gateway.http.invoke_service import InvokeService
from clipper_platform.gateway.http.uvicorn_parts import ServerState
from tests.support.memory_backend import Behaviour, InMemoryBackend, echo
from tests.support.serving import Harness, harness, target

__all__ = ["Held", "Line", "Server", "post", "serve"]

DATE = (b"date", b"Sun, 29 Nov 2026 00:00:00 GMT")


def post(body: bytes = b"1", *headers: bytes, path: bytes = b"/fn/p/f", host: bytes = b"h") -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n%b\r\n%b" % (path, host, len(body), lines, body)


class Transport(asyncio.Transport):
    """Keeps what is written; `full` is what a client that does not read leads to."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.writes = 0
        self.reading = True
        self.closed = False
        self.half_closed = False
        self.waiting_bytes = 0
        self.tcp_state = 8  # CLOSE_WAIT
        self.descriptor = 7

    def write(self, data: Any) -> None:
        assert not self.closed
        assert not self.half_closed
        self.written += bytes(data)
        self.writes += 1

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(bytes(part) for part in list_of_data))

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.half_closed = True

    def get_write_buffer_size(self) -> int:
        return self.waiting_bytes

    # Of its socket, which it is as well.

    def getsockopt(self, *_: int) -> bytes:
        return bytes([self.tcp_state])

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 2

    def getpeername(self) -> tuple[str, int]:
        return "127.0.0.1", 1

    def fileno(self) -> int:
        return self.descriptor

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"socket": self}.get(name, default)


class Line:
    """One connection. `send` is a read of the socket."""

    def __init__(self, protocol: FastPathProtocol) -> None:
        self.protocol = protocol
        self.transport = Transport()
        protocol.connection_made(self.transport)

    async def send(self, *reads: bytes) -> None:
        for data in reads:
            self.protocol.data_received(data)
        await settle()

    async def disconnect(self) -> None:
        self.transport.closed = True
        self.protocol.connection_lost(None)
        await settle()

    async def half_close(self) -> None:
        """The end of what the client sends; a transport closes itself unless the protocol keeps it."""
        if not self.protocol.eof_received():
            self.transport.close()
        await settle()

    def answers(self) -> list[tuple[int, bytes]]:
        """(status, body) of each answer so far; forgets them."""
        found, data = [], self.transport.written
        self.transport.written = b""
        while data:
            head, _, data = data.partition(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
            found.append((int(head.split()[1]), data[:length]))
            data = data[length:]
        return found


class Server:
    def __init__(self, h: Harness, *, enabled: bool, max_body_bytes: int, body_timeout_s: float) -> None:
        self.harness = h
        self.passed: list[dict[str, Any]] = []  # to Starlette: scope and body
        service = InvokeService(
            h.dispatcher,
            clock=h.clock,
            authorize=lambda _, __: None,
            max_body_bytes=max_body_bytes,
            open_invoke=True,
        )
        options = FastPathOptions(
            service=service, host_allowed=lambda host: host == "h", body_timeout_s=body_timeout_s, enabled=enabled
        )
        self._config = uvicorn.Config(
            self._app, interface="asgi3", log_config=None, access_log=False, ws="none", lifespan="off"
        )
        self._config.load()
        self.state = ServerState()
        self.state.default_headers = [DATE]
        self._protocol = fast_protocol(options)

    def connect(self) -> Line:
        return Line(self._protocol(self._config, self.state, {}))

    @property
    def invoked(self) -> int:
        """Items that the replicas got."""
        return sum(len(invoke.items) for replica in self.harness.backend.replicas for invoke in replica.invokes)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.passed.append({**scope, "body": body})
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"plain"})


class Held:
    """A behaviour that answers when it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        await self.go.wait()
        return await echo(invoke, payloads)


@asynccontextmanager
async def serve(
    behaviour: Behaviour = echo,
    *,
    enabled: bool = True,
    max_body_bytes: int = 1000,
    body_timeout_s: float = 30.0,
    **options: Any,
) -> AsyncIterator[Server]:
    async with harness(InMemoryBackend(behaviour)) as h:
        await h.deploy(target(**options))
        yield Server(h, enabled=enabled, max_body_bytes=max_body_bytes, body_timeout_s=body_timeout_s)


async def settle() -> None:
    """Let everything run that does not wait for time to pass."""
    for _ in range(20):
        await asyncio.sleep(0)
