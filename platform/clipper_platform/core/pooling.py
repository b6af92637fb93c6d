"""Which replicas a function should have, as a state machine: events in, instructions out.

    starting ──ready──▶ ready ──drain──▶ draining ──▶ gone
        │                 │ missed pings, hung              ▲
        │                 └──────▶ unhealthy ───────────────┤
        └────────────── start failed, exited ───────────────┘

Events are the wanted number of replicas and what happens to each replica; instructions are what to launch, drain or
kill, and when to send a Tick. Replacements after failures wait with exponential back-off. A replica that ends before
its first answer counts towards a crash loop; after `max_failures` of these in a row the pool has `failed`, with the
reason. A pool that never had a ready replica stops trying then. One that had (`proven`: what it needs is away for now)
tries again after each back-off, with one replica, and has not failed while it tries. A replica that ends after an
answer was ended by a request or by the machine, so it is replaced sooner and never stops the pool. Errors of the
platform's own, when it has no descriptor or no disk left, only wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = [
    "Drain",
    "Drained",
    "Event",
    "Exited",
    "Instruction",
    "Kill",
    "Launch",
    "Member",
    "Overdue",
    "PoolState",
    "Ready",
    "ReplicaState",
    "Served",
    "StartFailed",
    "Tick",
    "Unhealthy",
    "Wake",
    "Want",
]


class ReplicaState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    UNHEALTHY = "unhealthy"


# Events


@dataclass(frozen=True, slots=True)
class Want:
    """The number of replicas to have from now on. It ends a `failed` state and the back-off of a pool that is not
    proven; `afresh`: of any pool, since a person asked."""

    count: int
    afresh: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    replica: str


@dataclass(frozen=True, slots=True)
class StartFailed:
    """`hindered`: the platform could not start it, so that the function is not at fault."""

    replica: str
    message: str
    hindered: bool = False


@dataclass(frozen=True, slots=True)
class Served:
    """The replica answered invocations: its end no longer counts towards a crash loop."""

    replica: str


@dataclass(frozen=True, slots=True)
class Unhealthy:
    """The replica answers no pings, or holds a batch long past every deadline in it."""

    replica: str
    message: str


@dataclass(frozen=True, slots=True)
class Drained:
    """The replica is to finish its work and end. Another takes its place; meanwhile invocations wait in the queue."""

    replica: str


@dataclass(frozen=True, slots=True)
class Overdue:
    """The replica works on a call that nobody waits for, while others wait: another one takes its place, as in Drained.

    At most as many as are wanted, and one, drain at a time: a function may not take the machine's memory with them.
    """

    replica: str


@dataclass(frozen=True, slots=True)
class Exited:
    """`expected`: the platform or the machine ended it, so that the function is not at fault."""

    replica: str
    message: str
    expected: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed: a back-off may be over."""


Event = Want | Ready | StartFailed | Served | Unhealthy | Drained | Overdue | Exited | Tick


# Instructions


@dataclass(frozen=True, slots=True)
class Launch:
    replica: str


@dataclass(frozen=True, slots=True)
class Drain:
    replica: str


@dataclass(frozen=True, slots=True)
class Kill:
    replica: str
    reason: str


@dataclass(frozen=True, slots=True)
class Wake:
    """Send a Tick at this time."""

    at: float


Instruction = Launch | Drain | Kill | Wake


@dataclass(slots=True)
class Member:
    """One replica as the pool knows it."""

    id: str
    state: ReplicaState
    since: float
    served: bool = False


