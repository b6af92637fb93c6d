"""The data plane and the control plane: their parts wired, opened, and closed in reverse. Which store, backend and
environments they work with is said by `Concrete`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from clipper.contract.constants import KEY_FILE
from clipper_platform.backends.base import Backend, BundleResolver, LogSink
from clipper_platform.clock import Clock
from clipper_platform.control.access.keyring import Keyring
from clipper_platform.control.environment_gc import EnvironmentGarbageCollector
from clipper_platform.control.events import EventLog
from clipper_platform.control.function_facts import FunctionFacts, ScaledFunctions
from clipper_platform.control.log_gc import LogGarbageCollector
from clipper_platform.control.log_store import LogStore
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
from clipper_platform.environments.base import EnvironmentBuilder
from clipper_platform.home import home_id
from clipper_platform.metrics import Metrics
from clipper_platform.replicas.base import Target
from clipper_platform.replicas.replica_sets import ReplicaSets
from clipper_platform.serving.cache import SharedResults
from clipper_platform.serving.dispatcher import Dispatcher
from clipper_platform.settings import Settings
from clipper_platform.store.artifacts import ArtifactStore
from clipper_platform.store.base import MetadataStore
from clipper_platform.types import FunctionId

__all__ = ["Concrete", "Planes", "open_planes"]

logger = logging.getLogger(__name__)

OnDropped = Callable[[FunctionId, int], None]
"""(function, lines)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Concrete:
    """What the composition root chose, none of it opened yet."""

    store: MetadataStore
    environments: EnvironmentBuilder
    backend: Callable[[LogSink, OnDropped, BundleResolver], Backend]
    """Makes the backend: from where the output of replicas goes, what counts the lines of it that are dropped, and how
    bundles are found on this machine."""

    shared_results: Callable[[], SharedResults] | None
    """The result cache's second tier, where there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planes:
    """What the gateway works with."""

    registry: Registry
    keyring: Keyring
    logs: LogStore
    artifacts: ArtifactStore
    environments: EnvironmentBuilder
    backend: Backend
    dispatcher: Dispatcher
    facts: FunctionFacts
    policies: Policies
    autoscaler: Autoscaler
    deployer: Deployer
    pins: PinnedVersions
    storage: Storage


async def open_planes(
    stack: AsyncExitStack, settings: Settings, concrete: Concrete, *, clock: Clock, metrics: Metrics
) -> Planes:
    """Everything but the gateway; `stack` closes it. Raises StoreUnavailable, InvalidSpec."""
    store = concrete.store
    await stack.enter_async_context(opened(store))
    artifacts = ArtifactStore(settings.home / "bundles", settings.max_bundle_bytes, clock=clock)
    await stack.enter_async_context(opened(artifacts))
    registry = Registry(store, clock, home=home_id(settings.home))
    keyring = Keyring(store, clock, registry.watch)
    await registry.load()
    await keyring.load()
    if (said := await keyring.ensure_admin(settings.home / KEY_FILE)) is not None:
        logger.info(said)
    metrics.store_up.child().read = lambda: float(registry.watch.error is None)

    log_store = LogStore(settings.home / "logs", clock)
    stack.push_async_callback(log_store.close)
    events = EventLog(store, log_store, clock)
    stack.push_async_callback(events.close)
    await stack.enter_async_context(
        background({"store watch": registry.watch.run(), "log writer": log_store.run(), "event writer": events.run()})
    )

    environments = concrete.environments
    backend = concrete.backend(
        log_store.append,
        lambda function, lines: metrics.log_dropped.child(function.path).inc(lines),
        artifacts.unpack,
    )
    await stack.enter_async_context(opened(backend))
    shared_results = None if concrete.shared_results is None else concrete.shared_results()
    if shared_results is not None:
        await stack.enter_async_context(opened(shared_results))
    dispatcher = Dispatcher(
        clock=clock,
        metrics=metrics,
        max_queued_total=settings.max_queued_total,
        cache_bytes=settings.cache_bytes,
        shared_results=shared_results,
    )
    stack.callback(dispatcher.close)
    replica_sets = ReplicaSets(dispatcher, backend=backend, clock=clock, metrics=metrics, events=events)
    stack.push_async_callback(replica_sets.close)
    facts = FunctionFacts(dispatcher, replica_sets, clock)
    learnt = IdleHistory(settings.home / "idle_times")
    await stack.enter_async_context(opened(learnt))
    policies, autoscaler = await open_scaling(
        registry, store, dispatcher, replica_sets, events, metrics, learnt, clock, cores=backend.cores()
    )
    rollout = Rollout(
        registry,
        artifacts,
        environments,
        replica_sets,
        policy_of=lambda id, spec: policies.of(id.project, id.function, spec.autoscaling),
    )
    deployer = Deployer(
        registry=registry,
        artifacts=artifacts,
        rollout=rollout,
        replicas=replica_sets,
        router=dispatcher,
        facts=facts,
        logs=log_store,
        events=events,
        clock=clock,
    )
    stack.push_async_callback(deployer.close)
    pins = PinnedVersions(
        registry=registry,
        rollout=rollout,
        replicas=replica_sets,
        facts=facts,
        clock=clock,
        drained=deployer.takeover.drained,
        trouble=deployer.trouble,
    )
    stack.push_async_callback(pins.close)
    storage = make_storage(
        settings,
        registry,
        artifacts,
        environments,
        replica_sets,
        rollout,
        deployer,
        pins,
        log_store,
        events,
        metrics,
        clock,
    )
    deployer.on_change(storage.ask)
    await stack.enter_async_context(
        background(
            {
                "pinned versions": pins.watch(),
                "storage": storage.run(),
                "autoscaler": autoscaler.run(),
                "learnt idle times": learnt.run(),
                "applied policies": policies.watch(
                    lambda project, function: events.record(
                        project,
                        "policy",
                        f"the policy applied to {function} ends: the version that answers declares another one",
                        function=function,
                    )
                ),
            }
        )
    )
    return Planes(
        registry=registry,
        keyring=keyring,
        logs=log_store,
        artifacts=artifacts,
        environments=environments,
        backend=backend,
        dispatcher=dispatcher,
        facts=facts,
        policies=policies,
        autoscaler=autoscaler,
        deployer=deployer,
        pins=pins,
        storage=storage,
    )


def make_storage(
    settings: Settings,
    registry: Registry,
    artifacts: ArtifactStore,
    environments: EnvironmentBuilder,
    replica_sets: ReplicaSets,
    rollout: Rollout,
    deployer: Deployer,
    pins: PinnedVersions,
    logs: LogStore,
    events: EventLog,
    metrics: Metrics,
    clock: Clock,
) -> Storage:
    """What collects old versions, and the bundles, environments and logs that nothing refers to."""
    versions = VersionRetention(
        registry,
        artifacts,
        events,
        in_use=lambda project: replica_sets.versions(project) | pins.starting(project),
        changing=deployer.changes,
    )
    bundles = BundleGarbageCollector(
        artifacts, lambda: registry.references.bundles() | deployer.bundles() | replica_sets.bundles(), clock
    )
    environment_gc = EnvironmentGarbageCollector(
        environments,
        lambda: (
            registry.references.environments()
            | rollout.environments()
            | deployer.environments()
            | replica_sets.environments()
        ),
        grace_s=settings.environment_grace_s,
        max_bytes=settings.environments_bytes,
        clock=clock,
        metrics=metrics,
    )
    log_gc = LogGarbageCollector(logs, lambda project: registry.has(project) or deployer.changes(project))
    return Storage(
        versions,
        {"bundles": bundles, "environments": environment_gc, "logs": log_gc},
        round_s=period_s(settings.environment_grace_s),
    )


async def open_scaling(
    registry: Registry,
    store: MetadataStore,
    dispatcher: Dispatcher,
    replica_sets: ReplicaSets,
    events: EventLog,
    metrics: Metrics,
    learnt: IdleHistory,
    clock: Clock,
    *,
    cores: int | None,
) -> tuple[Policies, Autoscaler]:
    """The applied policies and the autoscaler, which scales all replica sets."""
    policies = Policies(registry, store, clock)
    await policies.load()
    autoscaler = Autoscaler(
        ScaledFunctions(dispatcher, replica_sets),
        clock=clock,
        events=events,
        count=lambda path, rule: metrics.scaling_decisions.child(path, rule).inc(),
        policy_of=lambda id, spec: policies.of(id.project, id.function, spec.autoscaling),
        on_error=metrics.loop_errors.child("autoscaler").inc,
        learnt=learnt,
        cores=cores,
    )
    policies.on_change(autoscaler.policy_changed)

    def running_changed(target: Target, runs: bool) -> None:
        if runs:
            autoscaler.appeared(target.id, target.spec)
            return
        autoscaler.gone(target.id)
        if registry.current(target.id.project) is None:
            policies.forget(target.id.project)
            learnt.forget(target.id.project)

    replica_sets.on_running = running_changed
    return policies, autoscaler


@asynccontextmanager
async def opened(part: Any) -> AsyncIterator[None]:
    """`open` and, whatever happens in between, `close`."""
    try:
        await part.open()
        yield
    finally:
        await part.close()


@asynccontextmanager
async def background(loops: dict[str, Any]) -> AsyncIterator[None]:
    """Run these loops meanwhile, and cancel them at the end."""
    tasks = [asyncio.create_task(work, name=name) for name, work in loops.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
