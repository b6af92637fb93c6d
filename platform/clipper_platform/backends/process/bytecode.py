"""Bytecode of the staged runtime and of environments, compiled by the platform once for each.

Replicas cannot write beside the sources, so what they compile is lost with each of them: for the runtime 0.1 s of every
start, for scikit-learn 1.1 s. A launch waits for the runtime's. An environment's is made in the background with the
lowest priority, since it takes 5 s for scikit-learn, and a replica that starts meanwhile compiles what it imports.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

from clipper_platform.environments.virtual import VirtualEnvironment

__all__ = ["Bytecode"]

_logger = logging.getLogger(__name__)

RUNTIME_TIMEOUT_S = 60.0
ENVIRONMENT_TIMEOUT_S = 1_800.0
_MARKER = ".clip-bytecode"
_COMPILE = """
import compileall, os, sys
os.nice(int(sys.argv[1]))
compileall.compile_dir(sys.argv[2], quiet=2, maxlevels=40)
open(sys.argv[3], "w").close()
"""


class Bytecode:
    """`runtime`: the directory of the staged packages. `environ`: of the processes that compile."""

    def __init__(self, runtime: Path, environ: Mapping[str, str]) -> None:
        self._runtime = runtime
        self._environ = dict(environ)
        self._tasks: dict[Path, asyncio.Task[None]] = {}  # by marker
        self._known: set[str] = set()  # environments

    async def ensure(self, environment: VirtualEnvironment) -> None:
        """Wait until the runtime is compiled for the environment's interpreter, and begin with the environment."""
        if environment.id in self._known:
            return
        python = environment.python
        name = hashlib.sha256(str(python.resolve()).encode()).hexdigest()[:10]
        marker = self._runtime.with_name(f"{self._runtime.name}.{name}.compiled")
        self._begin(marker, python, self._runtime, 0, RUNTIME_TIMEOUT_S)
        libraries = environment.path / "lib"
        if libraries.is_dir():
            self._begin(environment.path / _MARKER, python, libraries, 19, ENVIRONMENT_TIMEOUT_S)
        self._known.add(environment.id)
        if (task := self._tasks.get(marker)) is not None:
            await asyncio.shield(task)

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _begin(self, marker: Path, python: Path, directory: Path, nice: int, timeout_s: float) -> None:
        if marker not in self._tasks and not marker.exists():
            work = self._compile(marker, python, directory, nice, timeout_s)
            self._tasks[marker] = asyncio.create_task(work, name=f"compile {directory}")

    async def _compile(self, marker: Path, python: Path, directory: Path, nice: int, timeout_s: float) -> None:
        command = [str(python), "-I", "-S", "-c", _COMPILE, str(nice), str(directory), str(marker)]
        nothing = asyncio.subprocess.DEVNULL
        try:
            process = await asyncio.create_subprocess_exec(
                *command, env=self._environ, stdin=nothing, stdout=nothing, stderr=nothing
            )
            try:
                async with asyncio.timeout(timeout_s):
                    await process.wait()
            except BaseException:
                process.kill()
                await asyncio.shield(process.wait())
                raise
        except (OSError, TimeoutError) as error:
            _logger.warning("%s is not compiled: %s", directory, error)
