"""Backends: where replicas run. A backend launches replicas; the `Channel` of a replica speaks the wire protocol.

What stands above knows an environment by its id and a bundle by its digest. Each backend resolves both into what it
runs: the process backend into directories of its machine, a container backend into an image and a mount.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from clipper.contract import wire
from clipper_platform.types import BundleDigest, EnvironmentId, FunctionId, ReplicaId

__all__ = [
    "Backend", "BundleResolver", "Channel", "ChannelListener", "Exit", "ExitReason", "IsolationState", "LaunchSpec",
    "LogSink", "Replica", "SnapshotState", "StartError",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """What a replica needs to start. `warm_pool_size`: how many warm instances the project wants of its environment;
    None: as many as the backend's default."""

    replica: ReplicaId
    function: FunctionId
    environment: EnvironmentId
    bundle: BundleDigest
    spec: Mapping[str, Any]  # FunctionSpec.to_dict()
    env: Mapping[str, str] = field(default_factory=dict)  # the project's secrets
    memory_bytes: int | None = None
    warm_pool_size: int | None = None
    startup_timeout_s: float = 120.0


ExitReason = Literal["exited", "crashed", "oom", "killed", "killed_externally", "lost"]
"""exited: with status 0. crashed: by a signal or with another status. oom: the kernel or the engine ended it for its
memory. killed: by the platform. killed_externally: by SIGKILL of neither the platform nor the kernel. lost: the channel
broke."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a replica ended: the reason, which is also the metric's label, and a sentence for people."""

    reason: ExitReason
    message: str  # e.g. "killed by SIGSEGV", "exit status 3"
    last_words: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    """(request id, line): what it printed last. The id is "" outside of a request, and for a batch of several."""

    def last_lines(self, request_id: str) -> list[str]:
        """Its last lines without those of other requests."""
        return [line for of, line in self.last_words if of in ("", request_id)]


@dataclass(frozen=True, slots=True)
class SnapshotState:
    """The state of a function's snapshot. `retry_s`: seconds until a start may make it again; None: never by time."""

    state: Literal["making", "ready", "refused", "gone"]
    reason: str = ""  # why there is none
    retry_s: float | None = None


@dataclass(frozen=True, slots=True)
class IsolationState:
    """What keeps user code from other projects and from the platform: a word, a sentence, and what would do better."""

    mode: str
    detail: str
    fix: str = ""


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
    """Receives what a channel delivers, from the event loop, never re-entrantly from `send_*`."""

    def on_result(self, result: wire.Result, payloads: Sequence[memoryview]) -> None: ...
    def on_chunk(self, chunk: wire.Chunk, payload: memoryview) -> None: ...
    def on_pong(self, pong: wire.Pong) -> None: ...
    def on_exit(self, exit: Exit) -> None:
        """Called exactly once, as the last call: the replica is gone and nothing more will come."""
        ...


class Channel(Protocol):
    """The platform's side of the wire to one ready replica. Sends never block: bytes that the socket does not accept
    are buffered, and `writable` is False above the high-water mark."""

    @property
    def writable(self) -> bool: ...
    def send_invoke(self, invoke: wire.Invoke, payloads: Sequence[bytes | memoryview]) -> None: ...
    def send_cancel(self, ids: Sequence[int]) -> None: ...
    def send_withdraw(self, ids: Sequence[int]) -> None: ...
    def send_credit(self, item: int, n: int) -> None: ...
    def send_ping(self, nonce: int) -> None: ...


class Replica(Protocol):
    """A replica that became ready."""

    @property
    def id(self) -> ReplicaId: ...
    @property
    def details(self) -> Mapping[str, Any]:
        """Backend-specific facts for the status, e.g. `{"pid": 4711}`; empty once it is gone."""
        ...

    @property
    def ready(self) -> wire.Ready:
        """Schema, mode, concurrency and start-up phases; the backend adds `launch` to the phases."""
        ...

    @property
    def channel(self) -> Channel: ...

    def attach(self, listener: ChannelListener) -> None:
        """Set the listener. Call it once, right after `launch` returned and before any send. An exit that came before
        is delivered then."""
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


BundleResolver = Callable[[str], Awaitable[Path]]
"""A bundle's digest -> the directory with its files on this machine. Raises a ClipperError if it is lost or damaged."""


class Backend(Protocol):
    @property
    def name(self) -> str: ...

    def cores(self) -> int | None:
        """Processor cores that all its replicas share; None where they have no common limit."""
        ...

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

    def isolation(self) -> IsolationState:
        """Call it after `open`."""
        ...

    def bundle_groups(self) -> range | None:
        """Groups of which each unpacked bundle must have one of its own, because replicas of different projects are
        different users; None: they are not. Call it after `open`."""
        ...

    def snapshot(self, function: FunctionId) -> SnapshotState | None:
        """None: it keeps no snapshot of the function, or none was requested yet."""
        ...

    def secrets_changed(self, project: str) -> None:
        """Keep nothing ready that was set up with the project's earlier secrets. Replicas that run keep them."""
        ...
