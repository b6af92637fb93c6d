"""The state of the control plane as bodies of the control API's responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from clipper.contract.spec import FunctionSpec
from clipper_platform.control.current import Current, Unusable, function_names
from clipper_platform.control.function_facts import FunctionStatus
from clipper_platform.control.versions.deployment import DeployEvent, Deployment
from clipper_platform.errors import StoreUnavailable
from clipper_platform.gateway.control_api.schemas.deployments import DeployedFunction, DeploymentInfo, ProblemInfo
from clipper_platform.gateway.control_api.schemas.functions import (
    CacheInfo,
    FunctionInfo,
    LatencyInfo,
    ReplicaInfo,
    SnapshotInfo,
)
from clipper_platform.gateway.control_api.schemas.projects import (
    CanaryInfo,
    EventInfo,
    FunctionSummary,
    ProjectStatus,
    ProjectSummary,
    VersionInfo,
)
from clipper_platform.gateway.services import Services
from clipper_platform.store.base import Event, Version
from clipper_platform.types import FunctionId

__all__ = ["Views", "event", "version"]

EVENTS_IN_STATUS = 20


def event(record: Event) -> EventInfo:
    return EventInfo(
        seq=record.seq,
        at=record.at,
        kind=record.kind,
        message=record.message,
        function=record.function,
        version=record.version,
        data=record.data,
    )


def version(record: Version, current: int | None) -> VersionInfo:
    return VersionInfo(
        number=record.number,
        created_at=record.created_at,
        state=record.state,
        detail=record.detail,
        current=record.number == current,
        bundle=record.bundle,
        environment=record.environment,
        functions=list(function_names(record.manifest)),
    )


class Views:
    """`base_url`: the platform's address as the client writes it."""

    def __init__(self, services: Services, base_url: str) -> None:
        self._services = services
        self._base = base_url

    def url(self, project: str, function: str) -> str:
        return f"{self._base}/fn/{project}/{function}"

    # Deployments

    def deployment(self, deployment: Deployment) -> DeploymentInfo:
        problem, schemas = deployment.error, deployment.schemas
        return DeploymentInfo(
            id=deployment.id,
            project=deployment.project,
            state=deployment.state,
            version=deployment.version,
            previous=deployment.previous,
            functions=[
                DeployedFunction(name=name, url=self.url(deployment.project, name), schema=schemas.get(name, {}))
                for name in deployment.function_names
            ],
            error=None if problem is None else ProblemInfo(**msgspec.structs.asdict(problem)),
        )

    def deploy_event(self, deployment: Deployment, event: DeployEvent) -> DeployEvent:
        """Adds the deployment to the last event."""
        if event.kind != "done":
            return event
        return msgspec.structs.replace(event, data={"deployment": msgspec.to_builtins(self.deployment(deployment))})

    # Projects

    def summary(self, name: str) -> ProjectSummary:
        registry = self._services.registry
        project = registry.project(name)
        current, unusable = registry.current(name), registry.unusable(name)
        found = current or unusable
        if current is not None:
            statuses = [self._status(current, spec) for spec in current.manifest.functions]
        else:
            statuses = [] if unusable is None else _unusable(unusable)
        return ProjectSummary(
            name=name,
            version=found.route.version if found else None,
            previous=found.route.previous if found else None,
            updated_at=found.route.updated_at if found else project.created_at,
            functions=[self._function_summary(status) for status in statuses],
        )

    def _function_summary(self, status: FunctionStatus) -> FunctionSummary:
        return FunctionSummary(
            name=status.id.function,
            url=self.url(status.id.project, status.id.function),
            state=status.state,
            replicas_ready=status.replicas_ready,
            replicas_wanted=status.replicas_wanted,
        )

    async def status(self, name: str) -> ProjectStatus:
        """Answers while the store cannot be reached too: users look at the status then."""
        registry = self._services.registry
        summary = self.summary(name)
        events: Sequence[Event] = ()
        degraded = registry.watch.error or registry.watch.notice()
        if registry.watch.error is None:
            try:
                events = await registry.events(name, limit=EVENTS_IN_STATUS)
            except StoreUnavailable as error:
                degraded = str(error)
        current, unusable = registry.current(name), registry.unusable(name)
        if current is not None:
            functions = [self.function(current, spec) for spec in current.manifest.functions]
        else:
            functions = [] if unusable is None else [self._function(status, {}) for status in _unusable(unusable)]
        reasons = [f"store: {degraded}" if degraded else "", unusable.why if unusable else ""]
        return ProjectStatus(
            name=name,
            isolation=self._services.platform.isolation.detail,
            url=f"{self._base}/fn/{name}",
            version=summary.version,
            previous=summary.previous,
            updated_at=summary.updated_at,
            functions=functions,
            events=[event(record) for record in events],
            degraded="; ".join(filter(None, reasons)),
            canary=self._canary(name),
        )

    def _canary(self, project: str) -> CanaryInfo | None:
        canary = self._services.deployer.canary(project)
        if canary is None or not canary.step:
            return None
        return CanaryInfo(
            deployment=canary.deployment,
            version=canary.new,
            share=canary.share,
            previous=canary.old,
            previous_share=100 - canary.share,
            step=canary.step,
            steps=len(canary.spec.steps),
            step_s=canary.spec.step_s,
            functions=canary.functions,
        )

    def function(self, current: Current, spec: FunctionSpec) -> FunctionInfo:
        return self._function(self._status(current, spec), spec.to_dict())

    def _function(self, status: FunctionStatus, spec: dict[str, Any]) -> FunctionInfo:
        return FunctionInfo(
            name=status.id.function,
            url=self.url(status.id.project, status.id.function),
            version=status.id.version,
            state=status.state,
            reason=status.reason,
            spec=spec,
            queue_depth=status.queue_depth,
            running=status.running,
            restarts=status.restarts,
            replicas_ready=status.replicas_ready,
            replicas_wanted=status.replicas_wanted,
            replicas=_replicas(status),
            latency=None if status.p50_s is None else LatencyInfo(p50_s=status.p50_s, p99_s=status.p99_s),
            rate_per_s=status.rate_per_s,
            cache=CacheInfo(hits=status.cache_hits, misses=status.cache_misses, bytes=status.cache_bytes),
            snapshot=_snapshot(status),
        )

    def _status(self, current: Current, spec: FunctionSpec) -> FunctionStatus:
        project = current.route.project
        id = FunctionId(project, spec.name, current.route.version)
        return self._services.facts.status(id) or _absent(id, self._services.deployer.trouble(project))


