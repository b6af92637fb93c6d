"""The control API, `/api/v1`: thin handlers over the control plane. `infra/docs/control-api.md` is its contract."""

from __future__ import annotations

from clipper_platform.gateway.control_api.applications import ApplicationRoutes
from clipper_platform.gateway.control_api.deployments import DeploymentRoutes
from clipper_platform.gateway.control_api.endpoints import Endpoint
from clipper_platform.gateway.control_api.keys import KeyRoutes
from clipper_platform.gateway.control_api.logs import LogRoutes
from clipper_platform.gateway.control_api.materializations import MaterializationRoutes
from clipper_platform.gateway.control_api.platform import PlatformRoutes
from clipper_platform.gateway.control_api.policies import PolicyRoutes
from clipper_platform.gateway.control_api.projects import ProjectRoutes
from clipper_platform.gateway.control_api.secrets import SecretRoutes
from clipper_platform.gateway.control_api.storage import StorageRoutes
from clipper_platform.gateway.control_api.versions import VersionRoutes
from clipper_platform.gateway.services import Services

__all__ = ["control_endpoints"]


def control_endpoints(services: Services) -> list[Endpoint]:
    """The rows of all groups of routes, in the order in which `/openapi.json` shows them."""
    groups = (
        PlatformRoutes(services),
        DeploymentRoutes(services),
        ProjectRoutes(services),
        VersionRoutes(services),
        LogRoutes(services),
        PolicyRoutes(services),
        ApplicationRoutes(services),
        KeyRoutes(services),
        SecretRoutes(services),
        StorageRoutes(services),
        MaterializationRoutes(services),
    )
    return [endpoint for group in groups for endpoint in group.endpoints()]
