"""The result cache on the way of a request: hits are answered at once, identical misses share one flight.

A flight has an invocation of its own, its leader, that no caller owns; the callers' invocations follow it. A caller
that goes away leaves the flight, which goes on for the others and is cancelled with the last one. The leader's deadline
is the latest of its followers'. Only plain successes are kept: neither errors nor default outputs, nor a response with
the status of an error. Where platforms share a Redis store, a miss looks there before it takes a replica's time
(`SharedResults`); responses with a head of their own are not stored there.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol

from clipper.contract.wire import ResponseHead
from clipper_platform.clock import Clock
from clipper_platform.core import caching
from clipper_platform.errors import ClientClosed, ClipperError, DeadlineExceeded
from clipper_platform.metrics import Metrics
from clipper_platform.serving.deadlines import DeadlineWheel
from clipper_platform.serving.invocation import Invocation, OwningQueue, State

__all__ = ["CachedResult", "Flight", "InvocationCache", "SharedResults"]

logger = logging.getLogger(__name__)


class SharedResults(Protocol):
    """A second tier that several platforms share. It never raises and never takes long."""

    @property
    def resting(self) -> bool:
        """It failed a moment ago and is not used for a while."""
        ...

    async def get(self, owner: str, digest: bytes) -> tuple[bytes, str] | None:
        """(payload, content type), or None."""
        ...

    def put(self, owner: str, digest: bytes, payload: bytes, content_type: str, ttl_s: float) -> None: ...
    def drop(self, owner: str) -> None: ...


@dataclass(frozen=True, slots=True)
class CachedResult:
    payload: bytes
    content_type: str
    response: ResponseHead | None = None

    def answer(self, invocation: Invocation, now: float) -> None:
        """Make it the answer of an invocation, which is not called back."""
        invocation.cache_status = "hit"
        invocation.payload, invocation.content_type_out = self.payload, self.content_type
        invocation.response = self.response
        invocation.state = State.DONE
        invocation.finished = now


class Flight:
    """One execution that several callers wait for. `lookup`: the look-up in the shared tier that comes before it."""

    __slots__ = ("followers", "key", "leader", "lookup")

    def __init__(self, key: bytes, leader: Invocation) -> None:
        self.key = key
        self.followers: set[Invocation] = set()
        self.leader = leader
        self.lookup: asyncio.Task[None] | None = None


class InvocationCache:
    """In front of the queues of all functions with `cache_ttl_s`. Bounded in bytes over all of them."""

    def __init__(
        self,
        max_bytes: int,
        *,
        clock: Clock,
        wheel: DeadlineWheel,
        metrics: Metrics,
        shared: SharedResults | None = None,
    ) -> None:
        self._shared = shared
        self.results: caching.ResultCache[CachedResult] = caching.ResultCache(max_bytes)
        self._flights: dict[bytes, Flight] = {}
        self._clock = clock
        self._wheel = wheel
        metrics.cache_bytes.child().read = lambda: float(self.results.bytes)

    @property
    def flights(self) -> int:
        return len(self._flights)

    def offer(self, invocation: Invocation) -> bool:
        """Answer it from the cache, or let it follow a flight. Refuses as `FunctionQueue.offer` does."""
        queue, now = invocation.queue, self._clock.monotonic()
        key = caching.key(queue.cached_as, invocation.content_type, invocation.accept, invocation.body)
        result = self.hit(queue, key, invocation.arrived, now)
        if result is None:
            return self.follow(invocation, key)
        result.answer(invocation, now)
        invocation.on_done(invocation)
        return True

    def hit(self, queue: OwningQueue, key: bytes, arrived: float, now: float) -> CachedResult | None:
        """The result kept under the key, counted as the answer to an invocation. After None, call `follow`."""
        entry = self.results.get(key, now)
        if entry is None or entry.value is None:
            return None
        queue.cache_hits += 1
        queue.answers.observe(now - arrived, now)
        queue.metrics.hit(now - arrived)
        return entry.value

    def peek(self, key: bytes) -> CachedResult | None:
        """The result kept under the key, without counting it as an answer."""
        entry = self.results.get(key, self._clock.monotonic())
        return None if entry is None else entry.value

    def follow(self, invocation: Invocation, key: bytes) -> bool:
        """Let it follow the flight of its key, which begins with it if there is none. Refuses as `FunctionQueue.offer`
        does."""
        invocation.cache_key = key
        flight = self._flights.get(key)
        if flight is None:
            flight = self._begin_flight(key, invocation)
            if flight is None:
                return False
            self._count_miss(invocation, "miss")
        else:
            self._count_miss(invocation, "collapsed")
            flight.leader.deadline = max(flight.leader.deadline, invocation.deadline)
        invocation.state = State.FOLLOWING
        invocation.flight = flight
        flight.followers.add(invocation)
        self._wheel.add(invocation, early=invocation.queue.spec.default_output is not None)
        return True

    def _count_miss(self, invocation: Invocation, result: str) -> None:
        invocation.cache_status = result
        invocation.queue.metrics.missed(result)
        invocation.queue.cache_misses += 1

    def _begin_flight(self, key: bytes, first: Invocation) -> Flight | None:
        """A new flight, or None where its queue is full."""
        leader = Invocation(
            first.queue,
            request_id=first.request_id,
            content_type=first.content_type,
            accept=first.accept,
            body=first.body,
            arrived=first.arrived,
            deadline=first.deadline,
            on_done=self._leader_done,
        )
        leader.cache_key = key
        leader.flight = leader  # marks that no caller owns it
        flight = Flight(key, leader)
        if self._shared is not None and not self._shared.resting:
            flight.lookup = asyncio.get_running_loop().create_task(self._look_up(flight, self._shared))
        elif not first.queue.offer(leader):
            return None
        self._flights[key] = flight
        return flight

    async def _look_up(self, flight: Flight, shared: SharedResults) -> None:
        """Look in the shared tier; a miss goes on to the queue. Cancelled when the last follower leaves."""
        leader = flight.leader
        queue = leader.queue
        found = await shared.get(queue.cached_as, flight.key)
        flight.lookup = None
        if found is not None:
            leader.payload, leader.content_type_out = found
            for follower in flight.followers:
                follower.cache_status = "shared"
            queue.metrics.missed("shared")
            self._end(flight, None, fresh=False)
            return
        try:
            queue.submit(leader)
        except ClipperError as refusal:
            self._end(flight, refusal, fresh=False)

    def _leader_done(self, leader: Invocation) -> None:
        flight = self._flights.get(leader.cache_key) if leader.cache_key is not None else None
        if flight is not None and flight.leader is leader:
            self._end(flight, leader.error, fresh=True)

    def _end(self, flight: Flight, error: ClipperError | None, *, fresh: bool) -> None:
        """Give every follower the answer. `fresh`: it comes from a replica, so it goes to the shared tier too."""
        del self._flights[flight.key]
        leader = flight.leader
        leader.state = State.DONE
        if error is None and not leader.default_reason:
            result = CachedResult(bytes(leader.payload), leader.content_type_out, leader.response)
            self._keep(leader.queue, flight.key, result, fresh=fresh)
        for follower in list(flight.followers):
            if follower.state is not State.FOLLOWING:
                continue  # it left while another follower was answered
            follower.payload, follower.content_type_out = leader.payload, leader.content_type_out
            follower.response = leader.response
            follower.default_reason = leader.default_reason
            follower.dispatched, follower.exec_s = leader.dispatched, leader.exec_s
            self._answer(follower, error)

    def _keep(self, queue: OwningQueue, key: bytes, result: CachedResult, *, fresh: bool) -> None:
        ttl = queue.spec.cache_ttl_s
        if ttl is None or queue.closed:
            return  # a version that ends keeps nothing: its entries were dropped already
        head = result.response
        if head is not None and not caching.keeps_response(head.status, head.headers):
            return
        now = self._clock.monotonic()
        size = len(result.payload) + len(result.content_type)
        if head is not None:
            size += sum(len(name) + len(value) for name, value in head.headers)
        self.results.put(key, result, size, ttl_s=ttl, now=now, owner=queue.cached_as)
        if fresh and self._shared is not None and head is None:
            self._shared.put(queue.cached_as, key, result.payload, result.content_type, ttl)

    def _answer(self, invocation: Invocation, error: ClipperError | None) -> None:
        now = self._clock.monotonic()
        invocation.error = error
        invocation.state = State.DONE
        invocation.finished = now
        invocation.flight = None
        if invocation.bucket:
            self._wheel.discard(invocation)
        invocation.queue.answers.observe(now - invocation.arrived, now)
        invocation.queue.metrics.finished(now - invocation.arrived, error)
        invocation.on_done(invocation)

    def _leave(self, invocation: Invocation, error: ClipperError) -> None:
        """Answer a follower that waits no longer with the error; the flight of the last one is cancelled."""
        flight: Flight = invocation.flight
        flight.followers.discard(invocation)
        queue = invocation.queue
        if isinstance(error, DeadlineExceeded) and queue.spec.default_output is not None:
            invocation.default_reason = error.code
            queue.metrics.default(error.code)
            self._answer(invocation, None)
        else:
            self._answer(invocation, error)
        if flight.followers or flight.leader.state is State.DONE:
            return
        if flight.lookup is not None:
            flight.lookup.cancel()
            del self._flights[flight.key]
        else:
            queue.cancel(flight.leader)

    def cancel(self, invocation: Invocation) -> None:
        """The caller of a follower went away."""
        self._leave(invocation, ClientClosed("the caller went away"))

    def expire(self, invocation: Invocation) -> None:
        """The deadline of an invocation passed; nothing happens unless it still follows a flight."""
        if invocation.state is State.FOLLOWING:
            self._leave(invocation, DeadlineExceeded("no answer within the deadline"))

    def drop(self, queue: OwningQueue) -> None:
        """Forget all results of a version that ends."""
        self.results.drop_owner(queue.cached_as)
        if self._shared is not None and queue.spec.cache_ttl_s is not None:
            self._shared.drop(queue.cached_as)
