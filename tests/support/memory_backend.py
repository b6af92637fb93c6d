"""An in-memory backend for tests of what stands above: replicas that are scripts in the same event loop.

`behaviour` answers a batch; it may wait for as long as the test wants, never return (a hang), or raise (the replica
crashes). `replicas` are all that were launched, in order; `crash` ends one as a segmentation fault would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from clipper.contract import wire
from clipper_platform.backends.base import ChannelListener, Exit, IsolationState, LaunchSpec, SnapshotState, StartError
from clipper_platform.types import FunctionId, ReplicaId

__all__ = ["Behaviour", "InMemoryBackend", "InMemoryReplica", "echo"]

Buffer = bytes | memoryview
Behaviour = Callable[[wire.Invoke, list[memoryview]], Awaitable[tuple[wire.Result, list[bytes]]]]

CRASH = Exit("crashed", "killed by SIGSEGV")
READY = wire.Ready(schema={}, batched=True, streaming=False, concurrency=1, phases={"import": 0.0, "setup": 0.0})


async def echo(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
    """Each item is answered with its own payload."""
    outcomes = [
        wire.Outcome(item.id, wire.Status.OK, item.content_type, len(payload))
        for item, payload in zip(invoke.items, payloads, strict=True)
    ]
    return wire.Result(invoke.batch, outcomes), [bytes(payload) for payload in payloads]


class InMemoryReplica:
    """Implements `Replica` and `Channel`. Public attributes are for tests to set and to look at.

    One that works on a single call (`ready.concurrency` is 1) begins a batch when the one before it has ended.
    """

    def __init__(self, spec: LaunchSpec, behaviour: Behaviour, ready: wire.Ready) -> None:
        self.spec = spec
        self.ready = ready
        self.writable = True
        self.answers_pings = True
        self.invokes: list[wire.Invoke] = []
        self.cancelled: list[int] = []
        self.credits: list[tuple[int, int]] = []
        self.exit: Exit | None = None
        self._behaviour = behaviour
        self._loop = asyncio.get_running_loop()
        self._running: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Semaphore(ready.concurrency)
        self._unbegun: dict[int, tuple[wire.Invoke, list[memoryview]]] = {}  # by batch
        self._idle = asyncio.Event()
        self._idle.set()
        self._listener: ChannelListener | None = None

    # Replica

    @property
    def id(self) -> ReplicaId:
        return self.spec.replica

    @property
    def details(self) -> Mapping[str, Any]:
        return {}

    @property
    def channel(self) -> InMemoryReplica:
        return self

    def attach(self, listener: ChannelListener) -> None:
        self._listener = listener
        if self.exit is not None:
            self._loop.call_soon(listener.on_exit, self.exit)

    def memory_bytes(self) -> int | None:
        return None if self.exit else 1 << 20

    async def stop(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
            self.crash(Exit("exited", "exit status 0"))
        except TimeoutError:
            self.kill()

    def kill(self) -> None:
        self.crash(Exit("killed", "killed by the platform"))

    def crash(self, exit: Exit = CRASH) -> None:
        """End it as `exit` says. What it was doing is lost; on_exit follows in the next turn of the loop."""
        if self.exit is not None:
            return
        self.exit = exit
        for task in self._running:
            task.cancel()
        if self._listener is not None:
            self._loop.call_soon(self._listener.on_exit, exit)

    # Channel

    def send_invoke(self, invoke: wire.Invoke, payloads: Sequence[Buffer]) -> None:
        if self.exit is not None:
            return
        self.invokes.append(invoke)
        self._idle.clear()
        self._unbegun[invoke.batch] = invoke, [memoryview(payload) for payload in payloads]
        task = self._loop.create_task(self._run(invoke.batch))
        self._running.add(task)
        task.add_done_callback(self._finished)

    def send_cancel(self, ids: Sequence[int]) -> None:
        self.cancelled += ids

    def send_withdraw(self, ids: Sequence[int]) -> None:
        for batch, (invoke, payloads) in list(self._unbegun.items()):
            back = [wire.Outcome(item.id, wire.Status.CANCELLED) for item in invoke.items if item.id in ids]
            kept = [pair for pair in zip(invoke.items, payloads, strict=True) if pair[0].id not in ids]
            if kept:
                self._unbegun[batch] = wire.Invoke(batch, [item for item, _ in kept]), [payload for _, payload in kept]
            else:
                del self._unbegun[batch]
            if back:
                self._send_result(wire.Result(batch, back), [b""] * len(back))

    def send_credit(self, item: int, n: int) -> None:
        self.credits.append((item, n))

    def send_ping(self, nonce: int) -> None:
        if self.answers_pings:
            self._tell(lambda listener: listener.on_pong(wire.Pong(nonce, len(self._running), 0.0)))

    def emit_chunk(self, chunk: wire.Chunk, payload: bytes) -> None:
        """Send a value of a stream, as a generator's replica does."""
        self._tell(lambda listener: listener.on_chunk(chunk, memoryview(payload)))

    async def _run(self, batch: int) -> None:
        async with self._turn:
            if batch not in self._unbegun:
                return
            invoke, payloads = self._unbegun.pop(batch)
            try:
                result, bodies = await self._behaviour(invoke, payloads)
            except Exception as error:  # noqa: BLE001  whatever the script raises is a crash of the replica
                self.crash(Exit("crashed", f"{type(error).__name__}: {error}"))
                return
            self._send_result(result, bodies)

    def _send_result(self, result: wire.Result, bodies: list[bytes]) -> None:
        self._tell(lambda listener: listener.on_result(result, [memoryview(body) for body in bodies]))

    def _tell(self, call: Callable[[ChannelListener], None]) -> None:
        """In the next turn of the loop, unless it has ended by then: never re-entrantly from a send."""

        def deliver() -> None:
            if self._listener is not None and self.exit is None:
                call(self._listener)

        self._loop.call_soon(deliver)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not self._running:
            self._idle.set()


