"""Stand-ins for the control plane's neighbours, and the whole of it put together around them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipper.contract.deploys import DeploySpec
from clipper.contract.manifest import DEFAULT_KEEP_VERSIONS, Manifest
from clipper.contract.spec import EnvironmentSpec, FunctionSpec
from clipper.contract.wire import LogRecord
from clipper_platform.clock import Clock
from clipper_platform.control.access.keyring import Keyring
from clipper_platform.control.access.secrets import ProjectSecrets
from clipper_platform.control.environment_gc import EnvironmentGarbageCollector
from clipper_platform.control.events import EventLog
from clipper_platform.control.function_facts import FunctionStatus, ReplicaStatus
from clipper_platform.control.holding import Collector
from clipper_platform.control.log_gc import LogGarbageCollector
from clipper_platform.control.log_store import LogStore
from clipper_platform.control.registry import Registry
from clipper_platform.control.storage import Storage
from clipper_platform.control.versions.bundle_gc import BundleGarbageCollector
from clipper_platform.control.versions.deployer import Deployer
from clipper_platform.control.versions.pinned import PinnedVersions
from clipper_platform.control.versions.retention import VersionRetention
from clipper_platform.control.versions.rollout import Rollout
from clipper_platform.core.canary import Answers
from clipper_platform.core.retention import EnvironmentFacts
from clipper_platform.core.scaling import Sample
from clipper_platform.environments.base import BuildProgress
from clipper_platform.errors import DeployFailed, NotFound, StoreUnavailable
from clipper_platform.metrics import Metrics
from clipper_platform.replicas.base import Progress, Target
from clipper_platform.serving.call import Answer
from clipper_platform.types import BundleDigest, EnvironmentId, FunctionId
from tests.support.memory_store import MemoryStore

BUNDLE = "sha256:" + "a" * 64


class FakeClock:
    """Moves when a test sets `now`. `set_by`: the seconds by which somebody has set the wall clock."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.set_by = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + self.set_by


@dataclass
class Gates:
    """Where the doubles stop and wait: `hold(name)` closes a gate, `reached(name)` waits until someone stands there."""

    closed: dict[str, asyncio.Event] = field(default_factory=dict)
    arrived: dict[str, asyncio.Event] = field(default_factory=dict)

    def hold(self, name: str) -> None:
        self.closed[name] = asyncio.Event()
        self.arrived[name] = asyncio.Event()

    def open(self, name: str) -> None:
        self.closed[name].set()

    async def reached(self, name: str) -> None:
        async with asyncio.timeout(5):
            await self.arrived[name].wait()

    async def passing(self, name: str) -> None:
        await asyncio.sleep(0)
        if name in self.closed:
            self.arrived[name].set()
            await self.closed[name].wait()


class GatedStore(MemoryStore):
    """A store whose writes take their time, so that a cancellation can meet them."""

    def __init__(self, gates: Gates, clock: Clock) -> None:
        super().__init__(clock)
        self.gates = gates
        self.lose_answer_of: set[str] = set()  # methods that do their work and then lose the connection
        self.lose_answers: list[str] = []  # the same, once for each entry, and the store answers the next call

    async def _done(self, name: str) -> None:
        await self.gates.passing(name)
        if name in self.lose_answer_of:
            self.outage = "connection lost"
            self._check()
        if name in self.lose_answers:
            self.lose_answers.remove(name)
            raise StoreUnavailable("connection lost")

    async def add_version(self, version: Any, *, after: int = 0) -> Any:
        stored = await super().add_version(version, after=after)
        await self._done("add_version")
        return stored

    async def update_version(self, version: Any) -> Any:
        stored = await super().update_version(version)
        await self._done("update_version")
        return stored

    async def set_route(self, route: Any) -> Any:
        stored = await super().set_route(route)
        await self._done("set_route")
        return stored


class FakeArtifacts:
    def __init__(self, gates: Gates) -> None:
        self.gates = gates
        self.known = {BUNDLE: 10}
        self.used_at: dict[str, float] = {}  # Unix seconds; 0 for the others
        self.broken: Exception | None = None

    def has(self, digest: str) -> bool:
        return digest in self.known

    async def put(self, digest: str, chunks: AsyncIterator[bytes]) -> Any:
        self.known[digest] = sum([len(chunk) async for chunk in chunks])
        return StoredBundle(digest, self.known[digest], 0.0)

    async def unpack(self, digest: str, *, check: bool = False) -> Path:
        await self.gates.passing("unpack")
        if self.broken is not None:
            raise self.broken
        if digest not in self.known:
            raise NotFound(f"there is no bundle {digest}")
        return Path("/bundles") / digest

    async def list(self) -> Any:
        return [StoredBundle(digest, size, self.used_at.get(digest, 0.0)) for digest, size in self.known.items()]

    async def sizes(self) -> Any:
        return {digest: size + 1000 for digest, size in self.known.items()}  # with the unpacked files

    async def discard(self, digest: str, *, asked_before: float) -> bool:
        return self.used_at.get(digest, 0.0) <= asked_before and self.known.pop(digest, None) is not None

    async def collect(self, keep: Collection[str], *, min_age_s: float) -> Any:
        self.min_age_s = min_age_s
        unused = [bundle for bundle in await self.list() if bundle.digest not in keep]
        for bundle in unused:
            del self.known[bundle.digest]
        return unused


