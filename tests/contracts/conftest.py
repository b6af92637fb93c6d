"""The metadata stores that the contract suite runs on."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clipper_platform.store.base import MetadataStore
from clipper_platform.store.redis import RedisStore
from clipper_platform.store.sqlite import SqliteStore
from tests.support.memory_store import MemoryStore
from tests.support.redis_server import RedisServer, running_redis

MakeStore = Callable[[], MetadataStore]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def make_durable(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    """Makes stores, all on the same data."""
    if request.param == "sqlite":
        return lambda: SqliteStore(tmp_path / "home" / "clipper.db")
    server: RedisServer = request.getfixturevalue("redis_server")
    prefix = f"test-{uuid.uuid4().hex}:"
    return lambda: RedisStore(f"{server.url}?prefix={prefix}")


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MetadataStore]:
    """An empty, open store."""
    async with opened(request, tmp_path) as store:
        yield store


@pytest.fixture(params=["memory", "redis"])
async def shared_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MetadataStore]:
    """An empty, open store of a kind that several platforms may share."""
    async with opened(request, tmp_path) as store:
        yield store


@asynccontextmanager
async def opened(request: pytest.FixtureRequest, directory: Path) -> AsyncIterator[MetadataStore]:
    store: MetadataStore
    if request.param == "memory":
        store = MemoryStore()
    elif request.param == "sqlite":
        store = SqliteStore(directory / "clipper.db")
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        store = RedisStore(f"{server.url}?prefix=test-{uuid.uuid4().hex}")
    await store.open()
    yield store
    await store.close()
