"""Deploys under load: nobody notices one that works, and one that does not work reaches few or none."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from clipper.control import ControlClient
from clipper.deploying import deploy_project
from clipper.errors import DeployFailed
from clipper.project import load_project
from tests.e2e.conftest import Deploy
from tests.support.load import Reply, Tally, assert_idle, drive
from tests.support.platform import CLIP, PlatformProcess, eventually, write_project

pytestmark = pytest.mark.timeout(240)

CONNECTIONS = 32

APP = """
import os
import clipper

@clipper.function(max_ongoing_requests=8)
def answer(n: int) -> list[int]:
    {body}
    return [n, {word}]

@clipper.function()
def pid() -> int:
    return os.getpid()
"""


def app(word: int, body: str = "pass") -> str:
    return APP.format(word=word, body=body)


@pytest.fixture
def control(platform: PlatformProcess) -> Iterator[ControlClient]:
    with ControlClient(platform.url, platform.api_key) as client:
        yield client


def ready_project(tmp_path: Path, name: str, code: str, toml: str = "") -> Path:
    return write_project(tmp_path / name, code, f'name = "{name}"\n{toml}')


def deploy_now(control: ControlClient, directory: Path) -> tuple[dict[str, Any], list[str]]:
    """The deployment, and what its events said."""
    said: list[str] = []
    made = deploy_project(load_project(directory), control, lambda e: said.append(f"{e.get('phase')}: {e['message']}"))
    return made, said


async def under_load(
    platform: PlatformProcess, name: str, work: Callable[[], Any], *, connections: int = CONNECTIONS
) -> tuple[Any, list[Reply]]:
    """Do `work` in a thread while connections ask without a pause; its result and every answer."""
    replies: list[Reply] = []
    over = False

    def check(number: int, reply: Reply) -> str:
        replies.append(reply)
        return ""

    loading = asyncio.create_task(
        drive(platform.port, lambda n: (f"{name}/answer", {"n": n}), check, until=lambda: over, connections=connections)
    )
    try:
        outcome = await asyncio.to_thread(work)
    finally:
        over = True
        (await loading).assert_right()
    return outcome, replies


def share(replies: list[Reply], version: str) -> float:
    return sum(reply.headers.get("x-clip-version") == version for reply in replies) / len(replies)


async def test_twenty_deploys_in_a_row_lose_nothing_and_no_drained_version_answers(
    platform: PlatformProcess, deploy: Deploy, control: ControlClient, tmp_path: Path
) -> None:
    toml = "[deploy]\nkeep_previous_s = 0\n"
    name = deploy(app(1), toml)
    answers = 1  # the version that every call sent from now on must get, or a newer one
    floors: dict[int, int] = {}
    over = False
    tally = Tally()

    def ask(number: int) -> tuple[str, Any]:
        floors[number] = answers
        return f"{name}/answer", {"n": number}

    def check(number: int, reply: Reply) -> str:
        floor = floors.pop(number)
        if reply.status != 200:
            return "it failed"
        version = int(reply.headers["x-clip-version"])
        if reply.json() != [number, version]:
            return f"the header says version {version}"
        return "" if version >= floor else f"version {version} was drained when it was asked, {floor} answers"

    loading = asyncio.create_task(
        drive(platform.port, ask, check, until=lambda: over, connections=CONNECTIONS, tally=tally)
    )
    try:
        for version in range(2, 22):
            directory = ready_project(tmp_path / "next", name, app(version), toml)
            made, _ = await asyncio.to_thread(deploy_now, control, directory)
            assert made["version"] == version
            answers = version
    finally:
        over = True
        await loading
    tally.assert_right()
    assert tally.answers > 20 * CONNECTIONS
    assert_idle(platform, name)
    # Nothing is left of the versions before, not even their series.
    eventually(lambda: {k.split('version="')[1].split('"')[0] for k in platform.metrics() if f'"{name}/' in k
                        and 'version="' in k} == {"21"}, within_s=40)  # fmt: skip


async def test_a_canary_takes_its_share_step_by_step_and_then_all(
    platform: PlatformProcess, deploy: Deploy, control: ControlClient, tmp_path: Path
) -> None:
    name = deploy(app(1))
    toml = '[deploy]\nstrategy = "canary"\nsteps = [10, 50, 100]\nstep_s = 1.5\nmin_samples = 20\nmax_p99_ratio = 100\n'
    directory = ready_project(tmp_path / "next", name, app(2), toml)
    (made, said), replies = await under_load(platform, name, lambda: deploy_now(control, directory), connections=8)
    assert made["state"] == "succeeded"
    assert [line for line in said if line.startswith("canary: ") and "of the calls go to version 2" in line] == [
        f"canary: {percent} % of the calls go to version 2, for 1.5 s" for percent in (10, 50, 100)
    ]
    assert {reply.status for reply in replies} == {200}
    versions = [reply.headers["x-clip-version"] for reply in replies]
    begin, end = versions.index("2"), len(versions) - 1 - versions[::-1].index("1")
    assert begin < end, "both versions answered at the same time"
    # Few enough to be of the first step on a slow machine too; answers overtake each other a little.
    assert versions[begin : begin + 100].count("2") == pytest.approx(10, abs=5)
    assert set(versions[end + 1 :]) == {"2"}
    assert platform.call(f"{name}/answer", n=1) == [1, 2]


async def test_a_canary_that_fails_is_taken_back_and_few_notice(
    platform: PlatformProcess, deploy: Deploy, control: ControlClient, tmp_path: Path
) -> None:
    name = deploy(app(1))
    toml = '[deploy]\nstrategy = "canary"\nsteps = [10, 100]\nstep_s = 60\nmin_samples = 20\n'
    directory = ready_project(tmp_path / "next", name, app(2, "raise ValueError('worse')"), toml)

    def work() -> DeployFailed:
        with pytest.raises(DeployFailed) as caught:
            deploy_now(control, directory)
        return caught.value

    began = time.monotonic()
    error, replies = await under_load(platform, name, work, connections=8)
    assert time.monotonic() - began < 50, "it did not wait for the end of its step"
    assert error.details["phase"] == "canary"
    assert "max_error_rate_increase" in str(error)
    failed = [reply for reply in replies if reply.status != 200]
    assert {reply.headers["x-clip-version"] for reply in failed} == {"2"}
    assert 20 <= len(failed) < 0.12 * len(replies)
    assert platform.call(f"{name}/answer", n=1) == [1, 1]
    assert [(v["number"], v["state"]) for v in control.versions(name)] == [(2, "failed"), (1, "ready")]


def test_a_smoke_call_that_fails_keeps_the_new_version_from_all_traffic(
    platform: PlatformProcess, deploy: Deploy, tmp_path: Path
) -> None:
    name = deploy(app(1), "[deploy.smoke]\nanswer = { n = 3 }\n")
    directory = ready_project(
        tmp_path / "next", name, app(2, "assert n != 3, 'three is too much'"), "[deploy.smoke]\nanswer = { n = 3 }\n"
    )
    failed = platform.deploy(directory, check=False)
    assert failed.code == 1
    error = failed.json()["error"]
    assert error["phase"] == "smoke"
    assert "three is too much" in error["message"]
    assert any("app.py" in line for line in error["log"])
    assert platform.call(f"{name}/answer", n=3) == [3, 1]


def test_a_rollback_finds_the_version_before_warm(platform: PlatformProcess, deploy: Deploy) -> None:
    name = deploy(app(1))
    before = platform.call(f"{name}/pid")
    deploy(app(2), name=name)
    began = time.monotonic()
    assert platform.api("POST", f"/projects/{name}/rollback", json={}).status_code == 200
    seconds = time.monotonic() - began
    assert platform.call(f"{name}/pid") == before, "the same process answers: nothing was started"
    assert seconds < 5  # some ms on an idle machine


async def test_recreate_stops_the_old_version_first_and_brings_it_back_if_the_new_one_fails(
    platform: PlatformProcess, deploy: Deploy, control: ControlClient, tmp_path: Path
) -> None:
    toml = '[deploy]\nstrategy = "recreate"\n'
    name = deploy(app(1), toml)

    directory = ready_project(tmp_path / "next", name, app(2), toml)
    _, replies = await under_load(platform, name, lambda: deploy_now(control, directory), connections=4)
    assert {reply.status for reply in replies} <= {200, 503}
    versions = [int(r.headers["x-clip-version"]) for r in replies if r.status == 200]
    assert all(a <= b for a, b in pairwise(versions)), "the two never answered at the same time"
    assert platform.call(f"{name}/answer", n=1) == [1, 2]

    ready_project(tmp_path / "next", name, app(3) + "\nraise RuntimeError('no weights')\n", toml)
    with pytest.raises(DeployFailed, match="no weights"):
        deploy_now(control, directory)
    eventually(lambda: platform.post(f"/fn/{name}/answer", {"n": 1}).is_success, within_s=20)
    assert platform.call(f"{name}/answer", n=1) == [1, 2]


@pytest.mark.parametrize("strategy", ["rolling", "canary", "recreate"])
def test_a_deploy_that_is_cancelled_leaves_what_answered(
    platform: PlatformProcess, deploy: Deploy, control: ControlClient, tmp_path: Path, strategy: str
) -> None:
    name = deploy(app(1))
    canary = strategy == "canary"
    # It hangs in its canary's first step, or before its replicas are ready.
    code = app(2) if canary else "import time\ntime.sleep(60)\n" + app(2)
    toml = f'[deploy]\nstrategy = "{strategy}"\n' + ("step_s = 600\n" if canary else "")
    directory = ready_project(tmp_path / "next", name, code, toml)

    def interrupt(event: Any) -> None:
        if event.get("phase") == ("canary" if canary else "replicas"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deploy_project(load_project(directory), control, interrupt)
    eventually(lambda: platform.post(f"/fn/{name}/answer", {"n": 1}).is_success, within_s=20)
    for n in range(20):
        assert platform.call(f"{name}/answer", n=n) == [n, 1]
    assert [v["state"] for v in control.versions(name)] == ["failed", "ready"]


SLOW = """
import time
import clipper