class InMemoryBackend:
    """Implements `Backend`. `start_error` may refuse a launch; `before_ready` is awaited in each launch."""

    def __init__(
        self,
        behaviour: Behaviour = echo,
        start_error: Callable[[LaunchSpec], StartError | None] = lambda _: None,
        *,
        ready: wire.Ready = READY,
        before_ready: Callable[[LaunchSpec], Awaitable[None]] | None = None,
    ) -> None:
        self.behaviour = behaviour
        self.start_error = start_error
        self.ready = ready
        self.before_ready = before_ready
        self.replicas: list[InMemoryReplica] = []
        self.snapshots: dict[FunctionId, SnapshotState] = {}
        self.secrets_changes: list[str] = []
        self.launches: list[LaunchSpec] = []  # those that were tried, refused ones too

    @property
    def name(self) -> str:
        return "memory"

    @property
    def alive(self) -> list[InMemoryReplica]:
        return [replica for replica in self.replicas if replica.exit is None]

    def cores(self) -> int | None:
        return None

    async def open(self) -> None:
        """Nothing to prepare."""

    async def close(self) -> None:
        for replica in self.replicas:
            replica.kill()

    async def launch(self, spec: LaunchSpec) -> InMemoryReplica:
        self.launches.append(spec)
        if self.before_ready is not None:
            await self.before_ready(spec)
        error = self.start_error(spec)
        if error is not None:
            raise error
        replica = InMemoryReplica(spec, self.behaviour, self.ready)
        self.replicas.append(replica)
        return replica

    def bundle_groups(self) -> range | None:
        return None

    def isolation(self) -> IsolationState:
        return IsolationState("none", "none: replicas run in this process")

    def secrets_changed(self, project: str) -> None:
        self.secrets_changes.append(project)

    def snapshot(self, function: FunctionId) -> SnapshotState | None:
        return self.snapshots.get(function)
