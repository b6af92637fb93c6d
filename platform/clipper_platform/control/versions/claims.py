"""One change of a project at a time: a deploy, a rollback, a restart, a delete, or one that another platform made."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from clipper_platform.control.tasks import TaskSet
from clipper_platform.errors import ClipperError, Conflict, Unavailable

__all__ = ["Claims"]

T = TypeVar("T")


class Claims:
    """Projects do not wait for each other. `close` refuses every further change."""

    def __init__(self, tasks: TaskSet) -> None:
        self._tasks = tasks
        self._held: dict[str, str] = {}  # project -> what is being done to it, in words
        self._released = asyncio.Event()
        self.closed = False

    def check_free(self, project: str) -> None:
        """Raises Conflict, Unavailable."""
        if self.closed:
            raise Unavailable("the platform is shutting down", retry_after_s=5.0)
        if (what := self._held.get(project)) is not None:
            raise Conflict(f"{what} of {project!r} is running; wait for it or cancel it")

    def held(self, project: str, what: str = "") -> bool:
        """Whether the project is being changed; `what`: by this."""
        return self._held.get(project) == what if what else project in self._held

    def claim(self, project: str, what: str) -> None:
        self.check_free(project)
        self._held[project] = what

    def release(self, project: str) -> None:
        self._held.pop(project, None)
        released, self._released = self._released, asyncio.Event()
        released.set()

    async def wait_free(self, project: str) -> None:
        """Returns when the project may be claimed at once."""
        while project in self._held:
            await self._released.wait()

    async def exclusively(self, project: str, what: str, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` as the project's one change. It goes on when the caller goes away."""
        try:
            self.claim(project, what)
        except ClipperError:
            work.close()
            raise
        task = self._tasks.start(work, f"{what} of {project}", awaited=True)
        task.add_done_callback(lambda _: self.release(project))
        await asyncio.wait([task])
        if task.cancelled():
            raise Unavailable("the platform is shutting down", retry_after_s=5.0)
        return task.result()
