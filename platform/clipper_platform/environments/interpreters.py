"""The Pythons on this machine: found in the usual places, queried once, and cached while their files are unchanged."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from clipper_platform.clock import Clock, SystemClock
from clipper_platform.errors import DeployFailed

__all__ = ["Interpreter", "Interpreters", "candidates"]

MIN_VERSION = (3, 11)
"""The oldest minor version that the runtime and the SDK run on."""

# Installing a Python is rare and listing costs a few hundred stat calls, so a listing is used for a minute.
LISTING_TTL_S = 60.0
QUERY_TIMEOUT_S = 10.0

# The facts that an interpreter prints about itself. `_base_executable` is the base Python of a virtual environment.
_QUERY = """
import json, os, sys
print(json.dumps({
    "version": list(sys.version_info[:3]), "final": sys.version_info.releaselevel == "final",
    "implementation": sys.implementation.name, "machine": os.uname().machine, "free_threaded": "t" in sys.abiflags,
    "path": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
}))
"""
_NAME = re.compile(r"python3(\.\d+)?\Z")


@dataclass(frozen=True, slots=True, order=True)
class Interpreter:
    """A CPython that environments can be built with."""

    version: tuple[int, int, int]
    path: Path
    machine: str = ""

    @property
    def name(self) -> str:
        """The full version, e.g. `3.11.7`."""
        return ".".join(map(str, self.version))

    def satisfies(self, python: str) -> bool:
        """Whether it is what `3.11` or `3.11.7` asks for."""
        asked = tuple(int(part) for part in python.split("."))
        return self.version[: len(asked)] == asked


class Interpreters:
    """Finds interpreters. Thread-safe: concurrent calls at worst query the same ones twice."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        environ: Mapping[str, str] | None = None,
        find: Callable[[Mapping[str, str]], Iterable[Path]] | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._environ = os.environ if environ is None else environ
        self._find = find or candidates
        self._own = _describe_self()
        self._asked: dict[tuple[str, int, int], Interpreter | None] = {}
        self._listing: tuple[Interpreter, ...] = ()
        self._listed_at: float | None = None

    @property
    def own(self) -> Interpreter:
        """The one that runs the platform (its base, when the platform runs in a virtual environment)."""
        return self._own

    def list(self) -> tuple[Interpreter, ...]:
        """All usable interpreters, newest first; the list is at most `LISTING_TTL_S` old."""
        now = self._clock.monotonic()
        if self._listed_at is None or now - self._listed_at >= LISTING_TTL_S:
            self._listing = self._look()
            self._listed_at = now
        return self._listing

    def forget(self) -> None:
        """Look at the disk again at the next call."""
        self._listed_at = None

    @staticmethod
    def supports(python: str) -> bool:
        """Whether functions can run on this version."""
        return tuple(map(int, python.split(".")))[:2] >= MIN_VERSION

    def find(self, python: str | None) -> Interpreter:
        """The interpreter for `3.11` or `3.11.7`; for None the platform's own.

        Among several the platform's own comes first, else the newest. Raises DeployFailed when there is none,
        with the names of the available ones.
        """
        if python is None or self._own.satisfies(python):
            return self._own
        for interpreter in self.list():
            if interpreter.satisfies(python) and interpreter.path.exists():
                return interpreter
        have = ", ".join(dict.fromkeys(i.name for i in self.list()))
        if not self.supports(python):
            raise DeployFailed(
                f"Python {python} is too old: functions run on CPython {_minor(MIN_VERSION)} or newer, here {have}",
                phase="environment",
                log=[],
                hint=f'write a version that is there, e.g. python = "{_minor(self._own.version)}"',
            )
        raise DeployFailed(
            f"Python {python} is not on the platform's machine; it has {have}",
            phase="environment",
            log=[],
            hint=f"install Python {python} there, or ask for one of {have} in [environment]",
        )

    def _look(self) -> tuple[Interpreter, ...]:
        unknown: list[tuple[tuple[str, int, int], str]] = []
        keys = []
        for path in self._find(self._environ):
            try:
                real = os.path.realpath(path)
                stat = os.stat(real)
            except OSError:
                continue
            key = (str(path) if _in_virtual_environment(path) else real, stat.st_mtime_ns, stat.st_size)
            if key not in keys:
                keys.append(key)
                if key not in self._asked:
                    unknown.append((key, key[0]))
        for (key, _), answer in zip(unknown, _ask([path for _, path in unknown]), strict=True):
            self._asked[key] = answer
        found = {self._own.path: self._own}
        for interpreter in filter(None, (self._asked[key] for key in keys)):
            found.setdefault(interpreter.path, interpreter)
        return tuple(sorted(found.values(), key=lambda i: (i.version, str(i.path)), reverse=True))


def candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    """Paths that look like Python 3: on PATH, pyenv's versions, those that uv manages."""
    home = Path(environ.get("HOME") or os.path.expanduser("~"))
    pyenv = Path(environ.get("PYENV_ROOT") or home / ".pyenv")
    data = Path(environ.get("XDG_DATA_HOME") or home / ".local/share")
    managed = Path(environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv/python")
    for root in (pyenv / "versions", managed):
        try:
            yield from sorted(root.glob("*/bin/python3"))
        except OSError:
            continue  # another user's
    for entry in (environ.get("PATH") or os.defpath).split(os.pathsep):
        # A shim is a script that runs another interpreter in each directory.
        if not entry or Path(entry) == pyenv / "shims":
            continue
        try:
            names = sorted(name for name in os.listdir(entry) if _NAME.match(name))
        except OSError:
            continue
        yield from (path for name in names if shutil.which(path := Path(entry) / name))


def _describe_self() -> Interpreter:
    path = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    return Interpreter(version=sys.version_info[:3], path=Path(path), machine=os.uname().machine)


def _minor(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version[:2]))


def _in_virtual_environment(path: Path) -> bool:
    # Its links lead to the base interpreter, which does not find its prefix under the name of the link's target.
    return (path.parent.parent / "pyvenv.cfg").exists()


def _ask(paths: list[str]) -> list[Interpreter | None]:
    """Queries all of them at once; None for a path that is no usable Python."""
    started: list[subprocess.Popen[bytes] | None] = []
    for path in paths:
        try:
            started.append(
                subprocess.Popen(
                    [path, "-I", "-S", "-c", _QUERY],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
        except OSError:
            started.append(None)
    return [_answer(process) if process else None for process in started]


def _answer(process: subprocess.Popen[bytes]) -> Interpreter | None:
    with process:
        try:
            output, _ = process.communicate(timeout=QUERY_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return None
    if process.returncode != 0:
        return None
    try:
        facts = json.loads(output)
        version = tuple(facts["version"])
        usable = facts["implementation"] == "cpython" and facts["final"] and not facts["free_threaded"]
        if not usable or version[:2] < MIN_VERSION:
            return None
        return Interpreter(version=version, path=Path(facts["path"]), machine=facts["machine"])
    except (ValueError, KeyError, TypeError):
        return None
