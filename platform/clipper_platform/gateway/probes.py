"""Routes for machines: liveness, readiness, metrics, the API's description."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from starlette.responses import Response

from clipper.contract.media_types import JSON
from clipper_platform.errors import Unavailable
from clipper_platform.gateway.control_api.endpoints import ApiRequest, Endpoint
from clipper_platform.gateway.services import Services

__all__ = ["Health", "Probes", "Readiness"]


class Health(msgspec.Struct, frozen=True, kw_only=True):
    ok: bool


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """`ready` is false while starting and draining. `degraded` names what is missing while functions go on answering:
    a load balancer that dropped the platform for it would turn an inconvenience into an outage."""

    ready: bool
    state: str
    degraded: list[str]


class Probes:
    def __init__(self, services: Services) -> None:
        self._s = services
        self.description: dict[str, Any] = {}

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint("GET", "/healthz", self.healthz, "Whether the process is alive", scope=None, response=Health),
            Endpoint(
                "GET",
                "/readyz",
                self.readyz,
                "Whether requests should be sent here",
                scope=None,
                response=Readiness,
                other_statuses={Unavailable.status: "Starting, or draining"},
            ),
            Endpoint(
                "GET",
                "/metrics",
                self.metrics,
                "Prometheus metrics; on a bind that is not loopback any key is needed",
                scope=None,
                media_type="text/plain",
            ),
            Endpoint("GET", "/openapi.json", self.openapi, "This description", scope=None),
        ]

    async def healthz(self, request: ApiRequest) -> Health:
        return Health(ok=True)

    async def readyz(self, request: ApiRequest) -> Response:
        state = self._s.lifecycle.state
        degraded = []
        if self._s.registry.watch.error is not None:
            # Only the kind of the store, without its address: this route needs no key.
            kind = self._s.registry.store.url.partition(":")[0]
            degraded.append(f"store: {kind} cannot be used; functions answer, changes are refused")
        elif notice := self._s.registry.watch.notice():
            degraded.append(f"store: {notice}")
        body = Readiness(ready=state == "ready", state=state, degraded=degraded)
        status = 200 if body.ready else Unavailable.status
        return Response(msgspec.json.encode(body), status, media_type=JSON)

    async def metrics(self, request: ApiRequest) -> Response:
        # Labels name projects, so the rule is that of invocations.
        self._s.access.authorize_invoke(request.http.headers.get("authorization"), public=False)
        parts = []
        for part in self._s.metrics_slices():
            parts.append(part)
            await asyncio.sleep(0)
        return Response(b"".join(parts), headers={"content-type": self._s.metrics_type})

    async def openapi(self, request: ApiRequest) -> Response:
        return Response(msgspec.json.encode(self.description), media_type=JSON)
