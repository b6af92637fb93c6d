"""Platforms as root and as a normal user run them, with each kind of isolation that this machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.platform import CLIP, PlatformProcess

__all__ = ["KINDS", "confined_platform"]

KINDS = ("root", "user", "root-landlock", "user-landlock")

NOBODY = 65534
ROOT = Path(__file__).parents[2]


def as_nobody(place: Path) -> list[str]:
    """The command `clip` of a user without rights, to whom `place` then belongs. An installation of its own, because
    root's interpreter may lie where no other user can read."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if shutil.which("setpriv") is None or python is None:
        pytest.skip("setpriv or a Python for all users is not installed")
    venv = place / "venv"
    uv = [sys.executable, "-m", "uv", "--quiet"]
    made = subprocess.run([*uv, "venv", "--python", python, venv], check=False)
    if made.returncode:
        pytest.skip(f"{python} cannot make a virtual environment")
    install = [*uv, "pip", "install", "--python", venv / "bin" / "python", "--link-mode", "copy"]
    subprocess.run([*install, "--editable", f"{ROOT}[platform]"], check=True)
    (place / "home").mkdir()
    for path in (place, place / "home"):
        os.chown(path, NOBODY, NOBODY)
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", str(venv / "bin" / "clip")]


@contextmanager
def confined_platform(kind: str, *args: str) -> Iterator[PlatformProcess]:
    """A running platform of one of KINDS, in a directory of its own: pytest's are closed to other users."""
    user, _, mode = kind.partition("-")
    if user == "root" and os.geteuid() != 0:
        pytest.skip("only root can run it as root")
    place = Path(tempfile.mkdtemp(prefix="clip-iso-"))
    env = {"HOME": str(place), "CLIP_ISOLATION": mode or "auto"}
    command = [CLIP]
    if user == "root":
        env["UV_CACHE_DIR"] = os.path.expanduser("~/.cache/uv")
    elif os.geteuid() == 0:
        command = as_nobody(place)
    started = PlatformProcess(place / "home", args, env=env, command=command)
    try:
        with started:
            held = started.api("GET", "/info").json()["isolation"]["mode"]
            if held != (mode or "mounts"):
                pytest.skip(f"this machine has {held}")
            yield started
    finally:
        shutil.rmtree(place, ignore_errors=True)
