"""Everything that serves one function of one version: its queue, its replicas, and the way from one to the other.

An invocation that was admitted is answered exactly once, by whichever comes first: its outcome, its deadline, its
caller's departure, or the end of the queue. All methods run in the event loop and none awaits, so that each of those
sees the state that the last one left.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from clipper.contract import wire
from clipper_platform.backends.base import Exit, Replica
from clipper_platform.clock import Clock
from clipper_platform.core import batching
from clipper_platform.core.windows import DrainRate, LatencyHistogram
from clipper_platform.errors import (
    ClientClosed,
    ClipperError,
    DeadlineExceeded,
    Quarantined,
    QueueFull,
    ReplicaLost,
    Unavailable,
)
from clipper_platform.replicas.replica_set import ReplicaSet
from clipper_platform.serving.admission import Admission
from clipper_platform.serving.base import Target
from clipper_platform.serving.batch_weight import weigh_by
from clipper_platform.serving.batcher import Batcher
from clipper_platform.serving.deadlines import TICKS_PER_S, DeadlineWheel
from clipper_platform.serving.endpoint import Batch, Endpoint
from clipper_platform.serving.error_mapping import error_of
from clipper_platform.serving.function_metrics import FunctionMetrics
from clipper_platform.serving.invocation import Invocation, State
from clipper_platform.serving.queue import InvocationQueue
from clipper_platform.serving.retry_policy import error_after_loss
from clipper_platform.types import FunctionId

__all__ = ["FunctionQueue"]

logger = logging.getLogger(__name__)


class FunctionQueue:
    """Implements `EndpointOwner` and `PoolOwner`. Without slots it would take 1.8 KB, not 0.3, busy or idle."""

    __slots__ = (
        "_admission",
        "_batcher",
        "_clock",
        "_drain",
        "_early",
        "_idle",
        "_loop",
        "_max_queued",
        "_published",
        "_rng",
        "_schedule",
        "_weigh",
        "_wheel",
        "answers",
        "bucket",
        "cache_hits",
        "cache_misses",
        "cached",
        "closed",
        "deadline",
        "held",
        "idle_since",
        "instruments",
        "latency",
        "name",
        "on_call",
        "pool",
        "running",
        "scheduled",
        "slo_s",
        "spec",
        "streaming",
        "submitted",
        "target",
        "timeout_s",
        "waiting",
    )  # fmt: skip

    def __init__(
        self,
        target: Target,
        *,
        clock: Clock,
        wheel: DeadlineWheel,
        admission: Admission,
        schedule: Callable[[FunctionQueue], None],
        instruments: FunctionMetrics,
        rng: random.Random,
    ) -> None:
        self.target = target
        self.name = str(target.id)
        self.spec = spec = target.spec
        self.timeout_s = spec.timeout_s
        self.slo_s = spec.latency_slo_s
        self.cached = spec.cache_ttl_s is not None
        self.waiting = InvocationQueue()
        self.pool: ReplicaSet  # set by whoever makes both
        self.running = 0
        self.latency = LatencyHistogram()  # of executions, which is what hedging goes by
        # What callers see: the same, unless a cache answers some of them without an execution.
        self.answers = self.latency if spec.cache_ttl_s is None else LatencyHistogram()
        self.instruments = instruments
        self.closed = ""  # why nothing is admitted any more
        self.streaming: bool | None = None  # None until the first replica was ready
        self._published: bytes | None = None  # `schema` as JSON: a fifth of what the objects take
        self.cache_hits = 0
        self.cache_misses = 0
        self.scheduled = False
        self.deadline = math.inf  # not later than any of what waits or runs
        self.bucket = 0  # of the deadline wheel
        self.submitted = 0
        self.idle_since: float | None = clock.monotonic()  # None while something waits or runs
        self.on_call: Callable[[FunctionId], None] | None = None  # told once, when a call finds nothing waiting
        self.held = 0  # how many wait for its replicas to be ready: until then their number stays
        self._clock = clock
        self._wheel = wheel
        self._admission = admission
        self._schedule = schedule
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._drain = DrainRate()
        self._batcher = Batcher(self.waiting, spec, loop=self._loop, rng=rng, kick=self._kick)
        self._idle: asyncio.Future[None] | None = None
        self._early = spec.default_output is not None
        self._max_queued = spec.max_queued_requests
        self._weigh = weigh_by(spec.batch_size_key) if spec.batch_size_key is not None else None

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """What the function takes and gives, once a replica was ready."""
        if self._published is None:
            return None
        found: dict[str, Any] = msgspec.json.decode(self._published)
        return found

    def publish(self, schema: Mapping[str, Any], *, streaming: bool | None) -> None:
        """As a replica says it, or said it to an earlier platform."""
        self._published = msgspec.json.encode(schema)
        self.streaming = streaming

    # Admission

    def submit(self, invocation: Invocation) -> None:
        """Queue it. Raises QueueFull or Unavailable, in which case nothing was kept of it."""
        if not self.offer(invocation):
            raise self.queue_full()

    def offer(self, invocation: Invocation) -> bool:
        """`submit` for those who are refused often: False, instead of QueueFull, once the refusal is counted."""
        waiting, admission = self.waiting, self._admission
        depth = waiting.live
        if depth >= self._max_queued or admission.total >= admission.scarce or self.closed or self.pool.state.failed:
            if self.closed:
                raise Unavailable(self.closed, retry_after_s=1)
            if depth >= self._max_queued or admission.refuses(depth):
                self.instruments.refuse(over_all=depth < self._max_queued)
                return False
            if self.pool.state.failed and not self.pool.handles:
                raise Unavailable(f"{self.target.id} has no replica: {self.pool.state.failed}", retry_after_s=10)
        if self._weigh is not None:
            invocation.weight = self._weigh(invocation.content_type, invocation.body)
        waiting.push(invocation)
        admission.total += 1
        self.submitted += 1
        if invocation.deadline < self.deadline:
            self._watch(invocation.deadline)
        if not self.scheduled:
            self.scheduled = True
            self._schedule(self)
        if depth == 0:
            self._stir()
        return True

    def _stir(self) -> None:
        """Something waits again."""
        self._admission.queues += 1
        if not self.running:
            self._drain.resume(self._clock.monotonic())
            self.idle_since = None
        if self.on_call is not None:
            self._tell_call(self.on_call)

    def queue_full(self) -> QueueFull:
        """The refusal."""
        depth = self.waiting.live
        retry_after_s = self._retry_after(depth)
        return QueueFull(f"{self.target.id.path} has {depth} invocations waiting", retry_after_s=retry_after_s)

    def _tell_call(self, callback: Callable[[FunctionId], None]) -> None:
        self.on_call = None
        callback(self.target.id)

    def _retry_after(self, depth: int) -> float:
        rate = self._drain.rate(self._clock.monotonic())
        return min(60.0, max(1.0, depth / rate)) if rate else 1.0

    def cancel(self, invocation: Invocation) -> None:
        """The caller went away: free what it holds, wherever it is."""
        if invocation.state in (State.QUEUED, State.RUNNING):
            self._abandon(invocation, ClientClosed("the caller went away"))

    def _watch(self, deadline: float) -> None:
        self.deadline = deadline
        if self.bucket:
            if self.bucket <= int(deadline * TICKS_PER_S):
                return  # it comes round before that and finds the next one itself
            self._wheel.discard(self)
        self._wheel.add(self, early=self._early)

    def expire_due(self, limit: int) -> None:
        """Answer all whose deadline is below `limit` (in ticks of the wheel), and wait for the next one's."""
        self.deadline = math.inf
        due_before = limit + self._early
        # The deadline of a flight moves when somebody joins it, so that a queue of flights is not quite in order.
        due, earliest = self.waiting.due(due_before, ordered=not self.cached)
        for handle in self.pool.handles.values():
            for batch in handle.batches.values():
                for invocation in batch.items:
                    if invocation is None or invocation.state is not State.RUNNING:
                        continue
                    if invocation.deadline * TICKS_PER_S < due_before:  # in ticks, as the wheel rounds
                        due.append(invocation)
                    elif invocation.deadline < earliest:
                        earliest = invocation.deadline
        if earliest < math.inf:
            self._watch(earliest)
        for invocation in due:
            self._expire(invocation)

    def _expire(self, invocation: Invocation) -> None:
        if invocation.state in (State.QUEUED, State.RUNNING):
            where = "in the queue" if invocation.state is State.QUEUED else "on a replica"
            waited = self._clock.monotonic() - invocation.arrived
            self._abandon(
                invocation, DeadlineExceeded(f"no answer within the deadline: {waited:.3f} s passed, the last {where}")
            )

    def _abandon(self, invocation: Invocation, error: ClipperError) -> None:
        if invocation.state is State.QUEUED:
            self._unqueue(invocation)
        else:
            handle: Endpoint = invocation.replica
            handle.cancel(invocation)
        self._finish(invocation, error)

    def _unqueue(self, invocation: Invocation) -> None:
        self.waiting.remove(invocation)
        self._left_queue(1)

    def _left_queue(self, n: int) -> None:
        self._admission.total -= n
        if not self.waiting.live:
            self._admission.queues -= 1

    # From the queue to the replicas

    def pump(self, quantum: int) -> bool:
        """Dispatch up to about `quantum` invocations; whether more could be dispatched at once."""
        self.scheduled = False
        sent = 0
        while self.waiting.live:
            if sent >= quantum:
                self.scheduled = True
                return True
            n = self._dispatch_one()
            if not n:
                break
            sent += n
        return False

    def _dispatch_one(self) -> int:
        """Send one batch; the number of invocations that left the queue, 0 when none can be sent now."""
        departure = self._batcher.next(self.pool.handles, self._clock.monotonic())
        if departure is None:
            return 0
        handle, items, weight, late, full, solo = departure
        self._left_queue(len(items) + len(late))
        for invocation in late:
            self._finish(invocation, DeadlineExceeded("the deadline could not be met any more when its turn came"))
        if items:
            self._send(handle, items, weight, full=full, solo=solo)
        return len(items) + len(late)

    def _kick(self) -> None:
        if self.waiting.live and not self.scheduled:
            self.scheduled = True
            self._schedule(self)

    def _send(
        self, handle: Endpoint, items: list[Invocation], weight: int, *, full: bool = False, solo: bool = False
    ) -> None:
        batch = handle.send(items, weight, solo=solo)
        batch.full = full
        self.running += len(items)
        if not handle.answered:
            for invocation in items:
                if invocation.queued < handle.ready_at:
                    invocation.cold = handle.cold_start(invocation.queued, batch.sent)
        self.instruments.dispatched(items, batch.sent)
        if self.spec.hedge_after is not None and not solo:
            self._plan_hedge(handle, batch, self.spec.hedge_after)

    # Hedging: "The Tail at Scale", Dean and Barroso 2013

    def _plan_hedge(self, handle: Endpoint, batch: Batch, quantile: float) -> None:
        delay = self.latency.quantile(quantile, self._clock.monotonic())
        if delay is not None and len(self.pool.handles) > 1:
            self._loop.call_later(delay, self._hedge, handle, batch)

    def _hedge(self, slow: Endpoint, batch: Batch) -> None:
        waiting = [i for i in batch.items if i is not None and i.state is State.RUNNING and not i.chunks]
        if not waiting or slow.id not in self.pool.handles:
            return
        free = [h for h in self.pool.handles.values() if h is not slow and h.room() >= len(waiting) and not h.batches]
        if free:
            self._rng.choice(free).send(waiting, batch.weight, hedge=True)
            self.instruments.hedged(len(waiting))

    # What comes back

    def on_outcomes(
        self, handle: Endpoint, batch: Batch, outcomes: Sequence[wire.Outcome], payloads: Sequence[memoryview],
        exec_s: float,
    ) -> None:  # fmt: skip
        """Answer invocations; the usual ones, which succeeded in time, together."""
        now = self._clock.monotonic()
        running, done = State.RUNNING, State.DONE
        items, first, size = batch.items, batch.first, batch.size
        settled: list[Invocation] = []
        for outcome, payload in zip(outcomes, payloads, strict=True):
            index = outcome.id - first
            invocation = items[index] if 0 <= index < size else None
            if invocation is None:
                continue  # nobody has that id, or the answer came before
            items[index] = None
            if (
                outcome.status
                or invocation.state is not running
                or invocation.replica is not handle
                or invocation.deadline < now
                or invocation.hedge is not None
                or invocation.flight is not None
            ):
                handle.settled(batch, 1)
                self._on_outcome(handle, invocation, outcome, payload, exec_s)
                continue
            invocation.exec_s = exec_s
            invocation.payload = payload
            invocation.content_type_out = outcome.content_type
            invocation.state = done
            invocation.finished = now
            invocation.replica = None
            settled.append(invocation)
        if settled:
            handle.settled(batch, len(settled))
            self.running -= len(settled)
            durations_s = [now - invocation.arrived for invocation in settled]
            self.latency.observe_all(durations_s, now)
            self.instruments.succeeded(durations_s)
            for invocation in settled:
                invocation.on_done(invocation)
            if not self.running and not self.waiting.live:
                self._rest(now)

    def _on_outcome(
        self, handle: Endpoint, invocation: Invocation, outcome: wire.Outcome, payload: memoryview, exec_s: float
    ) -> None:
        """The same for one, whatever became of it in the meantime."""
        if invocation.state is State.QUEUED:
            self._unqueue(invocation)  # its replica was lost, but the hedge answered
            self.running += 1
        elif invocation.state is not State.RUNNING:
            return
        elif invocation.replica is not handle:
            invocation.replica.cancel(invocation)  # the hedge was first
        elif invocation.hedge is not None:
            second, item = invocation.hedge
            second.channel.send_cancel([item])
        invocation.exec_s = exec_s
        if outcome.status == wire.Status.OK:
            invocation.payload = payload
            invocation.content_type_out = outcome.content_type
            self._finish(invocation, None)
        elif outcome.status == wire.Status.CANCELLED:
            self._passed_over(invocation)
        else:
            self._finish(invocation, error_of(outcome))

    def _passed_over(self, invocation: Invocation) -> None:
        """The replica did not run it, although somebody waits: its time was up when its turn came. A flight of the
        cache may have got more time since it was sent, from a follower that came later."""
        if self._clock.monotonic() < invocation.deadline and not self.closed:
            self._queue_again(invocation)
            self._kick()
        else:
            self._finish(invocation, DeadlineExceeded("the deadline passed before its turn on a replica came"))

    def on_stream_chunk(self, handle: Endpoint, invocation: Invocation, chunk: wire.Chunk, payload: memoryview) -> None:
        if invocation.state is State.RUNNING and invocation.sink is not None and invocation.replica is handle:
            invocation.chunks += 1
            invocation.sink.chunk(bytes(payload), chunk.content_type)

    def credit(self, invocation: Invocation, n: int) -> None:
        """The consumer of a stream took `n` chunks: the replica may send as many more."""
        if invocation.state is State.RUNNING:
            invocation.replica.channel.send_credit(invocation.item, n)

    def on_batch_done(self, handle: Endpoint, batch: Batch, duration_s: float, reruns: int) -> None:
        handle.controller.observe(batch.weight if self.spec.batched else batch.size, duration_s, full=batch.full)
        self._batcher.ran(duration_s)
        self._drain.observe(batch.size, self._clock.monotonic())
        self.instruments.batch_done(batch.size, duration_s, reruns)
        if handle.answered == batch.size:
            self.pool.served(handle, duration_s)
        limit = self.spec.max_invocations
        if limit is not None and handle.answered >= limit and not handle.draining:
            self.pool.recycle(handle)
        if self.waiting.live and not self.scheduled:
            self.scheduled = True
            self._schedule(self)

    def on_replica_exit(self, handle: Endpoint, exit: Exit) -> None:
        running, waiting = handle.take_unfinished()
        guilty = handle.silent or exit.reason in ("crashed", "oom", "exited")
        if running and guilty:
            # What it ran ended it, not its start: poison alone must not look like a crash loop and stop the pool.
            self.pool.served(handle)
        for invocation in running:
            self._retry(invocation, exit, blamed=guilty)
        for invocation in waiting:
            # Never begun, so that it is no retry: behind enough poison it would otherwise run out of them.
            self._retry(invocation, exit, begun=False)
        self.pool.exited(handle, exit)

    def _retry(self, invocation: Invocation, exit: Exit, *, begun: bool = True, blamed: bool = False) -> None:
        """An invocation's replica is gone: queue it again while its deadline and its retries allow."""
        if invocation.state is not State.RUNNING:
            return
        invocation.attempts += begun
        invocation.blamed += blamed
        error = error_after_loss(invocation, exit, max_retries=self.spec.max_retries, closed=self.closed)
        if error is None:
            self._queue_again(invocation)
            return
        if isinstance(error, Quarantined):
            self.instruments.quarantine()
        self._finish(invocation, error)

    def _queue_again(self, invocation: Invocation) -> None:
        self.running -= 1
        invocation.replica = None
        self.instruments.retried()
        self.waiting.push(invocation)
        self._admission.total += 1
        if invocation.deadline < self.deadline:
            self._watch(invocation.deadline)
        if self.waiting.live == 1:
            self._admission.queues += 1
        if self.on_call is not None:
            self._tell_call(self.on_call)

    def _finish(self, invocation: Invocation, error: ClipperError | None) -> None:
        now = self._clock.monotonic()
        if invocation.state is State.RUNNING:
            self.running -= 1
        if error is None and now > invocation.deadline:
            error = DeadlineExceeded("the answer came after the deadline")
        if error is not None and self._early and defaultable(error):
            invocation.default_reason = error.code
            self.instruments.default(error.code)
        else:
            invocation.error = error
        invocation.state = State.DONE
        invocation.finished = now
        invocation.replica = None
        self.latency.observe(now - invocation.arrived, now)
        self.instruments.finished(invocation, now)
        invocation.on_done(invocation)
        if not self.running and not self.waiting.live:
            self._rest(now)

    def _rest(self, now: float) -> None:
        """Nothing waits or runs any more."""
        self.deadline = math.inf  # but it stays on the wheel, where the next invocation is likely to want it
        self._drain.pause(now)
        self.idle_since = now
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    # PoolOwner

    def adopt(self, replica: Replica) -> Endpoint:
        streaming = replica.ready.streaming
        self.publish({**replica.ready.schema, "streaming": streaming}, streaming=streaming)
        self.instruments.begin()
        controller = batching.make_controller(self.spec.effective_batch_policy, self.spec.max_batch_size, self.slo_s)
        return Endpoint(replica, self, self._clock, controller)

    def replicas_changed(self) -> None:
        if self.pool.state.failed and not self.pool.handles:
            reason = f"{self.target.id} has no replica: {self.pool.state.failed}"
            self._fail_queued(Unavailable(reason, retry_after_s=10))
        elif self.waiting.live:
            self._kick()
        if not self.pool.handles:
            self._put_away()

    def _put_away(self) -> None:
        """No replica is left: keep nothing that only a function with replicas needs, nor what is too old to be told."""
        self.waiting.rest()
        now = self._clock.monotonic()
        if self.answers is not self.latency and self.answers.quantile(1, now) is None:
            self.answers = LatencyHistogram()
        if self.latency.quantile(1, now) is None:
            fresh = LatencyHistogram()
            if self.answers is self.latency:
                self.answers = fresh
            self.latency = fresh

    def _fail_queued(self, error: ClipperError) -> None:
        while (head := self.waiting.suspect() or self.waiting.peek()) is not None:
            self._unqueue(head)
            self._finish(head, error)

    # The end

    async def drain(self, timeout_s: float) -> None:
        """Admit nothing more; return when what was admitted is answered, at most `timeout_s` later."""
        self.closed = self.closed or f"{self.target.id} is draining"
        if self.running or self.waiting.live:
            self._idle = self._loop.create_future()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._idle
            except TimeoutError:
                logger.warning(
                    "%s: %d invocations outlived the drain", self.target.id, self.running + self.waiting.live
                )
        self._fail_queued(Unavailable(self.closed))
        self._batcher.close()


def defaultable(error: ClipperError) -> bool:
    """Whether the default output may answer: the model was too slow or not there; not where the request is wrong."""
    return isinstance(error, DeadlineExceeded | Unavailable | ReplicaLost)
