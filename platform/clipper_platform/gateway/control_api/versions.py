"""The control API's routes about a project's versions."""

from __future__ import annotations

from typing import Any

from clipper.contract.constants import API_ROOT
from clipper.contract.manifest import PACKAGES, Manifest
from clipper_platform.gateway.control_api import views
from clipper_platform.gateway.control_api.endpoints import ApiRequest, Endpoint
from clipper_platform.gateway.control_api.schemas.projects import (
    Config,
    FunctionLink,
    RollbackRequest,
    RolledBack,
    VersionList,
)
from clipper_platform.gateway.control_api.views import Views
from clipper_platform.gateway.services import Services

__all__ = ["VersionRoutes"]


class VersionRoutes:
    def __init__(self, services: Services) -> None:
        self._s = services

    def endpoints(self) -> list[Endpoint]:
        project = f"{API_ROOT}/projects/{{project}}"
        return [
            Endpoint("GET", f"{project}/versions", self.versions, "A project's versions", response=VersionList),
            Endpoint(
                "POST",
                f"{project}/rollback",
                self.rollback,
                "Return to an earlier version",
                body=RollbackRequest,
                response=RolledBack,
            ),
            Endpoint(
                "GET",
                f"{project}/config",
                self.config,
                "The effective options of the version that answers",
                response=Config,
            ),
        ]

    async def versions(self, request: ApiRequest) -> VersionList:
        project = request.params["project"]
        records = await self._s.registry.versions(project)
        current = self._s.registry.current(project) or self._s.registry.unusable(project)
        number = current.route.version if current else None
        return VersionList(versions=[views.version(record, number) for record in records])

    async def rollback(self, request: ApiRequest) -> RolledBack:
        project = request.params["project"]
        current = await self._s.deployer.rollback(project, request.body.version)
        url = Views(self._s, request.base_url).url
        return RolledBack(
            project=project,
            version=current.route.version,
            previous=current.route.previous,
            functions=[
                FunctionLink(name=spec.name, url=url(project, spec.name)) for spec in current.manifest.functions
            ],
        )

    async def config(self, request: ApiRequest) -> Config:
        project = request.params["project"]
        current = self._s.registry.check_answers(project)
        return Config(
            version=current.route.version,
            environment=current.manifest.environment.shown() | _looked_up(current.manifest),
            env=dict(current.manifest.env),
            functions=[spec.to_dict() for spec in current.manifest.functions],
            apps=list(current.manifest.apps),
        )


def _looked_up(manifest: Manifest) -> dict[str, Any]:
    """What the platform found out about the environment at the deploy: its packages, and what its references meant."""
    meanings = dict(manifest.meanings)
    packages = meanings.pop(PACKAGES, "").split()
    return ({"packages": packages} if packages else {}) | ({"meanings": meanings} if meanings else {})
