"""A dispatcher on in-memory replicas, and callers that remember their answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from clipper.contract.spec import FunctionSpec
from clipper_platform.clock import Clock
from clipper_platform.control.function_facts import FunctionFacts, ScaledFunctions
from clipper_platform.metrics import Metrics
from clipper_platform.replicas.base import Target
from clipper_platform.replicas.replica_set import ReplicaSet
from clipper_platform.replicas.replica_sets import ReplicaSets
from clipper_platform.serving.cache import SharedResults
from clipper_platform.serving.dispatcher import Dispatcher
from clipper_platform.serving.invocation import Invocation, StreamSink
from clipper_platform.serving.materialized import AnswerTable, MaterializedAnswers
from clipper_platform.types import BundleDigest, EnvironmentId, FunctionId
from tests.support.memory_backend import InMemoryBackend
from tests.support.virtual_time import LoopClock

__all__ = ["Caller", "Harness", "ManualClock", "harness", "target"]


async def no_secrets(project: str) -> dict[str, str]:
    return {}


def target(
    name: str = "f", *, project: str = "p", version: int = 1, env: Mapping[str, str] | None = None, **options: Any
) -> Target:
    return Target(
        id=FunctionId(project, name, version),
        spec=FunctionSpec.parse(name, "app:f", options),
        environment=EnvironmentId("env"),
        bundle=BundleDigest("sha256:b"),
        env=env or {},
    )


class ManualClock:
    """Stands still until a test sets `now`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


class Caller:
    """One invocation and how often, and with what, it was answered."""

    def __init__(self, invocation: Invocation) -> None:
        self.invocation = invocation
        self.answers = 0
        self.done = asyncio.Event()

    @property
    def code(self) -> str:
        """ "ok", or the error's code."""
        return self.invocation.error.code if self.invocation.error else "ok"

    @property
    def payload(self) -> bytes:
        return bytes(self.invocation.payload)

    def answer(self, _: Invocation) -> None:
        self.answers += 1
        self.done.set()

    async def wait(self, timeout_s: float = 10) -> Caller:
        async with asyncio.timeout(timeout_s):
            await self.done.wait()
        return self


class Harness:
    def __init__(
        self,
        backend: InMemoryBackend,
        *,
        max_queued_total: int,
        cache_bytes: int,
        clock: Clock | None = None,
        shared: SharedResults | None = None,
        materialized: AnswerTable | None = None,
    ) -> None:
        self.backend = backend
        self.clock = clock or LoopClock()
        self.metrics = Metrics()
        self.events: list[tuple[FunctionId, str, str, Mapping[str, Any]]] = []
        self.callers: list[Caller] = []
        self.dispatcher = Dispatcher(
            clock=self.clock,
            metrics=self.metrics,
            max_queued_total=max_queued_total,
            cache_bytes=cache_bytes,
            shared_results=shared,
            materialized=MaterializedAnswers(materialized, self.clock) if materialized is not None else None,
            rng=random.Random(1),
        )
        self.replica_sets = ReplicaSets(
            self.dispatcher,
            backend=backend,
            clock=self.clock,
            metrics=self.metrics,
            events=lambda *event: self.events.append(event),
            secrets=no_secrets,
        )
        self.facts = FunctionFacts(self.dispatcher, self.replica_sets, self.clock)
        self.scaled = ScaledFunctions(self.dispatcher, self.replica_sets)

    async def deploy(self, deployed: Target, *, replicas: int = 1) -> Target:
        await self.replica_sets.start(deployed, replicas=replicas)
        self.dispatcher.set_route(deployed.id.project, deployed.id.version)
        return deployed

    def replica_set(self, path: str = "p/f") -> ReplicaSet:
        """Of the function version that the path leads to."""
        replicas = self.replica_sets.get(self.dispatcher.resolve(path).target.id)
        assert replicas is not None
        return replicas

    def call(
        self, path: str = "p/f", body: bytes = b"x", *, timeout_s: float = 10.0, sink: StreamSink | None = None
    ) -> Caller:
        """Invoke; raises what the dispatcher refuses with."""
        caller = self.caller(path, body, timeout_s=timeout_s, sink=sink)
        self.dispatcher.invoke(caller.invocation)
        self.callers.append(caller)
        return caller

    def caller(
        self, path: str = "p/f", body: bytes = b"x", *, timeout_s: float = 10.0, sink: StreamSink | None = None
    ) -> Caller:
        """One that is not given to the dispatcher yet."""
        now = self.clock.monotonic()
        holder: list[Caller] = []
        invocation = Invocation(
            self.dispatcher.resolve(path),
            request_id=f"r{len(self.callers)}",
            content_type="application/json",
            accept="*/*",
            body=body,
            arrived=now,
            deadline=now + timeout_s,
            on_done=lambda done: holder[0].answer(done),
            sink=sink,
        )
        caller = Caller(invocation)
        holder.append(caller)
        return caller

    def check_idle(self) -> None:
        """Everybody has one answer and nothing is held for anybody."""
        assert [c.answers for c in self.callers] == [1] * len(self.callers)
        assert self.dispatcher.admission.total == 0
        assert self.dispatcher.admission.queues == 0
        assert len(self.dispatcher.wheel) == 0
        assert self.dispatcher.cache.flights == 0
        for queue in self.dispatcher.queues():
            assert queue.running == 0
            assert queue.waiting.live == queue.waiting.weight == 0


@asynccontextmanager
async def harness(
    backend: InMemoryBackend | None = None,
    *,
    max_queued_total: int = 10_000,
    cache_bytes: int = 1 << 20,
    clock: Clock | None = None,
    shared: SharedResults | None = None,
    materialized: AnswerTable | None = None,
) -> AsyncIterator[Harness]:
    opened = Harness(
        backend or InMemoryBackend(),
        max_queued_total=max_queued_total,
        cache_bytes=cache_bytes,
        clock=clock,
        shared=shared,
        materialized=materialized,
    )
    try:
        yield opened
    finally:
        await opened.replica_sets.close()
        opened.dispatcher.close()
        opened.check_idle()
