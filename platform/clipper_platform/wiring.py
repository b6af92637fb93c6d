"""The composition root: names the concrete store, backend and environments, and joins all parts of the platform.

`concrete_parts` chooses what the settings ask for, `Parts.open` makes everything but the gateway and `make_server` the
gateway on its HTTP server. `main` is the process around them.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from clipper.contract.constants import KEY_FILE
from clipper.contract.version import VERSION
from clipper_platform.applications.applications import Applications
from clipper_platform.applications.catalog import Catalog
from clipper_platform.applications.live import PlatformParts
from clipper_platform.applications.query_ids import query_ids
from clipper_platform.backends.base import Backend, BundleResolver, LogSink
from clipper_platform.backends.process.backend import ProcessBackend
from clipper_platform.clock import Clock
from clipper_platform.control.access.keyring import Keyring
from clipper_platform.control.access.secrets import ProjectSecrets
from clipper_platform.control.environment_gc import EnvironmentGarbageCollector
from clipper_platform.control.events import EventLog
from clipper_platform.control.function_facts import FunctionFacts, ScaledFunctions
from clipper_platform.control.function_schemas import FunctionSchemas
from clipper_platform.control.log_gc import LogGarbageCollector
from clipper_platform.control.log_store import LogStore
from clipper_platform.control.materializing import Materializer
from clipper_platform.control.recovery import Recovery
from clipper_platform.control.registry import Registry
from clipper_platform.control.scaling.autoscaler import Autoscaler
from clipper_platform.control.scaling.idle_history import IdleHistory
from clipper_platform.control.scaling.policies import Policies
from clipper_platform.control.storage import Storage, period_s
from clipper_platform.control.versions.bundle_gc import BundleGarbageCollector
from clipper_platform.control.versions.deployer import Deployer
from clipper_platform.control.versions.pinned import PinnedVersions
from clipper_platform.control.versions.retention import VersionRetention
from clipper_platform.control.versions.rollout import Rollout
from clipper_platform.descriptors import connection_descriptors, current_limit
from clipper_platform.environments.base import EnvironmentBuilder
from clipper_platform.environments.venv import VenvBuilder
from clipper_platform.errors import StoreUnavailable
from clipper_platform.gateway.lifecycle import Lifecycle
from clipper_platform.gateway.origin_policy import OriginPolicy
from clipper_platform.home import home_id
from clipper_platform.lifespan import background, opened
from clipper_platform.metrics import Metrics
from clipper_platform.replicas.base import Target
from clipper_platform.replicas.replica_sets import ReplicaSets
from clipper_platform.serving.cache import SharedResults
from clipper_platform.serving.dispatcher import Dispatcher
from clipper_platform.serving.materialized import MaterializedAnswers
from clipper_platform.settings import BACKLOG, Settings
from clipper_platform.store.artifacts import ArtifactStore
from clipper_platform.store.base import MetadataStore, RecoverableStore
from clipper_platform.store.materialized import MaterializedStore
from clipper_platform.store.sqlite import SqliteStore, database_files
from clipper_platform.types import FunctionId

if TYPE_CHECKING:
    from clipper_platform.gateway.http.http_server import Server

__all__ = ["ConcreteParts", "Parts", "concrete_parts", "make_server"]

logger = logging.getLogger(__name__)

OnDropped = Callable[[FunctionId, int], None]
"""(function, lines)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcreteParts:
    """The parts of which there are several kinds, none of them opened yet."""

    store: MetadataStore
    environments: EnvironmentBuilder
    backend: Callable[[LogSink, OnDropped, BundleResolver], Backend]
    """Makes the backend: from where the output of replicas goes, what counts the lines of it that are dropped, and how
    bundles are found on this machine."""

    shared_results: SharedResults | None
    """The result cache's second tier, where there is one."""


def concrete_parts(settings: Settings, clock: Clock, url: str) -> ConcreteParts:
    """The store, the backend and the environments of these settings. Raises StoreUnavailable, InvalidSpec."""
    embedded = settings.store_url.startswith("sqlite:")
    instance = secrets.token_hex(8)
    environments = VenvBuilder(settings.environments_path, clock=clock, instance_id=instance)

    def backend(logs: LogSink, on_dropped: OnDropped, bundles: BundleResolver) -> Backend:
        made = ProcessBackend(
            settings.home,
            logs,
            bundles=bundles,
            environments=environments.find,
            instance_id=instance,
            clock=clock,
            url=url,
            on_dropped=on_dropped,
            warm_pool_size=settings.warm_pool_size,
            isolation=settings.isolation,
            hidden=[settings.environments_path, *database_files(settings.store_url)],
        )
        made.on_isolation = environments.isolate
        made.project_ids, made.always_users = settings.project_ids, settings.isolation_uids != "auto"
        return made

    return ConcreteParts(
        store=SqliteStore.from_url(settings.store_url) if embedded else redis_store(settings.store_url),
        environments=environments,
        backend=backend,
        shared_results=None if embedded else redis_results(settings.store_url, clock),
    )


