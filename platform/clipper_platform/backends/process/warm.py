"""Warm pools: which zygote a replica is forked from, and how many of them are kept.

Per environment `warm_pool_size` zygotes that have imported what the environment's functions import; and the templates
of snapshots, of which it decides with them what the machine has room for. What is not there (yet, or any more) is never
waited for, except for the template of a snapshot: the replica is then started as if there were no pool.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clipper.contract.wire import LogRecord
from clipper_platform.backends.process import import_manifest as preloads
from clipper_platform.backends.process.launch import Launch
from clipper_platform.backends.process.output import ReplicaOutput
from clipper_platform.backends.process.pressure import memory_pressed, memory_total
from clipper_platform.backends.process.procfs import own_rss
from clipper_platform.backends.process.snapshots import Templates
from clipper_platform.backends.process.zygotes import Zygote, ZygoteRefused, ZygoteStart
from clipper_platform.clock import Clock
from clipper_platform.environments.virtual import VirtualEnvironment
from clipper_platform.types import EnvironmentId, FunctionId

__all__ = ["WarmPools", "ZygoteFactory", "fits"]

_logger = logging.getLogger(__name__)

PRELOAD_TIMEOUT_S = 120.0
# Each attempt drops the package that keeps the zygote from being forked.
MAX_ATTEMPTS = 8
RETRY_S = 60.0  # after a zygote that did not start, and after memory ran short
TRIM_PERIOD_S = 5.0
# All zygotes and templates together: their number, and their share of the machine's memory.
MAX_WARM = 64
MEMORY_SHARE = 0.25

# Libraries read these as they are imported, which in a zygote has happened already.
_READ_ON_IMPORT = re.compile(
    r"(OMP|GOMP|KMP|MKL|OPENBLAS|NUMEXPR|VECLIB|BLIS|GOTO|CUDA|NVIDIA|HIP|ROCR|HF|HUGGINGFACE|TRANSFORMERS|TORCH"
    r"|PYTORCH|TF|XLA|JAX|NUMBA|ORT|ONNX|MALLOC|GLIBC|SSL|OPENSSL)_"
)

ZygoteFactory = Callable[[Launch, Mapping[str, Any], bool], ZygoteStart]
"""With what to start one: for a launch, with this first request, shared by all functions of the environment or not.
Raises OSError."""


def fits(launch: Launch, modules: frozenset[str], env: Mapping[str, str]) -> bool:
    """Whether a replica forked from a zygote with these modules and this environment equals one started without:
    nothing in the bundle has the name of a loaded module, no secret would have steered an import."""
    if any(_READ_ON_IMPORT.match(key) or env.get(key, value) != value for key, value in launch.spec.env.items()):
        return False
    try:
        names = {name.partition(".")[0] for name in os.listdir(launch.bundle)}
    except OSError:
        return False
    return not names & modules


@dataclass(slots=True)
class _Pool:
    """The zygotes of one environment."""

    environment: VirtualEnvironment
    identity: tuple[int, int]
    launch: Launch  # any of the environment, without secrets
    size: int = 0
    modules: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # top-level name -> why it cannot be preloaded
    generation: int = 0
    members: dict[Zygote, tuple[int, Mapping[str, str]]] = field(default_factory=dict)  # generation, environment
    starting: int = 0
    not_before: float = 0.0
    learnt: set[FunctionId] = field(default_factory=set)


class WarmPools:
    """Belongs to one event loop. `say` writes a line into a function's log."""

    def __init__(
        self, factory: ZygoteFactory, say: Callable[[Launch, str], None], clock: Clock, default_size: int = 0
    ) -> None:
        self._factory = factory
        self._clock = clock
        self._default_size = default_size
        self._pools: dict[EnvironmentId, _Pool] = {}
        self.templates = Templates(self._make_template, say, self._spawn, clock)
        self._running: set[Zygote] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._trimming: asyncio.TimerHandle | None = None
        self._paused_until = 0.0
        self._closed = False

    # What the backend asks

    async def source(self, launch: Launch) -> Zygote | None:
        """Whom to fork the replica from; None: nobody. Waits for nothing but a snapshot's first template."""
        if self._closed:
            return None
        if launch.spec.spec.get("snapshot"):
            template = await self.templates.source(launch)
            if template is not None:
                return template
        pool = self._pool(launch)
        if pool is None:
            return None
        self._refill(pool)
        fitting = [z for z, (_, env) in pool.members.items() if z.usable and fits(launch, z.modules, env)]
        return min(fitting, key=lambda zygote: zygote.used_at, default=None)

    def wants_report(self, launch: Launch) -> bool:
        """Whether it is worth knowing what this replica imported: the first of each function."""
        pool = self._pool(launch)
        return pool is not None and launch.spec.function not in pool.learnt

    def learn(self, launch: Launch, report: Path) -> None:
        """Take what a replica that became ready wrote about its modules."""
        pool = self._pool(launch)
        if pool is None or self._closed:
            return
        pool.learnt.add(launch.spec.function)
        known = set(pool.modules)
        fresh = [name for name in preloads.reported(report) if name not in known]
        if fresh:
            pool.modules = preloads.bounded(pool.modules + fresh)
            pool.generation += 1
            preloads.keep(pool.environment, pool.modules, pool.skipped)
        self._refill(pool)

    async def close(self) -> None:
        """End all of them. The replicas that they forked should have ended before."""
        self._closed = True
        if self._trimming is not None:
            self._trimming.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for zygote in self._running:
            zygote.kill()
        await asyncio.gather(*(zygote.gone() for zygote in tuple(self._running)))

    @property
    def zygotes(self) -> tuple[Zygote, ...]:
        """All that run, templates included."""
        return tuple(self._running)

    # Zygotes of an environment

    def _pool(self, launch: Launch) -> _Pool | None:
        environment, asked = launch.environment, launch.spec.warm_pool_size
        size = self._default_size if asked is None else asked
        if size < 1:
            return None
        identity = preloads.identity(environment)
        pool = self._pools.get(environment.id)
        if pool is not None and pool.identity != identity:
            # It was built anew: what the zygotes have loaded is of the one before.
            for zygote in pool.members:
                zygote.retire()
            pool = None
        if pool is None:
            pool = _Pool(environment, identity, replace(launch, spec=replace(launch.spec, env={})))
            pool.modules, pool.skipped = preloads.kept(environment)
            self._pools[environment.id] = pool
        pool.size = max(pool.size, size)
        return pool

    def _refill(self, pool: _Pool) -> None:
        now = asyncio.get_running_loop().time()
        if not pool.modules or self._closed or now < max(pool.not_before, self._paused_until):
            return
        current = sum(1 for z, (generation, _) in pool.members.items() if z.usable and generation == pool.generation)
        while current + pool.starting < pool.size and len(self._running) + pool.starting < MAX_WARM:
            pool.starting += 1
            self._spawn(self._add(pool))

    async def _add(self, pool: _Pool) -> None:
        generation = pool.generation
        try:
            made = await self._preload(pool)
        finally:
            pool.starting -= 1
        if made is None:
            pool.not_before = asyncio.get_running_loop().time() + RETRY_S
            return
        zygote, env = made
        if self._pools.get(pool.environment.id) is not pool:
            zygote.retire()
            return
        pool.members[zygote] = (generation, env)
        for older, (old, _) in list(pool.members.items()):
            if old < generation:
                older.retire()
                del pool.members[older]
        self._refill(pool)  # more may have been learnt meanwhile

    async def _preload(self, pool: _Pool) -> tuple[Zygote, Mapping[str, str]] | None:
        name = pool.environment.id
        for _ in range(MAX_ATTEMPTS):
            modules = [m for m in pool.modules if m.partition(".")[0] not in pool.skipped]
            try:
                start = self._factory(pool.launch, {"do": "preload", "modules": modules}, True)
                zygote = self._run(start, ReplicaOutput(_quietly, self._clock))
                await zygote.become(PRELOAD_TIMEOUT_S)
            except OSError as error:
                _logger.warning("no zygote of environment %s can be started: %s", name, error)
                return None
            except ZygoteRefused as refusal:
                top = refusal.module.partition(".")[0]
                if not top:
                    _logger.warning("a zygote of environment %s did not start: %s", name, refusal.why)
                    return None
                _logger.info("%s is not preloaded for environment %s: %s", top, name, refusal.why)
                pool.skipped[top] = refusal.why
                preloads.keep(pool.environment, pool.modules, pool.skipped)
                continue
            return zygote, start.env
        return None

    # All of them

    def _make_template(self, launch: Launch, message: Mapping[str, Any], output: ReplicaOutput) -> Zygote:
        return self._run(self._factory(launch, message, False), output)

    def _run(self, start: ZygoteStart, output: ReplicaOutput) -> Zygote:
        try:
            zygote = Zygote(start, output, self._ended)
        except BaseException:
            shutil.rmtree(start.tmp, ignore_errors=True)
            raise
        self._running.add(zygote)
        self._arm()
        return zygote

    def _ended(self, zygote: Zygote) -> None:
        self._running.discard(zygote)
        for pool in self._pools.values():
            if pool.members.pop(zygote, None) is not None:
                self._refill(pool)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _arm(self) -> None:
        if self._trimming is None:
            self._trimming = asyncio.get_running_loop().call_later(TRIM_PERIOD_S, self._tick)

    def _tick(self) -> None:
        self._trimming = None
        try:
            self.trim(pressed=memory_pressed(), budget_bytes=int(memory_total() * MEMORY_SHARE))
        except Exception:
            _logger.exception("warm pools could not be trimmed")
        if self._running:
            self._arm()

    def trim(self, *, pressed: bool, budget_bytes: int) -> None:
        """Give up what is idle too long or too much; under pressure the longest idle one each time."""
        now = asyncio.get_running_loop().time()
        self._forget_idle()
        usable = sorted((z for z in self._running if z.usable), key=lambda z: (bool(z.children), z.used_at))
        sizes = {z: own_rss(z.pid) or 0 for z in usable}
        total = sum(sizes.values())
        if pressed:
            self._paused_until = now + RETRY_S
        for index, zygote in enumerate(usable):
            if not (total > budget_bytes or len(usable) - index > MAX_WARM or (pressed and index == 0)):
                break
            self._paused_until = now + RETRY_S
            total -= sizes[zygote]
            _logger.info("a warm process (%d) is given up to save memory", zygote.pid)
            zygote.retire()

    def _forget_idle(self) -> None:
        """Templates that nobody uses, also the memory of a refusal, and zygotes of environments that are gone."""
        self.templates.forget_idle()
        for id, pool in list(self._pools.items()):
            if preloads.identity(pool.environment) != pool.identity:
                for zygote in pool.members:
                    zygote.retire()
                del self._pools[id]


def _quietly(records: Sequence[LogRecord]) -> None:
    """What libraries print as they are imported belongs to no function."""
    for record in records:
        _logger.debug("zygote: %s", record.message)
