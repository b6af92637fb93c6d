"""Which zygote a replica is forked from: the zygotes of each version, and the templates of snapshots.

The zygotes of a version have imported what the functions of its project import from the environment. They are not
shared with other versions, since a process that runs packages must not see the files of another project, nor its
children those of each other's. A launch never waits for one that is not there; it waits only for the first template of
a snapshot. Without a zygote the replica is started as if there were no pool.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from clipper.contract.wire import LogRecord
from clipper.contract.zygote import Preload, Prepare
from clipper_platform.backends.process.import_manifest import ImportManifest, build_identity, read_report
from clipper_platform.backends.process.launch import Launch
from clipper_platform.backends.process.output import ReplicaOutput
from clipper_platform.backends.process.pressure import memory_pressed, memory_total
from clipper_platform.backends.process.snapshots import Snapshots
from clipper_platform.backends.process.temporary import remove_tmp
from clipper_platform.backends.process.zygotes import Zygote, ZygoteRefused, ZygoteStart
from clipper_platform.backends.warm_pool import WarmPool, WarmPools
from clipper_platform.clock import Clock
from clipper_platform.types import EnvironmentId, FunctionId

__all__ = ["ZygoteFactory", "ZygotePools", "fits"]

_logger = logging.getLogger(__name__)

PRELOAD_TIMEOUT_S = 120.0
# Each attempt leaves out the package after whose import the zygote cannot be forked.
MAX_ATTEMPTS = 8
TRIM_PERIOD_S = 5.0
MEMORY_SHARE = 0.25  # of the machine's memory, for all zygotes and templates together

# Libraries read these variables as they are imported, which in a zygote has happened already.
_READ_ON_IMPORT = re.compile(
    r"(OMP|GOMP|KMP|MKL|OPENBLAS|NUMEXPR|VECLIB|BLIS|GOTO|CUDA|NVIDIA|HIP|ROCR|HF|HUGGINGFACE|TRANSFORMERS|TORCH"
    r"|PYTORCH|TF|XLA|JAX|NUMBA|ORT|ONNX|MALLOC|GLIBC|SSL|OPENSSL)_"
)

# A pool that no launch used for so long is given up, sooner if a newer version of the project has one.
IDLE_S = 3600.0
SUPERSEDED_IDLE_S = 60.0

_Key = tuple[EnvironmentId, str, Path]  # environment, project, bundle

ZygoteFactory = Callable[[Launch, Preload | Prepare], ZygoteStart]
"""How to start one for a launch, with this first request. Raises OSError."""


def fits(launch: Launch, zygote: Zygote) -> bool:
    """Whether a replica forked from the zygote equals one started without it: no file of the bundle has the name of a
    loaded module, and no secret would have steered an import."""
    for key, value in launch.spec.env.items():
        if _READ_ON_IMPORT.match(key) or zygote.env.get(key, value) != value:
            return False
    try:
        names = {name.partition(".")[0] for name in os.listdir(launch.bundle)}
    except OSError:
        return False
    return not names & zygote.modules


@dataclass(slots=True, eq=False)
class _Version:
    """A version's pool and what its zygotes import."""

    launch: Launch  # any of the version, without secrets
    identity: tuple[int, int]  # of the environment's build
    manifest: ImportManifest
    used_at: float
    pool: WarmPool[Zygote] = field(init=False)
    reported: set[FunctionId] = field(default_factory=set)  # functions whose modules are known

    @property
    def project(self) -> str:
        return self.launch.spec.function.project

    @property
    def number(self) -> int:
        return self.launch.spec.function.version


