"""The replicas of one function version: carries out what `core.pooling` decides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from clipper_platform.backends.base import Backend, Exit, LaunchSpec, Replica, SnapshotState, StartError
from clipper_platform.clock import Clock
from clipper_platform.core import pooling
from clipper_platform.core.pooling import PoolState, ReplicaState
from clipper_platform.errors import ClipperError
from clipper_platform.metrics import Metrics
from clipper_platform.replicas.base import EndpointListener, EventSink, SecretsReader, Target
from clipper_platform.replicas.running_replica import RunningReplica
from clipper_platform.replicas.start_failure import hinders
from clipper_platform.types import ReplicaId

__all__ = ["ReplicaSet"]

logger = logging.getLogger(__name__)

MISSED_PINGS = 3  # periods without an answer before a replica counts as hung
STUCK_S = 30.0  # a replica may work so long past the deadline of what it runs


class ReplicaSet:
    """Keeps the wanted number of replicas running. Implements `ReplicaFeedback`. Methods are called in the event loop.

    A set without replicas keeps next to nothing: emptied containers are cleared too, which frees their room, and the
    health timer runs only while there are replicas.
    """

    __slots__ = (
        "_backend", "_changed", "_clock", "_closed", "_events", "_grace_s", "_health", "_launches", "_listener",
        "_loop", "_metrics", "_secrets", "_tasks", "_wake", "held", "running", "start_error", "state", "target",
    )  # fmt: skip

    def __init__(
        self,
        target: Target,
        listener: EndpointListener,
        *,
        backend: Backend,
        clock: Clock,
        metrics: Metrics,
        events: EventSink,
        secrets: SecretsReader,
        prefix: str,
    ) -> None:
        self.target = target
        self.state = PoolState(prefix)
        self.running: dict[str, RunningReplica] = {}
        self.start_error: StartError | None = None  # of the latest replica that did not start
        self.held = 0  # callers that wait for replicas to be ready; until then their number stays
        self._listener = listener
        self._backend = backend
        self._clock = clock
        self._metrics = metrics
        self._events = events
        self._secrets = secrets
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []  # few; a set takes 216 bytes before the first
        self._launches: dict[str, asyncio.Task[None]] = {}
        self._wake: asyncio.TimerHandle | None = None
        self._health: asyncio.TimerHandle | None = None
        self._changed: list[asyncio.Future[None]] = []
        self._closed = False
        self._grace_s = target.spec.effective_graceful_shutdown_timeout_s

    # What is wanted

    def want(self, count: int) -> None:
        self._handle(pooling.Want(count))

    async def wait_ready(self, count: int, on_change: Callable[[int], None]) -> None:
        """Return once `count` replicas are ready; `on_change` gets the ready count meanwhile.

        Raises the StartError of the first replica that does not start, and one where the set gave up otherwise.
        """
        while (ready := self.state.count(ReplicaState.READY)) < count:
            on_change(ready)
            if self.start_error is not None:
                raise self.start_error
            if self.state.failed:
                raise StartError("setup", self.state.failed)
            await self._change()
        on_change(self.state.count(ReplicaState.READY))

    def trust(self) -> None:
        """An earlier platform had replicas of this version ready, so that failed starts are not the last word."""
        self.state.proven = True

    async def restart(self) -> None:
        """Replace the replicas one after the other; a set that gave up tries again.

        Returns when as many are ready as are wanted, or when it has given up anew.
        """
        self._handle(pooling.Want(self.state.wanted, afresh=True))
        await self._settle()
        for replica in list(self.running):
            member = self.state.members.get(replica)
            if member is not None and member.state is ReplicaState.READY and not self.state.failed:
                self.recycle(replica)
                await self._settle()

    async def _settle(self) -> None:
        while not self._closed and not self.state.failed and self.state.count(ReplicaState.READY) < self.state.wanted:
            await self._change()

    async def _change(self) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        self._changed.append(future)
        await future

    async def close(self, timeout_s: float) -> None:
        """End all replicas: drained within `timeout_s`, then killed. Idempotent."""
        self._grace_s = min(self._grace_s, timeout_s)
        if not self._closed:
            self._closed = True
            for timer in (self._wake, self._health):
                if timer is not None:
                    timer.cancel()
            self._handle(pooling.Want(0))
        for task in list(self._launches.values()):
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s + 5):
                while self._tasks or self.running:
                    await self._change()
        for running in list(self.running.values()):
            running.replica.kill()

    def snapshot(self) -> SnapshotState | None:
        """The state of the snapshot, if the function asks for one."""
        return self._backend.snapshot(self.target.id) if self.target.spec.snapshot else None

    # ReplicaFeedback

    def served(self, replica: str) -> None:
        self._handle(pooling.Served(replica))

    def recycle(self, replica: str) -> None:
        self._handle(pooling.Drained(replica))

    def overdue(self, replica: str) -> None:
        self._handle(pooling.Overdue(replica))

    # Events and instructions

    def _exited(self, running: RunningReplica, exit: Exit) -> None:
        id = running.id
        if running.verdict:
            exit = replace(exit, message=f"the platform killed it: {running.verdict}")
        at_fault = running.hung or exit.reason in ("crashed", "oom", "exited")
        self._listener.endpoint_gone(id, exit, at_fault=at_fault)
        member = self.state.members.get(id)
        expected = exit.reason == "killed" or (member is not None and member.state is ReplicaState.DRAINING)
        innocent = exit.reason == "killed_externally" and member is not None and member.served
        self.running.pop(id, None)
        if not self.running:
            self.running.clear()
            if self._health is not None:
                self._health.cancel()
                self._health = None
        if not expected:
            self._metrics.restarts.child(self.target.id.path, exit.reason).inc()
            self._record(f"replica {id} ended: {exit.message}", replica=id, reason=exit.reason)
        self._handle(pooling.Exited(id, exit.message, expected=expected or innocent))

    def _handle(self, event: pooling.Event) -> None:
        failed = self.state.failed
        for instruction in self.state.handle(event, self._clock.monotonic()):
            self._carry_out(instruction)
        if self.state.failed != failed:
            if self.state.failed:
                self._record(f"{self.target.id}: {self.state.failed}")
            self._listener.no_capacity(self.state.failed, self.state.retry_at)
        if self._changed:
            waiters, self._changed = self._changed, []
            for future in waiters:
                if not future.done():
                    future.set_result(None)

    def _carry_out(self, instruction: pooling.Instruction) -> None:
        match instruction:
            case pooling.Launch(replica):
                self._launches[replica] = self._spawn(self._launch(replica), replica)
            case pooling.Drain(replica):
                if (running := self.running.get(replica)) is not None:
                    self._listener.endpoint_closing(replica)
                    self._spawn(running.replica.stop(self._grace_s), replica)
            case pooling.Kill(replica, reason):
                self._kill(replica, reason)
            case pooling.Wake(at):
                if self._wake is not None:
                    self._wake.cancel()
                wait = max(0.0, at - self._clock.monotonic())
                self._wake = self._loop.call_later(wait, self._handle, pooling.Tick())

    def _spawn(self, work: Coroutine[Any, Any, None], replica: str) -> asyncio.Task[None]:
        task = self._loop.create_task(work, name=f"{self.target.id} {replica}")
        self._tasks.append(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.remove(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a replica's task failed", exc_info=error)
            self._metrics.loop_errors.child("pool").inc()
        self._handle(pooling.Tick())

    async def _launch_spec(self, name: str) -> LaunchSpec:
        """With the secrets of this moment. Raises StartError where they cannot be read."""
        target = self.target
        try:
            secrets = await self._secrets(target.id.project)
        except ClipperError as error:
            raise StartError("launch", f"the secrets cannot be read: {error}") from error
        return LaunchSpec(
            replica=ReplicaId(name),
            function=target.id,
            environment=target.environment,
            bundle=target.bundle,
            spec=target.spec.to_dict(),
            env={**target.env, **secrets},
            memory_bytes=target.spec.memory_bytes,
            warm_pool_size=target.warm_pool_size,
            startup_timeout_s=target.spec.startup_timeout_s,
        )

    async def _launch(self, name: str) -> None:
        try:
            replica = await self._backend.launch(await self._launch_spec(name))
        except asyncio.CancelledError:
            self._handle(pooling.Exited(name, "start cancelled", expected=True))
            raise
        except Exception as error:  # noqa: BLE001 - a defect of the backend must not leave a replica that starts for ever
            self._start_failed(name, error)
            return
        finally:
            self._launches.pop(name, None)
            if not self._launches:
                self._launches.clear()
        self._welcome(name, replica)

    def _start_failed(self, name: str, error: Exception) -> None:
        hindered = hinders(error)
        if not isinstance(error, StartError):
            if not hindered:
                logger.error("a launch met a defect", exc_info=error)
            error = StartError("launch", f"{type(error).__name__}: {error}")
        self.start_error = error
        self._metrics.restarts.child(self.target.id.path, "start_failed").inc()
        self._record(f"replica {name} did not start: {error.phase}: {error.message}", replica=name)
        self._handle(pooling.StartFailed(name, f"{error.phase}: {error.message}", hindered))

    def _welcome(self, name: str, replica: Replica) -> None:
        member = self.state.members.get(name)
        if member is None or member.state is not ReplicaState.STARTING:
            replica.kill()  # no longer wanted by the time it was ready
            return
        for phase, seconds in replica.ready.phases.items():
            self._metrics.cold_start.child(self.target.id.path, phase).observe(seconds)
        results = self._listener.endpoint_ready(replica, self)
        running = RunningReplica(replica, results, started_at=self._clock.time(), exited=self._exited)
        self.running[name] = running
        self.start_error = None
        self._handle(pooling.Ready(name))
        replica.attach(running)
        if self._health is None:
            self._arm_health()

    def _kill(self, name: str, reason: str) -> None:
        if (launch := self._launches.get(name)) is not None:
            launch.cancel()
        elif (running := self.running.get(name)) is not None:
            logger.warning("replica %s is killed: %s", name, reason)
            self._listener.endpoint_closing(name)
            running.replica.kill()

    # Health

    def _arm_health(self) -> None:
        self._health = self._loop.call_later(self.target.spec.health_check_period_s, self._check_health)

    def _check_health(self) -> None:
        explicit_s = self.target.spec.graceful_shutdown_timeout_s
        grace_s = STUCK_S if explicit_s is None else min(STUCK_S, explicit_s)
        for running in list(self.running.values()):
            member = self.state.members.get(running.id)
            if member is not None and member.state is ReplicaState.UNHEALTHY:
                continue  # it is being killed
            # One that drains may be in its `close`, where it answers no pings; its drain has an end of its own.
            draining = member is not None and member.state is ReplicaState.DRAINING
            if not draining and running.silent_pings >= MISSED_PINGS and not self._listener.in_time(running.id):
                running.hung = True
                self._give_up(running, f"it answered none of {MISSED_PINGS} health checks (health_check_period_s)")
            elif self._listener.stuck(running.id, grace_s):
                self._give_up(running, f"it worked on a batch for {grace_s:g} s past its deadline (timeout_s)")
            elif not draining:
                running.ping()
        self._arm_health()

    def _give_up(self, running: RunningReplica, message: str) -> None:
        running.verdict = message
        self._record(f"replica {running.id} is hung: {message}", replica=running.id)
        self._metrics.restarts.child(self.target.id.path, "hung").inc()
        self._handle(pooling.Unhealthy(running.id, message))

    def _record(self, message: str, **data: Any) -> None:
        logger.info("%s", message, extra={"function": str(self.target.id)})
        self._events(self.target.id, "replica", message, data)
