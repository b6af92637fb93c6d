"""Lets a version with ready replicas answer, and ends the one that answered before."""

from __future__ import annotations

import asyncio
import logging
import math

from clipper_platform.control.current import Current
from clipper_platform.control.ports import Replicas, Router
from clipper_platform.control.registry import Registry
from clipper_platform.control.tasks import TaskSet
from clipper_platform.control.versions.restore import Restorer
from clipper_platform.control.versions.standby import Standby
from clipper_platform.store.base import Version

__all__ = ["Takeover"]

logger = logging.getLogger(__name__)


class Takeover:
    """The caller has claimed the project. `standby` holds replaced versions that are kept warm."""

    def __init__(
        self, registry: Registry, replicas: Replicas, router: Router, restorer: Restorer, tasks: TaskSet
    ) -> None:
        self._registry = registry
        self._replicas = replicas
        self._router = router
        self._restorer = restorer
        self._tasks = tasks
        self._draining: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._closed = False
        self.standby = Standby(self.retire)

    async def flip(self, version: Version) -> Current:
        """Store the route to `version`, whose replicas are ready, and follow it. Raises as `Registry.set_route`."""
        before = self._registry.current(version.project)
        current = await self._registry.set_route(version)
        self.follow(before, current)
        return current

    def follow(self, before: Current | None, current: Current) -> None:
        """Route callers as the store says. The old version is kept warm for as long as the new one's deploy said, then
        drains."""
        project, number = current.route.project, current.route.version
        self._router.set_route(project, number)
        self._restorer.settled(project)
        self.standby.release(project, number)
        self.standby.end(project)
        if before is not None and before.route.version != number:
            self._replace(before, current.manifest.deploy.keep_previous_s)

    def _replace(self, before: Current, keep_s: float) -> None:
        project, number = before.route.project, before.route.version
        runs = number in self._replicas.versions(project) and project not in self._restorer
        if keep_s and runs and not self._closed:
            self.standby.keep(project, number, keep_s)
        else:
            self.retire(project, number)

    def retire(self, project: str, version: int) -> None:
        """Drain a version that no longer answers, in the background."""
        restoring = self._restorer.cancel(project)

        async def drain() -> None:
            if restoring is not None:
                await asyncio.wait([restoring])
            await self._replicas.stop(project, version)

        task = self._tasks.start(drain(), f"drain {project}@{version}")
        self._draining[project, version] = task
        task.add_done_callback(lambda _: self._draining.pop((project, version), None))

    async def reuse(self, project: str, number: int) -> None:
        """A version that was replaced is started again: it is not ended any more. A drain that began is taken back; of
        what has ended already, the end is waited for."""
        self.standby.release(project, number)
        if (draining := self._draining.get((project, number))) is not None:
            self._replicas.resume(project, number)
            await asyncio.wait([draining])

    async def end_all(self, project: str, *, grace_s: float = math.inf) -> None:
        """End all that runs of a project that was deleted; calls that run get `grace_s` at most."""
        self._router.drop_route(project)
        self._restorer.settled(project)
        self.standby.forget(project)
        await self._restorer.stop(project)
        numbers = self._replicas.versions(project) | {n for p, n in self._draining if p == project}
        stops = [self._replicas.stop(project, number, grace_s=grace_s) for number in numbers]
        for outcome in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(outcome, Exception):
                logger.error("a deleted version did not stop cleanly", exc_info=outcome, extra={"project": project})

    def close(self) -> None:
        """Keep no replaced version warm any more."""
        self._closed = True
        self.standby.close()
