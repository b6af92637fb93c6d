"""`clip up`: the platform as a process, what it says, and a second one in its way."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.terminal import COMMAND, clip, clip_process, environment, on_terminal


@pytest.fixture
def running(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The `listening` line of a platform on a free port, with its process."""
    process = subprocess.Popen(
        [*COMMAND, "up", "--port", "0", "--home", str(tmp_path / "home"), "--json"],
        env=environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline()) | {"process": process}
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        process.stdout.close()


def test_with_json_it_says_in_one_line_where_it_listens(running: dict[str, Any], tmp_path: Path) -> None:
    assert running["event"] == "listening"
    assert running["home"] == str(tmp_path / "home")
    done = clip("list", "--json", env={"CLIP_HOME": running["home"]})
    assert json.loads(done.out) == {"projects": []}


def test_a_second_one_with_the_same_home_names_the_first(running: dict[str, Any]) -> None:
    done = clip_process("up", "--port", "0", "--home", running["home"], env={})
    assert done.code == 1
    assert f"runs already at {running['url']} (pid {running['process'].pid})" in done.err
    assert "--home" in done.err


def test_a_second_one_on_the_same_port_is_told_another(running: dict[str, Any], tmp_path: Path) -> None:
    port = running["url"].rpartition(":")[2]
    done = clip_process("up", "--port", port, "--home", str(tmp_path / "other"), "--json", env={})
    error = json.loads(done.out)["error"]
    assert (done.code, error["code"], error["port"]) == (1, "conflict", int(port))
    assert f"clip up --port {int(port) + 1}" in error["hint"]


def test_doctor_finds_it_by_its_home(running: dict[str, Any]) -> None:
    done = clip("doctor", "--json", env={"CLIP_HOME": running["home"]})
    checks = {check["name"]: check for check in json.loads(done.out)["checks"]}
    assert running["url"] in checks["platform"]["detail"]
    assert checks["API key"]["result"] == checks["versions"]["result"] == "ok"


def test_on_a_terminal_it_says_what_to_type_next_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    with on_terminal("up", "--port", "0", "--home", str(tmp_path), "--log-level", "error", env={}) as terminal:
        terminal.wait_for(r"Clipper listens on http://127\.0\.0\.1:\d+")
        terminal.wait_for("clip init demo && clip deploy demo")
        terminal.interrupt()
        done = terminal.finish()
    assert done.code in (0, 128 + signal.SIGINT)
    assert "Traceback" not in done.out
    assert not (tmp_path / "platform.json").exists()
