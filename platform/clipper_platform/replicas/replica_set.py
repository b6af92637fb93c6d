"""The replicas of one function version: carries out what `core.pooling` decides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from clipper_platform.backends.base import Backend, Exit, LaunchSpec, Replica, SnapshotState, StartError
from clipper_platform.clock import Clock
from clipper_platform.core import pooling
from clipper_platform.core.pooling import PoolState, ReplicaState
from clipper_platform.metrics import Metrics
from clipper_platform.serving.base import EventSink, Target
from clipper_platform.serving.endpoint import Endpoint
from clipper_platform.types import ReplicaId

__all__ = ["PoolOwner", "ReplicaSet"]

logger = logging.getLogger(__name__)

MISSED_PINGS = 3  # periods without an answer before a replica counts as hung


class PoolOwner(Protocol):
    def adopt(self, replica: Replica) -> Endpoint:
        """Wrap a replica that became ready and attach to its channel."""
        ...

    def replicas_changed(self) -> None:
        """One came, or one went: there may be work to hand out, or to refuse."""
        ...


class ReplicaSet:
    """Keeps the wanted number of replicas running. All methods are called in the event loop.

    With none to run it keeps next to nothing: containers that were emptied are cleared too, which gives their room
    back, and no timer looks after the health of nobody.
    """

    __slots__ = (
        "_backend", "_changed", "_clock", "_closed", "_events", "_health", "_launches", "_loop", "_metrics", "_owner",
        "_tasks", "_usual_s", "_wake", "handles", "start_error", "state", "target",
    )  # fmt: skip

    def __init__(
        self,
        target: Target,
        owner: PoolOwner,
        *,
        backend: Backend,
        clock: Clock,
        metrics: Metrics,
        events: EventSink,
        prefix: str,
    ) -> None:
        self.target = target
        self.state = PoolState(prefix)
        self.handles: dict[str, Endpoint] = {}
        self.start_error: StartError | None = None  # of the latest replica that did not start
        self._owner = owner
        self._backend = backend
        self._clock = clock
        self._metrics = metrics
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []  # few; a set takes 216 bytes before the first
        self._launches: dict[str, asyncio.Task[None]] = {}
        self._wake: asyncio.TimerHandle | None = None
        self._health: asyncio.TimerHandle | None = None
        self._changed: list[asyncio.Future[None]] = []
        self._closed = False
        self._usual_s: float | None = None  # how long a call takes, once one was answered

    # What is wanted

    def want(self, count: int) -> None:
        self._handle(pooling.Want(count))

    async def wait_ready(self, count: int, on_change: Callable[[int], None], *, fail_fast: bool) -> None:
        """Return once `count` replicas are ready. Raises StartError: with `fail_fast` that of the first one that does
        not start, else that of the last one when the pool gives up."""
        while (ready := self.state.count(ReplicaState.READY)) < count:
            on_change(ready)
            if self.start_error is not None and (fail_fast or self.state.failed):
                raise self.start_error
            if self.state.failed:
                raise StartError("setup", self.state.failed)
            await self._change()
        on_change(self.state.count(ReplicaState.READY))

    async def restart(self) -> None:
        """Replace the replicas one after the other, and try again where it gave up.

        Returns when as many are ready as are wanted, or when it has given up anew.
        """
        self.want(self.state.wanted)
        await self._settle()
        for id in list(self.handles):
            handle = self.handles.get(id)
            if handle is not None and not handle.draining and not self.state.failed:
                self.recycle(handle)
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
                while self._tasks or self.handles:
                    await self._change()
        for handle in list(self.handles.values()):
            handle.replica.kill()

    def snapshot(self) -> SnapshotState | None:
        """What has become of the snapshot, where the function asks for one."""
        return self._backend.snapshot(self.target.id) if self.target.spec.snapshot else None

    def recycle(self, handle: Endpoint) -> None:
        handle.draining = True
        self._handle(pooling.Drained(handle.id))

    def served(self, handle: Endpoint, first_batch_s: float | None = None) -> None:
        """Its first answer: told once, which is what keeps this off the hot path."""
        if first_batch_s is not None and handle.waited_s is not None:
            for phase, seconds in (("queue", handle.waited_s), ("first_batch", first_batch_s)):
                self._metrics.cold_start.child(self.target.id.path, phase).observe(seconds)
        self._handle(pooling.Served(handle.id))

    # What happened

    def exited(self, handle: Endpoint, exit: Exit) -> None:
        member = self.state.members.get(handle.id)
        expected = exit.reason == "killed" or (member is not None and member.state is ReplicaState.DRAINING)
        innocent = exit.reason == "killed_externally" and member is not None and member.served
        self.handles.pop(handle.id, None)
        if not self.handles:
            self.handles.clear()
            if self._health is not None:
                self._health.cancel()
                self._health = None
        if not expected:
            self._metrics.restarts.child(self.target.id.path, exit.reason).inc()
            self._tell("replica", f"replica {handle.id} ended: {exit.message}", replica=handle.id, reason=exit.reason)
        self._handle(pooling.Exited(handle.id, exit.message, expected=expected or innocent))
        self._owner.replicas_changed()

    def _handle(self, event: pooling.Event) -> None:
        failed = self.state.failed
        for instruction in self.state.handle(event, self._clock.monotonic()):
            self._carry_out(instruction)
        if self.state.failed and not failed:
            self._tell("replica", f"{self.target.id}: {self.state.failed}")
            self._owner.replicas_changed()
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
                if (handle := self.handles.get(replica)) is not None:
                    handle.draining = True
                    self._spawn(self._drain(handle), replica)
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

    async def _launch(self, name: str) -> None:
        target = self.target
        spec = LaunchSpec(
            replica=ReplicaId(name),
            function=target.id,
            environment=target.environment,
            bundle=target.bundle,
            spec=target.spec.to_dict(),
            env=target.env,
            memory_bytes=target.spec.memory_bytes,
            warm_pool_size=target.warm_pool_size,
            startup_timeout_s=target.spec.startup_timeout_s,
        )
        try:
            replica = await self._backend.launch(spec)
        except StartError as error:
            self.start_error = error
            self._metrics.restarts.child(target.id.path, "start_failed").inc()
            self._tell("replica", f"replica {name} did not start: {error.phase}: {error.message}", replica=name)
            self._handle(pooling.StartFailed(name, f"{error.phase}: {error.message}"))
            self._owner.replicas_changed()
            return
        except asyncio.CancelledError:
            self._handle(pooling.Exited(name, "start cancelled", expected=True))
            raise
        finally:
            self._launches.pop(name, None)
            if not self._launches:
                self._launches.clear()
        self._welcome(name, replica)

    def _welcome(self, name: str, replica: Replica) -> None:
        member = self.state.members.get(name)
        if member is None or member.state is not ReplicaState.STARTING:
            replica.kill()  # no longer wanted by the time it was ready
            return
        for phase, seconds in replica.ready.phases.items():
            self._metrics.cold_start.child(self.target.id.path, phase).observe(seconds)
        handle = self._owner.adopt(replica)
        self.handles[name] = handle
        self.start_error = None
        self._handle(pooling.Ready(name))
        replica.attach(handle)
        if self._health is None:
            self._arm_health()
        self._owner.replicas_changed()

    async def _drain(self, handle: Endpoint) -> None:
        await handle.replica.stop(self.target.spec.graceful_shutdown_timeout_s)

    def _kill(self, name: str, reason: str) -> None:
        if (launch := self._launches.get(name)) is not None:
            launch.cancel()
        elif (handle := self.handles.get(name)) is not None:
            logger.warning("replica %s is killed: %s", name, reason)
            handle.draining = True
            handle.replica.kill()

    # Health

    def _arm_health(self) -> None:
        self._health = self._loop.call_later(self.target.spec.health_check_period_s, self._check_health)

    def _check_health(self) -> None:
        now = self._clock.monotonic()
        grace = self.target.spec.graceful_shutdown_timeout_s
        # What any replica has seen: one that hangs in its first call has seen nothing itself.
        known = [s for h in self.handles.values() if (s := h.controller.expected(1)) is not None]
        self._usual_s = max(known, default=self._usual_s)
        for handle in list(self.handles.values()):
            member = self.state.members.get(handle.id)
            if member is not None and member.state is ReplicaState.UNHEALTHY:
                continue  # killed already; its end is on its way
            if handle.silent_pings >= MISSED_PINGS:
                handle.silent = True
                self._unhealthy(handle, f"answered none of {MISSED_PINGS} health checks")
            elif handle.stuck(now, grace, self.target.spec.timeout_s, self._usual_s):
                self._unhealthy(handle, f"worked on a batch for {grace:g} s past its deadline")
            else:
                handle.ping(handle.silent_pings)
        self._arm_health()

    def _unhealthy(self, handle: Endpoint, message: str) -> None:
        self._tell("replica", f"replica {handle.id} is hung: {message}", replica=handle.id)
        self._metrics.restarts.child(self.target.id.path, "hung").inc()
        self._handle(pooling.Unhealthy(handle.id, message))

    def _tell(self, kind: str, message: str, **data: Any) -> None:
        logger.info("%s", message, extra={"function": str(self.target.id)})
        self._events(self.target.id, kind, message, data)
