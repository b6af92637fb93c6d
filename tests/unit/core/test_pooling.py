"""The pool's state machine: events in, instructions out."""

from __future__ import annotations

from clipper_platform.core.pooling import (
    Drain,
    Drained,
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


def ready_pool(count: int) -> PoolState:
    pool = PoolState("r")
    for launch in pool.handle(Want(count), 0.0):
        assert isinstance(launch, Launch)
        pool.handle(Ready(launch.replica), 0.5)
    return pool


def test_wanting_replicas_launches_each_under_its_own_name() -> None:
    assert PoolState("r").handle(Want(2), 0.0) == [Launch("r-1"), Launch("r-2")]


def test_a_second_want_of_the_same_count_launches_nothing() -> None:
    pool = PoolState("r")
    pool.handle(Want(1), 0.0)
    assert pool.handle(Want(1), 1.0) == []


def test_a_failed_start_is_tried_again_after_a_doubling_delay() -> None:
    pool = PoolState("r", base_delay_s=0.2)
    pool.handle(Want(1), 0.0)
    assert pool.handle(StartFailed("r-1", "no"), 1.0) == [Wake(1.2)]
    assert pool.handle(Tick(), 1.1) == [Wake(1.2)]
    assert pool.handle(Tick(), 1.2) == [Launch("r-2")]
    assert pool.handle(StartFailed("r-2", "no"), 2.0) == [Wake(2.4)]


def test_a_crash_loop_stops_with_its_reason_and_a_new_want_starts_over() -> None:
    pool = PoolState("r", max_failures=3, base_delay_s=0.0)
    pool.handle(Want(1), 0.0)
    for n in range(1, 4):
        pool.handle(StartFailed(f"r-{n}", f"boom {n}"), float(n))
    assert "3 failed starts" in pool.failed
    assert "boom 3" in pool.failed
    assert pool.handle(Tick(), 1000.0) == []
    assert pool.handle(Want(1), 1001.0) == [Launch("r-4")]
    assert pool.failed == ""


def test_a_replica_that_dies_before_it_served_counts_towards_the_crash_loop() -> None:
    pool = PoolState("r", max_failures=2, base_delay_s=0.0)
    pool.handle(Want(1), 0.0)
    for n in (1, 2):
        pool.handle(Ready(f"r-{n}"), float(n))
        pool.handle(Exited(f"r-{n}", "killed by SIGSEGV"), n + 0.1)
    assert "SIGSEGV" in pool.failed


def test_a_replica_that_served_is_replaced_at_once_and_never_stops_the_pool() -> None:
    pool = PoolState("r", max_failures=2)
    pool.handle(Want(1), 0.0)
    now, delays = 0.0, []
    for n in range(1, 9):
        pool.handle(Ready(f"r-{n}"), now)
        pool.handle(Served(f"r-{n}"), now)
        (after,) = pool.handle(Exited(f"r-{n}", "exit status 3"), now + 0.1)
        now += 0.1
        if isinstance(after, Wake):
            delays.append(round(after.at - now, 6))
            now = after.at
            (after,) = pool.handle(Tick(), now)
        assert isinstance(after, Launch)
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    assert pool.failed == ""


def test_living_long_enough_forgives_earlier_deaths() -> None:
    pool = PoolState("r", max_failures=2, base_delay_s=0.0, stable_after_s=10.0)
    pool.handle(Want(1), 0.0)
    pool.handle(StartFailed("r-1", "no"), 1.0)
    pool.handle(Ready("r-2"), 2.0)
    pool.handle(Exited("r-2", "gone"), 20.0)
    assert pool.failed == ""
    assert pool.failures == 1


def test_an_expected_exit_is_replaced_without_delay_or_count() -> None:
    pool = ready_pool(1)
    assert pool.handle(Exited("r-1", "killed", expected=True), 1.0) == [Launch("r-2")]
    assert pool.failures == 0
    assert pool.restarts == 1


def test_shrinking_kills_what_starts_and_drains_the_youngest_ready() -> None:
    pool = ready_pool(2)
    pool.members["r-2"].since = 5.0
    pool.handle(Want(3), 6.0)
    assert pool.handle(Want(1), 7.0) == [Kill("r-3", "no longer wanted"), Drain("r-2")]
    assert pool.count(ReplicaState.READY) == 1
    assert pool.handle(Exited("r-2", "drained"), 8.0) == []
    assert pool.restarts == 0


def test_an_unhealthy_replica_is_killed_and_replaced() -> None:
    pool = ready_pool(1)
    assert pool.handle(Unhealthy("r-1", "hung"), 1.0) == [Kill("r-1", "hung"), Launch("r-2")]
    assert pool.last_failure == "hung"
    assert pool.handle(Unhealthy("r-1", "hung"), 1.1) == []
    pool.handle(Exited("r-1", "killed", expected=True), 1.2)
    assert set(pool.members) == {"r-2"}


def test_recycling_launches_a_replacement_and_drains_the_old_one() -> None:
    pool = ready_pool(1)
    assert pool.handle(Drained("r-1"), 1.0) == [Launch("r-2"), Drain("r-1")]
    assert pool.handle(Drained("r-1"), 1.1) == []
    assert pool.handle(Drained("nobody"), 1.1) == []


def test_events_about_unknown_replicas_change_nothing() -> None:
    pool = ready_pool(1)
    for event in (Ready("x"), Served("x"), StartFailed("x", ""), Exited("x", ""), Unhealthy("x", "")):
        assert pool.handle(event, 1.0) == []
    assert pool.count(ReplicaState.READY) == 1


def test_ready_only_counts_for_a_replica_that_was_starting() -> None:
    pool = ready_pool(1)
    pool.handle(Want(0), 1.0)
    pool.handle(Ready("r-1"), 1.1)
    assert pool.members["r-1"].state is ReplicaState.DRAINING
