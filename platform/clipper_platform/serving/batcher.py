"""Decides which invocations leave a queue for which replica, and when, by `core.batching` and `core.balancing`."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from clipper.contract import wire
from clipper.contract.spec import FunctionSpec
from clipper_platform.core import balancing, batching
from clipper_platform.serving.batch_waits import BatchWaits, Sent, Waits
from clipper_platform.serving.endpoint import MAX_WITHDRAWALS, Endpoint
from clipper_platform.serving.invocation import Invocation
from clipper_platform.serving.queue import InvocationQueue

__all__ = ["Assignment", "Batcher"]

# A batch must fit a frame with room for its header; larger bodies than this travel alone.
MAX_BATCH_BYTES = wire.MAX_FRAME_BYTES // 4
# Tiny unbatched calls share a frame while their sum stays under this, so that a system call serves several.
SHARED_FRAME_S = 0.0005
SHARED_FRAME_ITEMS = 16


class Assignment(NamedTuple):
    """Invocations that leave the queue for one endpoint. `late`: their deadline cannot be met any more, so they are not
    sent."""

    endpoint: Endpoint
    items: list[Invocation]
    weight: int
    late: list[Invocation]
    full: bool = False  # the size limit is why it is not larger
    solo: bool = False


class Batcher:
    """For one function. `kick` is called when a wait for more invocations is over."""

    __slots__ = (
        "_adaptive", "_adapts", "_batched", "_endpoints", "_floor_s", "_kick", "_policy", "_queue", "_rng", "_slo_s",
        "_timer", "waits",
    )  # fmt: skip

    def __init__(
        self,
        queue: InvocationQueue,
        endpoints: Mapping[str, Endpoint],
        spec: FunctionSpec,
        *,
        rng: random.Random,
        kick: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._endpoints = endpoints
        self._batched = spec.batched
        self._rng = rng
        self._kick = kick
        self._policy = batching.Policy(
            max_batch_size=spec.max_batch_size, wait_timeout_s=spec.batch_wait_timeout_s or 0.0, limit=1
        )
        # Weights are no callers: where a limit counts something else than invocations, nobody is waited for.
        self._adapts = spec.batched and spec.batch_wait_timeout_s is None and spec.batch_size_key is None
        self._adaptive: BatchWaits | None = None  # from the first batch on: most functions of many are idle
        self._slo_s = spec.latency_slo_s
        self.waits: Waits | None = None
        self._floor_s = 0.0  # least time that an execution took lately
        self._timer: asyncio.TimerHandle | None = None

    def next(self, now: float) -> Assignment | None:
        """Take the next batch out of the queue; None when none can leave now."""
        queue = self._queue
        reserved = None
        suspect = queue.suspect()
        if suspect is not None:
            idle = self._pick(now, idle=True)
            if idle is not None:
                queue.pop_suspect()
                return Assignment(idle, [suspect], suspect.weight, [], solo=True)
            # A busy function never has an idle replica: the least loaded one gets nothing new until it is idle.
            reserved = min(self._endpoints.values(), key=lambda e: e.load, default=None)
        head = queue.peek()
        if head is None:
            return None
        endpoint = self._pick(now, wary=head.withdrawals >= MAX_WITHDRAWALS, but=reserved)
        if endpoint is None:
            return None
        limit, full = self._allowed(endpoint, head, now)
        if not limit:
            return None
        items, weight, late = queue.take(limit, endpoint.room(), now + self._floor_s, MAX_BATCH_BYTES)
        for _ in late:
            self._floor_s *= 0.9  # an estimate that only drops would never be corrected
        return Assignment(endpoint, items, weight, late, full)

    def arrived(self, total: int, now: float) -> None:
        """`total` invocations have arrived so far."""
        if self._adaptive is not None:
            self._adaptive.arrived(total, now)

    def ran(self, size: int, duration_s: float, in_system: int, now: float) -> None:
        """A batch ended: of `size` of the `in_system` that waited or ran. Invocations with less time left than the
        shortest recent batch are not sent."""
        self._floor_s = duration_s if not self._floor_s else min(duration_s, self._floor_s * 1.05)
        if self._adapts:
            if self._adaptive is None:
                self._adaptive = BatchWaits(self._slo_s)
            self._adaptive.completed(size, in_system, now)

    @property
    def returning(self) -> bool:
        """Whether the same callers seem to come back after each answer."""
        return self._adaptive is not None and self._adaptive.returning

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _pick(
        self, now: float, *, idle: bool = False, wary: bool = False, but: Endpoint | None = None
    ) -> Endpoint | None:
        """The replica for what is next, an `idle` one where that is asked for; None where none can take it now. `wary`:
        nothing is sent ahead.

        A busy one is a candidate only while what it runs is about to end; a timer is armed for when that is the case.
        """
        candidates: list[Endpoint] = []
        earliest = math.inf
        for endpoint in self._endpoints.values():
            busy = bool(endpoint.batches) and (idle or (wary and endpoint.one_at_a_time))
            if busy or endpoint is but or not endpoint.room():
                continue
            ahead_from = endpoint.ahead_from(now)
            if ahead_from <= now:
                candidates.append(endpoint)
            elif ahead_from < earliest:
                earliest = ahead_from
        if not candidates:
            self._wait_until(earliest, now)
            return None
        if len(candidates) == 1:
            return candidates[0]
        candidates = [e for e in candidates if not e.doubted] or candidates
        chosen = balancing.pick([balancing.Candidate(e.id, e.load, e.concurrency) for e in candidates], self._rng)
        return self._endpoints[chosen] if chosen is not None else None

    def _allowed(self, endpoint: Endpoint, head: Invocation, now: float) -> tuple[int, bool]:
        """How many items (by weight) may leave for this replica now, and whether the limit is what holds back the
        others; 0 after arming a timer for later."""
        controller = endpoint.controller
        if not self._batched:
            if not endpoint.one_at_a_time:
                return endpoint.room(), False
            each = controller.expected(1)
            return (max(1, min(SHARED_FRAME_ITEMS, int(SHARED_FRAME_S / each))) if each else 1), False
        behind = endpoint.behind
        self._policy = policy = self._policy.with_limit(controller.limit)
        waiting, expected_s = self._queue.weight, endpoint.expected_s if behind else None
        hold, company_until = False, -math.inf
        adaptive, room = self._adaptive, min(policy.limit, policy.max_batch_size)
        if adaptive is not None and waiting < room:
            if behind:
                hold = adaptive.hold(endpoint, waiting, room, expected_s)
            else:
                company_until = adaptive.until(endpoint, waiting, room, head, now)
        decision = batching.plan(
            waiting,
            head.queued,
            policy,
            now,
            in_flight=behind,
            running_since=endpoint.running_since,
            expected_s=expected_s,
            company_until=company_until,
            hold=hold,
        )
        if isinstance(decision, batching.Dispatch):
            self._count(decision, behind, now)
            return decision.n, decision.full
        self._wait_until(decision.t, now)
        return 0, False

    def _count(self, decision: batching.Dispatch, behind: int, now: float) -> None:
        """Remember why the batch is sent."""
        waits = self.waits
        if waits is None:
            waits = self.waits = Waits()
        reason: Sent = "lead" if behind else "waited" if self._policy.wait_timeout_s else "no_company"
        if self._adaptive is not None and not behind:
            reason = self._adaptive.sent(waits, decision.n, now)
        if decision.full:
            reason = "full"
        waits.sent[reason] = waits.sent.get(reason, 0) + 1
        waits.invocations += decision.n

    def _wait_until(self, at: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at != math.inf:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, at - now), self._kick)
