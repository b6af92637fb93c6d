"""The platform ends, by a signal or by kill -9: what was admitted, and what is there after."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.platform import CLIP, PlatformProcess, eventually, write_project

pytestmark = pytest.mark.timeout(180)

APP = """
import os, time
import clipper

@clipper.function(max_ongoing_requests=4)
def nap(seconds: float) -> str:
    open(os.environ["MARK"], "a").write("x")
    time.sleep(seconds)
    return "rested"

@clipper.function(graceful_shutdown_timeout_s=1)
def hang() -> str:
    open(os.environ["MARK"], "a").write("x")
    time.sleep(600)
    return "never"

@clipper.function()
def pid() -> int:
    return os.getpid()
"""


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that a call writes to when it runs."""
    return tmp_path / "mark"


def deployed(platform: PlatformProcess, tmp_path: Path, mark: Path, toml: str = "", tail: str = "") -> Path:
    code = APP.replace('os.environ["MARK"]', repr(str(mark))) + tail
    directory = write_project(tmp_path / "demo", code, f'name = "demo"\n{toml}')
    platform.deploy(directory)
    return directory


class Call(threading.Thread):
    """One call in the background; `met` is its status, or the error that the connection ended with."""

    def __init__(self, platform: PlatformProcess, function: str, arguments: object) -> None:
        super().__init__(daemon=True)
        self.met: object = None
        self._ask = lambda: platform.post(f"/fn/demo/{function}", arguments).status_code
        self.start()

    def run(self) -> None:
        try:
            self.met = self._ask()
        except httpx.HTTPError as error:
            self.met = error


def end(platform: PlatformProcess, within_s: float) -> float:
    assert platform.process is not None
    began = time.monotonic()
    platform.process.send_signal(signal.SIGTERM)
    platform.process.wait(within_s)
    return time.monotonic() - began


def test_sigterm_answers_what_was_admitted(own_platform: PlatformProcess, tmp_path: Path, mark: Path) -> None:
    deployed(own_platform, tmp_path, mark)
    calls = [Call(own_platform, "nap", {"seconds": 1.5}) for _ in range(3)]
    eventually(mark.exists)
    time.sleep(0.2)  # the others are admitted by now
    end(own_platform, within_s=30)
    for call in calls:
        call.join(30)
    assert [call.met for call in calls] == [200, 200, 200]
    own_platform.assert_nothing_left()


def test_sigterm_does_not_wait_for_ever(tmp_path: Path, mark: Path) -> None:
    with PlatformProcess(tmp_path / "home", env={"CLIP_SHUTDOWN_TIMEOUT_S": "2"}) as platform:
        deployed(platform, tmp_path, mark)
        call = Call(platform, "hang", {})
        eventually(mark.exists)
        seconds = end(platform, within_s=30)
        assert seconds < 20, "2 s for connections, 1 s for the function, and what a busy machine adds"
        call.join(30)
        assert not call.is_alive()
        assert call.met != 200
        platform.assert_nothing_left()


def test_after_kill_9_the_route_of_a_rollback_stands(own_platform: PlatformProcess, tmp_path: Path, mark: Path) -> None:
    deployed(own_platform, tmp_path, mark)
    deployed(own_platform, tmp_path, mark, tail="\n# the second\n")
    own_platform.clip("rollback", "demo")
    own_platform.kill()
    own_platform.assert_nothing_left(within_s=15)  # the warm version 2 is gone too
    own_platform.start()
    answer = eventually(lambda: (a := own_platform.post("/fn/demo/pid", {})).is_success and a)
    assert answer.headers["x-clip-version"] == "1"


