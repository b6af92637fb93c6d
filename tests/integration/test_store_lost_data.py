"""A Redis that loses its data under a running platform: what the platform knows is written back, the rest is named."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.platform import PlatformProcess, eventually, write_project
from tests.support.redis_server import RedisServer, running_redis

pytestmark = pytest.mark.timeout(180)

APP = """
import clipper

@clipper.function()
def which() -> int:
    return {number}
"""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def platform(redis: RedisServer, tmp_path: Path) -> Iterator[PlatformProcess]:
    with PlatformProcess(tmp_path / "home", ["--store", redis.url]) as platform:
        yield platform


def project(tmp_path: Path, number: int, name: str = "demo") -> Path:
    return write_project(tmp_path / name, APP.format(number=number), f'name = "{name}"\n')


def answer(platform: PlatformProcess) -> object:
    response = platform.post("/fn/demo/which", {})
    return response.json() if response.is_success else response.text


def degraded(platform: PlatformProcess) -> str:
    return " ".join(platform.get("/readyz").json()["degraded"])


def test_a_deploy_right_after_all_data_was_lost_has_the_next_number_and_answers(
    platform: PlatformProcess, redis: RedisServer, tmp_path: Path
) -> None:
    for number in (1, 2, 3):
        platform.deploy(project(tmp_path, number))
    redis.command("FLUSHALL")
    deployed = platform.deploy(project(tmp_path, 4)).json()
    assert deployed["version"] == 4
    assert answer(platform) == 4
    platform.clip("rollback", "demo")
    assert answer(platform) == 3
    assert "it lost data" in degraded(platform)
    assert "it lost data" in platform.clip("status", "demo").out
    assert "it lost data" in platform.clip("deploy", str(project(tmp_path, 5))).out
    platform.clip("key", "list")  # the admin key was written back
    platform.stop()
    platform.start()
    assert answer(platform) == 5


def test_calls_go_on_while_data_is_lost_again_and_again(
    platform: PlatformProcess, redis: RedisServer, tmp_path: Path
) -> None:
    platform.deploy(project(tmp_path, 1))
    answers: list[object] = []
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            answers.append(answer(platform))

    thread = threading.Thread(target=call)
    thread.start()
    try:
        for number in (2, 3, 4):
            redis.command("FLUSHALL")
            assert platform.deploy(project(tmp_path, number)).json()["version"] == number
            assert answer(platform) == number
    finally:
        stop.set()
        thread.join()
    assert set(map(str, answers)) == {"1", "2", "3", "4"}
    assert answers == sorted(answers, key=str)


def test_a_server_that_starts_again_without_a_disk_gets_back_what_the_platform_knows(
    platform: PlatformProcess, redis: RedisServer, tmp_path: Path
) -> None:
    platform.deploy(project(tmp_path, 1))
    platform.deploy(project(tmp_path, 2))
    platform.clip("secret", "set", "demo", "TOKEN", text="hello")
    platform.deploy(project(tmp_path, 3))
    redis.kill()
    eventually(lambda: "cannot be used" in degraded(platform))
    assert answer(platform) == 3
    redis.start()
    eventually(lambda: "secrets may be" in degraded(platform))
    eventually(lambda: "the secrets TOKEN are those that were read last" in platform.clip("status", "demo").out)
    assert platform.clip("secret", "list", "demo", "--json").json()["secrets"] == ["TOKEN"]
    assert platform.deploy(project(tmp_path, 4)).json()["version"] == 4
    assert answer(platform) == 4


def test_platforms_with_different_prefixes_on_one_server_do_not_see_each_other(
    redis: RedisServer, tmp_path: Path
) -> None:
    with (
        PlatformProcess(tmp_path / "a", ["--store", f"{redis.url}?prefix=team-a"]) as a,
        PlatformProcess(tmp_path / "b", ["--store", f"{redis.url}?prefix=team-b"]) as b,
    ):
        a.deploy(project(tmp_path, 1))
        b.deploy(project(tmp_path, 2))
        a.deploy(project(tmp_path, 3))
        assert (answer(a), answer(b)) == (3, 2)
        assert (len(a.clip("versions", "demo", "--json").json()["versions"]), answer(b)) == (2, 2)
        b.clip("delete", "demo", "--yes")
        assert answer(a) == 3
        keys = redis.command("KEYS", "*").split()
        assert all(key.startswith((b"team-a:", b"team-b:")) for key in keys if not key.startswith((b"*", b"$")))


def test_two_platforms_write_back_the_data_that_they_shared(
    platform: PlatformProcess, redis: RedisServer, tmp_path: Path
) -> None:
    home = tmp_path / "second"
    home.mkdir()
    (home / "bundles").symlink_to(platform.home / "bundles")
    platform.deploy(project(tmp_path, 1))
    with PlatformProcess(home, ["--store", redis.url]) as second:
        second.deploy(project(tmp_path, 2))
        eventually(lambda: answer(platform) == 2)
        redis.command("FLUSHALL")
        assert platform.deploy(project(tmp_path, 3)).json()["version"] == 3
        eventually(lambda: answer(second) == 3)
        redis.command("FLUSHALL")
        assert second.deploy(project(tmp_path, 4)).json()["version"] == 4
        eventually(lambda: answer(platform) == 4)
        second.clip("delete", "demo", "--yes")
        eventually(lambda: platform.api("GET", "/projects").json()["projects"] == [])


def test_a_platform_that_starts_before_its_redis_waits_for_it(tmp_path: Path) -> None:
    with running_redis() as redis:
        redis.kill()
        platform = PlatformProcess(tmp_path / "home", ["--store", redis.url])

        def start_redis() -> None:
            eventually(lambda: "trying again for" in platform.log(), within_s=20)
            redis.start()

        later = threading.Thread(target=start_redis)
        later.start()
        try:
            with platform:
                platform.deploy(project(tmp_path, 1))
                assert answer(platform) == 1
        finally:
            later.join()


@pytest.mark.parametrize("key", ["routes", "versions:demo", "projects", "keys", "last-version"])
def test_a_key_that_the_server_evicted_costs_no_project(
    platform: PlatformProcess, redis: RedisServer, tmp_path: Path, key: str
) -> None:
    """As a server with `allkeys-lru` does when its memory is full. The next deploy meets what is missing."""
    platform.deploy(project(tmp_path, 1))
    platform.deploy(project(tmp_path, 2))
    redis.command("DEL", f"clip:{key}")
    assert platform.deploy(project(tmp_path, 3)).json()["version"] == 3
    assert answer(platform) == 3
    eventually(lambda: platform.clip("rollback", "demo", check=False).code == 0, within_s=15)
    assert answer(platform) == 2


def test_a_server_that_really_evicts_keys_is_warned_of_and_costs_no_project(redis: RedisServer, tmp_path: Path) -> None:
    redis.command("CONFIG", "SET", "maxmemory", "3mb")
    redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
    with PlatformProcess(tmp_path / "home", ["--store", redis.url]) as platform:
        assert "drops keys when its memory is full" in platform.log()
        platform.deploy(project(tmp_path, 1))
        for number in range(300):
            redis.command("SET", f"other:{number}", "x" * 50_000)
            assert answer(platform) == 1
        redis.command("CONFIG", "SET", "maxmemory", "0")
        eventually(lambda: b"demo" in redis.command("HKEYS", "clip:routes"), within_s=15)
        platform.deploy(project(tmp_path, 2))
        assert answer(platform) == 2
