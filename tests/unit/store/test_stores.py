"""The stores' parts that need no server and no disk: URLs, keys, what a server must be, what errors mean."""

from __future__ import annotations

import inspect
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import redis.exceptions

from clipper_platform.errors import InternalError, InvalidRequest, StoreUnavailable
from clipper_platform.store import redis_server, redis_url, sqlite_errors
from clipper_platform.store.base import Key, MetadataStore, Project
from clipper_platform.store.records import decode, encode
from clipper_platform.store.redis import RedisStore
from clipper_platform.store.redis_keys import RedisKeys
from clipper_platform.store.sqlite import SqliteStore
from tests.support.memory_store import MemoryStore

# URLs of SQLite


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///var/lib/clip/clipper.db", Path("/var/lib/clip/clipper.db")),
        ("sqlite:////var/lib/clipper.db", Path("/var/lib/clipper.db")),
        ("sqlite:///with%20space/%C3%A9.db", Path("/with space/é.db")),
        ("sqlite:///./clipper.db", Path.cwd() / "clipper.db"),
        ("sqlite:///~/clipper.db", Path.home() / "clipper.db"),
    ],
)
def test_a_sqlite_url_names_a_file_and_the_store_shows_one_that_names_it_again(url: str, path: Path) -> None:
    store = SqliteStore.from_url(url)
    assert store.path == path
    assert SqliteStore.from_url(store.url).path == path


@pytest.mark.parametrize(
    "url",
    [
        *("sqlite://", "sqlite:///", "sqlite:///dir/", "sqlite:///:memory:", "sqlite:///a%00b", "sqlite://host/x.db"),
        *("sqlite:///x.db?mode=ro", "sqlite://[::1/x.db", "redis:///x", "clipper.db", ""),
    ],
)
def test_what_names_no_sqlite_file_is_refused_with_what_to_write(url: str) -> None:
    with pytest.raises(InvalidRequest, match=r"write sqlite:///path/to/clipper\.db"):
        SqliteStore.from_url(url)


# URLs of Redis


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("redis://localhost", "redis://localhost"),
        ("redis://:s3cret@db.example:6380/2", "redis://db.example:6380/2"),
        ("rediss://user:s3cret@db.example/0?ssl_ca_certs=/ca.pem", "rediss://db.example/0"),
        ("redis://user:s3%40cret@[::1]:6379/0?db=3", "redis://[::1]:6379/0?db=3"),
        ("unix://user:s3cret@/run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
    ],
)
def test_a_redis_url_is_shown_without_who_and_password(url: str, seen: str) -> None:
    store = RedisStore.from_url(url)
    assert store.url == seen
    assert "s3cret" not in repr(vars(store)["_shown"])


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://:s3cret@host", "'http' is not a Redis"),
        ("localhost:6379", "is not a Redis"),
        ("", "is not a Redis"),
        ("redis://:s3cret@host:99999", "port"),
        ("redis://:s3cret@host:x", "port"),
        ("redis://:s3cret@host:0", "redis://HOST:6379/0"),
        ("unix://user:s3cret/more@/run/redis.sock", "%2F"),
        ("redis://:s3cret@host/first", "'first'"),
        ("redis://:s3cret@host?db=-1", "'-1'"),
        ("redis://:s3cret@host?socket_timeout=99", "'socket_timeout'"),
        ("redis://host?password=s3cret", "'password'"),
        ("unix://", "path of the socket"),
        ("redis://:s3cret@[::1", "no URL"),
        ("redis://:s3cret#more@host", "%23"),
        ("redis://:s3cret/more@host", "no URL"),
        ("redis://user/s3cret@host", "%2F"),
    ],
)
def test_a_redis_url_that_cannot_be_used_is_refused_without_telling_the_password(url: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as caught:
        redis_url.checked(url)
    assert "s3cret" not in str(caught.value)


# Keys of Redis


def test_every_key_begins_with_the_prefix_and_no_two_are_the_same() -> None:
    keys = RedisKeys("here:")
    one_argument = (keys.versions, keys.secrets, keys.events)
    made = [key(project) for key in one_argument for project in ("a", "b", "a:b")]
    made += [getattr(keys, name) for name, part in inspect.getmembers(RedisKeys) if isinstance(part, property)]
    assert len(made) == len(set(made)) == 9 + 10
    assert all(key.startswith("here:") for key in made)
    assert RedisKeys().projects == "clip:projects"


@pytest.mark.parametrize("prefix", ["", "a b", "a\n", "é", "x" * 129])
def test_a_prefix_that_would_read_badly_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidRequest, match="prefix"):
        RedisStore("redis://localhost", prefix)


# What a Redis server must be

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


# What SQLite's errors mean


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (sqlite3.SQLITE_BUSY, "locked by another process"),
        (sqlite3.SQLITE_BUSY | 1 << 8, "locked by another process"),  # an extended code
        (sqlite3.SQLITE_FULL, "disk is full"),
        (sqlite3.SQLITE_READONLY, "write access"),
        (sqlite3.SQLITE_CANTOPEN, "directory exists"),
        (sqlite3.SQLITE_IOERR, "check the disk"),
        (sqlite3.SQLITE_CORRUPT, "restore it from a backup"),
        (sqlite3.SQLITE_NOTADB, "no SQLite database"),
        (sqlite3.SQLITE_ERROR, "failed"),
    ],
)
def test_errors_of_sqlite_name_the_file_and_say_what_to_do(code: int, words: str) -> None:
    error = sqlite3.OperationalError("sqlite's words")
    error.sqlite_errorcode = code
    with pytest.raises(StoreUnavailable, match=f"/x/clipper.db.*{words}"):
        raise sqlite_errors.translate(error, Path("/x/clipper.db"))


def test_a_wrong_statement_is_a_defect_of_the_platform_not_an_outage() -> None:
    assert isinstance(sqlite_errors.translate(sqlite3.ProgrammingError("x"), Path("/x")), InternalError)
    assert isinstance(sqlite_errors.translate(sqlite3.IntegrityError("x"), Path("/x")), InternalError)


# Records


def test_fields_of_a_newer_clipper_are_passed_over() -> None:
    assert decode(Project, b'{"name": "p", "created_at": 1.0, "colour": "red"}', "x") == Project(
        name="p", created_at=1.0
    )


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"name": 1, "created_at": 1.0}', b"\xff"])
def test_a_record_that_no_clipper_wrote_is_an_outage_that_names_the_store(data: bytes) -> None:
    with pytest.raises(StoreUnavailable, match="the store at redis://db holds a project that cannot be read"):
        decode(Project, data, "redis://db")


def test_a_key_is_stored_with_its_hash_and_nothing_more() -> None:
    key = Key(id="key_1", name="n", hash="ab", scopes=("admin",), created_at=1.0, revision=1)
    assert decode(Key, encode(key), "x") == key
    assert encode(key) == (
        b'{"id":"key_1","name":"n","hash":"ab","scopes":["admin"],"created_at":1.0,"revoked_at":null,"revision":1}'
    )


# The store in memory


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
