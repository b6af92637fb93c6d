"""The platform stops, is killed, loses its store: routes come back, nothing is orphaned, serving goes on."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.platform import CLIP, PlatformProcess, eventually, processes_of, write_project
from tests.support.redis_server import running_redis

pytestmark = pytest.mark.timeout(180)

APP = """
import os, subprocess, time
import clipper

@clipper.function()
def pid() -> int:
    return os.getpid()

@clipper.function()
def child() -> int:
    return subprocess.Popen(["sleep", "600"]).pid
"""


def gone(pid: int) -> bool:
    """Whether it runs no more. A container without an init keeps the entry of an adopted child: a zombie is gone."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def answer_of(platform: PlatformProcess, path: str) -> httpx.Response:
    """The first answer that is none of a platform that is still starting replicas."""

    def ask() -> httpx.Response | None:
        answer = platform.post(f"/fn/{path}", json={})
        return answer if answer.is_success else None

    return eventually(ask)


def deploy(platform: PlatformProcess, tmp_path: Path, app: str = APP, name: str = "demo") -> str:
    platform.deploy(write_project(tmp_path / name, app, f'name = "{name}"\n'))
    return name


def test_a_stored_version_that_no_longer_validates_is_unavailable_with_the_reason(
    own_platform: PlatformProcess, tmp_path: Path
) -> None:
    deploy(own_platform, tmp_path)
    deploy(own_platform, tmp_path, name="other")
    own_platform.stop()
    with contextlib.closing(sqlite3.connect(own_platform.home / "clipper.db")) as db:
        (record,) = db.execute("SELECT record FROM versions WHERE project = 'demo'").fetchone()
        db.execute(
            "UPDATE versions SET record = ? WHERE project = 'demo'", (record.replace(b"timeout_s", b"timeout_x"),)
        )
        db.commit()
    own_platform.start()
    answer = own_platform.post("/fn/demo/pid", {})
    assert answer.status_code == 503
    assert "timeout_x" in answer.json()["error"]["message"]
    assert answer_of(own_platform, "other/pid").is_success
    status = own_platform.status("demo/pid")
    assert (status["state"], status["version"]) == ("failed", 1)
    assert "timeout_x" in own_platform.clip("status", "demo").out
    assert "demo/pid" in own_platform.clip("list").out
    deploy(own_platform, tmp_path)
    assert answer_of(own_platform, "demo/pid").is_success


def test_schedules_in_any_zone_work_on_a_machine_without_zone_data(tmp_path: Path) -> None:
    app = """
import clipper

@clipper.function(autoscaling={"schedule": [
    {"cron": "0 8 * * *", "duration_s": 60, "min_replicas": 1, "timezone": "UTC"},
    {"cron": "0 8 * * *", "duration_s": 60, "min_replicas": 1, "timezone": "Europe/Berlin"},
]})
def f() -> int:
    return 1
"""
    with PlatformProcess(tmp_path / "home", env={"PYTHONTZPATH": str(tmp_path / "nothing")}) as platform:
        deploy(platform, tmp_path, app)
        assert platform.call("demo/f") == 1


def test_a_restart_brings_every_route_back(own_platform: PlatformProcess, tmp_path: Path) -> None:
    deploy(own_platform, tmp_path)
    deploy(own_platform, tmp_path, APP + "\n# the second version\n")
    deploy(own_platform, tmp_path, name="other")
    own_platform.clip("rollback", "demo")
    before = own_platform.call("demo/pid")
    key = own_platform.api_key

    own_platform.stop()
    own_platform.start()

    assert own_platform.api_key == key
    answer = answer_of(own_platform, "demo/pid")
    assert answer.headers["x-clip-version"] == "1"
    assert answer.json() != before
    assert eventually(lambda: own_platform.post("/fn/other/pid", json={}).is_success)
    listed = own_platform.clip("versions", "demo", "--json").json()["versions"]
    assert [(v["number"], v["current"]) for v in listed] == [(2, False), (1, True)]


def test_kill_9_leaves_no_orphan_and_the_next_start_works(own_platform: PlatformProcess, tmp_path: Path) -> None:
    deploy(own_platform, tmp_path)
    replica, child = own_platform.call("demo/pid"), own_platform.call("demo/child")
    assert psutil.pid_exists(replica)
    assert psutil.pid_exists(child)
    assert len(processes_of(own_platform.home)) >= 3

    own_platform.kill()
    own_platform.assert_nothing_left(within_s=15)
    eventually(lambda: gone(child))

    own_platform.start()
    assert eventually(lambda: own_platform.post("/fn/demo/pid", json={}).is_success)