@pytest.mark.parametrize("strategy", ["canary", "recreate"])
def test_kill_9_in_the_middle_of_a_deploy_comes_back_with_the_version_before(
    own_platform: PlatformProcess, tmp_path: Path, mark: Path, strategy: str
) -> None:
    deployed(own_platform, tmp_path, mark)
    canary = strategy == "canary"

    def in_the_middle(answer: httpx.Response) -> bool:
        return answer.headers.get("x-clip-version") == "2" if canary else answer.status_code == 503

    toml = f'name = "demo"\n[deploy]\nstrategy = "{strategy}"\n' + ("steps = [50, 100]\nstep_s = 600\n" * canary)
    code = APP.replace('os.environ["MARK"]', repr(str(mark))) + ("" if canary else "\ntime.sleep(600)\n")
    write_project(tmp_path / "demo", code, toml)
    deploying = subprocess.Popen(
        [CLIP, "deploy", str(tmp_path / "demo")],
        env=own_platform.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: in_the_middle(own_platform.post("/fn/demo/pid", {})), within_s=30)
        own_platform.kill()
        deploying.wait(60)
    finally:
        deploying.kill()
        deploying.wait(10)
    own_platform.assert_nothing_left(within_s=15)
    own_platform.start()
    eventually(lambda: own_platform.post("/fn/demo/pid", {}).is_success)
    for _ in range(10):
        assert own_platform.post("/fn/demo/pid", {}).headers["x-clip-version"] == "1"
    states = {v["number"]: v["state"] for v in own_platform.clip("versions", "demo", "--json").json()["versions"]}
    assert states == {1: "ready", 2: "failed"}


def test_the_end_of_the_terminal_drains_as_sigterm_does(
    own_platform: PlatformProcess, tmp_path: Path, mark: Path
) -> None:
    deployed(own_platform, tmp_path, mark)
    call = Call(own_platform, "nap", {"seconds": 1.5})
    eventually(mark.exists)
    assert own_platform.process is not None
    own_platform.process.send_signal(signal.SIGHUP)
    assert own_platform.process.wait(20) == 0
    call.join()
    assert call.met == 200


def test_a_second_interrupt_ends_it_at_once(own_platform: PlatformProcess, tmp_path: Path, mark: Path) -> None:
    deployed(own_platform, tmp_path, mark)
    call = Call(own_platform, "nap", {"seconds": 60})
    eventually(mark.exists)
    assert own_platform.process is not None
    own_platform.process.send_signal(signal.SIGINT)
    eventually(lambda: "SIGINT: draining" in own_platform.log())
    own_platform.process.send_signal(signal.SIGINT)
    assert own_platform.process.wait(5) == 128 + signal.SIGINT
    call.join()
    assert not (own_platform.home / "platform.json").exists()
    own_platform.assert_nothing_left()


@pytest.mark.skipif(
    subprocess.run(["unshare", "-pf", "--mount-proc", "true"], capture_output=True).returncode != 0,
    reason="no namespaces here",
)
def test_as_process_1_it_reaps_the_orphans_of_functions(tmp_path: Path) -> None:
    code = """
import subprocess
import clipper

@clipper.function()
def orphan() -> int:
    subprocess.run(["sh", "-c", "setsid sleep 0.1 &"])
    return 1
"""
    platform = PlatformProcess(tmp_path / "home")
    command = ["unshare", "-pf", "--mount-proc", CLIP, "up", "--home", str(platform.home), "--port", "0"]
    with platform.log_path.open("ab") as log:
        outer = subprocess.Popen(command, env=platform.environment(), stdout=log, stderr=log)
    eventually(lambda: (platform.home / "platform.json").exists(), within_s=30, what=platform.log())
    (inner,) = psutil.Process(outer.pid).children()
    try:
        platform.url = json.loads((platform.home / "platform.json").read_text())["url"]
        platform.deploy(write_project(tmp_path / "demo", code, 'name = "demo"\n'))
        for _ in range(5):
            platform.call("demo/orphan")

        def zombies() -> int:
            return sum(child.status() == psutil.STATUS_ZOMBIE for child in inner.children())

        eventually(lambda: zombies() == 5, within_s=5)
        eventually(lambda: zombies() == 0, within_s=20)
    finally:
        inner.terminate()
        outer.wait(20)
