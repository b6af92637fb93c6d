"""The gateway's application on the control plane's doubles, with a client and a key for each scope."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from clipper_platform.applications.applications import Applications
from clipper_platform.applications.catalog import Catalog
from clipper_platform.applications.live import PlatformParts
from clipper_platform.applications.query_ids import query_ids
from clipper_platform.backends.base import IsolationState
from clipper_platform.control.function_schemas import FunctionSchemas
from clipper_platform.control.materializing import Materializer
from clipper_platform.control.scaling.autoscaler import Autoscaler
from clipper_platform.control.scaling.policies import Policies
from clipper_platform.gateway.app import build_app
from clipper_platform.gateway.auth import Access
from clipper_platform.gateway.lifecycle import Lifecycle
from clipper_platform.gateway.origin_policy import OriginPolicy
from clipper_platform.gateway.services import PlatformFacts, Services
from clipper_platform.metrics import Metrics
from clipper_platform.serving.dispatcher import Dispatcher
from clipper_platform.store.materialized import MaterializedStore
from tests.unit.control.doubles import Plane, make_plane


@dataclass
class Gate:
    plane: Plane
    services: Services
    keys: dict[str, str]  # scope -> secret

    def client(self, scope: str | None = "admin", host: str = "127.0.0.1:8700", **changes: Any) -> httpx.AsyncClient:
        """`changes`: fields of Services that differ."""
        app = build_app(replace(self.services, **changes) if changes else self.services)
        headers = {"authorization": f"Bearer {self.keys[scope]}"} if scope else {}
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app, raise_app_exceptions=False),
            base_url=f"http://{host}",
            headers=headers,
        )

    async def close(self) -> None:
        self.plane.store.outage = ""
        await self.plane.deployer.close()
        await self.plane.logs.close()


async def make_gate(root: Path, *, bind: str = "127.0.0.1", cors: tuple[str, ...] = (), artifacts: Any = None) -> Gate:
    plane = make_plane(root, artifacts=artifacts)
    await plane.registry.load()
    keys = {scope: (await plane.keyring.create(scope, (scope,)))[1] for scope in ("invoke", "deploy", "admin")}
    origin_policy = OriginPolicy(bind, cors)
    lifecycle = Lifecycle()
    lifecycle.ready()
    policies = Policies(plane.registry, plane.store, plane.clock)
    check_store = plane.registry.watch.check
    schemas = FunctionSchemas(plane.registry)
    catalog = Catalog(plane.store, schemas, plane.clock, check_store=check_store)
    metrics = Metrics()
    parts = PlatformParts(
        dispatcher=Dispatcher(clock=plane.clock, metrics=metrics, max_queued_total=10, cache_bytes=1),
        data=plane.store.application_data,
        clock=plane.clock,
        metrics=metrics,
        wake=None,
        next_query_id=query_ids(),
        schema=schemas.schema,
    )
    services = Services(
        registry=plane.registry,
        keyring=plane.keyring,
        secrets=plane.secrets,
        access=Access(plane.keyring, open_invoke=origin_policy.loopback),
        origin_policy=origin_policy,
        deployer=plane.deployer,
        logs=plane.logs,
        artifacts=plane.artifacts,
        facts=plane.serving,
        policies=policies,
        autoscaler=Autoscaler(
            plane.serving,
            clock=plane.clock,
            events=plane.events,
            count=lambda _, __: None,
            policy_of=lambda id, spec: policies.of(id.project, id.function, spec.autoscaling),
        ),
        storage=plane.storage,
        applications=Applications(catalog, parts),
        materializer=Materializer(
            MaterializedStore(root / "materialized.db", 10**9),
            version_of=lambda project: None,
            exists=plane.registry.has,
            dispatcher=parts.dispatcher,
            clock=plane.clock,
            metrics=Metrics(),
        ),
        lifecycle=lifecycle,
        clock=plane.clock,
        metrics_slices=lambda: [b"clip_up 1\n", b"clip_down 0\n"],
        metrics_type="text/plain; version=0.0.4; charset=utf-8",
        platform=PlatformFacts(
            version="0.1.0",
            backend="process",
            isolation=IsolationState("mounts", "files: a mount namespace"),
            home=str(root),
            started_at=1.0,
            max_body_bytes=1000,
            max_bundle_bytes=10_000,
            pythons=lambda: ["3.11.7"],
        ),
    )
    return Gate(plane=plane, services=services, keys=keys)