@dataclass(slots=True)
class PoolState:
    """The state machine. `prefix` names the replicas that it asks to launch: prefix-1, prefix-2, …"""

    prefix: str
    max_failures: int = 5
    base_delay_s: float = 0.2
    max_delay_s: float = 30.0
    served_max_delay_s: float = 1.0  # a replica that served is replaced within this
    hindered_max_delay_s: float = 5.0
    stable_after_s: float = 10.0  # ready for so long: earlier failures are forgotten
    wanted: int = 0
    members: dict[str, Member] = field(default_factory=dict)
    ready: int = 0  # members in this state
    starting: int = 0
    failures: int = 0  # deaths in a row before an answer
    crashes: int = 0  # deaths in a row after an answer
    hindrances: int = 0  # starts in a row that the platform could not make
    ready_at: float = float("-inf")  # when a replica was ready last
    start_s: float = 0.0  # how long its start took
    proven: bool = False  # a replica was ready once, of this pool or of an earlier one
    failed: str = ""  # why the pool does not try now; empty while it tries
    last_failure: str = ""
    restarts: int = 0
    _not_before: float = 0.0
    _last_death: float = float("-inf")
    _made: int = 0

    @property
    def retry_at(self) -> float:
        """When a pool that has failed tries again; inf: not by itself."""
        return self._not_before if self.proven else float("inf")

    def count(self, *states: ReplicaState) -> int:
        return sum(m.state in states for m in self.members.values())

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Apply one event at time `now` (seconds, monotonic). Events about unknown replicas change nothing."""
        match event:
            case Want(count, afresh):
                self.wanted = count
                if afresh or not self.proven:
                    self._forgive()
            case Ready(replica):
                self._become_ready(replica, now)
            case Served(replica):
                self._serve(replica)
            case Drained(replica):
                return self._recycle(replica, now)
            case Overdue(replica):
                return self._recycle(replica, now) if self.count(ReplicaState.DRAINING) <= self.wanted else []
            case Unhealthy(replica, message):
                return self._give_up(replica, message, now)
            case StartFailed(replica, message, hindered):
                self._bury(replica, message, now, counts=not hindered)
                if hindered:
                    self._wait(message, now)
            case Exited(replica, message, expected):
                self._bury(replica, message, now, counts=not expected)
            # A Tick changes nothing but the time.
        return self._plan(now)

    def _forgive(self) -> None:
        self.failed = ""
        self.failures = self.crashes = 0
        self._not_before = 0.0

    def _wait(self, message: str, now: float) -> None:
        self.last_failure = message
        self.hindrances += 1
        delay = min(self.hindered_max_delay_s, self.base_delay_s * 2 ** min(self.hindrances - 1, 16))
        self._not_before = max(self._not_before, now + delay)

    def _become_ready(self, replica: str, now: float) -> None:
        member = self.members.get(replica)
        if member is not None and member.state is ReplicaState.STARTING:
            self.start_s = now - member.since
            self._turn(member, ReplicaState.READY, now)
        self.proven, self.hindrances, self.ready_at = True, 0, now

    def _turn(self, member: Member, state: ReplicaState, now: float) -> None:
        self._tally(member.state, -1)
        self._tally(state, 1)
        member.state, member.since = state, now

    def _tally(self, state: ReplicaState, change: int) -> None:
        if state is ReplicaState.READY:
            self.ready += change
        elif state is ReplicaState.STARTING:
            self.starting += change

    def _serve(self, replica: str) -> None:
        member = self.members.get(replica)
        if member is not None:
            member.served = True
            self.failures = 0

    def _recycle(self, replica: str, now: float) -> list[Instruction]:
        member = self.members.get(replica)
        if member is None or member.state is not ReplicaState.READY:
            return []
        self._turn(member, ReplicaState.DRAINING, now)
        return [*self._plan(now), Drain(replica)]

    def _give_up(self, replica: str, message: str, now: float) -> list[Instruction]:
        member = self.members.get(replica)
        if member is None or member.state is ReplicaState.UNHEALTHY:
            return []
        if member.state is ReplicaState.DRAINING:
            return [Kill(replica, message)]  # its place is taken, or not needed: its drain need not last on
        self._turn(member, ReplicaState.UNHEALTHY, now)
        self.last_failure = message
        return [Kill(replica, message), *self._plan(now)]

    def _bury(self, replica: str, message: str, now: float, *, counts: bool) -> None:
        member = self.members.pop(replica, None)
        if member is None:
            return
        self._tally(member.state, -1)
        wanted_to_live = member.state in (ReplicaState.STARTING, ReplicaState.READY, ReplicaState.UNHEALTHY)
        if not wanted_to_live or not counts:
            self.restarts += wanted_to_live
            return
        self.restarts += 1
        self.last_failure = message
        lived = now - member.since if member.state is ReplicaState.READY else 0.0
        if min(lived, now - self._last_death) > self.stable_after_s:
            self.failures = self.crashes = 0
        self._last_death = now
        if member.served:
            self.crashes += 1
            # The first replacement is immediate: 0, then 0.1 s, 0.2 s, … up to served_max_delay_s.
            delay = 0.0 if self.crashes == 1 else min(self.served_max_delay_s, 0.1 * 2 ** min(self.crashes - 2, 16))
        else:
            self.failures += 1
            delay = min(self.max_delay_s, self.base_delay_s * 2 ** min(self.failures - 1, 16))
            if self.failures >= self.max_failures:
                self.failed = self._verdict(message, delay)
        self._not_before = max(self._not_before, now + delay)

    def _verdict(self, message: str, delay: float) -> str:
        if self.proven:
            return f"{self.failures} starts failed in a row, the next try is {delay:g} s after the last: {message}"
        return f"gave up after {self.failures} failed starts in a row: {message}"

    def _plan(self, now: float) -> list[Instruction]:
        if self.failed and self.proven:
            if now < self._not_before:
                return [*self._fit(now), Wake(self._not_before)]
            self.failed = ""  # a call from now on is a trial
        return self._fit(now)

    def _fit(self, now: float) -> list[Instruction]:
        living = self.starting + self.ready
        if living > self.wanted:
            return self._shrink(living - self.wanted, now)
        missing = self.wanted - living
        if not missing or self.failed:
            return []
        if now < self._not_before:
            return [Wake(self._not_before)]
        if self.failures >= self.max_failures or self.hindrances:
            missing = 1 - min(self.starting, 1)  # a trial
        return [self._launch(now) for _ in range(missing)]

    def _launch(self, now: float) -> Launch:
        self._made += 1
        member = Member(f"{self.prefix}-{self._made}", ReplicaState.STARTING, now)
        self.members[member.id] = member
        self.starting += 1
        return Launch(member.id)

    def _shrink(self, surplus: int, now: float) -> list[Instruction]:
        """Ends replicas that are not ready first, then the youngest: the oldest has the warmest caches."""
        out: list[Instruction] = []
        for member in self._by_worth()[:surplus]:
            ready = member.state is ReplicaState.READY
            self._turn(member, ReplicaState.DRAINING, now)
            out.append(Drain(member.id) if ready else Kill(member.id, "no longer wanted"))
        return out

    def _by_worth(self) -> list[Member]:
        alive: Iterable[Member] = (
            m for m in self.members.values() if m.state in (ReplicaState.STARTING, ReplicaState.READY)
        )
        return sorted(alive, key=lambda m: (m.state is ReplicaState.READY, -m.since))
