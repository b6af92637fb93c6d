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


def test_how_long_the_latest_start_took_is_known() -> None:
    pool = ready_pool(1)
    assert pool.start_s == 0.5
    pool.handle(Ready("r-1"), 9.0)
    assert pool.start_s == 0.5, "it was ready before"


def test_a_draining_replica_that_hangs_is_killed_and_counts_for_nothing() -> None:
    pool = ready_pool(1)
    pool.handle(Want(0), 1.0)
    assert pool.handle(Unhealthy("r-1", "hung"), 2.0) == [Kill("r-1", "hung")]
    pool.handle(Exited("r-1", "killed"), 3.0)
    assert (pool.failures, pool.restarts, pool.last_failure) == (0, 0, "")


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
    pool = PoolState("r", max_failures=2)
    pool.handle(Want(1), 0.0)
    for n in (1, 2):
        pool.handle(Tick(), float(n))
        pool.handle(Ready(f"r-{n}"), float(n))
        pool.handle(Exited(f"r-{n}", "killed by SIGSEGV"), n + 0.1)
    assert "SIGSEGV" in pool.failed


def failed_pool(wanted: int) -> tuple[PoolState, float]:
    """One that was ready, went to zero, and whose next starts failed; with when the last one did."""
    pool = ready_pool(1)
    pool.handle(Want(0), 100.0)
    pool.handle(Exited("r-1", "drained", expected=True), 100.1)
    now = 101.0
    pool.handle(Want(wanted), now)
    while not pool.failed:
        (start,) = [m.id for m in pool.members.values()][:1]
        pool.handle(StartFailed(start, "no route to the database"), now)
        if not pool.failed:
            now = pool._not_before
            pool.handle(Tick(), now)
    return pool, now


def test_a_version_that_was_ready_once_keeps_trying_with_capped_back_off() -> None:
    pool, now = failed_pool(1)
    delays = []
    for _ in range(8):
        assert "no route to the database" in pool.failed
        (wake,) = {i for i in pool.handle(Tick(), now) if isinstance(i, Wake)}
        delays.append(round(wake.at - now, 6))
        now = wake.at
        (trial,) = pool.handle(Tick(), now)
        assert isinstance(trial, Launch)
        assert pool.failed == "", "a call that comes now waits for the trial"
        pool.handle(StartFailed(trial.replica, "no route to the database"), now)
    assert delays == [3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0, 30.0]


def test_at_zero_the_call_after_the_back_off_is_a_trial_of_one_replica() -> None:
    pool, now = failed_pool(1)
    (wake,) = {i for i in pool.handle(Want(0), now) if isinstance(i, Wake)}
    assert pool.handle(Tick(), wake.at) == []
    assert pool.failed == ""
    (trial,) = pool.handle(Want(3), wake.at + 60)
    assert isinstance(trial, Launch)
    started = pool.handle(Ready(trial.replica), wake.at + 61)
    assert len(started) == 1, "one after the other until one has served"
    assert len(pool.handle(Served(trial.replica), wake.at + 62)) == 1


def test_scaling_does_not_shorten_the_back_off_of_a_version_that_was_ready_but_a_restart_does() -> None:
    pool, now = failed_pool(1)
    assert not any(isinstance(i, Launch) for i in pool.handle(Want(2), now + 0.1))
    assert pool.failed
    assert len(pool.handle(Want(2, afresh=True), now + 0.2)) == 2
    assert pool.failed == ""


def test_errors_of_the_platforms_own_wait_and_never_count_against_the_function() -> None:
    pool = PoolState("r")
    pool.handle(Want(2), 0.0)
    now, delays = 0.0, []
    pool.handle(StartFailed("r-2", "too many open files", hindered=True), now)
    for n in (1, *range(3, 12)):
        pool.handle(StartFailed(f"r-{n}", "too many open files", hindered=True), now)
        delays.append(round(pool._not_before - now, 6))
        now = pool._not_before
        (launch,) = pool.handle(Tick(), now)
        assert launch == Launch(f"r-{max(n + 1, 3)}")
    assert (pool.failures, pool.failed) == (0, "")
    assert delays[-1] == 5.0
    assert len(pool.handle(Ready("r-12"), now)) == 1, "the others follow"


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
