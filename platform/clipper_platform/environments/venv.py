"""Virtual environments built by uv, named by a digest of what was requested, and shared by equal requests.

Layout of the root directory::

    <id>/                 the virtual environment, built in place since its scripts contain their own path
    <id>/.complete        metadata as JSON, written last: a directory without it is an interrupted build
    <id>.lock             held exclusively while <id> is built or removed, shared while a process uses it
    uv.toml               empty: ends uv's search for configuration in the directories above
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clipper.contract.credentials import mask
from clipper.contract.requirements import moving_requirements
from clipper.contract.spec import EnvironmentSpec
from clipper_platform.clock import Clock, SystemClock
from clipper_platform.core.retention import EnvironmentFacts
from clipper_platform.environments.base import BuildProgress
from clipper_platform.environments.completion import COMPLETE, installed_packages, write_record
from clipper_platform.environments.failures import LOG_LINES, SCRATCH, clash, failed, mask_addresses
from clipper_platform.environments.installation import Installation, Step
from clipper_platform.environments.interpreters import Interpreter, Interpreters
from clipper_platform.environments.locks import EnvironmentLocks
from clipper_platform.environments.moving import resolve
from clipper_platform.environments.uv import Uv, UvError, in_conflict, uv_environment
from clipper_platform.environments.virtual import VirtualEnvironment
from clipper_platform.errors import DeployFailed
from clipper_platform.types import EnvironmentId

__all__ = ["RUNTIME_REQUIREMENTS", "VenvBuilder", "measure"]

RUNTIME_REQUIREMENTS = ("msgspec>=0.19", "cloudpickle>=3.1")
"""What `clipper_runtime` needs beside the standard library."""

# Long enough to download and install the largest frameworks on a slow line; a build that hangs still ends.
BUILD_TIMEOUT_S = 1_800.0
# The earlier lines that a waiter gets when it joins a running build.
_HISTORY_LINES = 200

_ID = re.compile(r"[0-9a-f]{20}\Z")
_REQUIREMENTS, _CONSTRAINTS = "requirements.txt", "constraints.txt"


class _Build:
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

    def tell(self, line: str) -> None:
        """Passes a line to all waiters, without credentials, and except for uv's note on which Python it uses."""
        if line.startswith("Using Python "):
            return
        line = mask(line)
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
        self._locks = EnvironmentLocks(self._root)
        self._sizes: dict[tuple[EnvironmentId, bool], int] = {}  # (id, complete) -> bytes, as measured last

    def pythons(self) -> list[str]:
        """Full versions of the interpreters that can be asked for, newest first."""
        return list(dict.fromkeys(i.name for i in self._interpreters.list()))

    def identify(self, spec: EnvironmentSpec, files: Path | None = None) -> EnvironmentId:
        installation = Installation(spec, self._runtime, files)
        return _identify(installation, self._interpreters.find(spec.python))

    async def resolve(self, spec: EnvironmentSpec) -> dict[str, str]:
        return await resolve(moving_requirements(spec.requirements), self._uv.environ)

    async def build(
        self,
        spec: EnvironmentSpec,
        progress: BuildProgress,
        files: Path | None = None,
        meanings: Mapping[str, str] = MappingProxyType({}),
    ) -> EnvironmentId:
        installation = await asyncio.to_thread(Installation, spec, self._runtime, files, meanings)
        python = await self._python(spec.python, progress)
        while self.find(id := self._choose(installation, python)) is None:
            # More than once only if another process removes what was just built, or built it with other packages.
            running = self._builds.get(id)
            if running is None:
                build = _Build(id, installation, python, spec.exclude)
                task = asyncio.create_task(self._build(build), name=f"build environment {id}")
                running = self._builds[id] = (build, task)
                task.add_done_callback(partial(self._forget, build))
            await self._join(*running, progress)
        return id

    def _choose(self, installation: Installation, python: Interpreter) -> EnvironmentId:
        """The id of the environment; another one where there are packages in it that the version did not have.

        An environment that was lost may have been built again for another version, with newer packages.
        """
        id, wanted = _identify(installation, python), installation.packages
        if not wanted or self._complete(id) is None or set(self.packages(id)) == set(wanted):
            return id
        return _identify(installation, python, packages=sorted(wanted))

    def packages(self, environment: EnvironmentId) -> tuple[str, ...]:
        return installed_packages(self._root / environment)

    async def _python(self, wanted: str | None, progress: BuildProgress) -> Interpreter:
        """The interpreter of this version, fetched by uv if it is not here and can be."""
        try:
            return await asyncio.to_thread(self._interpreters.find, wanted)
        except DeployFailed as missing:
            if wanted is None or not self._interpreters.supports(wanted):
                raise
            progress(f"Fetching Python {wanted}")
            self._prepare_root()
            try:
                await self._uv.run("python", "install", "--no-bin", wanted, on_line=progress)
            except UvError as error:
                missing.details["log"] = list(error.lines)[-LOG_LINES:]
                raise missing from error
            self._interpreters.forget()
            return await asyncio.to_thread(self._interpreters.find, wanted)

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

    def _forget(self, build: _Build, _: object = None) -> None:
        if self._builds.get(build.id, (None,))[0] is build:
            del self._builds[build.id]

    async def _build(self, build: _Build) -> None:
        def is_built() -> bool:
            """Another process may have built it while this one waited."""
            return self._complete(build.id) is not None

        try:
            self._prepare_root()
            waiting = partial(build.tell, "Waiting for another process that builds the same environment")
            async with asyncio.timeout(self._timeout_s), self._locks.building(build.id, waiting, is_built) as lock:
                if lock is not None and not is_built():
                    await self._build_anew(build, lock)
                return
        except TimeoutError:
            message = f"the environment was not built within {self._timeout_s:g} s"
            hint = "deploy again: what was downloaded so far is kept"
        except UvError as error:
            raise failed(error.lines) from None
        except OSError as error:
            message = f"the environment cannot be written: {error}"
            hint = f"check the disk and the permissions under {self._root}"
        log = list(build.history)[-LOG_LINES:]
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
            packages = [
                mask(line) for line in await self._uv.run(*freeze, keep_open=lock) if re.search(r"==| @ ", line)
            ]
            await _in_thread(lambda: self._mark_complete(build, path, packages))
            done = True
        finally:
            if not done:
                await _in_thread(lambda: _remove_tree(path))

    async def _install(self, build: _Build, path: Path, python: Path, lock: int) -> None:
        create = ("venv", "--no-project", "--no-python-downloads", "--python", build.python.path, path)
        await self._uv.run(*create, keep_open=lock)
        scratch = path / SCRATCH
        scratch.mkdir(mode=0o700)
        for step in await asyncio.to_thread(build.installation.steps, scratch):
            await self._run_step(build, step, ("pip", "install", "--python", python), scratch, lock)
        # It holds the credentials of indexes, which functions must not see.
        await _in_thread(partial(shutil.rmtree, scratch))
        await _in_thread(partial(mask_addresses, path))

    async def _run_step(
        self, build: _Build, step: Step, install: tuple[str | Path, ...], scratch: Path, lock: int
    ) -> None:
        lines = _write(scratch / _REQUIREMENTS, (*step.lines, *step.also))
        bounds = _write(scratch / _CONSTRAINTS, (*build.installation.constraints, *step.bounds))
        install = (*install, *_overrides(build, scratch), *step.flags, "--requirement", lines)
        if bounds.stat().st_size:
            install = (*install, "--constraint", bounds)
        try:
            await self._uv.run(*install, on_line=build.tell, keep_open=lock)
        except UvError as error:
            needed = in_conflict(error.lines, build.installation.runtime)
            if not needed:
                raise
            if step.lines:  # they may contradict each other also without the runtime
                _write(lines, step.lines)
                _write(bounds, build.installation.constraints)
                await self._uv.run(*install, "--dry-run", keep_open=lock)
            raise clash(needed, error.lines) from None

    def _mark_complete(self, build: _Build, path: Path, packages: Sequence[str]) -> None:
        metadata = {
            "python": build.python.name,
            "interpreter": str(build.python.path),
            "requirements": build.installation.identity["requirements"],
            "packages": list(packages),
            "created_at": self._clock.time(),
        }
        write_record(path, metadata)

    def find(self, id: EnvironmentId) -> VirtualEnvironment | None:
        """The environment if it is complete, marked as used now and held: until `retain` no process removes it."""
        environment = self._complete(id)
        if environment is None or not self._locks.hold(id):
            return None
        environment = self._complete(id)  # it may have been removed before it was held
        if environment is None:
            self._locks.release(id)
        return environment

    def _complete(self, id: EnvironmentId) -> VirtualEnvironment | None:
        """The environment, marked as used now. One whose base Python is gone is not complete."""
        path = self._root / id
        python = path / "bin" / "python"
        if not python.exists():
            return None
        try:
            now = self._clock.time()
            os.utime(path / COMPLETE, (now, now))
        except OSError:
            return None
        return VirtualEnvironment(id=id, python=python, path=path)

    def retain(self, wanted: Collection[EnvironmentId]) -> None:
        self._locks.release_others(wanted)
        for id in wanted:
            self.find(id)

    async def stored(self) -> list[EnvironmentFacts]:
        return await asyncio.to_thread(self._stored)

    def _stored(self) -> list[EnvironmentFacts]:
        """In a thread: a large environment has 20,000 files. A complete environment does not change, so that they are
        measured again only when there are others."""
        paths = [path for path in self._root.glob("*") if _ID.match(path.name)]
        found = {(EnvironmentId(path.name), (path / COMPLETE).exists()): path for path in paths}
        if found.keys() != self._sizes.keys():
            self._sizes = dict(zip(found, measure(found.values()), strict=True))
        return [
            EnvironmentFacts(id=id, bytes=self._sizes[id, complete], last_used_at=_last_use(path), complete=complete)
            for (id, complete), path in found.items()
        ]

    async def remove(self, environment: EnvironmentId) -> bool:
        """Raises ValueError for what is not an environment's id, so that no other directory can be named."""
        if not _ID.match(environment):
            raise ValueError(f"{environment!r} is not the id of an environment")
        path = self._root / environment
        if not path.exists():
            return False
        with self._locks.removing(environment) as free:
            if free:
                await _in_thread(lambda: _remove_tree(path))
        return free

    def _prepare_root(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        (self._root / "uv.toml").touch()


def _identify(installation: Installation, python: Interpreter, **more: Any) -> EnvironmentId:
    asked: dict[str, Any] = {"python": f"cpython-{python.name}-{python.machine}", **installation.identity, **more}
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
    return EnvironmentId(digest.hexdigest()[:20])


def _write(path: Path, lines: Iterable[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _overrides(build: _Build, scratch: Path) -> list[str | Path]:
    if not build.exclude:
        return []
    # Their markers are never true: packages that depend on the excluded ones are installed without them.
    lines = (f"{name}; python_version < '0'" for name in build.exclude)
    return ["--overrides", _write(scratch / "excluded.txt", lines)]


def _last_use(path: Path) -> float:
    """When it was used last or, if it is not complete, changed last, in Unix seconds; 0 if it is gone by now."""
    for part in (path / COMPLETE, path):
        with contextlib.suppress(FileNotFoundError):
            return part.stat().st_mtime
    return 0.0


def _remove_tree(path: Path) -> None:
    """Removes the marker first, so that an interrupted removal leaves an incomplete environment."""
    (path / COMPLETE).unlink(missing_ok=True)
    if path.exists():
        shutil.rmtree(path)


def measure(directories: Iterable[Path]) -> list[int]:
    """Bytes of the files of each. A file that several share, as a hard link into uv's cache, counts for the first of
    them; the cache itself does not count."""
    seen: set[tuple[int, int]] = set()
    return [_tree_size(directory, seen) for directory in directories]


def _tree_size(path: Path, seen: set[tuple[int, int]]) -> int:
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                stat = os.lstat(os.path.join(directory, name))
            except FileNotFoundError:
                continue  # removed meanwhile
            if stat.st_nlink == 1 or (stat.st_dev, stat.st_ino) not in seen:
                total += stat.st_size
            if stat.st_nlink > 1:
                seen.add((stat.st_dev, stat.st_ino))
    return total


async def _in_thread(function: Callable[[], None]) -> None:
    """Runs it in a thread and waits for its end, also while cancelled: two must not work on one directory."""
    work = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
