"""Serving as a replica set sees it, written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clipper.contract import wire
from clipper_platform.backends.base import Exit, Replica
from clipper_platform.errors import StoreUnavailable
from clipper_platform.metrics import Metrics
from clipper_platform.replicas.base import DrainOutcome, ReplicaFeedback, Target
from clipper_platform.replicas.replica_set import ReplicaSet
from clipper_platform.types import FunctionId
from tests.support.memory_backend import InMemoryBackend
from tests.support.serving import target
from tests.support.virtual_time import LoopClock

__all__ = ["FakeListener", "FakeQueues", "World"]


class FakeListener:
    """Implements `EndpointListener` and `ResultListener`. `history` has each announcement in its order."""

    def __init__(self) -> None:
        self.history: list[tuple[Any, ...]] = []
        self.results: list[wire.Result] = []
        self.chunks: list[wire.Chunk] = []
        self.stuck_replicas: set[str] = set()
        self.replicas_in_time: set[str] = set()
        self.serves: set[str] = set()  # replicas that had served when they end

    def endpoint_ready(self, replica: Replica, replicas: ReplicaFeedback) -> FakeListener:
        self.history.append(("ready", replica.id))
        self.replicas = replicas
        return self

    def endpoint_closing(self, replica: str) -> None:
        self.history.append(("closing", replica))

    def endpoint_gone(self, replica: str, exit: Exit, *, at_fault: bool) -> None:
        self.history.append(("gone", replica, exit.reason, at_fault))
        if replica in self.serves:
            self.replicas.served(replica)

    def no_capacity(self, reason: str, retry_at: float) -> None:
        self.history.append(("no capacity", reason))

    def in_time(self, replica: str) -> bool:
        return replica in self.replicas_in_time

    def stuck(self, replica: str, grace_s: float) -> bool:
        return replica in self.stuck_replicas

    def on_result(self, result: wire.Result, payloads: Sequence[memoryview]) -> None:
        self.results.append(result)

    def on_chunk(self, chunk: wire.Chunk, payload: memoryview) -> None:
        self.chunks.append(chunk)

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        """The announcements of a kind, without it."""
        return [event[1:] for event in self.history if event[0] == kind]


class FakeQueues:
    """Implements `Queues`."""

    def __init__(self) -> None:
        self.history: list[tuple[Any, ...]] = []
        self.listeners: dict[FunctionId, FakeListener] = {}
        self.outcome: DrainOutcome = "answered"  # of drains

    def open(self, target: Target, *, schema: Mapping[str, Any] | None, idle_s: float) -> FakeListener:
        self.history.append(("open", str(target.id), schema, idle_s))
        self.listeners[target.id] = FakeListener()
        return self.listeners[target.id]

    async def drain(self, id: FunctionId, timeout_s: float, reason: str) -> DrainOutcome:
        self.history.append(("drain", str(id), timeout_s, reason))
        return self.outcome

    def reopen(self, id: FunctionId) -> None:
        self.history.append(("reopen", str(id)))

    def cut(self, id: FunctionId) -> None:
        self.history.append(("cut", str(id)))

    def remove(self, id: FunctionId, reason: str) -> None:
        self.history.append(("remove", str(id), reason))


class World:
    """A replica set on replicas in memory."""

    def __init__(self, backend: InMemoryBackend | None = None, **options: Any) -> None:
        self.backend = backend or InMemoryBackend()
        self.listener = FakeListener()
        self.metrics = Metrics()
        self.events: list[str] = []
        self.secrets: dict[str, str] | None = {}  # None: the store is away
        self.replicas = ReplicaSet(
            target(**options),
            self.listener,
            backend=self.backend,
            clock=LoopClock(),
            metrics=self.metrics,
            events=lambda _, __, message, ___: self.events.append(message),
            secrets=self._read_secrets,
            prefix="f-1-1",
        )

    async def _read_secrets(self, project: str) -> dict[str, str]:
        if self.secrets is None:
            raise StoreUnavailable("gone")
        return self.secrets

    async def ready(self, count: int = 1) -> None:
        self.replicas.want(count)
        await self.replicas.wait_ready(count, lambda _: None)

    def restarts(self, reason: str) -> float:
        return self.metrics.restarts.child("p/f", reason).value
