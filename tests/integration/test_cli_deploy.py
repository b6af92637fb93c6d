"""`clip deploy` against a platform over HTTP: progress, the ends that it can have, Ctrl-C."""

from __future__ import annotations

import json
import shlex
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from clipper.retrying import RetryPolicy
from tests.support.fake_platform import FakePlatform, Refusal, client_environment, fake_platform
from tests.support.terminal import clip, on_terminal

EVENTS = [
    {"kind": "phase", "phase": "environment", "message": "building the environment"},
    {"kind": "log", "phase": "environment", "message": "Resolved 12 packages in 20ms"},
    {"kind": "phase_done", "phase": "environment", "message": "", "data": {"seconds": 1.5, "reused": False}},
    {"kind": "phase", "phase": "replicas", "message": "starting replicas"},
    {"kind": "log", "phase": "replicas", "message": "loading the model", "data": {"function": "analyze"}},
    {"kind": "progress", "message": "", "data": {"function": "analyze", "ready": 1, "wanted": 2}},
    {"kind": "phase_done", "phase": "replicas", "message": "", "data": {"seconds": 0.5}},
    {"kind": "phase", "phase": "route", "message": "switching"},
    {"kind": "phase_done", "phase": "route", "message": "", "data": {"seconds": 0.0}},
]
FAILURE = {
    "code": "deploy_failed",
    "message": "analyze did not start",
    "phase": "replicas",
    "exception": "ValueError: no model.joblib",
    "log": ["Traceback (most recent call last):", '  File "app.py", line 3', "ValueError: no model.joblib"],
    "hint": "Is the file named in .clipignore?",
}


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    with fake_platform() as running:
        running.deploy_events = [dict(event) for event in EVENTS]
        yield running


@pytest.fixture
def env(platform: FakePlatform) -> dict[str, str]:
    return client_environment(platform)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    assert clip("init", str(tmp_path / "demo"), env={}).code == 0
    return tmp_path / "demo"


def test_a_deploy_ends_with_version_url_calls_and_the_way_back(
    project: Path, platform: FakePlatform, env: dict[str, str]
) -> None:
    platform.add_project("demo", version=4)
    done = clip("deploy", str(project), env=env)
    assert done.code == 0, done.err
    assert "Deployed demo version 5" in done.out
    assert f"{platform.url}/fn/demo/analyze" in done.out
    assert 'clipper.Function.from_name("demo/analyze").remote(text="hello")' in done.out
    assert "clip rollback demo 4" in done.out


def test_the_printed_curl_works_as_it_stands(project: Path, platform: FakePlatform, env: dict[str, str]) -> None:
    out = clip("deploy", str(project), env=env).out
    lines = [line.strip().removesuffix("\\") for line in out[out.index("curl ") :].splitlines()]
    command = shlex.split(" ".join(lines[: lines.index("")]))
    answer = subprocess.run([*command, "-sS", "--fail"], capture_output=True, timeout=30, check=True, text=True)
    assert json.loads(answer.stdout) == {"echo": {"text": "hello"}}


def test_progress_is_a_plain_line_for_each_thing_that_happened(project: Path, env: dict[str, str]) -> None:
    lines = clip("deploy", str(project), env=env).out.splitlines()
    heads = [line.split()[0] for line in lines if line and not line.startswith(" ")]
    phases = [head for head in dict.fromkeys(heads) if head in ("bundle", "upload", "environment", "replicas", "route")]
    assert phases == ["bundle", "upload", "environment", "replicas", "route"]
    assert any(line.startswith("bundle") and "3 files" in line for line in lines)
    assert "environment  | Resolved 12 packages in 20ms" in lines
    assert "replicas     | analyze: loading the model" in lines
    assert "replicas     analyze 1/2" in lines
    assert not any("\x1b" in line for line in lines)


def test_the_same_bundle_is_uploaded_once(project: Path, platform: FakePlatform, env: dict[str, str]) -> None:
    clip("deploy", str(project), env=env)
    out = clip("deploy", str(project), "--force", env=env).out
    assert [method for method, path, *_ in platform.requests if method == "PUT"] == ["PUT"]
    assert any(line.startswith("upload") and "already there" in line for line in out.splitlines())
    assert platform.projects["demo"]["version"] == 2


def test_no_changes_deploys_nothing(project: Path, platform: FakePlatform, env: dict[str, str]) -> None:
    clip("deploy", str(project), env=env)
    done = clip("deploy", str(project), env=env)
    assert done.code == 0
    assert "No changes: version 1 of demo" in done.out
    assert platform.projects["demo"]["version"] == 1


def test_with_json_stdout_is_the_deployment_and_progress_goes_to_stderr(project: Path, env: dict[str, str]) -> None:
    done = clip("deploy", str(project), "--json", env=env)
    document = json.loads(done.out)
    assert (document["state"], document["version"], document["project"]) == ("succeeded", 1, "demo")
    assert "Resolved 12 packages" in done.err


