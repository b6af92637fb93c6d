"""The control API's routes about projects."""

from __future__ import annotations

import asyncio
from typing import Final

from clipper.contract.constants import API_ROOT
from clipper_platform.gateway.control_api import views
from clipper_platform.gateway.control_api.endpoints import ApiRequest, Endpoint, Query
from clipper_platform.gateway.control_api.schemas.projects import (
    DeletedProject,
    EventList,
    ProjectList,
    ProjectStatus,
    Restarted,
    RestartRequest,
)
from clipper_platform.gateway.control_api.views import Views
from clipper_platform.gateway.services import Services

__all__ = ["SLICE", "ProjectRoutes"]

_MAX_EVENTS: Final = 1000
SLICE: Final = 100  # projects that are summarised before the event loop runs other work: about 2 ms


class ProjectRoutes:
    def __init__(self, services: Services) -> None:
        self._s = services

    def endpoints(self) -> list[Endpoint]:
        project = f"{API_ROOT}/projects/{{project}}"
        return [
            Endpoint("GET", f"{API_ROOT}/projects", self.projects, "All projects", response=ProjectList),
            Endpoint("GET", project, self.project, "A project's functions and newest events", response=ProjectStatus),
            Endpoint(
                "DELETE",
                project,
                self.delete,
                "Delete a project; the answer comes when calls that run have ended",
                query=(
                    Query("force", "boolean", "cut off calls that run, also where an earlier request waits", False),
                ),
                response=DeletedProject,
            ),
            Endpoint(
                "POST",
                f"{project}/restart",
                self.restart,
                "Replace the replicas of a project or of one function; one that gave up tries again",
                body=RestartRequest,
                response=Restarted,
            ),
            Endpoint(
                "GET",
                f"{project}/events",
                self.events,
                "A project's events",
                query=(
                    Query("after", "integer", "only events with a greater seq; 0: the newest ones", 0),
                    Query("limit", "integer", f"at most so many, up to {_MAX_EVENTS}", 100),
                ),
                response=EventList,
            ),
        ]

    async def projects(self, request: ApiRequest) -> ProjectList:
        project_views, registry = self._views(request), self._s.registry
        summaries = []
        for count, project in enumerate(registry.projects(), 1):
            if registry.has(project.name):  # else it was deleted while other work ran
                summaries.append(project_views.summary(project.name))
            if count % SLICE == 0:
                await asyncio.sleep(0)
        return ProjectList(projects=summaries)

    async def project(self, request: ApiRequest) -> ProjectStatus:
        return await self._views(request).status(request.params["project"])

    async def delete(self, request: ApiRequest) -> DeletedProject:
        await self._s.deployer.delete(request.params["project"], force=request.query["force"])
        return DeletedProject(deleted=request.params["project"])

    async def restart(self, request: ApiRequest) -> Restarted:
        project, function = request.params["project"], request.body.function
        current = await self._s.deployer.restart(project, function)
        project_views = self._views(request)
        specs = [spec for spec in current.manifest.functions if function is None or spec.name == function]
        return Restarted(
            project=project,
            version=current.route.version,
            functions=[project_views.function(current, spec) for spec in specs],
        )

    async def events(self, request: ApiRequest) -> EventList:
        query, project = request.query, request.params["project"]
        limit = min(query["limit"], _MAX_EVENTS)
        records = await self._s.registry.events(project, after=query["after"], limit=limit)
        return EventList(events=[views.event(record) for record in records])

    def _views(self, request: ApiRequest) -> Views:
        return Views(self._s, request.base_url)
