"""The HTTP server that the gateway runs on: uvicorn with the fast path's protocol."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from clipper_platform.gateway.app import build_app
from clipper_platform.gateway.http.fast_path import FastPathOptions, fast_protocol
from clipper_platform.gateway.services import Services

__all__ = ["Server", "http_server"]

KEEP_ALIVE_S = 75  # like nginx: longer than the idle time that client libraries keep a connection for


class Server(uvicorn.Server):
    """uvicorn's server, whose signals the platform handles: it drains before, and closes replicas after."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_server(services: Services, fast_path: FastPathOptions, *, shutdown_timeout_s: float, backlog: int) -> Server:
    """The server of all routes, not serving yet."""
    return Server(
        uvicorn.Config(
            build_app(services),
            http=fast_protocol(fast_path),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(shutdown_timeout_s)),
            backlog=backlog,
        )
    )