STORE_WAIT_S = 30.0  # a Redis that is started at the same time loads its data in this time


def redis_store(url: str) -> MetadataStore:
    """Raises StoreUnavailable where the package is missing, InvalidSpec."""
    try:
        from clipper_platform.store.redis import RedisStore
    except ModuleNotFoundError as error:
        raise StoreUnavailable("the Redis store needs a package: pip install 'clipper[redis]'") from error
    return RedisStore(url, wait_s=STORE_WAIT_S)


def redis_results(url: str, clock: Clock) -> SharedResults:
    from clipper_platform.store.results import RedisResults

    return RedisResults(url, clock)


# Everything but the gateway


class Parts:
    """All parts but the gateway. `open` makes them in the order of their needs; the stack closes them in reverse."""

    registry: Registry
    keyring: Keyring
    secrets: ProjectSecrets
    logs: LogStore
    events: EventLog
    artifacts: ArtifactStore
    environments: EnvironmentBuilder
    backend: Backend
    dispatcher: Dispatcher
    replica_sets: ReplicaSets
    facts: FunctionFacts
    idle_history: IdleHistory
    policies: Policies
    autoscaler: Autoscaler
    rollout: Rollout
    deployer: Deployer
    pinned: PinnedVersions
    storage: Storage
    materialized: MaterializedStore
    materializer: Materializer
    applications: Applications

    def __init__(self, stack: AsyncExitStack, settings: Settings, *, clock: Clock, metrics: Metrics) -> None:
        self.settings = settings
        self.clock = clock
        self.metrics = metrics
        self._stack = stack

    async def open(self, concrete: ConcreteParts) -> Self:
        """Raises StoreUnavailable, InvalidSpec."""
        await self._open_records(concrete.store)
        await self._open_serving(concrete)
        await self._open_scaling(concrete.store)
        self._make_versions()
        self._make_storage()
        self.materializer = Materializer(
            self.materialized,
            version_of=self._version_of,
            exists=self.registry.has,
            dispatcher=self.dispatcher,
            clock=self.clock,
            metrics=self.metrics,
        )
        await self._enter(self.materializer)
        await self._open_applications(concrete.store)
        await self._run(
            {
                "pinned versions": self.pinned.watch(),
                "storage": self.storage.run(),
                "autoscaler": self.autoscaler.run(),
                "idle history": self.idle_history.run(),
                "applied policies": self.policies.watch(self._record_end_of_policy),
            }
        )
        return self

    async def _open_records(self, store: MetadataStore) -> None:
        """What is stored: metadata, bundles, keys, logs, events."""
        home, clock = self.settings.home, self.clock
        await self._enter(store)
        self.artifacts = ArtifactStore(home / "bundles", self.settings.max_bundle_bytes, clock=clock)
        await self._enter(self.artifacts)
        self.registry = Registry(store, clock, home=home_id(home))
        self.keyring = Keyring(store, clock, self.registry.watch)
        self.secrets = ProjectSecrets(self.registry)
        await self.registry.load()
        await self.keyring.load()
        if (notice := await self.keyring.ensure_admin(home / KEY_FILE)) is not None:
            logger.info(notice)
        self.metrics.store_up.child().read = lambda: float(self.registry.watch.error is None)
        self.logs = LogStore(home / "logs", clock)
        self._stack.push_async_callback(self.logs.close)
        self.events = EventLog(store, self.logs, clock)
        self._stack.push_async_callback(self.events.close)
        await self._run(
            {
                "store watch": self.registry.watch.run(),
                "log writer": self.logs.run(),
                "event writer": self.events.run(),
            }
        )

    async def _open_serving(self, concrete: ConcreteParts) -> None:
        """Where invocations are queued and where replicas run."""
        metrics, clock = self.metrics, self.clock
        self.environments = concrete.environments
        self.backend = concrete.backend(self.logs.append, self._count_dropped, self.artifacts.unpack)
        await self._enter(self.backend)
        self.artifacts.groups = self.backend.bundle_groups()
        self.secrets.on_change = self.backend.secrets_changed
        if concrete.shared_results is not None:
            await self._enter(concrete.shared_results)
        self.materialized = MaterializedStore(self.settings.home / "materialized.db", self.settings.materialized_bytes)
        await self._enter(self.materialized)
        metrics.materialized_bytes.child().read = lambda: float(self.materialized.index.size)
        self.dispatcher = Dispatcher(
            clock=clock,
            metrics=metrics,
            max_queued_total=self.settings.max_queued_total,
            cache_bytes=self.settings.cache_bytes,
            shared_results=concrete.shared_results,
            materialized=MaterializedAnswers(self.materialized, clock),
        )
        self._stack.callback(self.dispatcher.close)
        self.replica_sets = ReplicaSets(
            self.dispatcher,
            backend=self.backend,
            clock=clock,
            metrics=metrics,
            events=self.events,
            secrets=self.secrets.read,
            shutdown_timeout_s=self.settings.shutdown_timeout_s,
        )
        self._stack.push_async_callback(self.replica_sets.close)
        self.facts = FunctionFacts(self.dispatcher, self.replica_sets, clock)

    async def _open_scaling(self, store: MetadataStore) -> None:
        """The applied policies and the autoscaler, which scales all replica sets."""
        self.idle_history = IdleHistory(self.settings.home / "idle_times")
        await self._enter(self.idle_history)
        self.policies = Policies(self.registry, store, self.clock)
        await self.policies.load()
        self.autoscaler = Autoscaler(
            ScaledFunctions(self.dispatcher, self.replica_sets),
            clock=self.clock,
            events=self.events,
            count=lambda path, rule: self.metrics.scaling_decisions.child(path, rule).inc(),
            policy_of=lambda id, spec: self.policies.of(id.project, id.function, spec.autoscaling),
            on_error=self.metrics.loop_errors.child("autoscaler").inc,
            idle_history=self.idle_history,
            cores=self.backend.cores(),
        )
        self.policies.on_change(self.autoscaler.policy_changed)
        if isinstance(store, RecoverableStore):
            recovery = Recovery(
                store,
                registry=self.registry,
                keyring=self.keyring,
                policies=self.policies,
                secrets=self.secrets,
                events=self.events,
                clock=self.clock,
                others=lambda: self.applications.catalog.records(),
            )
            self.registry.watch.on_loss(recovery.recover, recovery.notice, recovery.mend)
        self.replica_sets.on_running = self._running_changed

    def _make_versions(self) -> None:
        """What deploys, rolls back and starts versions."""
        self.rollout = Rollout(
            self.artifacts,
            self.environments,
            self.replica_sets,
            secrets=self.secrets.read,
            policy_of=lambda id, spec: self.policies.of(id.project, id.function, spec.autoscaling),
        )
        self.deployer = Deployer(
            registry=self.registry,
            artifacts=self.artifacts,
            rollout=self.rollout,
            replicas=self.replica_sets,
            router=self.dispatcher,
            facts=self.facts,
            logs=self.logs,
            events=self.events,
            clock=self.clock,
        )
        self._stack.push_async_callback(self.deployer.close)
        self.pinned = PinnedVersions(
            registry=self.registry,
            rollout=self.rollout,
            replicas=self.replica_sets,
            facts=self.facts,
            clock=self.clock,
            reuse=self.deployer.takeover.reuse,
            trouble=self.deployer.trouble,
            retry_s=self.deployer.retry_s,
        )
        self._stack.push_async_callback(self.pinned.close)

    def _make_storage(self) -> None:
        """What collects old versions, and the bundles, environments and logs that nothing refers to."""
        settings, registry, deployer, replica_sets = self.settings, self.registry, self.deployer, self.replica_sets
        versions = VersionRetention(
            registry,
            self.artifacts,
            self.events,
            in_use=lambda project: replica_sets.versions(project) | self.pinned.starting(project),
            changing=deployer.changes,
        )
        deploys = deployer.deployments
        bundles = BundleGarbageCollector(
            self.artifacts,
            lambda: registry.references.bundles() | deploys.bundles() | replica_sets.bundles(),
            self.clock,
        )
        environments = EnvironmentGarbageCollector(
            self.environments,
            lambda: registry.references.environments() | deploys.environments() | replica_sets.environments(),
            grace_s=settings.environment_grace_s,
            max_bytes=settings.environments_bytes,
            clock=self.clock,
            metrics=self.metrics,
        )
        logs = LogGarbageCollector(self.logs, lambda project: registry.has(project) or deployer.changes(project))
        self.storage = Storage(
            versions,
            {"bundles": bundles, "environments": environments, "logs": logs},
            round_s=period_s(settings.environment_grace_s),
        )
        deployer.on_change(self.storage.ask)

    async def _open_applications(self, store: MetadataStore) -> None:
        """What clients query by an application's name."""
        watch, schemas = self.registry.watch, FunctionSchemas(self.registry)
        catalog = Catalog(store, schemas, self.clock, check_store=watch.check)
        parts = PlatformParts(
            dispatcher=self.dispatcher,
            data=store.application_data,
            clock=self.clock,
            metrics=self.metrics,
            wake=self.pinned.wake,
            next_query_id=query_ids(),
            schema=schemas.schema,
        )
        self.applications = Applications(catalog, parts)
        watch.on_poll(catalog.polled)
        await self._enter(self.applications)
        await self._run({"applications": self.applications.run()})

    # What the parts tell each other

    def _count_dropped(self, function: FunctionId, lines: int) -> None:
        self.metrics.log_dropped.child(function.path).inc(lines)

    def _running_changed(self, target: Target, runs: bool) -> None:
        if runs:
            self.autoscaler.appeared(target.id, target.spec)
            return
        self.autoscaler.gone(target.id)
        if self.registry.current(target.id.project) is None:
            self.policies.forget(target.id.project)
            self.idle_history.forget(target.id.project)
            self.secrets.forget(target.id.project)
            if not self.registry.has(target.id.project):
                self.materializer.forget(target.id.project)

    def _version_of(self, project: str) -> tuple[int, str] | None:
        current = self.registry.current(project)
        return None if current is None else (current.route.version, current.identity)

    def _record_end_of_policy(self, project: str, function: str) -> None:
        message = f"the policy applied to {function} ends: the version that answers declares another one"
        self.events.record(project, "policy", message, function=function)

    # Their life

    async def _enter(self, part: Any) -> None:
        await self._stack.enter_async_context(opened(part))

    async def _run(self, loops: dict[str, Any]) -> None:
        await self._stack.enter_async_context(background(loops))