@dataclass(frozen=True)
class StoredBundle:
    digest: Any
    bytes: int
    used_at: float


class FakeEnvironments:
    def __init__(self, gates: Gates) -> None:
        self.gates = gates
        self.lines: list[str] = []
        self.broken: Exception | None = None
        self.running = 0
        self.facts: dict[str, EnvironmentFacts] = {}
        self.in_use: set[str] = set()  # by other platforms
        self.retained: set[EnvironmentId] = set()

    def identify(self, spec: EnvironmentSpec, files: Path | None = None) -> EnvironmentId:
        return EnvironmentId(f"env-{spec.python}-{len(spec.requirements)}")

    async def resolve(self, spec: EnvironmentSpec) -> dict[str, str]:
        return {}

    def packages(self, environment: EnvironmentId) -> tuple[str, ...]:
        return ()

    async def build(
        self, spec: EnvironmentSpec, progress: BuildProgress, files: Path | None = None, meanings: object = None
    ) -> EnvironmentId:
        self.running += 1
        try:
            for line in self.lines:
                progress(line)
            await self.gates.passing("build")
            if self.broken is not None:
                raise self.broken
        finally:
            self.running -= 1
        return self.identify(spec)

    def retain(self, wanted: Collection[EnvironmentId]) -> None:
        self.retained = set(wanted)

    async def stored(self) -> list[EnvironmentFacts]:
        return list(self.facts.values())

    async def remove(self, environment: EnvironmentId) -> bool:
        if environment in self.in_use:
            return False
        return self.facts.pop(environment, None) is not None


