"""Removes the logs of projects that were deleted."""

from __future__ import annotations

from collections.abc import Callable

from clipper_platform.control.holding import Freed, Holding
from clipper_platform.control.log_store import LogStore

__all__ = ["LogGarbageCollector"]


class LogGarbageCollector:
    """A delete removes a project's logs at once; what it leaves is what a crash interrupted. `known(project)`: whether
    there is such a project."""

    def __init__(self, logs: LogStore, known: Callable[[str], bool]) -> None:
        self._logs = logs
        self._known = known

    async def holding(self) -> Holding:
        sizes = await self._logs.sizes()
        unused = self._unused(sizes)
        return Holding(
            count=len(sizes), bytes=sum(sizes.values()), unused_count=len(unused), unused_bytes=sum(unused.values())
        )

    async def collect(self, *, at_once: bool = False) -> Freed:
        unused = self._unused(await self._logs.sizes())
        for project in unused:
            if not self._known(project):
                await self._logs.delete(project)
        return Freed(count=len(unused), bytes=sum(unused.values()))

    def _unused(self, sizes: dict[str, int]) -> dict[str, int]:
        return {project: size for project, size in sizes.items() if not self._known(project)}