# The gateway


def make_server(parts: Parts, *, origin_policy: OriginPolicy, lifecycle: Lifecycle, started_at: float) -> Server:
    """The gateway on its HTTP server, not serving yet. `started_at` in Unix seconds.

    The gateway and its libraries are imported here, since that takes as long as the first replicas take to start.
    """
    from clipper_platform.gateway.auth import Access
    from clipper_platform.gateway.http.connection_limit import ConnectionLimit
    from clipper_platform.gateway.http.fast_path import FastPathOptions
    from clipper_platform.gateway.http.http_server import http_server
    from clipper_platform.gateway.http.invoke_endpoint import invoke_routes
    from clipper_platform.gateway.http.invoke_service import InvokeService
    from clipper_platform.gateway.http.predict_endpoint import application_routes
    from clipper_platform.gateway.http.predict_service import PredictService
    from clipper_platform.gateway.services import PlatformFacts, Services

    settings, metrics, descriptors = parts.settings, parts.metrics, current_limit()
    access = Access(parts.keyring, open_invoke=origin_policy.loopback)
    invoke = InvokeService(
        parts.dispatcher,
        clock=parts.clock,
        authorize=access.authorize_invoke,
        open_invoke=access.open_invoke,
        max_body_bytes=settings.max_body_bytes,
        wake=parts.pinned.wake,
    )
    predictions = PredictService(
        parts.applications,
        clock=parts.clock,
        authorize=access.authorize_invoke,
        open_invoke=access.open_invoke,
        max_body_bytes=settings.max_body_bytes,
    )
    services = Services(
        registry=parts.registry,
        keyring=parts.keyring,
        secrets=parts.secrets,
        access=access,
        origin_policy=origin_policy,
        deployer=parts.deployer,
        logs=parts.logs,
        artifacts=parts.artifacts,
        facts=parts.facts,
        policies=parts.policies,
        autoscaler=parts.autoscaler,
        storage=parts.storage,
        materializer=parts.materializer,
        applications=parts.applications,
        lifecycle=lifecycle,
        clock=parts.clock,
        metrics_slices=metrics.slices,
        metrics_type=metrics.content_type,
        platform=PlatformFacts(
            version=VERSION,
            backend=parts.backend.name,
            isolation=parts.backend.isolation(),
            home=str(settings.home),
            started_at=started_at,
            max_body_bytes=settings.max_body_bytes,
            max_bundle_bytes=settings.max_bundle_bytes,
            pythons=parts.environments.pythons,
        ),
        extra_routes=[
            *invoke_routes(invoke, body_timeout_s=settings.body_timeout_s),
            *application_routes(predictions, body_timeout_s=settings.body_timeout_s),
        ],
    )
    fast_path = FastPathOptions(
        service=invoke,
        predictions=predictions,
        host_allowed=origin_policy.allows_host,
        body_timeout_s=settings.body_timeout_s,
        enabled=settings.fast_path,
        limit=ConnectionLimit(
            connection_descriptors(descriptors),
            descriptors,
            now=parts.clock.monotonic,
            on_refused=metrics.connections_refused.child().inc,
        ),
    )
    server = http_server(services, fast_path, shutdown_timeout_s=settings.shutdown_timeout_s, backlog=BACKLOG)
    metrics.connections.child().read = lambda: float(len(server.server_state.connections))
    return server
