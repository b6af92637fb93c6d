"""What happens to calls that run, and to calls that wait, when their replica or their version is taken away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Deploy
from tests.support.platform import PlatformProcess, eventually, write_project

pytestmark = pytest.mark.timeout(120)

APP = """
import os, pathlib, time
import clipper

@clipper.function({options})
def work(s: float = 0, mark: str = "") -> str:
    if mark:
        with open(mark, "a") as file:
            file.write("x")
    time.sleep(s)
    return "version {version}"
"""
WARM = "[deploy]\nkeep_previous_s = 0\n"  # the version that was replaced drains at once


class Project:
    """A project with `work`, and calls of it in the background."""

    def __init__(self, platform: PlatformProcess, deploy: Deploy, directory: Path, threads: ThreadPoolExecutor) -> None:
        self.platform = platform
        self._deploy = deploy
        self._threads = threads
        self._directory = directory
        self._marks = 0
        self.name = ""

    def deploy(self, options: str = "", version: int = 1) -> None:
        self.name = self._deploy(APP.format(options=options, version=version), WARM, name=self.name or None)

    def call(self, s: float, version: str = "", **arguments: object) -> Future[httpx.Response]:
        body = {"s": s, **arguments}
        return self._threads.submit(self.platform.post, f"/fn/{self.name}/work{version}", body)

    def running(self, s: float) -> tuple[Future[httpx.Response], Path]:
        """A call that has begun, and the file to which each run of it adds a letter."""
        self._marks += 1
        mark = self._directory / f"mark-{self._marks}"
        call = self.call(s, mark=str(mark))
        eventually(mark.exists)
        return call, mark


@pytest.fixture
def project(platform: PlatformProcess, deploy: Deploy, tmp_path: Path) -> Iterator[Project]:
    with ThreadPoolExecutor(16) as threads:
        yield Project(platform, deploy, tmp_path, threads)


def redeploy(project: Project) -> None:
    project.deploy("timeout_s=20, graceful_shutdown_timeout_s=1", version=2)


def restart(project: Project) -> None:
    project.platform.clip("restart", project.name)


def delete(project: Project) -> None:
    project.platform.clip("delete", project.name, "--yes")


def scale_down(project: Project) -> None:
    policy = project.platform.home / "policy.toml"
    policy.write_text("min_replicas = 0\nmax_replicas = 1\ndownscale_delay_s = 0\n")
    project.platform.clip("policy", "apply", f"{project.name}/work", policy)


def roll_back(project: Project) -> None:
    project.platform.clip("rollback", project.name)


TAKING_AWAY = [redeploy, restart, delete, scale_down, roll_back]


@pytest.mark.parametrize("take_away", TAKING_AWAY)
def test_a_call_that_runs_ends_whatever_takes_its_replica_away(
    project: Project, take_away: Callable[[Project], None]
) -> None:
    options = "timeout_s=20, min_replicas=2, max_replicas=2"
    project.deploy(options)
    if take_away is roll_back:
        project.deploy(options, version=2)
    calls = [project.running(3) for _ in range(2)]  # one on each replica
    take_away(project)
    for call, mark in calls:
        answer = call.result(30)
        assert answer.status_code == 200, answer.text
        assert mark.read_text() == "x", "it ran once"


@pytest.mark.parametrize("take_away", TAKING_AWAY)
def test_a_call_that_is_cut_off_is_lost_or_runs_again_and_never_refused_as_if_it_had_not_begun(
    project: Project, take_away: Callable[[Project], None]
) -> None:
    options = "timeout_s=20, graceful_shutdown_timeout_s=1, max_retries=0, min_replicas=2, max_replicas=2"
    project.deploy(options)
    if take_away is roll_back:
        project.deploy(options, version=2)
    calls = [project.running(12) for _ in range(2)]
    take_away(project)
    answers = [(call.result(40), mark.read_text()) for call, mark in calls]
    codes = sorted(answer.status_code for answer, _ in answers)
    assert codes == ([200, 502] if take_away is scale_down else [502, 502])
    for answer, runs in answers:
        assert runs == "x"
        assert "retry-after" not in answer.headers
        assert answer.status_code == 200 or answer.json()["error"]["code"] == "replica_lost"


@pytest.mark.parametrize("take_away", [redeploy, restart, roll_back])
def test_calls_that_wait_are_answered_by_what_comes_next(
    project: Project, take_away: Callable[[Project], None]
) -> None:
    options = "timeout_s=20, graceful_shutdown_timeout_s=1, max_replicas=1"
    project.deploy(options)
    if take_away is roll_back:
        project.deploy(options, version=2)
    project.running(12)
    waiting = [project.call(0.01) for _ in range(3)]
    eventually(lambda: project.platform.status(f"{project.name}/work")["queue_depth"] == 3)
    take_away(project)
    assert [call.result(30).status_code for call in waiting] == [200, 200, 200]


def test_a_version_that_drains_answers_again_at_once_when_it_is_rolled_back_to(project: Project) -> None:
    project.deploy("timeout_s=30, max_ongoing_requests=4")
    long, _ = project.running(8)
    project.deploy("timeout_s=30, max_ongoing_requests=4", version=2)
    began = time.monotonic()
    roll_back(project)
    assert project.platform.call(f"{project.name}/work") == "version 1"
    assert time.monotonic() - began < 5
    assert not long.done(), "the drain was taken back, not waited for"
    assert long.result(30).json() == "version 1"


def test_a_version_that_drains_answers_those_who_pin_it(project: Project) -> None:
    project.deploy("timeout_s=30, max_ongoing_requests=4")
    long, _ = project.running(8)
    project.deploy("timeout_s=30, max_ongoing_requests=4", version=2)
    pinned = project.call(0, "@1")
    assert (pinned.result(30).status_code, pinned.result().json()) == (200, "version 1")
    assert not long.done()
    assert long.result(30).status_code == 200


def test_a_delete_with_force_cuts_off_what_runs_also_where_another_delete_waits(
    project: Project, platform: PlatformProcess
) -> None:
    project.deploy("timeout_s=60, max_ongoing_requests=4")
    call, _ = project.running(50)
    waits = project._threads.submit(platform.clip, "delete", project.name, "--yes", check=False)
    eventually(lambda: platform.post(f"/fn/{project.name}/work", {}).status_code == 404)
    assert not call.done()
    platform.clip("delete", project.name, "--yes", "--force")
    assert call.result(30).status_code == 502
    assert waits.result(30).code == 0
    assert "1 call may end first" in waits.result().err

    project.deploy("timeout_s=60, max_ongoing_requests=4")
    call, _ = project.running(50)
    platform.clip("delete", project.name, "--yes", "--force")
    assert call.result(30).status_code == 502


def test_the_platforms_own_end_is_bounded_says_so_and_tells_callers_that_their_calls_are_lost(tmp_path: Path) -> None:
    with PlatformProcess(tmp_path / "home", env={"CLIP_SHUTDOWN_TIMEOUT_S": "2"}) as own, ThreadPoolExecutor(1) as pool:
        own.deploy(write_project(tmp_path / "demo", APP.format(options="timeout_s=600", version=1), 'name = "demo"'))
        mark = tmp_path / "mark"
        call = pool.submit(own.post, "/fn/demo/work", {"s": 300, "mark": str(mark)})
        eventually(mark.exists)
        began = time.monotonic()
        own.stop()
        assert time.monotonic() - began < 15, "2 s, and what a busy machine adds"
        assert "may take 2 s to end (shutdown_timeout_s)" in own.log()
        answer = call.result(10)
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "replica_lost")


def test_a_grace_shorter_than_a_call_may_take_is_named_at_the_deploy_and_shown(
    platform: PlatformProcess, deploy: Deploy, tmp_path: Path
) -> None:
    for grace, warns in (("graceful_shutdown_timeout_s=5", True), ("", False)):
        app = APP.format(options=f"timeout_s=90, {grace}", version=1)
        directory = write_project(tmp_path / "shown", app, 'name = "shown"')
        done = platform.clip("deploy", directory)
        assert ("graceful_shutdown_timeout_s = 5 is shorter than timeout_s = 90" in done.out + done.err) == warns
        options = platform.clip("config", "show", directory, "--json").json()["project"]["functions"]["work"]
        shown = options["graceful_shutdown_timeout_s"]
        assert shown["value"] == (5 if warns else 90)
        assert shown["from"].split()[0] == ("decorator" if warns else "timeout_s")
    platform.clip("delete", "shown", "--yes")
