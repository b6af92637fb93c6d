"""Whatever happens to a pool, its books stay right."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from clipper_platform.core.pooling import (
    Drain,
    Drained,
    Event,
    Exited,
    Kill,
    Launch,
    PoolState,
    Ready,
    ReplicaState,
    Served,
    StartFailed,
    Tick,
    Unhealthy,
    Wake,
    Want,
)


class PoolMachine(RuleBasedStateMachine):
    """Plays the machine under the pool: replicas that start, serve, hang and die whenever they like."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PoolState("r")
        self.now = 0.0
        self.launched: set[str] = set()
        self.ended: set[str] = set()
        self.wake: float | None = None

    def tell(self, event: Event) -> None:
        if self.wake is not None and self.now >= self.wake:
            self.wake = None
        for instruction in self.pool.handle(event, self.now):
            match instruction:
                case Launch(replica):
                    assert replica not in self.launched
                    assert self.now >= self.pool._not_before
                    self.launched.add(replica)
                case Drain(replica) | Kill(replica, _):
                    assert replica in self.pool.members
                case Wake(at):
                    assert at > self.now
                    self.wake = at

    def member(self, data: st.DataObject, *states: ReplicaState) -> str | None:
        names = sorted(m.id for m in self.pool.members.values() if m.state in states)
        return data.draw(st.sampled_from(names)) if names else None

    @rule(count=st.integers(0, 5))
    def want(self, count: int) -> None:
        self.tell(Want(count))

    @rule(seconds=st.floats(0, 40))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.tell(Tick())

    @rule(data=st.data(), ok=st.booleans(), hindered=st.booleans())
    def start(self, data: st.DataObject, ok: bool, hindered: bool) -> None:
        if name := self.member(data, ReplicaState.STARTING):
            self.tell(Ready(name) if ok else StartFailed(name, "no", hindered))

    @rule(data=st.data(), what=st.sampled_from([Served, Drained]))
    def live(self, data: st.DataObject, what: type[Served] | type[Drained]) -> None:
        if name := self.member(data, ReplicaState.READY):
            self.tell(what(name))

    @rule(data=st.data())
    def hang(self, data: st.DataObject) -> None:
        if name := self.member(data, *ReplicaState):
            self.tell(Unhealthy(name, "hung"))

    @rule(data=st.data(), expected=st.booleans())
    def die(self, data: st.DataObject, expected: bool) -> None:
        if name := self.member(data, *ReplicaState):
            self.tell(Exited(name, "gone", expected))
            assert name not in self.pool.members

    @invariant()
    def a_pool_that_was_ready_once_never_stops_trying(self) -> None:
        if self.pool.failed and self.pool.proven:
            assert self.wake is not None
            assert self.wake - self.now <= self.pool.max_delay_s

    @invariant()
    def never_more_living_than_wanted(self) -> None:
        assert self.pool.count(ReplicaState.STARTING, ReplicaState.READY) <= self.pool.wanted

    @invariant()
    def what_is_counted_is_what_is_there(self) -> None:
        assert self.pool.ready == self.pool.count(ReplicaState.READY)
        assert self.pool.starting == self.pool.count(ReplicaState.STARTING)

    @invariant()
    def fewer_than_wanted_has_a_reason(self) -> None:
        if self.pool.count(ReplicaState.STARTING, ReplicaState.READY) < self.pool.wanted:
            assert self.pool.failed or self.wake is not None or self.pool.starting  # a trial


TestPoolMachine = PoolMachine.TestCase
