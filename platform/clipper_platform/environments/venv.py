"""Virtual environments built by uv, named by a digest of what was requested, and shared by equal requests.

Layout of the root directory::

    <id>/                 the virtual environment, built in place since its scripts contain their own path
    <id>/.complete        metadata as JSON, written last: a directory without it is an interrupted build
    <id>.lock             held (flock) by the process that builds or removes <id>
    uv.toml               empty: ends uv's search for configuration in the directories above
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipper.contract.spec import EnvironmentSpec
from clipper_platform.clock import Clock, SystemClock
from clipper_platform.environments.base import BuildProgress
from clipper_platform.environments.interpreters import Interpreter, Interpreters
from clipper_platform.environments.uv import Uv, UvError, explain, hint_for, uv_environment
from clipper_platform.environments.virtual import VirtualEnvironment
from clipper_platform.errors import DeployFailed
from clipper_platform.types import EnvironmentId

__all__ = ["RUNTIME_REQUIREMENTS", "EnvironmentRecord", "VenvBuilder", "normalise"]

RUNTIME_REQUIREMENTS = ("msgspec>=0.19", "cloudpickle>=3.1")
"""What `clipper_runtime` needs beside the standard library."""

# Long enough to download and install the largest frameworks on a slow line; a build that hangs still ends.
BUILD_TIMEOUT_S = 1_800.0
# How often a lock that another process holds is tried again.
LOCK_POLL_S = 0.1
# The earlier lines that a waiter gets when it joins a running build.
_HISTORY_LINES = 200
_LOG_LINES = 60

_ID = re.compile(r"[0-9a-f]{20}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_COMPLETE = ".complete"
_REQUIREMENTS = "requirements.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentRecord:
    """The metadata of a complete environment. Times are Unix seconds."""

    id: EnvironmentId
    python: str
    requirements: tuple[str, ...]
    packages: tuple[str, ...]  # as `uv pip freeze` names them
    size_bytes: int
    created_at: float
    last_used_at: float


def normalise(lines: Sequence[str]) -> tuple[str, ...]:
    """Requirement lines in a form in which equal requests are equal text: without comments and blanks, names as the
    index spells them, packages sorted. Options (`--index-url …`) keep their order and come first.

    >>> normalise(["Scikit_Learn >=1.5  # models", "numpy"])
    ('numpy', 'scikit-learn>=1.5')
    """
    options, packages = [], set()
    for line in lines:
        text = re.sub(r"(^|\s)#.*$", "", line).strip()
        if not text:
            continue
        if text.startswith("-"):
            options.append(" ".join(text.split()))
        else:
            packages.add(_normalise_package(text))
    return (*options, *sorted(packages))


def _normalise_package(text: str) -> str:
    match = _NAME.match(text)
    if match is None or "/" in text.split("@")[0]:
        return text  # a path or an address: its letters' case matters
    name = re.sub(r"[-_.]+", "-", match[0]).lower()
    rest = text[match.end() :]
    if "@" not in rest and ";" not in rest:
        rest = re.sub(r"\s+", "", rest)
    return name + rest


class _Build:
    """One build and its waiters."""

    def __init__(
        self, id: EnvironmentId, requirements: Sequence[str], python: Interpreter, exclude: Sequence[str] = ()
    ) -> None:
        self.id = id
        self.requirements = tuple(requirements)
        self.exclude = tuple(exclude)
        self.python = python
        self.listeners: list[BuildProgress] = []
        self.history: deque[str] = deque(maxlen=_HISTORY_LINES)

    def tell(self, line: str) -> None:
        """Passes a line to all waiters, except for uv's note on which Python it uses."""
        if line.startswith("Using Python "):
            return
        self.history.append(line)
        for listener in tuple(self.listeners):
            listener(line)


