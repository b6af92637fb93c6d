"""Events of projects: written to the function's log at once, and to the store as soon as it accepts them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from clipper_platform.clock import Clock
from clipper_platform.control.log_store import LogStore
from clipper_platform.errors import ClipperError, NotFound, StoreUnavailable
from clipper_platform.store.base import Event, MetadataStore
from clipper_platform.types import FunctionId

__all__ = ["EventLog"]

logger = logging.getLogger(__name__)

MAX_WAITING: Final = 1000
MAX_MESSAGE_CHARACTERS: Final = 4000
RETRY_S: Final = 1.0
CLOSE_TIMEOUT_S: Final = 2.0

# Ways a replica ends (backends.base.Exit.reason) that a person should notice in the function's log.
_WARNINGS: Final = frozenset({"crashed", "oom", "killed_externally", "lost"})


class EventLog:
    """Callable as the data plane's event sink; `record` serves the control plane. Neither waits nor fails.

    Events wait in memory, at most 1,000, while the store is away; the oldest beyond that are lost, which is counted
    and logged.
    """

    def __init__(self, store: MetadataStore, logs: LogStore, clock: Clock) -> None:
        self._store = store
        self._logs = logs
        self._clock = clock
        self._waiting: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._delayed = False
        self.lost = 0

    def __call__(self, function: FunctionId, kind: str, message: str, data: Mapping[str, Any]) -> None:
        """Record an event of a function's replica."""
        level = "warning" if data.get("reason") in _WARNINGS else "info"
        self._logs.system(function, message, level=level, replica=str(data.get("replica", "")))
        self.record(
            function.project, kind, message, function=function.function, version=function.version, data=dict(data)
        )

    def record(
        self,
        project: str,
        kind: str,
        message: str,
        *,
        function: str = "",
        version: int | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Record an event of a project."""
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self.lost += 1
            if self.lost == 1 or self.lost % MAX_WAITING == 0:
                logger.warning("events are lost, the store does not take them: %d so far", self.lost)
        self._waiting.append(
            Event(
                project=project,
                at=self._clock.time(),
                kind=kind,
                message=message[:MAX_MESSAGE_CHARACTERS],
                function=function,
                version=version,
                data=dict(data or {}),
            )
        )
        self._wake.set()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def run(self) -> None:
        """Store the events as they come, for ever."""
        while True:
            await self._wake.wait()
            if not await self.flush():
                await asyncio.sleep(RETRY_S)

    async def flush(self) -> bool:
        """Store the events that wait. Returns False if the store is away and events still wait."""
        self._wake.clear()
        while self._waiting:
            event = self._waiting[0]
            try:
                await self._store.add_event(event)
            except StoreUnavailable:
                if not self._delayed:
                    logger.warning("the store is away: events wait in memory")
                self._delayed = True
                self._wake.set()
                return False
            except NotFound:
                pass  # the project was deleted meanwhile, or its first deploy did not get so far
            except ClipperError as error:
                self.lost += 1
                logger.warning("an event was refused by the store: %s", error, extra={"project": event.project})
            except Exception:
                self.lost += 1
                logger.exception("an event could not be stored", extra={"project": event.project})
            # An overflow during the await may have dropped this very event from the front.
            if self._waiting and self._waiting[0] is event:
                self._waiting.popleft()
        if self._delayed:
            logger.warning("the store took the waiting events; %d were lost in all", self.lost)
            self._delayed = False
        return True

    async def close(self) -> None:
        """Store the rest if the store accepts it within two seconds; log how many events are lost."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.flush()
        except TimeoutError:
            pass
        if self._waiting:
            logger.warning("%d events were not stored", len(self._waiting))
