"""What every metadata store does, run on all of them: in memory, SQLite, and a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace as with_fields
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clipper_platform.errors import Conflict, InvalidRequest, NotFound, StoreUnavailable
from clipper_platform.store.base import EVENTS_KEPT, Changes, Event, Key, MetadataStore, Policy, Project, Route, Version
from clipper_platform.store.sqlite import SqliteStore

MakeStore = Callable[[], MetadataStore]


def version(project: str = "digits", **changes: Any) -> Version:
    fields: dict[str, Any] = {
        "project": project,
        "number": 0,
        "created_at": 1_700_000_000.25,
        "manifest": {"project": project, "functions": [{"name": "classify", "latency_slo_s": 0.05}]},
        "bundle": "sha256:" + "a" * 64,
        "environment": "env-1",
    }
    return Version(**fields | changes)


def key(key_id: str = "key_1", **changes: Any) -> Key:
    fields: dict[str, Any] = {
        "id": key_id,
        "name": "laptop",
        "hash": "0" * 64,
        "scopes": ("invoke", "deploy"),
        "created_at": 10.0,
    }
    return Key(**fields | changes)


def event(project: str = "digits", message: str = "deployed") -> Event:
    return Event(project=project, at=1.5, kind="deploy", message=message, function="classify", version=1, data={"n": 1})


def policy(project: str = "digits", function: str = "classify", **changes: Any) -> Policy:
    table = {"min_replicas": 1, "target_queue_depth": 4.0} | changes
    return Policy(project=project, function=function, policy=table, digest="sha256:1", applied_at=2.0)


def changed(record: Any, **fields: Any) -> Any:
    return msgspec.structs.replace(record, **fields)


async def with_project(store: MetadataStore, *names: str) -> None:
    for name in names or ("digits",):
        await store.put_project(Project(name=name, created_at=1.0))


# Projects


async def test_a_project_is_created_once_and_keeps_its_first_record(store: MetadataStore) -> None:
    first = await store.put_project(Project(name="digits", created_at=1.0))
    again = await store.put_project(Project(name="digits", created_at=2.0))
    assert first == again == await store.get_project("digits") == Project(name="digits", created_at=1.0)


async def test_projects_are_listed_by_name(store: MetadataStore) -> None:
    await with_project(store, "zoo", "Able", "digits", "0")
    assert [project.name for project in await store.list_projects()] == ["0", "Able", "digits", "zoo"]


async def test_an_empty_store_lists_nothing(store: MetadataStore) -> None:
    assert await store.list_projects() == []
    assert await store.list_routes() == []
    assert await store.list_keys() == []
    assert await store.list_policies() == []


UNKNOWN_PROJECT: dict[str, Callable[[MetadataStore], Any]] = {
    "get_project": lambda s: s.get_project("nobody"),
    "delete_project": lambda s: s.delete_project(Project(name="nobody", created_at=1.0)),
    "add_version": lambda s: s.add_version(version("nobody")),
    "get_version": lambda s: s.get_version("nobody", 1),
    "list_versions": lambda s: s.list_versions("nobody"),
    "update_version": lambda s: s.update_version(version("nobody", number=1, revision=1)),
    "delete_version": lambda s: s.delete_version(version("nobody", number=1, revision=1)),
    "set_route": lambda s: s.set_route(Route(project="nobody", version=1)),
    "set_secret": lambda s: s.set_secret("nobody", "TOKEN", "x", expected=None),
    "get_secrets": lambda s: s.get_secrets("nobody"),
    "put_policy": lambda s: s.put_policy(policy("nobody")),
    "delete_policy": lambda s: s.delete_policy(policy("nobody")),
    "add_event": lambda s: s.add_event(event("nobody")),
    "list_events": lambda s: s.list_events("nobody"),
}


@pytest.mark.parametrize("method", UNKNOWN_PROJECT)
async def test_an_unknown_project_is_not_found_and_comes_into_being_by_nothing(
    store: MetadataStore, method: str
) -> None:
    with pytest.raises(NotFound, match="no project 'nobody'"):
        await UNKNOWN_PROJECT[method](store)
    assert await store.list_projects() == []
    await with_project(store, "nobody")
    assert await store.list_versions("nobody") == []
    assert await store.list_events("nobody") == []
    assert await store.get_secrets("nobody") == {}
    assert await store.list_policies() == []


# Versions


async def test_versions_are_numbered_from_one_whatever_number_the_caller_gives(store: MetadataStore) -> None:
    await with_project(store)
    added = [await store.add_version(version(number=number)) for number in (7, 0, -3)]
    assert [v.number for v in added] == [1, 2, 3]
    assert await store.list_versions("digits") == added[::-1]
    assert [await store.get_version("digits", number) for number in (1, 2, 3)] == added


async def test_fifty_writers_at_once_get_fifty_different_numbers(store: MetadataStore) -> None:
    await with_project(store)
    added = await asyncio.gather(*(store.add_version(version(environment=f"env-{i}")) for i in range(50)))
    assert sorted(v.number for v in added) == list(range(1, 51))
    for one in added:
        assert await store.get_version("digits", one.number) == one


async def test_versions_of_projects_are_numbered_apart(store: MetadataStore) -> None:
    await with_project(store, "digits", "echo")
    await store.add_version(version("digits"))
    assert (await store.add_version(version("echo"))).number == 1
    assert [v.project for v in await store.list_versions("echo")] == ["echo"]


@pytest.mark.parametrize("number", [0, -1, 2, 2**63, 10**30])
async def test_a_version_that_was_never_added_is_not_found(store: MetadataStore, number: int) -> None:
    await with_project(store)
    await store.add_version(version())
    with pytest.raises(NotFound, match=f"'digits' has no version {number}"):
        await store.get_version("digits", number)
    with pytest.raises(NotFound, match="has no version"):
        await store.update_version(version(number=number, revision=1))
    with pytest.raises(NotFound, match="has no version"):
        await store.delete_version(version(number=number, revision=1))
    with pytest.raises(NotFound, match="has no version"):
        await store.set_route(Route(project="digits", version=number))


async def test_an_update_that_repeats_what_was_added_gives_the_version(store: MetadataStore) -> None:
    await with_project(store)
    added = await store.add_version(version(number=9))
    assert await store.update_version(changed(added, revision=0)) == added


async def test_a_version_is_updated_by_compare_and_set(store: MetadataStore) -> None:
    await with_project(store)
    added = await store.add_version(version(builder="home/1"))
    assert (added.revision, added.builder) == (1, "home/1")
    schemas = {"classify": {"type": "object"}}
    ready = await store.update_version(changed(added, state="ready", schemas=schemas))
    assert ready == changed(added, state="ready", schemas=schemas, revision=2)
    for stale in (0, 1, 3):
        with pytest.raises(Conflict, match="version 1 of project 'digits' was changed by someone else"):
            await store.update_version(changed(ready, state="failed", revision=stale))
    failed = await store.update_version(changed(ready, state="failed", detail="it crashed"))
    assert (
        await store.get_version("digits", 1)
        == failed
        == changed(ready, state="failed", detail="it crashed", revision=3)
    )


async def test_of_ten_updates_of_the_version_that_was_read_one_wins(store: MetadataStore) -> None:
    await with_project(store)
    added = await store.add_version(version())
    updates = (store.update_version(changed(added, state="failed", detail=f"try {i}")) for i in range(10))
    results = await asyncio.gather(*updates, return_exceptions=True)
    winners = [result for result in results if isinstance(result, Version)]
    assert [type(r) for r in results if not isinstance(r, Version)] == [Conflict] * 9
    assert winners == [await store.get_version("digits", 1)]


async def test_a_version_is_deleted_by_compare_and_set_and_its_number_is_not_given_out_again(
    store: MetadataStore,
) -> None:
    await with_project(store)
    first, second = [await store.add_version(version()) for _ in range(2)]
    ready = await store.update_version(changed(second, state="ready"))
    for stale in (0, 1, 3):
        with pytest.raises(Conflict, match="version 2 of project 'digits' was changed by someone else"):
            await store.delete_version(changed(second, revision=stale))
    await store.delete_version(ready)
    with pytest.raises(NotFound, match="has no version 2"):
        await store.delete_version(ready)
    assert await store.list_versions("digits") == [first]
    assert (await store.add_version(version())).number == 3


async def test_a_version_that_the_route_leads_to_or_returns_to_is_not_deleted(store: MetadataStore) -> None:
    await with_project(store)
    added = [await store.add_version(version()) for _ in range(3)]
    route = await store.set_route(Route(project="digits", version=2, previous=1))
    for needed in added[:2]:
        with pytest.raises(Conflict, match=f"needs version {needed.number}"):
            await store.delete_version(needed)
    await store.set_route(changed(route, version=3, previous=2))
    await store.delete_version(added[0])
    assert [v.number for v in await store.list_versions("digits")] == [3, 2]


async def test_of_a_deletion_and_a_route_to_the_same_version_one_wins(store: MetadataStore) -> None:
    await with_project(store)
    for number in range(1, 11):
        added = await store.add_version(version())
        route = await store.get_route("digits") or Route(project="digits", version=number)
        race = store.delete_version(added), store.set_route(changed(route, version=number, previous=None))
        deleted, moved = await asyncio.gather(*race, return_exceptions=True)
        assert isinstance(deleted, Conflict) != isinstance(moved, NotFound), (deleted, moved)
        stored = await store.get_route("digits")
        assert stored is None or stored.version in [v.number for v in await store.list_versions("digits")]


async def test_a_manifest_comes_back_as_json_and_shares_nothing_with_the_caller(store: MetadataStore) -> None:
    await with_project(store)
    manifest: dict[str, Any] = {"list": (1, 2), "empty": [], "none": None, "float": 0.1, "deep": {"a": [{}]}}
    added = await store.add_version(version(manifest=manifest))
    expected: dict[str, Any] = {"list": [1, 2], "empty": [], "none": None, "float": 0.1, "deep": {"a": [{}]}}
    assert added.manifest == expected
    manifest["deep"]["a"].append("later")
    added.manifest["float"] = "changed"
    (await store.get_version("digits", 1)).manifest.clear()
    assert (await store.get_version("digits", 1)).manifest == expected


async def test_a_manifest_of_megabytes_survives(store: MetadataStore) -> None:
    await with_project(store)
    manifest = {f"key-{i}": "é" * 1_000 for i in range(2_000)}
    await store.add_version(version(manifest=manifest))
    assert (await store.get_version("digits", 1)).manifest == manifest


# Routes


async def test_a_route_is_set_by_compare_and_set(store: MetadataStore) -> None:
    await with_project(store)
    await store.add_version(version())
    await store.add_version(version())
    assert await store.get_route("digits") is None
    first = await store.set_route(Route(project="digits", version=1, updated_at=1.0))
    assert first == Route(project="digits", version=1, revision=1, updated_at=1.0)
    second = await store.set_route(changed(first, version=2, previous=1))
    assert (second.revision, await store.get_route("digits")) == (2, second)
    for stale in (0, 1, 3):
        with pytest.raises(Conflict, match="'digits' was changed by someone else"):
            await store.set_route(Route(project="digits", version=1, revision=stale))
    assert await store.list_routes() == [second]


async def test_of_twenty_writers_that_saw_the_same_revision_one_wins(store: MetadataStore) -> None:
    await with_project(store)
    for _ in range(20):
        await store.add_version(version())
    tries = [store.set_route(Route(project="digits", version=n)) for n in range(1, 21)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    winners = [result for result in results if isinstance(result, Route)]
    assert len(winners) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 19
    assert await store.get_route("digits") == winners[0]


async def test_a_write_that_arrived_may_be_repeated_until_another_writer_changes_the_record(
    store: MetadataStore,
) -> None:
    await with_project(store)
    added = await store.add_version(version(manifest={"tuple": (1, 2)}))
    ready = changed(added, state="ready", manifest={"tuple": (1, 2)})
    route, applied = Route(project="digits", version=1, updated_at=1.0), policy()
    writes: list[Callable[[], Any]] = [
        lambda: store.update_version(ready),
        lambda: store.set_route(route),
        lambda: store.put_key(key()),
        lambda: store.put_policy(applied),
    ]
    stored = [await write() for write in writes]
    assert [await write() for write in writes] == stored
    await store.update_version(changed(stored[0], detail="other"))
    await store.set_route(changed(stored[1], updated_at=2.0))
    await store.put_key(changed(stored[2], revoked_at=1.0))
    await store.put_policy(changed(stored[3], applied_at=9.0))
    for write in writes:
        with pytest.raises(Conflict):
            await write()


async def test_routes_are_listed_by_project_and_unknown_projects_have_none(store: MetadataStore) -> None:
    await with_project(store, "zoo", "digits", "idle")
    for name in ("zoo", "digits"):
        await store.add_version(version(name))
        await store.set_route(Route(project=name, version=1))
    assert [route.project for route in await store.list_routes()] == ["digits", "zoo"]
    assert await store.get_route("idle") is None
    assert await store.get_route("nobody") is None


# Deletion


async def test_deleting_a_project_deletes_what_is_under_it_and_only_that(store: MetadataStore) -> None:
    names = ("digits", "digits2", "digit")
    await with_project(store, *names)
    for name in names:
        await store.add_version(version(name))
        await store.set_route(Route(project=name, version=1))
        await store.set_secret(name, "TOKEN", name, expected=None)
        await store.put_policy(policy(name))
        await store.add_event(event(name))
    await store.put_key(key())

    await store.delete_project(Project(name="digits", created_at=1.0))

    assert [project.name for project in await store.list_projects()] == ["digit", "digits2"]
    assert [route.project for route in await store.list_routes()] == ["digit", "digits2"]
    assert [kept.project for kept in await store.list_policies()] == ["digit", "digits2"]
    assert await store.get_route("digits") is None
    assert await store.get_secrets("digits2") == {"TOKEN": "digits2"}
    assert len(await store.list_versions("digit")) == len(await store.list_events("digits2")) == 1
    assert await store.list_keys() == [key(revision=1)]


async def test_a_project_that_was_created_again_is_not_deleted_in_place_of_the_one_that_was_read(
    store: MetadataStore,
) -> None:
    first = await store.put_project(Project(name="digits", created_at=1.0))
    await store.delete_project(first)
    again = await store.put_project(Project(name="digits", created_at=2.0))
    with pytest.raises(Conflict, match="project 'digits' was changed by someone else"):
        await store.delete_project(first)
    assert await store.list_projects() == [again]


async def test_numbers_are_never_given_out_again_not_even_to_a_project_of_the_same_name(store: MetadataStore) -> None:
    await with_project(store)
    await store.add_version(version())
    await store.add_version(version())
    await store.add_event(event())
    await store.delete_project(Project(name="digits", created_at=1.0))
    await with_project(store)
    assert await store.list_versions("digits") == []
    assert await store.get_secrets("digits") == {}
    assert (await store.add_version(version())).number == 3
    assert (await store.add_event(event())).seq == 2
    with pytest.raises(NotFound):
        await store.get_version("digits", 1)


# Keys


async def test_keys_are_listed_oldest_first_with_all_they_hold(store: MetadataStore) -> None:
    younger, older = key("key_a", created_at=20.0), key("key_b", created_at=10.0, scopes=("admin",))
    stored = [await store.put_key(younger), await store.put_key(older)]
    assert stored == [changed(younger, revision=1), changed(older, revision=1)]
    assert await store.list_keys() == stored[::-1]


async def test_a_key_is_revoked_by_compare_and_set_and_nobody_revives_it(store: MetadataStore) -> None:
    stored = await store.put_key(key())
    with pytest.raises(Conflict, match="the key 'key_1' was changed by someone else"):
        await store.put_key(key(hash="1" * 64))
    revoked = await store.put_key(changed(stored, revoked_at=50.0))
    assert revoked == key(revoked_at=50.0, revision=2)
    for late in (key(), changed(stored, revoked_at=60.0), stored):
        with pytest.raises(Conflict):
            await store.put_key(late)
    assert await store.list_keys() == [revoked]


# Secrets


async def test_secrets_are_set_replaced_listed_by_name_and_deleted(store: MetadataStore) -> None:
    await with_project(store)
    await store.set_secret("digits", "TOKEN", "one", expected=None)
    await store.set_secret("digits", "API", "", expected=None)
    await store.set_secret("digits", "TOKEN", "two\n\0three", expected="one")
    assert list((await store.get_secrets("digits")).items()) == [("API", ""), ("TOKEN", "two\n\0three")]
    await store.set_secret("digits", "TOKEN", None, expected="two\n\0three")
    assert await store.get_secrets("digits") == {"API": ""}
    await store.set_secret("digits", "API", None, expected="")
    assert await store.get_secrets("digits") == {}


async def test_a_secret_that_another_writer_changed_is_a_conflict_and_a_repeated_write_is_not(
    store: MetadataStore,
) -> None:
    await with_project(store)
    for _ in range(2):
        await store.set_secret("digits", "TOKEN", "one", expected=None)
    stale: list[tuple[str | None, str | None]] = [("two", None), ("two", ""), (None, "two"), ("", None)]
    for value, expected in stale:
        with pytest.raises(Conflict, match="the secret 'TOKEN' was changed by someone else"):
            await store.set_secret("digits", "TOKEN", value, expected=expected)
    assert await store.get_secrets("digits") == {"TOKEN": "one"}
    for _ in range(2):
        await store.set_secret("digits", "TOKEN", None, expected="one")


# Policies


async def test_policies_are_replaced_listed_and_deleted_by_compare_and_set(store: MetadataStore) -> None:
    await with_project(store, "digits", "a")
    first = await store.put_policy(policy(function="z"))
    b = await store.put_policy(policy(function="b"))
    other = await store.put_policy(policy("a", "z"))
    second = await store.put_policy(changed(first, policy={"min_replicas": 3}))
    assert second == changed(policy(function="z", min_replicas=3), policy={"min_replicas": 3}, revision=2)
    assert await store.list_policies() == [other, b, second]
    for stale in (policy(function="z"), first):
        with pytest.raises(Conflict, match="the policy of 'digits/z' was changed by someone else"):
            await store.put_policy(stale)
        with pytest.raises(Conflict, match="the policy of 'digits/z' was changed by someone else"):
            await store.delete_policy(stale)
    await store.delete_policy(second)
    assert await store.list_policies() == [other, b]
    with pytest.raises(NotFound, match="'digits/z' has no policy"):
        await store.delete_policy(second)
    assert (await store.put_policy(policy(function="z"))).revision == 1


# Events


async def test_events_are_numbered_and_read_from_the_newest_or_after_a_number(store: MetadataStore) -> None:
    await with_project(store)
    added = [await store.add_event(event(message=f"event {i}")) for i in range(1, 6)]
    assert [one.seq for one in added] == [1, 2, 3, 4, 5]
    assert list(await store.list_events("digits")) == added
    assert list(await store.list_events("digits", limit=2)) == added[3:]
    assert list(await store.list_events("digits", after=2)) == added[2:]
    assert list(await store.list_events("digits", after=1, limit=2)) == added[1:3]
    for window in ({"after": 5}, {"after": 2**70}, {"limit": 0}, {"limit": -1}, {"after": 1, "limit": 0}):
        assert list(await store.list_events("digits", **window)) == []
    assert list(await store.list_events("digits", after=-1, limit=2)) == added[3:]


async def test_equal_events_are_all_kept(store: MetadataStore) -> None:
    await with_project(store)
    for _ in range(3):
        await store.add_event(event())
    assert [one.seq for one in await store.list_events("digits")] == [1, 2, 3]


async def test_only_the_newest_thousand_events_of_a_project_are_kept(store: MetadataStore) -> None:
    await with_project(store, "digits", "quiet")
    await store.add_event(event("quiet"))
    for _ in range((EVENTS_KEPT + 5) // 15):
        await asyncio.gather(*(store.add_event(event()) for _ in range(15)))
    kept = await store.list_events("digits", limit=10 * EVENTS_KEPT)
    assert [one.seq for one in kept] == list(range(6, EVENTS_KEPT + 6))
    assert len(await store.list_events("quiet")) == 1


# Text


async def test_text_of_every_script_and_plane_survives(store: MetadataStore) -> None:
    words = "größe 数字 \U0001f600 e\u0301 \u202e \0 \x7f"
    await with_project(store)
    await store.add_version(version(detail=words, manifest={words: words}))
    await store.add_event(event(message=words))
    await store.set_secret("digits", "WORDS", words, expected=None)
    await store.put_key(key(name=words))
    found = await store.get_version("digits", 1)
    assert (found.detail, found.manifest) == (words, {words: words})
    assert [one.message for one in await store.list_events("digits")] == [words]
    assert await store.get_secrets("digits") == {"WORDS": words}
    assert [one.name for one in await store.list_keys()] == [words]


async def test_text_that_is_no_unicode_is_refused_and_nothing_of_it_stored(store: MetadataStore) -> None:
    await with_project(store)
    with pytest.raises(InvalidRequest, match="surrogate"):
        await store.set_secret("digits", "TOKEN", "\ud800", expected=None)
    with pytest.raises(InvalidRequest, match="surrogate"):
        await store.add_version(version(detail="\udfff"))
    with pytest.raises(InvalidRequest, match="surrogate"):
        await store.add_event(event(message="\ud800"))
    assert await store.get_secrets("digits") == {}
    assert (await store.add_version(version())).number == 1
    assert (await store.add_event(event())).seq == 1


# Cancellation


async def test_callers_that_give_up_leave_the_store_whole(store: MetadataStore) -> None:
    await with_project(store)
    for pause in range(30):
        task = asyncio.ensure_future(store.add_version(version()))
        for _ in range(pause % 10):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    last = await store.add_version(version())
    kept = [v.number for v in await store.list_versions("digits")]  # some of the thirty may follow yet
    assert kept == sorted(set(kept), reverse=True)
    assert last.number in kept
    assert (await store.set_route(Route(project="digits", version=last.number))).revision == 1


# Several platforms on one store


def only(change: Changes, **what: Any) -> Changes:
    """The same revision, and nothing changed but `what`."""
    return with_fields(change, **{"projects": frozenset(), "keys": False, "policies": False, **what})


async def nothing_after(store: MetadataStore, revision: int) -> bool:
    found = await store.changes(revision)
    return found == only(found) and found.revision == revision


async def test_each_kind_of_write_is_reported_once_to_everyone(shared_store: MetadataStore) -> None:
    store = shared_store
    seen = (await store.changes(0)).revision
    assert await nothing_after(store, seen)

    async def reported() -> Changes:
        nonlocal seen
        found = await store.changes(seen)
        assert found.revision > seen
        seen = found.revision
        assert await nothing_after(store, seen)
        return found

    digits, keys = {"projects": frozenset({"digits"})}, {"keys": True}
    project = await store.put_project(Project(name="digits", created_at=1.0))
    assert (found := await reported()) == only(found, **digits)
    added = await store.add_version(version())
    assert (found := await reported()) == only(found, **digits)
    await store.update_version(changed(added, state="ready"))
    assert (found := await reported()) == only(found, **digits)
    route = await store.set_route(Route(project="digits", version=1))
    assert (found := await reported()) == only(found, **digits)
    await store.put_key(key())
    assert (found := await reported()) == only(found, **keys)
    applied = await store.put_policy(policy())
    assert (found := await reported()) == only(found, policies=True)
    await store.delete_policy(applied)
    assert (found := await reported()) == only(found, policies=True)
    await with_project(store, "echo")
    await store.set_route(changed(route, updated_at=3.0))
    assert (found := await reported()) == only(found, projects=frozenset({"digits", "echo"}))
    await store.delete_project(project)
    assert (found := await reported()) == only(found, **digits, policies=True)


async def test_what_changes_nothing_that_platforms_remember_is_not_reported(shared_store: MetadataStore) -> None:
    store = shared_store
    await with_project(store)
    before = await store.changes(0)
    await with_project(store)
    await store.add_event(event())
    await store.set_secret("digits", "TOKEN", "x", expected=None)
    await store.renew_lease("one", 5.0)
    with pytest.raises(Conflict):
        await store.put_key(key(revision=3))
    with pytest.raises(NotFound):
        await store.set_route(Route(project="digits", version=1))
    assert await nothing_after(store, before.revision)


async def test_a_store_that_went_back_reports_all_that_it_knows_of(shared_store: MetadataStore) -> None:
    await with_project(shared_store, "digits", "echo")
    await shared_store.put_key(key())
    found = await shared_store.changes(1_000_000)
    assert found == only(found, projects=frozenset({"digits", "echo"}), keys=True)
    assert 0 < found.revision < 1_000_000


async def test_a_waiter_hears_of_a_change_before_its_time_is_over(shared_store: MetadataStore) -> None:
    # A subscription that is not there yet misses what is published: so write until it is heard.
    async with asyncio.timeout(20):
        waiting = asyncio.ensure_future(shared_store.wait_changed(60))
        number = 0
        while not waiting.done():
            number += 1
            await shared_store.put_key(key(f"key_{number}"))
            await asyncio.wait([waiting], timeout=0.02)
    await waiting


async def test_a_waiter_that_hears_nothing_returns_after_its_time(store: MetadataStore) -> None:
    async with asyncio.timeout(5):
        await store.wait_changed(0.01)


async def test_an_instance_is_live_while_its_lease_runs(shared_store: MetadataStore) -> None:
    await shared_store.renew_lease("one", 0.001)
    await shared_store.renew_lease("two", 60.0)
    async with asyncio.timeout(5):
        while "one" in await shared_store.live_instances():
            await asyncio.sleep(0.001)
    assert await shared_store.live_instances() == {"two"}
    await shared_store.renew_lease("one", 60.0)
    await shared_store.renew_lease("two", 60.0)
    assert await shared_store.live_instances() == {"one", "two"}


async def test_a_store_for_one_process_reports_no_change_and_no_other_instance(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "clipper.db")
    await store.open()
    await with_project(store)
    await store.renew_lease("one", 60.0)
    assert await store.changes(0) == Changes(revision=0)
    assert await store.live_instances() == set()
    await store.close()


# Life


async def test_an_open_store_may_be_closed_twice(store: MetadataStore) -> None:
    await store.close()
    await store.close()


async def test_everything_survives_closing_and_opening(make_durable: MakeStore) -> None:
    store = make_durable()
    await store.open()
    await with_project(store)
    added = await store.add_version(version())
    route = await store.set_route(Route(project="digits", version=1))
    await store.set_secret("digits", "TOKEN", "s3cret", expected=None)
    applied = await store.put_policy(policy())
    kept = await store.put_key(key())
    logged = await store.add_event(event())
    await store.close()

    for again in (store, make_durable()):
        await again.open()
        assert await again.list_projects() == [Project(name="digits", created_at=1.0)]
        assert await again.list_versions("digits") == [added]
        assert await again.list_routes() == [route]
        assert await again.get_secrets("digits") == {"TOKEN": "s3cret"}
        assert await again.list_policies() == [applied]
        assert await again.list_keys() == [kept]
        assert list(await again.list_events("digits")) == [logged]
        await again.close()


async def test_a_store_that_is_not_open_says_so(make_durable: MakeStore) -> None:
    store = make_durable()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="is not open"):
            await store.list_projects()
        with pytest.raises(StoreUnavailable, match="is not open"):
            await store.changes(0)
        await store.open()
        await store.changes(0)
        await store.close()


async def test_two_stores_on_the_same_data_see_each_other_and_never_share_a_number(make_durable: MakeStore) -> None:
    one, other = make_durable(), make_durable()
    await asyncio.gather(one.open(), other.open())
    await with_project(one)
    added = await asyncio.gather(*(s.add_version(version()) for s in (one, other) * 20))
    assert sorted(v.number for v in added) == list(range(1, 41))
    assert await one.list_versions("digits") == await other.list_versions("digits")
    await one.set_route(Route(project="digits", version=1))
    with pytest.raises(Conflict):
        await other.set_route(Route(project="digits", version=2))
    await one.close()
    await other.delete_project(Project(name="digits", created_at=1.0))
    await other.close()
