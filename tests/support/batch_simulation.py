"""Batching on a simulated clock: one replica, Poisson arrivals, a model that takes a + b·n for a batch of n.

The simulation drives the real `core.batching` (plan, policies, size controllers), so that the same seed gives the same
numbers on any machine.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from clipper.contract.spec import BatchPolicy
from clipper_platform.core.batching import BUDGET_FRACTION, Dispatch, Policy, SizeController, make_controller, plan

__all__ = [
    "CAP",
    "MAIN",
    "Cost",
    "Model",
    "PaperAimd",
    "Trace",
    "linear",
    "noisy",
    "poisson",
    "settled_at",
    "simulate",
    "slope_slows",
]

Cost = Callable[[int, float], float]
"""(size, now) -> how long a batch of that size runs, in seconds."""

CAP = 512  # max_batch_size: out of the controllers' way


def poisson(rate_per_s: float, horizon_s: float, rng: random.Random) -> Iterator[float]:
    """Arrival times of an open loop: they come whether or not the earlier ones were answered."""
    now = rng.expovariate(rate_per_s)
    while now < horizon_s:
        yield now
        now += rng.expovariate(rate_per_s)


def linear(a_s: float, b_s: float, *, slow: tuple[float, float] = (math.inf, math.inf), factor: float = 5.0) -> Cost:
    """a + b·n; between the two times of `slow`, `factor` times that."""

    def cost(size: int, now: float) -> float:
        return (a_s + b_s * size) * (factor if slow[0] <= now < slow[1] else 1.0)

    return cost


def slope_slows(a_s: float, b_s: float, *, slow: tuple[float, float] = (10.0, 20.0), factor: float = 5.0) -> Cost:
    """Only the cost per item grows: the objective stays within reach, with smaller batches."""

    def cost(size: int, now: float) -> float:
        return a_s + b_s * size * (factor if slow[0] <= now < slow[1] else 1.0)

    return cost


def noisy(
    cost: Cost, rng: random.Random, *, sigma: float = 0.1, stall_share: float = 0.01, stall_s: float = 0.02
) -> Cost:
    """Each duration times a log-normal factor; now and then a stall on top."""

    def noised(size: int, now: float) -> float:
        stall = stall_s if rng.random() < stall_share else 0.0
        return cost(size, now) * rng.lognormvariate(0, sigma) + stall

    return noised


@dataclass(slots=True)
class Trace:
    """What happened: per answered item (arrival, stay), per batch (start, size, duration, limit afterwards)."""

    items: list[tuple[float, float]] = field(default_factory=list)
    batches: list[tuple[float, int, float, int]] = field(default_factory=list)
    dropped: int = 0

    def stay(self, q: float, since: float = 0.0, until: float = math.inf) -> float:
        """The quantile of the stays of items that came in that time, in seconds; inf without items."""
        stays = sorted(stay for at, stay in self.items if since <= at < until)
        return stays[min(len(stays) - 1, int(q * len(stays)))] if stays else math.inf

    def throughput(self, since: float, until: float) -> float:
        return sum(since <= at + stay < until for at, stay in self.items) / (until - since)

    def mean_size(self, since: float = 0.0, until: float = math.inf) -> float:
        sizes = [size for at, size, _, _ in self.batches if since <= at < until]
        return sum(sizes) / len(sizes) if sizes else math.nan

    def limit_at(self, at: float) -> int:
        """The controller's limit after the last batch that began before `at`."""
        return next((limit for start, _, _, limit in reversed(self.batches) if start < at), 1)


@dataclass(slots=True)
class _Batch:
    arrivals: list[float]
    started_at: float
    duration_s: float
    replied_at: float
    full: bool


