"""The process backend: replicas are child processes on the platform's own machine.

Each has a process group, a working directory (its bundle), a temporary directory, memory limits and a scrubbed
environment of its own. None outlives the platform:

1. The runtime ends when its connection ends, and the kernel kills it when its parent dies.
2. The guardian kills every process with this instance's marker once the platform is gone, even after SIGKILL.
3. `open` kills what earlier instances of the same home left behind.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from clipper.contract.confinement import CONFINEMENT_VARIABLE, encode
from clipper.contract.constants import REPLICA_VARIABLE, REPORT_VARIABLE
from clipper.contract.wire import LogRecord
from clipper.contract.zygote import Preload, Prepare
from clipper_platform.backends.base import (
    BundleResolver,
    IsolationState,
    LaunchSpec,
    LogSink,
    Replica,
    SnapshotState,
    StartError,
)
from clipper_platform.backends.process import guardian
from clipper_platform.backends.process.bytecode import Bytecode
from clipper_platform.backends.process.forked_process import ForkedProcess
from clipper_platform.backends.process.isolation import Isolation, probe_machine, project_users
from clipper_platform.backends.process.launch import Launch, LaunchPlan
from clipper_platform.backends.process.orphans import Guardian, InstanceRecord, marker, sweep_abandoned, tmp_prefix
from clipper_platform.backends.process.output import ReplicaOutput
from clipper_platform.backends.process.replica import ProcessReplica
from clipper_platform.backends.process.replica_environment import replica_environment
from clipper_platform.backends.process.staging import stage
from clipper_platform.backends.process.temporary import TemporaryRoot
from clipper_platform.backends.process.users import User, make_private
from clipper_platform.backends.process.zygote_pools import ZygotePools
from clipper_platform.backends.process.zygotes import REPLICA_PLACEHOLDER, ForkFailed, Zygote, ZygoteStart
from clipper_platform.clock import Clock, SystemClock
from clipper_platform.environments.file_list import changed_file
from clipper_platform.environments.virtual import VirtualEnvironment
from clipper_platform.errors import ClipperError
from clipper_platform.types import EnvironmentId, FunctionId, IdRange

__all__ = ["RUNTIME_COMMAND", "ProcessBackend"]

_logger = logging.getLogger(__name__)

INSTANCE_ID = re.compile(r"[A-Za-z0-9]{8,64}\Z")

RUNTIME_COMMAND = ("-S", "-m", "clipper_runtime")
"""Arguments of the environment's interpreter. Before them goes -P: the bundle must not shadow the runtime. -S: what the
environment's packages run as the interpreter starts must not run before the process is confined."""

FUNCTION_VARIABLES = frozenset({"CLIP_PROJECT", "CLIP_FUNCTION", "CLIP_VERSION"})


def _checked(instance_id: str) -> str:
    if not INSTANCE_ID.match(instance_id):
        raise ValueError(f"instance_id {instance_id!r} is not allowed: use 8 to 64 letters and digits")
    return instance_id


