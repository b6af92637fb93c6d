"""Launching replicas in tests: a listener that remembers, and the specs and batches that a test needs."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipper.contract import wire
from clipper_platform.backends.base import Exit, LaunchSpec, LogSink, Replica
from clipper_platform.backends.process.backend import ProcessBackend
from clipper_platform.backends.process.launch import Launch
from clipper_platform.environments.virtual import VirtualEnvironment
from clipper_platform.types import BundleDigest, EnvironmentId, FunctionId, ReplicaId

__all__ = ["FAKE_REPLICA", "Recorder", "ask", "environment_at", "invoke", "launch_on", "launch_spec", "process_backend"]

FAKE_REPLICA = (str(Path(__file__).with_name("fake_replica.py")),)
"""The command of a ProcessBackend whose replicas obey the commands in their payloads."""

_numbers = itertools.count(1)


class Recorder:
    """A listener that records its calls, in order, and lets a test wait for them."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.answers: asyncio.Queue[tuple[wire.Result, list[bytes]]] = asyncio.Queue()
        self.pongs: asyncio.Queue[wire.Pong] = asyncio.Queue()
        self.chunks: asyncio.Queue[tuple[wire.Chunk, bytes]] = asyncio.Queue()
        self.exits: list[Exit] = []
        self.exited = asyncio.Event()

    def on_result(self, result: wire.Result, payloads: Sequence[memoryview]) -> None:
        self.events.append(result)
        self.answers.put_nowait((result, [bytes(payload) for payload in payloads]))

    def on_chunk(self, chunk: wire.Chunk, payload: memoryview) -> None:
        self.events.append(chunk)
        self.chunks.put_nowait((chunk, bytes(payload)))

    def on_pong(self, pong: wire.Pong) -> None:
        self.events.append(pong)
        self.pongs.put_nowait(pong)

    def on_exit(self, exit: Exit) -> None:
        self.events.append(exit)
        self.exits.append(exit)
        self.exited.set()

    async def exit(self, timeout_s: float = 10.0) -> Exit:
        async with asyncio.timeout(timeout_s):
            await self.exited.wait()
        return self.exits[0]


async def bundle_at(digest: str) -> Path:
    """In these tests a bundle's digest is the path of its directory."""
    return Path(digest)


def environment_at(id: EnvironmentId) -> VirtualEnvironment:
    """In these tests an environment's id is the path of its directory, and each one has the interpreter that runs the
    tests, unless it has one of its own."""
    own = Path(id) / "bin" / "python"
    return VirtualEnvironment(id=id, python=own if own.exists() else Path(sys.executable), path=Path(id))


def process_backend(home: Path, log_sink: LogSink = lambda *_: None, **options: Any) -> ProcessBackend:
    """A backend that launches what `launch_spec` names."""
    return ProcessBackend(home, log_sink, bundles=bundle_at, environments=environment_at, **options)


def launch_on(spec: LaunchSpec) -> Launch:
    """As `process_backend` resolves it."""
    return Launch(spec=spec, environment=environment_at(spec.environment), bundle=Path(spec.bundle))


def launch_spec(tmp_path: Path, mode: str = "", **changes: Any) -> LaunchSpec:
    """A spec with an empty bundle under `tmp_path`; `mode` is a fake replica's FAKE_MODE."""
    bundle = tmp_path / "bundle"
    bundle.mkdir(exist_ok=True)
    defaults: dict[str, Any] = {
        "replica": ReplicaId(f"r{next(_numbers)}"),
        "function": FunctionId("demo", "obey", 3),
        "environment": EnvironmentId(str(tmp_path / "environment")),
        "bundle": BundleDigest(str(bundle)),
        "spec": {"name": "obey"},
        "env": {"FAKE_MODE": mode} if mode else {},
        "startup_timeout_s": 30.0,
    }
    return LaunchSpec(**(defaults | changes))


def invoke(*payloads: bytes, batch: int = 1, content_type: str = "text/plain") -> wire.Invoke:
    items = [
        wire.Item(number, f"request-{number}", content_type, "*/*", 30.0, len(payload))
        for number, payload in enumerate(payloads)
    ]
    return wire.Invoke(batch, items)


async def ask(replica: Replica, recorder: Recorder, *payloads: bytes) -> list[bytes]:
    """Send one batch to an attached replica; the payloads of its answer."""
    replica.channel.send_invoke(invoke(*payloads), payloads)
    async with asyncio.timeout(20):
        _, answers = await recorder.answers.get()
    return answers