def test_a_failed_deploy_shows_phase_exception_log_hint_and_what_serves(
    project: Path, platform: FakePlatform, env: dict[str, str]
) -> None:
    platform.add_project("demo", version=4)
    platform.deploy_events, platform.deploy_error = EVENTS[:5], FAILURE
    done = clip("deploy", str(project), env=env)
    assert done.code == 1
    for words in (
        "analyze did not start",
        "replicas",
        "ValueError: no model.joblib",
        '│   File "app.py", line 3',
        "Is the file named in .clipignore?",
        "Version 4 of demo keeps serving",
    ):
        assert words in done.err
    assert "Deployed" not in done.out


def test_a_first_deploy_that_fails_leaves_nothing(project: Path, platform: FakePlatform, env: dict[str, str]) -> None:
    platform.deploy_error = FAILURE
    assert "demo has no version yet" in clip("deploy", str(project), env=env).err


def test_with_json_a_failed_deploy_is_an_error_document_with_its_log(
    project: Path, platform: FakePlatform, env: dict[str, str]
) -> None:
    platform.deploy_error = FAILURE
    done = clip("deploy", str(project), "--json", env=env)
    error = json.loads(done.out)["error"]
    assert done.code == 1
    assert (error["code"], error["phase"], error["log"]) == ("deploy_failed", "replicas", FAILURE["log"])
    assert "Is the file named" in error["hint"]


def test_a_project_that_is_wrong_is_refused_before_the_platform_is_asked(
    project: Path, platform: FakePlatform, env: dict[str, str]
) -> None:
    text = (project / "clip.toml").read_text().replace("timeout_s", "timeout")
    (project / "clip.toml").write_text(text)
    done = clip("deploy", str(project), env=env)
    assert done.code == 1
    assert "timeout_s" in done.err
    assert platform.requests == []


def test_without_a_platform_deploy_says_how_to_start_one(project: Path) -> None:
    done = clip("deploy", str(project), env={"CLIP_URL": "http://127.0.0.1:9", "CLIP_API_KEY": "k"})
    assert done.code == 1
    assert "No platform at http://127.0.0.1:9" in done.err


def test_ctrl_c_cancels_on_the_platform_and_says_what_serves(
    project: Path, platform: FakePlatform, env: dict[str, str]
) -> None:
    platform.add_project("demo", version=4)
    platform.deploy_events, platform.deploy_gate = EVENTS[:6], threading.Event()
    with on_terminal("deploy", str(project), env=env) as terminal:
        terminal.wait_for("analyze 1/2")
        terminal.interrupt()
        done = terminal.finish()
    assert done.code == 130
    assert "Version 4 of demo keeps serving" in done.out
    assert "Traceback" not in done.out
    assert [d["state"] for d in platform.deployments.values()] == ["cancelled"]
    assert platform.projects["demo"]["version"] == 4


def test_on_a_terminal_the_phases_are_ticked_off(project: Path, env: dict[str, str]) -> None:
    with on_terminal("deploy", str(project), env=env) as terminal:
        done = terminal.finish()
    assert done.code == 0
    for phase in ("bundle", "upload", "environment", "replicas", "route"):
        assert f"✓ {phase}" in done.out
    assert "Deployed demo version 1" in done.out
    assert "\x1b[?25h" in terminal.raw  # the cursor is shown again


def test_on_a_terminal_a_failed_phase_is_marked(project: Path, platform: FakePlatform, env: dict[str, str]) -> None:
    platform.deploy_events, platform.deploy_error = EVENTS[:5], FAILURE
    with on_terminal("deploy", str(project), env=env) as terminal:
        done = terminal.finish()
    assert done.code == 1
    assert "✓ environment" in done.out
    assert "✗ replicas" in done.out


def refused() -> Refusal:
    return Refusal(503, "store_unavailable", "the metadata store cannot be reached")


def test_a_deploy_says_once_that_it_is_refused_for_now_and_tries_again(
    project: Path, platform: FakePlatform, env: dict[str, str]
) -> None:
    platform.refusals = [refused(), refused()]
    done = clip("deploy", str(project), env=env)
    assert done.code == 0
    waiting = [line for line in done.out.splitlines() if "metadata store" in line]
    assert waiting == ["waiting      the metadata store cannot be reached; trying again for up to 30 s"]


def test_a_deploy_that_is_refused_to_the_end_says_how_often_it_tried(
    project: Path, platform: FakePlatform, env: dict[str, str]
) -> None:
    platform.refusals = [refused() for _ in range(20)]
    hasty = RetryPolicy(max_attempts=3, base_delay_s=0.001)
    with mock.patch("clipper.direct.RetryPolicy", return_value=hasty):
        done = clip("deploy", str(project), env=env)
    assert done.code == 1
    assert "Tried 3 times in " in done.err
