"""Policies applied live: which one counts, for how long, and when their schedules are open."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest

from clipper.contract.spec import AutoscalingPolicy, Schedule
from clipper_platform.control.scaling.policies import Policies, digest_of
from clipper_platform.control.scaling.schedules import Plan
from clipper_platform.errors import InvalidSpec, NotFound, StoreUnavailable
from clipper_platform.store.base import Policy
from tests.unit.control.doubles import BUNDLE, Plane, make_plane


@pytest.fixture
async def plane(tmp_path: Path) -> Plane:
    plane = make_plane(tmp_path)
    await plane.registry.load()
    return plane


async def applied(plane: Plane, **keys: object) -> Policies:
    policies = Policies(plane.registry, plane.store, plane.clock)
    await policies.load()
    if keys:
        await policies.apply("digits", "classify", keys, "sha256:file")
    return policies


async def test_an_applied_policy_is_in_force_and_announced(plane: Plane) -> None:
    await plane.deployed(min_replicas=1)
    policies = await applied(plane)
    changed: list[tuple[str, str]] = []
    policies.on_change(lambda *names: changed.append(names))
    assert policies.effective("digits", "classify").policy.min_replicas == 1
    effective = await policies.apply("digits", "classify", {"min_replicas": 3}, "sha256:file")
    assert effective.policy.min_replicas == 3
    assert effective.deployed.min_replicas == 1
    assert effective.applied is not None
    assert effective.applied.digest == "sha256:file"
    assert changed == [("digits", "classify")]
    back = await policies.withdraw("digits", "classify")
    assert (back.policy.min_replicas, back.applied) == (1, None)
    assert len(changed) == 2
    assert await plane.store.list_policies() == []


async def test_it_is_kept_across_a_restart(plane: Plane) -> None:
    await plane.deployed()
    await applied(plane, min_replicas=3)
    again = plane.restarted()
    await again.registry.load()
    policies = await applied(again)
    assert policies.effective("digits", "classify").policy.min_replicas == 3


async def test_it_is_kept_across_deploys_until_the_declared_policy_changes(plane: Plane) -> None:
    await plane.deployed()
    policies = await applied(plane, min_replicas=3)
    await plane.deployed(max_batch_size=4)
    assert await policies.sweep() == []
    assert policies.effective("digits", "classify").policy.min_replicas == 3

    await plane.deployed(max_replicas=5)
    assert policies.effective("digits", "classify").policy.max_replicas == 5
    assert await policies.sweep() == [("digits", "classify")]
    assert await plane.store.list_policies() == []
    await plane.deployed(max_batch_size=4)
    assert policies.effective("digits", "classify").policy.min_replicas == 0


async def test_it_does_not_come_back_with_the_policy_that_it_took_the_place_of(plane: Plane) -> None:
    await plane.deployed()
    policies = await applied(plane, min_replicas=3)
    await plane.deployed(max_replicas=5)
    await plane.deployed()  # before anybody swept
    assert policies.effective("digits", "classify").policy.min_replicas == 0
    assert await policies.sweep() == [("digits", "classify")]
    assert await plane.store.list_policies() == []


async def test_one_applied_after_another_ended_is_kept(plane: Plane) -> None:
    await plane.deployed()
    policies = await applied(plane, min_replicas=3)
    await plane.deployed(max_replicas=5)
    await policies.apply("digits", "classify", {"min_replicas": 2})
    assert await policies.sweep() == []
    assert policies.effective("digits", "classify").policy.min_replicas == 2


async def test_a_policy_without_its_function_ends(plane: Plane) -> None:
    await plane.deployed()
    policies = await applied(plane, min_replicas=3)
    await plane.deployed(functions=("other",))
    plane.store.outage = "away"
    assert await policies.sweep() == []
    plane.store.outage = ""
    assert await policies.sweep() == [("digits", "classify")]
    with pytest.raises(NotFound):
        policies.effective("digits", "classify")


async def test_a_policy_that_the_store_lost_already_ends_too(plane: Plane) -> None:
    await plane.deployed()
    policies = await applied(plane, min_replicas=3)
    await plane.store.delete_policy(*await plane.store.list_policies())
    await plane.deployed(max_replicas=5)
    ended: list[tuple[str, str]] = []
    watching = asyncio.create_task(policies.watch(lambda *names: ended.append(names), period_s=0))
    async with asyncio.timeout(5):
        while not ended:
            await asyncio.sleep(0)
    watching.cancel()
    assert ended == [("digits", "classify")]


async def test_a_deleted_project_leaves_no_policy_for_its_successor(plane: Plane) -> None:
    await plane.deployed()
    policies = await applied(plane, min_replicas=3)
    await plane.deployer.delete("digits")
    assert await policies.sweep() == []
    policies.forget("digits")
    await plane.settle()
    plane.artifacts.known[BUNDLE] = 10
    await plane.deployed()
    assert policies.effective("digits", "classify").policy.min_replicas == 0


async def test_one_that_ended_while_the_platform_was_away_is_forgotten(plane: Plane) -> None:
    await plane.deployed()
    await applied(plane, min_replicas=3)
    await plane.deployed(max_replicas=5)
    again = plane.restarted()
    await again.registry.load()
    policies = await applied(again)
    assert policies.effective("digits", "classify").policy.max_replicas == 5
    assert await policies.sweep() == [("digits", "classify")]
    assert await plane.store.list_policies() == []


async def test_one_that_ends_while_it_is_stored_is_forgotten(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    await plane.deployed()
    policies = await applied(plane)
    put_policy = plane.store.put_policy

    async def slowly(record: Policy) -> Policy:
        stored = await put_policy(record)
        await plane.deployed(max_replicas=5)
        return stored

    monkeypatch.setattr(plane.store, "put_policy", slowly)
    await policies.apply("digits", "classify", {"min_replicas": 3})
    assert await policies.sweep() == [("digits", "classify")]


async def test_a_round_without_news_compares_no_policy(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    await plane.deployed()
    policies = await applied(plane, min_replicas=3)

    def compared(_: AutoscalingPolicy) -> str:
        raise AssertionError("nothing was routed")

    monkeypatch.setattr("clipper_platform.control.scaling.policies.digest_of", compared)
    assert await policies.sweep() == []


async def test_a_bad_policy_is_refused_by_key(plane: Plane) -> None:
    await plane.deployed()
    policies = await applied(plane)
    with pytest.raises(InvalidSpec, match="did you mean 'max_replicas'"):
        await policies.apply("digits", "classify", {"max_replica": 3})
    never = {"cron": "0 0 30 2 *", "duration_s": 5, "min_replicas": 1}
    with pytest.raises(InvalidSpec, match="0 0 30 2"):
        await policies.apply("digits", "classify", {"schedule": [never]})
    with pytest.raises(NotFound):
        await policies.apply("digits", "nobody", {})
    with pytest.raises(NotFound):
        await policies.apply("nobody", "classify", {})
    with pytest.raises(NotFound, match="no policy was applied"):
        await policies.withdraw("digits", "classify")


async def test_nothing_changes_while_the_store_is_away(plane: Plane) -> None:
    await plane.deployed()
    policies = await applied(plane)
    plane.store.outage = "away"
    with pytest.raises(StoreUnavailable):
        await policies.apply("digits", "classify", {"min_replicas": 3})
    assert policies.effective("digits", "classify").policy.min_replicas == 0


async def test_a_withdrawal_whose_answer_was_lost_can_be_repeated(plane: Plane) -> None:
    await plane.deployed()
    policies = await applied(plane, min_replicas=3)
    await plane.store.delete_policy(*await plane.store.list_policies())
    assert (await policies.withdraw("digits", "classify")).applied is None


async def test_a_deploy_with_a_schedule_that_never_comes_true_is_refused(plane: Plane) -> None:
    never = {"cron": "0 0 30 2 *", "duration_s": 5, "min_replicas": 1}
    with pytest.raises(InvalidSpec, match="0 0 30 2"):
        await plane.deployed(autoscaling={"schedule": [never]})


async def test_a_stored_policy_that_cannot_be_read_is_passed_over(plane: Plane) -> None:
    await plane.deployed()
    await applied(plane, min_replicas=3)
    (record,) = await plane.store.list_policies()
    await plane.store.put_policy(msgspec.structs.replace(record, policy={"of_the_future": 1}))
    policies = await applied(plane)
    assert policies.effective("digits", "classify").applied is None


async def test_a_new_version_starts_with_the_replicas_of_the_applied_policy(tmp_path: Path) -> None:
    plane = make_plane(tmp_path)
    plane.deployer._rollout._policy_of = lambda _, __: AutoscalingPolicy(min_replicas=4, max_replicas=6)
    await plane.deployed()
    assert list(plane.serving.replicas.values()) == [4]


def test_a_digest_tells_policies_apart_by_what_they_say() -> None:
    assert digest_of(AutoscalingPolicy()) == digest_of(AutoscalingPolicy(min_replicas=0))
    assert digest_of(AutoscalingPolicy()) != digest_of(AutoscalingPolicy(min_replicas=1))


# Schedules


def plan(cron: str, duration_s: float, timezone: str = "UTC") -> Plan:
    schedule = Schedule(cron=cron, duration_s=duration_s, min_replicas=2, timezone=timezone)
    return Plan(AutoscalingPolicy(schedule=(schedule,)), None, lambda: 0.0)


def moment(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def open_at(planned: Plan, at: float) -> bool:
    return any(w.opens_at <= at < w.closes_at for w in planned.at(at).windows)


def test_a_window_is_open_from_its_minute_for_its_duration() -> None:
    planned = plan("0 8 * * 1-5", 3600)
    assert not open_at(planned, moment("2026-01-05T07:59:59"))
    assert open_at(planned, moment("2026-01-05T08:00:00"))
    assert open_at(planned, moment("2026-01-05T08:59:59"))
    assert not open_at(planned, moment("2026-01-05T09:00:00"))
    assert not open_at(planned, moment("2026-01-10T08:30:00"))


def test_the_controller_knows_of_the_next_window_in_time() -> None:
    planned = plan("0 8 * * *", 3600)
    (window,) = planned.at(moment("2026-01-05T10:00:00")).windows
    assert window.opens_at == moment("2026-01-06T08:00:00")
    assert window.name == "0 8 * * * UTC"


def test_windows_follow_their_time_zone_through_its_clock_change() -> None:
    for day in ("2026-03-28", "2026-03-29", "2026-03-30"):
        local = moment(f"{day}T08:30:00", "Europe/Berlin")
        assert open_at(plan("0 8 * * *", 3600, "Europe/Berlin"), local)
    winter, summer = moment("2026-03-28T07:30:00"), moment("2026-03-30T06:30:00")
    assert datetime.fromtimestamp(winter, UTC).hour != datetime.fromtimestamp(summer, UTC).hour
    planned = plan("0 8 * * *", 3600, "Europe/Berlin")
    assert open_at(planned, winter)
    assert open_at(planned, summer)


def test_the_latest_of_overlapping_openings_counts() -> None:
    planned = plan("*/10 * * * *", 1500)
    at = moment("2026-01-05T08:11:00")
    assert max(w.closes_at for w in planned.at(at).windows if w.opens_at <= at) == moment("2026-01-05T08:35:00")


def test_windows_follow_a_wall_clock_that_is_set() -> None:
    wall = [0.0]
    planned = Plan(
        AutoscalingPolicy(schedule=(Schedule(cron="0 8 * * *", duration_s=3600, min_replicas=2),)),
        None,
        lambda: wall[0],
    )
    at = moment("2026-01-05T03:00:00")
    assert not open_at(planned, at)
    wall[0] = 5.5 * 3600  # the machine slept for so long, while the monotonic clock stood still
    assert open_at(planned, at + 1)
    wall[0] = -2 * 3600  # and NTP set the clock back
    assert not open_at(planned, at + 2)


def test_a_wall_clock_that_drifts_is_followed_once_it_is_a_second_off() -> None:
    wall = [0.0]
    planned = Plan(
        AutoscalingPolicy(schedule=(Schedule(cron="0 8 * * *", duration_s=3600, min_replicas=2),)),
        None,
        lambda: wall[0],
    )
    at = moment("2026-01-05T03:00:00")
    first = planned.at(at)
    wall[0] = 0.6
    assert planned.at(at) is first
    wall[0] = 1.2
    assert planned.at(at).windows[0].opens_at == moment("2026-01-05T08:00:00") - 1.2


def test_a_zone_that_the_machine_does_not_know_is_refused_with_its_name() -> None:
    with pytest.raises(InvalidSpec, match="Mars/Olympus"):
        plan("0 8 * * *", 3600, "Mars/Olympus")


def test_a_policy_without_schedules_never_changes() -> None:
    planned = Plan(AutoscalingPolicy(max_replicas=7), 0.5, lambda: 100.0)
    assert planned.at(0.0) is planned.at(1e9)
    assert planned.at(0.0).latency_slo_s == 0.5
