"""What a replica set is for, and the protocols between it and serving.

`serving` and `replicas` know each other through `EndpointListener` (a set announces its replicas), `ReplicaFeedback`
(serving reports on them) and `Queues` (the life of a function's queue), and through nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from clipper.contract import wire
from clipper.contract.spec import FunctionSpec
from clipper_platform.backends.base import Exit, Replica
from clipper_platform.types import BundleDigest, EnvironmentId, FunctionId

__all__ = [
    "DrainOutcome",
    "EndpointListener",
    "EventSink",
    "Progress",
    "Queues",
    "ReplicaFeedback",
    "ResultListener",
    "SecretsReader",
    "Target",
    "published_schema",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One function of one version, with all that its replicas need."""

    id: FunctionId
    spec: FunctionSpec
    environment: EnvironmentId
    bundle: BundleDigest
    identity: str = ""  # of the version: the same number with another identity is another version
    warm_pool_size: int | None = None  # of the environment, as the project declares it
    env: Mapping[str, str] = field(default_factory=dict)  # as the version declares; secrets are read at each launch


DrainOutcome = Literal["answered", "cut", "reopened"]
"""How a drain ended: all were answered, its time was over, or it was taken back."""

Progress = Callable[[FunctionId, int, int], None]
"""(function, ready, wanted), called as replicas become ready."""

SecretsReader = Callable[[str], Awaitable[Mapping[str, str]]]
"""The secrets of a project, read for a launch. Raises a ClipperError."""

EventSink = Callable[[FunctionId, str, str, Mapping[str, Any]], None]
"""(function, kind, message, data): an event that people can read later."""


def published_schema(ready: wire.Ready) -> dict[str, Any]:
    """The JSON schema of a function as the API shows it, from what its replica reported."""
    return {**ready.schema, "streaming": ready.streaming}


class ResultListener(Protocol):
    """Takes what a replica sends about invocations: the part of `ChannelListener` that serving implements."""

    def on_result(self, result: wire.Result, payloads: Sequence[memoryview]) -> None: ...
    def on_chunk(self, chunk: wire.Chunk, payload: memoryview) -> None: ...


class ReplicaFeedback(Protocol):
    """A replica set as serving sees it. Replicas are named by their id."""

    def served(self, replica: str) -> None:
        """It answered its first invocations, so an exit from now on is not a failed start."""
        ...

    def recycle(self, replica: str) -> None:
        """It answered as many invocations as it may (`max_invocations`): replace it."""
        ...

    def overdue(self, replica: str) -> None:
        """What it runs is past its deadline, and others wait: start another one in its place."""
        ...


class EndpointListener(Protocol):
    """Serving as a replica set sees it. Calls come from the event loop and must not raise."""

    def endpoint_ready(self, replica: Replica, replicas: ReplicaFeedback) -> ResultListener:
        """The replica takes invocations from now on. The caller attaches the result to the replica's channel."""
        ...

    def endpoint_closing(self, replica: str) -> None:
        """Send it nothing new: it drains or is killed."""
        ...

    def endpoint_gone(self, replica: str, exit: Exit, *, at_fault: bool) -> None:
        """It ended with what it was doing. `at_fault`: it crashed or hung, so what it ran may be the cause."""
        ...

    def no_capacity(self, reason: str, retry_at: float) -> None:
        """The set gave up starting replicas, and why; "" when it tries again. `retry_at`: when it will (monotonic); inf
        where somebody has to restart it."""
        ...

    def in_time(self, replica: str) -> bool:
        """Whether the replica runs something whose deadline has not passed: code that holds the interpreter's lock
        keeps it from answering health checks."""
        ...

    def stuck(self, replica: str, grace_s: float) -> bool:
        """Whether what the replica runs is `grace_s` past its deadline and takes unusually long."""
        ...


class Queues(Protocol):
    """The queues of function versions, one beside each replica set."""

    def open(self, target: Target, *, schema: Mapping[str, Any] | None, idle_s: float) -> EndpointListener:
        """Make the queue of a function version. `schema`: what an earlier replica of it published; `idle_s`: how long
        nobody has called it."""
        ...

    async def drain(self, id: FunctionId, timeout_s: float, reason: str) -> DrainOutcome:
        """Admit nothing more; return when all admitted invocations are answered, at most `timeout_s` later."""
        ...

    def reopen(self, id: FunctionId) -> None:
        """Take a drain back: admit invocations again."""
        ...

    def cut(self, id: FunctionId) -> None:
        """End a drain now, as if its time were over."""
        ...

    def remove(self, id: FunctionId, reason: str) -> None:
        """End the queue: no path leads to it, and what waits in it is refused."""
        ...
