"""Removes the bundles that nothing refers to any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from clipper_platform.control.ports import Artifacts
from clipper_platform.control.tasks import TaskSet
from clipper_platform.errors import ClipperError

__all__ = ["BundleGarbageCollector"]

logger = logging.getLogger(__name__)

PAUSE_S: Final = 10.0


class BundleGarbageCollector:
    """`wanted()` are the digests that something refers to.

    A collection looks at every bundle that there is: those asked for within `pause_s` after one are one.
    """

    def __init__(
        self, artifacts: Artifacts, wanted: Callable[[], set[str]], tasks: TaskSet, *, pause_s: float = PAUSE_S
    ) -> None:
        self._artifacts = artifacts
        self._wanted = wanted
        self._tasks = tasks
        self._pause_s = pause_s
        self._asked = False
        self._running: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Collect in the background, now or soon."""
        self._asked = True
        if self._running is None or self._running.done():
            self._running = self._tasks.start(self._run(), "collect bundles")

    async def _run(self) -> None:
        while self._asked:
            self._asked = False
            await self._collect()
            await asyncio.sleep(self._pause_s)

    async def _collect(self) -> None:
        try:
            removed = await self._artifacts.collect(self._wanted())
        except ClipperError as error:
            logger.warning("bundles were not collected: %s", error)
            return
        if removed:
            logger.info("removed %d bundles that nothing refers to", len(removed))