class FakeServing:
    """A data plane that remembers: `running` are started functions, `routes` what answers."""

    def __init__(self, gates: Gates) -> None:
        self.gates = gates
        self.running: dict[FunctionId, Target] = {}
        self.starting: set[FunctionId] = set()
        self.routes: dict[str, int] = {}
        self.broken: dict[str, Exception] = {}  # function -> what its start raises
        self.unfit: dict[str, Exception] = {}  # function -> what a call of it meets
        self.defaults: dict[str, str] = {}  # function -> why only its default output answers
        self.weights: dict[str, dict[int, int]] = {}
        self.answered: dict[FunctionId, Answers] = {}
        self.states: dict[FunctionId, str] = {}
        self.replicas: dict[FunctionId, int] = {}
        self.ready_replicas: dict[FunctionId, int] = {}
        self.schemas: dict[FunctionId, Mapping[str, Any] | None] = {}  # that a start was given
        self.idle_s: dict[FunctionId, float] = {}  # the same
        self.log: Callable[[FunctionId, str, list[LogRecord]], None] | None = None
        self.history: list[str] = []
        self.samples: dict[FunctionId, Sample] = {}
        self.callbacks: dict[FunctionId, Callable[[FunctionId], None] | None] = {}

    async def start(
        self,
        target: Target,
        *,
        replicas: int,
        on_progress: Progress | None = None,
        wait: bool = True,
        schema: Mapping[str, Any] | None = None,
        idle_s: float = 0.0,
    ) -> Mapping[str, Any]:
        if (found := self.running.get(target.id)) is not None and found.identity != target.identity:
            await self.stop(target.id.project, target.id.version)
        if target.id in self.running:
            return {"title": target.id.function}
        self.schemas[target.id], self.idle_s[target.id] = schema, idle_s
        self.history.append(f"start {target.id}")
        self.replicas[target.id] = replicas
        if not wait:
            if target.id.function in self.broken:
                raise self.broken[target.id.function]
            self.running[target.id] = target
            return {}
        self.starting.add(target.id)
        try:
            if self.log is not None:
                line = LogRecord(ts=1.0, stream="stdout", level="info", request_id="", message="loading")
                self.log(target.id, "r1", [line])
            await self.gates.passing(f"start {target.id.function}")
            if target.id.function in self.broken:
                raise self.broken[target.id.function]
            if on_progress is not None:
                on_progress(target.id, replicas, replicas)
        finally:
            self.starting.discard(target.id)
        self.running[target.id] = target
        return {"title": target.id.function}

    def set_weights(self, project: str, weights: Mapping[int, int]) -> None:
        self.history.append(f"weights {project} {dict(weights)}")
        self.weights[project] = dict(weights)

    async def call(
        self, function: FunctionId | str, body: bytes, *, request_id: str = "", use_cache: bool = True
    ) -> Answer:
        assert isinstance(function, FunctionId)
        assert not use_cache, "a new version is tried, not what another run of it left"
        self.history.append(f"call {function} {body.decode()}")
        await self.gates.passing("call")
        if function.function in self.unfit:
            raise self.unfit[function.function]
        return Answer(
            payload=b"1",
            content_type="application/json",
            version=function.version,
            cache_status="",
            default_reason=self.defaults.get(function.function, ""),
        )

    def batches(self, id: FunctionId) -> None:
        """No function here is batched."""

    def answers(self, id: FunctionId) -> Answers:
        return self.answered.get(id, Answers())

    def set_route(self, project: str, version: int) -> None:
        assert version in self.versions(project), "a route must lead to a version that was started"
        self.history.append(f"route {project}@{version}")
        self.routes[project] = version

    def drop_route(self, project: str) -> None:
        self.routes.pop(project, None)

    def resume(self, project: str, version: int) -> None:
        self.history.append(f"resume {project}@{version}")

    def cut(self, project: str) -> None:
        self.history.append(f"cut {project}")

    async def stop(self, project: str, version: int, *, grace_s: float = math.inf) -> None:
        self.history.append(f"stop {project}@{version}" + (f" within {grace_s:g} s" if grace_s < math.inf else ""))
        await self.gates.passing("stop")
        for id in [id for id in self.running if (id.project, id.version) == (project, version)]:
            del self.running[id]

    async def restart(self, id: FunctionId) -> None:
        self.history.append(f"restart {id}")
        self.states.pop(id, None)

    def status(self, id: FunctionId) -> FunctionStatus | None:
        if id not in self.running:
            return None
        state: Any = self.states.get(id, "ready")
        replica = ReplicaStatus(
            id="r1",
            state="ready",
            details={"pid": 4711},
            version=id.version,
            started_at=1.0,
            invocations=3,
            in_flight=0,
            memory_bytes=1000,
        )
        return FunctionStatus(
            id=id,
            state=state,
            reason="" if state == "ready" else "it crashed",
            schema={},
            queue_depth=0,
            running=0,
            replicas_wanted=1,
            restarts=0,
            replicas=(replica,),
            p50_s=0.001,
            p99_s=0.002,
            rate_per_s=1.0,
            cache_hits=0,
            cache_misses=0,
            cache_bytes=0,
        )

    def bundles(self) -> set[BundleDigest]:
        return {target.bundle for target in self.running.values()}

    def environments(self) -> set[EnvironmentId]:
        return {target.environment for target in self.running.values()}

    def ready(self, id: FunctionId) -> int:
        return self.ready_replicas.get(id, 1 if id in self.running else 0)

    def sampler(self, id: FunctionId) -> Callable[[float], Sample | None]:
        return lambda _: self.samples.get(id)

    def scale(self, id: FunctionId, replicas: int) -> None:
        self.samples[id] = self.samples[id]._replace(wanted=replicas, ready=replicas)

    def on_call(self, id: FunctionId, callback: Callable[[FunctionId], None] | None) -> None:
        self.callbacks[id] = callback

    def versions(self, project: str) -> set[int]:
        return {id.version for id in self.running if id.project == project}

    def identities(self, project: str) -> dict[int, str]:
        return {id.version: target.identity for id, target in self.running.items() if id.project == project}

    def functions(self, project: str, version: int) -> list[str]:
        return [id.function for id in self.running if (id.project, id.version) == (project, version)]


def manifest(
    project: str = "digits",
    *,
    bundle: str = BUNDLE,
    functions: tuple[str, ...] = ("classify",),
    deploy: Mapping[str, Any] | None = None,
    keep_versions: int = DEFAULT_KEEP_VERSIONS,
    **options: Any,
) -> dict[str, Any]:
    """What a client sends to deploy. Unless `deploy` says otherwise, a replaced version drains at once."""
    specs = tuple(FunctionSpec.parse(name, f"app:{name}", options) for name in functions)
    spec = DeploySpec.parse({"keep_previous_s": 0} if deploy is None else deploy, functions)
    return Manifest(
        project=project, bundle=bundle, environment=EnvironmentSpec(), functions=specs, deploy=spec,
        keep_versions=keep_versions,
    ).to_dict()  # fmt: skip