class ProcessBackend:
    """Implements `Backend`. Belongs to one event loop, asyncio's or uvloop's; `home` to one platform at a time."""

    on_isolation: Callable[[Isolation], None] | None = None
    """Called when it is open, with what confines foreign code on this machine."""

    project_ids: IdRange | None = None
    """For users of projects, which have some where nothing else isolates them, or `always_users`; None: they have none.
    Set it before `open`."""

    always_users = False

    def __init__(
        self,
        home: Path,
        log_sink: LogSink,
        *,
        bundles: BundleResolver,
        environments: Callable[[EnvironmentId], VirtualEnvironment | None],
        instance_id: str | None = None,
        clock: Clock | None = None,
        url: str | None = None,
        command: Sequence[str] = RUNTIME_COMMAND,
        environ: Mapping[str, str] | None = None,
        on_dropped: Callable[[FunctionId, int], None] = lambda _, __: None,
        warm_pool_size: int = 0,
        isolation: str = "auto",
        hidden: Sequence[Path] = (),
    ) -> None:
        """`bundles` and `environments` find on this machine what a launch names; None: it is not built here.
        `on_dropped` is called with the number of a function's lines that the log's rate limit dropped.
        `warm_pool_size` is the default for projects that declare none. `isolation`: "auto", or the one mode to use.
        `hidden`: what replicas must not read, outside of `home`."""
        self._home = home.absolute()
        self._bundles = bundles
        self._environments = environments
        self._log_sink = log_sink
        self._on_dropped = on_dropped
        self._instance_id = _checked(instance_id or secrets.token_hex(8))
        self._clock = clock or SystemClock()
        self._url = url
        self._command = tuple(command)
        self._environ = dict(os.environ if environ is None else environ)
        self._guardian = Guardian(self._instance_id)
        self.zygotes = ZygotePools(self._zygote_start, self._say, self._clock, warm_pool_size)
        self._replicas: set[ProcessReplica] = set()
        self._tmp = TemporaryRoot(self._home)
        self._isolation_mode = isolation
        self._hidden = hidden
        self._isolation: Isolation | None = None  # once open
        self._bytecode: Bytecode | None = None
        self._record: Path | None = None

    @property
    def name(self) -> str:
        return "process"

    @property
    def temporary_root(self) -> Path:
        """Where replicas have their temporary directories."""
        return self._tmp.path

    @property
    def instance_id(self) -> str:
        """The value of CLIP_PLATFORM_INSTANCE in every process that this backend starts."""
        return self._instance_id

    def cores(self) -> int | None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

    async def open(self) -> None:
        """Raises OSError when the home cannot be written."""
        run = self._home / "run"
        for directory in (self._home, run):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._tmp.open()
        self._record = InstanceRecord.of_this_process(self._instance_id).write(run)
        killed = await asyncio.to_thread(sweep_abandoned, run, self._tmp.path)
        if killed:
            _logger.warning("ended %d processes that an earlier platform left behind", killed)
        runtime = await asyncio.to_thread(stage, self._home / "runtime")
        self._bytecode = Bytecode(runtime, {guardian.MARKER: self._instance_id})
        self._guardian.start()
        self._isolation = await asyncio.to_thread(self._find_isolation, runtime)
        if self.on_isolation is not None:
            self.on_isolation(self._isolation)
        state = self.isolation()
        _logger.log(
            logging.INFO if state.mode != "none" else logging.WARNING, "isolation of replicas: %s", state.detail
        )

    def _find_isolation(self, runtime: Path) -> Isolation:
        probe = probe_machine(runtime, self._tmp.path, self._isolation_mode)
        users, refused = None, ""
        needed = self._isolation_mode == "auto" and probe.mode == "none" and os.geteuid() == 0
        if self.project_ids is not None and (self.always_users or needed):
            users, refused = project_users(self._home, self.project_ids, runtime, self._tmp.path, probe.mode)
        return Isolation(
            probe=probe,
            hidden=(self._home, self._tmp.path, *self._hidden),
            runtime=runtime,
            environ=self._environ,
            users=users,
            users_refused=refused,
        )

    def bundle_groups(self) -> range | None:
        users = self._open_isolation().users
        return None if users is None else users.range.groups

    async def close(self) -> None:
        self._isolation = None  # from here on launches are refused
        for replica in self._replicas:
            replica.kill()
        await asyncio.gather(*(replica.gone() for replica in tuple(self._replicas)))
        await self.zygotes.close()
        if self._bytecode is not None:
            await self._bytecode.close()
        await self._guardian.close()
        if self._record is not None:
            self._record.unlink(missing_ok=True)
            self._record = None
        self._tmp.close()

    async def launch(self, spec: LaunchSpec) -> Replica:
        launched_at = self._clock.monotonic()
        launch = await self._resolve(spec)
        replica = await self._spawn(launch, launched_at)
        try:
            await replica.start()
        except BaseException:
            replica.kill()
            await replica.gone()
            raise
        if (report := replica.env.get(REPORT_VARIABLE)) is not None:
            self.zygotes.take_report(launch, Path(report))
        return replica

    def isolation(self) -> IsolationState:
        return self._open_isolation().state()

    def _open_isolation(self) -> Isolation:
        """Raises StartError where the backend is not open."""
        if self._isolation is None:
            raise StartError("launch", "the platform's process backend is not open")
        return self._isolation

    def snapshot(self, function: FunctionId) -> SnapshotState | None:
        return self.zygotes.snapshots.state(function)

    def secrets_changed(self, project: str) -> None:
        self.zygotes.snapshots.forget_project(project)

    async def _resolve(self, spec: LaunchSpec) -> Launch:
        environment = self._environments(spec.environment)
        if environment is None:
            raise StartError("launch", f"the environment {spec.environment} is not built on this machine")
        try:
            bundle = await self._bundles(spec.bundle)
        except ClipperError as error:
            raise StartError("launch", f"the bundle {spec.bundle} cannot be read: {error}") from error
        await self._check(environment)
        if self._bytecode is not None:
            await self._bytecode.ensure(environment)
        return Launch(spec=spec, environment=environment, bundle=bundle)

    async def _check(self, environment: VirtualEnvironment) -> None:
        """Where nothing keeps replicas from changing an environment, refuse one that was changed."""
        isolation = self._isolation
        if isolation is None or isolation.probe.mode != "none" or isolation.users is not None:
            return
        if (changed := await asyncio.to_thread(changed_file, environment.path)) is not None:
            raise StartError(
                "launch",
                f"{changed} was changed in the environment {environment.id}: a deploy, or a restart of the platform, "
                "builds it anew",
            )

    async def _spawn(self, launch: Launch, launched_at: float) -> ProcessReplica:
        spec = launch.spec
        source = await self.zygotes.source(launch)
        isolation = self._open_isolation()
        if source is not None and not isolation.can_fork(launch, source.memory_limit):
            source = None
        output = ReplicaOutput(self._sink_for(spec), self._clock, lambda n: self._on_dropped(spec.function, n))
        plan = self._plan(launch, isolation, source)
        try:
            forked = await self._fork(launch, source, plan, output, launched_at) if source is not None else None
            replica = ProcessReplica(launch, plan, output, self._clock, lambda: self._replicas.discard(replica), forked)
        except BaseException:
            shutil.rmtree(plan.tmp, ignore_errors=True)
            raise
        self._replicas.add(replica)
        if self._isolation is None:
            replica.kill()  # the backend was closed while a zygote forked
        return replica

    async def _fork(
        self, launch: Launch, source: Zygote, plan: LaunchPlan, output: ReplicaOutput, launched_at: float
    ) -> ForkedProcess | None:
        """A process forked from `source`; None if it cannot fork now."""
        place_s = self._clock.monotonic() - launched_at
        try:
            child, channel = await source.fork(
                replica=launch.spec.replica, cwd=launch.bundle, env=plan.env, output=output
            )
        except ForkFailed as error:
            _logger.warning("replica %s is started without a zygote: %s", launch.spec.replica, error)
            return None
        return ForkedProcess(child=child, socket=channel, launched_at=launched_at, place_s=place_s)

    def _zygote_start(self, launch: Launch, request: Preload | Prepare) -> ZygoteStart:
        """Raises OSError."""
        shared = isinstance(request, Preload)  # by all functions of the version
        isolation = self._isolation
        if isolation is None:
            raise OSError("the platform's process backend is not open")
        user = isolation.user(launch)
        area = self._make_tmp()
        if user is not None:
            area.chmod(0o711)  # root's, so that nothing but what root makes lies in it
        tmp = make_private(area, "t", user)
        env = self._environment_of(launch, isolation, tmp, user)
        # Its children see its mounts, so the directories that they will have lie in a shown one.
        memory_bytes = None if shared else launch.spec.memory_bytes
        env[CONFINEMENT_VARIABLE] = encode(isolation.of(launch, area, memory_bytes=memory_bytes)).decode()
        if shared:
            env = {key: value for key, value in env.items() if key not in FUNCTION_VARIABLES}
        return ZygoteStart(
            argv=(str(launch.environment.python), "-P", "-u", *RUNTIME_COMMAND),
            env=env | {REPLICA_VARIABLE: REPLICA_PLACEHOLDER},
            tmp=tmp,
            request=request,
            memory_bytes=memory_bytes,
        )

    def _say(self, launch: Launch, line: str) -> None:
        """Write a line into the function's log."""
        self._sink_for(launch.spec)([LogRecord(self._clock.time(), "system", "INFO", "", line)])

    def _plan(self, launch: Launch, isolation: Isolation, source: Zygote | None) -> LaunchPlan:
        try:
            user = isolation.user(launch)
            tmp = self._make_tmp(None if source is None else source.area, user)
            confinement = isolation.of(launch, tmp, memory_bytes=launch.spec.memory_bytes)
        except OSError as error:
            raise StartError("launch", f"it cannot be prepared: {error}") from error
        env = self._environment_of(launch, isolation, tmp, user)
        env[CONFINEMENT_VARIABLE] = encode(confinement).decode()
        if self.zygotes.wants_report(launch):
            env[REPORT_VARIABLE] = str(tmp / "modules.json")
        return LaunchPlan(
            argv=(str(launch.environment.python), "-P", "-u", *self._command),
            env=env,
            tmp=tmp,
            mark=frozenset([marker(self._instance_id), f"{REPLICA_VARIABLE}={launch.spec.replica}".encode()]),
        )

    def _sink_for(self, spec: LaunchSpec) -> Callable[[Sequence[LogRecord]], None]:
        def emit(records: Sequence[LogRecord]) -> None:
            try:
                self._log_sink(spec.function, spec.replica, records)
            except Exception:
                # A log that cannot be written must not end the replica whose lines it takes.
                _logger.exception("lines of %s were lost: the log does not take them", spec.replica)

        return emit

    def _make_tmp(self, area: Path | None = None, user: User | None = None) -> Path:
        """A new directory, in the area of a zygote if one is given. Raises OSError."""
        if area is not None:
            return make_private(area, "r", user)
        return make_private(self._tmp.path, tmp_prefix(self._instance_id), user)

    def _environment_of(self, launch: Launch, isolation: Isolation, tmp: Path, user: User | None) -> dict[str, str]:
        return replica_environment(
            launch,
            platform=self._environ,
            instance_id=self._instance_id,
            runtime=isolation.runtime,
            tmp=tmp,
            url=self._url,
            home=None if user is None else user.home,
        )
