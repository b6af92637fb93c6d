"""Load over raw HTTP/1.1: keep-alive connections in one event loop, each answer checked, none too many overlooked.

httpx costs about a millisecond for a request, which on two cores leaves the platform idle most of the time; this costs
a twentieth of that, so that faults meet full queues and full batches.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self

from tests.support.platform import PlatformProcess, eventually

__all__ = [
    "Connection", "EventStream", "Hung", "Reply", "Tally", "assert_idle", "counted", "drive", "hang_up", "request",
]  # fmt: skip

ANSWER_TIMEOUT_S = 90.0  # above every deadline in use: an answer that never comes is a finding, not a hang
_numbers = count(1)


class Hung(AssertionError):
    """The platform closed the connection, or went silent, instead of answering."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error's code; empty for a success."""
        return "" if self.status == 200 else str(self.json()["error"]["code"])

    @property
    def timing(self) -> dict[str, float]:
        """Server-Timing: phase → seconds."""
        phases = (part.strip().partition(";dur=") for part in self.headers["server-timing"].split(","))
        return {name: float(milliseconds) / 1000 for name, _, milliseconds in phases}


def request(path: str, arguments: Any, **headers: str) -> bytes:
    """The bytes of `POST /fn/{path}`, or to a path that begins with a slash; `x_clip_timeout_ms="50"` becomes the
    header of that name."""
    body = arguments if isinstance(arguments, bytes) else json.dumps(arguments).encode()
    given = {"host": "localhost", "content-type": "application/json", "content-length": str(len(body))}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    address = path if path.startswith("/") else f"/fn/{path}"
    return f"POST {address} HTTP/1.1\r\n{lines}\r\n".encode() + body


class Connection(asyncio.Protocol):
    """One request at a time. Bytes that come when nothing was asked end up in `surplus`."""

    def __init__(self) -> None:
        self.surplus = b""
        self._buffer = b""
        self._waiting: asyncio.Future[Reply] | None = None
        self._transport: asyncio.Transport | None = None
        self._lost = False

    @classmethod
    async def open(cls, port: int) -> Self:
        _, protocol = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return protocol

    async def ask(self, data: bytes) -> Reply:
        """Send a request and wait for its answer. Raises Hung."""
        return await self.receive(self.send(data))

    def send(self, data: bytes) -> asyncio.Future[Reply]:
        """Send a request; the future is its answer. Raises Hung."""
        if self._lost or self._transport is None:
            raise Hung("the platform closed an idle connection")
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return self._waiting

    async def receive(self, answer: asyncio.Future[Reply]) -> Reply:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await answer
        except TimeoutError:
            raise Hung(f"no answer within {ANSWER_TIMEOUT_S:g} s") from None

    def close(self) -> None:
        if self._transport is not None:
            # At once: a close that first wants to send the rest could outlive the loop.
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._waiting is None or self._waiting.done():
            self.surplus += data
            return
        self._buffer = self._buffer + data if self._buffer else data
        found = parse(self._buffer)
        if found is not None:
            reply, size = found
            self.surplus += self._buffer[size:]
            self._buffer = b""
            self._waiting.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(Hung(f"the connection ended before the answer: {exc or self._buffer!r}"))


def parse(data: bytes) -> tuple[Reply, int] | None:
    """The answer that `data` begins with and its size; None while it is incomplete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    start, *lines = data[:end].decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    headers = {name.lower(): value for name, _, value in pairs}
    size = end + 4 + int(headers["content-length"])
    if len(data) < size:
        return None
    return Reply(int(start.split(" ", 2)[1]), headers, data[end + 4 : size]), size


@dataclass
class Tally:
    """What a load saw: answers by status, and complaints about those that were not as they had to be."""

    statuses: Counter[int] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)

    @property
    def answers(self) -> int:
        return self.statuses.total()

    def assert_right(self) -> None:
        shown = "\n".join(self.complaints[:10])
        assert not self.complaints, f"{len(self.complaints)} of {self.answers} are wrong ({self.statuses}):\n{shown}"


Ask = Callable[[int], tuple[str, Any]]
"""The question with a number: the function's path, or one that begins with a slash, and its arguments."""

