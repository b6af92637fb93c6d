"""The loop around `core.scaling`: looks at functions, carries out what is decided, and remembers why.

A function with load is looked at every period. An idle one that has what it should have is left alone until the time
that its last decision named, and until a call comes: it costs nothing per period. A call that finds no replica is
answered with a decision at once, in the call's own turn of the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from heapq import heappop, heappush
from itertools import islice
from typing import Final, NamedTuple, Protocol

from clipper.spec import AutoscalingPolicy, FunctionSpec
from clipper_platform.clock import Clock
from clipper_platform.control.schedules import Plan
from clipper_platform.core import scaling
from clipper_platform.core.explaining import Explanation, explain
from clipper_platform.core.keepalive import IdleTimes
from clipper_platform.core.scaling import Decision, NoData, Sample, State
from clipper_platform.core.simulation import FOLLOW_UP_S, PERIOD_S
from clipper_platform.errors import InvalidSpec
from clipper_platform.serving.base import EventSink
from clipper_platform.types import FunctionId

__all__ = ["Autoscaler", "Outlook", "Plant"]

logger = logging.getLogger(__name__)

REMEMBERED: Final = 10  # changes per function: about 4 KiB
# A round takes 50 ms at most: where more functions than this have load, each is looked at every second round, or third.
MOST_PER_TICK: Final = 2000
NO_DATA_S: Final = 5.0  # until the next look at a function of which nothing can be said


class Plant(Protocol):
    """What is controlled: the data plane."""

    def sample(self, id: FunctionId) -> Sample | None:
        """What is so now, or None where the function is not running."""
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

    __slots__ = ("changes", "id", "latest", "next_at", "plan", "spec", "state")

    def __init__(self, id: FunctionId, spec: FunctionSpec, plan: Plan, state: State) -> None:
        self.id = id
        self.spec = spec
        self.plan = plan
        self.state = state
        self.latest: Decision | NoData | None = None
        self.changes: deque[tuple[Decision, str]] | None = None  # each with its sentence; None before the first
        self.next_at = math.inf


class Autoscaler:
    """All methods are called in the event loop. `policy_of(id, spec)`: the policy that counts for a function."""

    def __init__(
        self,
        plant: Plant,
        *,
        clock: Clock,
        events: EventSink,
        count: Callable[[str, str], None],
        policy_of: Callable[[FunctionId, FunctionSpec], AutoscalingPolicy] = lambda _, spec: spec.autoscaling,
        on_error: Callable[[], None] = lambda: None,
    ) -> None:
        """`count(path, rule)` counts a decision that changed the number of replicas."""
        self._plant = plant
        self._clock = clock
        self._events = events
        self._count = count
        self._policy_of = policy_of
        self._on_error = on_error
        self._entries: dict[FunctionId, _Entry] = {}
        self._active: dict[FunctionId, _Entry] = {}  # looked at every period
        self._later: list[tuple[float, int, FunctionId]] = []  # heap
        self._idle: dict[str, IdleTimes] = {}  # by "project/function": what was learnt outlives a version
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
        plan = self._plan(id, spec)
        idle = self._idle.setdefault(id.path, IdleTimes())
        sample = self._plant.sample(id)
        entry = _Entry(id, spec, plan, State(plan.at(now), sample.wanted if sample else 0, now, idle))
        if (known := self._entries.get(id)) is not None:
            entry.changes = known.changes
        self._entries[id] = entry
        self._later_at(entry, now)

    def gone(self, id: FunctionId) -> None:
        self._entries.pop(id, None)
        self._active.pop(id, None)
        if not any(other.path == id.path for other in self._entries):
            self._idle.pop(id.path, None)

    def policy_changed(self, project: str, function: str) -> None:
        """Another policy counts: decide by it at once."""
        now = self._clock.monotonic()
        for entry in [e for e in self._entries.values() if (e.id.project, e.id.function) == (project, function)]:
            entry.plan = self._plan(entry.id, entry.spec)
            sample = self._plant.sample(entry.id)
            wanted = sample.wanted if sample else 0
            entry.state = State(entry.plan.at(now), wanted, now, entry.state.idle)
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
        try:
            while True:
                await asyncio.sleep(PERIOD_S)
                self.tick()
        finally:
            for timer in self._follow_ups:
                timer.cancel()

    def tick(self) -> None:
        """One round: functions with load, those first that waited longest, and functions whose time has come."""
        now = self._clock.monotonic()
        for id in list(islice(self._active, MOST_PER_TICK)):
            if (entry := self._active.pop(id, None)) is not None:
                self._guarded(entry, now)  # which puts it back, behind the others, while it has load
        while self._later and self._later[0][0] <= now:
            at, _, id = heappop(self._later)
            due = self._entries.get(id)
            if due is not None and due.next_at == at and id not in self._active:
                self._guarded(due, now)

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

    def _guarded(self, entry: _Entry, now: float) -> None:
        """One function's defect must not stop the others' round, nor fail a call."""
        try:
            self._look(entry, now)
        except Exception:
            logger.exception("deciding on the replicas of %s failed", entry.id)
            self._on_error()
            self._later_at(entry, now + NO_DATA_S)

    def _look(self, entry: _Entry, now: float) -> None:
        made, entry.state = scaling.decide(self._plant.sample(entry.id), entry.plan.at(now), entry.state, now)
        entry.latest = made
        if isinstance(made, NoData):
            self._later_at(entry, now + NO_DATA_S)
            return
        if made.wanted != made.before:
            self._carry_out(entry, made, now)
        if made.next_at <= now:
            self._active[entry.id] = entry
        else:
            self._later_at(entry, made.next_at)
        if made.next_at > now or not made.wanted:
            self._plant.on_call(entry.id, self.called)

    def _carry_out(self, entry: _Entry, made: Decision, now: float) -> None:
        self._plant.scale(entry.id, made.wanted)
        why = explain(made, entry.plan.at(now)).why
        if entry.changes is None:
            entry.changes = deque(maxlen=REMEMBERED)
        entry.changes.appendleft((made, why))
        self._count(entry.id.path, made.rule)
        said = f"{made.before} → {made.wanted} replicas ({made.rule}): {why}"
        data = {"rule": made.rule, "before": made.before, "wanted": made.wanted}
        self._events(entry.id, "scale", said, data)

    def _later_at(self, entry: _Entry, at: float) -> None:
        self._active.pop(entry.id, None)
        entry.next_at = at
        if at < math.inf:
            self._sequence += 1
            heappush(self._later, (at, self._sequence, entry.id))

    # Telling

    def outlook(self, id: FunctionId) -> Outlook | None:
        """Why the function has the replicas that it has; None where it is not running."""
        entry = self._entries.get(id)
        if entry is None:
            return None
        told = None
        if isinstance(entry.latest, Decision):
            told = explain(entry.latest, entry.plan.at(self._clock.monotonic()))
        return Outlook(entry.plan.policy, entry.latest, told, list(entry.changes or ()))
