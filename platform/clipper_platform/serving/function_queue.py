"""The queue of one function of one version: admission, deadlines, and answers.

An admitted invocation is answered exactly once, by what comes first: its outcome, its deadline, its cancellation, or
the end of the queue. All methods run in the event loop and none but `drain` awaits, so that each sees the state that
the one before it left.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from clipper.contract import wire
from clipper_platform.clock import Clock
from clipper_platform.core.windows import DrainRate, LatencyHistogram
from clipper_platform.errors import ClientClosed, ClipperError, DeadlineExceeded, QueueFull, Unavailable
from clipper_platform.replicas.base import DrainOutcome, Target, published_schema
from clipper_platform.serving.admission import Admission
from clipper_platform.serving.batch_weight import weigh_by
from clipper_platform.serving.batcher import Batcher
from clipper_platform.serving.deadlines import TICKS_PER_S, DeadlineWheel
from clipper_platform.serving.endpoints import Endpoints
from clipper_platform.serving.error_mapping import defaultable
from clipper_platform.serving.function_metrics import FunctionMetrics
from clipper_platform.serving.input_digest import InputDigest
from clipper_platform.serving.invocation import Invocation, State
from clipper_platform.serving.queue import InvocationQueue
from clipper_platform.types import FunctionId

__all__ = ["FunctionQueue"]

logger = logging.getLogger(__name__)

GIVEN_UP_S = 60.0  # `Retry-After` where only a person ends the trouble


class FunctionQueue:
    """Implements `EndpointsOwner`. Without slots it would take 1.8 KB instead of 0.3, busy or idle."""

    __slots__ = (
        "_admission", "_clock", "_drain", "_early", "_idle", "_max_queued", "_published", "_retry_at", "_schedule",
        "_successor", "_weigh", "_wheel", "answers", "background", "batcher", "bucket", "cache_hits", "cache_misses",
        "cached", "cached_as", "closed", "deadline", "ended", "endpoints", "idle_since", "latency", "materialized",
        "metrics", "missed_start", "name", "no_capacity", "on_call", "running", "scheduled", "spec", "streaming",
        "submitted", "target", "timeout_s", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        target: Target,
        *,
        clock: Clock,
        wheel: DeadlineWheel,
        admission: Admission,
        schedule: Callable[[FunctionQueue], None],
        metrics: FunctionMetrics,
        rng: random.Random,
        successor: Callable[[FunctionQueue], FunctionQueue | None] = lambda _: None,
    ) -> None:
        """`schedule`: gives the queue a turn, in which `pump` is called. `successor`: the queue that answers callers
        instead, once this one has ended."""
        self.target, self.name, self.cached_as = target, str(target.id), f"{target.id}#{target.identity}"
        self.spec = spec = target.spec
        self.timeout_s, self.cached = spec.timeout_s, spec.cache_ttl_s is not None
        self.waiting = InvocationQueue(admission)
        self.running = self.submitted = self.cache_hits = self.cache_misses = 0
        self.background = 0  # invocations that nobody waits for: no part of `submitted`
        self.materialized: InputDigest | None = None  # where some answers were computed beforehand
        self.latency = LatencyHistogram()  # of executions; hedging goes by it. Then what callers see, with a cache:
        self.answers = self.latency if spec.cache_ttl_s is None else LatencyHistogram()
        self.metrics = metrics
        self.closed = self.ended = ""  # why nothing is admitted any more; why no replica will run anything any more
        self.no_capacity, self._retry_at = "", math.inf  # why no replica comes, and when the set tries again
        self.streaming: bool | None = None  # None until the first replica was ready
        self._published: bytes | None = None  # `schema` as JSON: a fifth of what the objects take
        # For a turn; on the deadline wheel; whether a caller did not wait until a replica was ready.
        self.scheduled, self.bucket, self.missed_start = False, 0, False
        self.deadline = math.inf  # not later than any of what waits or runs
        self.idle_since: float | None = clock.monotonic()  # None while something waits or runs
        self.on_call: Callable[[FunctionId], None] | None = None  # called once, when a call finds nothing waiting
        self._clock, self._wheel, self._admission, self._successor = clock, wheel, admission, successor
        self._schedule, self._drain = schedule, DrainRate()
        self._idle: asyncio.Future[None] | None = None  # of a drain that waits
        self._early, self._max_queued = spec.default_output is not None, spec.max_queued_requests
        self._weigh = weigh_by(spec.batch_size_key) if spec.batch_size_key is not None else None
        self.endpoints = Endpoints(self, clock=clock, rng=rng)
        self.batcher = Batcher(self.waiting, self.endpoints.by_id, spec, rng=rng, kick=self.kick)

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """The function's JSON schema, once a replica was ready."""
        if self._published is None:
            return None
        schema: dict[str, Any] = msgspec.json.decode(self._published)
        return schema

    @property
    def depth(self) -> int:
        """Invocations that have not begun: those that a replica has in its socket too."""
        return self.waiting.live + self.endpoints.unbegun

    @property
    def begun(self) -> int:
        return self.running - self.endpoints.unbegun

    def publish(self, ready: wire.Ready) -> None:
        """A replica published what the function takes and gives."""
        self.restore(published_schema(ready))

    def restore(self, schema: Mapping[str, Any]) -> None:
        """As `publish`, with the schema that a replica published to an earlier platform."""
        self._published = msgspec.json.encode(schema)
        self.streaming = schema.get("streaming")

    # Admission

    def submit(self, invocation: Invocation) -> None:
        """Queue it. Raises QueueFull or Unavailable, and keeps nothing of it then."""
        if not self.offer(invocation):
            raise self.queue_full()

    def offer(self, invocation: Invocation) -> bool:
        """`submit` for callers that are refused often: False, instead of QueueFull, once the refusal is counted."""
        waiting, admission = self.waiting, self._admission
        depth = waiting.live
        if depth >= self._max_queued or admission.total >= admission.scarce or self.closed or self.no_capacity:
            if self.closed:
                raise Unavailable(self.closed, retry_after_s=1)
            if depth >= self._max_queued or admission.refuses(depth):
                self.metrics.refuse(over_all=depth < self._max_queued)
                return False
            if self.no_capacity and not self.endpoints.by_id:
                raise self._unavailable()
        if self._weigh is not None:
            invocation.weight = self._weigh(invocation.content_type, invocation.body)
        waiting.push(invocation)
        self.background += invocation.background
        self.submitted += not invocation.background
        if invocation.deadline < self.deadline:
            self._watch(invocation.deadline)
        if not self.scheduled:
            self.scheduled = True
            self._schedule(self)
        if depth == 0:
            if not self.running:
                self._drain.resume(self._clock.monotonic())
                self.idle_since = None
            if self.on_call is not None:
                self._announce_call(self.on_call)
        return True

    def queue_full(self) -> QueueFull:
        """The refusal of a full queue: it says when a place should be free, from 1 to 60 seconds."""
        depth = self.waiting.live
        rate = self._drain.rate(self._clock.monotonic())
        # Nothing was answered lately: while no replica is ready, until the next one should be.
        expected_s = depth / rate if rate else 0.0 if self.endpoints.by_id else self.endpoints.start_s
        retry_after_s = min(60.0, max(1.0, expected_s))
        return QueueFull(f"{self.target.id.path} has {depth} invocations waiting", retry_after_s=retry_after_s)

    def _unavailable(self) -> Unavailable:
        retry_after_s = max(1.0, min(GIVEN_UP_S, self._retry_at - self._clock.monotonic()))
        return Unavailable(f"{self.target.id} has no replica: {self.no_capacity}", retry_after_s=retry_after_s)

    def wake(self) -> None:
        """Have a replica started as a call would, where none runs."""
        if self.on_call is not None:
            self._announce_call(self.on_call)

    def _announce_call(self, callback: Callable[[FunctionId], None]) -> None:
        self.on_call = None
        callback(self.target.id)

    def requeue(self, invocation: Invocation) -> None:
        """Have an invocation that was sent to a replica wait again."""
        self.waiting.push(invocation)
        if self.ended:
            self._pass_on()
            return
        if invocation.deadline < self.deadline:
            self._watch(invocation.deadline)
        if self.on_call is not None:
            self._announce_call(self.on_call)

    # Deadlines and cancellation

    def cancel(self, invocation: Invocation) -> None:
        """The caller went away: free what the invocation holds, wherever it is."""
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
        before = limit + self._early
        # The deadline of a flight moves when somebody joins it, so that a queue of flights is not quite in order.
        waiting, next_waiting = self.waiting.due(before, ordered=not self.cached)
        running, next_running = self.endpoints.expiring(before)
        earliest = min(next_waiting, next_running)
        if earliest < math.inf:
            self._watch(earliest)
        for invocation in (*waiting, *running):
            self._expire(invocation)
        if running:
            self.kick()  # others may wait for what those occupy

    def _expire(self, invocation: Invocation) -> None:
        if invocation.state in (State.QUEUED, State.RUNNING):
            where = "in the queue" if invocation.state is State.QUEUED else "on a replica"
            waited_s = self._clock.monotonic() - invocation.arrived
            self._abandon(
                invocation,
                DeadlineExceeded(f"no answer within the deadline: {waited_s:.3f} s passed, the last {where}"),
            )

    def _abandon(self, invocation: Invocation, error: ClipperError) -> None:
        if invocation.state is State.QUEUED:
            self.missed_start = self.missed_start or not self.endpoints.by_id
            self.waiting.remove(invocation)
        else:
            invocation.endpoint.cancel(invocation)
        self.finish(invocation, error)

    # Dispatch

    def pump(self, quantum: int) -> bool:
        """Dispatch up to about `quantum` invocations; whether more could be dispatched at once."""
        self.scheduled = False
        if self.spec.batched:
            self.batcher.arrived(self.submitted, self._clock.monotonic())
        sent = 0
        while self.waiting.live:
            if sent >= quantum:
                self.scheduled = True
                return True
            n = self._dispatch_one()
            if not n:
                if self.endpoints.late:
                    self.endpoints.replace_overdue()
                break
            sent += n
        return False

    def _dispatch_one(self) -> int:
        """Send one batch; the number of invocations that left the queue, 0 when none can be sent now."""
        assignment = self.batcher.next(self._clock.monotonic())
        if assignment is None:
            return 0
        endpoint, items, weight, late, full, solo = assignment
        for invocation in late:
            self.finish(invocation, DeadlineExceeded("the deadline could not be met any more when its turn came"))
        if items:
            self.endpoints.send(endpoint, items, weight, full=full, solo=solo)
        return len(items) + len(late)

    def kick(self) -> None:
        """Something changed: dispatch in the next turn, if anything waits."""
        if self.waiting.live and not self.scheduled:
            self.scheduled = True
            self._schedule(self)

    def batch_done(self, size: int, duration_s: float) -> None:
        """A replica finished a batch and can take another."""
        now = self._clock.monotonic()
        self.batcher.ran(size, duration_s, self.waiting.live + self.running + size, now)
        self._drain.observe(size, now)
        if self.waiting.live and not self.scheduled:
            self.scheduled = True
            self._schedule(self)

    # Answers

    def finish(self, invocation: Invocation, error: ClipperError | None) -> None:
        """Answer an invocation that is not in the queue any more."""
        now = self._clock.monotonic()
        if invocation.state is State.RUNNING:
            self.running -= 1
        if error is None and now > invocation.deadline:
            error = DeadlineExceeded("the answer came after the deadline")
        if error is not None and self._early and defaultable(error):
            invocation.default_reason = error.code
            self.metrics.default(error.code)
        else:
            invocation.error = error
        invocation.state = State.DONE
        invocation.finished = now
        invocation.endpoint = None
        self.background -= invocation.background
        if not invocation.background:
            self.latency.observe(now - invocation.arrived, now)
        if invocation.flight is not invocation:  # the leader of a flight is no caller's invocation
            self.metrics.finished(now - invocation.arrived, invocation.error)
        invocation.on_done(invocation)
        if not self.running and not self.waiting.live:
            self.rest(now)

    def rest(self, now: float) -> None:
        """Nothing waits or runs any more."""
        self.deadline = math.inf  # but it stays on the wheel, where the next invocation is likely to want it
        self._drain.pause(now)
        self.idle_since = now
        if self.closed:
            self._wheel.discard(self)
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    # Capacity

    def capacity_changed(self, reason: str, retry_at: float = math.inf) -> None:
        """`reason`: why no replica will be started; "" where some will. `retry_at`: when it is tried again."""
        self.no_capacity, self._retry_at = reason, retry_at
        if reason and not self.endpoints.by_id:
            self._fail_queued(self._unavailable())

    def endpoints_gone(self) -> None:
        """No replica is left: keep nothing that only a function with replicas needs, and no latencies that are too old
        to be reported."""
        if self.no_capacity:
            self._fail_queued(self._unavailable())
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
        for head in self.waiting.take_all():
            self.finish(head, error)

    # The end

    async def drain(self, timeout_s: float, reason: str) -> DrainOutcome:
        """Admit nothing more; return when what was admitted is answered, at most `timeout_s` later, or at `cut` or
        `reopen`."""
        self.closed = self.closed or reason
        if self.running or self.waiting.live:
            if self._idle is None or self._idle.done():
                self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._idle], timeout=timeout_s)
            if not self.closed:
                return "reopened"
        running, waiting = self.running, self.waiting.live
        self._pass_on()
        if not running and not waiting:
            return "answered"
        logger.warning("%s: %d calls that run are cut off, %d have not begun", self.target.id, running, waiting)
        return "cut"

    def cut(self) -> None:
        """End a drain now, as if its time were over."""
        if self.closed and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def reopen(self) -> None:
        """Take a drain back: admit invocations again. Nothing happens after `close`."""
        if self.closed and not self.ended:
            self.closed = ""
            if self._idle is not None and not self._idle.done():
                self._idle.set_result(None)
            self.kick()

    def _pass_on(self) -> None:
        """What has not begun here goes to the version that answers now. Without one, or where the caller pinned this
        version or the cache waits for its answer, it is refused."""
        successor = self._successor(self)
        for head in self.waiting.take_all():
            try:
                if successor is None or head.pinned or head.flight or successor.streaming is not self.streaming:
                    raise Unavailable(self.closed, retry_after_s=1)
                head.queue = successor
                successor.submit(head)
            except ClipperError as refusal:
                head.queue = self
                self.finish(head, refusal)

    def close(self, reason: str) -> None:
        """Admit nothing more and refuse what waits. What runs is answered by its replica, its deadline or its end."""
        self.closed = self.ended = self.closed or reason
        self._pass_on()
        self.batcher.close()
        if not self.running:
            self._wheel.discard(self)
