from __future__ import annotations

import asyncio

import pytest

from clipper.contract.manifest import Manifest
from clipper_platform.control.current import function_names
from clipper_platform.control.registry import Registry
from clipper_platform.errors import NotFound, StoreUnavailable, Unavailable
from clipper_platform.store.base import Route, Version
from tests.support.memory_store import MemoryStore
from tests.unit.control.doubles import BUNDLE, FakeClock, manifest

OTHER_BUNDLE = "sha256:" + "b" * 64


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def registry(store: MemoryStore) -> Registry:
    registry = Registry(store, FakeClock())
    await registry.load()
    return registry


async def routed(registry: Registry, project: str = "digits", bundle: str = BUNDLE) -> int:
    version = await registry.add_version(Manifest.from_dict(manifest(project, bundle=bundle)), "env")
    ready = await registry.mark_ready(project, version.number, {})
    await registry.set_route(ready)
    return version.number


async def test_what_was_written_is_loaded_by_the_next_platform(registry: Registry, store: MemoryStore) -> None:
    await routed(registry)
    again = Registry(store, FakeClock())
    await again.load()
    assert [p.name for p in again.projects()] == ["digits"]
    current = again.current("digits")
    assert current is not None
    assert (current.route.version, current.manifest.functions[0].name) == (1, "classify")
    assert current.function("classify") is not None
    assert current.function("other") is None


async def test_reads_of_memory_go_on_while_the_store_is_away(registry: Registry, store: MemoryStore) -> None:
    await routed(registry)
    store.outage = "gone"
    await registry.watch.poll()
    assert registry.current("digits") is not None
    assert registry.project("digits").name == "digits"
    assert [c.route.version for c in registry.routed()] == [1]
    with pytest.raises(StoreUnavailable):
        await registry.versions("digits")
    with pytest.raises(StoreUnavailable, match="functions go on answering"):
        registry.watch.check()


async def test_a_failed_version_that_could_not_be_stored_is_stored_later(
    registry: Registry, store: MemoryStore
) -> None:
    version = await registry.add_version(Manifest.from_dict(manifest()), "env")
    store.outage = "gone"
    await registry.mark_failed("digits", version.number, "it broke")
    store.outage = ""
    await registry.watch.poll()
    stored = await store.get_version("digits", version.number)
    assert (stored.state, stored.detail) == ("failed", "it broke")


async def test_a_route_to_a_version_that_no_longer_validates_is_kept_with_the_reason(
    registry: Registry, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    await routed(registry)
    await routed(registry, "letters")
    route = await store.get_route("letters")
    assert route is not None
    broken = await store.get_version("letters", 1)
    broken.manifest["functions"][0]["timeout_s"] = "soon"
    await store.add_version(broken)
    await store.set_route(Route(project="letters", version=2, revision=route.revision))
    again = Registry(store, FakeClock())
    await again.load()
    assert [c.route.project for c in again.routed()] == ["digits"]
    assert "cannot be brought back" in caplog.text
    unusable = again.unusable("letters")
    assert unusable is not None
    assert (unusable.route.version, unusable.functions) == (2, ("classify",))
    assert "timeout_s" in unusable.why
    with pytest.raises(Unavailable, match="timeout_s"):
        again.check_answers("letters")
    assert again.unusable("digits") is None
    # A deploy mends it, and the way back leads past what could not be run.
    ready = await again.add_version(Manifest.from_dict(manifest(project="letters")), "env")
    await again.set_route(await again.mark_ready("letters", ready.number, {}))
    assert again.unusable("letters") is None
    assert again.check_answers("letters").route.version == 3


def test_the_names_of_functions_are_read_from_a_damaged_manifest_as_far_as_they_go() -> None:
    assert function_names({}) == ()
    assert function_names({"functions": "nonsense"}) == ()
    assert function_names({"functions": [1, {"name": 2}, {"name": "f"}]}) == ("f",)


async def test_unknown_projects_are_not_found(registry: Registry) -> None:
    with pytest.raises(NotFound):
        registry.project("nope")
    with pytest.raises(NotFound):
        await registry.versions("nope")
    with pytest.raises(NotFound):
        await registry.delete_project("nope")
    assert registry.current("nope") is None


async def test_a_start_asks_the_store_once_for_each_project_and_at_the_same_time(
    registry: Registry, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        await routed(registry, project=f"p{number}")
    asked: list[str] = []
    waiting = most = 0
    list_versions = store.list_versions

    async def counted(project: str) -> list[Version]:
        nonlocal waiting, most
        asked.append(project)
        waiting += 1
        most = max(most, waiting)
        await asyncio.sleep(0)
        waiting -= 1
        return await list_versions(project)

    monkeypatch.setattr(store, "list_versions", counted)
    monkeypatch.setattr(store, "get_version", None)
    await registry.load()
    assert sorted(asked) == [f"p{number}" for number in range(5)]
    assert most == 5
    assert len(registry.routed()) == 5


async def test_the_bundles_of_all_versions_are_known_without_the_store(registry: Registry, store: MemoryStore) -> None:
    await routed(registry)
    await routed(registry, project="letters", bundle=OTHER_BUNDLE)
    assert registry.references.bundles() == {BUNDLE, OTHER_BUNDLE}
    again = Registry(store, FakeClock())
    await again.load()
    store.outage = "gone"
    assert again.references.bundles() == {BUNDLE, OTHER_BUNDLE}
    store.outage = ""
    await again.delete_project("letters")
    assert again.references.bundles() == {BUNDLE}
