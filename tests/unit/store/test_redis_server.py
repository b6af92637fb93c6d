"""What a Redis server must be, and what its errors mean."""

from __future__ import annotations

from typing import Any

import pytest
import redis.exceptions

from clipper_platform.errors import StoreUnavailable
from clipper_platform.store import redis_server

GOOD = {"redis_version": "7.0.15", "redis_mode": "standalone", "role": "master", "maxmemory": 0, "aof_enabled": 1}


def test_a_plain_server_is_taken_without_a_warning() -> None:
    redis_server.check_server(GOOD, "redis://db")
    redis_server.check_server(GOOD | {"redis_version": "6.0"}, "redis://db")
    assert list(redis_server.risks(GOOD, "", "redis://db")) == []
    assert list(redis_server.risks(GOOD | {"aof_enabled": 0}, "3600 1", "redis://db")) == []
    assert list(redis_server.risks(GOOD | {"aof_enabled": 0}, None, "redis://db")) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"redis_version": "5.0.14"}, "Redis 5.0.14: the store needs 6.0"),
        ({"redis_version": "unknown"}, "Redis unknown"),
        ({"redis_mode": "cluster"}, "cluster"),
        ({"role": "slave"}, "read-only replica"),
    ],
)
def test_a_server_that_cannot_be_the_store_is_refused_by_name(change: dict[str, Any], why: str) -> None:
    with pytest.raises(StoreUnavailable, match=f"redis://db.*{why}"):
        redis_server.check_server(GOOD | change, "redis://db")


@pytest.mark.parametrize(
    ("change", "why"),
    [({"maxmemory": 100, "maxmemory_policy": "allkeys-lru"}, "noeviction"), ({"aof_enabled": 0}, "appendonly yes")],
)
def test_a_server_that_may_lose_the_data_gets_a_warning(change: dict[str, Any], why: str) -> None:
    (warning,) = redis_server.risks(GOOD | change, "", "redis://db")
    assert why in warning


def test_data_of_a_newer_clipper_or_of_something_else_is_refused() -> None:
    redis_server.check_schema(b"2", "redis://db", "clip:schema")
    with pytest.raises(StoreUnavailable, match=r"newer Clipper.*upgrade"):
        redis_server.check_schema(b"3", "redis://db", "clip:schema")
    with pytest.raises(StoreUnavailable, match="another key prefix"):
        redis_server.check_schema(b"{}", "redis://db", "clip:schema")


def redis_errors() -> list[type[redis.exceptions.RedisError]]:
    found = [redis.exceptions.RedisError]
    for kind in found:
        found += [sub for sub in kind.__subclasses__() if sub.__module__ == "redis.exceptions" and sub not in found]
    return found


@pytest.mark.parametrize("kind", redis_errors(), ids=lambda kind: kind.__name__)
def test_every_error_of_the_redis_client_becomes_one_of_ours(kind: type[redis.exceptions.RedisError]) -> None:
    error = kind.__new__(kind)
    Exception.__init__(error, "the server's words")
    translated = redis_server.translate(error, "redis://db")
    assert isinstance(translated, StoreUnavailable)
    assert "redis://db" in translated.message


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (redis.exceptions.AuthenticationError("x"), "user name or password"),
        (redis.exceptions.BusyLoadingError("x"), "still loading"),
        (redis.exceptions.ConnectionError("refused"), r"cannot be reached \(refused\)"),
        (redis.exceptions.ReadOnlyError("x"), "read-only replica"),
        (redis.exceptions.OutOfMemoryError("x"), "no memory left"),
        (redis.exceptions.NoPermissionError("x"), "grant"),
        (redis.exceptions.ResponseError("WRONGTYPE"), "refused a command.*WRONGTYPE"),
        (TimeoutError(), "did not answer in time or cannot be reached$"),
    ],
)
def test_errors_of_redis_say_what_to_do(error: redis.exceptions.RedisError | OSError, words: str) -> None:
    with pytest.raises(StoreUnavailable, match=words):
        raise redis_server.translate(error, "redis://db")
