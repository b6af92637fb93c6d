"""The replica sets of all function versions that run, as scaling and deploys start, change and stop them."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from clipper_platform.backends.base import Backend, StartError
from clipper_platform.clock import Clock
from clipper_platform.core.pooling import ReplicaState
from clipper_platform.errors import Unavailable
from clipper_platform.metrics import Metrics
from clipper_platform.replicas.base import EventSink, Progress, Queues, SecretsReader, Target, published_schema
from clipper_platform.replicas.replica_set import ReplicaSet
from clipper_platform.replicas.start_failure import start_failed
from clipper_platform.types import BundleDigest, EnvironmentId, FunctionId

__all__ = ["ReplicaSets"]

ABANDONED_S = 30.0  # for what replicas still run after the last caller got an answer: its deadline has passed
LEAST_S = 1.0  # for the end of a replica


class ReplicaSets:
    """One set per function version, each with a queue of `queues`. All methods are called in the event loop; `close` at
    the end."""

    def __init__(
        self,
        queues: Queues,
        *,
        backend: Backend,
        clock: Clock,
        metrics: Metrics,
        events: EventSink,
        secrets: SecretsReader,
        shutdown_timeout_s: float = 30.0,
    ) -> None:
        """`shutdown_timeout_s`: how long calls that run may take to end after the platform was asked to."""
        self._queues = queues
        self._backend = backend
        self._clock = clock
        self._metrics = metrics
        self._events = events
        self._secrets = secrets
        self._sets: dict[str, tuple[ReplicaSet, ...]] = {}  # by project; a dict for each takes four times as much
        self._starts = 0
        self._closing = False
        self._shutdown_timeout_s = shutdown_timeout_s
        self._over_at = math.inf  # when the platform's own shutdown cuts off what still runs
        self.on_running: Callable[[Target, bool], None] | None = None
        """Called with (target, True) when a function version runs, with (target, False) when it ends."""
        metrics.replicas.callback = self._count_replicas

    # What there is

    def get(self, id: FunctionId) -> ReplicaSet | None:
        return next((replicas for replicas in self._sets.get(id.project, ()) if replicas.target.id == id), None)

    def versions(self, project: str) -> set[int]:
        """The versions of a project that have replicas or are starting them."""
        return {replicas.target.id.version for replicas in self._sets.get(project, ())}

    def identities(self, project: str) -> dict[int, str]:
        """The same versions, each with its identity: a store that lost data gives a number out again."""
        return {replicas.target.id.version: replicas.target.identity for replicas in self._sets.get(project, ())}

    def functions(self, project: str, version: int) -> list[str]:
        """The functions of a version that have replica sets."""
        return [replicas.target.id.function for replicas in self._of(project, version)]

    def bundles(self) -> set[BundleDigest]:
        """The bundles that replicas are started from."""
        return {replicas.target.bundle for sets in self._sets.values() for replicas in sets}

    def environments(self) -> set[EnvironmentId]:
        """The environments that replicas run in."""
        return {replicas.target.environment for sets in self._sets.values() for replicas in sets}

    def ready(self, id: FunctionId) -> int:
        """How many replicas of the function version are ready."""
        replicas = self.get(id)
        return 0 if replicas is None else replicas.state.ready

    def _of(self, project: str, version: int) -> list[ReplicaSet]:
        return [replicas for replicas in self._sets.get(project, ()) if replicas.target.id.version == version]

    def _count_replicas(self) -> Iterator[tuple[tuple[str, ...], float]]:
        for sets in list(self._sets.values()):  # a scrape is read in pieces
            for replicas in sets:
                id = replicas.target.id
                path, version = id.path, str(id.version)
                for state in ReplicaState:
                    yield (path, version, state.value), replicas.state.count(state)

    # Start

    async def start(
        self,
        target: Target,
        *,
        replicas: int,
        on_progress: Progress | None = None,
        wait: bool = True,
        schema: Mapping[str, Any] | None = None,
        idle_s: float = 0.0,
    ) -> Mapping[str, Any]:
        """Start the replicas of a function version; return its JSON schema once `replicas` are ready.

        Raises DeployFailed (details: phase, exception, log, hint), and leaves nothing behind; a cancellation leaves
        nothing behind either. With `wait=False` it returns {} at once, and the set keeps trying with back-off.

        For a version that ran before, `schema` is what it published, which holds until a replica publishes it anew, and
        `idle_s` is how long nobody has called it.
        """
        if self._closing:
            raise Unavailable("the platform is shutting down")
        while (found := self.get(target.id)) is not None and found.target.identity != target.identity:
            # The store lost data and gave the number out again.
            await self._retire(found, f"{target.id} is another version now")
        started = found or self._open(target, schema, idle_s)
        if schema:
            started.trust()
        if started.state.wanted != replicas:
            self._metrics.scaling_decisions.child(target.id.path, "fixed").inc()
        started.want(replicas)
        if not wait:
            self._announce(started, True)
            return {}
        await self._until_ready(started, replicas, on_progress)
        if self.get(target.id) is started:
            self._announce(started, True)
        ready = next(iter(started.running.values()), None)
        return (schema or {}) if ready is None else published_schema(ready.replica.ready)

    def _open(self, target: Target, schema: Mapping[str, Any] | None, idle_s: float) -> ReplicaSet:
        self._starts += 1
        opened = ReplicaSet(
            target,
            self._queues.open(target, schema=schema, idle_s=idle_s),
            backend=self._backend,
            clock=self._clock,
            metrics=self._metrics,
            events=self._events,
            secrets=self._secrets,
            prefix=f"{target.id.function}-{target.id.version}-{self._starts}",
        )
        self._sets[target.id.project] = (*self._sets.get(target.id.project, ()), opened)
        return opened

    async def _until_ready(self, started: ReplicaSet, count: int, on_progress: Progress | None) -> None:
        target = started.target

        def report(ready: int) -> None:
            if on_progress is not None:
                on_progress(target.id, ready, count)

        started.held += 1
        try:
            await started.wait_ready(count, report)
        except StartError as error:
            await self._end(started, timeout_s=1)
            raise start_failed(target, error) from error
        except BaseException:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(self._end(started, timeout_s=1))
            raise
        finally:
            started.held -= 1

    def _announce(self, replicas: ReplicaSet, runs: bool) -> None:
        if self.on_running is not None:
            self.on_running(replicas.target, runs)

    # Change

    def scale(self, id: FunctionId, count: int) -> None:
        """Have `count` replicas from now on; those that are ended finish what they have."""
        replicas = self.get(id)
        if replicas is not None:
            replicas.want(count)

    async def restart(self, id: FunctionId) -> None:
        """Replace the replicas of a function version; a set that gave up tries again. Returns when they are ready, or
        have failed anew."""
        replicas = self.get(id)
        if replicas is not None:
            await replicas.restart()

    # Stop

    async def stop(self, project: str, version: int, *, grace_s: float = math.inf) -> None:
        """Drain a version and end its replicas, each function within its graceful_shutdown_timeout_s and `grace_s`,
        unless it is resumed meanwhile."""
        await asyncio.gather(
            *(self._retire(each, f"{each.target.id} is draining", grace_s) for each in self._of(project, version))
        )

    def resume(self, project: str, version: int) -> None:
        """Take back the drain of a version, for those of its functions that have not ended: they admit calls again."""
        if not self._closing:
            for each in self._of(project, version):
                self._queues.reopen(each.target.id)

    def cut(self, project: str) -> None:
        """End the drains of a project now, with what still runs."""
        for each in self._sets.get(project, ()):
            self._queues.cut(each.target.id)

    def shut_down(self) -> None:
        """The platform is about to end: from now on its own limit bounds every drain too."""
        if self._over_at == math.inf:
            self._over_at = self._clock.monotonic() + self._shutdown_timeout_s

    async def close(self) -> None:
        """Admit nothing more, answer what was admitted, end every replica."""
        self._closing = True
        self.shut_down()
        every = [replicas for sets in self._sets.values() for replicas in sets]
        await asyncio.gather(*(self._retire(replicas, "the platform is shutting down") for replicas in every))

    async def _retire(self, replicas: ReplicaSet, reason: str, grace_s: float = math.inf) -> None:
        own_s = replicas.target.spec.effective_graceful_shutdown_timeout_s
        until = self._clock.monotonic() + min(own_s, grace_s)
        end_s = self._left_s(until)
        try:
            if self.get(replicas.target.id) is replicas:  # else another stop has ended it
                outcome = await self._queues.drain(replicas.target.id, end_s, reason)
                if outcome == "reopened":
                    return
                end_s = LEAST_S if outcome == "cut" else min(ABANDONED_S, self._left_s(until))
        except BaseException:
            await asyncio.shield(self._end(replicas, timeout_s=self._left_s(until)))
            raise
        await asyncio.shield(self._end(replicas, timeout_s=end_s))

    def _left_s(self, until: float) -> float:
        return max(LEAST_S, min(until, self._over_at) - self._clock.monotonic())

    async def _end(self, ended: ReplicaSet, *, timeout_s: float) -> None:
        id = ended.target.id
        if self.get(id) is ended:
            left = tuple(replicas for replicas in self._sets[id.project] if replicas is not ended)
            if left:
                self._sets[id.project] = left
            else:
                del self._sets[id.project]
            self._queues.remove(id, f"{id} is not running")
            self._announce(ended, False)
        await ended.close(timeout_s)
        if not self._closing:  # else all series go, with the process
            self._forget_series(id)

    def _forget_series(self, id: FunctionId) -> None:
        if any(replicas.target.id.function == id.function for replicas in self._sets.get(id.project, ())):
            self._metrics.forget(id.path, id.version)
        else:
            self._metrics.forget_function(id.path)
