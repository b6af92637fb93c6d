"""The data plane's front door: which queue an invocation goes to, and the queues' life.

Queues take turns: each may dispatch a quantum of invocations before the next one has its turn (deficit round robin,
Shreedhar and Varghese 1995, with batches as packets), so that a function with a long queue does not keep the event
loop from the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from clipper_platform.backends.base import Backend, StartError
from clipper_platform.clock import Clock
from clipper_platform.core.canary import Answers
from clipper_platform.core.scaling import Sample
from clipper_platform.errors import ClipperError, DeployFailed, NotFound, Unavailable
from clipper_platform.metrics import Metrics
from clipper_platform.replicas.replica_set import ReplicaSet
from clipper_platform.serving.admission import Admission
from clipper_platform.serving.base import EventSink, FunctionStatus, Progress, Target
from clipper_platform.serving.cache import CachedResult, InvocationCache, SharedResults
from clipper_platform.serving.deadlines import DeadlineWheel, Timed
from clipper_platform.serving.function_metrics import FunctionMetrics
from clipper_platform.serving.function_queue import FunctionQueue
from clipper_platform.serving.invocation import Invocation, State
from clipper_platform.serving.routes import Routes
from clipper_platform.serving.status import function_sample, function_status, observe_queues, start_hint
from clipper_platform.serving.trial import call_once, count_answers
from clipper_platform.types import FunctionId

__all__ = ["Dispatcher"]

logger = logging.getLogger(__name__)

QUANTUM = 256  # invocations that a queue may dispatch in one turn


class Dispatcher:
    """`open` before use, `close` at the end, both in the event loop that everything else runs in."""

    def __init__(
        self,
        *,
        backend: Backend,
        clock: Clock,
        metrics: Metrics,
        events: EventSink,
        max_queued_total: int,
        cache_bytes: int,
        shared_results: SharedResults | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._metrics = metrics
        self._events = events
        self._rng = rng or random.Random()
        self._loop = asyncio.get_running_loop()
        self.wheel = DeadlineWheel(self._loop, clock, self._expire)
        self.admission = Admission(max_queued_total)
        self.cache = InvocationCache(cache_bytes, clock=clock, wheel=self.wheel, metrics=metrics, shared=shared_results)
        self._routes = Routes[FunctionQueue]()
        self._queues: Mapping[FunctionId, FunctionQueue] = self._routes.queues
        # "project/function", or with "@version" -> queue: the hot look-up, which `resolve` and callers begin with
        self.routed: Mapping[str, FunctionQueue] = self._routes.routed
        observe_queues(metrics, self.queues)
        self._due: deque[FunctionQueue] = deque()
        self._turn: asyncio.Handle | None = None
        self._starts = 0
        self._closing = False
        self.on_running: Callable[[Target, bool], None] | None = None
        """Told (target, True) when a function version runs, with (target, False) when it does not any more."""

    # Invocations

    def resolve(self, path: str) -> FunctionQueue:
        """The queue for `project/function` or `project/function@version`. Raises NotFound, or Unavailable for a version
        that is known but not running."""
        queue = self.routed.get(path)
        if queue is not None:
            return queue
        split = self._routes.splits.get(path)
        if split is not None:
            return split.next()
        raise self._unresolved(path)

    def _unresolved(self, path: str) -> ClipperError:
        name, _, version = path.partition("@")
        project, _, function = name.partition("/")
        current = self._routes.current(project)
        if current is None:
            return NotFound(f"there is no project {project!r}")
        functions = sorted(self._routes.of(project, current))
        if function not in functions:
            return NotFound(f"project {project!r} has no function {function!r}; it has {', '.join(functions)}")
        return NotFound(f"version {version!r} of {name} is not running; the current one is {current}")

    def invoke(self, invocation: Invocation) -> None:
        """Take an invocation; it will be answered exactly once. Raises QueueFull or Unavailable, and then it is not."""
        if not self.offer(invocation):
            raise invocation.queue.queue_full()

    def offer(self, invocation: Invocation, cache_key: bytes = b"") -> bool:
        """`invoke` for callers that are refused often: False, instead of QueueFull, once the refusal is counted.

        `cache_key`: the invocation's `core.caching.key`, from a caller to whom `cached` has said None for it.
        """
        if cache_key:
            return self.cache.follow(invocation, cache_key)
        queue = invocation.queue
        if queue.cached and queue.streaming is False:
            return self.cache.offer(invocation)
        return queue.offer(invocation)

    def cached(self, queue: FunctionQueue, key: bytes, arrived: float, now: float) -> CachedResult | None:
        """The result that the cache has under the key, counted as an answer to an invocation that arrived at `arrived`.

        After None the caller passes the key to `offer`.
        """
        return self.cache.hit(queue, key, arrived, now)

    def credit(self, invocation: Invocation, n: int) -> None:
        """The consumer of a stream took `n` chunks: the replica may send as many more."""
        invocation.queue.credit(invocation, n)

    def cancel(self, invocation: Invocation) -> None:
        """The caller went away. Nothing happens to an invocation that is done."""
        if invocation.state is State.FOLLOWING:
            self.cache.cancel(invocation)
        else:
            invocation.queue.cancel(invocation)

    def _expire(self, timed: Timed, limit: int) -> None:
        if isinstance(timed, FunctionQueue):
            timed.expire_due(limit)
        elif isinstance(timed, Invocation):
            self.cache.expire(timed)

    # Turns

    def _schedule(self, queue: FunctionQueue) -> None:
        self._due.append(queue)
        if self._turn is None:
            # At the end of this iteration of the loop, so that what arrived together is batched together.
            self._turn = self._loop.call_soon(self._take_turns)

    def _take_turns(self) -> None:
        self._turn = None
        for _ in range(len(self._due)):
            queue = self._due.popleft()
            try:
                more = queue.pump(QUANTUM)
            except Exception:
                # One queue's defect must not stop the others' turns.
                logger.exception("dispatching %s failed", queue.target.id)
                self._metrics.loop_errors.child("dispatch").inc()
                continue
            if more:
                self._due.append(queue)
        if self._due and self._turn is None:
            self._turn = self._loop.call_soon(self._take_turns)

    # Queues

    async def start(
        self,
        target: Target,
        *,
        replicas: int,
        on_progress: Progress | None = None,
        wait: bool = True,
        schema: Mapping[str, Any] | None = None,
        idle_s: float = 0.0,
    ) -> Mapping[str, Any]:
        """Start the pool of a function version and return its JSON schema once `replicas` are ready.

        Raises DeployFailed (details: phase, exception, log, hint), having left nothing behind; so does a
        cancellation. With `wait=False` it returns {} at once and the pool keeps trying with back-off.

        Of a version that ran before, `schema` is what a replica published, which holds until one does so anew, and
        `idle_s` how long nobody has called it.
        """
        if self._closing:
            raise Unavailable("the platform is shutting down")
        queue = self._queues.get(target.id) or self._make_queue(target, schema, idle_s)
        if queue.pool.state.wanted != replicas:
            self._metrics.scaling_decisions.child(target.id.path, "fixed").inc()
        queue.pool.want(replicas)
        if not wait:
            self._tell_running(queue, True)
            return {}

        def tell(ready: int) -> None:
            if on_progress is not None:
                on_progress(target.id, ready, replicas)

        queue.held += 1
        try:
            await queue.pool.wait_ready(replicas, tell, fail_fast=True)
        except StartError as error:
            await self._end_queue(queue, timeout_s=1)
            raise start_failed(target, error) from error
        except BaseException:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(self._end_queue(queue, timeout_s=1))
            raise
        finally:
            queue.held -= 1
        if self._queues.get(target.id) is queue:
            self._tell_running(queue, True)
        return queue.schema or {}

    def _tell_running(self, queue: FunctionQueue, runs: bool) -> None:
        if self.on_running is not None:
            self.on_running(queue.target, runs)

    def _make_queue(self, target: Target, schema: Mapping[str, Any] | None, idle_s: float) -> FunctionQueue:
        queue = FunctionQueue(
            target,
            clock=self._clock,
            wheel=self.wheel,
            admission=self.admission,
            schedule=self._schedule,
            instruments=FunctionMetrics(self._metrics, target.id),
            rng=self._rng,
        )
        if schema:
            queue.publish(schema, streaming=schema.get("streaming"))
        queue.idle_since = self._clock.monotonic() - idle_s
        self._starts += 1
        queue.pool = ReplicaSet(
            target,
            queue,
            backend=self._backend,
            clock=self._clock,
            metrics=self._metrics,
            events=self._events,
            prefix=f"{target.id.function}-{target.id.version}-{self._starts}",
        )
        self._routes.add(target.id, queue)
        return queue

    def set_route(self, project: str, version: int) -> None:
        """From now on the project's functions are those of this version, all at once, and of no other."""
        self._routes.set_route(project, version)

    def set_weights(self, project: str, weights: Mapping[int, int]) -> None:
        """Let versions share the calls of the project by percent, until the next call or `set_route`; {} ends it.

        A function that only one of them has is answered as by the route alone.
        """
        self._routes.set_weights(project, weights)

    def drop_route(self, project: str) -> None:
        """The project is not there any more for callers."""
        self._routes.drop_route(project)

    async def stop(self, project: str, version: int) -> None:
        """Drain and end a version's queues, bounded by each function's graceful_shutdown_timeout_s."""
        await asyncio.gather(*(self._retire(queue) for queue in self._routes.of(project, version).values()))

    async def _retire(self, queue: FunctionQueue) -> None:
        timeout_s = queue.spec.graceful_shutdown_timeout_s
        started = self._clock.monotonic()
        try:
            await queue.drain(timeout_s)
        finally:
            left = max(1.0, timeout_s - (self._clock.monotonic() - started))
            await asyncio.shield(self._end_queue(queue, timeout_s=left))

    async def _end_queue(self, queue: FunctionQueue, *, timeout_s: float) -> None:
        queue.closed = queue.closed or f"{queue.target.id} is not running"
        if self._queues.get(queue.target.id) is queue:
            self._routes.remove(queue.target.id)
            self._tell_running(queue, False)
        await queue.drain(0)
        await queue.pool.close(timeout_s)
        self.wheel.discard(queue)
        self.cache.drop(queue)
        if not self._closing:  # else all of them go, with everything else
            self._forget(queue.target.id)

    def _forget(self, id: FunctionId) -> None:
        if self._routes.has(id.project, id.function):
            self._metrics.forget(id.path, id.version)
        else:
            self._metrics.forget_function(id.path)

    async def call(self, id: FunctionId, body: bytes) -> None:
        """One invocation of a running function version with a JSON body, routed or not; its answer is dropped.

        Raises what it met, an answer by the default output included, and NotFound.
        """
        queue = self._queues.get(id)
        if queue is None:
            raise NotFound(f"{id} is not running")
        await call_once(queue, self._clock, body)

    def answers(self, id: FunctionId) -> Answers:
        """What callers got from a function version so far."""
        queue = self._queues.get(id)
        return Answers() if queue is None else count_answers(queue, self._clock.monotonic())

    def versions(self, project: str) -> set[int]:
        """The versions of a project that have replicas or are starting them."""
        return self._routes.versions(project)

    def functions(self, project: str, version: int) -> list[str]:
        """The functions of a version that have queues."""
        return list(self._routes.of(project, version))

    def queues(self) -> list[FunctionQueue]:
        return list(self._queues.values())

    # Scaling

    def sampler(self, id: FunctionId) -> Callable[[float], Sample | None]:
        """Tells, given the time, what the autoscaler decides by; None where nothing runs, or someone waits for
        replicas to be ready."""
        queue = self._queues.get(id)
        return partial(function_sample, queue) if queue is not None else lambda _: None

    def scale(self, id: FunctionId, replicas: int) -> None:
        """Have so many replicas from now on; those that go finish what they have."""
        queue = self._queues.get(id)
        if queue is not None:
            queue.pool.want(replicas)

    async def restart(self, id: FunctionId) -> None:
        """Replace its replicas, or try again with a pool that gave up; returns when they are ready or failed anew."""
        queue = self._queues.get(id)
        if queue is not None:
            await queue.pool.restart()

    def on_call(self, id: FunctionId, callback: Callable[[FunctionId], None] | None) -> None:
        """Have `callback` called once, in its own turn, by the next call that finds nothing waiting before it."""
        queue = self._queues.get(id)
        if queue is not None:
            queue.on_call = callback

    def status(self, id: FunctionId) -> FunctionStatus | None:
        queue = self._queues.get(id)
        return None if queue is None else function_status(queue, self._clock.monotonic(), self.cache)

    async def close(self) -> None:
        """Admit nothing more, answer what was admitted, end every replica."""
        self._closing = True
        for queue in self._queues.values():
            queue.closed = queue.closed or "the platform is shutting down"
        await asyncio.gather(*(self._retire(queue) for queue in list(self._queues.values())))
        self.wheel.close()


def start_failed(target: Target, error: StartError) -> DeployFailed:
    """What the deploy says of a replica that did not start."""
    exception = f"{error.error_type}: {error.message}" if error.error_type else error.message
    return DeployFailed(
        f"{target.id.function} did not start ({error.phase}): {exception}",
        phase=error.phase,
        exception=exception,
        log=[*error.log, *error.traceback.splitlines()],
        hint=start_hint(target, error),
        function=target.id.function,
    )
