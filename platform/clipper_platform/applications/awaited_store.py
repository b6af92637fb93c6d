"""The predictions of one application that await feedback, between memory and the store."""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from clipper_platform.applications.awaiting import MAX_AWAITED, AwaitedPredictions, chunk_of, entries_of
from clipper_platform.store.applications import ApplicationData, AwaitedChunk

__all__ = ["AwaitedStore"]

logger = logging.getLogger(__name__)

CHUNKS_AT_ONCE: Final = 10  # each takes about 2 ms of the event loop


class AwaitedStore:
    """Writes chunks, and reads those of before a restart and of other platforms."""

    def __init__(self, application: str, data: ApplicationData, awaiting: AwaitedPredictions) -> None:
        self._application = application
        self._data = data
        self._awaiting = awaiting
        self._read = 0  # up to which seq
        self._own: set[int] = set()  # seqs beyond that

    async def follow(self) -> None:
        """Read chunks that this platform has not written. Raises StoreUnavailable."""
        for chunk in await self._data.awaited(self._application, after=self._read):
            self._read = max(self._read, chunk.seq)
            if chunk.seq in self._own:
                self._own.discard(chunk.seq)
                continue
            try:
                self._awaiting.restore(entries_of(chunk))
            except msgspec.DecodeError as error:
                logger.error("predictions of application %s cannot be read again: %s", self._application, error)

    async def save(self) -> None:
        """Write what is new, at most CHUNKS_AT_ONCE chunks. Raises StoreUnavailable, NotFound."""
        for _ in range(CHUNKS_AT_ONCE):
            segment = self._awaiting.next_unsaved()
            if segment is None:
                return
            if entries := self._awaiting.to_save(segment):
                await self._write(chunk_of(entries))
            self._awaiting.saved(segment)

    async def _write(self, chunk: AwaitedChunk) -> None:
        seq = await self._data.add_awaited(self._application, chunk)
        if seq == self._read + 1:
            self._read = seq
        else:
            self._own.add(seq)

    async def prune(self, before: float) -> None:
        """Forget in the store what is older. Raises StoreUnavailable, NotFound."""
        await self._data.prune_awaited(self._application, before=before, keep=MAX_AWAITED)
