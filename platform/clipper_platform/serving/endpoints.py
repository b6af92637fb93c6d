"""The ready replicas of one function version: what they run, what comes back, and what a lost one leaves behind.

All methods run in the event loop and none awaits, so that each sees the state that the one before it left.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence
from typing import Protocol

from clipper.contract import wire
from clipper.contract.spec import FunctionSpec
from clipper_platform.backends.base import Exit, Replica
from clipper_platform.clock import Clock
from clipper_platform.core import batching
from clipper_platform.core.windows import LatencyHistogram
from clipper_platform.errors import ClipperError, Quarantined
from clipper_platform.replicas.base import ReplicaFeedback
from clipper_platform.serving.deadlines import TICKS_PER_S
from clipper_platform.serving.endpoint import Batch, Endpoint
from clipper_platform.serving.error_mapping import error_of
from clipper_platform.serving.function_metrics import FunctionMetrics
from clipper_platform.serving.hedging import Hedging
from clipper_platform.serving.invocation import Invocation, State
from clipper_platform.serving.queue import InvocationQueue
from clipper_platform.serving.retry_policy import error_after_loss, error_after_pass
from clipper_platform.serving.withdrawals import Withdrawals

__all__ = ["Endpoints", "EndpointsOwner"]


class EndpointsOwner(Protocol):
    """The queue whose invocations the endpoints run."""

    spec: FunctionSpec
    waiting: InvocationQueue
    latency: LatencyHistogram
    metrics: FunctionMetrics
    running: int
    ended: str  # why no replica will run anything any more; empty until then

    def publish(self, ready: wire.Ready) -> None: ...
    def finish(self, invocation: Invocation, error: ClipperError | None) -> None: ...
    def requeue(self, invocation: Invocation) -> None: ...
    def batch_done(self, size: int, duration_s: float) -> None: ...
    def kick(self) -> None: ...
    def rest(self, now: float) -> None: ...
    def capacity_changed(self, reason: str, retry_at: float) -> None: ...
    def endpoints_gone(self) -> None: ...


class Endpoints:
    """Implements `EndpointListener` and `EndpointOwner`."""

    __slots__ = ("_clock", "_hedging", "_late", "_owner", "_replicas", "_usual_s", "by_id", "start_s", "withdrawals")

    _replicas: ReplicaFeedback

    def __init__(self, owner: EndpointsOwner, *, clock: Clock, rng: random.Random) -> None:
        self.by_id: dict[str, Endpoint] = {}
        self._owner = owner
        self._clock = clock
        self._late = False  # something that a replica runs is past its deadline
        self.start_s = 1.0  # how long the latest replica took to start
        self._usual_s: float | None = None  # how long a call takes, once one was answered
        self.withdrawals = Withdrawals(self.by_id, clock)
        quantile = owner.spec.hedge_after
        self._hedging = None if quantile is None else Hedging(quantile, self.by_id, metrics=owner.metrics, rng=rng)

    @property
    def batch_limit(self) -> int:
        """The largest batch that any replica gets now."""
        return max((endpoint.controller.limit for endpoint in self.by_id.values()), default=0)

    @property
    def late(self) -> bool:
        """Whether something that a replica runs is past its deadline."""
        return self._late

    @property
    def unbegun(self) -> int:
        """Invocations that were sent to replicas and wait there for others."""
        return sum(endpoint.unbegun for endpoint in self.by_id.values())

    def send(self, endpoint: Endpoint, items: list[Invocation], weight: int, *, full: bool, solo: bool) -> None:
        """Have a replica run these. `full`: the size limit is why there are not more; `solo`: nothing beside them."""
        owner = self._owner
        batch = endpoint.send(items, weight, solo=solo)
        batch.full = full
        owner.running += len(items)
        if endpoint.concurrency > 1:
            if self._late or len(self.by_id) > 1:
                self.withdrawals.watch()
        elif endpoint.load > 1 and endpoint.unbegun:
            self.withdrawals.watch()
        if items[0].queued < endpoint.ready_at:
            for invocation in items:
                if invocation.queued < endpoint.ready_at:
                    invocation.cold = endpoint.cold_start(invocation.queued, batch.sent)
        owner.metrics.dispatched([batch.sent - invocation.queued for invocation in items])
        if self._hedging is not None and not solo:
            self._hedging.plan(endpoint, batch, owner.latency.quantile(self._hedging.quantile, batch.sent))

    # EndpointOwner

    def on_outcomes(
        self, endpoint: Endpoint, batch: Batch, outcomes: Sequence[wire.Outcome], payloads: Sequence[memoryview],
        exec_s: float,
    ) -> None:  # fmt: skip
        """Answer invocations. The usual ones, which succeeded in time, are answered together in this one loop: with a
        call for each, a request takes 5.1 µs of Python instead of 3.9 (`tests.benchmarks.hot_path`)."""
        now = self._clock.monotonic()
        running, done = State.RUNNING, State.DONE
        items, first, size = batch.items, batch.first, batch.size
        settled: list[Invocation] = []
        for outcome, payload in zip(outcomes, payloads, strict=True):
            index = outcome.id - first
            invocation = items[index] if 0 <= index < size else None
            if invocation is None:
                endpoint.stray(1)  # nobody has that id, or the answer came before
                continue
            items[index] = None
            if (
                outcome.status
                or invocation.state is not running
                or invocation.endpoint is not endpoint
                or invocation.deadline < now
                or invocation.hedge is not None
                or invocation.flight is not None
                or outcome.response is not None
            ):
                endpoint.settled(batch, 1, skipped=outcome.status == wire.Status.CANCELLED)
                self._on_outcome(endpoint, invocation, outcome, payload, exec_s)
                continue
            invocation.exec_s = exec_s
            invocation.payload = payload
            invocation.content_type_out = outcome.content_type
            invocation.state = done
            invocation.finished = now
            invocation.endpoint = None
            settled.append(invocation)
        if settled:
            endpoint.settled(batch, len(settled))
            self._answer(settled, now)

    def _answer(self, settled: list[Invocation], now: float) -> None:
        owner = self._owner
        owner.running -= len(settled)
        durations_s = [now - invocation.arrived for invocation in settled]
        owner.latency.observe_all(durations_s, now)
        owner.metrics.succeeded(durations_s)
        for invocation in settled:
            invocation.on_done(invocation)
        if not owner.running and not owner.waiting.live:
            owner.rest(now)

    def _on_outcome(
        self, endpoint: Endpoint, invocation: Invocation, outcome: wire.Outcome, payload: memoryview, exec_s: float
    ) -> None:
        """Answer one invocation in whatever state it is."""
        if invocation.state is State.QUEUED:
            self._owner.waiting.remove(invocation)  # its replica was lost, but the hedge answered
            self._owner.running += 1
            invocation.state = State.RUNNING
        elif invocation.state is not State.RUNNING:
            return
        elif invocation.endpoint is not endpoint:
            invocation.endpoint.cancel(invocation)  # the hedge was first
        elif invocation.hedge is not None:
            second, item = invocation.hedge
            second.channel.send_cancel([item])
        invocation.exec_s = exec_s
        if outcome.status == wire.Status.OK:
            invocation.payload = payload
            invocation.content_type_out = outcome.content_type
            invocation.response = outcome.response
            self._owner.finish(invocation, None)
        elif outcome.status == wire.Status.CANCELLED:
            self._passed_over(invocation)
        else:
            self._owner.finish(invocation, error_of(outcome))

    def _passed_over(self, invocation: Invocation) -> None:
        if invocation.withdrawn and not invocation.chunks:
            self._come_back(invocation)
            return
        error = error_after_pass(invocation, self._clock.monotonic())
        if error is not None:
            self._owner.finish(invocation, error)
            return
        self._queue_again(invocation)
        self._owner.kick()

    def _come_back(self, invocation: Invocation) -> None:
        """It was withdrawn from behind a long call before it began."""
        owner = self._owner
        owner.running -= 1
        invocation.endpoint.pause()
        invocation.endpoint = None
        invocation.withdrawals += 1
        owner.metrics.withdrawn()
        owner.requeue(invocation)
        owner.kick()

    def on_stream_chunk(
        self, endpoint: Endpoint, invocation: Invocation, chunk: wire.Chunk, payload: memoryview
    ) -> None:
        if invocation.state is State.RUNNING and invocation.sink is not None and invocation.endpoint is endpoint:
            invocation.chunks += 1
            invocation.sink.chunk(bytes(payload), chunk.content_type, chunk.response)

    def on_batch_done(self, endpoint: Endpoint, batch: Batch, duration_s: float, reruns: int) -> None:
        owner = self._owner
        ran = batch.size - batch.skipped
        if not ran:
            owner.kick()
            return
        weight = max(1, batch.weight * ran // batch.size)
        endpoint.controller.observe(weight, duration_s, full=batch.full and not batch.skipped)
        owner.metrics.batch_done(ran, duration_s, reruns)
        if endpoint.answered == ran:
            self._first_answers(endpoint, duration_s)
        limit = owner.spec.max_invocations
        if limit is not None and endpoint.answered >= limit and not endpoint.draining:
            self._replicas.recycle(endpoint.id)
        owner.batch_done(ran, duration_s)

    def _first_answers(self, endpoint: Endpoint, duration_s: float) -> None:
        if endpoint.waited_s is not None:
            self._owner.metrics.cold_start(queue_s=endpoint.waited_s, first_batch_s=duration_s)
        self._replicas.served(endpoint.id)

    # EndpointListener

    def endpoint_ready(self, replica: Replica, replicas: ReplicaFeedback) -> Endpoint:
        owner = self._owner
        self._replicas = replicas
        owner.publish(replica.ready)
        self.start_s = sum(replica.ready.phases.values())
        owner.metrics.begin()
        spec = owner.spec
        controller = batching.make_controller(spec.effective_batch_policy, spec.max_batch_size, spec.latency_slo_s)
        endpoint = self.by_id[str(replica.id)] = Endpoint(replica, self, self._clock, controller)
        owner.kick()
        if endpoint.concurrency > 1 and len(self.by_id) > 1:
            self.withdrawals.watch()  # what others have not begun may run here
        return endpoint

    def endpoint_closing(self, replica: str) -> None:
        if (endpoint := self.by_id.get(replica)) is not None:
            endpoint.draining = True
            endpoint.withdraw()  # what has not begun goes to another replica

    def endpoint_gone(self, replica: str, exit: Exit, *, at_fault: bool) -> None:
        endpoint = self.by_id.get(replica)
        if endpoint is None:
            return
        endpoint.draining = True
        running, waiting = endpoint.take_unfinished()
        if running and at_fault:
            # What it ran ended it, not its start: poison alone must not look like a crash loop and stop the set.
            self._replicas.served(replica)
        for invocation in running:
            self._retry(invocation, exit, blamed=at_fault)
        for invocation in waiting:
            # Never begun, so that it is no retry: behind enough poison it would otherwise run out of them.
            self._retry(invocation, exit, begun=False)
        self.by_id.pop(replica, None)
        if not self.by_id:
            self.by_id.clear()  # frees its room
            self.withdrawals.close()
            self._owner.endpoints_gone()
        self._owner.kick()

    def no_capacity(self, reason: str, retry_at: float) -> None:
        self._owner.capacity_changed(reason, retry_at)

    def in_time(self, replica: str) -> bool:
        endpoint = self.by_id.get(replica)
        return endpoint is not None and endpoint.in_time()

    def replace_overdue(self) -> None:
        """What waits can go nowhere: have replicas replaced whose calls are past their deadline."""
        now, earliest = self._clock.monotonic(), math.inf
        self._late = False
        for endpoint in list(self.by_id.values()):
            at = endpoint.replaced_from()
            if at <= now:
                self._replicas.overdue(endpoint.id)
            else:
                self._late |= at < math.inf
                earliest = min(earliest, at)
        if earliest < math.inf:
            asyncio.get_running_loop().call_later(earliest - now, self._owner.kick)

    def stuck(self, replica: str, grace_s: float) -> bool:
        # What any replica has seen: one that hangs in its first call has seen nothing itself.
        known = [s for e in self.by_id.values() if (s := e.controller.expected(1)) is not None]
        self._usual_s = max(known, default=self._usual_s)
        endpoint = self.by_id.get(replica)
        return endpoint is not None and endpoint.stuck(grace_s, self._owner.spec.timeout_s, self._usual_s)

    def expiring(self, before: int) -> tuple[list[Invocation], float]:
        """Invocations that run and whose deadline is earlier than `before`, in ticks of the wheel; and the earliest
        deadline of the others in seconds (inf)."""
        found: list[Invocation] = []
        earliest = math.inf
        for endpoint in self.by_id.values():
            for batch in endpoint.batches.values():
                for invocation in batch.items:
                    if invocation is None or invocation.state is not State.RUNNING:
                        continue
                    if invocation.deadline * TICKS_PER_S < before:  # in ticks, as the wheel rounds
                        found.append(invocation)
                    elif invocation.deadline < earliest:
                        earliest = invocation.deadline
        if found:
            self._late = True
            self.withdrawals.watch()
        return found, earliest

    # Retries

    def _retry(self, invocation: Invocation, exit: Exit, *, begun: bool = True, blamed: bool = False) -> None:
        """An invocation's replica is gone: queue it again while its deadline and its retries allow."""
        if invocation.state is not State.RUNNING:
            return
        owner = self._owner
        invocation.attempts += begun
        invocation.blamed += blamed
        error = error_after_loss(invocation, exit, begun=begun, max_retries=owner.spec.max_retries, ended=owner.ended)
        if error is None:
            self._queue_again(invocation)
            return
        if isinstance(error, Quarantined):
            owner.metrics.quarantine()
        owner.finish(invocation, error)

    def _queue_again(self, invocation: Invocation) -> None:
        self._owner.running -= 1
        invocation.endpoint = None
        invocation.allowed_chunks = wire.INITIAL_CREDIT
        invocation.requeues += 1
        self._owner.metrics.retried()
        self._owner.requeue(invocation)
