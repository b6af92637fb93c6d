"""What stores on a server that may lose its data do when a platform writes back what it knows."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from clipper_platform.store.base import Key, MetadataStore, Policy, Project, RecoverableStore, Route, Version

PROJECT = Project(name="digits", created_at=1.0)
VERSION = Version(
    project="digits", number=3, created_at=2.0, manifest={"a": 1}, bundle="b", environment="e", id="x", revision=2
)
ROUTE = Route(project="digits", version=3, previous=2, revision=5)
KEY = Key(id="key_1", name="ci", hash="ab", scopes=("admin",), created_at=1.0, revision=4)
POLICY = Policy(project="digits", function="f", policy={}, digest="d", applied_at=1.0, revision=7)


@pytest.fixture
def recoverable(shared_store: MetadataStore) -> RecoverableStore:
    assert isinstance(shared_store, RecoverableStore)
    return shared_store


async def test_a_record_that_is_missing_is_stored_with_its_revision(recoverable: RecoverableStore) -> None:
    for record in (PROJECT, VERSION, ROUTE, KEY, POLICY):
        assert await recoverable.put_back(record)
        assert not await recoverable.put_back(record)
    assert await recoverable.list_projects() == [PROJECT]
    assert await recoverable.list_versions("digits") == [VERSION]
    assert await recoverable.get_route("digits") == ROUTE
    assert await recoverable.list_keys() == [KEY]
    assert await recoverable.list_policies() == [POLICY]
    changes = await recoverable.changes(0)
    assert (changes.projects, changes.keys, changes.policies) == ({"digits"}, True, True)


async def test_an_earlier_revision_is_replaced_and_a_later_one_stays(recoverable: RecoverableStore) -> None:
    for record in (PROJECT, VERSION, ROUTE, KEY, POLICY):
        await recoverable.put_back(record)
    assert await recoverable.put_back(replace(ROUTE, revision=6, previous=None))
    assert not await recoverable.put_back(replace(ROUTE, revision=5))
    assert not await recoverable.put_back(replace(KEY, revision=3, name="old"))
    assert not await recoverable.put_back(replace(PROJECT, created_at=9.0))
    assert await recoverable.get_route("digits") == replace(ROUTE, revision=6, previous=None)
    assert await recoverable.list_keys() == [KEY]


async def test_another_version_of_the_same_number_stays(recoverable: RecoverableStore) -> None:
    await recoverable.put_back(PROJECT)
    await recoverable.put_back(VERSION)
    assert not await recoverable.put_back(replace(VERSION, id="y", revision=9))
    assert await recoverable.get_version("digits", 3) == VERSION


async def test_what_is_under_something_that_the_store_lacks_is_not_stored(recoverable: RecoverableStore) -> None:
    assert not any([await recoverable.put_back(record) for record in (VERSION, ROUTE, POLICY)])
    await recoverable.put_back(PROJECT)
    assert not await recoverable.put_back(ROUTE)


async def test_the_number_of_a_version_that_was_written_back_is_not_given_out_again(
    recoverable: RecoverableStore,
) -> None:
    await recoverable.put_back(PROJECT)
    await recoverable.put_back(VERSION)
    assert (await recoverable.add_version(VERSION)).number == 4


async def test_a_version_gets_a_number_above_those_that_the_caller_knows(store: MetadataStore) -> None:
    await store.put_project(PROJECT)
    assert (await store.add_version(VERSION, after=7)).number == 8
    assert (await store.add_version(VERSION, after=3)).number == 9
    assert [version.number for version in await store.list_versions("digits")] == [9, 8]
    assert (await store.get_version("digits", 8)).id == "x"


async def test_secrets_that_are_missing_are_stored_and_those_that_are_there_stay(recoverable: RecoverableStore) -> None:
    assert await recoverable.put_back_secrets("digits", {"TOKEN": "a"}) == set()
    await recoverable.put_back(PROJECT)
    await recoverable.set_secret("digits", "TOKEN", "x", expected=None)
    assert await recoverable.put_back_secrets("digits", {"TOKEN": "old", "URL": "ü"}) == {"URL"}
    assert await recoverable.get_secrets("digits") == {"TOKEN": "x", "URL": "ü"}


async def test_data_that_is_there_keeps_its_id_when_it_is_accepted(recoverable: RecoverableStore) -> None:
    before = (await recoverable.changes(0)).lineage
    assert len(before) == 1
    assert await recoverable.accept(("other",)) == before == (await recoverable.changes(0)).lineage
