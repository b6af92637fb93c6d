"""The loop around `core.scaling`: looks at functions, carries out what is decided, and remembers why.

A function with load is looked at every period, in slices of a few milliseconds between which the event loop serves
calls. An idle one that has what it should have is left alone until the time that its last decision named, and until a
call comes: it costs nothing per period. A call that finds no replica is answered with a decision at once, in the call's
own turn of the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple, Protocol

from clipper.contract.spec import AutoscalingPolicy, FunctionSpec
from clipper_platform.clock import Clock
from clipper_platform.control.scaling.idle_history import IdleHistory
from clipper_platform.control.scaling.schedules import Plan
from clipper_platform.core import scaling
from clipper_platform.core.explaining import Explanation, explain
from clipper_platform.core.keepalive import IdleTimes, IdleWatch
from clipper_platform.core.scaling import Decision, NoData, Sample, State
from clipper_platform.core.simulation import FOLLOW_UP_S, PERIOD_S
from clipper_platform.errors import InvalidSpec
from clipper_platform.replicas.base import EventSink
from clipper_platform.types import FunctionId

__all__ = ["Autoscaler", "Outlook", "ScaleTarget"]

logger = logging.getLogger(__name__)

REMEMBERED: Final = 10  # changes per function: about 4 KiB
SLICE: Final = 250  # functions looked at before calls have their turn: about 3 ms
# Of the event loop's time, decisions take a quarter at most: where a round takes longer than a third of the period, the
# pause after it is three times as long as it was.
PAUSES_PER_ROUND: Final = 3.0
NO_DATA_S: Final = 5.0  # until the next look at a function of which nothing can be said


class ScaleTarget(Protocol):
    """What is controlled: the data plane."""

    def sampler(self, id: FunctionId) -> Callable[[float], Sample | None]:
        """Tells what is so at the time that it is given, or None where the function is not running."""
        ...

    def scale(self, id: FunctionId, replicas: int) -> None: ...
    def on_call(self, id: FunctionId, callback: Callable[[FunctionId], None] | None) -> None:
        """Have `callback` called once, when the next call finds the function idle. None: not any more."""
        ...


class Outlook(NamedTuple):
    """What is to be told of a function: its latest decision, or why there is none, and its changes, newest first."""

    policy: AutoscalingPolicy
    latest: Decision | NoData | None
    explanation: Explanation | None
    changes: list[tuple[Decision, str]]


class _Entry:
    """One function version under control."""

    __slots__ = ("changes", "id", "idle", "latest", "next_at", "plan", "sample", "spec", "state")

    def __init__(
        self, id: FunctionId, spec: FunctionSpec, plan: Plan, idle: IdleTimes,
        sample: Callable[[float], Sample | None], now: float,
    ) -> None:  # fmt: skip
        self.id = id
        self.sample = sample
        self.spec = spec
        self.idle = IdleWatch(idle)
        self.follow(plan, now)
        self.latest: Decision | NoData | None = None  # None where it left a function with load as it is
        self.changes: tuple[tuple[Decision, str], ...] = ()  # each with its sentence, newest first
        self.next_at = math.inf

    def follow(self, plan: Plan, now: float) -> None:
        """Decide by `plan` from now on, from the replicas that are wanted now."""
        self.plan = plan
        sample = self.sample(now)
        self.state = State.initial(plan.at(now), sample.wanted if sample else 0, now, self.idle.times)


class Autoscaler:
    """All methods are called in the event loop. `policy_of(id, spec)`: the policy that counts for a function."""

    def __init__(
        self,
        plant: ScaleTarget,
        *,
        clock: Clock,
        events: EventSink,
        count: Callable[[str, str], None],
        policy_of: Callable[[FunctionId, FunctionSpec], AutoscalingPolicy] = lambda _, spec: spec.autoscaling,
        on_error: Callable[[], None] = lambda: None,
        learnt: IdleHistory | None = None,
        cores: int | None = None,
    ) -> None:
        """`count(path, rule)` counts a decision that changed the number of replicas. `learnt`: idle times known
        already, and where those that are seen go. `cores`: what the replicas share, where they share a machine."""
        self._plant = plant
        self._clock = clock
        self._events = events
        self._count = count
        self._policy_of = policy_of
        self._on_error = on_error
        self._entries: dict[FunctionId, _Entry] = {}
        self._active: dict[_Entry, None] = {}  # looked at every period
        self._later: list[tuple[float, int, _Entry]] = []  # heap; what was put off or brought forward stays in it
        self._learnt = IdleHistory() if learnt is None else learnt
        self._cores = cores
        self._sequence = 0
        self._follow_ups: set[asyncio.TimerHandle] = set()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def active(self) -> int:
        """Functions that are looked at every period."""
        return len(self._active)

    # Who is there

    def appeared(self, id: FunctionId, spec: FunctionSpec) -> None:
        """From now on the function's replicas are the autoscaler's. Again for one that is known: it was restarted."""
        now = self._clock.monotonic()
        idle = self._learnt.of(id.path)
        entry = _Entry(id, spec, self._plan(id, spec), idle, self._plant.sampler(id), now)
        if (known := self._entries.get(id)) is not None:
            entry.changes = known.changes
            self._drop(known)
        self._entries[id] = entry
        self._later_at(entry, now)

    def gone(self, id: FunctionId) -> None:
        if (entry := self._entries.pop(id, None)) is not None:
            self._drop(entry)

    def _drop(self, entry: _Entry) -> None:
        self._active.pop(entry, None)
        entry.next_at = math.inf

    def policy_changed(self, project: str, function: str) -> None:
        """Another policy counts: decide by it at once."""
        now = self._clock.monotonic()
        for entry in [e for e in self._entries.values() if (e.id.project, e.id.function) == (project, function)]:
            entry.follow(self._plan(entry.id, entry.spec), now)
            self._guarded(entry, now)

    def _plan(self, id: FunctionId, spec: FunctionSpec) -> Plan:
        wall = self._clock.time() - self._clock.monotonic()
        policy = self._policy_of(id, spec)
        try:
            return Plan(policy, spec.latency_slo_s, wall)
        except InvalidSpec as error:
            # A deploy and `apply` refuse it; of a version that was stored before, the rest of the policy holds.
            logger.error("the schedule of %s is passed over: %s", id, error)
            return Plan(replace(policy, schedule=()), spec.latency_slo_s, wall)

    # Looking

    async def run(self) -> None:
        """Look at functions, for ever."""
        pause_s = PERIOD_S
        try:
            while True:
                await asyncio.sleep(pause_s)
                spent_s = 0.0
                for slice_s in self.round():
                    spent_s += slice_s
                    await asyncio.sleep(0)
                pause_s = max(PERIOD_S, PAUSES_PER_ROUND * spent_s)
        finally:
            for timer in self._follow_ups:
                timer.cancel()

    def tick(self) -> None:
        """A whole round at once."""
        for _ in self.round():
            pass

    def round(self) -> Iterator[float]:
        """Look at the functions with load, and at those whose time has come; the seconds that each slice took."""
        now = self._clock.monotonic()
        for looked, entry in enumerate(self._due(list(self._active), now), 1):
            self._guarded(entry, now)
            if looked % SLICE == 0:
                yield self._clock.monotonic() - now
                now = self._clock.monotonic()
        yield self._clock.monotonic() - now

    def _due(self, active: list[_Entry], now: float) -> Iterator[_Entry]:
        for entry in active:
            if entry in self._active:  # else it went, or was found idle, since the round began
                yield entry
        while self._later and self._later[0][0] <= now:
            at, _, entry = heappop(self._later)
            if entry.next_at == at:
                entry.next_at = math.inf
                if entry not in self._active:
                    yield entry

    def called(self, id: FunctionId) -> None:
        """A call came to a function that was left alone, or that has no replica: decide now."""
        entry = self._entries.get(id)
        if entry is None:
            return
        cold = isinstance(entry.latest, Decision) and not entry.latest.wanted
        self._guarded(entry, self._clock.monotonic())
        if cold:
            # How many came together is known when this turn of the loop is over.
            self._follow_up(id)

    def _follow_up(self, id: FunctionId) -> None:
        def look() -> None:
            self._follow_ups.discard(timer)
            if (entry := self._entries.get(id)) is not None:
                self._guarded(entry, self._clock.monotonic())

        timer = asyncio.get_running_loop().call_later(FOLLOW_UP_S, look)
        self._follow_ups.add(timer)

    def _guarded(self, entry: _Entry, now: float, *, quiet: bool = True) -> None:
        """One function's defect must not stop the others' round, nor fail a call."""
        try:
            self._look(entry, now, quiet)
        except Exception:
            logger.exception("deciding on the replicas of %s failed", entry.id)
            self._on_error()
            self._later_at(entry, now + NO_DATA_S)

    def _look(self, entry: _Entry, now: float, quiet: bool) -> None:
        sample = entry.sample(now)
        if sample is not None:
            entry.idle.observe(sample.idle_since, sample.arrivals, now)
        made, entry.state = scaling.decide(sample, entry.plan.at(now), entry.state, now, quiet=quiet)
        entry.latest = made
        if made is None:
            self._active[entry] = None
            return
        if isinstance(made, NoData):
            self._later_at(entry, now + NO_DATA_S)
            return
        wanted, next_at = made.wanted, made.next_at
        if wanted != made.before:
            self._carry_out(entry, made, now)
        if next_at > now:
            self._later_at(entry, next_at)
            self._plant.on_call(entry.id, self.called)
            return
        self._active[entry] = None
        if not wanted:
            self._plant.on_call(entry.id, self.called)

    def _carry_out(self, entry: _Entry, made: Decision, now: float) -> None:
        self._plant.scale(entry.id, made.wanted)
        why = explain(made, entry.plan.at(now)).why
        entry.changes = ((made, why), *entry.changes[: REMEMBERED - 1])
        self._count(entry.id.path, made.rule)
        said = f"{made.before} → {made.wanted} replicas ({made.rule}): {why}"
        data = {"rule": made.rule, "before": made.before, "wanted": made.wanted}
        self._events(entry.id, "scale", said, data)

    def _later_at(self, entry: _Entry, at: float) -> None:
        self._active.pop(entry, None)
        if at == entry.next_at:
            return
        entry.next_at = at
        if at < math.inf:
            if len(self._later) > 4 * len(self._entries) + SLICE:
                self._later = [due for due in self._later if due[2].next_at == due[0]]
                heapify(self._later)
            self._sequence += 1
            heappush(self._later, (at, self._sequence, entry))

    # Telling

    def outlook(self, id: FunctionId) -> Outlook | None:
        """Why the function has the replicas that it has; None where it is not running."""
        entry = self._entries.get(id)
        if entry is None:
            return None
        now, told = self._clock.monotonic(), None
        if entry.latest is None:
            self._guarded(entry, now, quiet=False)
        if isinstance(entry.latest, Decision):
            told = explain(entry.latest, entry.plan.at(now), self._cores)
        return Outlook(entry.plan.policy, entry.latest, told, list(entry.changes))
