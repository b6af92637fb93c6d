"""Brings routed versions back: after a restart of the platform, or when the version that was to replace one failed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from clipper_platform.control.current import Current
from clipper_platform.control.events import EventLog
from clipper_platform.control.ports import Replicas, Router
from clipper_platform.control.tasks import TaskSet
from clipper_platform.control.versions.rollout import Rollout
from clipper_platform.errors import ClipperError

__all__ = ["Restorer"]

logger = logging.getLogger(__name__)

AT_ONCE: Final = 4
RETRY_S: Final = 1.0
RETRY_MAX_S: Final = 60.0
# Functions that get a replica at a restart of the platform, ready for their first call, although their policy lets them
# have none: ten seconds of a core and a gigabyte. Where there are more, the call starts it.
MOST_AWAKE: Final = 32


class Restorer:
    """Retries each project by itself, with a growing delay; a broken project blocks no other."""

    def __init__(
        self,
        rollout: Rollout,
        replicas: Replicas,
        router: Router,
        events: EventLog,
        tasks: TaskSet,
        *,
        retry_s: float = RETRY_S,
    ) -> None:
        self._rollout = rollout
        self._replicas = replicas
        self._router = router
        self._events = events
        self._tasks = tasks
        self._retry_s = retry_s
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._trouble: dict[str, str] = {}
        self._next_try: dict[str, float] = {}  # project -> time of the event loop

    def __contains__(self, project: str) -> bool:
        """Whether the project is being restored."""
        return project in self._running

    def trouble(self, project: str) -> str:
        return self._trouble.get(project, "")

    def retry_s(self, project: str) -> float:
        """Seconds until the project is tried again; 0 while it is being tried."""
        return max(0.0, self._next_try.get(project, 0.0) - asyncio.get_running_loop().time())

    def explain(self, project: str, why: str) -> None:
        """Let `trouble` return this until the project answers."""
        self._trouble[project] = why

    def settled(self, project: str) -> None:
        """Clear `trouble`: the project answers, or was deleted."""
        self._trouble.pop(project, None)
        self._next_try.pop(project, None)

    def begin(self, current: Current, *, at_rest: bool = False) -> None:
        """Restore in the background. `at_rest`: with no more replicas than its functions have without load."""
        project = current.route.project
        self._running[project] = self._tasks.start(self._restore(current, at_rest), f"restore {project}")

    def begin_all(self, routed: Sequence[Current]) -> None:
        """Restore all, after a restart of the platform."""
        at_rest = sum(len(current.manifest.functions) for current in routed) > MOST_AWAKE
        for current in routed:
            self.begin(current, at_rest=at_rest)

    async def wait(self, timeout_s: float) -> None:
        """Wait until all are back, at most `timeout_s`."""
        if self._running:
            await asyncio.wait(self._running.values(), timeout=timeout_s)

    def cancel(self, project: str) -> asyncio.Task[None] | None:
        """Stop restoring the project. Returns the task to wait for, None if it was not being restored."""
        task = self._running.pop(project, None)
        if task is not None:
            task.cancel()
        return task

    async def stop(self, project: str) -> None:
        """Stop restoring the project, and wait until that has ended."""
        if (task := self.cancel(project)) is not None:
            await asyncio.wait([task])

    async def _restore(self, current: Current, at_rest: bool) -> None:
        project, number = current.route.project, current.route.version
        delay_s = self._retry_s
        while (error := await self._try(current, at_rest)) is not None:
            message = f"version {number} could not be brought back: {error}"
            if self._trouble.get(project) != message:
                logger.error("%s", message, extra={"project": project})
                self._events.record(project, "restore", message, version=number)
            self._trouble[project] = message
            self._next_try[project] = asyncio.get_running_loop().time() + delay_s
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, RETRY_MAX_S)
        # No await since the replicas were started: a deploy that flipped the route meanwhile has cancelled this task.
        self._router.set_route(project, number)
        self.settled(project)
        self._running.pop(project, None)
        logger.info("version %d is back", number, extra={"project": project})

    async def _try(self, current: Current, at_rest: bool) -> Exception | None:
        project, number = current.route.project, current.route.version
        async with self._slots:
            try:
                environment = await self._rollout.prepare(current.manifest, lambda _: None)
                await self._rollout.revive(
                    current.manifest, number, environment, current.schemas, identity=current.identity, at_rest=at_rest
                )
            except Exception as error:
                if not isinstance(error, ClipperError):
                    logger.exception("bringing a project back met a defect", extra={"project": project})
                await self._replicas.stop(project, number)
                return error
        return None
