"""Follows stored routes that differ from memory: another platform changed them, or a write of this one whose answer was
lost. What is stored counts: its version is brought up here, and takes over when it is ready."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from clipper_platform.control.current import Current
from clipper_platform.control.events import EventLog
from clipper_platform.control.ports import Replicas
from clipper_platform.control.registry import Registry
from clipper_platform.control.tasks import TaskSet
from clipper_platform.control.versions.claims import Claims
from clipper_platform.control.versions.rollout import Rollout
from clipper_platform.control.versions.takeover import Takeover
from clipper_platform.errors import ClipperError, NotFound

__all__ = ["Follower"]

logger = logging.getLogger(__name__)

RETRY_MAX_S: Final = 60.0


class Follower:
    """One change of a project at a time, after a deploy or any other change of this platform.

    `drop(project)` ends what runs of a project that is gone.
    """

    def __init__(
        self,
        registry: Registry,
        rollout: Rollout,
        claims: Claims,
        events: EventLog,
        tasks: TaskSet,
        *,
        replicas: Replicas,
        takeover: Takeover,
        drop: Callable[[str], Awaitable[None]],
        retry_s: float,
    ) -> None:
        self._registry = registry
        self._rollout = rollout
        self._claims = claims
        self._events = events
        self._tasks = tasks
        self._replicas = replicas
        self._takeover = takeover
        self._drop = drop
        self._retry_s = retry_s
        self._asked: dict[str, asyncio.Event] = {}  # projects that are followed now -> asked again meanwhile

    def ask(self, project: str) -> None:
        """Look at the project's stored route soon, and follow it."""
        if (again := self._asked.get(project)) is not None:
            again.set()
            return
        self._asked[project] = asyncio.Event()
        task = self._tasks.start(self._run(project), f"follow {project}")
        task.add_done_callback(lambda _: self._asked.pop(project, None))

    async def _run(self, project: str) -> None:
        again, delay_s, trouble = self._asked[project], self._retry_s, ""
        while True:
            again.clear()
            await self._claims.wait_free(project)
            if self._claims.closed:
                return
            self._claims.claim(project, "a change by another platform")
            try:
                await self._follow(project)
            except Exception as error:
                if str(error) != trouble:
                    trouble = str(error)
                    defect = None if isinstance(error, ClipperError) else error
                    logger.error(
                        "the stored route cannot be followed: %s", error, exc_info=defect, extra={"project": project}
                    )
                    self._events.record(project, "restore", f"the stored route cannot be followed: {error}")
            else:
                delay_s, trouble = self._retry_s, ""
                if not again.is_set():
                    return
            finally:
                self._claims.release(project)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await again.wait()
            delay_s = min(delay_s * 2, RETRY_MAX_S)

    async def _follow(self, project: str) -> None:
        before = self._registry.current(project)
        await self._registry.watch.mend(project)
        try:
            current = await self._registry.catch_up(project)
        except NotFound:
            self._registry.forget(project)
            await self._drop(project)
            logger.info("deleted by another platform", extra={"project": project})
            return
        if current is None:
            await self._drop(project)
            return
        await self._end_strangers(project, current.route.version)
        if before is not None and before.identity == current.identity:
            self._registry.adopt(current)
        else:
            await self._bring_up(before, current)

    async def _end_strangers(self, project: str, routed: int) -> None:
        """End what runs under the number of another version: the store lost data and gave the number out again. Callers
        that pin the number would meet the old code. What is routed to is replaced when it starts."""
        for number, identity in self._replicas.identities(project).items():
            if number == routed:
                continue
            try:
                stored = await self._registry.version(project, number)
            except NotFound:
                continue  # it is removed, or about to be written back
            if stored.identity != identity:
                self._takeover.standby.release(project, number)
                self._takeover.retire(project, number)
                logger.info("version %d is another one now: ended", number, extra={"project": project})

    async def _bring_up(self, before: Current | None, current: Current) -> None:
        project, number = current.route.project, current.route.version
        await self._takeover.reuse(project, number)
        environment = await self._rollout.prepare(current.manifest, lambda _: None)
        await self._rollout.start(current.manifest, number, environment, identity=current.identity, like=before)
        self._registry.adopt(current)
        self._takeover.follow(before, current)
        self._events.record(project, "route", f"version {number} answers: the stored route leads to it", version=number)
        logger.info("version %d answers: the stored route leads to it", number, extra={"project": project})
