"""An engine of the runtime on a socket pair, served by a thread; the test is the platform at the other end."""

from __future__ import annotations

import functools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from clipper.contract import wire
from clipper.contract.frames import Frame, FrameReader, split_body
from clipper_runtime.aio import AsyncEngine, Loop
from clipper_runtime.channel import Channel
from clipper_runtime.codec import Codec
from clipper_runtime.core import ExecutionCore
from clipper_runtime.engines import Engine, InlineEngine, ThreadEngine
from clipper_runtime.loader import Program
from clipper_runtime.logs import LogBuffer, Output
from clipper_runtime.replies import Replies
from clipper_runtime.schema import read_signature
from clipper_runtime.work import Work
from tests.support.frames import frame_of

__all__ = ["ENGINES", "MAX_PAYLOAD_BYTES", "STREAMING_ENGINES", "ServedEngine", "invoke_of", "served"]

ENGINES = ("inline", "threads", "async")
STREAMING_ENGINES = ("threads", "async")
MAX_PAYLOAD_BYTES = 1000
_READ_TIMEOUT_S = 0.02
_DEADLINE_S = 10.0  # only spent where a test fails


def program_of(function: Callable[..., Any], *, engine: str, batched: bool, streaming: bool) -> Program:
    """Of a synchronous function; for the async engine it becomes a coroutine function or an asynchronous generator."""
    codec = Codec(read_signature(function, batched=batched, streaming=streaming), batched=batched)
    call = function
    if engine == "async":

        @functools.wraps(function)
        async def coroutine(*arguments: Any) -> Any:
            return function(*arguments)

        @functools.wraps(function)
        async def generator(*arguments: Any) -> Any:
            values = function(*arguments)
            try:
                for value in values:
                    yield value
            finally:
                values.close()

        call = generator if streaming else coroutine
    kind = "async" if engine == "async" else "sync"
    return Program(call=call, close=None, codec=codec, kind=kind, streaming=streaming, batched=batched)  # type: ignore[arg-type]


