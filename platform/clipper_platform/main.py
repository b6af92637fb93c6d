"""The composition root: makes the concrete parts, wires them, runs them, and takes them down in order."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from clipper_platform import logs
from clipper_platform.backends.process import ProcessBackend
from clipper_platform.clock import Clock, SystemClock
from clipper_platform.control.autoscaler import Autoscaler
from clipper_platform.control.collector import LogStore
from clipper_platform.control.deployer import Deployer
from clipper_platform.control.events import EventLog
from clipper_platform.control.keyring import Keyring
from clipper_platform.control.pins import Pins
from clipper_platform.control.policies import Policies
from clipper_platform.control.registry import Registry
from clipper_platform.control.rollout import Rollout
from clipper_platform.environments.venv import VenvBuilder
from clipper_platform.errors import Conflict, InvalidSpec, StoreUnavailable
from clipper_platform.gateway.app import build_app
from clipper_platform.gateway.auth import Access
from clipper_platform.gateway.edge import EdgePolicy
from clipper_platform.gateway.fastpath import FastPathOptions, fast_protocol
from clipper_platform.gateway.invoke import InvokeService, invoke_routes
from clipper_platform.gateway.lifecycle import Lifecycle
from clipper_platform.gateway.services import Services
from clipper_platform.metrics import Metrics
from clipper_platform.serving.base import Target
from clipper_platform.serving.cache import SharedResults
from clipper_platform.serving.dispatcher import Dispatcher
from clipper_platform.settings import Settings
from clipper_platform.store.artifacts import ArtifactStore
from clipper_platform.store.base import MetadataStore
from clipper_platform.store.sqlite import SqliteStore
from clipper_platform.tuning import tune

__all__ = ["run"]

logger = logging.getLogger(__name__)

OnListening = Callable[..., None]
"""Called once with `url=…` when the platform listens."""

BACKLOG = 2048
KEEP_ALIVE_S = 75  # like nginx: longer than the idle time that client libraries keep a connection for


def run(settings: Settings, *, on_listening: OnListening | None = None) -> int:
    """Run the platform until SIGINT or SIGTERM; the exit status.

    Raises Conflict (the home or the port is in use), StoreUnavailable, InvalidSpec.
    """
    logs.configure(settings.log_level, "json" if settings.log_format == "json" else "text")
    prepare_home(settings.home)
    with home_lock(settings.home), listening_socket(settings) as listener:
        platform = Platform(settings, listener)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(platform.serve(on_listening or (lambda **_: None)))
    return 0


def prepare_home(home: Path) -> None:
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSpec(f"the home directory {home} cannot be made: {error.strerror}", key="home") from error
    if not os.access(home, os.W_OK | os.X_OK):
        raise InvalidSpec(f"the home directory {home} cannot be written", key="home")


@contextmanager
def home_lock(home: Path) -> Iterator[None]:
    """One platform per home. The lock is the kernel's, so it ends with the process however that ends."""
    with (home / "platform.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            running = read_platform_file(home)
            where = f" at {running['url']} (pid {running['pid']})" if running else ""
            raise Conflict(f"a platform with the home {home} runs already{where}", home=str(home), **running) from None
        yield


def read_platform_file(home: Path) -> dict[str, Any]:
    """What the running platform wrote about itself, or nothing."""
    try:
        read = json.loads((home / "platform.json").read_text())
        return {"url": str(read["url"]), "pid": int(read["pid"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


@contextmanager
def listening_socket(settings: Settings) -> Iterator[socket.socket]:
    try:
        info = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise InvalidSpec(f"host = {settings.host!r} cannot be resolved: {error.strerror}", key="host") from error
    family, kind, protocol, _, address = info[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise Conflict(
                f"cannot listen on {settings.host} port {settings.port}: {error.strerror}", port=settings.port
            ) from error
        listener.listen(BACKLOG)
        listener.setblocking(False)
        yield listener


class _Server(uvicorn.Server):
    """uvicorn's server, whose signals the platform handles: it drains before, and closes replicas after."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Platform:
    """All parts and their life. `serve` opens them in the order of their needs and closes them in reverse."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self.settings = settings
        self.listener = listener
        self.clock = SystemClock()
        self.started_at = self.clock.time()
        self.version = distribution_version("clipper")
        host, port = listener.getsockname()[:2]
        shown = settings.host if settings.host not in ("0.0.0.0", "::") else host
        self.url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"

    async def serve(self, on_listening: OnListening) -> None:
        async with AsyncExitStack() as stack:
            lifecycle = Lifecycle()
            metrics = Metrics()
            services, invoke, restore = await self._open(stack, lifecycle, metrics)
            server = self._server(services, invoke)
            metrics.connections.child().read = lambda: float(len(server.server_state.connections))
            self._handle_signals(server, lifecycle)
            write_platform_file(self.settings.home, self.url, self.started_at, self.version)
            stack.callback((self.settings.home / "platform.json").unlink, missing_ok=True)
            async with asyncio.TaskGroup() as group:
                restoring = group.create_task(self._restore(restore, lifecycle), name="restore")
                tune()
                on_listening(url=self.url)
                logger.info("listening", extra={"url": self.url})
                await server.serve(sockets=[self.listener])
                lifecycle.drain()
                restoring.cancel()
            logger.info("draining")

    async def _restore(self, restore: Callable[[], Any], lifecycle: Lifecycle) -> None:
        await restore()
        lifecycle.ready()

    async def _open(
        self, stack: AsyncExitStack, lifecycle: Lifecycle, metrics: Metrics
    ) -> tuple[Services, InvokeService, Callable[[], Any]]:
        settings, clock = self.settings, self.clock
        store = open_store(settings)
        await stack.enter_async_context(opened(store))
        artifacts = ArtifactStore(settings.home / "bundles", settings.max_bundle_bytes, clock=clock)
        await stack.enter_async_context(opened(artifacts))
        registry, keyring = Registry(store, clock), Keyring(store, clock)
        await registry.load()
        await keyring.load()
        if (said := await keyring.ensure_admin(settings.home / "api_key")) is not None:
            logger.info(said)
        metrics.store_up.child().read = lambda: float(registry.store_healthy)

        log_store = LogStore(settings.home / "logs", clock)
        stack.push_async_callback(log_store.close)
        events = EventLog(store, log_store, clock)
        stack.push_async_callback(events.close)
        await stack.enter_async_context(
            background({"store watch": registry.watch(), "log writer": log_store.run(), "event writer": events.run()})
        )

        instance = secrets.token_hex(8)
        environments = VenvBuilder(settings.environments_path, clock=clock, instance_id=instance)
        backend = ProcessBackend(
            settings.home,
            log_store.append,
            instance_id=instance,
            clock=clock,
            url=self.url,
            on_dropped=lambda function, lines: metrics.log_dropped.child(function.path).inc(lines),
            warm_pool_size=settings.warm_pool_size,
        )
        await stack.enter_async_context(opened(backend))
        dispatcher = Dispatcher(
            backend=backend,
            clock=clock,
            metrics=metrics,
            events=events,
            max_queued_total=settings.max_queued_total,
            cache_bytes=settings.cache_bytes,
            shared_results=await open_shared_results(settings, clock, stack),
        )
        stack.push_async_callback(dispatcher.close)
        policies, autoscaler = await self._scaling(registry, store, dispatcher, events, metrics)
        rollout = Rollout(
            registry,
            artifacts,
            environments,
            dispatcher,
            policy_of=lambda id, spec: policies.of(id.project, id.function, spec.autoscaling),
        )
        deployer = Deployer(
            registry=registry,
            artifacts=artifacts,
            rollout=rollout,
            serving=dispatcher,
            logs=log_store,
            events=events,
            clock=clock,
        )
        stack.push_async_callback(deployer.close)
        pins = Pins(
            registry=registry,
            rollout=rollout,
            serving=dispatcher,
            clock=clock,
            drained=deployer.drained,
            trouble=deployer.trouble,
        )
        stack.push_async_callback(pins.close)
        await stack.enter_async_context(
            background(
                {
                    "pinned versions": pins.watch(),
                    "autoscaler": autoscaler.run(),
                    "applied policies": policies.watch(
                        lambda project, function: events.record(
                            project,
                            "policy",
                            f"the policy applied to {function} ends: the version that answers declares another one",
                            function=function,
                        )
                    ),
                }
            )
        )

        policy = edge_policy(settings)
        access = Access(keyring, open_invoke=policy.loopback)
        invoke = InvokeService(
            dispatcher,
            clock=clock,
            authorize=access.authorize_invoke,
            max_body_bytes=settings.max_body_bytes,
            wake=pins.wake,
        )
        services = Services(
            registry=registry,
            keyring=keyring,
            access=access,
            policy=policy,
            deployer=deployer,
            logs=log_store,
            artifacts=artifacts,
            dispatcher=dispatcher,
            policies=policies,
            autoscaler=autoscaler,
            lifecycle=lifecycle,
            clock=clock,
            metrics_render=metrics.render,
            version=self.version,
            backend=backend.name,
            home=str(settings.home),
            started_at=self.started_at,
            max_body_bytes=settings.max_body_bytes,
            max_bundle_bytes=settings.max_bundle_bytes,
            pythons=environments.pythons,
            extra_routes=invoke_routes(invoke, body_timeout_s=settings.body_timeout_s),
        )
        return services, invoke, deployer.restore

    async def _scaling(
        self, registry: Registry, store: MetadataStore, dispatcher: Dispatcher, events: EventLog, metrics: Metrics
    ) -> tuple[Policies, Autoscaler]:
        """The applied policies and the autoscaler, which has the replicas of whatever the dispatcher runs."""
        policies = Policies(registry, store, self.clock)
        await policies.load()
        autoscaler = Autoscaler(
            dispatcher,
            clock=self.clock,
            events=events,
            count=lambda path, rule: metrics.scaling_decisions.child(path, rule).inc(),
            policy_of=lambda id, spec: policies.of(id.project, id.function, spec.autoscaling),
            on_error=metrics.loop_errors.child("autoscaler").inc,
        )
        policies.on_change(autoscaler.policy_changed)

        def lane_changed(target: Target, runs: bool) -> None:
            if runs:
                autoscaler.appeared(target.id, target.spec)
                return
            autoscaler.gone(target.id)
            if registry.current(target.id.project) is None:
                policies.forget(target.id.project)

        dispatcher.on_lane = lane_changed
        return policies, autoscaler

    def _server(self, services: Services, invoke: InvokeService) -> _Server:
        options = FastPathOptions(
            invoke,
            host_allowed=services.policy.allows_host,
            body_timeout_s=self.settings.body_timeout_s,
            enabled=self.settings.fast_path,
        )
        return _Server(
            uvicorn.Config(
                build_app(services),
                http=fast_protocol(options),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(self.settings.shutdown_timeout_s)),
                backlog=BACKLOG,
            )
        )

    def _handle_signals(self, server: _Server, lifecycle: Lifecycle) -> None:
        def stop(name: str) -> None:
            if server.should_exit:
                logger.warning("a second %s: stopping without waiting", name)
                server.force_exit = True
                return
            logger.info("%s: draining", name)
            lifecycle.drain()
            server.should_exit = True

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number.name)


def edge_policy(settings: Settings) -> EdgePolicy:
    try:
        return EdgePolicy(settings.host, settings.cors_origins)
    except ValueError as error:
        raise InvalidSpec(str(error), key="cors_origins") from error


def open_store(settings: Settings) -> MetadataStore:
    """The store that the settings name, not opened yet."""
    url = settings.store_url
    if url.startswith("sqlite:"):
        return SqliteStore.from_url(url)
    try:
        from clipper_platform.store.redis import RedisStore
    except ModuleNotFoundError as error:
        raise StoreUnavailable("the Redis store needs a package: pip install 'clipper[redis]'") from error
    return RedisStore.from_url(url)


async def open_shared_results(settings: Settings, clock: Clock, stack: AsyncExitStack) -> SharedResults | None:
    """The result cache's second tier, where the store is a Redis that other platforms may use too."""
    if settings.store_url.startswith("sqlite:"):
        return None
    from clipper_platform.store.results import RedisResults

    results = RedisResults(settings.store_url, clock)
    await stack.enter_async_context(opened(results))
    return results


@asynccontextmanager
async def opened(part: Any) -> AsyncIterator[None]:
    """`open` and, whatever happens in between, `close`."""
    try:
        await part.open()
        yield
    finally:
        await part.close()


@asynccontextmanager
async def background(loops: dict[str, Any]) -> AsyncIterator[None]:
    """Run these loops meanwhile, and cancel them at the end."""
    tasks = [asyncio.create_task(work, name=name) for name, work in loops.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


def write_platform_file(home: Path, url: str, started_at: float, version: str) -> None:
    """Where clients on this machine find the platform; readable by its owner only, whole or not there."""
    path = home / "platform.json"
    fresh = path.with_suffix(".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({"url": url, "pid": os.getpid(), "started_at": started_at, "version": version}, file)
    fresh.replace(path)
