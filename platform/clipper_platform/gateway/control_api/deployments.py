"""The control API's routes about deployments."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec
from starlette.responses import Response

from clipper.contract.constants import API_ROOT
from clipper.contract.media_types import NDJSON
from clipper_platform.control.versions.deployment import Deployment
from clipper_platform.gateway.control_api.endpoints import ApiRequest, Endpoint, Query, Raw
from clipper_platform.gateway.control_api.schemas.deployments import DeploymentInfo, DeployRequest
from clipper_platform.gateway.control_api.streams import HEARTBEAT_S, LineStream
from clipper_platform.gateway.control_api.views import Views
from clipper_platform.gateway.services import Services

__all__ = ["DeploymentRoutes"]


class DeploymentRoutes:
    def __init__(self, services: Services) -> None:
        self._s = services

    def endpoints(self) -> list[Endpoint]:
        deployment = f"{API_ROOT}/deployments/{{id}}"
        return [
            Endpoint(
                "POST",
                f"{API_ROOT}/projects/{{project}}/deployments",
                self.deploy,
                "Deploy in the background; its events report the progress",
                body=Raw,
                body_schema=DeployRequest,
                response=DeploymentInfo,
                status=202,
            ),
            Endpoint("GET", deployment, self.deployment, "A deployment", response=DeploymentInfo),
            Endpoint(
                "DELETE",
                deployment,
                self.cancel,
                "Cancel a deploy; nothing changes for callers",
                response=DeploymentInfo,
            ),
            Endpoint(
                "GET",
                f"{deployment}/events",
                self.events,
                "Every event of a deployment, live until the last",
                media_type=NDJSON,
                query=(Query("after", "integer", "only events with a greater seq", 0),),
                streams=True,
            ),
        ]

    async def deploy(self, request: ApiRequest) -> DeploymentInfo:
        return self._info(request, self._s.deployer.submit(request.params["project"], request.body))

    async def deployment(self, request: ApiRequest) -> DeploymentInfo:
        return self._info(request, self._s.deployer.get(request.params["id"]))

    async def cancel(self, request: ApiRequest) -> DeploymentInfo:
        return self._info(request, await self._s.deployer.cancel(request.params["id"]))

    async def events(self, request: ApiRequest) -> Response:
        deployment = self._s.deployer.get(request.params["id"])
        lines = _event_lines(Views(self._s, request.base_url), deployment, request.query["after"])
        return LineStream(lines, self._s.lifecycle)

    def _info(self, request: ApiRequest, deployment: Deployment) -> DeploymentInfo:
        return Views(self._s, request.base_url).deployment(deployment)


async def _event_lines(views: Views, deployment: Deployment, after: int) -> AsyncGenerator[bytes, None]:
    while True:
        batch = await deployment.next_events(after, HEARTBEAT_S)
        if not batch and not deployment.running:
            return
        for event in batch:
            yield msgspec.json.encode(views.deploy_event(deployment, event)) + b"\n"
            after = event.seq
        if not batch:
            yield b"\n"
