"""Versions that a newer one replaced, kept warm for a while so that a rollback takes no start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Standby"]


class Standby:
    """At most one version of a project at a time. `retire(project, version)` drains one whose time is up."""

    def __init__(self, retire: Callable[[str, int], None]) -> None:
        self._retire = retire
        self._timers: dict[str, tuple[int, asyncio.TimerHandle]] = {}

    def keep(self, project: str, version: int, seconds: float) -> None:
        """Retire it in so many seconds; the one kept before goes at once."""
        self.end(project)
        timer = asyncio.get_running_loop().call_later(seconds, self.end, project)
        self._timers[project] = (version, timer)

    def release(self, project: str, version: int) -> None:
        """Whoever asks has another use for it: it is not retired from here any more."""
        if self.version(project) == version:
            self.forget(project)

    def end(self, project: str) -> None:
        """Retire what is kept of the project, now."""
        version = self.version(project)
        if version is not None:
            self.forget(project)
            self._retire(project, version)

    def forget(self, project: str) -> None:
        """Whoever asks ends the project's versions itself."""
        if (held := self._timers.pop(project, None)) is not None:
            held[1].cancel()

    def version(self, project: str) -> int | None:
        held = self._timers.get(project)
        return None if held is None else held[0]

    def close(self) -> None:
        for project in list(self._timers):
            self.forget(project)
