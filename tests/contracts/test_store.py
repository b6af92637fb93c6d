"""What every metadata store does, run on all of them: in memory, SQLite, and a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from clipper_platform.errors import Conflict, InvalidRequest, NotFound, StoreUnavailable
from clipper_platform.store.base import EVENTS_KEPT, Event, Key, MetadataStore, Policy, Project, Route, Version

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
    "delete_project": lambda s: s.delete_project("nobody"),
    "add_version": lambda s: s.add_version(version("nobody")),
    "get_version": lambda s: s.get_version("nobody", 1),
    "list_versions": lambda s: s.list_versions("nobody"),
    "update_version": lambda s: s.update_version("nobody", 1, state="ready"),
    "set_route": lambda s: s.set_route(Route(project="nobody", version=1), expected_revision=0),
    "put_secret": lambda s: s.put_secret("nobody", "TOKEN", "x"),
    "list_secrets": lambda s: s.list_secrets("nobody"),
    "get_secrets": lambda s: s.get_secrets("nobody"),
    "delete_secret": lambda s: s.delete_secret("nobody", "TOKEN"),
    "put_policy": lambda s: s.put_policy(policy("nobody")),
    "delete_policy": lambda s: s.delete_policy("nobody", "f"),
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
        await store.update_version("digits", number, state="ready")
    with pytest.raises(NotFound, match="has no version"):
        await store.set_route(Route(project="digits", version=number), expected_revision=0)


async def test_an_update_changes_state_detail_and_schemas_and_nothing_else(store: MetadataStore) -> None:
    await with_project(store)
    added = await store.add_version(version())
    schemas = {"classify": {"type": "object"}}
    ready = await store.update_version("digits", 1, state="ready", schemas=schemas)
    assert (ready.state, ready.detail, ready.schemas) == ("ready", "", schemas)
    failed = await store.update_version("digits", 1, state="failed", detail="it crashed")
    assert (failed.state, failed.detail, failed.schemas) == ("failed", "it crashed", schemas)
    assert await store.get_version("digits", 1) == failed
    assert (failed.number, failed.manifest, failed.bundle) == (1, added.manifest, added.bundle)


async def test_a_state_that_is_none_is_refused_and_changes_nothing(store: MetadataStore) -> None:
    await with_project(store)
    added = await store.add_version(version())
    with pytest.raises(ValueError, match="building, ready, failed"):
        await store.update_version("digits", 1, state="done")
    assert await store.get_version("digits", 1) == added


async def test_updates_of_one_version_at_once_all_take_effect_whole(store: MetadataStore) -> None:
    await with_project(store)
    await store.add_version(version())
    results = await asyncio.gather(
        *(store.update_version("digits", 1, state="failed", detail=f"try {i}") for i in range(10))
    )
    assert sorted(v.detail for v in results) == sorted(f"try {i}" for i in range(10))
    assert await store.get_version("digits", 1) in results


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
    first = await store.set_route(Route(project="digits", version=1, updated_at=1.0), expected_revision=0)
    assert first == Route(project="digits", version=1, revision=1, updated_at=1.0)
    second = await store.set_route(Route(project="digits", version=2, previous=1), expected_revision=1)
    assert (second.revision, await store.get_route("digits")) == (2, second)
    for stale in (0, 1, 3):
        with pytest.raises(Conflict, match="'digits' was changed by someone else"):
            await store.set_route(Route(project="digits", version=1), expected_revision=stale)
    assert await store.list_routes() == [second]


async def test_of_twenty_writers_that_saw_the_same_revision_one_wins(store: MetadataStore) -> None:
    await with_project(store)
    for _ in range(20):
        await store.add_version(version())
    tries = [store.set_route(Route(project="digits", version=n), expected_revision=0) for n in range(1, 21)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    winners = [result for result in results if isinstance(result, Route)]
    assert len(winners) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 19
    assert await store.get_route("digits") == winners[0]


async def test_routes_are_listed_by_project_and_unknown_projects_have_none(store: MetadataStore) -> None:
    await with_project(store, "zoo", "digits", "idle")
    for name in ("zoo", "digits"):
        await store.add_version(version(name))
        await store.set_route(Route(project=name, version=1), expected_revision=0)
    assert [route.project for route in await store.list_routes()] == ["digits", "zoo"]
    assert await store.get_route("idle") is None
    assert await store.get_route("nobody") is None


# Deletion


async def test_deleting_a_project_deletes_what_is_under_it_and_only_that(store: MetadataStore) -> None:
    names = ("digits", "digits2", "digit")
    await with_project(store, *names)
    for name in names:
        await store.add_version(version(name))
        await store.set_route(Route(project=name, version=1), expected_revision=0)
        await store.put_secret(name, "TOKEN", name)
        await store.put_policy(policy(name))
        await store.add_event(event(name))
    await store.put_key(key())

    await store.delete_project("digits")

    assert [project.name for project in await store.list_projects()] == ["digit", "digits2"]
    assert [route.project for route in await store.list_routes()] == ["digit", "digits2"]
    assert [kept.project for kept in await store.list_policies()] == ["digit", "digits2"]
    assert await store.get_route("digits") is None
    assert await store.get_secrets("digits2") == {"TOKEN": "digits2"}
    assert len(await store.list_versions("digit")) == len(await store.list_events("digits2")) == 1
    assert await store.list_keys() == [key()]


async def test_numbers_are_never_given_out_again_not_even_to_a_project_of_the_same_name(store: MetadataStore) -> None:
    await with_project(store)
    await store.add_version(version())
    await store.add_version(version())
    await store.add_event(event())
    await store.delete_project("digits")
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
    await store.put_key(younger)
    await store.put_key(older)
    assert await store.list_keys() == [older, younger]


async def test_putting_the_same_key_again_is_fine_and_another_under_its_id_a_conflict(store: MetadataStore) -> None:
    await store.put_key(key())
    await store.put_key(key())
    with pytest.raises(Conflict, match="key_1"):
        await store.put_key(key(hash="1" * 64))
    assert await store.list_keys() == [key()]


async def test_revoking_twice_keeps_the_first_time(store: MetadataStore) -> None:
    await store.put_key(key())
    revoked = await store.revoke_key("key_1", 50.0)
    assert revoked.revoked_at == 50.0
    assert await store.revoke_key("key_1", 60.0) == revoked
    assert await store.list_keys() == [revoked]
    with pytest.raises(Conflict):  # nobody revives it by putting it again
        await store.put_key(key())


async def test_an_unknown_key_is_not_found(store: MetadataStore) -> None:
    with pytest.raises(NotFound, match="no key 'key_9'"):
        await store.revoke_key("key_9", 1.0)


# Secrets


async def test_secrets_are_set_replaced_listed_by_name_and_deleted(store: MetadataStore) -> None:
    await with_project(store)
    await store.put_secret("digits", "TOKEN", "one")
    await store.put_secret("digits", "API", "")
    await store.put_secret("digits", "TOKEN", "two\n\0three")
    assert await store.list_secrets("digits") == ["API", "TOKEN"]
    assert await store.get_secrets("digits") == {"API": "", "TOKEN": "two\n\0three"}
    await store.delete_secret("digits", "TOKEN")
    assert await store.get_secrets("digits") == {"API": ""}
    with pytest.raises(NotFound, match="no secret 'TOKEN'"):
        await store.delete_secret("digits", "TOKEN")


async def test_an_empty_secret_is_deleted_like_any_other(store: MetadataStore) -> None:
    await with_project(store)
    await store.put_secret("digits", "EMPTY", "")
    await store.delete_secret("digits", "EMPTY")
    assert await store.list_secrets("digits") == []


# Policies


async def test_policies_are_replaced_listed_and_deleted_by_function(store: MetadataStore) -> None:
    await with_project(store, "digits", "a")
    await store.put_policy(policy(function="z"))
    await store.put_policy(policy(function="b"))
    await store.put_policy(policy("a", "z"))
    await store.put_policy(policy(function="z", min_replicas=3))
    assert await store.list_policies() == [
        policy("a", "z"),
        policy(function="b"),
        policy(function="z", min_replicas=3),
    ]
    await store.delete_policy("digits", "z")
    assert [(p.project, p.function) for p in await store.list_policies()] == [("a", "z"), ("digits", "b")]
    with pytest.raises(NotFound, match="'digits/z' has no policy"):
        await store.delete_policy("digits", "z")


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
    await store.put_secret("digits", "WORDS", words)
    await store.put_key(key(name=words))
    found = await store.get_version("digits", 1)
    assert (found.detail, found.manifest) == (words, {words: words})
    assert [one.message for one in await store.list_events("digits")] == [words]
    assert await store.get_secrets("digits") == {"WORDS": words}
    assert [one.name for one in await store.list_keys()] == [words]


async def test_text_that_is_no_unicode_is_refused_and_nothing_of_it_stored(store: MetadataStore) -> None:
    await with_project(store)
    with pytest.raises(InvalidRequest, match="surrogate"):
        await store.put_secret("digits", "TOKEN", "\ud800")
    with pytest.raises(InvalidRequest, match="surrogate"):
        await store.add_version(version(detail="\udfff"))
    with pytest.raises(InvalidRequest, match="surrogate"):
        await store.add_event(event(message="\ud800"))
    assert await store.list_secrets("digits") == []
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
    assert (await store.set_route(Route(project="digits", version=last.number), expected_revision=0)).revision == 1


# Life


async def test_an_open_store_answers_a_ping_and_may_be_closed_twice(store: MetadataStore) -> None:
    await store.ping()
    await store.close()
    await store.close()


async def test_everything_survives_closing_and_opening(make_durable: MakeStore) -> None:
    store = make_durable()
    await store.open()
    await with_project(store)
    added = await store.add_version(version())
    route = await store.set_route(Route(project="digits", version=1), expected_revision=0)
    await store.put_secret("digits", "TOKEN", "s3cret")
    await store.put_policy(policy())
    await store.put_key(key())
    logged = await store.add_event(event())
    await store.close()

    for again in (store, make_durable()):
        await again.open()
        assert await again.list_projects() == [Project(name="digits", created_at=1.0)]
        assert await again.list_versions("digits") == [added]
        assert await again.list_routes() == [route]
        assert await again.get_secrets("digits") == {"TOKEN": "s3cret"}
        assert await again.list_policies() == [policy()]
        assert await again.list_keys() == [key()]
        assert list(await again.list_events("digits")) == [logged]
        await again.close()


async def test_a_store_that_is_not_open_says_so(make_durable: MakeStore) -> None:
    store = make_durable()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="is not open"):
            await store.list_projects()
        with pytest.raises(StoreUnavailable, match="is not open"):
            await store.ping()
        await store.open()
        await store.ping()
        await store.close()


async def test_two_stores_on_the_same_data_see_each_other_and_never_share_a_number(make_durable: MakeStore) -> None:
    one, other = make_durable(), make_durable()
    await asyncio.gather(one.open(), other.open())
    await with_project(one)
    added = await asyncio.gather(*(s.add_version(version()) for s in (one, other) * 20))
    assert sorted(v.number for v in added) == list(range(1, 41))
    assert await one.list_versions("digits") == await other.list_versions("digits")
    await one.set_route(Route(project="digits", version=1), expected_revision=0)
    with pytest.raises(Conflict):
        await other.set_route(Route(project="digits", version=2), expected_revision=0)
    await one.close()
    await other.delete_project("digits")
    await other.close()
