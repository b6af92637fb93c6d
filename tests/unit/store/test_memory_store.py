"""The store in memory, for tests."""

from __future__ import annotations

import pytest

from clipper_platform.errors import StoreUnavailable
from clipper_platform.store.base import MetadataStore, Project
from tests.support.memory_store import MemoryStore


async def test_the_store_in_memory_can_play_an_outage() -> None:
    store: MetadataStore = MemoryStore()
    await store.put_project(Project(name="p", created_at=1.0))
    assert isinstance(store, MemoryStore)
    store.outage = "Redis went away"
    calls = [store.changes(0), store.list_projects(), store.get_project("p"), store.list_keys(), store.get_route("p")]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="Redis went away"):
            await call
    store.outage = ""
    assert [project.name for project in await store.list_projects()] == ["p"]