class VenvBuilder:
    """Implements `EnvironmentBuilder`.

    `instance_id` is put into the environment of what uv runs, where the backend's guardian looks for it. One builder
    belongs to one event loop; any number of builders and processes may share `root`.
    """

    def __init__(
        self,
        root: Path,
        runtime_requirements: Sequence[str] = RUNTIME_REQUIREMENTS,
        *,
        interpreters: Interpreters | None = None,
        clock: Clock | None = None,
        environ: Mapping[str, str] | None = None,
        instance_id: str | None = None,
        build_timeout_s: float = BUILD_TIMEOUT_S,
    ) -> None:
        self._root = root.absolute()
        self._runtime = tuple(runtime_requirements)
        self._clock = clock or SystemClock()
        self._interpreters = interpreters or Interpreters(clock=self._clock)
        marker = {} if instance_id is None else {"CLIP_PLATFORM_INSTANCE": instance_id}
        self._uv = Uv(cwd=self._root, environ=uv_environment(os.environ if environ is None else environ, marker))
        self._timeout_s = build_timeout_s
        self._builds: dict[EnvironmentId, tuple[_Build, asyncio.Task[None]]] = {}

    def pythons(self) -> list[str]:
        """Full versions of the interpreters that can be asked for, newest first."""
        return list(dict.fromkeys(i.name for i in self._interpreters.list()))

    def identify(self, spec: EnvironmentSpec) -> EnvironmentId:
        return self._identify(spec, self._interpreters.find(spec.python))

    def _identify(self, spec: EnvironmentSpec, python: Interpreter) -> EnvironmentId:
        asked: dict[str, Any] = {
            "python": f"cpython-{python.name}-{python.machine}",
            "requirements": normalise([*spec.requirements, *self._runtime]),
        }
        if spec.exclude:  # absent where nothing is excluded, so that other environments keep their ids
            asked["exclude"] = normalise(spec.exclude)
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
        return EnvironmentId(digest.hexdigest()[:20])

    async def build(self, spec: EnvironmentSpec, progress: BuildProgress) -> EnvironmentId:
        python = await asyncio.to_thread(self._interpreters.find, spec.python)
        id = self._identify(spec, python)
        if self.find(id) is not None:
            return id
        running = self._builds.get(id)
        if running is None:
            build = _Build(id, (*normalise(spec.requirements), *self._runtime), python, spec.exclude)
            task = asyncio.create_task(self._build(build), name=f"build environment {id}")
            running = self._builds[id] = (build, task)
            task.add_done_callback(lambda _: self._forget(build))
        await self._join(*running, progress)
        return id

    async def _join(self, build: _Build, task: asyncio.Task[None], progress: BuildProgress) -> None:
        for line in tuple(build.history):
            progress(line)
        build.listeners.append(progress)
        try:
            await asyncio.shield(task)
        finally:
            build.listeners.remove(progress)
            if not build.listeners and not task.done():
                # The last waiter left: the build ends, and a later request starts a new one behind this one's lock.
                self._forget(build)
                task.cancel()
                await asyncio.wait([task])

    def _forget(self, build: _Build) -> None:
        if self._builds.get(build.id, (None,))[0] is build:
            del self._builds[build.id]

    async def _build(self, build: _Build) -> None:
        try:
            async with asyncio.timeout(self._timeout_s), self._lock(build.id, build.tell) as lock:
                # Another process may have built it while this one waited.
                if self.find(build.id) is None:
                    await self._build_anew(build, lock)
                return
        except TimeoutError:
            message = f"the environment was not built within {self._timeout_s:g} s"
            hint = "deploy again: what was downloaded so far is kept"
        except UvError as error:
            raise _failed(error.lines, self._root / build.id) from None
        except OSError as error:
            message = f"the environment cannot be written: {error}"
            hint = f"check the disk and the permissions under {self._root}"
        log = list(build.history)[-_LOG_LINES:]
        raise DeployFailed(message, phase="environment", log=log, hint=hint)

    async def _build_anew(self, build: _Build, lock: int) -> None:
        path = self._root / build.id
        python = path / "bin" / "python"
        done = False
        try:
            await _in_thread(lambda: _remove_tree(path))
            build.tell(f"Creating an environment with Python {build.python.name}")
            await self._install(build, path, python, lock)
            freeze = ("pip", "freeze", "--python", python)
            packages = [line for line in await self._uv.run(*freeze, keep_open=lock) if re.search(r"==| @ ", line)]
            await _in_thread(lambda: self._complete(build, path, packages))
            done = True
        finally:
            if not done:
                await _in_thread(lambda: _remove_tree(path))

    async def _install(self, build: _Build, path: Path, python: Path, lock: int) -> None:
        create = ("venv", "--no-project", "--no-python-downloads", "--python", build.python.path, path)
        await self._uv.run(*create, keep_open=lock)
        requirements = path / _REQUIREMENTS
        requirements.write_text("".join(f"{line}\n" for line in build.requirements), encoding="utf-8")
        install: list[str | Path] = ["pip", "install", "--python", python, "--requirement", requirements]
        if build.exclude:
            # An override whose marker is never true: packages that depend on the excluded one are installed without it.
            overrides = path / "excluded.txt"
            overrides.write_text("".join(f"{name}; python_version < '0'\n" for name in build.exclude), encoding="utf-8")
            install += ["--overrides", overrides]
        await self._uv.run(*install, on_line=build.tell, keep_open=lock)

    def _complete(self, build: _Build, path: Path, packages: Sequence[str]) -> None:
        metadata = {
            "python": build.python.name,
            "interpreter": str(build.python.path),
            "requirements": list(build.requirements),
            "packages": list(packages),
            "size_bytes": _tree_size(path),
            "created_at": self._clock.time(),
        }
        draft = path / f"{_COMPLETE}.draft"
        with open(draft, "w", encoding="utf-8") as file:
            json.dump(metadata, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path / _COMPLETE)
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def find(self, id: EnvironmentId) -> VirtualEnvironment | None:
        """The environment if it is complete, marked as used now. One whose base Python is gone is not complete."""
        path = self._root / id
        python = path / "bin" / "python"
        if not python.exists():
            return None
        try:
            now = self._clock.time()
            os.utime(path / _COMPLETE, (now, now))
        except OSError:
            return None
        return VirtualEnvironment(id=id, python=python, path=path)

    async def remove(self, environment: EnvironmentId) -> None:
        """Raises ValueError for what is not an environment's id, so that no other directory can be named."""
        if not _ID.match(environment):
            raise ValueError(f"{environment!r} is not the id of an environment")
        path = self._root / environment
        if path.exists():
            async with self._lock(environment, lambda _: None):
                await _in_thread(lambda: _remove_tree(path))

    def list(self) -> list[EnvironmentRecord]:
        """All complete environments, the most recently used first."""
        found = [record for path in self._root.glob("*/" + _COMPLETE) if (record := _read(path)) is not None]
        return sorted(found, key=lambda record: record.last_used_at, reverse=True)

    @asynccontextmanager
    async def _lock(self, id: EnvironmentId, tell: Callable[[str], None]) -> AsyncIterator[int]:
        """Hold `<id>.lock`. uv inherits the descriptor: the lock lasts as long as uv, also after the platform's end.

        The file stays: removing it would let two processes lock two different files of the same name.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        (self._root / "uv.toml").touch()
        descriptor = os.open(self._root / f"{id}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        announced = False
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not announced:
                        tell("Waiting for another process that builds the same environment")
                        announced = True
                    await asyncio.sleep(LOCK_POLL_S)
            yield descriptor
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # also where a daemon that a build started still has it open
        finally:
            os.close(descriptor)


def _failed(lines: Sequence[str], path: Path) -> DeployFailed:
    # The requirements file is internal, and deleted by the time that its name is read.
    file = re.compile(rf"(\S*/)?{path.name}/{re.escape(_REQUIREMENTS)}")
    output = [file.sub("requirements", line) for line in lines]
    explanation = explain(output)
    return DeployFailed(
        f"the environment cannot be built: {explanation}",
        phase="environment",
        log=output[-_LOG_LINES:],
        hint=hint_for(explanation),
    )


def _read(marker: Path) -> EnvironmentRecord | None:
    try:
        metadata: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
        return EnvironmentRecord(
            id=EnvironmentId(marker.parent.name),
            python=metadata["python"],
            requirements=tuple(metadata["requirements"]),
            packages=tuple(metadata["packages"]),
            size_bytes=metadata["size_bytes"],
            created_at=metadata["created_at"],
            last_used_at=marker.stat().st_mtime,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # removed meanwhile, or written by another program


def _remove_tree(path: Path) -> None:
    """Removes the marker first, so that an interrupted removal leaves an incomplete environment."""
    (path / _COMPLETE).unlink(missing_ok=True)
    if path.exists():
        shutil.rmtree(path)


def _tree_size(path: Path) -> int:
    """Bytes of regular files; hard links into uv's cache count in full."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            total += os.lstat(os.path.join(directory, name)).st_size
    return total


async def _in_thread(function: Callable[[], None]) -> None:
    """Runs it in a thread and waits for its end, also while cancelled: two must not work on one directory."""
    work = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
