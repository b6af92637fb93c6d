"""The gateway on its HTTP server. Loaded while the first replicas start already, as it takes as long as they do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from clipper_platform.clock import Clock
from clipper_platform.gateway.app import build_app
from clipper_platform.gateway.auth import Access
from clipper_platform.gateway.http.fast_path import FastPathOptions, fast_protocol
from clipper_platform.gateway.http.invoke_endpoint import invoke_routes
from clipper_platform.gateway.http.invoke_service import InvokeService
from clipper_platform.gateway.lifecycle import Lifecycle
from clipper_platform.gateway.origin_policy import OriginPolicy
from clipper_platform.gateway.services import PlatformFacts, Services
from clipper_platform.metrics import Metrics
from clipper_platform.settings import BACKLOG, Settings
from clipper_platform.wiring import Planes

__all__ = ["Server", "make_server"]

KEEP_ALIVE_S = 75  # like nginx: longer than the idle time that client libraries keep a connection for


class Server(uvicorn.Server):
    """uvicorn's server, whose signals the platform handles: it drains before, and closes replicas after."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_server(
    settings: Settings,
    planes: Planes,
    *,
    origin_policy: OriginPolicy,
    lifecycle: Lifecycle,
    clock: Clock,
    metrics: Metrics,
    version: str,
    started_at: float,
) -> Server:
    """The server of all routes, not serving yet. `started_at` in Unix seconds."""
    access = Access(planes.keyring, open_invoke=origin_policy.loopback)
    invoke = _invoke_service(settings, planes, access, clock)
    services = Services(
        registry=planes.registry,
        keyring=planes.keyring,
        access=access,
        origin_policy=origin_policy,
        deployer=planes.deployer,
        logs=planes.logs,
        artifacts=planes.artifacts,
        facts=planes.facts,
        policies=planes.policies,
        autoscaler=planes.autoscaler,
        lifecycle=lifecycle,
        clock=clock,
        metrics_slices=metrics.slices,
        metrics_type=metrics.content_type,
        platform=_facts(settings, planes, version, started_at),
        extra_routes=invoke_routes(invoke, body_timeout_s=settings.body_timeout_s),
    )
    server = Server(_config(settings, services, invoke))
    metrics.connections.child().read = lambda: float(len(server.server_state.connections))
    return server


def _invoke_service(settings: Settings, planes: Planes, access: Access, clock: Clock) -> InvokeService:
    return InvokeService(
        planes.dispatcher,
        clock=clock,
        authorize=access.authorize_invoke,
        open_invoke=access.open_invoke,
        max_body_bytes=settings.max_body_bytes,
        wake=planes.pins.wake,
    )


def _facts(settings: Settings, planes: Planes, version: str, started_at: float) -> PlatformFacts:
    return PlatformFacts(
        version=version,
        backend=planes.backend.name,
        home=str(settings.home),
        started_at=started_at,
        max_body_bytes=settings.max_body_bytes,
        max_bundle_bytes=settings.max_bundle_bytes,
        pythons=planes.environments.pythons,
    )


def _config(settings: Settings, services: Services, invoke: InvokeService) -> uvicorn.Config:
    options = FastPathOptions(
        service=invoke,
        host_allowed=services.origin_policy.allows_host,
        body_timeout_s=settings.body_timeout_s,
        enabled=settings.fast_path,
    )
    return uvicorn.Config(
        build_app(services),
        http=fast_protocol(options),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout_s)),
        backlog=BACKLOG,
    )
