"""Secrets and plain variables, from `clip` to the function that reads them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil
import pytest

from tests.support.platform import PlatformProcess, eventually, processes_of, write_project

pytestmark = pytest.mark.timeout(120)

APP = """
import os
import clipper

TOKEN = os.environ.get("TOKEN", "")

@clipper.function()
def seen(name: str) -> list[str]:
    return [os.environ.get(name, "unset"), TOKEN]

@clipper.function(max_retries=0)
def crash() -> int:
    os._exit(3)

@clipper.function(snapshot=True)
class Held:
    def __init__(self) -> None:
        self.token = os.environ.get("TOKEN", "")

    def __call__(self) -> str:
        return self.token

@clipper.function(downscale_to_zero_delay_s=0.5, downscale_delay_s=0)
def idle() -> str:
    return TOKEN
"""


def set_token(platform: PlatformProcess, project: str, value: str) -> None:
    platform.clip("secret", "set", project, "TOKEN", value)


def test_a_new_value_is_there_after_a_restart_a_crash_and_a_cold_start(
    platform: PlatformProcess, tmp_path: Path
) -> None:
    name = "vault"
    set_token(platform, name, "first")
    platform.deploy(write_project(tmp_path / name, APP, f'name = "{name}"\n[env]\nTOKEN = "plain"\nMODE = "-fast"\n'))
    assert platform.call(f"{name}/seen", name="TOKEN") == ["first", "first"]
    assert platform.call(f"{name}/seen", name="MODE")[0] == "-fast"
    assert platform.call(f"{name}/Held") == "first"

    set_token(platform, name, "second")
    platform.clip("restart", name)
    assert platform.call(f"{name}/seen", name="TOKEN") == ["second", "second"]
    assert platform.call(f"{name}/Held") == "second"

    set_token(platform, name, "-third")
    assert platform.post(f"/fn/{name}/crash", {}).status_code == 502
    eventually(lambda: platform.status(f"{name}/idle")["replicas_ready"] == 0)
    assert platform.call(f"{name}/idle") == "-third"

    platform.clip("secret", "delete", name, "TOKEN")
    platform.clip("restart", f"{name}/seen")
    assert platform.call(f"{name}/seen", name="TOKEN") == ["plain", "plain"]


def test_no_process_keeps_an_old_value_once_it_was_replaced(platform: PlatformProcess, tmp_path: Path) -> None:
    """Also no template of a snapshot that waits for an hour of idleness."""
    name, old = "rotated", "0ld-" + "v4lue" * 5
    set_token(platform, name, old)
    toml = f'name = "{name}"\n[functions.Held]\ndownscale_to_zero_delay_s = 0.5\ndownscale_delay_s = 0\n'
    platform.deploy(write_project(tmp_path / name, APP, toml))
    assert platform.call(f"{name}/Held") == old
    assert holders_of(old)
    set_token(platform, name, "new")
    platform.clip("restart", name)
    eventually(lambda: not holders_of(old), within_s=20, what="the old value is gone from all processes")
    assert platform.call(f"{name}/Held") == "new"
    platform.clip("secret", "delete", name, "TOKEN")
    platform.clip("restart", name)
    assert platform.call(f"{name}/Held") == ""


def holders_of(value: str) -> list[int]:
    """Processes with the value in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if value in process.environ().values():
                found.append(process.pid)
    return found


def test_a_piped_value_keeps_its_lines_and_may_begin_with_a_dash(platform: PlatformProcess, tmp_path: Path) -> None:
    name, pem = "piped", "-----BEGIN KEY-----\nAAAA\n-----END KEY-----\n"
    platform.clip("secret", "set", name, "TOKEN", "-", text=pem)
    platform.deploy(write_project(tmp_path / name, APP, f'name = "{name}"\n'))
    assert platform.call(f"{name}/seen", name="TOKEN")[0] == pem


SAYS_IT = """
import os
import clipper

@clipper.function(max_retries=0)
def fails() -> int:
    raise ValueError("no luck")

@clipper.function(max_retries=0)
def dies() -> int:
    os._exit(9)

@clipper.function(snapshot=True)
class Held:
    def __init__(self) -> None:
        self.token = os.environ["TOKEN"]

    def __call__(self) -> int:
        return len(self.token)
"""


LOOKS = (
    "list", "list --json", "versions {}", "status {}", "status {} --json", "logs {}/fails", "logs {}/dies",
    "secret list {}", "explain {}/Held", "doctor --json",
)  # fmt: skip


def test_no_file_answer_or_command_line_has_the_value_of_a_secret(tmp_path: Path) -> None:
    name, value = "discreet", "s3cr3t-" + "x7" * 12
    with PlatformProcess(tmp_path / "home", args=("--store", f"sqlite:///{tmp_path}/elsewhere.db")) as platform:
        said = [platform.clip("secret", "set", name, "TOKEN", "-", text=value)]
        project = write_project(tmp_path / name, SAYS_IT, f'name = "{name}"\n[environment]\nwarm_pool_size = 1\n')
        said.append(platform.deploy(project))
        answers = [platform.post(f"/fn/{name}/{function}", {}).text for function in ("fails", "dies", "Held")]
        said += [platform.clip(*command.format(name).split(), check=False) for command in LOOKS]
        said.append(platform.clip("config", "show", str(project), check=False))
        paths = (f"/projects/{name}", f"/projects/{name}/events", "/info", "/../../metrics")
        answers += [platform.api("GET", path).text for path in paths]
        commands = [" ".join(process.cmdline()) for process in processes_of(platform.home)]
        others = [p.environ() for p in processes_of(platform.home) if p.pid == platform.pid]
        for text in (*map(str, said), *answers, *commands, *map(str, others), platform.log()):
            assert value not in text
        for path in platform.home.rglob("*"):
            if path.is_file():
                assert value.encode() not in path.read_bytes(), path
        platform.stop()
    assert value not in platform.log()


@pytest.mark.parametrize("name", ["PATH", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "CLIP_URL", "LD_PRELOAD", "1X"])
def test_a_name_that_the_platform_sets_is_refused(platform: PlatformProcess, name: str) -> None:
    refused = platform.clip("secret", "set", "vault2", name, "x", check=False)
    assert refused.code == 1
    assert "is not allowed" in refused.err
    assert "vault2" not in platform.clip("list").out
