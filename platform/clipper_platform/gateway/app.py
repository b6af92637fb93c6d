"""The gateway as one ASGI application."""

from __future__ import annotations

from typing import NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request

from clipper_platform.gateway.control_api.admin import Admin
from clipper_platform.gateway.control_api.endpoints import routes
from clipper_platform.gateway.control_api.openapi import describe
from clipper_platform.gateway.middleware import Edge
from clipper_platform.gateway.probes import Probes
from clipper_platform.gateway.services import Services

__all__ = ["Services", "build_app"]


async def _leave_to_the_edge(request: Request, error: Exception) -> NoReturn:
    """Starlette would answer its own exceptions in plain text; errors are rendered in one place."""
    raise error


def build_app(services: Services) -> Starlette:
    """All routes behind the edge. Run it with the server's own `Server` and `Date` headers as you like."""
    probes = Probes(services)
    endpoints = [*probes.endpoints(), *Admin(services).endpoints()]
    probes.description = describe(endpoints, services.version)
    app = Starlette(
        routes=[*services.extra_routes, *routes(endpoints, services.access)],
        middleware=[Middleware(Edge, policy=services.policy, clock=services.clock)],
        exception_handlers={HTTPException: _leave_to_the_edge},
        lifespan=services.lifespan,
    )
    # A redirect from /x/ to /x would tell which addresses exist, and turns a POST into a surprise.
    app.router.redirect_slashes = False
    return app
