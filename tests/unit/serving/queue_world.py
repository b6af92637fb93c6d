"""One function queue on replicas in memory, without a dispatcher, and with a clock that tests move."""

from __future__ import annotations

import random
from typing import Any

from clipper.contract import wire
from clipper_platform.backends.base import Exit
from clipper_platform.metrics import Metrics
from clipper_platform.serving.admission import Admission
from clipper_platform.serving.deadlines import DeadlineWheel
from clipper_platform.serving.endpoint import Endpoint
from clipper_platform.serving.function_metrics import FunctionMetrics
from clipper_platform.serving.function_queue import FunctionQueue
from clipper_platform.serving.invocation import Invocation
from clipper_platform.types import ReplicaId
from tests.support.serving import ManualClock, target

__all__ = ["CONCURRENT", "ONE_AT_A_TIME", "UNBATCHED", "FakeReplica", "QueueWorld"]

ONE_AT_A_TIME = wire.Ready(schema={"title": "f"}, batched=True, streaming=False, concurrency=1, phases={"setup": 0.5})
UNBATCHED = wire.Ready(schema={}, batched=False, streaming=False, concurrency=1, phases={})
CONCURRENT = wire.Ready(schema={}, batched=False, streaming=True, concurrency=8, phases={})


class FakeReplica:
    """Implements `Replica` and `Channel`: it remembers what it was sent, and the test answers."""

    def __init__(self, name: str, ready: wire.Ready) -> None:
        self.id = ReplicaId(name)
        self.ready = ready
        self.channel = self
        self.details: dict[str, Any] = {}
        self.writable = True
        self.batches: list[tuple[wire.Invoke, list[bytes]]] = []
        self.cancelled: list[int] = []
        self.withdrawn: list[int] = []
        self.credits: list[tuple[int, int]] = []

    def send_invoke(self, invoke: wire.Invoke, payloads: Any) -> None:
        self.batches.append((invoke, [bytes(p) for p in payloads]))

    def send_cancel(self, ids: Any) -> None:
        self.cancelled += ids

    def send_withdraw(self, ids: Any) -> None:
        self.withdrawn += ids

    def send_credit(self, item: int, n: int) -> None:
        self.credits.append((item, n))

    def send_ping(self, nonce: int) -> None: ...
    def attach(self, listener: Any) -> None: ...
    def memory_bytes(self) -> int | None:
        return None

    async def stop(self, timeout_s: float) -> None: ...
    def kill(self) -> None: ...


class QueueWorld:
    """Implements `ReplicaFeedback`."""

    def __init__(self, loop: Any, **options: Any) -> None:
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.admission = Admission(options.pop("max_queued_total", 1000))
        function = target(**options)
        self.scheduled = 0
        self.served_replicas: list[str] = []
        self.recycled: list[str] = []
        self.overdue_replicas: list[str] = []
        self.wheel = DeadlineWheel(loop, self.clock, lambda timed, limit: self.queue.expire_due(limit))
        self.queue = FunctionQueue(
            function,
            clock=self.clock,
            wheel=self.wheel,
            admission=self.admission,
            schedule=self._schedule,
            metrics=FunctionMetrics(self.metrics, function.id),
            rng=random.Random(1),
            successor=lambda _: self.successor,
        )
        self.done: list[Invocation] = []
        self.successor: FunctionQueue | None = None

    def _schedule(self, queue: FunctionQueue) -> None:
        assert queue is self.queue
        self.scheduled += 1

    def served(self, replica: str) -> None:
        self.served_replicas.append(replica)

    def recycle(self, replica: str) -> None:
        self.recycled.append(replica)
        self.queue.endpoints.endpoint_closing(replica)

    def overdue(self, replica: str) -> None:
        self.overdue_replicas.append(replica)
        self.queue.endpoints.endpoint_closing(replica)

    def replica(self, name: str = "r1", ready: wire.Ready = ONE_AT_A_TIME) -> tuple[FakeReplica, Endpoint]:
        """One that becomes ready."""
        replica = FakeReplica(name, ready)
        return replica, self.queue.endpoints.endpoint_ready(replica, self)

    def quick(self, endpoint: Endpoint, each_s: float = 0.001) -> None:
        """The replica is known to take so long for an item, so that it gets the next batch ahead."""
        endpoint.controller.observe(1, each_s)

    def invocation(self, body: bytes = b"x", *, timeout_s: float = 10.0, sink: Any = None) -> Invocation:
        now = self.clock.now
        return Invocation(
            self.queue,
            request_id="r",
            content_type="application/json",
            accept="*/*",
            body=body,
            arrived=now,
            deadline=now + timeout_s,
            on_done=self.done.append,
            sink=sink,
        )

    def submit(self, *bodies: bytes, timeout_s: float = 10.0) -> list[Invocation]:
        invocations = [self.invocation(body, timeout_s=timeout_s) for body in bodies]
        for invocation in invocations:
            self.queue.submit(invocation)
        return invocations

    def pump(self) -> None:
        """The queue's turn."""
        self.queue.pump(1000)

    def answer(self, replica: FakeReplica, endpoint: Endpoint, status: wire.Status = wire.Status.OK) -> None:
        """The replica answers its oldest batch, each item with its own body."""
        invoke, bodies = replica.batches.pop(0)
        outcomes = [
            wire.Outcome(item.id, status, item.content_type, len(body))
            for item, body in zip(invoke.items, bodies, strict=True)
        ]
        endpoint.on_result(wire.Result(invoke.batch, outcomes, 0.001), [memoryview(body) for body in bodies])

    def gone(self, replica: str = "r1", *, at_fault: bool = True) -> None:
        self.queue.endpoints.endpoint_gone(replica, Exit("crashed", "killed by SIGSEGV"), at_fault=at_fault)

    def codes(self) -> list[str]:
        return [invocation.error.code if invocation.error else "ok" for invocation in self.done]

    def check_idle(self) -> None:
        """Nothing waits, runs or is counted."""
        assert (self.queue.running, self.queue.waiting.live) == (0, 0)
        assert (self.admission.total, self.admission.queues) == (0, 0)
        assert len(self.wheel) == 0
