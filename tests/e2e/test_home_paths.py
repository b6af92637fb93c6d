"""Homes whose path is long, or has characters with a meaning elsewhere."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.platform import CLIP, PlatformProcess, write_project

APP = """
import clipper


@clipper.function()
def shared() -> int:
    import multiprocessing

    return sum(multiprocessing.get_context("fork").Manager().list([1, 2]))
"""


@pytest.mark.parametrize("name", ["h" * 70, "100%20 #1?;,&'$HOME*[a]"])
def test_a_home_with_this_path_works_and_so_does_multiprocessing(tmp_path: Path, name: str) -> None:
    project = write_project(tmp_path / "project", APP, 'name = "paths"\n')
    with PlatformProcess(tmp_path / name) as platform:
        platform.deploy(project)
        assert platform.post("/fn/paths/shared", {}).json() == 3
        assert (platform.home / "clipper.db").exists()
        platform.stop()
        platform.start()
        assert platform.post("/fn/paths/shared", {}).json() == 3


def test_a_home_with_a_colon_is_refused_with_the_reason(tmp_path: Path) -> None:
    command = [CLIP, "up", "--home", str(tmp_path / "a:b"), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert "':'" in done.stderr
    assert "Traceback" not in done.stderr
