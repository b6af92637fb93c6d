"""Two platforms on one Redis server: neither disturbs what the other does, and each follows what the other changed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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

SLOW = """
import os, time
while not os.path.exists({gate!r}):
    time.sleep(0.02)
"""

FOLLOWED_WITHIN_S = 20.0  # a poll takes a second, a start of replicas some on a busy machine


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def first(redis: RedisServer, tmp_path: Path) -> Iterator[PlatformProcess]:
    with PlatformProcess(tmp_path / "first", ["--store", redis.url]) as platform:
        yield platform


def beside(first: PlatformProcess, redis: RedisServer, tmp_path: Path) -> PlatformProcess:
    """Another platform on the same store. It has the same bundles: stores do not share them yet."""
    home = tmp_path / "second"
    home.mkdir()
    (home / "bundles").symlink_to(first.home / "bundles")
    return PlatformProcess(home, ["--store", redis.url])


def project(tmp_path: Path, number: int, *, gate: Path | None = None) -> Path:
    app = APP.format(number=number) + (SLOW.format(gate=str(gate)) if gate else "")
    return write_project(tmp_path / "demo", app, 'name = "demo"\n')


def answer(platform: PlatformProcess) -> Any:
    response = platform.post("/fn/demo/which", {})
    return response.json() if response.is_success else response.status_code


def versions(platform: PlatformProcess) -> list[tuple[int, str]]:
    found = platform.clip("versions", "demo", "--json").json()
    return [(version["number"], version["state"]) for version in found["versions"]]


def test_a_platform_that_starts_while_another_deploys_leaves_the_deploy_alone(
    first: PlatformProcess, redis: RedisServer, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    directory = project(tmp_path, 1, gate=gate)
    with ThreadPoolExecutor(1) as executor:
        deploying = executor.submit(first.deploy, directory)
        try:
            eventually(lambda: redis.command("HEXISTS", "clip:versions:demo", "1") == b":1\r\n", within_s=60)
            with beside(first, redis, tmp_path) as second:
                eventually(lambda: versions(second) == [(1, "building")])
                gate.touch()
                assert deploying.result(60).json()["version"] == 1
                assert versions(first) == versions(second) == [(1, "ready")]
                eventually(lambda: answer(second) == 1, within_s=FOLLOWED_WITHIN_S)
        finally:
            gate.touch()
    assert answer(first) == 1


def test_what_one_platform_changes_counts_on_the_other(
    first: PlatformProcess, redis: RedisServer, tmp_path: Path
) -> None:
    first.deploy(project(tmp_path, 1))
    with beside(first, redis, tmp_path) as second:
        assert answer(second) == 1
        first.deploy(project(tmp_path, 2))
        eventually(lambda: answer(second) == 2, within_s=FOLLOWED_WITHIN_S)
        second.clip("rollback", "demo")
        eventually(lambda: answer(first) == 1, within_s=FOLLOWED_WITHIN_S)
        messages = [event["message"] for event in second.api("GET", "/projects/demo/events").json()["events"]]
        assert messages.count("version 1 answers: the stored route leads to it") == 1

        created = first.api("POST", "/keys", json={"name": "ci", "scopes": ["deploy"]}).json()
        login = {"Authorization": f"Bearer {created['key']}"}
        eventually(lambda: second.get("/api/v1/projects", headers=login).status_code == 200)
        assert first.api("DELETE", f"/keys/{created['id']}").is_success
        eventually(lambda: second.get("/api/v1/projects", headers=login).status_code == 401)

        policy = write_project(tmp_path / "policy", "", "", policy__toml="min_replicas = 2\nmax_replicas = 3\n")
        first.clip("policy", "apply", "demo/which", str(policy / "policy.toml"))
        eventually(lambda: second.status("demo/which")["replicas_wanted"] == 2, within_s=FOLLOWED_WITHIN_S)

        first.clip("delete", "demo", "--yes")
        eventually(lambda: answer(second) == 404, within_s=FOLLOWED_WITHIN_S)
        assert second.api("GET", "/projects").json()["projects"] == []