class ZygotePools:
    """Belongs to one event loop. `say` writes a line into a function's log. `default_size`: zygotes of a version whose
    project does not declare a number."""

    def __init__(
        self, factory: ZygoteFactory, say: Callable[[Launch, str], None], clock: Clock, default_size: int = 0
    ) -> None:
        self._factory = factory
        self._clock = clock
        self._default_size = default_size
        self._versions: dict[_Key, _Version] = {}
        self._pools = WarmPools[Zygote](clock)
        self.snapshots = Snapshots(self._start_template, say, self._pools.spawn, clock)
        self._trimming: asyncio.TimerHandle | None = None
        self._closed = False

    # Used by the backend

    async def source(self, launch: Launch) -> Zygote | None:
        """The zygote or template to fork the replica from; None: there is none. Waits only for a snapshot's first
        template."""
        if self._closed:
            return None
        if launch.spec.spec.get("snapshot"):
            template = await self.snapshots.source(launch)
            if template is not None:
                return template
        known = self._version(launch)
        if known is None:
            return None
        self._refill(known)
        return known.pool.pick(lambda zygote: fits(launch, zygote))

    def wants_report(self, launch: Launch) -> bool:
        """Whether this replica is to report its modules: the first of each function."""
        known = self._version(launch)
        return known is not None and launch.spec.function not in known.reported

    def take_report(self, launch: Launch, report: Path) -> None:
        """Read the names of modules that a replica wrote before it became ready."""
        known = self._version(launch)
        if known is None or self._closed:
            return
        known.reported.add(launch.spec.function)
        if known.manifest.add(read_report(report)):
            known.manifest.write(launch.environment, known.project)
            self._pools.renew(known.pool)
        self._refill(known)

    async def close(self) -> None:
        """End all zygotes. The replicas that they forked should have ended before."""
        self._closed = True
        if self._trimming is not None:
            self._trimming.cancel()
        await self._pools.close()

    @property
    def running(self) -> tuple[Zygote, ...]:
        """All that run, templates included."""
        return self._pools.running

    # The zygotes of a version

    def _version(self, launch: Launch) -> _Version | None:
        """None: it has no pool."""
        environment, declared = launch.environment, launch.spec.warm_pool_size
        size = self._default_size if declared is None else declared
        if size < 1:
            return None
        key, identity = (environment.id, launch.spec.function.project, launch.bundle), build_identity(environment)
        known = self._versions.get(key)
        if known is not None and known.identity != identity:
            # The environment was built anew: the zygotes have loaded the files of the earlier build.
            self._pools.close_pool(known.pool)
            known = None
        if known is None:
            shared = replace(launch, spec=replace(launch.spec, env={}))
            known = _Version(shared, identity, self._manifest(launch, identity), self._clock.monotonic())
            known.pool = self._pools.open_pool(partial(self._preload, known))
            self._versions[key] = known
        known.used_at = self._clock.monotonic()
        known.pool.size = max(known.pool.size, size)
        return known

    def _manifest(self, launch: Launch, identity: tuple[int, int]) -> ImportManifest:
        """One object for all versions of the project in the environment."""
        environment, project = launch.environment, launch.spec.function.project
        for (id, its_project, _), known in self._versions.items():
            if (id, its_project, known.identity) == (environment.id, project, identity):
                return known.manifest
        return ImportManifest.read(environment, project)

    def _refill(self, known: _Version) -> None:
        if known.manifest.modules:
            self._pools.refill(known.pool)

    async def _preload(self, known: _Version) -> Zygote | None:
        name = known.project
        for _ in range(MAX_ATTEMPTS):
            request = Preload(known.manifest.importable())
            try:
                zygote = self._start(self._factory(known.launch, request), ReplicaOutput(_debug, self._clock))
                await zygote.become(PRELOAD_TIMEOUT_S)
            except OSError as error:
                _logger.warning("no zygote of %s can be started: %s", name, error)
                return None
            except ZygoteRefused as refusal:
                top = refusal.module.partition(".")[0]
                if not top:
                    _logger.warning("a zygote of %s did not start: %s", name, refusal.why)
                    return None
                _logger.info("%s is not preloaded for %s: %s", top, name, refusal.why)
                known.manifest.skipped[top] = refusal.why
                known.manifest.write(known.launch.environment, known.project)
            else:
                return zygote
        return None

    # All of them

    def _start_template(self, launch: Launch, request: Prepare, output: ReplicaOutput) -> Zygote:
        return self._start(self._factory(launch, request), output)

    def _start(self, start: ZygoteStart, output: ReplicaOutput) -> Zygote:
        try:
            zygote = Zygote(start, output, self._pools.ended)
        except BaseException:
            remove_tmp(start.tmp)
            raise
        self._pools.started(zygote)
        self._arm()
        return zygote

    def _arm(self) -> None:
        if self._trimming is None:
            self._trimming = asyncio.get_running_loop().call_later(TRIM_PERIOD_S, self._tick)

    def _tick(self) -> None:
        self._trimming = None
        try:
            self.trim(pressed=memory_pressed(), budget_bytes=int(memory_total() * MEMORY_SHARE))
        except Exception:
            _logger.exception("warm pools could not be trimmed")
        if self._pools.running:
            self._arm()

    def trim(self, *, pressed: bool, budget_bytes: int) -> None:
        """Give up what is idle too long or too large. Under pressure, retire one zygote each time."""
        self.snapshots.forget_idle()
        self._forget_idle()
        self._pools.trim(pressed=pressed, budget_bytes=budget_bytes)

    def _forget_idle(self) -> None:
        """Close the pools that no launch used for long, and those of environments that were built anew."""
        now = self._clock.monotonic()
        newest: dict[str, int] = {}
        for known in self._versions.values():
            newest[known.project] = max(newest.get(known.project, 0), known.number)
        for key, known in list(self._versions.items()):
            superseded = known.number < newest[known.project]
            idle_s = SUPERSEDED_IDLE_S if superseded else IDLE_S
            used = any(zygote.in_use for zygote in known.pool.members)
            gone = build_identity(known.launch.environment) != known.identity
            if gone or (now - known.used_at >= idle_s and not used):
                self._pools.close_pool(known.pool)
                del self._versions[key]


def _debug(records: Sequence[LogRecord]) -> None:
    """What libraries print as they are imported belongs to no function."""
    for record in records:
        _logger.debug("zygote: %s", record.message)
