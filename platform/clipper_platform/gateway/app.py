"""The gateway as one ASGI application."""

from __future__ import annotations

from typing import NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request

from clipper_platform.gateway.control_api.api import control_endpoints
from clipper_platform.gateway.control_api.endpoints import routes
from clipper_platform.gateway.control_api.openapi import describe
from clipper_platform.gateway.middleware import RequestMiddleware
from clipper_platform.gateway.probes import Probes
from clipper_platform.gateway.services import Services

__all__ = ["build_app"]


async def _reraise(request: Request, error: Exception) -> NoReturn:
    """Passes an exception of Starlette on to the middleware, which renders errors; Starlette answers in plain text."""
    raise error


def build_app(services: Services) -> Starlette:
    """All routes behind the middleware."""
    probes = Probes(services)
    endpoints = [*probes.endpoints(), *control_endpoints(services)]
    probes.description = describe(endpoints, services.platform.version)
    app = Starlette(
        routes=[*services.extra_routes, *routes(endpoints, services.access)],
        middleware=[Middleware(RequestMiddleware, origin_policy=services.origin_policy, clock=services.clock)],
        exception_handlers={HTTPException: _reraise},
        lifespan=services.lifespan,
    )
    # A redirect from /x/ to /x would show which addresses exist, and makes a GET of a POST.
    app.router.redirect_slashes = False
    return app
