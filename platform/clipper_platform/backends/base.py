"""Backends: where replicas run. A backend launches; the `Channel` of what it launched speaks the wire protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from clipper.contract import wire
from clipper_platform.environments.base import Environment
from clipper_platform.types import FunctionId, ReplicaId

__all__ = [
    "Backend", "Channel", "ChannelListener", "Exit", "LaunchSpec", "LogSink", "Replica", "SnapshotState", "StartError",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """What a replica needs to start."""

    replica: ReplicaId
    function: FunctionId
    environment: Environment
    bundle: Path  # the unpacked bundle, read-only by convention
    spec: Mapping[str, Any]  # FunctionSpec.to_dict()
    env: Mapping[str, str] = field(default_factory=dict)  # the project's secrets
    memory_bytes: int | None = None
    startup_timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Exit:
    """How a replica ended, in words for people and as a short reason for the metric label.

    `reason`: exited, crashed (a signal or a non-zero status), oom, killed (by us), lost (the channel broke).
    """

    reason: str
    message: str  # e.g. "killed by SIGSEGV", "exit status 3"
    status: int | None = None


@dataclass(frozen=True, slots=True)
class SnapshotState:
    """What has become of a function's snapshot. `retry_s`: from when on a start makes it again; None: not by time."""

    state: Literal["making", "ready", "refused", "gone"]
    reason: str = ""  # why there is none
    retry_s: float | None = None


class StartError(Exception):
    """A replica that did not become ready. `phase`: launch, handshake, import, load, schema, setup, timeout.

    `log`: the last lines that it wrote.
    """

    def __init__(
        self, phase: str, message: str, *, error_type: str = "", traceback: str = "", log: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.phase = phase
        self.message = message
        self.error_type = error_type
        self.traceback = traceback
        self.log = list(log)


class ChannelListener(Protocol):
    """What the owner of a channel is told, from the event loop, never re-entrantly from `send_*`."""

    def on_result(self, result: wire.Result, payloads: Sequence[memoryview]) -> None: ...
    def on_chunk(self, chunk: wire.Chunk, payload: memoryview) -> None: ...
    def on_pong(self, pong: wire.Pong) -> None: ...
    def on_exit(self, exit: Exit) -> None:
        """Exactly once, after the last other call: the replica is gone and nothing more will come."""
        ...


class Channel(Protocol):
    """The platform's side of the wire to one ready replica. Sends never block: what the socket does not take is
    buffered, and `writable` turns False above the high-water mark."""

    @property
    def writable(self) -> bool: ...
    def send_invoke(self, invoke: wire.Invoke, payloads: Sequence[bytes | memoryview]) -> None: ...
    def send_cancel(self, ids: Sequence[int]) -> None: ...
    def send_credit(self, item: int, n: int) -> None: ...
    def send_ping(self, nonce: int) -> None: ...


class Replica(Protocol):
    """A replica that became ready."""

    @property
    def id(self) -> ReplicaId: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def ready(self) -> wire.Ready:
        """Schema, mode, concurrency and start-up phases; the backend adds `launch` to the phases."""
        ...

    @property
    def channel(self) -> Channel: ...

    def attach(self, listener: ChannelListener) -> None:
        """Set who is told, once, right after `launch` returned and before any send. An exit that came before is
        delivered then."""
        ...

    def memory_bytes(self) -> int | None:
        """Resident memory of the replica and its children; None once it is gone."""
        ...

    async def stop(self, timeout_s: float) -> None:
        """Drain: no new work, `close` runs, then exit; killed with its process group after `timeout_s`."""
        ...

    def kill(self) -> None:
        """End it and its process group now. on_exit follows."""
        ...


LogSink = Callable[[FunctionId, ReplicaId, Sequence[wire.LogRecord]], None]
"""Where a replica's output goes; called from the event loop."""


class Backend(Protocol):
    @property
    def name(self) -> str: ...

    async def open(self) -> None:
        """Prepare; end what an earlier platform of the same home left behind."""
        ...

    async def close(self) -> None:
        """End every replica that still runs."""
        ...

    async def launch(self, spec: LaunchSpec) -> Replica:
        """Start one and wait until it is ready, at most `startup_timeout_s`. Raises StartError; cancelling leaves
        nothing behind."""
        ...

    def snapshot(self, function: FunctionId) -> SnapshotState | None:
        """None: it keeps no snapshot of the function, or was not asked to yet."""
        ...
