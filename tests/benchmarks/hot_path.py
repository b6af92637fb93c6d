"""Processor time of the gateway's own Python per request, without sockets: `python -m tests.benchmarks.hot_path`.

The fast path, the dispatcher, the batching and the wire channel are the real ones; the transports at both ends only
count. What the kernel takes to move the bytes comes on top in a real server and is the same for every server. Times
are of the thread, the best of many rounds, so that they mean something on a busy machine too.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Callable
from time import thread_time_ns
from typing import Any
from unittest.mock import Mock

import uvicorn
import uvloop
from uvicorn.server import ServerState

from clipper.contract import wire
from clipper.contract.frames import FrameReader
from clipper_platform.applications.applications import Applications
from clipper_platform.backends.base import ChannelListener, Exit, LaunchSpec
from clipper_platform.backends.channel import WireChannel
from clipper_platform.clock import SystemClock
from clipper_platform.gateway.http.fast_path import FastPathOptions, FastPathProtocol, fast_protocol
from clipper_platform.gateway.http.invoke_service import InvokeService
from clipper_platform.gateway.http.predict_service import PredictService
from clipper_platform.types import ReplicaId
from tests.benchmarks import model
from tests.support.applications import applications_over, spec
from tests.support.memory_backend import READY, InMemoryBackend
from tests.support.serving import Harness, harness, target

__all__ = ["measure"]

ROUNDS = 300


class Sink:
    """A transport that takes everything and sends nothing."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class Wired:
    """A replica that is a channel on a `Sink`: `answers` makes what it would have sent back."""

    def __init__(self, spec: LaunchSpec) -> None:
        self.spec = spec
        self.ready = READY
        self.details: dict[str, Any] = {}
        self.channel = WireChannel(Mock())
        self.sink = Sink()
        self.channel.connection_made(self.sink)  # type: ignore[arg-type]  # as much of a transport as is used

    @property
    def id(self) -> ReplicaId:
        return self.spec.replica

    def attach(self, listener: ChannelListener) -> None:
        self.listener = listener
        self.channel.listen(listener)

    def memory_bytes(self) -> int | None:
        return None

    async def stop(self, timeout_s: float) -> None:
        self.kill()

    def kill(self) -> None:
        asyncio.get_running_loop().call_soon(self.listener.on_exit, Exit("killed", "the measurement is over"))

    def answers(self) -> bytes:
        """Results for every Invoke written since the last call, as one read of the socket."""
        replies = []
        written, self.sink.written = self.sink.written, []
        for frame in FrameReader().feed(b"".join(written)):
            if not isinstance(frame.message, wire.Invoke):
                continue  # a Cancel comes too late: every batch before it is answered here
            outcomes = [wire.Outcome(i.id, 0, "application/json", len(model.ANSWER)) for i in frame.message.items]
            result = wire.Result(frame.message.batch, outcomes, 0.0001)
            replies.append(wire.encode(result, len(outcomes) * len(model.ANSWER)) + model.ANSWER * len(outcomes))
        return b"".join(replies)


class WiredBackend(InMemoryBackend):
    async def launch(self, spec: LaunchSpec) -> Any:
        wired = Wired(spec)
        self.wired = wired
        return wired


def request(path: str, body: bytes = model.BODY) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:8700\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


INVOCATION = request("/fn/bench/total")
QUERY = request("/sums/predict", json.dumps({"input": model.NUMBERS}).encode())


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("the fast path handed a request on")


def connect(h: Harness, n: int, applications: Applications) -> list[tuple[FastPathProtocol, Sink]]:
    service = InvokeService(
        h.dispatcher, clock=h.clock, authorize=lambda _, __: None, max_body_bytes=1 << 20, open_invoke=True
    )
    predictions = PredictService(
        applications, clock=h.clock, authorize=lambda _, __: None, max_body_bytes=1 << 20, open_invoke=True
    )
    options = FastPathOptions(
        service=service, predictions=predictions, host_allowed=lambda _: True, body_timeout_s=60, enabled=True
    )
    config = uvicorn.Config(_nothing, log_config=None, access_log=False, ws="none", lifespan="off")
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"Mon, 01 Jan 2026 00:00:00 GMT")]
    protocol_class = fast_protocol(options)
    connections = []
    for _ in range(n):
        protocol, sink = protocol_class(config, state, {}), Sink()
        protocol.connection_made(sink)  # type: ignore[arg-type]  # as much of a transport as is used
        connections.append((protocol, sink))
    return connections


async def turn(
    connections: list[tuple[FastPathProtocol, Sink]], data: bytes, backend: WiredBackend, *, cached: bool
) -> tuple[int, int, int]:
    """Nanoseconds of: reading the requests, dispatching, answering."""
    t0 = thread_time_ns()
    for protocol, _ in connections:
        protocol.data_received(data)
    t1 = thread_time_ns()
    dispatching = answering = 0
    while not cached and not all(sink.written for _, sink in connections):
        t2 = thread_time_ns()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        t3 = thread_time_ns()
        dispatching += t3 - t2
        if replies := backend.wired.answers():
            t4 = thread_time_ns()
            backend.wired.channel.data_received(replies)
            answering += thread_time_ns() - t4
    for _, sink in connections:
        assert len(sink.written) == 1
        assert sink.written[0].startswith(b"HTTP/1.1 200")
        assert model.ANSWER in sink.written[0]
        sink.written.clear()
    return t1 - t0, dispatching, answering


async def measure(show: Callable[[str], None] = print, rounds: int = ROUNDS) -> dict[str, float]:
    """Microseconds per request: plain at 1 and 64 connections, cached, and by an application with `single`."""
    found: dict[str, float] = {}
    for name, n, data, options in (
        ("plain, 64 connections", 64, INVOCATION, {}),
        ("plain, 1 connection", 1, INVOCATION, {}),
        ("cached, 64 connections", 64, INVOCATION, {"cache_ttl_s": 600.0}),
        ("application, 64 connections", 64, QUERY, {}),
    ):
        backend = WiredBackend()
        async with harness(backend, clock=SystemClock()) as h:
            await h.deploy(target("total", project="bench", max_batch_size=32, **options))
            applications = applications_over(h.dispatcher, clock=h.clock, metrics=h.metrics)
            await applications.catalog.create(
                spec(links=[{"function": "bench/total", "parameter": "numbers"}], latency_slo_s=60)
            )
            connections = connect(h, n, applications)
            cached = bool(options)
            if cached:
                await turn(connections[:1], data, backend, cached=False)
            gc.collect()
            gc.freeze()
            gc.disable()
            best = [float("inf")] * 3
            for _ in range(rounds):
                spent = await turn(connections, data, backend, cached=cached)
                best = [min(b, s) for b, s in zip(best, spent, strict=True)]
            gc.enable()
            read, dispatch, answer = (b / n / 1000 for b in best)
            found[name] = read + dispatch + answer
            parts = f"read {read:5.2f}   dispatch {dispatch:5.2f}   answer {answer:5.2f}"
            show(f"{name:27} {found[name]:6.2f} µs   {parts}")
    return found


if __name__ == "__main__":
    uvloop.run(measure(rounds=int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
