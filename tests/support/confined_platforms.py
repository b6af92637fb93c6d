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

__all__ = ["KINDS", "KINDS_OF_USERS", "confined_platform"]

KINDS = ("root", "user", "root-landlock", "user-landlock")
KINDS_OF_USERS = ("users", "users-landlock", "users-none")
"""Run by root, who gives each project a user: besides the mode, or alone."""

NOBODY = 65534
ROOT = Path(__file__).parents[2]


def for_all_users(place: Path) -> str:
    """The command `clip` of an installation of its own, because root's interpreter may lie where no other user can
    read."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("a Python for all users is not installed")
    venv = place / "venv"
    uv = [sys.executable, "-m", "uv", "--quiet"]
    made = subprocess.run([*uv, "venv", "--python", python, venv], check=False)
    if made.returncode:
        pytest.skip(f"{python} cannot make a virtual environment")
    install = [*uv, "pip", "install", "--python", venv / "bin" / "python", "--link-mode", "copy"]
    subprocess.run([*install, "--editable", f"{ROOT}[platform]"], check=True)
    return str(venv / "bin" / "clip")


def as_nobody(place: Path) -> list[str]:
    """The command `clip` of a user without rights, to whom `place` then belongs."""
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    clip = for_all_users(place)
    (place / "home").mkdir()
    for path in (place, place / "home"):
        os.chown(path, NOBODY, NOBODY)
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", clip]


@contextmanager
def confined_platform(kind: str, *args: str) -> Iterator[PlatformProcess]:
    """A running platform of one of KINDS or KINDS_OF_USERS. Its directory is its own: pytest's are closed to others."""
    user, _, mode = kind.partition("-")
    if user in ("root", "users") and os.geteuid() != 0:
        pytest.skip("only root can run it as root")
    place = Path(tempfile.mkdtemp(prefix="clip-iso-"))
    env = {"HOME": str(place), "CLIP_ISOLATION": mode or "auto"}
    command = [CLIP]
    if user == "root":
        env["UV_CACHE_DIR"] = os.path.expanduser("~/.cache/uv")
    elif user == "users":
        env |= {"CLIP_ISOLATION_UIDS": "61184..65519", "UV_CACHE_DIR": str(place / "uv")}
        command = [for_all_users(place)]
        place.chmod(0o711)
    elif os.geteuid() == 0:
        command = as_nobody(place)
    started = PlatformProcess(place / "home", args, env=env, command=command)
    try:
        with started:
            isolation = started.api("GET", "/info").json()["isolation"]
            held = isolation["mode"]
            if held != {"": "mounts", "none": "users"}.get(mode, mode):
                pytest.skip(f"this machine has {held}")
            if user == "users" and "a user for each project" not in isolation["detail"]:
                pytest.skip(f"this machine has no users for projects: {isolation['detail']}")
            yield started
    finally:
        shutil.rmtree(place, ignore_errors=True)
