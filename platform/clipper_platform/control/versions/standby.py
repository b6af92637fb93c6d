"""Versions that a newer one replaced: their replicas stay for a while, so that a rollback starts nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Standby"]


class Standby:
    """Keeps at most one version of a project. `retire(project, version)` drains a version when its time is over."""

    def __init__(self, retire: Callable[[str, int], None]) -> None:
        self._retire = retire
        self._timers: dict[str, tuple[int, asyncio.TimerHandle]] = {}

    def keep(self, project: str, version: int, seconds: float) -> None:
        """Retire the version in so many seconds. The version kept before is retired at once."""
        self.end(project)
        timer = asyncio.get_running_loop().call_later(seconds, self.end, project)
        self._timers[project] = (version, timer)

    def release(self, project: str, version: int) -> None:
        """Cancel the pending retirement of the version; the caller owns it now."""
        if self.version(project) == version:
            self.forget(project)

    def end(self, project: str) -> None:
        """Retire the project's version on standby now, if there is one."""
        version = self.version(project)
        if version is not None:
            self.forget(project)
            self._retire(project, version)

    def forget(self, project: str) -> None:
        """Cancel a pending retirement; the caller ends the project's versions."""
        if (held := self._timers.pop(project, None)) is not None:
            held[1].cancel()

    def version(self, project: str) -> int | None:
        """The project's version on standby."""
        held = self._timers.get(project)
        return None if held is None else held[0]

    def close(self) -> None:
        for project in list(self._timers):
            self.forget(project)
