"""The way of a deploy: under failures at each phase, under cancellation at each await."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from clipper_platform.errors import (
    Conflict,
    DeployFailed,
    InvalidSpec,
    NotFound,
    StoreUnavailable,
    Unavailable,
)
from clipper_platform.types import FunctionId
from tests.support.waiting import until
from tests.unit.control.doubles import BUNDLE, Plane, manifest, replica_failure

pytestmark = pytest.mark.virtual_time

OTHER = "sha256:" + "b" * 64

# Every place where a deploy waits for someone else.
BEFORE_THE_FLIP = ["unpack", "build", "add_version", "start classify", "update_version"]


async def finished(plane: Plane, **kwargs: Any) -> Any:
    body = manifest(**kwargs)
    deployment = plane.deployer.submit(body["project"], body)
    await deployment.wait()
    return deployment


def kinds(deployment: Any) -> list[str]:
    return [f"{e.kind}:{e.phase}" if e.phase else e.kind for e in deployment.events()]


async def test_a_deploy_ends_with_the_route_on_the_new_version_and_its_schema(plane: Plane) -> None:
    deployment = await finished(plane)
    assert (deployment.state, deployment.version, deployment.previous, deployment.error) == ("succeeded", 1, None, None)
    assert deployment.schemas == {"classify": {"title": "classify"}}
    assert plane.serving.routes == {"digits": 1}
    stored = await plane.store.get_version("digits", 1)
    assert (stored.state, stored.schemas) == ("ready", {"classify": {"title": "classify"}})
    route = await plane.store.get_route("digits")
    assert route is not None
    assert (route.version, route.previous) == (1, None)


async def test_the_events_tell_each_phase_with_its_lines_and_end_with_done(plane: Plane) -> None:
    plane.environments.lines = ["Resolved 3 packages"]
    plane.serving.log = plane.logs.append
    deployment = await finished(plane)
    assert kinds(deployment) == [
        "phase:environment",
        "log:environment",
        "phase_done:environment",
        "phase:replicas",
        "log:replicas",
        "progress:replicas",
        "phase_done:replicas",
        "phase:route",
        "phase_done:route",
        "done",
    ]
    by_kind = {f"{e.kind}:{e.phase}": e for e in deployment.events()}
    assert by_kind["phase_done:environment"].data == {"seconds": 0.0, "reused": False}
    assert by_kind["log:replicas"].message == "loading"
    assert by_kind["log:replicas"].data == {"function": "classify"}
    assert by_kind["progress:replicas"].data == {"ready": 1, "wanted": 1, "function": "classify"}


async def test_an_environment_that_was_there_is_reported_as_reused(plane: Plane) -> None:
    deployment = await finished(plane)
    done = next(e for e in deployment.events() if e.kind == "phase_done" and e.phase == "environment")
    assert done.data["reused"] is True


async def test_the_second_version_takes_over_and_the_first_drains(plane: Plane) -> None:
    await plane.deployed()
    deployment = await finished(plane, latency_slo_s=1.0)
    await plane.settle()
    assert (deployment.version, deployment.previous) == (2, 1)
    assert plane.serving.routes == {"digits": 2}
    assert plane.serving.versions("digits") == {2}
    assert plane.serving.history.index("route digits@2") < plane.serving.history.index("stop digits@1")


async def test_the_same_manifest_again_deploys_nothing(plane: Plane) -> None:
    await plane.deployed()
    deployment = await finished(plane)
    assert (deployment.state, deployment.version) == ("unchanged", 1)
    assert kinds(deployment) == ["done"]
    assert [v.number for v in await plane.store.list_versions("digits")] == [1]


async def test_force_deploys_the_same_manifest_again(plane: Plane) -> None:
    await plane.deployed()
    deployment = plane.deployer.submit("digits", {**manifest(), "force": True})
    await deployment.wait()
    assert (deployment.state, deployment.version) == ("succeeded", 2)


async def test_the_same_manifest_is_deployed_again_when_its_version_gave_up(plane: Plane) -> None:
    await plane.deployed()
    plane.serving.states[FunctionId("digits", "classify", 1)] = "failed"
    deployment = await finished(plane)
    assert (deployment.state, deployment.version) == ("succeeded", 2)


async def test_all_functions_start_at_the_same_time(plane: Plane) -> None:
    plane.gates.hold("start a")
    plane.gates.hold("start b")
    body = manifest(functions=("a", "b"))
    deployment = plane.deployer.submit("digits", body)
    await plane.gates.reached("start a")
    await plane.gates.reached("start b")
    plane.gates.open("start a")
    plane.gates.open("start b")
    await deployment.wait()
    assert set(deployment.schemas) == {"a", "b"}


@pytest.mark.parametrize(("options", "wanted"), [({}, 1), ({"min_replicas": 3}, 3), ({"max_replicas": 1}, 1)])
async def test_a_version_starts_with_its_minimum_of_replicas_at_least_one(
    plane: Plane, options: dict[str, int], wanted: int
) -> None:
    await plane.deployed(**options)
    assert plane.serving.replicas == {FunctionId("digits", "classify", 1): wanted}


# Refusals


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"bundle": "nonsense"}, "bundle"),
        ({"functions": []}, "functions"),
        ({"force": "yes"}, "force"),
        ({"colour": 1}, "colour"),
        ({"project": "other"}, "project"),
        ({"environment": {"pyton": "3.11"}}, "pyton"),
    ],
)
async def test_a_manifest_that_does_not_fit_is_refused_by_key(plane: Plane, change: dict[str, Any], key: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        plane.deployer.submit("digits", {**manifest(), **change})
    assert refused.value.details["key"] == key


async def test_a_project_name_that_is_not_one_is_refused(plane: Plane) -> None:
    with pytest.raises(InvalidSpec):
        plane.deployer.submit("../etc", {**manifest(), "project": "../etc"})


async def test_a_bundle_that_was_not_uploaded_is_refused_with_what_to_do(plane: Plane) -> None:
    with pytest.raises(Conflict, match="upload it with PUT"):
        plane.deployer.submit("digits", manifest(bundle=OTHER))


async def test_a_second_deploy_of_the_project_is_refused_while_one_runs_but_others_are_not(plane: Plane) -> None:
    plane.gates.hold("build")
    first = plane.deployer.submit("digits", manifest())
    with pytest.raises(Conflict, match="a deploy of 'digits' is running"):
        plane.deployer.submit("digits", manifest())
    other = plane.deployer.submit("letters", manifest("letters"))
    plane.gates.open("build")
    await first.wait()
    await other.wait()
    assert (first.state, other.state) == ("succeeded", "succeeded")


async def test_the_next_deploy_may_begin_as_soon_as_done_was_emitted(plane: Plane) -> None:
    plane.serving.broken["classify"] = replica_failure()
    deployment = plane.deployer.submit("digits", manifest())
    async for event in deployment.follow():
        if event.kind == "done":
            plane.serving.broken.clear()
            again = plane.deployer.submit("digits", manifest())
    await again.wait()
    assert again.state == "succeeded"


async def test_a_deploy_is_refused_while_the_store_is_known_to_be_away(plane: Plane) -> None:
    plane.store.outage = "gone"
    await plane.registry.watch.poll()
    with pytest.raises(StoreUnavailable):
        plane.deployer.submit("digits", manifest())


# Failures: before the flip nothing changes for callers


async def untouched(plane: Plane) -> None:
    """Version 1 answers as before, and nothing else runs."""
    await plane.settle()
    assert plane.serving.routes == {"digits": 1}
    assert plane.serving.versions("digits") == {1}
    current = plane.registry.current("digits")
    assert current is not None
    assert current.route.version == 1


async def test_a_failed_build_brings_the_builders_explanation(plane: Plane) -> None:
    await plane.deployed()
    plane.environments.broken = DeployFailed("no such package", phase="environment", log=["× nopkg"], hint="check it")
    deployment = await finished(plane, latency_slo_s=1.0)
    assert deployment.state == "failed"
    assert (deployment.version, deployment.error.phase, deployment.error.log, deployment.error.hint) == (
        None,
        "environment",
        ["× nopkg"],
        "check it",
    )
    assert deployment.error.code == "deploy_failed"
    await untouched(plane)


async def test_a_lost_bundle_fails_the_deploy_with_what_to_do(plane: Plane) -> None:
    plane.artifacts.broken = NotFound("the archive is gone")
    deployment = await finished(plane)
    assert (deployment.state, deployment.error.phase) == ("failed", "bundle")
    assert "uploads it anew" in deployment.error.hint


async def test_a_replica_that_does_not_start_leaves_the_old_route_and_marks_the_version(plane: Plane) -> None:
    await plane.deployed()
    plane.serving.broken["classify"] = replica_failure()
    deployment = await finished(plane, latency_slo_s=1.0)
    assert (deployment.state, deployment.version) == ("failed", 2)
    assert (deployment.error.phase, deployment.error.exception) == ("setup", "ValueError: no model")
    assert deployment.error.log == ["loading", "Traceback…"]
    stored = await plane.store.get_version("digits", 2)
    assert stored.state == "failed"
    assert "no model" in stored.detail
    await untouched(plane)


async def test_functions_that_were_quicker_than_the_one_that_failed_are_stopped(plane: Plane) -> None:
    plane.gates.hold("start b")
    plane.serving.broken["b"] = replica_failure("b")
    deployment = plane.deployer.submit("digits", manifest(functions=("a", "b")))
    await plane.gates.reached("start b")
    await plane.settle()
    assert plane.serving.versions("digits") == {1}
    plane.gates.open("start b")
    await deployment.wait()
    assert deployment.state == "failed"
    assert plane.serving.versions("digits") == set()


async def test_functions_that_are_slower_than_the_one_that_failed_are_cancelled(plane: Plane) -> None:
    plane.gates.hold("start a")
    plane.serving.broken["b"] = replica_failure("b")
    deployment = await finished(plane, functions=("a", "b"))
    assert (deployment.state, deployment.error.exception) == ("failed", "ValueError: no model")
    assert not plane.serving.starting


async def test_a_defect_of_the_platform_is_logged_and_not_shown(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    plane.serving.broken["classify"] = RuntimeError("secret detail")
    deployment = await finished(plane)
    assert (deployment.state, deployment.error.code) == ("failed", "internal_error")
    assert "secret detail" not in deployment.error.message
    assert "secret detail" in caplog.text


@pytest.mark.parametrize("method", ["add_version", "update_version", "set_route"])
async def test_losing_the_store_at_a_write_fails_the_deploy_and_leaves_the_old_route(plane: Plane, method: str) -> None:
    await plane.deployed()
    plane.store.lose_answer_of = {method}
    deployment = await finished(plane, latency_slo_s=1.0)
    assert (deployment.state, deployment.error.code) == ("failed", "store_unavailable")
    await untouched(plane)


async def test_a_write_whose_answer_is_lost_once_is_repeated_and_the_deploy_goes_on(plane: Plane) -> None:
    await plane.deployed()
    plane.store.lose_answers = ["update_version", "set_route"]
    assert await plane.deployed(latency_slo_s=1.0) == 2
    assert plane.store.lose_answers == []
    route = await plane.store.get_route("digits")
    assert route is not None
    assert (route.version, route.previous, route.revision) == (2, 1, 2)


async def test_a_route_whose_write_arrived_although_its_answer_was_lost_is_followed_when_the_store_is_back(
    plane: Plane,
) -> None:
    await plane.deployed()
    plane.store.lose_answer_of = {"set_route"}
    deployment = await finished(plane, latency_slo_s=1.0)
    assert (deployment.state, deployment.error.code) == ("failed", "store_unavailable")
    assert "whether version 2 of 'digits' answers will be known" in deployment.error.message
    await untouched(plane)
    plane.store.outage, plane.store.lose_answer_of = "", set()
    await plane.registry.watch.poll()
    await plane.settle()
    assert (plane.serving.routes, plane.serving.versions("digits")) == ({"digits": 2}, {2})
    assert (await plane.store.get_version("digits", 2)).state == "ready"
    await plane.events.flush()
    assert "version 2 answers: the stored route leads to it" in [
        e.message for e in await plane.registry.events("digits")
    ]
    assert await plane.deployed(latency_slo_s=2.0) == 3


async def test_a_route_that_did_not_arrive_before_the_store_went_away_stays_as_it_was(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plane.deployed()

    async def away(route: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(plane.store, "set_route", away)
    assert (await finished(plane, latency_slo_s=1.0)).state == "failed"
    monkeypatch.undo()
    await plane.registry.watch.poll()
    await untouched(plane)
    assert await plane.deployed(latency_slo_s=1.0) == 3


async def test_after_a_write_of_unknown_outcome_the_route_that_another_platform_wrote_counts(plane: Plane) -> None:
    await plane.deployed()
    await plane.deployed(latency_slo_s=1.0)
    await plane.settle()
    plane.store.lose_answer_of = {"set_route"}
    assert (await finished(plane, latency_slo_s=2.0)).state == "failed"
    plane.store.outage, plane.store.lose_answer_of = "", set()
    stored = await plane.store.get_route("digits")
    assert stored is not None
    assert stored.version == 3
    theirs = await plane.store.set_route(msgspec.structs.replace(stored, version=1, previous=3))
    await plane.registry.watch.poll()
    await plane.settle()
    assert await plane.store.get_route("digits") == theirs
    assert (plane.serving.routes, plane.serving.versions("digits")) == ({"digits": 1}, {1})


async def test_a_route_that_someone_else_moved_is_a_conflict_once_and_works_then(plane: Plane) -> None:
    await plane.deployed()
    route = await plane.store.get_route("digits")
    assert route is not None
    await plane.store.set_route(route)
    deployment = await finished(plane, latency_slo_s=1.0)
    assert (deployment.state, deployment.error.code) == ("failed", "conflict")
    await untouched(plane)
    assert await plane.deployed(latency_slo_s=1.0) == 3


# Cancellation


@pytest.mark.parametrize("gate", BEFORE_THE_FLIP)
async def test_cancelled_at_any_await_before_the_flip_nothing_changes(plane: Plane, gate: str) -> None:
    await plane.deployed()
    plane.gates.hold(gate)
    deployment = plane.deployer.submit("digits", manifest(latency_slo_s=1.0))
    await plane.gates.reached(gate)
    cancelling = asyncio.create_task(plane.deployer.cancel(deployment.id))
    await plane.settle()
    plane.gates.open(gate)
    assert await cancelling is deployment
    assert (deployment.state, deployment.error) == ("cancelled", None)
    assert deployment.events()[-1].kind == "done"
    await untouched(plane)
    for version in await plane.store.list_versions("digits"):
        if version.number != 1:
            assert (version.state, version.detail) == ("failed", "cancelled")
    assert await plane.deployed(latency_slo_s=2.0) > 1


async def test_cancelled_before_its_first_step_it_still_ends(plane: Plane) -> None:
    deployment = plane.deployer.submit("digits", manifest())
    await plane.deployer.cancel(deployment.id)
    assert deployment.state == "cancelled"
    assert await plane.deployed() == 1


async def test_a_cancel_while_the_route_flips_comes_too_late(plane: Plane) -> None:
    plane.gates.hold("set_route")
    deployment = plane.deployer.submit("digits", manifest())
    await plane.gates.reached("set_route")
    cancelling = asyncio.create_task(plane.deployer.cancel(deployment.id))
    await plane.settle()
    plane.gates.open("set_route")
    await cancelling
    assert deployment.state == "succeeded"
    assert plane.serving.routes == {"digits": 1}


async def test_cancelling_what_is_over_changes_nothing(plane: Plane) -> None:
    deployment = await finished(plane)
    assert (await plane.deployer.cancel(deployment.id)).state == "succeeded"
    with pytest.raises(NotFound):
        await plane.deployer.cancel("dep_unknown")


@pytest.mark.parametrize("gate", BEFORE_THE_FLIP)
async def test_a_shutdown_cancels_running_deploys(plane: Plane, gate: str) -> None:
    plane.gates.hold(gate)
    deployment = plane.deployer.submit("digits", manifest())
    await plane.gates.reached(gate)
    closing = asyncio.create_task(plane.deployer.close())
    await plane.settle()
    plane.gates.open(gate)
    await closing
    assert deployment.state == "cancelled"
    assert plane.serving.versions("digits") == set()
    with pytest.raises(Unavailable):
        plane.deployer.submit("digits", manifest())


async def test_a_shutdown_lets_a_flip_end(plane: Plane) -> None:
    plane.gates.hold("set_route")
    deployment = plane.deployer.submit("digits", manifest())
    await plane.gates.reached("set_route")
    closing = asyncio.create_task(plane.deployer.close())
    await plane.settle()
    plane.gates.open("set_route")
    await closing
    assert deployment.state == "succeeded"


# Events and history


async def test_any_number_of_readers_follow_a_deploy_from_any_point(plane: Plane) -> None:
    plane.gates.hold("build")
    deployment = plane.deployer.submit("digits", manifest())

    async def read(after: int) -> list[int]:
        return [event.seq async for event in deployment.follow(after)]

    readers = [asyncio.create_task(read(after)) for after in (0, 0, 1)]
    await plane.gates.reached("build")
    readers[1].cancel()
    plane.gates.open("build")
    whole, _, rest = await asyncio.gather(*readers, return_exceptions=True)
    seqs = [event.seq for event in deployment.events()]
    assert whole == seqs
    assert rest == seqs[1:]
    assert [event.seq async for event in deployment.follow(seqs[-1])] == []


async def test_a_very_long_build_log_keeps_its_newest_lines_and_says_so(plane: Plane) -> None:
    plane.environments.lines = [f"line {i}" for i in range(6000)]
    deployment = await finished(plane)
    events = deployment.events()
    assert "earlier lines are not kept" in events[0].message
    assert len(events) <= 5001
    assert events[-1].kind == "done"


async def test_the_oldest_finished_deployments_are_forgotten(plane: Plane) -> None:
    first = await finished(plane)
    for _ in range(100):
        await finished(plane)  # unchanged
    with pytest.raises(NotFound):
        plane.deployer.get(first.id)


async def test_deploys_leave_events_for_people(plane: Plane) -> None:
    await plane.deployed()
    plane.serving.broken["classify"] = replica_failure()
    await finished(plane, latency_slo_s=1.0)
    assert await plane.events.flush()
    events = [(e.kind, e.version) for e in await plane.registry.events("digits")]
    assert events == [("deploy", 1), ("deploy_failed", 2)]


# Rollback


async def test_rollback_returns_to_the_previous_version_and_back_again(plane: Plane) -> None:
    await plane.deployed()
    await plane.deployed(latency_slo_s=1.0)
    await plane.settle()
    back = await plane.deployer.rollback("digits")
    assert (back.route.version, back.route.previous) == (1, 2)
    await plane.settle()
    assert (plane.serving.routes, plane.serving.versions("digits")) == ({"digits": 1}, {1})
    assert (await plane.deployer.rollback("digits")).route.version == 2


async def test_rollback_waits_for_the_drain_of_the_version_it_returns_to(plane: Plane) -> None:
    await plane.deployed()
    plane.gates.hold("stop")
    await plane.deployed(latency_slo_s=1.0)
    await plane.gates.reached("stop")
    rolling = asyncio.create_task(plane.deployer.rollback("digits", 1))
    await plane.settle()
    assert not rolling.done()
    plane.gates.open("stop")
    assert (await rolling).route.version == 1
    assert plane.serving.routes == {"digits": 1}
    assert plane.serving.history.count("stop digits@1") == 1


async def test_rollback_names_what_stands_in_its_way(plane: Plane) -> None:
    with pytest.raises(NotFound):
        await plane.deployer.rollback("digits")
    await plane.deployed()
    with pytest.raises(Conflict, match="no previous version"):
        await plane.deployer.rollback("digits")
    with pytest.raises(Conflict, match="answers already"):
        await plane.deployer.rollback("digits", 1)
    with pytest.raises(NotFound):
        await plane.deployer.rollback("digits", 7)
    plane.serving.broken["classify"] = replica_failure()
    await finished(plane, latency_slo_s=1.0)
    with pytest.raises(Conflict, match="never became ready"):
        await plane.deployer.rollback("digits", 2)


async def test_a_rollback_whose_replicas_do_not_start_leaves_the_route(plane: Plane) -> None:
    await plane.deployed()
    await plane.deployed(latency_slo_s=1.0)
    await plane.settle()
    plane.serving.broken["classify"] = replica_failure()
    with pytest.raises(DeployFailed, match="no model"):
        await plane.deployer.rollback("digits")
    assert (plane.serving.routes, plane.serving.versions("digits")) == ({"digits": 2}, {2})
    plane.serving.broken.clear()
    assert (await plane.deployer.rollback("digits")).route.version == 1


async def test_a_rollback_goes_on_when_its_caller_goes_away(plane: Plane) -> None:
    await plane.deployed()
    await plane.deployed(latency_slo_s=1.0)
    await plane.settle()
    plane.gates.hold("start classify")
    caller = asyncio.create_task(plane.deployer.rollback("digits"))
    await plane.gates.reached("start classify")
    caller.cancel()
    with pytest.raises(Conflict, match="a rollback of 'digits' is running"):
        plane.deployer.submit("digits", manifest(latency_slo_s=3.0))
    plane.gates.open("start classify")
    await plane.settle()
    assert plane.serving.routes == {"digits": 1}


async def test_a_rollback_that_loses_the_store_at_the_flip_leaves_the_route_until_what_is_stored_is_known(
    plane: Plane,
) -> None:
    await plane.deployed()
    await plane.deployed(latency_slo_s=1.0)
    await plane.settle()
    plane.store.lose_answer_of = {"set_route"}
    with pytest.raises(StoreUnavailable):
        await plane.deployer.rollback("digits")
    assert (plane.serving.routes, plane.serving.versions("digits")) == ({"digits": 2}, {2})
    plane.store.outage, plane.store.lose_answer_of = "", set()
    await plane.registry.watch.poll()
    await plane.settle()
    assert (plane.serving.routes, plane.serving.versions("digits")) == ({"digits": 1}, {1})


# Delete


async def test_delete_drains_and_forgets_everything(plane: Plane) -> None:
    await plane.deployed()
    plane.logs.system(FunctionId("digits", "classify", 1), "hello")
    await plane.logs.flush()
    await plane.deployer.delete("digits")
    await plane.settle()
    assert (plane.serving.routes, plane.serving.versions("digits")) == ({}, set())
    assert await plane.store.list_projects() == []
    assert not (plane.root / "logs" / "digits").exists()
    assert (
        BUNDLE
        not in plane.registry.references.bundles() | plane.deployer.deployments.bundles() | plane.serving.bundles()
    )
    with pytest.raises(NotFound):
        await plane.deployer.delete("digits")


async def test_a_delete_with_force_cuts_short_what_runs_and_a_delete_that_waits(plane: Plane) -> None:
    await plane.deployed()
    await plane.deployer.delete("digits", force=True)
    assert "stop digits@1 within 0 s" in plane.serving.history
    await plane.deployed()
    plane.gates.hold("stop")
    waiting = asyncio.create_task(plane.deployer.delete("digits"))
    await plane.settle()
    with pytest.raises(NotFound):
        await plane.deployer.delete("digits")
    hurried = asyncio.create_task(plane.deployer.delete("digits", force=True))
    await plane.settle()
    assert "cut digits" in plane.serving.history
    plane.gates.open("stop")
    await asyncio.gather(waiting, hurried)


async def test_a_deleted_projects_next_version_has_a_new_number(plane: Plane) -> None:
    await plane.deployed()
    await plane.deployer.delete("digits")
    assert await plane.deployed() == 2


async def test_a_bundle_that_another_project_refers_to_survives_a_delete(plane: Plane) -> None:
    await plane.deployed()
    await plane.deployed(project="letters")
    await plane.deployer.delete("digits")
    assert BUNDLE in plane.registry.references.bundles()


async def test_a_delete_is_refused_while_a_deploy_runs_and_when_the_store_is_away(plane: Plane) -> None:
    await plane.deployed()
    plane.gates.hold("build")
    deployment = plane.deployer.submit("digits", manifest(latency_slo_s=1.0))
    with pytest.raises(Conflict):
        await plane.deployer.delete("digits")
    plane.gates.open("build")
    await deployment.wait()
    plane.store.outage = "gone"
    with pytest.raises(StoreUnavailable):
        await plane.deployer.delete("digits")
    assert plane.serving.routes == {"digits": 2}


# Restart


async def test_a_restart_brings_back_every_route(plane: Plane) -> None:
    await plane.deployed()
    await plane.deployed(project="letters")
    again = plane.restarted()
    await again.registry.load()
    await again.deployer.restore()
    assert again.serving.routes == {"digits": 1, "letters": 1}
    await again.deployer.close()


async def test_a_project_that_cannot_be_brought_back_blocks_no_other_and_is_tried_again(plane: Plane) -> None:
    await plane.deployed()
    await plane.deployed(project="letters", functions=("read",))
    again = plane.restarted()
    await again.registry.load()
    again.serving.broken["classify"] = replica_failure()
    await again.deployer.restore(wait_s=0.05)
    assert again.serving.routes == {"letters": 1}
    assert "no model" in again.deployer.trouble("digits")
    again.serving.broken.clear()
    await until(lambda: "digits" in again.serving.routes)
    assert again.deployer.trouble("digits") == ""
    await again.deployer.close()


@pytest.mark.parametrize(("many", "replicas"), [(False, [1, 2]), (True, [0, 2])])
async def test_where_there_are_many_functions_a_restart_starts_what_their_policies_ask_for_at_rest(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, many: bool, replicas: list[int]
) -> None:
    await plane.deployed(downscale_to_zero_delay_s=77.0)
    await plane.deployed(project="letters", min_replicas=2)
    if many:
        monkeypatch.setattr("clipper_platform.control.versions.restore.MOST_AWAKE", 1)
    again = plane.restarted()
    await again.registry.load()
    await again.deployer.restore()
    assert again.serving.routes == {"digits": 1, "letters": 1}
    ids = [FunctionId("digits", "classify", 1), FunctionId("letters", "classify", 1)]
    assert [again.serving.replicas[id] for id in ids] == replicas
    assert again.serving.idle_s[ids[0]] == (77.0 if many else 0.0)
    await again.deployer.close()


async def test_what_a_version_published_is_known_after_a_restart(plane: Plane) -> None:
    await plane.deployed()
    again = plane.restarted()
    await again.registry.load()
    await again.deployer.restore()
    assert again.serving.schemas[FunctionId("digits", "classify", 1)] == {"title": "classify"}
    await again.deployer.close()


async def test_a_deploy_takes_over_from_a_restore_that_still_tries(plane: Plane) -> None:
    await plane.deployed()
    again = plane.restarted()
    await again.registry.load()
    again.gates.hold("unpack")
    restoring = asyncio.create_task(again.deployer.restore(wait_s=5))
    await again.gates.reached("unpack")
    del again.gates.closed["unpack"]
    deployment = again.deployer.submit("digits", manifest(latency_slo_s=1.0))
    await deployment.wait()
    assert deployment.state == "succeeded"
    async with asyncio.timeout(5):
        await restoring
    await again.settle()
    assert (again.serving.routes, again.serving.versions("digits")) == ({"digits": 2}, {2})
    await again.deployer.close()


async def test_a_platform_that_starts_beside_another_leaves_the_version_that_the_other_deploys(plane: Plane) -> None:
    await plane.deployed()
    plane.gates.hold("start classify")
    deployment = plane.deployer.submit("digits", manifest(latency_slo_s=1.0))
    await plane.gates.reached("start classify")
    other = plane.beside()
    await other.registry.load()
    plane.gates.open("start classify")
    await deployment.wait()
    assert deployment.state == "succeeded"
    assert (await plane.store.get_version("digits", 2)).state == "ready"


async def test_a_restart_in_the_middle_of_a_deploy_marks_its_version_failed(plane: Plane) -> None:
    await plane.deployed()
    plane.gates.hold("start classify")
    plane.deployer.submit("digits", manifest(latency_slo_s=1.0))
    await plane.gates.reached("start classify")
    again = plane.restarted()
    await again.registry.load()
    stored = await again.store.get_version("digits", 2)
    assert stored.state == "failed"
    assert "while this version was being deployed" in stored.detail
    await again.deployer.restore()
    assert again.serving.routes == {"digits": 1}
    await again.deployer.close()
