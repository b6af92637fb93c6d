"""Installing an environment's packages with uv, so that no code of theirs reaches what is not theirs.

Wheels are unpacked; nothing in them runs. A source distribution, a directory and a Git repository are built, and a
build runs what they contain. So there are two ways:

1. *Plain*: uv may build nothing (`--no-build`). It uses the user's cache, whose files the environment shares.
2. *Confined*: uv may build. It is confined as replicas are, sees nothing of the platform but this environment, and its
   changes to the cache are dropped at the end, so that no build changes what another environment gets.

The plain way is tried first. It does not count where it chose an older version because the newest one would have to be
built: a confined look (`--dry-run --upgrade`) finds that out. Where the machine offers no isolation, uv does both at
once, unconfined.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from clipper.contract.confinement import Confinement
from clipper.contract.credentials import mask
from clipper_platform.environments.base import BuildProgress
from clipper_platform.environments.disk import in_thread, remove_directory, remove_tree
from clipper_platform.environments.failures import SCRATCH, clash, mask_addresses
from clipper_platform.environments.installation import Installation, Step
from clipper_platform.environments.interpreters import Interpreter
from clipper_platform.environments.uv import Confined, Uv, UvError, explain, in_conflict
from clipper_platform.errors import DeployFailed
from clipper_platform.types import EnvironmentId

__all__ = ["Build", "BuildIsolation", "Installer"]

# The earlier lines that a waiter gets when it joins a running build.
_HISTORY_LINES = 200
_REQUIREMENTS, _CONSTRAINTS = "requirements.txt", "constraints.txt"
_CACHE: Final = "cache"
# In uv's explanation of why a step cannot be done without building.
_NEEDS_BUILD = re.compile(r"\b(build\w*|wheels?|source dist\w*)\b", re.IGNORECASE)


class BuildIsolation(Protocol):
    """What confines builds here."""

    @property
    def runtime(self) -> Path:
        """A directory that holds the package `clipper_runtime`."""
        ...

    def of_build(self, python: Path, shown: Sequence[Path], writable: Path, cache: Path) -> Confinement | None:
        """For a process that reads `shown`, writes `writable`, and whose changes to uv's cache go to the directory
        `cache`. `python` is the base interpreter. None: this machine offers no isolation."""
        ...


class Build:
    """One build and its waiters."""

    def __init__(
        self, id: EnvironmentId, installation: Installation, python: Interpreter, exclude: Sequence[str] = ()
    ) -> None:
        self.id = id
        self.installation = installation
        self.exclude = tuple(exclude)
        self.python = python
        self.listeners: list[BuildProgress] = []
        self.history: deque[str] = deque(maxlen=_HISTORY_LINES)
        self.settings = b""  # pyvenv.cfg as uv wrote it

    def tell(self, line: str) -> None:
        """Passes a line to all waiters, without credentials, and except for uv's note on which Python it uses."""
        if line.startswith("Using Python "):
            return
        line = mask(line)
        self.history.append(line)
        for listener in tuple(self.listeners):
            listener(line)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a build works."""

    path: Path  # the environment
    lock: int  # a descriptor that what uv starts inherits

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    @property
    def scratch(self) -> Path:
        return self.path / SCRATCH


class Installer:
    """Makes environments. Methods raise UvError, DeployFailed and OSError."""

    isolation: BuildIsolation | None = None

    def __init__(self, uv: Uv) -> None:
        self._uv = uv

    async def install(self, build: Build, path: Path, lock: int) -> list[str]:
        """Make the environment at `path`. Returns its packages as `pip freeze` writes them, without credentials."""
        place = _Place(path=path, lock=lock)
        look = self._confined(build, place, writable=place.scratch)
        if look is None:
            await self._create(build, place)
            await self._run_steps(build, place, None)
        elif not await self._install_plain(build, place, look):
            await in_thread(partial(remove_tree, path))
            await self._create(build, place)
            await self._run_steps(build, place, self._confined(build, place, writable=path))
        _check_interpreter(build, place)
        # To list the packages uv runs the environment's interpreter, and with it what packages run at its start.
        freeze = ("pip", "freeze", "--python", place.python)
        lines = await self._uv.run(*freeze, keep_open=lock, confined=look)
        # It holds the credentials of indexes, which functions must not see.
        await in_thread(partial(remove_directory, place.scratch))
        await in_thread(partial(mask_addresses, path))
        return [mask(line) for line in lines if re.search(r"==| @ ", line)]

    def _confined(self, build: Build, place: _Place, *, writable: Path) -> Confined | None:
        if self.isolation is None:
            return None
        shown = [place.path, place.path.parent / "uv.toml", *build.installation.files]
        cache = place.scratch / _CACHE
        confinement = self.isolation.of_build(build.python.path, shown, writable, cache)
        return None if confinement is None else Confined(self.isolation.runtime, confinement, cache)

    async def _create(self, build: Build, place: _Place) -> None:
        create = ("venv", "--no-project", "--no-python-downloads", "--python", build.python.path, place.path)
        await self._uv.run(*create, keep_open=place.lock)
        build.settings = (place.path / "pyvenv.cfg").read_bytes()
        (place.scratch / _CACHE).mkdir(mode=0o700, parents=True)

    async def _install_plain(self, build: Build, place: _Place, look: Confined) -> bool:
        """Whether the packages were installed without building any, and are those that uv takes if it may build."""
        await self._create(build, place)
        first, *others = await asyncio.to_thread(build.installation.steps, place.scratch)
        try:
            await self._run_step(build, place, first, "--no-build")
            if not first.hashed and await self._would_change(build, place, first, look):
                return False
            _check_interpreter(build, place)
            for step in others:
                # Confined: what is installed by now may run as uv asks the environment's interpreter for its version.
                await self._run_step(build, place, step, "--no-build", confined=look.writing(place.path))
        except UvError as error:
            if _NEEDS_BUILD.search(explain(error.lines)):
                return False
            raise
        return True

    async def _would_change(self, build: Build, place: _Place, step: Step, look: Confined) -> bool:
        files = _files_of(build, place, step)
        try:
            lines = await self._uv.run(
                *("pip", "install", "--python", place.python, *files, "--dry-run", "--upgrade"),
                keep_open=place.lock,
                confined=look,
            )
        except UvError:
            return True  # the confined way says why
        return any(re.match(r"Would (un)?install", line) for line in lines)

    async def _run_steps(self, build: Build, place: _Place, confined: Confined | None) -> None:
        for step in await asyncio.to_thread(build.installation.steps, place.scratch):
            await self._run_step(build, place, step, confined=confined)

    async def _run_step(
        self, build: Build, place: _Place, step: Step, *flags: str, confined: Confined | None = None
    ) -> None:
        install: tuple[str | Path, ...] = ("pip", "install", "--python", place.python, *flags)
        files = _files_of(build, place, step)
        tell = _until_error(build.tell) if "--no-build" in flags else build.tell
        try:
            await self._uv.run(*install, *files, on_line=tell, keep_open=place.lock, confined=confined)
        except UvError as error:
            needed = in_conflict(error.lines, build.installation.runtime)
            if not needed or ("--no-build" in flags and _NEEDS_BUILD.search(explain(error.lines))):
                raise
            if step.lines:  # they may contradict each other also without the runtime
                alone = _files_of(build, place, Step(lines=step.lines, flags=step.flags))
                await self._uv.run(*install, *alone, "--dry-run", keep_open=place.lock, confined=confined)
            raise clash(needed, error.lines) from None


def _files_of(build: Build, place: _Place, step: Step) -> list[str | Path]:
    """uv's arguments for a step, and the files that they name."""
    lines = _write(place.scratch / _REQUIREMENTS, (*step.lines, *step.also))
    bounds = _write(place.scratch / _CONSTRAINTS, (*build.installation.constraints, *step.bounds))
    found: list[str | Path] = [*_overrides(build, place.scratch), *step.flags, "--requirement", lines]
    return [*found, "--constraint", bounds] if bounds.stat().st_size else found


def _until_error(tell: BuildProgress) -> BuildProgress:
    """Passes on what comes before an error: whoever tries another way has not failed yet."""
    failed = False

    def told(line: str) -> None:
        nonlocal failed
        failed = failed or re.match(r"\s*(error:|×|hint:)", line) is not None
        if not failed:
            tell(line)

    return told


def _check_interpreter(build: Build, place: _Place) -> None:
    """The platform starts it: a package must not have put its own program, or its own standard library, in its place.
    Raises DeployFailed."""
    settings = place.path / "pyvenv.cfg"
    try:
        same = place.python.resolve() == build.python.path.resolve() and settings.read_bytes() == build.settings
    except OSError:
        same = False
    if not same or settings.is_symlink():
        message = "a package replaces the interpreter of its environment"
        log = list(build.history)
        raise DeployFailed(message, phase="environment", log=log, hint="leave out the package that was installed last")


def _write(path: Path, lines: Iterable[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _overrides(build: Build, scratch: Path) -> list[str | Path]:
    if not build.exclude:
        return []
    # Their markers are never true: packages that depend on the excluded ones are installed without them.
    lines = (f"{name}; python_version < '0'" for name in build.exclude)
    return ["--overrides", _write(scratch / "excluded.txt", lines)]