def simulate(
    controller: SizeController,
    cost: Cost,
    arrivals: Iterable[float],
    *,
    depth: int = 2,
    wait_timeout_s: float = 0.0,
    hop_s: float = 0.0002,
    lead_s: float = 0.001,
    patience_s: float = math.inf,
) -> Trace:
    """Serve `arrivals` (ascending times) on one replica that runs one batch after another.

    hop_s: from the platform to the replica, and back again. patience_s: items that waited longer are dropped, as the
    deadline would do. Every event happens at its exact time; the platform itself costs nothing.
    """
    trace, waiting, flying = Trace(), deque[float](), deque[_Batch]()
    policy = Policy(
        max_batch_size=CAP, wait_timeout_s=wait_timeout_s, limit=controller.limit, depth=depth, lead_s=lead_s
    )
    source = iter(arrivals)
    next_arrival = next(source, math.inf)
    timer, free_at, last_reply = math.inf, 0.0, -math.inf
    while True:
        reply = flying[0].replied_at if flying else math.inf
        now = min(next_arrival, reply, timer)
        if now == math.inf:
            return trace
        if now == reply:
            batch = flying.popleft()
            # As the platform sees it: since it was sent, or since the previous reply if that was later.
            seen = now - max(batch.started_at - hop_s, last_reply)
            last_reply = now
            controller.observe(len(batch.arrivals), seen, full=batch.full)
            policy = policy.with_limit(controller.limit)
            trace.batches.append((batch.started_at, len(batch.arrivals), batch.duration_s, controller.limit))
            trace.items += [(at, now - at) for at in batch.arrivals]
        elif now == next_arrival:
            waiting.append(now)
            next_arrival = next(source, math.inf)
        while waiting and now - waiting[0] > patience_s:
            waiting.popleft()
            trace.dropped += 1
        timer = math.inf
        while waiting:
            running = flying[0] if flying else None
            step = plan(
                len(waiting),
                waiting[0],
                policy,
                now,
                in_flight=len(flying),
                running_since=None if running is None else max(running.started_at - hop_s, last_reply),
                expected_s=None if running is None else controller.expected(len(running.arrivals)),
            )
            if not isinstance(step, Dispatch):
                timer = step.t
                break
            start = max(now + hop_s, free_at)
            taken = [waiting.popleft() for _ in range(step.n)]
            duration = cost(step.n, start)
            free_at = start + duration
            flying.append(_Batch(taken, start, duration, free_at + hop_s, step.full))


class PaperAimd:
    """Clipper's rule alone, for comparison: +1 per batch inside the budget, -10% outside, no floor."""

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s
        self._limit = 1.0

    @property
    def limit(self) -> int:
        return int(self._limit)

    def observe(self, size: float, duration_s: float, *, full: bool | None = None) -> None:
        self._limit = max(1.0, self._limit * 0.9) if duration_s > self._budget_s else self._limit + 1

    def expected(self, size: float) -> float | None:
        return None

    def costs(self) -> tuple[float, float] | None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a batch costs (a + b·n) and the objective for each item's stay; seconds."""

    a_s: float
    b_s: float
    slo_s: float

    def __str__(self) -> str:
        return f"{self.a_s * 1e3:g} + {self.b_s * 1e3:g}·n | {self.slo_s * 1e3:g} ms"

    @property
    def unbatched_per_s(self) -> float:
        return 1 / (self.a_s + self.b_s)

    @property
    def best_size(self) -> float:
        """The size whose run takes the whole budget."""
        return (self.slo_s * BUDGET_FRACTION - self.a_s) / self.b_s

    def run(self, policy: BatchPolicy, rate_per_s: float, horizon_s: float, *, patience_s: float = math.inf) -> Trace:
        arrivals = poisson(rate_per_s, horizon_s, random.Random(1))
        controller = make_controller(policy, CAP, self.slo_s)
        return simulate(controller, linear(self.a_s, self.b_s), arrivals, patience_s=patience_s)


MAIN = Model(a_s=0.005, b_s=0.00005, slo_s=0.02)


def settled_at(trace: Trace, target: float, *, within: float = 0.25) -> float:
    """From when on the limit stays within a share of `target`, in seconds."""
    last_outside = 0.0
    for start, _, _, limit in trace.batches:
        if abs(limit - target) > within * target:
            last_outside = start
    return last_outside
