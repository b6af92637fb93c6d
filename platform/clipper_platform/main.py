"""The process: its settings, socket and signals, and the order in which the platform's parts are opened and closed."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import uvloop

from clipper.contract.constants import PLATFORM_FILE
from clipper.contract.version import VERSION
from clipper_platform import logs
from clipper_platform.clock import SystemClock
from clipper_platform.descriptors import raise_limit
from clipper_platform.errors import InvalidSpec
from clipper_platform.gateway.lifecycle import Lifecycle
from clipper_platform.gateway.origin_policy import OriginPolicy
from clipper_platform.home import home_lock, prepare_home, write_platform_file
from clipper_platform.listening import listening_sockets
from clipper_platform.metrics import Metrics
from clipper_platform.process import handle_signals, reap_orphans
from clipper_platform.settings import Settings
from clipper_platform.tuning import tune
from clipper_platform.wiring import Parts, concrete_parts, make_server

if TYPE_CHECKING:
    from clipper_platform.gateway.http.http_server import Server

__all__ = ["run"]

logger = logging.getLogger(__name__)

OnListening = Callable[..., None]
"""Called once with `url=…` when the platform listens."""


def run(settings: Settings, *, on_listening: OnListening | None = None) -> int:
    """Run the platform until SIGINT, SIGTERM or SIGHUP; the exit status.

    Raises Conflict (the home or the port is in use), StoreUnavailable, InvalidSpec.
    """
    logs.configure(settings.log_level, "json" if settings.log_format == "json" else "text")
    raise_limit()
    prepare_home(settings.home)
    with home_lock(settings.home), listening_sockets(settings) as listeners:
        platform = Platform(settings, listeners)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(platform.serve(on_listening or (lambda **_: None)))
    return 0


class Platform:
    """All parts and their life. `serve` opens them in the order of their needs and closes them in reverse."""

    def __init__(self, settings: Settings, listeners: Sequence[socket.socket]) -> None:
        self.settings = settings
        self.listeners = listeners
        self.clock = SystemClock()
        self.started_at = self.clock.time()
        host, port = listeners[0].getsockname()[:2]
        shown = settings.host if settings.host not in ("0.0.0.0", "::") else host
        self.url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"

    async def serve(self, on_listening: OnListening) -> None:
        policy = origin_policy(self.settings)
        lifecycle = Lifecycle()
        async with AsyncExitStack() as stack:
            parts = Parts(stack, self.settings, clock=self.clock, metrics=Metrics())
            await parts.open(concrete_parts(self.settings, self.clock, self.url))
            async with asyncio.TaskGroup() as group:
                # Replicas start in processes of their own while this one loads the gateway; who connects meanwhile
                # waits in the listener's backlog.
                restoring = group.create_task(self._restore(parts.deployer.restore, lifecycle), name="restore")
                server = await asyncio.to_thread(
                    make_server, parts, origin_policy=policy, lifecycle=lifecycle, started_at=self.started_at
                )
                reaping = group.create_task(reap_orphans(), name="reap orphans")
                self._handle_signals(server, lifecycle, parts)
                write_platform_file(self.settings.home, self.url, self.started_at, VERSION)
                stack.callback((self.settings.home / PLATFORM_FILE).unlink, missing_ok=True)
                tune()
                on_listening(url=self.url)
                logger.info("listening", extra={"url": self.url})
                await server.serve(sockets=[*self.listeners])
                lifecycle.drain()
                restoring.cancel()
                reaping.cancel()
            logger.info("draining")

    async def _restore(self, restore: Callable[[], Awaitable[None]], lifecycle: Lifecycle) -> None:
        await restore()
        lifecycle.ready()

    def _handle_signals(self, server: Server, lifecycle: Lifecycle, parts: Parts) -> None:
        def stop(name: str) -> bool:
            if server.should_exit:
                return True
            text = "%s: draining; calls that run may take %g s to end (shutdown_timeout_s)"
            logger.info(text, name, self.settings.shutdown_timeout_s)
            parts.replica_sets.shut_down()
            lifecycle.drain()
            server.should_exit = True
            return False

        def hurry() -> None:
            server.force_exit = True
            (self.settings.home / PLATFORM_FILE).unlink(missing_ok=True)
            self._flushing = asyncio.ensure_future(parts.logs.flush())

        handle_signals(stop, hurry)


def origin_policy(settings: Settings) -> OriginPolicy:
    """Raises InvalidSpec."""
    try:
        return OriginPolicy(settings.host, settings.cors_origins)
    except ValueError as error:
        raise InvalidSpec(str(error), key="cors_origins") from error
