"""A project's secrets: set, listed by name, and read at each launch."""

from __future__ import annotations

import pytest

from clipper_platform.control.access.secrets import ProjectSecrets
from clipper_platform.control.registry import Registry
from clipper_platform.errors import InvalidRequest, NotFound, StoreUnavailable
from tests.support.memory_store import MemoryStore
from tests.unit.control.doubles import FakeClock


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def secrets(store: MemoryStore) -> ProjectSecrets:
    return ProjectSecrets(Registry(store, FakeClock()))


async def test_secrets_may_be_set_before_the_first_deploy(secrets: ProjectSecrets) -> None:
    await secrets.put("digits", "B", "2")
    await secrets.put("digits", "A", "1")
    assert await secrets.names("digits") == ["A", "B"]
    assert await secrets.read("digits") == {"A": "1", "B": "2"}
    await secrets.delete("digits", "A")
    assert await secrets.read("digits") == {"B": "2"}
    with pytest.raises(NotFound):
        await secrets.delete("digits", "A")
    with pytest.raises(NotFound):
        await secrets.names("nope")


async def test_a_project_that_is_not_stored_has_no_secrets(secrets: ProjectSecrets) -> None:
    assert await secrets.read("digits") == {}


async def test_a_launch_while_the_store_is_away_has_the_secrets_of_the_launch_before(
    secrets: ProjectSecrets, store: MemoryStore
) -> None:
    await secrets.put("digits", "A", "1")
    store.outage = "gone"
    with pytest.raises(StoreUnavailable):
        await secrets.read("digits")
    store.outage = ""
    await secrets.read("digits")
    store.outage = "gone"
    assert await secrets.read("digits") == {"A": "1"}
    secrets.forget("digits")
    with pytest.raises(StoreUnavailable):
        await secrets.read("digits")


async def test_a_secret_that_no_replica_can_have_is_refused(secrets: ProjectSecrets) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await secrets.put("digits", "PATH", "/opt/bin")
    assert refused.value.details["key"] == "name"
    for n in range(8):
        await secrets.put("digits", f"V{n}", "x" * 65_000)
    with pytest.raises(InvalidRequest, match="all values together"):
        await secrets.put("digits", "V8", "x" * 65_000)
