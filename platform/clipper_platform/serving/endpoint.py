"""A ready replica as serving sees it: what it is working on, and what came back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from clipper.contract import wire
from clipper_platform.backends.base import Replica
from clipper_platform.clock import Clock
from clipper_platform.core import batching
from clipper_platform.serving.invocation import Invocation, State

__all__ = ["MAX_WITHDRAWALS", "Batch", "Endpoint", "EndpointOwner"]

# Outcomes of one Result that are judged by one look at the clock: writing so many answers takes under a millisecond.
CLOCKED_TOGETHER = 64
MAX_STRAYS = 1000  # answers of a replica to what it was not asked, in its life; a correct one sends none
MAX_WITHDRAWALS = 3  # of one invocation from a replica with one call at a time; after that it waits for an idle one
MOST_DOUBTFUL_S = 1.0
UNUSUAL = 20  # times its usual duration, after which a call is no longer taken for merely slow
# A replica that works on several calls and was found not to begin them gets a new one after the shortest pause, then
# after twice as long each time, until it answers something.
SHORTEST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
_UNBOUNDED = 1 << 30  # the batch's own limits decide


class Batch:
    """Invocations given to a replica together. `items[i]` has the wire id `first + i`; None once it is answered."""

    __slots__ = (
        "deadline", "first", "full", "hedge", "id", "items", "left", "sent", "size", "skipped", "solo", "weight",
        "withdrawn",
    )  # fmt: skip

    def __init__(
        self, id: int, first: int, items: list[Invocation | None], weight: int, sent: float, deadline: float
    ) -> None:
        self.id = id
        self.first = first
        self.items = items
        self.left = self.size = len(items)
        self.weight = weight
        self.sent = sent
        self.deadline = deadline  # the last one's
        self.solo = False
        self.full = False  # the size limit is why it is not larger
        self.hedge = False  # a second copy of what another replica is slow with
        self.skipped = 0  # items that the replica answered without running them
        self.withdrawn = False  # the replica was asked for those back that have not begun

    @property
    def doubtful_from(self) -> float:
        """When a replica that works on several calls should have begun it. Later for what was given back before: where
        every replica has a busy event loop, calls go to and fro a few times only."""
        times = max((i.withdrawals for i in self.items if i is not None), default=0)
        return self.sent + min(MOST_DOUBTFUL_S, batching.MOMENT_S * 2.0 ** min(times, 16))


class EndpointOwner(Protocol):
    """What an endpoint reports to: the endpoints of its function."""

    def on_outcomes(self, endpoint: Endpoint, batch: Batch, outcomes: Sequence[wire.Outcome],
                    payloads: Sequence[memoryview], exec_s: float) -> None: ...  # fmt: skip
    def on_stream_chunk(self, endpoint: Endpoint, invocation: Invocation, chunk: wire.Chunk,
                        payload: memoryview) -> None: ...  # fmt: skip
    def on_batch_done(self, endpoint: Endpoint, batch: Batch, duration_s: float, reruns: int) -> None: ...


class Endpoint:
    """Implements `ResultListener`. A replica works on `concurrency` calls at once: a call is a batch where the function
    is batched, else an item. One that works on a single call gets a second one to its socket when the first is about
    to end, so that it never idles between them."""

    PIPELINE = 2  # calls in flight to a replica that works on one at a time

    def __init__(
        self, replica: Replica, owner: EndpointOwner, clock: Clock, controller: batching.SizeController
    ) -> None:
        self.id = str(replica.id)
        self.channel = replica.channel
        self.ready = replica.ready
        self.concurrency = max(1, replica.ready.concurrency)
        self.controller = controller
        self.draining = False  # gets nothing new
        self.batches: dict[int, Batch] = {}  # by id, in the order sent
        self.load = 0  # items in flight
        self.answered = 0
        self.ready_at = clock.monotonic()
        self.waited_s: float | None = None  # beside its start, by the first invocation that waited for it
        self.running_since = 0.0  # when the oldest batch in flight had its turn
        self.paused_until = 0.0  # it begins no calls now: its event loop is blocked
        self._pause_s = 0.0
        self._owner = owner
        self._clock = clock
        self._strays = 0
        self._next_batch = 0
        self._next_item = 0

    def cold_start(self, queued: float, sent: float) -> dict[str, float]:
        """Seconds by phase of the start that an invocation waited for from `queued` to `sent`: `queue`, its wait beside
        the start, then the phases of the start."""
        phases = self.ready.phases
        waited_s = max(0.0, sent - queued - min(self.ready_at - queued, sum(phases.values())))
        if self.waited_s is None:
            self.waited_s = waited_s
        return {"queue": waited_s, **phases}

    @property
    def one_at_a_time(self) -> bool:
        return self.concurrency == 1

    @property
    def behind(self) -> int:
        """Batches that would be before another one: 0 when it would run at once."""
        return len(self.batches) if self.concurrency == 1 else 0

    @property
    def unbegun(self) -> int:
        """Items that were sent and wait for others of the replica: they count as queued."""
        if self.concurrency > 1 or not self.batches:
            return 0
        return self.load - (next(iter(self.batches.values())).left if self.ready.batched else 1)

    @property
    def expected_s(self) -> float | None:
        """How long the batch that it works on should take; None where that is unknown."""
        return self.controller.expected(next(iter(self.batches.values())).weight)

    def ahead_from(self, now: float) -> float:
        """When it may get a batch, as far as the one that it works on decides: `core.batching.ahead_from`."""
        if self.concurrency > 1:
            return max(now, self.paused_until) if self.load else now  # without a call, none of ours blocks it
        if not self.batches:
            return now
        return batching.ahead_from(self.running_since, self.expected_s, now)

    def room(self) -> int:
        """How many items may be sent now; 0: none. A replica running a suspect takes nothing beside it."""
        if self.draining or not self.channel.writable:
            return 0
        batches = self.batches
        if batches and any(batch.solo for batch in batches.values()):
            return 0
        if self.concurrency == 1:
            return _UNBOUNDED if len(batches) < self.PIPELINE else 0
        if self.ready.batched:
            return _UNBOUNDED if len(batches) < self.concurrency else 0
        return self.concurrency - self.load

    def send(self, items: list[Invocation], weight: int, *, solo: bool = False, hedge: bool = False) -> Batch:
        """Give it a batch. A hedge leaves the invocations with the replica that has them."""
        now = self._clock.monotonic()
        first = number = self._next_item
        self._next_batch += 1
        entries, bodies = [], []
        latest = 0.0
        running, item = State.RUNNING, wire.Item
        for invocation in items:
            body, deadline = invocation.body, invocation.deadline
            if deadline > latest:
                latest = deadline
            bodies.append(body)
            entries.append(
                item(number, invocation.request_id, invocation.content_type, invocation.accept, deadline - now,
                     len(body))
            )  # fmt: skip
            if hedge:
                invocation.hedge = (self, number)
            else:
                invocation.state = running
                invocation.item = number
                invocation.endpoint = self
                invocation.dispatched = now
                invocation.withdrawn = False
            number += 1
        self._next_item = number
        batch = Batch(self._next_batch, first, list(items), weight, now, latest)
        batch.solo, batch.hedge = solo, hedge
        if not self.batches:
            self.running_since = now
        self.batches[batch.id] = batch
        self.load += batch.size
        self.channel.send_invoke(wire.Invoke(batch.id, entries), bodies)
        return batch

    def cancel(self, invocation: Invocation) -> None:
        """Nobody waits for it: tell the replica, and the one that has its second copy. Later outcomes are ignored."""
        self.channel.send_cancel([invocation.item])
        if invocation.hedge is not None:
            second, item = invocation.hedge
            second.channel.send_cancel([item])

    def withdraw(self) -> None:
        """Ask for what has not begun back. The replica answers those items as cancelled at once."""
        ids: list[int] = []
        for position, batch in enumerate(self.batches.values()):
            first = position == 0 and self.one_at_a_time
            if batch.withdrawn or (first and self.ready.batched):
                continue
            ids += self._asked_for(batch, but_first=first)  # the first one of all has begun
        if ids:
            self.channel.send_withdraw(ids)

    def withdraw_doubtful(self, now: float) -> float:
        """Of a replica that works on several calls at once, ask for those back that it has had for a moment and, with
        a blocked event loop, has not begun. Nothing happens to the others. Each is asked for once; returns when there
        are more (inf)."""
        ids: list[int] = []
        at = math.inf
        for batch in self.batches.values():
            if batch.withdrawn:
                continue
            if batch.doubtful_from > now:
                at = min(at, batch.doubtful_from)
            else:
                ids += self._asked_for(batch)
        if ids:
            self.channel.send_withdraw(ids)
        return at

    @property
    def doubtful(self) -> bool:
        """Whether it has calls that it was not asked for."""
        return any(not batch.withdrawn for batch in self.batches.values())

    @property
    def doubted(self) -> bool:
        """Whether it has answered nothing since it was found blocked: others are better."""
        return self._pause_s > 0 and self.load > 0

    def _asked_for(self, batch: Batch, *, but_first: bool = False) -> list[int]:
        batch.withdrawn = True
        unanswered = [invocation for invocation in batch.items if invocation is not None]
        ids: list[int] = []
        for invocation in unanswered[but_first:]:
            if invocation.state is State.RUNNING and invocation.endpoint is self and invocation.hedge is None:
                invocation.withdrawn = True
                ids.append(invocation.item)
        return ids

    def pause(self) -> None:
        """It gave a call back that had a place on it: its event loop is blocked."""
        now = self._clock.monotonic()
        if self.concurrency > 1 and self.paused_until <= now:
            self._pause_s = min(LONGEST_PAUSE_S, max(SHORTEST_PAUSE_S, 2 * self._pause_s))
            self.paused_until = now + self._pause_s

    def _resume(self) -> None:
        self.paused_until = self._pause_s = 0.0

    def credit(self, invocation: Invocation, n: int) -> None:
        """The replica may send `n` more chunks of the invocation's stream."""
        invocation.allowed_chunks += n
        self.channel.send_credit(invocation.item, n)

    def settled(self, batch: Batch, n: int, *, skipped: bool = False) -> None:
        """`n` items of a batch are answered and were taken out of its list. `skipped`: they did not run."""
        batch.left -= n
        self.load -= n
        if skipped:
            batch.skipped += n
        else:
            self.answered += n
            if self.paused_until:
                self._resume()

    def find(self, item: int) -> Invocation | None:
        for batch in self.batches.values():
            if batch.first <= item < batch.first + batch.size:
                return batch.items[item - batch.first]
        return None

    # ResultListener

    def on_result(self, result: wire.Result, payloads: Sequence[memoryview]) -> None:
        batch = self.batches.get(result.batch)
        if batch is None:
            self.stray(len(result.outcomes))
            return
        owner, outcomes = self._owner, result.outcomes
        if len(outcomes) <= CLOCKED_TOGETHER:
            owner.on_outcomes(self, batch, outcomes, payloads, result.exec_s)
        else:
            for n in range(0, len(outcomes), CLOCKED_TOGETHER):
                together = slice(n, n + CLOCKED_TOGETHER)
                owner.on_outcomes(self, batch, outcomes[together], payloads[together], result.exec_s)
        if batch.left == 0:
            self._done(batch, result.reruns)

    def _done(self, batch: Batch, reruns: int) -> None:
        now = self._clock.monotonic()
        started = batch.sent if self.concurrency > 1 else max(batch.sent, self.running_since)
        if next(iter(self.batches)) == batch.id:  # else it was withdrawn, and the one before it runs on
            self.running_since = now
        del self.batches[batch.id]
        self._owner.on_batch_done(self, batch, now - started, reruns)

    def on_chunk(self, chunk: wire.Chunk, payload: memoryview) -> None:
        invocation = self.find(chunk.id)
        if invocation is None:
            self.stray(1)
            return
        if invocation.endpoint is self:
            invocation.allowed_chunks -= 1
            if invocation.allowed_chunks < 0:
                raise wire.ProtocolError("a stream sent more chunks than it has credit for")
        if self.paused_until:
            self._resume()
        self._owner.on_stream_chunk(self, invocation, chunk, payload)

    def stray(self, n: int) -> None:
        """Answers came that nobody asked for. Raises ProtocolError when they are many: each takes the others' time."""
        self._strays += n + 1
        if self._strays > MAX_STRAYS:
            raise wire.ProtocolError("it answers what it was not asked")

    # The end

    def take_unfinished(self) -> tuple[list[Invocation], list[Invocation]]:
        """Empty it: (what it was running, what waited behind that), unanswered, hedges left out."""
        running: list[Invocation] = []
        waiting: list[Invocation] = []
        for position, batch in enumerate(self.batches.values()):
            into = running if position == 0 or not self.one_at_a_time else waiting
            into.extend(i for i in batch.items if i is not None and i.endpoint is self)
        self.batches.clear()
        self.load = 0
        return running, waiting

    def in_time(self) -> bool:
        """Whether something that it runs, or has got, is inside its deadline."""
        now = self._clock.monotonic()
        return any(batch.deadline > now for batch in self.batches.values())

    def replaced_from(self) -> float:
        """From when on a call past its deadline, which nobody waits for, is reason to start another replica: once it
        takes longer than expected as well. `inf`: there is none."""
        at = math.inf
        for position, batch in enumerate(self.batches.values()):
            if self.draining or (position and self.one_at_a_time):
                break
            if any(i is not None and i.state is State.RUNNING and i.endpoint is self for i in batch.items):
                continue
            since = max(batch.sent, self.running_since) if self.one_at_a_time else batch.sent
            expected_s = self.controller.expected(batch.weight)
            at = min(at, max(batch.deadline, batching.overdue_at(since, expected_s)))
        return at

    def stuck(self, grace_s: float, timeout_s: float, usual_s: float | None) -> bool:
        """What it runs is `grace_s` past its deadline: of a batch, which runs as one, past its last deadline.

        A caller's short deadline is no reason to end a replica that works as it always does: it gets at least
        `UNUSUAL` times what a call usually takes (`usual_s`), and `timeout_s`, the function's own, while that is not
        known.
        """
        allowed_s = timeout_s if usual_s is None else min(timeout_s, usual_s * UNUSUAL)
        latest = self._clock.monotonic() - grace_s
        if self.one_at_a_time:
            first = next(iter(self.batches.values()), None)
            if first is None:
                return False
            return max(first.deadline, max(first.sent, self.running_since) + allowed_s * first.size) < latest
        return any(
            i is not None and max(i.deadline, batch.sent + allowed_s) < latest
            for batch in self.batches.values()
            for i in batch.items
        )
