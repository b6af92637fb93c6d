"""The Redis store against a real server that hangs, dies, comes back, refuses, or is not what it should be."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clipper_platform.errors import ClipperError, StoreUnavailable
from clipper_platform.store.base import Event, Project, Route, Version
from clipper_platform.store.redis import RedisStore
from tests.support.redis_server import RedisServer, running_redis
from tests.support.waiting import until

# What an operation may take when the server is gone: three steps of a second would be the longest way.
PATIENCE_S = 3.0


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """One that a test may stop. It keeps every write over a restart."""
    with running_redis(durable=True) as running:
        yield running


@pytest.fixture(scope="module")
def steady() -> Iterator[RedisServer]:
    """One for tests that leave it as it is."""
    with running_redis() as running:
        yield running


@asynccontextmanager
async def opened(url: str, prefix: str = "") -> AsyncIterator[RedisStore]:
    store = RedisStore(f"{url}?prefix={prefix or uuid.uuid4().hex}")
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def version(project: str = "digits") -> Version:
    return Version(project=project, number=0, created_at=1.0, manifest={}, bundle="b", environment="e")


async def refusal_within(seconds: float, *calls: object) -> list[str]:
    """All calls end in StoreUnavailable within the time; their words."""
    started = time.monotonic()
    results = await asyncio.gather(*calls, return_exceptions=True)  # type: ignore[call-overload]  # awaitables
    assert time.monotonic() - started < seconds
    assert [type(result) for result in results] == [StoreUnavailable] * len(calls)
    return [str(result) for result in results]


async def working_again(store: RedisStore) -> None:
    """Wait until the store answers; the caller does nothing else for it."""
    give_up = time.monotonic() + 10
    while True:
        try:
            return await store.changes(0)
        except StoreUnavailable:
            assert time.monotonic() < give_up, "the store does not find the server again"
            await asyncio.sleep(0.02)


async def test_a_server_that_hangs_is_an_outage_and_works_again_when_it_goes_on(server: RedisServer) -> None:
    async with opened(server.url) as store:
        await store.put_project(Project(name="digits", created_at=1.0))
        server.freeze()
        try:
            calls = [store.list_projects(), store.add_version(version()), store.changes(0), store.get_route("digits")]
            words = await refusal_within(PATIENCE_S, *calls)
            assert all(server.url in message for message in words)
            await refusal_within(PATIENCE_S, store.changes(0))
        finally:
            server.thaw()
        await working_again(store)
        assert [project.name for project in await store.list_projects()] == ["digits"]
        added = await store.add_version(version())
        # The one that was refused may have reached the server before it hung; no number is given out twice.
        assert [v.number for v in await store.list_versions("digits")] in ([added.number], [added.number, 1])


async def test_more_calls_than_connections_end_in_time_too(server: RedisServer) -> None:
    async with opened(server.url) as store:
        server.freeze()
        try:
            await refusal_within(PATIENCE_S + 1, *(store.list_projects() for _ in range(100)))
        finally:
            server.thaw()
        await working_again(store)
        await asyncio.gather(*(store.list_projects() for _ in range(100)))


async def test_a_server_that_dies_is_an_outage_and_works_again_after_a_restart(server: RedisServer) -> None:
    async with opened(server.url) as store:
        await store.put_project(Project(name="digits", created_at=1.0))
        await store.add_version(version())
        await store.set_route(Route(project="digits", version=1))
        await store.add_event(Event(project="digits", at=1.0, kind="deploy", message="one"))

        server.kill()
        calls = [store.changes(0), store.list_routes(), store.put_project(Project(name="x", created_at=1.0))]
        words = await refusal_within(PATIENCE_S, *calls)
        assert all("cannot be reached" in message for message in words)

        server.start()
        assert [route.version for route in await store.list_routes()] == [1]
        assert (await store.add_version(version())).number == 2
        assert (await store.add_event(Event(project="digits", at=2.0, kind="deploy", message="two"))).seq == 2


async def test_connections_kept_from_before_a_restart_fail_no_call_after_it(server: RedisServer) -> None:
    async with opened(server.url) as store:
        await asyncio.gather(*(store.list_projects() for _ in range(20)))  # fills the pool
        server.kill()
        server.start()
        await asyncio.gather(*(store.list_projects() for _ in range(20)))


async def test_a_server_that_dies_under_load_fails_calls_in_no_other_way(server: RedisServer) -> None:
    async with opened(server.url) as store:
        await store.put_project(Project(name="digits", created_at=1.0))
        answers: list[int] = []
        refusals: list[ClipperError] = []
        stop = asyncio.Event()

        async def write() -> None:
            while not stop.is_set():
                try:
                    answers.append((await store.add_version(version())).number)
                except StoreUnavailable as error:
                    refusals.append(error)
                    await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(write())
            await asyncio.sleep(0.2)
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(0.1)
            await asyncio.to_thread(server.start)
            await working_again(store)
            seen = len(answers)
            await asyncio.sleep(0.2)
            stop.set()

        assert refusals
        assert len(answers) > seen > 0
        assert len(set(answers)) == len(answers)
        assert {v.number for v in await store.list_versions("digits")} >= set(answers)


async def test_cancelled_calls_leave_every_connection_in_order(steady: RedisServer) -> None:
    async with opened(steady.url) as store:
        await store.put_project(Project(name="digits", created_at=1.0))
        for round_ in range(200):
            calls = [asyncio.ensure_future(store.get_project("digits")) for _ in range(10)]
            for _ in range(round_ % 12):
                await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        answers = await asyncio.gather(*(store.get_project("digits") for _ in range(50)), store.get_route("digits"))
        assert answers == [Project(name="digits", created_at=1.0)] * 50 + [None]


async def test_closing_waits_for_what_still_runs(steady: RedisServer) -> None:
    prefix = f"test-{uuid.uuid4().hex}:"
    store = RedisStore(f"{steady.url}?prefix={prefix}")
    await store.open()
    writing = asyncio.ensure_future(store.put_project(Project(name="digits", created_at=1.0)))
    await asyncio.sleep(0)
    writing.cancel()
    await store.close()
    async with opened(steady.url, prefix) as again:
        assert len(await again.list_projects()) in (0, 1)  # whole either way, and no task is left behind


async def test_a_server_that_is_not_there_is_refused_at_open_by_name(tmp_path: Path) -> None:
    store = RedisStore(f"unix://{tmp_path}/none.sock")
    with pytest.raises(StoreUnavailable, match=r"none\.sock cannot be reached"):
        await store.open()
    with pytest.raises(StoreUnavailable, match="is not open"):
        await store.changes(0)


async def test_a_password_is_needed_used_and_never_shown() -> None:
    with running_redis(tcp=True, password="s3cret") as server:
        host = f"127.0.0.1:{server.port}"
        async with opened(f"redis://:s3cret@{host}/3") as store:
            await store.put_project(Project(name="digits", created_at=1.0))
            assert store.url.startswith(f"redis://{host}/3?prefix=")
            assert server.command("SELECT", "3").startswith(b"+OK")
        for login in ("", ":wr0ng@", "nobody:s3cret@"):
            with pytest.raises(StoreUnavailable, match=f"redis://{host} refused") as caught:
                await RedisStore(f"redis://{login}{host}").open()
            assert "s3cret" not in str(caught.value)
            assert "wr0ng" not in str(caught.value)


async def test_a_tcp_server_that_hangs_before_the_first_answer_is_refused_in_time() -> None:
    with running_redis(tcp=True) as server:
        server.freeze()
        try:
            await refusal_within(PATIENCE_S, RedisStore(f"redis://127.0.0.1:{server.port}").open())
        finally:
            server.thaw()


async def test_a_replica_is_refused_at_open_and_a_server_that_becomes_one_is_an_outage(server: RedisServer) -> None:
    async with opened(server.url, "test:") as store:
        server.command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StoreUnavailable, match="read-only replica"):
            await store.put_project(Project(name="digits", created_at=1.0))
        with pytest.raises(StoreUnavailable, match="read-only replica: name its master"):
            await RedisStore(server.url).open()
        server.command("REPLICAOF", "NO", "ONE")
        await store.put_project(Project(name="digits", created_at=1.0))


async def test_a_server_without_memory_is_an_outage_that_says_so(server: RedisServer) -> None:
    async with opened(server.url) as store:
        await store.put_project(Project(name="digits", created_at=1.0))
        server.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StoreUnavailable, match="no memory left"):
            await store.set_secret("digits", "TOKEN", "x", expected=None)
        assert await store.get_secrets("digits") == {}
        server.command("CONFIG", "SET", "maxmemory", "0")
        await store.set_secret("digits", "TOKEN", "x", expected=None)


async def test_a_user_that_may_too_little_is_told_what_is_missing(server: RedisServer) -> None:
    server.command("ACL", "SETUSER", "default", "-eval")
    with pytest.raises(StoreUnavailable, match="grant it the store's keys, EVAL and INFO"):
        await RedisStore(server.url).open()


async def test_a_user_that_may_not_publish_writes_all_the_same_and_changes_are_polled(server: RedisServer) -> None:
    server.command("ACL", "SETUSER", "default", "resetchannels")
    async with opened(server.url) as store:
        await store.put_project(Project(name="digits", created_at=1.0))
        assert (await store.changes(0)).projects == {"digits"}
        async with asyncio.timeout(5):
            await store.wait_changed(0.05)


async def test_a_subscription_that_the_server_ended_is_made_again(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipper_platform.store.redis_connection.LISTEN_S", 0.05)
    async with opened(server.url) as store:
        await store.wait_changed(0.1)  # subscribes
        server.kill()
        server.start()
        await working_again(store)
        waiting = asyncio.ensure_future(store.wait_changed(60))
        async with asyncio.timeout(20):
            number = 0
            while not waiting.done():
                number += 1
                await store.put_project(Project(name=f"p{number}", created_at=1.0))
                await asyncio.wait([waiting], timeout=0.02)


async def test_a_server_that_hides_its_settings_is_fine(server: RedisServer) -> None:
    server.command("ACL", "SETUSER", "default", "-config")
    async with opened(server.url) as store:
        await store.changes(0)


async def test_a_server_that_keeps_nothing_gets_a_warning(
    steady: RedisServer, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with opened(server.url):
            assert caplog.messages == []
        async with opened(steady.url):
            assert "keeps nothing on disk" in caplog.text


async def test_data_of_a_newer_clipper_is_left_alone(steady: RedisServer) -> None:
    steady.command("SET", "newer:schema", "3")
    with pytest.raises(StoreUnavailable, match="newer Clipper"):
        await RedisStore(f"{steady.url}?prefix=newer").open()
    assert b"3" in steady.command("GET", "newer:schema")


async def test_keys_that_hold_something_else_are_an_outage_not_a_crash(steady: RedisServer) -> None:
    async with opened(steady.url, "other:") as store:
        steady.command("SET", "other:projects", "a string")
        with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
            await store.list_projects()
        with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
            await store.add_version(version())
        steady.command("DEL", "other:projects")
        steady.command("HSET", "other:projects", "digits", "not json")
        with pytest.raises(StoreUnavailable, match="a project that cannot be read"):
            await store.get_project("digits")


async def test_two_prefixes_on_one_server_do_not_meet(steady: RedisServer) -> None:
    async with opened(steady.url, "one:") as one, opened(steady.url, "two:") as two:
        await one.put_project(Project(name="digits", created_at=1.0))
        assert await two.list_projects() == []


async def test_deleting_a_project_leaves_its_counters_and_nothing_else(server: RedisServer) -> None:
    async with opened(server.url, "clean:") as store:
        await store.put_project(Project(name="digits", created_at=1.0))
        await store.add_version(version())
        await store.set_route(Route(project="digits", version=1))
        await store.set_secret("digits", "TOKEN", "x", expected=None)
        await store.add_event(Event(project="digits", at=1.0, kind="k", message="m"))
        await store.delete_project(Project(name="digits", created_at=1.0))
        left = server.command("KEYS", "*")
    assert sorted(word for word in left.split() if word.startswith(b"clean:")) == [
        b"clean:changes",
        b"clean:id",
        b"clean:last-event",
        b"clean:last-version",
        b"clean:revision",
        b"clean:schema",
    ]


async def test_no_connection_is_left_open(server: RedisServer) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        async with opened(server.url) as store:
            await asyncio.gather(*(store.list_projects() for _ in range(20)))
    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


async def test_a_server_that_starts_later_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running_redis() as server:
        server.kill()
        store = RedisStore(server.url, wait_s=20)
        opening = asyncio.create_task(store.open())
        await until(lambda: "trying again for" in caplog.text)
        assert not opening.done()
        server.start()
        async with asyncio.timeout(10):
            await opening
        assert await store.list_projects() == []
        await store.close()


async def test_waiting_for_a_server_ends_and_a_wrong_password_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await RedisStore(f"unix://{tmp_path}/none.sock", wait_s=0.3).open()
    with running_redis(tcp=True, password="right") as server:
        async with asyncio.timeout(10):
            with pytest.raises(StoreUnavailable, match="refused the user name or password"):
                await RedisStore(f"redis://:wrong@127.0.0.1:{server.port}", wait_s=60).open()
