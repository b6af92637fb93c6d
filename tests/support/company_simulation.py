"""One replica that runs batches of a + b·n seconds, its callers, and the real decisions about waiting for company.

Callers come by themselves (`arrivals`) or ask again after each answer (`callers`). The platform's part is the real one:
`core.batching.plan`, a size controller, `serving.batch_waits`. On a simulated clock, so that the same seed gives the
same numbers on any machine.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from clipper_platform.core.batching import Dispatch, Policy, Static, ahead_from, plan
from clipper_platform.core.company import GAP_S
from clipper_platform.serving.batch_waits import BatchWaits, Waits

__all__ = ["Outcome", "serve"]


@dataclass(slots=True)
class _Replica:
    controller: Static
    running_since: float = 0.0
    load: int = 0


@dataclass(slots=True)
class _Head:
    queued: float
    deadline: float


@dataclass(slots=True)
class Outcome:
    """stays_s: from arrival to answer, of those who came after the warm-up. waited_s: how long each batch was held back
    that found the replica free."""

    seconds: float
    stays_s: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    waited_s: list[float] = field(default_factory=list)
    waits: Waits = field(default_factory=Waits)

    @property
    def per_s(self) -> float:
        return len(self.stays_s) / self.seconds

    @property
    def mean_s(self) -> float:
        return sum(self.stays_s) / len(self.stays_s)

    @property
    def mean_size(self) -> float:
        return sum(self.sizes) / len(self.sizes)

    def quantile(self, q: float) -> float:
        return sorted(self.stays_s)[int(q * len(self.stays_s))]


def serve(
    a_s: float,
    b_s: float,
    *,
    seconds: float,
    callers: int = 0,
    arrivals: Iterable[float] = (),
    adaptive: bool = True,
    cap: int = 128,
    objective_s: float | None = None,
    think_s: tuple[float, float, float] = (0.0005, 0.00003, 0.0003),
    warm_up_s: float = 0.5,
    noise: float = 0.05,
    seed: int = 0,
) -> Outcome:
    """Serve for so many simulated seconds. think_s: the n-th caller of a batch asks again after first + n · second +
    an exponential of mean third. Not adaptive: `batch_wait_timeout_s = 0`."""
    rng, sequence = random.Random(seed), count()
    events: list[tuple[float, int, str]] = []
    out = Outcome(seconds - warm_up_s)
    replica, policy = _Replica(Static(cap)), Policy(max_batch_size=cap, limit=cap)
    waits = BatchWaits(objective_s) if adaptive else None
    waiting, flying = deque[float](), deque[list[float]]()
    total, free_since = 0, 0.0

    def push(at: float, kind: str) -> None:
        heappush(events, (at, next(sequence), kind))

    def start(batch: list[float], at: float) -> None:
        replica.running_since = at
        push(at + (a_s + b_s * len(batch)) * (1 + noise * rng.random()), "done")

    for _ in range(callers):
        push(rng.random() * 0.01, "arrival")
    for arrival in arrivals:
        push(arrival, "arrival")
    while events:
        now, _, kind = heappop(events)
        if now > seconds:
            break
        if kind == "arrival":
            waiting.append(now)
            total += 1
        elif kind == "done":
            batch = flying.popleft()
            out.stays_s += [now - at for at in batch if at > warm_up_s]
            replica.controller.observe(len(batch), now - replica.running_since)
            replica.load -= len(batch)
            if waits is not None:
                waits.completed(len(batch), len(waiting) + replica.load + len(batch), now)
            free_since = now
            if flying:
                start(flying[0], now)
            if callers:
                for n in range(len(batch)):
                    push(now + think_s[0] + think_s[1] * n + rng.expovariate(1 / think_s[2]), "arrival")
        if waits is not None:
            waits.arrived(total, now)
        while waiting and len(flying) < policy.depth:
            expected_s = replica.controller.expected(len(flying[0])) if flying else None
            if flying and now < (at := ahead_from(replica.running_since, expected_s, now)):
                if at < math.inf:
                    push(at, "look")
                break
            hold, until = False, -math.inf
            if waits is not None and len(waiting) < cap:
                if flying:
                    hold = waits.hold(replica, len(waiting), cap, expected_s)
                else:
                    until = waits.until(replica, len(waiting), cap, _Head(waiting[0], waiting[0] + 60), now)
            step = plan(
                len(waiting), waiting[0], policy, now, in_flight=len(flying), running_since=replica.running_since,
                expected_s=expected_s, company_until=until, hold=hold,
            )  # fmt: skip
            if not isinstance(step, Dispatch):
                if step.t < math.inf:
                    push(step.t, "look")
                break
            if not flying:
                out.waited_s.append(now - max(free_since, waiting[0]))
                if waits is not None:
                    waits.sent(out.waits, step.n, now)
            batch = [waiting.popleft() for _ in range(step.n)]
            out.sizes.append(step.n)
            flying.append(batch)
            replica.load += step.n
            if len(flying) == 1:
                start(batch, now + GAP_S)
    return out
