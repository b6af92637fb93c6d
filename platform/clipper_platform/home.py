"""The platform's home directory: the lock that admits one platform, and the file with its address."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipper.contract.constants import PLATFORM_FILE
from clipper_platform.errors import Conflict, InvalidSpec

__all__ = ["home_id", "home_lock", "prepare_home", "write_platform_file"]


def prepare_home(home: Path) -> None:
    if os.pathsep in str(home):
        # As `python -m venv` does: PATH and PYTHONPATH would be cut there.
        why = f"must not contain {os.pathsep!r}, which separates paths"
        raise InvalidSpec(f"the home directory {home} {why}", key="home")
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSpec(f"the home directory {home} cannot be made: {error.strerror}", key="home") from error
    if not os.access(home, os.W_OK | os.X_OK):
        raise InvalidSpec(f"the home directory {home} cannot be written", key="home")


def home_id(home: Path) -> str:
    """The name of this home among the platforms that share a store; random, made at the first start."""
    path = home / "home_id"
    with contextlib.suppress(FileNotFoundError):
        if name := path.read_text().strip():
            return name
    name = secrets.token_hex(8)
    fresh = path.with_suffix(".new")
    fresh.write_text(name + "\n")
    fresh.replace(path)
    return name


@contextmanager
def home_lock(home: Path) -> Iterator[None]:
    """Holds the home's lock: one platform per home. The kernel releases it with the process, however that ends."""
    with (home / "platform.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            running = read_platform_file(home)
            where = f" at {running['url']} (pid {running['pid']})" if running else ""
            raise Conflict(f"a platform with the home {home} runs already{where}", home=str(home), **running) from None
        yield


def read_platform_file(home: Path) -> dict[str, Any]:
    """The address and the process id of the running platform, or an empty dict."""
    try:
        read = json.loads((home / PLATFORM_FILE).read_text())
        return {"url": str(read["url"]), "pid": int(read["pid"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write_platform_file(home: Path, url: str, started_at: float, version: str) -> None:
    """Writes the file by which clients on this machine find the platform; atomic, readable by its owner only."""
    path = home / PLATFORM_FILE
    fresh = path.with_suffix(".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({"url": url, "pid": os.getpid(), "started_at": started_at, "version": version}, file)
    fresh.replace(path)