async def deploy_second(plane: Plane, deploy: Mapping[str, Any], **kwargs: Any) -> Any:
    """A deploy of another version, to its end."""
    deployment = plane.deployer.submit("digits", manifest(deploy=deploy, latency_slo_s=1.0, **kwargs))
    await deployment.wait()
    return deployment


def replica_failure(function: str = "classify") -> DeployFailed:
    return DeployFailed(
        f"{function} did not start (setup): ValueError: no model",
        phase="setup",
        exception="ValueError: no model",
        log=["loading", "Traceback…"],
        hint="look at __init__",
    )


@dataclass
class Plane:
    """The control plane on doubles."""

    root: Path
    store: GatedStore
    gates: Gates
    clock: FakeClock
    registry: Registry
    keyring: Keyring
    secrets: ProjectSecrets
    logs: LogStore
    events: EventLog
    artifacts: Any
    environments: FakeEnvironments
    serving: FakeServing
    deployer: Deployer
    pinned: PinnedVersions
    retention: VersionRetention
    storage: Storage

    async def deployed(self, **kwargs: Any) -> int:
        """Deploy and expect it to succeed; the version."""
        body = manifest(**kwargs)
        deployment = self.deployer.submit(body["project"], body)
        await deployment.wait()
        assert deployment.state == "succeeded", deployment.error
        assert deployment.version is not None
        return deployment.version

    async def settle(self) -> None:
        """Let background tasks (drains) end."""
        for _ in range(50):
            await asyncio.sleep(0)

    def restarted(self) -> Plane:
        """Another platform on the same store and files, as after a restart."""
        return make_plane(self.root, store=self.store, gates=self.gates, artifacts=self.artifacts)

    def beside(self) -> Plane:
        """Another platform on the same store, with a home of its own, while this one runs."""
        return make_plane(self.root / "other", store=self.store, home="other")


def make_plane(
    root: Path,
    *,
    store: GatedStore | None = None,
    gates: Gates | None = None,
    artifacts: Any = None,
    home: str = "home",
) -> Plane:
    gates = gates or Gates()
    clock = FakeClock()
    store = store or GatedStore(gates, clock)
    registry = Registry(store, clock, home=home, repeat_pauses_s=(0.0, 0.0))
    logs = LogStore(root / "logs", clock)
    events = EventLog(store, logs, clock)
    artifacts = artifacts or FakeArtifacts(gates)
    environments = FakeEnvironments(gates)
    serving = FakeServing(gates)
    secrets = ProjectSecrets(registry)
    rollout = Rollout(artifacts, environments, serving, secrets=secrets.read)
    deployer = Deployer(
        registry=registry,
        artifacts=artifacts,
        rollout=rollout,
        replicas=serving,
        router=serving,
        facts=serving,
        logs=logs,
        events=events,
        clock=clock,
        restore_retry_s=0.001,
    )
    pinned = PinnedVersions(
        registry=registry,
        rollout=rollout,
        replicas=serving,
        facts=serving,
        clock=clock,
        reuse=deployer.takeover.reuse,
        trouble=deployer.trouble,
        retry_s=deployer.retry_s,
        idle_s=60.0,
    )
    retention = VersionRetention(
        registry,
        artifacts,
        events,
        in_use=lambda project: serving.versions(project) | pinned.starting(project),
        changing=deployer.changes,
    )
    return Plane(
        root=root,
        store=store,
        gates=gates,
        clock=clock,
        registry=registry,
        keyring=Keyring(store, clock, registry.watch),
        secrets=secrets,
        logs=logs,
        events=events,
        artifacts=artifacts,
        environments=environments,
        serving=serving,
        deployer=deployer,
        pinned=pinned,
        retention=retention,
        storage=Storage(retention, make_collectors(registry, artifacts, environments, deployer, serving, logs, clock)),
    )


def make_collectors(
    registry: Registry,
    artifacts: FakeArtifacts,
    environments: FakeEnvironments,
    deployer: Deployer,
    serving: FakeServing,
    logs: LogStore,
    clock: Clock,
) -> dict[str, Collector]:
    return {
        "bundles": BundleGarbageCollector(
            artifacts, lambda: registry.references.bundles() | deployer.deployments.bundles() | serving.bundles(), clock
        ),
        "environments": EnvironmentGarbageCollector(
            environments,
            lambda: registry.references.environments() | deployer.deployments.environments() | serving.environments(),
            grace_s=100.0,
            max_bytes=1000,
            clock=clock,
            metrics=Metrics(),
        ),
        "logs": LogGarbageCollector(logs, registry.has),
    }
