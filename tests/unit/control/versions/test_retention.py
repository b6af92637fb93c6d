"""Old versions are removed beyond `keep_versions`, with the bundles that only they referred to."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from clipper_platform.control.holding import Holding
from clipper_platform.errors import Conflict, NotFound, StoreUnavailable
from tests.unit.control.doubles import BUNDLE, Plane, manifest, replica_failure


def bundle(number: int) -> str:
    return f"sha256:{number:064x}"


async def deployed(plane: Plane, count: int, **options: Any) -> None:
    """`count` deploys, each of another bundle, a second apart."""
    for _ in range(count):
        plane.clock.now += 1
        name = bundle(plane.registry.references.newest("digits") + 1)
        plane.artifacts.known[name] = 10
        plane.artifacts.used_at[name] = plane.clock.now
        await plane.deployed(bundle=name, **options)
    await plane.settle()


async def numbers(plane: Plane) -> list[int]:
    return [version.number for version in await plane.store.list_versions("digits")]


async def test_the_newest_versions_stay_with_their_bundles_and_an_event_names_the_others(plane: Plane) -> None:
    await deployed(plane, 5, keep_versions=3)
    await plane.retention.collect_project("digits")
    assert await numbers(plane) == [5, 4, 3]
    assert plane.artifacts.known.keys() == {BUNDLE, bundle(3), bundle(4), bundle(5)}
    await plane.events.flush()
    event = next(e for e in await plane.store.list_events("digits") if e.kind == "retention")
    assert event.message == "removed version 1, 2: the project keeps its newest 3"
    assert event.data == {"versions": [1, 2]}
    await plane.retention.collect_project("digits")
    assert await numbers(plane) == [5, 4, 3]


async def test_a_removed_version_is_a_404_that_says_why_also_after_a_restart(plane: Plane) -> None:
    await deployed(plane, 4, keep_versions=2)
    await plane.retention.collect_project("digits")
    again = plane.restarted()
    await again.registry.load()
    for control in (plane, again):
        for call in (control.deployer.rollback("digits", 1), control.pinned.wake("digits/classify@1")):
            with pytest.raises(NotFound, match="version 1 of 'digits' was removed: the project keeps its newest 2"):
                await call
        with pytest.raises(NotFound, match="has no version 9"):
            await control.deployer.rollback("digits", 9)


async def test_the_current_version_and_the_one_to_return_to_stay(plane: Plane) -> None:
    await deployed(plane, 6, keep_versions=2)
    await plane.deployer.rollback("digits", 1)
    await plane.settle()
    await plane.retention.collect_project("digits")
    assert await numbers(plane) == [6, 5, 1]
    await plane.deployer.rollback("digits")
    assert plane.serving.routes == {"digits": 6}


async def test_a_version_that_a_caller_pins_stays_while_it_runs(plane: Plane) -> None:
    await deployed(plane, 4, keep_versions=2)
    await plane.pinned.wake("digits/classify@1")
    await plane.retention.collect_project("digits")
    assert await numbers(plane) == [4, 3, 1]
    await plane.pinned.sweep()
    plane.clock.now += 61
    await plane.pinned.sweep()
    await plane.retention.collect_project("digits")
    assert await numbers(plane) == [4, 3]


async def test_a_version_that_is_being_started_for_a_caller_stays(plane: Plane) -> None:
    await deployed(plane, 4, keep_versions=2)
    plane.gates.hold("unpack")
    waking = asyncio.create_task(plane.pinned.wake("digits/classify@1"))
    await plane.gates.reached("unpack")
    await plane.retention.collect_project("digits")
    plane.gates.open("unpack")
    await waking
    assert 1 in await numbers(plane)


@pytest.mark.parametrize("change", ["deploy", "rollback"])
async def test_nothing_is_removed_while_the_project_changes(plane: Plane, change: str) -> None:
    await deployed(plane, 4, keep_versions=2)
    plane.gates.hold("build")
    if change == "deploy":
        deployment = plane.deployer.submit("digits", manifest(bundle=bundle(4), keep_versions=1))
        work: Any = deployment.wait()
    else:
        work = plane.deployer.rollback("digits", 1)
    changing = asyncio.ensure_future(work)
    await plane.gates.reached("build")
    await plane.retention.collect_project("digits")
    assert await numbers(plane) == [4, 3, 2, 1]
    plane.gates.open("build")
    await changing
    await plane.settle()
    await plane.retention.collect_project("digits")
    assert await numbers(plane) == ([5, 4] if change == "deploy" else [4, 3, 1])


async def test_failed_versions_are_counted_apart(plane: Plane) -> None:
    await deployed(plane, 2, keep_versions=2)
    plane.serving.broken["classify"] = replica_failure()
    for _ in range(3):
        await plane.deployer.submit("digits", manifest(bundle=bundle(2), keep_versions=2, max_retries=1)).wait()
    await plane.retention.collect_project("digits")
    assert await numbers(plane) == [5, 4, 2, 1]


async def test_a_bundle_of_another_version_or_a_running_upload_stays(plane: Plane) -> None:
    await deployed(plane, 4, keep_versions=2)
    await plane.deployed(project="letters", bundle=bundle(1))
    plane.artifacts.used_at[bundle(2)] = plane.clock.now  # asked for since: a deploy of it may be about to come
    await plane.retention.collect_project("digits")
    assert await numbers(plane) == [4, 3]
    assert {bundle(1), bundle(2)} < plane.artifacts.known.keys()


async def test_a_version_that_another_platform_needs_stays(plane: Plane) -> None:
    other = plane.beside()
    other.artifacts.known = plane.artifacts.known
    await deployed(plane, 4, keep_versions=2)
    await other.registry.load()
    await other.deployer.restore()
    await other.deployer.rollback("digits", 1)
    assert (await plane.retention.collect()).count == 1
    assert await numbers(plane) == [4, 3, 1]
    await other.deployer.close()


async def test_a_project_whose_current_version_cannot_be_read_here_keeps_all(plane: Plane) -> None:
    await deployed(plane, 4, keep_versions=2)
    current = await plane.store.get_version("digits", 4)
    await plane.store.update_version(msgspec.structs.replace(current, manifest={"newer": True}))
    again = plane.restarted()
    await again.registry.load()
    assert again.registry.unusable("digits") is not None
    assert (await again.retention.collect()).count == 0
    assert await numbers(plane) == [4, 3, 2, 1]


async def test_an_outage_keeps_everything_and_a_later_round_removes_it(plane: Plane) -> None:
    await deployed(plane, 4, keep_versions=2)
    plane.store.outage = "gone"
    with pytest.raises(StoreUnavailable):
        await plane.retention.collect_project("digits")
    plane.store.outage = ""
    assert await numbers(plane) == [4, 3, 2, 1]
    assert plane.artifacts.known.keys() > {bundle(1), bundle(2)}
    assert (await plane.retention.collect()).count == 2
    assert await numbers(plane) == [4, 3]


async def test_what_is_held_and_unused_is_counted(plane: Plane) -> None:
    await deployed(plane, 4, keep_versions=2)
    holding = await plane.retention.holding()
    assert (holding.count, holding.unused_count) == (4, 2)
    assert 0 < holding.unused_bytes < holding.bytes
    assert holding != Holding()
    freed = await plane.retention.collect(at_once=True)
    assert (freed.count, freed.bytes) == (2, holding.unused_bytes)


async def test_a_change_between_the_decision_and_the_deletion_keeps_the_version(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deployed(plane, 4, keep_versions=2)
    deleted: list[int] = []

    async def changed(version: Any) -> None:
        deleted.append(version.number)
        raise Conflict("was changed by someone else meanwhile")

    monkeypatch.setattr(plane.store, "delete_version", changed)
    await plane.retention.collect_project("digits")
    assert deleted == [1, 2]
    assert {bundle(1), bundle(2)} < plane.artifacts.known.keys()
    assert {1, 2} < {reference.version for reference in plane.registry.references.of("digits")}
