"""A store that loses its data under a running platform gets back what the platform knows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable

import msgspec
import pytest

from clipper.contract.applications import ApplicationSpec
from clipper_platform.applications.catalog import Catalog
from clipper_platform.control.function_schemas import FunctionSchemas
from clipper_platform.control.recovery import MAX_AWAY_S, NOTICE_S, Recovery
from clipper_platform.control.scaling.policies import Policies
from clipper_platform.errors import StoreUnavailable
from clipper_platform.store.base import Project, Record, Route
from clipper_platform.types import FunctionId
from tests.unit.control.doubles import Plane

OTHER_BUNDLE = "sha256:" + "b" * 64


def recovering(plane: Plane, others: Callable[[], Iterable[Record]] = tuple) -> Policies:
    """Let the platform write back what it knows."""
    policies = Policies(plane.registry, plane.store, plane.clock)
    recovery = Recovery(
        plane.store,
        registry=plane.registry,
        keyring=plane.keyring,
        policies=policies,
        secrets=plane.secrets,
        events=plane.events,
        clock=plane.clock,
        others=others,
    )
    plane.registry.watch.on_loss(recovery.recover, recovery.notice, recovery.mend)
    return policies


async def test_applications_are_written_back_and_read_again(plane: Plane) -> None:
    catalog = Catalog(plane.store, FunctionSchemas(plane.registry), plane.clock, check_store=lambda: None)
    await plane.registry.load()
    await plane.keyring.load()
    recovering(plane, catalog.records)
    plane.registry.watch.on_poll(catalog.polled)
    created = await catalog.create(ApplicationSpec.parse("sums", {"input_type": "doubles", "default_output": 0}))
    plane.store.lose()
    await polled(plane)
    assert await plane.store.list_applications() == [created.record]
    assert catalog.get("sums") == created


@pytest.fixture
async def policies(plane: Plane) -> Policies:
    await plane.registry.load()
    await plane.keyring.load()
    return recovering(plane)


@pytest.fixture
async def other(plane: Plane, policies: Policies) -> AsyncIterator[Plane]:
    """A platform beside `plane`, started before anything was deployed."""
    other = plane.beside()
    await other.registry.load()
    recovering(other)
    yield other
    await other.deployer.close()
    await other.logs.close()


async def polled(plane: Plane) -> None:
    await plane.registry.watch.poll()
    await plane.settle()


async def test_projects_versions_routes_keys_and_policies_are_written_back(plane: Plane, policies: Policies) -> None:
    await plane.deployed()
    await plane.deployed(latency_slo_s=1.0)
    await plane.deployed(latency_slo_s=2.0)
    await policies.apply("digits", "classify", {"max_replicas": 3})
    _, secret = await plane.keyring.create("ci", ("deploy",))
    before = [
        await plane.store.list_projects(),
        await plane.store.list_routes(),
        (await plane.store.list_versions("digits"))[:2],
        await plane.store.list_keys(),
        await plane.store.list_policies(),
    ]
    await plane.events.flush()
    plane.store.lose()
    with pytest.raises(StoreUnavailable):
        await plane.registry.versions("digits")
    await polled(plane)
    assert before == [
        await plane.store.list_projects(),
        await plane.store.list_routes(),
        await plane.store.list_versions("digits"),
        await plane.store.list_keys(),
        await plane.store.list_policies(),
    ]
    plane.registry.watch.check()
    assert plane.keyring.find(secret) is not None
    assert plane.serving.routes == {"digits": 3}
    assert plane.serving.history.count("start digits/classify@3") == 1
    await plane.events.flush()
    assert "lost all of its data" in (await plane.registry.events("digits"))[0].message
    assert "of its versions there are 2, 3" in (await plane.registry.events("digits"))[0].message


async def test_the_next_deploy_gets_the_next_number_and_answers(plane: Plane, policies: Policies) -> None:
    await plane.deployed()
    await plane.deployed(latency_slo_s=1.0)
    plane.store.lose()
    await polled(plane)
    assert await plane.deployed(latency_slo_s=2.0) == 3
    await plane.settle()
    assert plane.serving.routes == {"digits": 3}
    assert plane.serving.running[FunctionId("digits", "classify", 3)].spec.latency_slo_s == 2.0


async def test_a_version_that_is_being_deployed_when_the_data_is_lost_takes_over(
    plane: Plane, policies: Policies
) -> None:
    await plane.deployed()
    plane.gates.hold("start classify")
    body = {**(await plane.store.get_version("digits", 1)).manifest, "force": True}
    deployment = plane.deployer.submit("digits", body)
    await plane.gates.reached("start classify")
    plane.store.lose()
    await polled(plane)
    plane.gates.open("start classify")
    await deployment.wait()
    assert (deployment.state, deployment.version) == ("succeeded", 2)
    stored = await plane.store.get_route("digits")
    assert stored is not None
    assert (stored.version, stored.previous) == (2, 1)


async def test_secrets_that_were_read_last_are_written_back_and_those_that_were_not_are_named_as_lost(
    plane: Plane, policies: Policies
) -> None:
    await plane.deployed()
    await plane.secrets.read("digits")  # for a launch
    await plane.secrets.put("digits", "TOKEN", "x")
    await plane.deployed(project="echo")
    plane.secrets.forget("echo")  # as at rest, since the platform started
    plane.store.lose()
    await polled(plane)
    assert await plane.store.get_secrets("digits") == {"TOKEN": "x"}
    await plane.events.flush()
    messages = {name: (await plane.registry.events(name))[-1].message for name in ("digits", "echo")}
    assert "the secrets TOKEN are those that were read last" in messages["digits"]
    assert "secrets that it had are lost: `clip secret set echo NAME`" in messages["echo"]
    assert "secrets may be" in plane.registry.watch.notice()
    plane.clock.now += NOTICE_S
    assert plane.registry.watch.notice() == ""


async def test_a_secret_that_another_platform_deleted_does_not_come_back_with_a_restart_of_the_server(
    plane: Plane, policies: Policies
) -> None:
    await plane.deployed()
    await plane.secrets.read("digits")  # for a launch
    await plane.secrets.put("digits", "TOKEN", "x")
    await plane.store.set_secret("digits", "TOKEN", None, expected="x")
    plane.store.run = "2"
    await polled(plane)
    assert await plane.store.get_secrets("digits") == {}
    assert plane.registry.watch.notice() == ""


async def test_what_the_newest_writes_were_is_written_back_and_what_others_wrote_since_stays(
    plane: Plane, policies: Policies
) -> None:
    await plane.deployed()
    before = await plane.store.get_route("digits")
    await plane.deployed(latency_slo_s=1.0)
    after = await plane.store.get_route("digits")
    # A replica that lags takes over: the second deploy is missing in it.
    stored = plane.store._projects["digits"]
    stored.route = before
    del stored.versions[2]
    plane.store.run = "2"
    await polled(plane)
    assert await plane.store.get_route("digits") == after
    assert (await plane.store.get_version("digits", 2)).state == "ready"
    assert plane.serving.routes == {"digits": 2}


async def test_a_version_of_another_platform_with_a_number_that_runs_takes_its_place(
    plane: Plane, policies: Policies
) -> None:
    await plane.deployed()
    mine = await plane.store.get_version("digits", 1)
    plane.store.lose()
    plane.store._lineage = ("other", "1")
    plane.store._known = "other"
    theirs = msgspec.structs.replace(mine, id="another", revision=1, state="ready")
    theirs.manifest["functions"][0]["latency_slo_s"] = 7.0
    for record in (Project(name="digits", created_at=5.0), theirs, Route(project="digits", version=1, revision=1)):
        await plane.store.put_back(record)
    await polled(plane)
    assert (await plane.store.get_version("digits", 1)).id == "another"
    assert plane.serving.running[FunctionId("digits", "classify", 1)].identity == "another"
    assert plane.serving.history.count("start digits/classify@1") == 2


async def test_a_platform_beside_the_one_that_wrote_back_adds_only_what_is_missing(plane: Plane, other: Plane) -> None:
    await plane.deployed()
    await other.deployed(project="echo")
    plane.store.lose()
    await polled(plane)
    await polled(other)
    assert [project.name for project in await plane.store.list_projects()] == ["digits", "echo"]
    await polled(plane)
    await plane.deployer.delete("echo")
    await polled(other)
    assert other.serving.routes == {"digits": 1}


async def test_a_platform_that_was_away_for_long_follows_what_others_made_of_the_data(
    plane: Plane, other: Plane
) -> None:
    await plane.deployed()
    await plane.deployed(project="echo")
    await polled(other)
    plane.store.lose()
    await polled(plane)
    await plane.deployer.delete("echo")
    other.clock.now += MAX_AWAY_S + 1
    await polled(other)
    assert [project.name for project in await plane.store.list_projects()] == ["digits"]
    assert other.serving.routes == {"digits": 1}


async def test_the_data_of_other_platforms_is_neither_changed_nor_followed(plane: Plane, policies: Policies) -> None:
    await plane.deployed()
    plane.store.lose()
    plane.store._lineage = ("foreign",)
    plane.store._known = "foreign"
    await plane.store.put_project(Project(name="theirs", created_at=1.0))
    plane.store._known = "1"
    await polled(plane)
    with pytest.raises(StoreUnavailable, match="holds the data of other platforms"):
        plane.registry.watch.check()
    assert plane.serving.routes == {"digits": 1}
    plane.store._known = "foreign"
    assert [project.name for project in await plane.store.list_projects()] == ["theirs"]


async def test_a_route_that_the_server_dropped_does_not_stop_the_next_deploy(plane: Plane, policies: Policies) -> None:
    """As a server does that evicts keys: nobody has looked since, so the deploy itself meets it."""
    await plane.deployed()
    before = await plane.store.get_route("digits")
    plane.store._projects["digits"].route = None
    await plane.deployed(min_replicas=1)
    after = await plane.store.get_route("digits")
    assert before is not None
    assert after is not None
    assert (after.version, after.previous, after.revision) == (2, 1, before.revision + 1)
