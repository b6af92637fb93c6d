"""The store's health, and what other platforms that share it change: one question to the store every second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from clipper_platform.clock import Clock
from clipper_platform.control.store_loss import Loss, loss
from clipper_platform.errors import StoreUnavailable
from clipper_platform.store.base import Changes, MetadataStore

__all__ = ["StoreWatch"]

logger = logging.getLogger(__name__)

POLL_PERIOD_S: Final = 1.0
# The store answers within about a second or raises; this ends a question that does neither.
POLL_TIMEOUT_S: Final = 3.0

Reader = Callable[[Changes], Awaitable[None]]

Recover = Callable[[Loss, Changes, float], Awaitable[frozenset[str]]]
"""(what happened to the data, the answer of the last poll before, seconds since then) → projects to read again."""


Mend = Callable[[str], Awaitable[None]]
"""The project → once a part of it that the store lost is written back."""


async def _nothing_to_mend(project: str) -> None:
    """A store that loses no parts."""


class StoreWatch:
    """Asks the store what changed, at each published change and once per period.

    `error` is why the store cannot be reached or used, None while it can. `notice` is what it lost, for people.
    """

    def __init__(self, store: MetadataStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._seen: Changes | None = None
        self._seen_at = 0.0
        self._readers: list[Reader] = []
        self._recover: Recover | None = None
        self.error: str | None = None
        self.notice: Callable[[], str] = str
        self.mend: Mend = _nothing_to_mend

    def on_poll(self, reader: Reader) -> None:
        """Have `reader` called after each poll that the store answered, with what changed since the one before,
        often nothing. The reader itself remembers what it could not read and tries again at the next poll."""
        self._readers.append(reader)

    def on_loss(self, recover: Recover, notice: Callable[[], str], mend: Mend) -> None:
        """Have `recover` bring the store up to date when its data was lost; it raises StoreUnavailable where it cannot.
        All that the store holds is reported as changed then. `mend(project)` does so where a part of one is lost."""
        self._recover, self.notice, self.mend = recover, notice, mend

    def check(self) -> None:
        """Raise StoreUnavailable at once if the store is known to be away."""
        if self.error is not None:
            raise StoreUnavailable(
                f"the metadata store cannot be used ({self.error}); functions go on answering, changes have to wait",
                retry_after_s=5.0,
            )

    async def begin(self) -> None:
        """Changes count from here on; to be called before anything is loaded. Raises StoreUnavailable."""
        self._remember(await self._store.changes(0))

    def _remember(self, changes: Changes) -> None:
        self._seen, self._seen_at = changes, self._clock.monotonic()

    async def run(self, period_s: float = POLL_PERIOD_S) -> None:
        """Poll for ever."""
        while True:
            try:
                await self.poll()
            except Exception:
                logger.exception("a poll of the store failed")
            await self._store.wait_changed(period_s)

    async def poll(self) -> None:
        """Ask once. Health changes are logged once."""
        try:
            changes = await self._changes(self._seen.revision if self._seen else 0)
            if self._seen and (what := loss(self._seen, changes)) is not None:
                changes = await self._recovered(what, self._seen)
        except (StoreUnavailable, TimeoutError) as error:
            reason = str(error) or f"no answer within {POLL_TIMEOUT_S:g} s"
            if self.error is None:
                logger.error(
                    "the store cannot be used; serving goes on, changes are refused: %s",
                    reason,
                    extra={"store": self._store.url},
                )
            self.error = reason
            return
        if self.error is not None:
            logger.warning("the store answers again", extra={"store": self._store.url})
            self.error = None
        self._remember(changes)
        for reader in self._readers:
            try:
                await reader(changes)
            except Exception:
                logger.exception("changes of the store could not be read")

    async def _changes(self, since: int) -> Changes:
        async with asyncio.timeout(POLL_TIMEOUT_S):
            return await self._store.changes(since)

    async def _recovered(self, what: Loss, seen: Changes) -> Changes:
        """All that the store holds after its data was written back."""
        level = logging.WARNING if what is Loss.RESTARTED else logging.ERROR
        logger.log(level, "the store %s", what.value, extra={"store": self._store.url})
        projects: frozenset[str] = frozenset()
        if self._recover is not None:
            projects = await self._recover(what, seen, self._clock.monotonic() - self._seen_at)
        changes = await self._changes(0)
        return replace(changes, projects=changes.projects | projects, keys=True, policies=True, applications=True)
