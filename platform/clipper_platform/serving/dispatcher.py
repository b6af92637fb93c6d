"""The front door of serving: routes, invocations, and the life of the queues."""

from __future__ import annotations

import asyncio
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from clipper.contract.media_types import JSON
from clipper_platform.clock import Clock
from clipper_platform.errors import ClipperError, NotFound
from clipper_platform.metrics import Metrics
from clipper_platform.replicas.base import DrainOutcome, Target
from clipper_platform.serving.admission import Admission
from clipper_platform.serving.cache import CachedResult, InvocationCache, SharedResults
from clipper_platform.serving.call import Answer, Call
from clipper_platform.serving.deadlines import DeadlineWheel, Timed
from clipper_platform.serving.endpoints import Endpoints
from clipper_platform.serving.function_metrics import FunctionMetrics
from clipper_platform.serving.function_queue import FunctionQueue
from clipper_platform.serving.input_digest import InputDigest
from clipper_platform.serving.invocation import Invocation, State
from clipper_platform.serving.materialized import MaterializedAnswers
from clipper_platform.serving.routes import Routes
from clipper_platform.serving.turns import Turns
from clipper_platform.types import FunctionId

__all__ = ["Dispatcher"]


class Dispatcher:
    """Implements `replicas.base.Queues`. All methods are called in the event loop; `close` comes after that of the
    replica sets."""

    def __init__(
        self,
        *,
        clock: Clock,
        metrics: Metrics,
        max_queued_total: int,
        cache_bytes: int,
        shared_results: SharedResults | None = None,
        materialized: MaterializedAnswers | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._rng = rng or random.Random()
        loop = asyncio.get_running_loop()
        self.wheel = DeadlineWheel(loop, clock, self._expire)
        self.admission = Admission(max_queued_total)
        self.cache = InvocationCache(cache_bytes, clock=clock, wheel=self.wheel, metrics=metrics, shared=shared_results)
        self._materialized = materialized
        self._routes = Routes[FunctionQueue]()
        self._queues: Mapping[FunctionId, FunctionQueue] = self._routes.queues
        # "project/function", or with "@version" -> queue: the hot look-up, which `resolve` and callers begin with
        self.routed: Mapping[str, FunctionQueue] = self._routes.routed
        self._turns = Turns(loop, lambda: metrics.loop_errors.child("dispatch").inc())
        self._observe()

    def _observe(self) -> None:
        """Read the gauges of all queues at each scrape."""

        def each(read: Callable[[FunctionQueue], int]) -> Callable[[], Iterator[tuple[tuple[str, ...], float]]]:
            return lambda: ((queue.metrics.labels, read(queue)) for queue in self.queues())

        self._metrics.queue_depth.callback = each(lambda queue: queue.depth)
        self._metrics.running.callback = each(lambda queue: queue.begun)
        self._metrics.batch_limit.callback = each(lambda queue: queue.endpoints.batch_limit)

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

        `cache_key`: the invocation's `core.caching.key`, given by a caller that got None from `cached` for it.
        """
        queue = invocation.queue
        if queue.materialized is not None and self._materialized is not None and self._materialized.offer(invocation):
            return True
        if cache_key:
            return self.cache.follow(invocation, cache_key)
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
        if invocation.state is State.RUNNING:
            invocation.endpoint.credit(invocation, n)

    async def call(
        self,
        function: FunctionId | str,
        body: bytes,
        *,
        content_type: str = JSON,
        accept: str = JSON,
        timeout_s: float | None = None,
        deadline: float | None = None,
        request_id: str = "",
        use_cache: bool = True,
        background: bool = False,
    ) -> Answer:
        """Invoke a function and wait for its answer. `function`: a path, or the id of a version, routed or not.

        It takes at most the function's own `timeout_s`, `timeout_s` seconds, and until `deadline` (monotonic). With
        `use_cache=False` no kept answer is given. `background`: it is no load and waits behind all others. The items of
        a stream are collected into one array.

        Raises the ClipperError that the invocation met: NotFound and refusals too. A cancellation frees what it held.
        """
        queue = self.resolve(function) if isinstance(function, str) else self._queues.get(function)
        if queue is None:
            raise NotFound(f"{function} is not running")
        arrived = self._clock.monotonic()
        limits = [queue.timeout_s, *(() if timeout_s is None else (timeout_s,))]
        until = min(arrived + min(limits), math.inf if deadline is None else deadline)
        call = Call(
            self,
            queue,
            body,
            content_type=content_type,
            accept=accept,
            request_id=request_id or os.urandom(8).hex(),
            arrived=arrived,
            deadline=until + (queue.timeout_s if background else 0.0),  # queues go by the deadline
            pinned=not isinstance(function, str) or "@" in function,
            background=background,
        )
        return await call.answer(use_cache=use_cache)

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

    def materialized_changed(self, path: str) -> None:
        """Answers of `project/function` that were computed beforehand appeared or went."""
        for queue in self.queues():
            if queue.target.id.path == path:
                self._mark_materialized(queue)

    def _mark_materialized(self, queue: FunctionQueue) -> None:
        known = self._materialized is not None and self._materialized.has(queue.target)
        queue.materialized = InputDigest(queue.schema) if known else None

    # Queues, as the replica sets open and end them

    def open(self, target: Target, *, schema: Mapping[str, Any] | None = None, idle_s: float = 0.0) -> Endpoints:
        queue = FunctionQueue(
            target,
            clock=self._clock,
            wheel=self.wheel,
            admission=self.admission,
            schedule=self._turns.schedule,
            metrics=FunctionMetrics(self._metrics, target.id),
            rng=self._rng,
            successor=self._successor,
        )
        if schema:
            queue.restore(schema)
        queue.idle_since = self._clock.monotonic() - idle_s
        self._mark_materialized(queue)
        self._routes.add(target.id, queue)
        return queue.endpoints

    async def drain(self, id: FunctionId, timeout_s: float, reason: str) -> DrainOutcome:
        if (queue := self._queues.get(id)) is None:
            return "answered"
        if self._routes.current(id.project) != id.version:
            self._routes.unpin(id)  # who pins it asks for it to be started again, and it is reopened
        return await queue.drain(timeout_s, reason)

    def reopen(self, id: FunctionId) -> None:
        if (queue := self._queues.get(id)) is not None:
            queue.reopen()
            self._routes.pin(id)

    def cut(self, id: FunctionId) -> None:
        if (queue := self._queues.get(id)) is not None:
            queue.cut()

    def _successor(self, queue: FunctionQueue) -> FunctionQueue | None:
        """Where a caller who pins no version would go now, instead of to a version that has ended."""
        found = self.routed.get(queue.target.id.path)
        return None if found is queue or found is None or found.closed else found

    def remove(self, id: FunctionId, reason: str) -> None:
        if (queue := self._queues.get(id)) is not None:
            self._routes.remove(id)
            queue.close(reason)
            self.cache.drop(queue)

    def queue(self, id: FunctionId) -> FunctionQueue | None:
        """The queue of a function version, routed or not."""
        return self._queues.get(id)

    def queues(self) -> list[FunctionQueue]:
        return list(self._queues.values())

    # Routes

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

    def close(self) -> None:
        self.wheel.close()
