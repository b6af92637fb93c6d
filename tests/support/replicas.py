"""Launching replicas in tests: a listener that remembers, and the specs and batches that a test needs."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipper.contract import wire
from clipper_platform.backends.base import Exit, LaunchSpec, Replica
from clipper_platform.environments.base import Environment
from clipper_platform.types import EnvironmentId, FunctionId, ReplicaId

__all__ = ["FAKE_REPLICA", "Recorder", "ask", "launch_spec", "own_environment"]

FAKE_REPLICA = (str(Path(__file__).with_name("fake_replica.py")),)
"""The command of a ProcessBackend whose replicas do as they are told."""

_numbers = itertools.count(1)


class Recorder:
    """A listener that keeps what it is told, in order, and lets a test wait for it."""

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


def own_environment(path: Path) -> Environment:
    """The interpreter that runs the tests, as an environment whose caches go to `path`."""
    return Environment(EnvironmentId("0" * 20), Path(sys.executable), path)


def launch_spec(tmp_path: Path, mode: str = "", **changes: Any) -> LaunchSpec:
    """A spec with an empty bundle under `tmp_path`; `mode` is what a fake replica is told at its start."""
    bundle = tmp_path / "bundle"
    bundle.mkdir(exist_ok=True)
    defaults: dict[str, Any] = {
        "replica": ReplicaId(f"r{next(_numbers)}"),
        "function": FunctionId("demo", "obey", 3),
        "environment": own_environment(tmp_path / "environment"),
        "bundle": bundle,
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