Check = Callable[[int, Reply], str]
"""What is wrong with the answer to the question with a number; empty when it is right."""


async def drive(
    port: int,
    ask: Ask,
    check: Check,
    *,
    until: Callable[[], bool],
    connections: int = 64,
    tally: Tally | None = None,
    **headers: str,
) -> Tally:
    """Keep `connections` busy with questions 0, 1, 2, … until `until()`; each gets one answer, with its own id.

    Pass a `tally` to watch it meanwhile.
    """
    tally = tally or Tally()
    questions = count()

    async def client() -> None:
        connection = await Connection.open(port)
        try:
            while not until():
                await exchange(connection, next(questions))
            await asyncio.sleep(0)  # a second answer to the last question would be here by now, or soon
        finally:
            connection.close()
        if connection.surplus:
            tally.complaints.append(f"bytes that nobody asked for: {connection.surplus[:200]!r}")

    async def exchange(connection: Connection, number: int) -> None:
        path, arguments = ask(number)
        name = f"load-{next(_numbers)}"
        reply = await connection.ask(request(path, arguments, x_request_id=name, **headers))
        tally.statuses[reply.status] += 1
        complaint = check(number, reply)
        if reply.headers.get("x-request-id") != name:
            complaint += f" it has the id {reply.headers.get('x-request-id')}, not {name}"
        if complaint:
            tally.complaints.append(f"question {number}: {reply.status} {reply.body[:300]!r}: {complaint}")

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(client())
    return tally


class EventStream:
    """A stream of server-sent events, read only as fast as `next` is called."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._text = b""

    @classmethod
    async def open(cls, port: int, path: str, arguments: Any, *, receive_buffer: int = 0, **headers: str) -> Self:
        """`receive_buffer`: bytes that the kernel may keep unread for us; 0: its own choice. Raises Hung."""
        client = socket.socket()
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=client, limit=max(receive_buffer, 4096))
        writer.write(request(path, arguments, accept="text/event-stream", **headers))
        stream = cls(reader, writer)
        head = await stream._in_time(reader.readuntil(b"\r\n\r\n"))
        if not head.startswith(b"HTTP/1.1 200 "):
            raise Hung(f"no stream but {head!r}")
        return stream

    async def next(self) -> str | None:
        """The next item's data, or None after the last one. Raises Hung for an error and for a stream cut short."""
        while (end := self._text.find(b"\n\n")) < 0:
            size = int(await self._in_time(self._reader.readline()), 16)
            self._text += (await self._in_time(self._reader.readexactly(size + 2)))[:-2]
        event, self._text = self._text[:end].decode(), self._text[end + 2 :]
        if event.startswith("event: end"):
            return None
        if not event.startswith("data: "):
            raise Hung(event)
        return event.removeprefix("data: ")

    async def _in_time(self, reading: Coroutine[Any, Any, bytes]) -> bytes:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await reading
        except (asyncio.IncompleteReadError, TimeoutError, OSError) as error:
            raise Hung(f"the stream ended early: {error!r}") from None

    def cut(self) -> None:
        """Close in the middle, with what was not read thrown away."""
        self._writer.transport.abort()


def hang_up(client: socket.socket, *, reset: bool) -> None:
    """Close, politely or with a reset that drops what was on its way."""
    if reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def assert_idle(platform: PlatformProcess, project: str) -> None:
    """Nothing of this project is queued or running, after a moment at most."""

    def gauges() -> dict[str, float]:
        wanted = ("clip_queue_depth{", "clip_running{")
        return {k: v for k, v in platform.metrics().items() if k.startswith(wanted) and f'"{project}/' in k}

    assert gauges()
    eventually(lambda: not any(gauges().values()), within_s=20, what="every gauge is back at zero")


def counted(platform: PlatformProcess, metric: str, *labels: str) -> float:
    """The sum of a counter's samples that have all these labels, each written as `name="value"`."""
    samples = platform.metrics().items()
    return sum(v for k, v in samples if k.startswith(metric + "{") and all(label in k for label in labels))
