"""A simulated function under the real scaling decisions, on a virtual clock.

Arrivals are given. Replicas take a while to start, run batches of what waits, first come first served, and take
`a + b·n` seconds for n invocations. `scaling.decide` is called as the platform calls it: every period while there is
load, at once when a call finds no replica, and otherwise at the time that the last decision named.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import chain, repeat
from random import Random
from typing import Final, NamedTuple, cast

from clipper_platform.core import scaling
from clipper_platform.core.keepalive import IdleTimes, IdleWatch
from clipper_platform.core.scaling import LATE_SHARE, Decision, Policy, Sample, State
from clipper_platform.core.service import Service
from clipper_platform.core.windows import LatencyHistogram

__all__ = ["Function", "Row", "Run", "Summary", "arrivals", "diurnal", "ramp", "simulate", "spike"]

PERIOD_S: Final = 0.5  # between decisions while there is load; control.autoscaler's
FOLLOW_UP_S: Final = 0.05  # a second look after a call that found no replica: how many came with it


class Function(NamedTuple):
    """A batch of n, at most `max_batch_size`, takes `base_s + n · per_item_s`; a replica takes `cold_start_s` to
    start. Beyond `max_queued` waiting ones, invocations are refused."""

    base_s: float = 0.05
    per_item_s: float = 0.0
    max_batch_size: int = 1
    cold_start_s: float = 1.0
    max_queued: int = 1000


class Row(NamedTuple):
    """The state at `at`, and the latencies since the row before; None where nothing was answered."""

    at: float
    rate_per_s: float
    wanted: int
    ready: int
    queued: int
    p50_s: float | None
    p99_s: float | None
    cost_s: float  # replica-seconds since the start, starting ones included


class Summary(NamedTuple):
    """`cold` had to wait because no replica was ready. `within_slo` None: no objective, or nothing was answered."""

    invocations: int
    refused: int
    cold: int
    p50_s: float | None
    p99_s: float | None
    longest_s: float | None
    within_slo: float | None
    cost_s: float
    most_replicas: int
    changes: int


@dataclass(frozen=True, slots=True)
class Run:
    """`decisions` are those that changed the number of replicas."""

    rows: list[Row]
    decisions: list[Decision]
    summary: Summary


@dataclass(slots=True)
class _Replica:
    ready: bool = False
    gone: bool = False
    busy: bool = False


@dataclass(slots=True)
class _World:
    function: Function
    policy_at: Callable[[float], Policy]
    state: State
    wanted: int
    idle: IdleWatch
    now: float = 0.0
    planned: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    sequence: int = 0
    queue: deque[float] = field(default_factory=deque)  # when each arrived
    replicas: list[_Replica] = field(default_factory=list)
    running: int = 0
    arrived: int = 0
    refused: int = 0
    cold: int = 0
    idle_since: float | None = 0.0
    next_look: float = math.inf
    latencies: list[float] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)  # those of this row
    observed: LatencyHistogram = field(default_factory=LatencyHistogram)
    answered: bool = False
    cost_s: float = 0.0
    decisions: list[Decision] = field(default_factory=list)

    @classmethod
    def beginning(cls, function: Function, policy_at: Callable[[float], Policy], replicas: int) -> _World:
        """At time 0, with so many ready replicas."""
        idle = IdleTimes()
        state = State.initial(policy_at(0.0), replicas, 0.0, idle)
        world = cls(function, policy_at, state, replicas, IdleWatch(idle))
        world.replicas = [_Replica(ready=True) for _ in range(replicas)]
        return world

    # Time

    def plan(self, at: float, action: Callable[[], None]) -> None:
        self.sequence += 1
        heappush(self.planned, (at, self.sequence, action))

    def move(self, to: float) -> None:
        self.cost_s += (to - self.now) * len(self.replicas)
        self.now = to

    @property
    def busy(self) -> bool:
        return bool(self.queue or self.running)

    # Invocations

    def arrive(self) -> None:
        self.arrived += 1
        if len(self.queue) >= self.function.max_queued:
            self.refused += 1
            return
        self.idle_since = None
        self.cold += not any(r.ready and not r.gone for r in self.replicas)
        self.queue.append(self.now)
        self.dispatch()
        if not self.wanted:
            self.decide()
            self.look_at(self.now + FOLLOW_UP_S)
        elif self.next_look > self.now + PERIOD_S:
            self.decide()  # an idle function is not looked at until a call comes

    def dispatch(self) -> None:
        for replica in self.replicas:
            if not self.queue:
                return
            if replica.ready and not replica.busy and not replica.gone:
                size = min(len(self.queue), self.function.max_batch_size)
                batch = [self.queue.popleft() for _ in range(size)]
                replica.busy = True
                self.running += size
                took = self.function.base_s + self.function.per_item_s * size
                self.plan(self.now + took, partial(self.answer, replica, batch))

    def answer(self, replica: _Replica, batch: list[float]) -> None:
        replica.busy = False
        self.answered = True
        self.running -= len(batch)
        for at in batch:
            self.recent.append(self.now - at)
            self.observed.observe(self.now - at, self.now)
        if replica.gone:
            self.replicas.remove(replica)
        self.dispatch()
        if not self.busy:
            self.idle_since = self.now

    # Replicas

    def decide(self) -> None:
        self.idle.observe(self.idle_since, self.arrived, self.now)
        answer, self.state = scaling.decide(self.sample(), self.policy_at(self.now), self.state, self.now)
        decision = cast(Decision, answer)  # a simulated function always runs, so there is always data
        if decision.wanted != decision.before:
            self.decisions.append(decision)
            self.scale(decision.wanted)
        self.look_at(max(decision.next_at, self.now + PERIOD_S))

    def look_at(self, at: float) -> None:
        self.next_look = at
        if at < math.inf:
            self.plan(at, partial(self.look, at))

    def look(self, at: float) -> None:
        if at == self.next_look:  # else the look was moved to another time
            self.decide()

    def sample(self) -> Sample:
        living = [r for r in self.replicas if not r.gone]
        ready = sum(r.ready for r in living)
        f, slo_s = self.function, self.policy_at(self.now).latency_slo_s
        return Sample(
            queued=len(self.queue),
            running=self.running,
            wanted=self.wanted,
            ready=ready,
            starting=len(living) - ready,
            arrivals=self.arrived,
            idle_since=self.idle_since,
            late=slo_s is not None and self.observed.above(slo_s, self.now) > LATE_SHARE,
            service=Service(f.base_s, f.per_item_s, f.max_batch_size) if self.answered else None,
        )

    def scale(self, wanted: int) -> None:
        self.wanted = wanted
        living = [r for r in self.replicas if not r.gone]
        for _ in range(wanted - len(living)):
            replica = _Replica()
            self.replicas.append(replica)
            self.plan(self.now + self.function.cold_start_s, partial(self.started, replica))
        # As core.pooling: those that are not ready yet go first, then the youngest.
        youngest_first = living[::-1]
        surplus = sorted(youngest_first, key=lambda r: r.ready)[: max(0, len(living) - wanted)]
        for replica in surplus:
            replica.gone = True
            if not replica.busy:
                self.replicas.remove(replica)

    def started(self, replica: _Replica) -> None:
        replica.ready = True
        self.dispatch()

    def row(self, arrived: int, period_s: float) -> Row:
        recent = sorted(self.recent)
        self.latencies += recent
        self.recent = []
        ready = sum(r.ready and not r.gone for r in self.replicas)
        return Row(
            self.now, arrived / period_s, self.wanted, ready, len(self.queue),
            _quantile(recent, 0.5), _quantile(recent, 0.99), self.cost_s,
        )  # fmt: skip


def simulate(
    function: Function,
    policy_at: Callable[[float], Policy],
    calls: Iterable[float],
    *,
    duration_s: float,
    rows: int = 60,
    replicas: int | None = None,
) -> Run:
    """Simulates calls of `function` at the times `calls` (ascending, in seconds from 0) for `duration_s`.

    policy_at: the policy and its open windows at a time. replicas: how many are ready at the start; by default as many
    as a deploy starts. The run goes on until every invocation is answered.
    """
    policy = policy_at(0.0)
    first = min(max(1, policy.min_replicas), policy.max_replicas) if replicas is None else replicas
    world = _World.beginning(function, policy_at, first)
    world.look_at(0.0)
    table: list[Row] = []
    period_s, arrived = duration_s / rows, 0
    upcoming = chain((call for call in calls if call < duration_s), repeat(math.inf))
    call = next(upcoming)
    while True:
        at = min(call, world.planned[0][0] if world.planned else math.inf)
        while len(table) < rows and at >= (len(table) + 1) * period_s:
            world.move((len(table) + 1) * period_s)
            table.append(world.row(world.arrived - arrived, period_s))
            arrived = world.arrived
        if at == math.inf or (at > duration_s and not world.busy):
            break
        world.move(at)
        if call == at:
            world.arrive()
            call = next(upcoming)
        else:
            heappop(world.planned)[2]()
    world.latencies += world.recent
    return Run(table, world.decisions, _summary(world, table, policy))


def _summary(world: _World, rows: list[Row], policy: Policy) -> Summary:
    latencies = sorted(world.latencies)
    slo_s = policy.latency_slo_s
    return Summary(
        invocations=world.arrived,
        refused=world.refused,
        cold=world.cold,
        p50_s=_quantile(latencies, 0.5),
        p99_s=_quantile(latencies, 0.99),
        longest_s=latencies[-1] if latencies else None,
        within_slo=sum(s <= slo_s for s in latencies) / len(latencies) if slo_s is not None and latencies else None,
        cost_s=rows[-1].cost_s,
        most_replicas=max([row.wanted for row in rows] + [decision.wanted for decision in world.decisions]),
        changes=len(world.decisions),
    )


def _quantile(ordered: list[float], q: float) -> float | None:
    return ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)))] if ordered else None


# Load


def arrivals(rate: Callable[[float], float], most: float, duration_s: float, rng: Random) -> Iterator[float]:
    """Times of a Poisson process whose rate per second is `rate(t)`, never above `most` (thinning: Lewis and Shedler
    1979)."""
    at = 0.0
    while most > 0:
        at += rng.expovariate(most)
        if at >= duration_s:
            return
        if rng.random() * most < rate(at):
            yield at


def ramp(peak: float, duration_s: float) -> Callable[[float], float]:
    """From nothing to the peak in the first half, and back."""
    return lambda at: peak * max(0.0, 1 - abs(2 * at / duration_s - 1))


def spike(peak: float, duration_s: float) -> Callable[[float], float]:
    """A tenth of the peak, and the peak itself from a third of the time on, for a tenth of it."""
    return lambda at: peak if duration_s / 3 <= at < duration_s * (1 / 3 + 1 / 10) else peak / 10


def diurnal(peak: float, duration_s: float) -> Callable[[float], float]:
    """A day in `duration_s`: the peak at noon, nothing around midnight."""
    return lambda at: peak * max(0.0, -math.cos(2 * math.pi * at / duration_s)) ** 1.5
