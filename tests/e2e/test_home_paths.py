"""Homes whose path is long, or has characters with a meaning elsewhere."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipper_platform.backends.process.temporary import TemporaryRoot
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


@pytest.fixture
def own_tmp() -> Iterator[Path]:
    """A system's temporary directory where no other test starts platforms, which would sweep it. Its path is short."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as path:
        yield Path(path)


def test_doctor_removes_what_a_killed_platform_left_outside_of_its_home(tmp_path: Path, own_tmp: Path) -> None:
    project = write_project(tmp_path / "project", APP, 'name = "paths"\n')
    env = {"TMPDIR": str(own_tmp)}
    with (
        PlatformProcess(tmp_path / ("k" * 70), env=env) as killed,
        PlatformProcess(tmp_path / ("r" * 70), env=env) as running,
    ):
        for platform in (killed, running):
            platform.deploy(project)
            assert platform.post("/fn/paths/shared", {}).json() == 3
        left, held = (own_tmp / TemporaryRoot(platform.home).path.name for platform in (killed, running))
        killed.kill()
        assert list(left.iterdir())
        first = killed.clip("doctor", "--clean", "--yes", "--json", check=False).json()
        assert (first["ok"], first["storage"]) == (False, None)  # no platform runs there
        assert first["leftovers"] == [str(left)]
        assert not left.exists()
        second = running.clip("doctor", "--clean", "--yes", "--json", check=False).json()
        assert second["leftovers"] == []
        assert list(held.iterdir())
        assert running.post("/fn/paths/shared", {}).json() == 3
        assert running.clip("doctor", "--json", check=False).json()["leftovers"] is None
