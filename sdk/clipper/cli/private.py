"""A platform for one command: it runs as a child process in a temporary home and ends with the command."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from clipper.cli.problems import CommandFailed
from clipper.contract.constants import KEY_FILE
from clipper.location import home_directory

if TYPE_CHECKING:
    from clipper.control import ControlClient

__all__ = ["private_platform"]

STOP_TIMEOUT_S: Final = 15.0
_PR_SET_PDEATHSIG: Final = 1


@contextmanager
def private_platform() -> Iterator[tuple[ControlClient, Path]]:
    """A client of a platform that runs during the block, and its home, which is removed at the end.

    Environments are kept in the user's own home, so that each is built once. Raises CommandFailed.
    """
    from clipper.control import ControlClient

    home = Path(tempfile.mkdtemp(prefix="clip-dev-"))
    process: subprocess.Popen[str] | None = None
    try:
        with (home / "platform.log").open("w") as log:
            process = _start(home, home_directory() / "dev-environments", log.fileno())
        url = _listening(process, home / "platform.log")
        with ControlClient(url, (home / KEY_FILE).read_text(encoding="utf-8").strip()) as control:
            yield control, home
    finally:
        if process is not None:
            _stop(process)
        shutil.rmtree(home, ignore_errors=True)


def _start(home: Path, environments: Path, log: int) -> subprocess.Popen[str]:
    # Settings of the user's other platform, such as its address and store, must not reach this one.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CLIP_")}
    arguments = ["up", "--home", str(home), "--port", "0", "--log-level", "warning", "--json"]
    return subprocess.Popen(
        [sys.executable, "-m", "clipper.cli.main", *arguments],
        env={**kept, "CLIP_ENVIRONMENTS": str(environments)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,  # Ctrl-C in the terminal reaches the command only, which then stops the platform
        preexec_fn=_end_with(os.getpid()) if sys.platform == "linux" else None,
    )


def _end_with(parent: int) -> Callable[[], None]:
    """For `preexec_fn`: lets the kernel stop the platform when the command is killed."""
    libc = ctypes.CDLL(None, use_errno=True)  # loaded before the fork, where it is safe

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)  # the command was killed before prctl

    return prepare


def _listening(process: subprocess.Popen[str], log: Path) -> str:
    """The platform's address, from its first line. Raises CommandFailed with other output."""
    line = process.stdout.readline() if process.stdout is not None else ""
    try:
        return str(json.loads(line)["url"])
    except (ValueError, KeyError, TypeError):
        rest = process.stdout.read() if process.stdout is not None else ""
        process.wait(STOP_TIMEOUT_S)
        output = (line + rest + log.read_text(encoding="utf-8", errors="replace")).strip().splitlines()
        message, hint = _printed_error(line + rest)
        raise CommandFailed(
            f"A platform could not be started: {message or 'it ended at once'}",
            hint=hint or "`clip up` shows why",
            code="platform_failed",
            log=output[-20:],
        ) from None


def _printed_error(text: str) -> tuple[str, str]:
    try:
        error = json.loads(text)["error"]
        return str(error["message"]), str(error.get("hint", ""))
    except (ValueError, KeyError, TypeError):
        return "", ""


def _stop(process: subprocess.Popen[str]) -> None:
    """Let it drain, else kill it. Its replicas end with it in both cases."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        if process.stdout is not None:
            process.stdout.close()
