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
import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clipper.contract.requirements import moving_requirements
from clipper.contract.spec import EnvironmentSpec
from clipper_platform.clock import Clock, SystemClock
from clipper_platform.core.retention import EnvironmentFacts
from clipper_platform.environments.base import BuildProgress
from clipper_platform.environments.completion import COMPLETE, installed_packages, write_record
from clipper_platform.environments.disk import in_thread, remove_tree
from clipper_platform.environments.failures import LOG_LINES, failed, not_fetched
from clipper_platform.environments.file_list import changed_file, record_files
from clipper_platform.environments.installation import Installation
from clipper_platform.environments.installing import Build, BuildIsolation, Installer
from clipper_platform.environments.interpreters import Interpreter, Interpreters
from clipper_platform.environments.locks import EnvironmentLocks
from clipper_platform.environments.moving import resolve
from clipper_platform.environments.uv import Uv, UvError, uv_environment
from clipper_platform.environments.virtual import VirtualEnvironment
from clipper_platform.errors import DeployFailed
from clipper_platform.types import EnvironmentId

__all__ = ["RUNTIME_REQUIREMENTS", "VenvBuilder", "measure"]

RUNTIME_REQUIREMENTS = ("msgspec>=0.19", "cloudpickle>=3.1")
"""What `clipper_runtime` needs beside the standard library."""

logger = logging.getLogger(__name__)

# Long enough to download and install the largest frameworks on a slow line; a build that hangs still ends.
BUILD_TIMEOUT_S = 1_800.0

_ID = re.compile(r"[0-9a-f]{20}\Z")


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
        self._installer = Installer(self._uv)
        self._timeout_s = build_timeout_s
        self._builds: dict[EnvironmentId, tuple[Build, asyncio.Task[None]]] = {}
        self._locks = EnvironmentLocks(self._root)
        self._sizes: dict[tuple[EnvironmentId, bool], int] = {}  # (id, complete) -> bytes, as measured last

    def isolate(self, isolation: BuildIsolation) -> None:
        """Confine what is built from now on."""
        self._installer.isolation = isolation

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
        await self._drop_changed(self._choose(installation, python), progress)
        while self.find(id := self._choose(installation, python)) is None:
            # More than once only if another process removes what was just built, or built it with other packages.
            running = self._builds.get(id)
            if running is None:
                build = Build(id, installation, python, spec.exclude)
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

    async def _drop_changed(self, id: EnvironmentId, progress: BuildProgress) -> None:
        """An environment whose files were changed does not count as built."""
        if id in self._builds or self._complete(id) is None:
            return
        path = self._root / id
        changed = await asyncio.to_thread(changed_file, path)
        if changed is not None:
            logger.warning("%s in environment %s was changed: it is built anew", changed, id)
            progress(f"{changed} was changed in the environment: it is built anew")
            (path / COMPLETE).unlink(missing_ok=True)

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
                raise not_fetched(missing, error.lines) from error
            self._interpreters.forget()
            return await asyncio.to_thread(self._interpreters.find, wanted)

    async def _join(self, build: Build, task: asyncio.Task[None], progress: BuildProgress) -> None:
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

    def _forget(self, build: Build, _: object = None) -> None:
        if self._builds.get(build.id, (None,))[0] is build:
            del self._builds[build.id]

    async def _build(self, build: Build) -> None:
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

    async def _build_anew(self, build: Build, lock: int) -> None:
        path = self._root / build.id
        done = False
        try:
            await in_thread(lambda: remove_tree(path))
            build.tell(f"Creating an environment with Python {build.python.name}")
            packages = await self._installer.install(build, path, lock)
            await in_thread(lambda: self._mark_complete(build, path, packages))
            done = True
        finally:
            if not done:
                await in_thread(lambda: remove_tree(path))

    def _mark_complete(self, build: Build, path: Path, packages: Sequence[str]) -> None:
        record_files(path)
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
                await in_thread(lambda: remove_tree(path))
        return free

    def _prepare_root(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        (self._root / "uv.toml").touch()


def _identify(installation: Installation, python: Interpreter, **more: Any) -> EnvironmentId:
    asked: dict[str, Any] = {"python": f"cpython-{python.name}-{python.machine}", **installation.identity, **more}
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
    return EnvironmentId(digest.hexdigest()[:20])


def _last_use(path: Path) -> float:
    """When it was used last or, if it is not complete, changed last, in Unix seconds; 0 if it is gone by now."""
    for part in (path / COMPLETE, path):
        with contextlib.suppress(FileNotFoundError):
            return part.stat().st_mtime
    return 0.0


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
