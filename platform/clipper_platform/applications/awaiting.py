"""Predictions whose feedback may come: in bounded memory, and written behind to the store in chunks.

A prediction costs no write on its way. What is in memory and not yet in the store is lost when the platform is killed:
half a second of it; a platform that ends properly saves all. Another platform reads the chunks where feedback for one
of its predictions arrives.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from clipper_platform.core.selection import Choice
from clipper_platform.store.applications import PAIRS_KEPT, AwaitedChunk

__all__ = ["MAX_AWAITED", "Awaited", "AwaitedPredictions", "chunk_of", "entries_of"]

# Of each application, in memory and as many in the store: at 20,000 queries a second the newest five seconds.
MAX_AWAITED: Final = PAIRS_KEPT // 2
MAX_AWAITED_BYTES: Final = 64 * 1024 * 1024
INDEXED_AT_ONCE: Final = 500  # about 2 ms, after which the event loop runs other work
# The objects of an entry beside its bytes, measured with tracemalloc for one model and ten doubles.
_ENTRY_BYTES: Final = 500

_NO_ANSWERS: Final[dict[str, msgspec.Raw]] = {}
_NO_CHOICE: Final = Choice(())


class Awaited(msgspec.Struct, frozen=True, gc=False, array_like=True, omit_defaults=True):
    """A prediction as it is kept. `input`, `output` and `answers` are JSON.

    `only`: the model that answered, where there was no other to choose; then `choice`, `answers` and `failed` follow
    from it. `answers`: of all models that did. `failed`: models that were asked and gave none.
    """

    query_id: int
    at: float  # Unix seconds
    context: str
    input: msgspec.Raw
    output: msgspec.Raw
    only: str = ""
    choice: Choice = _NO_CHOICE
    default: bool = False
    answers: dict[str, msgspec.Raw] = _NO_ANSWERS
    failed: tuple[str, ...] = ()

    def full_choice(self) -> Choice:
        return Choice((self.only,), (), {self.only: 1.0}) if self.only else self.choice

    def all_answers(self) -> dict[str, msgspec.Raw]:
        return {self.only: self.output} if self.only else self.answers

    @property
    def size(self) -> int:
        """Bytes in memory, about: of several models, each answer as large as the output."""
        return _ENTRY_BYTES + len(self.input) + len(self.output) * (len(self.answers) or 1)


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(list[Awaited]).decode


class AwaitedPredictions:
    """Of one application, in the order of their times. `decode`: reads an input, so that equal ones are found."""

    def __init__(
        self,
        decode: Callable[[msgspec.Raw], Any],
        *,
        max_entries: int = MAX_AWAITED,
        max_bytes: int = MAX_AWAITED_BYTES,
    ) -> None:
        self.decode = decode
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: dict[int, Awaited] = {}
        self._order: deque[int] = deque()  # ids, the oldest first, of which some are gone
        self._unsaved: deque[int] = deque()
        self._bytes = 0
        self._by_input: dict[bytes, list[int]] = {}
        self._digests: dict[int, bytes] | None = None  # by id, once feedback came by input

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def unsaved(self) -> int:
        return len(self._unsaved)

    def add(self, entry: Awaited) -> None:
        """Keep it; the oldest ones give way."""
        query_id = entry.query_id
        self._entries[query_id] = entry
        self._order.append(query_id)
        self._unsaved.append(query_id)
        self._bytes += entry.size
        if len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            self._evict()

    def restore(self, entries: Sequence[Awaited]) -> None:
        """Keep what the store had, as far as there is room."""
        for entry in entries:
            if entry.query_id not in self._entries and len(self._entries) < self._max_entries:
                self._entries[entry.query_id] = entry
                self._order.append(entry.query_id)
                self._bytes += entry.size
        self._evict()

    def _evict(self) -> None:
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            self.remove(self._order.popleft())

    def get(self, query_id: int) -> Awaited | None:
        return self._entries.get(query_id)

    def remove(self, query_id: int) -> None:
        entry = self._entries.pop(query_id, None)
        if entry is None:
            return
        self._bytes -= entry.size
        if self._digests is not None and (found := self._digests.pop(query_id, None)) is not None:
            ids = self._by_input[found]
            ids.remove(query_id)
            if not ids:
                del self._by_input[found]

    def expire(self, before: float) -> None:
        """Forget those of before this time."""
        while self._order:
            oldest = self._entries.get(self._order[0])
            if oldest is not None:
                if oldest.at >= before:
                    return
                self.remove(oldest.query_id)
            self._order.popleft()

    # By input

    def digest(self, input: msgspec.Raw) -> bytes:
        """The same for inputs that are equal, however they are written."""
        return hashlib.blake2b(_encode(self.decode(input)), digest_size=16).digest()

    def _digest_if_any(self, input: msgspec.Raw) -> bytes:
        """Empty for an input of another type, from before the application's changed."""
        try:
            return self.digest(input)
        except msgspec.DecodeError:
            return b""

    async def by_input(self, input: msgspec.Raw) -> list[Awaited]:
        """Those with an equal input, newest first.

        The index is made at the first call, and completed at each: who sends feedback by id does not pay for it.
        """
        await self._index_new()
        entries = [self._entries[id] for id in self._by_input.get(self.digest(input), ())]
        return sorted(entries, key=lambda entry: entry.at, reverse=True)

    async def _index_new(self) -> None:
        digests = self._digests
        if digests is None:
            digests = self._digests = {}
        new = list(itertools.takewhile(lambda id: id not in digests, reversed(self._entries)))
        for count, query_id in enumerate(new, 1):
            entry = self._entries.get(query_id)
            if entry is not None and query_id not in digests:
                digests[query_id] = found = self._digest_if_any(entry.input)
                self._by_input.setdefault(found, []).append(query_id)
            if count % INDEXED_AT_ONCE == 0:
                await asyncio.sleep(0)

    # The store

    def unsaved_entries(self, limit: int) -> list[Awaited]:
        """At most so many that are not in the store; they count as saved."""
        found: list[Awaited] = []
        while self._unsaved and len(found) < limit:
            entry = self._entries.get(self._unsaved.popleft())
            if entry is not None:
                found.append(entry)
        return found

    def not_saved(self, entries: Sequence[Awaited]) -> None:
        """They could not be saved: to be tried again."""
        self._unsaved.extendleft(entry.query_id for entry in reversed(entries))


def chunk_of(entries: Sequence[Awaited]) -> AwaitedChunk:
    return AwaitedChunk(last_at=entries[-1].at, count=len(entries), data=_encode(entries))


def entries_of(chunk: AwaitedChunk) -> list[Awaited]:
    """Raises msgspec.DecodeError for what another Clipper wrote."""
    return _decode(chunk.data)
