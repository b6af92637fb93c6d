"""The store's health, and what other platforms that share it change: one question to the store every second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from clipper_platform.errors import StoreUnavailable
from clipper_platform.store.base import Changes, MetadataStore

__all__ = ["StoreWatch"]

logger = logging.getLogger(__name__)

POLL_PERIOD_S: Final = 1.0
# The store answers within about a second or raises; this ends a question that does neither.
POLL_TIMEOUT_S: Final = 3.0

Reader = Callable[[Changes], Awaitable[None]]


class StoreWatch:
    """Asks the store what changed, at each published change and once per period.

    `error` is why the store cannot be reached, None while it can.
    """

    def __init__(self, store: MetadataStore) -> None:
        self._store = store
        self._revision = 0
        self._readers: list[Reader] = []
        self.error: str | None = None

    def on_poll(self, reader: Reader) -> None:
        """Have `reader` called after each poll that the store answered, with what changed since the one before,
        often nothing. The reader itself remembers what it could not read and tries again at the next poll."""
        self._readers.append(reader)

    def check(self) -> None:
        """Raise StoreUnavailable at once if the store is known to be away."""
        if self.error is not None:
            raise StoreUnavailable(
                f"the metadata store cannot be reached ({self.error}); functions go on answering, changes have to wait",
                retry_after_s=5.0,
            )

    async def begin(self) -> None:
        """Changes count from here on; to be called before anything is loaded. Raises StoreUnavailable."""
        self._revision = (await self._store.changes(0)).revision

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
            async with asyncio.timeout(POLL_TIMEOUT_S):
                changes = await self._store.changes(self._revision)
        except (StoreUnavailable, TimeoutError) as error:
            reason = str(error) or f"no answer within {POLL_TIMEOUT_S:g} s"
            if self.error is None:
                logger.error(
                    "the store cannot be reached; serving goes on, changes are refused: %s",
                    reason,
                    extra={"store": self._store.url},
                )
            self.error = reason
            return
        if self.error is not None:
            logger.warning("the store answers again", extra={"store": self._store.url})
            self.error = None
        if changes.revision < self._revision:
            logger.error("the store lost changes: it is at revision %d after %d", changes.revision, self._revision)
        self._revision = changes.revision
        for reader in self._readers:
            try:
                await reader(changes)
            except Exception:
                logger.exception("changes of the store could not be read")
