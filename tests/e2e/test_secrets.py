"""Secrets and plain variables, from `clip` to the function that reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.platform import PlatformProcess, eventually, write_project

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


@pytest.mark.parametrize("name", ["PATH", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "CLIP_URL", "LD_PRELOAD", "1X"])
def test_a_name_that_the_platform_sets_is_refused(platform: PlatformProcess, name: str) -> None:
    refused = platform.clip("secret", "set", "vault2", name, "x", check=False)
    assert refused.code == 1
    assert "is not allowed" in refused.err
    assert "vault2" not in platform.clip("list").out