@clipper.function()
class Slow:
    def __init__(self) -> None:
        time.sleep({setup_s})

    def __call__(self) -> int:
        return {word}
"""


def begin_deploy(platform: PlatformProcess, directory: Path) -> subprocess.Popen[str]:
    """`clip deploy` in the background, which waits for the function's setup."""
    command = [CLIP, "deploy", str(directory)]
    project, before = (
        directory.name,
        len(platform.api("GET", f"/projects/{directory.name}/versions").json()["versions"]),
    )
    begun = subprocess.Popen(
        command, env=platform.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    eventually(
        lambda: len(platform.api("GET", f"/projects/{project}/versions").json()["versions"]) > before, within_s=20
    )
    return begun


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_deploy_whose_client_is_terminated_does_not_go_live(
    platform: PlatformProcess, tmp_path: Path, number: signal.Signals
) -> None:
    name = f"ended{number}"
    platform.deploy(ready_project(tmp_path, name, SLOW.format(setup_s=0, word=1)))
    client = begin_deploy(platform, ready_project(tmp_path, name, SLOW.format(setup_s=5, word=2)))
    client.send_signal(number)
    said, _ = client.communicate(timeout=20)
    assert client.returncode == 128 + number
    assert "Cancelled. Version 1" in said
    states = {v["number"]: v["state"] for v in platform.api("GET", f"/projects/{name}/versions").json()["versions"]}
    assert states == {1: "ready", 2: "failed"}
    assert platform.call(f"{name}/Slow") == 1


def test_a_deploy_whose_platform_is_restarted_says_so(own_platform: PlatformProcess, tmp_path: Path) -> None:
    own_platform.deploy(ready_project(tmp_path, "demo", SLOW.format(setup_s=0, word=1)))
    client = begin_deploy(own_platform, ready_project(tmp_path, "demo", SLOW.format(setup_s=20, word=2)))
    own_platform.kill()
    own_platform.start()
    said, _ = client.communicate(timeout=40)
    assert client.returncode == 1
    assert "the platform was restarted during the deployment of demo" in said
    assert "Deploy it again" in said
