"""Data of the schema before, whose versions, keys and policies had no revision, opens and changes as any other."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest

from clipper_platform.errors import Conflict
from clipper_platform.store.base import MetadataStore
from clipper_platform.store.redis import RedisStore
from clipper_platform.store.sqlite import SqliteStore
from clipper_platform.store.sqlite_schema import APPLICATION_ID, MIGRATIONS
from tests.support.redis_server import running_redis

# As the stores of that schema wrote them.
PROJECT = '{"name":"digits","created_at":1.0}'
READY = (
    '{"project":"digits","number":1,"created_at":1.0,"manifest":{"project":"digits"},"bundle":"b","environment":"e",'
    '"schemas":{"f":{}},"state":"ready","detail":""}'
)
BUILDING = READY.replace('"number":1', '"number":2').replace('"ready"', '"building"')
ROUTE = '{"project":"digits","version":1,"previous":null,"revision":1,"updated_at":1.0}'
KEY = '{"id":"key_1","name":"n","hash":"h","scopes":["admin"],"created_at":1.0,"revoked_at":null}'
POLICY = '{"project":"digits","function":"f","policy":{"min_replicas":1},"digest":"d","applied_at":1.0,"declared":"e"}'


async def changes_as_any_other(store: MetadataStore) -> None:
    await store.open()
    ready, building = await store.get_version("digits", 1), await store.get_version("digits", 2)
    (route,), (key,), (policy,) = await store.list_routes(), await store.list_keys(), await store.list_policies()
    assert [r.revision for r in (ready, building, route, key, policy)] == [1] * 5
    assert (building.state, building.builder) == ("building", "")
    assert await store.get_secrets("digits") == {"TOKEN": "x"}

    changed = msgspec.structs.replace
    assert (await store.update_version(changed(building, state="failed"))).revision == 2
    assert (await store.set_route(changed(route, version=2))).revision == 2
    assert (await store.put_key(changed(key, revoked_at=2.0))).revision == 2
    assert (await store.put_policy(changed(policy, applied_at=2.0))).revision == 2
    with pytest.raises(Conflict):
        await store.put_key(changed(key, revoked_at=3.0))
    with pytest.raises(Conflict):
        await store.put_policy(changed(policy, revision=0))
    assert (await store.add_version(building)).number == 3
    await store.close()


async def test_a_sqlite_file_of_the_schema_before(tmp_path: Path) -> None:
    path = tmp_path / "clipper.db"
    with sqlite3.connect(path) as db:
        for statement in MIGRATIONS[0]:
            db.execute(statement)
        db.execute("PRAGMA user_version = 1")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute("INSERT INTO projects VALUES ('digits', ?)", (PROJECT.encode(),))
        db.execute("INSERT INTO counters VALUES ('digits', 'version', 2)")
        for number, record in enumerate((READY, BUILDING), 1):
            db.execute("INSERT INTO versions VALUES ('digits', ?, ?)", (number, record.encode()))
        db.execute("INSERT INTO routes VALUES ('digits', ?)", (ROUTE.encode(),))
        db.execute("INSERT INTO keys VALUES ('key_1', ?)", (KEY.encode(),))
        db.execute("INSERT INTO policies VALUES ('digits', 'f', ?)", (POLICY.encode(),))
        db.execute("INSERT INTO secrets VALUES ('digits', 'TOKEN', 'x')")
    db.close()
    await changes_as_any_other(SqliteStore(path))


async def test_redis_data_of_the_schema_before_is_raised_to_this_one() -> None:
    with running_redis() as server:
        server.command("SET", "old:schema", "1")
        server.command("HSET", "old:projects", "digits", PROJECT)
        server.command("HSET", "old:last-version", "digits", "2")
        server.command("HSET", "old:versions:digits", "1", READY, "2", BUILDING)
        server.command("HSET", "old:routes", "digits", ROUTE)
        server.command("HSET", "old:keys", "key_1", KEY)
        server.command("HSET", "old:policies", "digits/f", POLICY)
        server.command("HSET", "old:secrets:digits", "TOKEN", "x")
        await changes_as_any_other(RedisStore(f"{server.url}?prefix=old"))
        assert server.command("GET", "old:schema") == b"$1\r\n2\r\n"