def test_kill_9_during_a_deploy_leaves_nothing_half_done(own_platform: PlatformProcess, tmp_path: Path) -> None:
    deploy(own_platform, tmp_path)
    slow = APP.replace("import clipper", "import clipper\ntime.sleep(600)", 1)
    write_project(tmp_path / "demo", slow, 'name = "demo"\n')
    running = subprocess.Popen(
        [CLIP, "deploy", str(tmp_path / "demo")],
        env=own_platform.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        eventually(lambda: len(own_platform.api("GET", "/projects/demo/versions").json()["versions"]) == 2, within_s=30)
        own_platform.kill()
        out, _ = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 1, out
    assert b"Traceback" not in out, out
    own_platform.assert_nothing_left(within_s=15)

    own_platform.start()
    answer = answer_of(own_platform, "demo/pid")
    assert answer.headers["x-clip-version"] == "1"
    states = {v["number"]: v["state"] for v in own_platform.clip("versions", "demo", "--json").json()["versions"]}
    assert states[1] == "ready"
    assert states.get(2) != "ready"
    deploy(own_platform, tmp_path, APP + "\n# mended\n")
    assert own_platform.post("/fn/demo/pid", json={}).headers["x-clip-version"] == "3"


def test_a_second_platform_on_the_same_home_or_port_says_so(own_platform: PlatformProcess, tmp_path: Path) -> None:
    same_home = own_platform.clip("up", "--home", own_platform.home, "--port", "0", check=False, timeout_s=30)
    assert same_home.code == 1, same_home
    assert str(own_platform.process.pid if own_platform.process else "") in same_home.err or "home" in same_home.err
    same_port = own_platform.clip(
        "up", "--home", tmp_path / "another", "--port", str(own_platform.port), check=False, timeout_s=30
    )
    assert same_port.code == 1, same_port
    assert str(own_platform.port) in same_port.err
    for refused in (same_home, same_port):
        assert "Traceback" not in refused.err
    assert own_platform.get("/readyz").is_success


def test_the_files_of_the_platform_are_its_owners_alone(own_platform: PlatformProcess) -> None:
    for name in ("api_key", "platform.json"):
        assert (own_platform.home / name).stat().st_mode & 0o077 == 0
    found = json.loads((own_platform.home / "platform.json").read_text())
    assert found["url"] == own_platform.url
    assert psutil.pid_exists(found["pid"])
    own_platform.stop()
    assert not (own_platform.home / "platform.json").exists()


def test_losing_redis_leaves_serving_untouched(tmp_path: Path) -> None:
    with (
        running_redis(durable=True, tcp=True) as redis,
        PlatformProcess(tmp_path / "home", args=["--store", f"redis://127.0.0.1:{redis.port}/0"]) as platform,
    ):
        deploy(platform, tmp_path)
        before = platform.call("demo/pid")
        redis.kill()

        for _ in range(50):
            assert platform.call("demo/pid") == before
        refused = platform.api("POST", "/keys", json={"name": "k", "scopes": ["invoke"]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
        write_project(tmp_path / "demo", APP + "\n# next\n", 'name = "demo"\n')
        degraded = eventually(lambda: platform.get("/readyz").json().get("degraded"), within_s=15)
        assert any("store" in part for part in degraded), degraded
        assert platform.get("/healthz").is_success
        assert "redis" in platform.log().lower()

        redis.start()
        eventually(
            lambda: platform.api("POST", "/keys", json={"name": "k", "scopes": ["invoke"]}).is_success, within_s=20
        )
        eventually(lambda: not platform.get("/readyz").json().get("degraded"), within_s=20)
        assert platform.call("demo/pid") == before
        platform.deploy(tmp_path / "demo")
        assert platform.post("/fn/demo/pid", json={}).headers["x-clip-version"] == "2"

        platform.stop()
        platform.start()
        assert answer_of(platform, "demo/pid").headers["x-clip-version"] == "2"


def test_a_store_that_is_not_there_at_the_start_is_named(tmp_path: Path) -> None:
    with socket.socket() as held:  # bound and not listening: whoever connects is refused
        held.bind(("127.0.0.1", 0))
        store = f"redis://127.0.0.1:{held.getsockname()[1]}/0"
        home = tmp_path / "home"
        refused = PlatformProcess(home).clip(
            "up", "--home", home, "--port", "0", "--store", store, check=False, timeout_s=60
        )
    assert refused.code == 1, refused
    assert store.removesuffix("/0").removeprefix("redis://") in refused.err
    assert "Traceback" not in refused.err
