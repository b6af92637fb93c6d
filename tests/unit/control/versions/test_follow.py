"""Two platforms on one store: what one changes, the other follows at its next poll."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec
import pytest

from clipper_platform.control.builds import INTERRUPTED, LEASE_S
from clipper_platform.control.registry import Registry
from clipper_platform.control.scaling.policies import Policies
from clipper_platform.errors import Conflict, DeployFailed, NotFound, StoreUnavailable
from clipper_platform.store.base import Version
from clipper_platform.types import FunctionId
from tests.support.waiting import until
from tests.unit.control.doubles import Plane, manifest, replica_failure


@pytest.fixture
async def other(plane: Plane) -> AsyncIterator[Plane]:
    """A platform beside `plane`, started before anything was deployed."""
    other = plane.beside()
    await other.registry.load()
    yield other
    await other.deployer.close()
    await other.logs.close()


async def polled(plane: Plane) -> None:
    await plane.registry.watch.poll()
    await plane.settle()


# Routes


async def test_a_route_that_another_platform_sets_is_followed_when_its_replicas_are_ready(
    plane: Plane, other: Plane
) -> None:
    await plane.deployed()
    await polled(other)
    assert other.serving.routes == {"digits": 1}
    await plane.deployed(latency_slo_s=1.0)
    await polled(other)
    assert (other.serving.routes, other.serving.versions("digits")) == ({"digits": 2}, {2})
    history = other.serving.history
    assert history.index("start digits/classify@2") < history.index("route digits@2") < history.index("stop digits@1")
    current = other.registry.current("digits")
    assert current is not None
    assert current.route == await plane.store.get_route("digits")
    await other.events.flush()
    assert ("route", 2) in [(e.kind, e.version) for e in await other.registry.events("digits")]


async def test_a_rollback_elsewhere_is_followed_too_and_either_platform_makes_the_next_change(
    plane: Plane, other: Plane
) -> None:
    await plane.deployed()
    await plane.deployed(latency_slo_s=1.0)
    await polled(other)
    back = await other.deployer.rollback("digits")
    assert (back.route.version, back.route.previous) == (1, 2)
    await polled(plane)
    assert plane.serving.routes == {"digits": 1}
    assert await plane.deployed(latency_slo_s=2.0) == 3
    await polled(other)
    assert other.serving.routes == {"digits": 3}


async def test_a_platform_reads_nothing_again_for_its_own_changes_but_the_project_that_it_changed(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plane.deployed()
    await plane.deployed(project="letters")
    await polled(plane)
    asked: list[str] = []
    list_versions = plane.store.list_versions

    async def counted(project: str) -> object:
        asked.append(project)
        return await list_versions(project)

    monkeypatch.setattr(plane.store, "list_versions", counted)
    await plane.deployed(latency_slo_s=1.0)
    history = list(plane.serving.history)
    await polled(plane)
    await polled(plane)
    assert asked == ["digits"]
    assert plane.serving.history[len(history) :] in ([], ["stop digits@1"])


async def test_a_deploy_that_another_platform_overtook_is_a_conflict_and_theirs_is_followed(
    plane: Plane, other: Plane
) -> None:
    await plane.deployed()
    await polled(other)
    other.gates.hold("start classify")
    slow = other.deployer.submit("digits", manifest(latency_slo_s=1.0))
    await other.gates.reached("start classify")
    assert await plane.deployed(latency_slo_s=2.0) == 3
    await polled(other)
    assert other.serving.routes == {"digits": 1}, "the deploy is under way: nothing else changes the project"
    other.gates.open("start classify")
    await slow.wait()
    assert (slow.state, slow.error.code if slow.error else "") == ("failed", "conflict")
    await until(lambda: other.serving.routes == {"digits": 3})
    await other.settle()
    assert other.serving.versions("digits") == {3}
    assert plane.serving.routes == {"digits": 3}


async def test_a_stored_version_that_does_not_start_here_leaves_the_old_one_and_is_tried_again(
    plane: Plane, other: Plane
) -> None:
    await plane.deployed()
    await polled(other)
    other.serving.broken["classify"] = replica_failure()
    await plane.deployed(latency_slo_s=1.0)
    await polled(other)
    assert other.serving.routes == {"digits": 1}
    other.serving.broken.clear()
    await until(lambda: other.serving.routes == {"digits": 2})
    await other.events.flush()
    messages = [e.message for e in await other.registry.events("digits")]
    assert sum("the stored route cannot be followed" in message for message in messages) == 1


async def test_a_deploy_may_replace_a_version_that_does_not_start_here(plane: Plane, other: Plane) -> None:
    await plane.deployed()
    await polled(other)
    other.environments.broken = DeployFailed("the index cannot be reached", phase="environment")
    await plane.deployed(latency_slo_s=1.0)
    await polled(other)
    other.environments.broken = None
    assert await other.deployed(latency_slo_s=2.0) == 3
    await polled(plane)
    assert plane.serving.routes == {"digits": 3}


async def test_a_project_deleted_elsewhere_goes_and_one_created_again_comes_back(plane: Plane, other: Plane) -> None:
    await plane.deployed()
    await polled(other)
    await plane.deployer.delete("digits")
    await polled(other)
    assert (other.serving.routes, other.serving.versions("digits")) == ({}, set())
    with pytest.raises(NotFound):
        other.registry.project("digits")
    plane.clock.now += 1
    assert await plane.deployed() == 2
    await polled(other)
    await until(lambda: other.serving.routes == {"digits": 2})


async def test_a_project_deleted_and_created_again_between_two_polls_is_the_new_one(plane: Plane, other: Plane) -> None:
    await plane.deployed()
    await polled(other)
    await plane.deployer.delete("digits")
    plane.clock.now += 1
    await plane.secrets.put("digits", "TOKEN", "x")
    await polled(other)
    assert (other.serving.routes, other.serving.versions("digits")) == ({}, set())
    assert other.registry.project("digits").created_at == 1001.0


async def test_a_delete_of_a_project_that_was_created_again_elsewhere_is_a_conflict(plane: Plane, other: Plane) -> None:
    await plane.deployed()
    await polled(other)
    await plane.deployer.delete("digits")
    plane.clock.now += 1
    await plane.secrets.put("digits", "TOKEN", "x")
    with pytest.raises(Conflict):
        await other.deployer.delete("digits")
    assert await plane.secrets.names("digits") == ["TOKEN"]
    await polled(other)
    await other.deployer._claims.wait_free("digits")  # logs are deleted in a thread
    await other.deployer.delete("digits")


async def test_one_project_that_cannot_be_read_keeps_no_other_waiting(
    plane: Plane, other: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plane.deployed(project="a")
    await plane.deployed(project="b")
    broken = plane.store._projects["a"]
    plane.store._projects["a"] = None  # type: ignore[assignment]  # a record that is damaged

    async def damaged(name: str) -> object:
        if name == "a":
            raise StoreUnavailable("the store holds a project that cannot be read")
        return plane.store._projects[name].project

    monkeypatch.setattr(plane.store, "get_project", damaged)
    for _ in range(2):
        await polled(other)
    assert other.serving.routes == {"b": 1}
    plane.store._projects["a"] = broken
    monkeypatch.undo()
    await polled(other)
    assert other.serving.routes == {"a": 1, "b": 1}


async def test_a_route_that_changes_while_it_is_read_is_read_again_and_its_project_stays(
    plane: Plane, other: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plane.deployed()
    await polled(other)
    get_version, asked = plane.store.get_version, 0

    async def gone_once(project: str, number: int) -> Version:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise NotFound("deleted between the reads of the route and of its version")
        return await get_version(project, number)

    await plane.deployed(latency_slo_s=1.0)
    monkeypatch.setattr(plane.store, "get_version", gone_once)
    await polled(other)
    assert "digits" in other.serving.routes
    await until(lambda: other.serving.routes == {"digits": 2})
    assert asked > 1


async def test_a_change_that_is_read_before_anything_follows_is_reported_again(plane: Plane) -> None:
    registry = Registry(plane.store, plane.clock, home="early")
    await registry.load()
    await plane.deployed()
    await registry.watch.poll()
    changed: list[str] = []
    registry.on_foreign_change(changed.append)
    await registry.watch.poll()
    await registry.watch.poll()
    assert changed == ["digits"]


# Who builds a version


async def test_a_version_whose_builder_is_gone_is_marked_failed_when_its_lease_ends(plane: Plane, other: Plane) -> None:
    plane.gates.hold("start classify")
    plane.deployer.submit("digits", manifest())
    await plane.gates.reached("start classify")
    await polled(other)
    for _ in range(10):  # longer than a lease, which the builder renews
        plane.clock.now += 4
        await plane.registry.watch.poll()
        await polled(other)
    assert (await plane.store.get_version("digits", 1)).state == "building"
    plane.clock.now += LEASE_S - 1
    await polled(other)
    assert (await plane.store.get_version("digits", 1)).state == "building"
    plane.clock.now += 1
    await polled(other)
    stored = await plane.store.get_version("digits", 1)
    assert (stored.state, stored.detail) == ("failed", INTERRUPTED)
    plane.gates.open("start classify")


async def test_a_deploy_whose_version_was_given_up_by_another_platform_fails(plane: Plane, other: Plane) -> None:
    plane.gates.hold("start classify")
    deployment = plane.deployer.submit("digits", manifest())
    await plane.gates.reached("start classify")
    await polled(other)
    plane.clock.now += LEASE_S + 1  # it hung, or did not reach the store
    await polled(other)
    plane.gates.open("start classify")
    await deployment.wait()
    assert (deployment.state, deployment.error.code if deployment.error else "") == ("failed", "conflict")
    assert plane.serving.versions("digits") == set()
    assert (await plane.store.get_version("digits", 1)).detail == INTERRUPTED


async def test_a_version_that_was_added_although_the_answer_was_lost_is_marked_failed(plane: Plane) -> None:
    plane.store.lose_answers = ["add_version"]
    deployment = plane.deployer.submit("digits", manifest())
    await deployment.wait()
    assert deployment.state == "failed"
    await polled(plane)
    await polled(plane)
    assert (await plane.store.get_version("digits", 1)).state == "failed"
    assert await plane.deployed() == 2


# Keys and policies


async def test_a_key_that_another_platform_revokes_is_refused_at_the_next_poll(plane: Plane, other: Plane) -> None:
    await plane.keyring.create("root", ("admin",))
    key, secret = await plane.keyring.create("ci", ("invoke",))
    assert other.keyring.find(secret) is None
    await polled(other)
    assert other.keyring.find(secret) == key
    await plane.keyring.revoke(key.id)
    await polled(other)
    assert other.keyring.find(secret) is None


async def test_of_two_admin_keys_two_platforms_do_not_revoke_both(plane: Plane, other: Plane) -> None:
    first, _ = await plane.keyring.create("a", ("admin",))
    second, _ = await plane.keyring.create("b", ("admin",))
    await polled(other)
    await plane.keyring.revoke(first.id)
    with pytest.raises(Conflict, match="last key"):
        await other.keyring.revoke(second.id)


async def policies_of(plane: Plane) -> tuple[Policies, list[tuple[str, str]]]:
    policies = Policies(plane.registry, plane.store, plane.clock)
    await policies.load()
    changed: list[tuple[str, str]] = []
    policies.on_change(lambda project, function: changed.append((project, function)))
    return policies, changed


async def test_a_policy_that_another_platform_applies_or_withdraws_counts_at_the_next_poll(
    plane: Plane, other: Plane
) -> None:
    await plane.deployed()
    await polled(other)
    ours, _ = await policies_of(plane)
    theirs, changed = await policies_of(other)
    await ours.apply("digits", "classify", {"min_replicas": 3})
    with pytest.raises(Conflict, match="the policy of 'digits/classify' was changed"):
        await theirs.apply("digits", "classify", {"min_replicas": 5})
    await polled(other)
    assert theirs.effective("digits", "classify").policy.min_replicas == 3
    await theirs.apply("digits", "classify", {"min_replicas": 4})
    await polled(plane)
    assert ours.effective("digits", "classify").policy.min_replicas == 4
    await ours.withdraw("digits", "classify")
    await polled(other)
    assert theirs.effective("digits", "classify").applied is None
    assert changed == [("digits", "classify")] * 3


async def test_a_platform_that_is_behind_does_not_end_a_policy_of_the_version_that_it_has_yet_to_follow(
    plane: Plane, other: Plane
) -> None:
    await plane.deployed()
    await polled(other)
    ours, _ = await policies_of(plane)
    theirs, _ = await policies_of(other)
    other.gates.hold("start classify")
    await plane.deployed(max_replicas=5)
    await ours.apply("digits", "classify", {"min_replicas": 3})
    await polled(other)
    assert theirs.effective("digits", "classify").policy.min_replicas == 0
    assert await theirs.sweep() == []
    other.gates.open("start classify")
    await until(lambda: other.serving.routes == {"digits": 2})
    assert theirs.effective("digits", "classify").policy.min_replicas == 3
    assert await theirs.sweep() == []
    assert len(await plane.store.list_policies()) == 1


async def test_following_starts_with_the_replicas_that_the_version_before_has(plane: Plane, other: Plane) -> None:
    await plane.deployed(min_replicas=2)
    await polled(other)
    assert other.serving.replicas[FunctionId("digits", "classify", 1)] == 2


# Data of a Clipper without builders


async def test_a_version_that_an_earlier_clipper_left_building_is_marked_failed(plane: Plane) -> None:
    plane.gates.hold("start classify")
    plane.deployer.submit("digits", manifest())
    await plane.gates.reached("start classify")
    stored = plane.store._projects["digits"].versions
    stored[1] = msgspec.structs.replace(stored[1], builder="")
    other = plane.beside()
    await other.registry.load()
    assert (await plane.store.get_version("digits", 1)).state == "failed"
    plane.gates.open("start classify")


async def test_what_runs_under_a_number_that_the_store_gave_out_again_is_ended(plane: Plane, other: Plane) -> None:
    """Callers that pin the number would meet the code that had it before the store lost its data."""
    await plane.deployed()
    await plane.deployed(latency_slo_s=1.0)
    await polled(other)
    current = other.serving.running[FunctionId("digits", "classify", 2)]
    pinned = FunctionId("digits", "classify", 1)
    other.serving.running[pinned] = replace(current, id=pinned, identity="that of before")
    await plane.deployed(latency_slo_s=2.0)
    await polled(other)
    assert "stop digits@1" in other.serving.history
    same = (await plane.store.get_version("digits", 1)).identity
    other.serving.running[pinned] = replace(current, id=pinned, identity=same)
    await plane.deployed(latency_slo_s=3.0)
    await polled(other)
    assert pinned in other.serving.running
