"""The loop around `core.scaling`: samples functions, carries out decisions, and remembers the reasons.

A function with load is sampled every period, in slices of a few milliseconds between which the event loop serves calls.
An idle function that has as many replicas as it should is skipped until the time that its last decision named, or until
a call comes: it costs nothing per period. A call that finds no replica causes a decision at once, in the call's own
turn of the event loop.
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
from clipper_platform.control.scaling.schedules import TOLERANCE_S, Plan
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
SLICE: Final = 250  # functions sampled before calls have their turn: about 3 ms
# Decisions take at most a quarter of the event loop's time: after a round that takes longer than a third of the period,
# the pause is three times as long as the round.
PAUSES_PER_ROUND: Final = 3.0
NO_DATA_S: Final = 5.0  # until the next sample of a function that gave no data


class ScaleTarget(Protocol):
    """The functions whose replicas are scaled."""

    def sampler(self, id: FunctionId) -> Callable[[float], Sample | None]:
        """Returns a function of the time: load and replica counts at that instant, None where nothing runs."""
        ...

    def scale(self, id: FunctionId, replicas: int) -> None: ...
    def on_call(self, id: FunctionId, callback: Callable[[FunctionId], None] | None) -> None:
        """Call `callback` once, when the next call finds the function idle. None cancels it."""
        ...


class Outlook(NamedTuple):
    """Why a function has its replicas: its latest decision or the lack of data, and its changes, newest first."""

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
        self.latest: Decision | NoData | None = None  # None: a function with load kept its replicas
        self.changes: tuple[tuple[Decision, str], ...] = ()  # each with its sentence, newest first
        self.next_at = math.inf

    def follow(self, plan: Plan, now: float) -> None:
        """Decide by `plan` from now on, from the replicas that are wanted now."""
        self.plan = plan
        sample = self.sample(now)
        self.state = State.initial(plan.at(now), sample.wanted if sample else 0, now, self.idle.times)


class Autoscaler:
    """All methods are called in the event loop. `policy_of(id, spec)`: the policy in force for a function."""

    def __init__(
        self,
        target: ScaleTarget,
        *,
        clock: Clock,
        events: EventSink,
        count: Callable[[str, str], None],
        policy_of: Callable[[FunctionId, FunctionSpec], AutoscalingPolicy] = lambda _, spec: spec.autoscaling,
        on_error: Callable[[], None] = lambda: None,
        idle_history: IdleHistory | None = None,
        cores: int | None = None,
    ) -> None:
        """`count(path, rule)` counts a decision that changed the number of replicas. `idle_history`: the idle
        times, read when a function starts and extended. `cores`: the processor cores that all replicas share, if they
        share any."""
        self._target = target
        self._clock = clock
        self._events = events
        self._count = count
        self._policy_of = policy_of
        self._on_error = on_error
        self._entries: dict[FunctionId, _Entry] = {}
        self._active: dict[_Entry, None] = {}  # sampled every period
        self._later: list[tuple[float, int, _Entry]] = []  # heap by time; entries whose time changed stay in it
        self._idle_history = IdleHistory() if idle_history is None else idle_history
        self._cores = cores
        self._wall = self._read_wall()
        self._sequence = 0
        self._follow_ups: set[asyncio.TimerHandle] = set()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def active(self) -> int:
        """Functions that are sampled every period."""
        return len(self._active)

    # Functions under control

    def appeared(self, id: FunctionId, spec: FunctionSpec) -> None:
        """Control the function's replicas from now on. A function that is known was restarted: it begins anew."""
        now = self._clock.monotonic()
        idle = self._idle_history.of(id.path)
        entry = _Entry(id, spec, self._plan(id, spec), idle, self._target.sampler(id), now)
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
        """Another policy is in force: decide by it at once."""
        now = self._clock.monotonic()
        for entry in [e for e in self._entries.values() if (e.id.project, e.id.function) == (project, function)]:
            entry.follow(self._plan(entry.id, entry.spec), now)
            self._guarded(entry, now)

    def _plan(self, id: FunctionId, spec: FunctionSpec) -> Plan:
        policy = self._policy_of(id, spec)
        try:
            return Plan(policy, spec.latency_slo_s, self._read_wall)
        except InvalidSpec as error:
            # A deploy and `apply` refuse it. For a version that was stored before, the rest of the policy holds.
            logger.error("the schedule of %s is ignored: %s", id, error)
            return Plan(replace(policy, schedule=()), spec.latency_slo_s, self._read_wall)

    def _read_wall(self) -> float:
        """Unix time minus monotonic time."""
        return self._clock.time() - self._clock.monotonic()

    # Rounds

    async def run(self) -> None:
        """Sample functions, for ever."""
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
        """Do a whole round at once."""
        for _ in self.round():
            pass

    def round(self) -> Iterator[float]:
        """Decide on the functions with load and on those whose time has come; yields the seconds that a slice took."""
        self._notice_clock_change()
        now = self._clock.monotonic()
        for number, entry in enumerate(self._due(list(self._active), now), 1):
            self._guarded(entry, now)
            if number % SLICE == 0:
                yield self._clock.monotonic() - now
                now = self._clock.monotonic()
        yield self._clock.monotonic() - now

    def _notice_clock_change(self) -> None:
        """Make functions with schedules due when the wall clock was set: the time of their next decision was computed
        by the old one."""
        wall = self._read_wall()
        if abs(wall - self._wall) > TOLERANCE_S:
            self._wall = wall
            for entry in self._entries.values():
                if entry.plan.policy.schedule and entry not in self._active:
                    self._later_at(entry, self._clock.monotonic())

    def _due(self, active: list[_Entry], now: float) -> Iterator[_Entry]:
        for entry in active:
            if entry in self._active:  # else it ended or became idle since the round began
                yield entry
        while self._later and self._later[0][0] <= now:
            at, _, entry = heappop(self._later)
            if entry.next_at == at:
                entry.next_at = math.inf
                if entry not in self._active:
                    yield entry

    def called(self, id: FunctionId) -> None:
        """A call came to a function that was skipped or that has no replica: decide now."""
        entry = self._entries.get(id)
        if entry is None:
            return
        cold = isinstance(entry.latest, Decision) and not entry.latest.wanted
        self._guarded(entry, self._clock.monotonic())
        if cold:
            # The number of calls that came together is known when this turn of the loop is over.
            self._follow_up(id)

    def _follow_up(self, id: FunctionId) -> None:
        def look() -> None:
            self._follow_ups.discard(timer)
            if (entry := self._entries.get(id)) is not None:
                self._guarded(entry, self._clock.monotonic())

        timer = asyncio.get_running_loop().call_later(FOLLOW_UP_S, look)
        self._follow_ups.add(timer)

    def _guarded(self, entry: _Entry, now: float, *, quiet: bool = True) -> None:
        """Decide, so that a defect with one function neither stops the others' round nor fails a call."""
        try:
            self._decide(entry, now, quiet)
        except Exception:
            logger.exception("deciding on the replicas of %s failed", entry.id)
            self._on_error()
            self._later_at(entry, now + NO_DATA_S)

    def _decide(self, entry: _Entry, now: float, quiet: bool) -> None:
        sample = entry.sample(now)
        if sample is not None:
            entry.idle.observe(sample.idle_since, sample.arrivals, now)
        decision, entry.state = scaling.decide(sample, entry.plan.at(now), entry.state, now, quiet=quiet)
        entry.latest = decision
        if decision is None:
            self._active[entry] = None
            return
        if isinstance(decision, NoData):
            self._later_at(entry, now + NO_DATA_S)
            return
        wanted, next_at = decision.wanted, decision.next_at
        if wanted != decision.before:
            self._carry_out(entry, decision, now)
        if next_at > now:
            self._later_at(entry, next_at)
            self._target.on_call(entry.id, self.called)
            return
        self._active[entry] = None
        if not wanted:
            self._target.on_call(entry.id, self.called)

    def _carry_out(self, entry: _Entry, decision: Decision, now: float) -> None:
        self._target.scale(entry.id, decision.wanted)
        why = explain(decision, entry.plan.at(now)).why
        entry.changes = ((decision, why), *entry.changes[: REMEMBERED - 1])
        self._count(entry.id.path, decision.rule)
        message = f"{decision.before} → {decision.wanted} replicas ({decision.rule}): {why}"
        data = {"rule": decision.rule, "before": decision.before, "wanted": decision.wanted}
        self._events(entry.id, "scale", message, data)

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

    # Explanations

    def outlook(self, id: FunctionId) -> Outlook | None:
        """Why the function has the replicas that it has; None where it is not running."""
        entry = self._entries.get(id)
        if entry is None:
            return None
        now, explanation = self._clock.monotonic(), None
        if entry.latest is None:
            self._guarded(entry, now, quiet=False)
        if isinstance(entry.latest, Decision):
            explanation = explain(entry.latest, entry.plan.at(now), self._cores)
        return Outlook(entry.plan.policy, entry.latest, explanation, list(entry.changes))