def _replicas(status: FunctionStatus) -> list[ReplicaInfo]:
    return [
        ReplicaInfo(
            id=r.id,
            state=r.state,
            pid=r.details.get("pid"),
            version=r.version,
            started_at=r.started_at,
            invocations=r.invocations,
            restarts=status.restarts,
            memory_bytes=r.memory_bytes,
            in_flight=r.in_flight,
        )
        for r in status.replicas
    ]


def _snapshot(status: FunctionStatus) -> SnapshotInfo | None:
    snapshot = status.snapshot
    return None if snapshot is None else SnapshotInfo(snapshot.state, snapshot.reason, snapshot.retry_s)


def _unusable(unusable: Unusable) -> list[FunctionStatus]:
    """The functions of a version that this platform cannot run."""
    route = unusable.route
    return [_absent(FunctionId(route.project, name, route.version), unusable.why) for name in unusable.functions]


def _absent(id: FunctionId, trouble: str) -> FunctionStatus:
    """The status of a routed function without a queue: the platform is starting it again, or cannot."""
    return FunctionStatus(
        id=id,
        state="failed" if trouble else "starting",
        reason=trouble or "the platform is bringing it back",
        schema=None,
        queue_depth=0,
        running=0,
        replicas_wanted=0,
        restarts=0,
        replicas=(),
        p50_s=None,
        p99_s=None,
        rate_per_s=0.0,
        cache_hits=0,
        cache_misses=0,
        cache_bytes=0,
    )