class ServedEngine:
    """The engine's `Lifeline`, and the platform's end.

    `before` is called when the engine exists and does not serve yet.
    """

    def __init__(
        self, program: Program, engine: str, *, concurrency: int, before: Callable[[ServedEngine], None] | None
    ) -> None:
        self.socket, self._theirs = socket.socketpair()
        self.socket.settimeout(_DEADLINE_S)
        self.output = Output(LogBuffer())
        self.channel = Channel(self._theirs)
        self.replies = Replies(self.channel, self.output, wire.MAX_FRAME_BYTES)
        self.core = ExecutionCore(program, self.output.logs, max_payload_bytes=MAX_PAYLOAD_BYTES)
        self.draining = False
        self.error: BaseException | None = None
        self.logs: list[wire.LogRecord] = []
        self.engine: Engine
        self._kind = engine
        self._concurrency = concurrency
        self._before = before
        self._reader = FrameReader()
        self._frames: list[Frame] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        loop = Loop() if self._kind == "async" else None
        try:
            if loop is not None:
                descriptor, limit = self.channel.fileno(), self._concurrency
                self.engine = AsyncEngine(self.core, self.replies, self, limit, loop=loop, descriptor=descriptor)
            elif self._kind == "threads":
                self.engine = ThreadEngine(self.core, self.replies, self, self._concurrency)
            else:
                self.engine = InlineEngine(self.core, self.replies, self, self.channel)
            if self._before is not None:
                self._before(self)
            self.engine.serve()
        except BaseException as error:  # noqa: BLE001 - the test sees it
            self.fatal(error)
        finally:
            if loop is not None:
                loop.close()
            self._theirs.close()

    # Lifeline

    def pump(self, *, wait: bool = True) -> None:
        self.channel.pump(self.handle, wait=wait)

    def handle(self, message: Any, body: memoryview) -> None:
        if isinstance(message, wire.Invoke):
            self.invoke(Work(message, body, time.monotonic()))
        elif isinstance(message, wire.Cancel):
            (self.engine.withdraw if message.withdraw else self.engine.cancel)(message.ids)
        elif isinstance(message, wire.Credit):
            self.engine.credit(message.id, message.n)
        elif isinstance(message, wire.Drain):
            self.draining = True
            self.channel.set_read_timeout(_READ_TIMEOUT_S)
            self.engine.drain()
        else:
            raise AssertionError(message)

    def invoke(self, work: Work) -> None:
        self.replies.came += len(work.items)
        self.engine.invoke(work)

    def invoke_now(self, *payloads: Any, age_s: float = 0.0, **fields: Any) -> None:
        """For `before`: as if a frame had come `age_s` seconds ago."""
        message, bodies = invoke_of(*payloads, **fields)
        self.invoke(Work(message, memoryview(b"".join(bodies)), time.monotonic() - age_s))

    def fatal(self, error: BaseException) -> None:
        self.error = self.error or error
        self._theirs.shutdown(socket.SHUT_RDWR)

    # The platform

    def send(self, message: Any, payloads: Sequence[bytes] = ()) -> None:
        self.socket.sendall(frame_of(message, payloads))

    def ask(self, *payloads: Any, **fields: Any) -> dict[int, Any]:
        """The outcomes of one batch."""
        self.send(*invoke_of(*payloads, **fields))
        return self.outcomes(len(payloads))

    def receive(self, kind: type[Any] | tuple[type[Any], ...]) -> Frame:
        """The next frame, which must be of such a kind; log lines before it are kept in `logs`."""
        while True:
            while not self._frames:
                data = self.socket.recv(1 << 16)
                assert data, f"the engine ended: {self.error!r}"
                self._frames = self._reader.feed(data)
            frame = self._frames.pop(0)
            if isinstance(frame.message, kind):
                return frame
            assert isinstance(frame.message, wire.Log), frame
            self.logs += frame.message.records

    def outcomes(self, count: int) -> dict[int, Any]:
        """id -> the decoded value of an item that went well, else its outcome; each item once."""
        found: dict[int, Any] = {}
        while len(found) < count:
            frame = self.receive(wire.Result)
            parts = split_body(frame.body, [outcome.length for outcome in frame.message.outcomes])
            for outcome, part in zip(frame.message.outcomes, parts, strict=True):
                assert outcome.id not in found, f"item {outcome.id} was answered twice"
                found[outcome.id] = json.loads(bytes(part)) if outcome.length else outcome
        return found

    def drain(self) -> None:
        """Raises what ended the engine."""
        if not self.draining:
            self.send(wire.Drain(1.0))
        self._thread.join(_DEADLINE_S)
        assert not self._thread.is_alive(), "the engine did not end"
        if self.error is not None:
            raise self.error


def invoke_of(
    *payloads: Any, first: int = 0, content_types: Sequence[str] = (), timeout_s: float = 0.0
) -> tuple[wire.Invoke, list[bytes]]:
    """The message and its payloads; a payload that is not bytes becomes the argument `x` as JSON.

    Items are numbered from `first` and their requests are named `req-N`.
    """
    bodies = [p if isinstance(p, bytes) else json.dumps({"x": p}).encode() for p in payloads]
    kinds = content_types or ["application/json"] * len(bodies)
    items = [
        wire.Item(first + n, f"req-{first + n}", kind, "*/*", timeout_s, len(body))
        for n, (kind, body) in enumerate(zip(kinds, bodies, strict=True))
    ]
    return wire.Invoke(7, items), bodies


@contextmanager
def served(
    function: Callable[..., Any],
    engine: str,
    *,
    batched: bool = False,
    streaming: bool = False,
    concurrency: int = 2,
    before: Callable[[ServedEngine], None] | None = None,
) -> Iterator[ServedEngine]:
    program = program_of(function, engine=engine, batched=batched, streaming=streaming)
    replica = ServedEngine(program, engine, concurrency=concurrency, before=before)
    with replica.socket:
        yield replica
        replica.drain()
