"""Predictions whose feedback may come: in bounded memory, and written behind to the store in chunks.

A prediction costs no write on its way. What is in memory and not yet in the store is lost when the platform is killed:
half a second of it; a platform that ends properly saves all. Another platform reads the chunks where feedback for one
of its predictions arrives.
"""

from __future__ import annotations

import asyncio
import hashlib
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
SEGMENT_ENTRIES: Final = 1_000
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


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(list[Awaited]).decode


Plain = tuple[int, float, str, msgspec.Raw, msgspec.Raw, str]
"""The first fields of an `Awaited`, which is kept like this until it is asked for: to make a tuple takes a fifth of the
time. As JSON both are the same."""


class Segment:
    """Predictions that came one after the other. `low`, `high`: of the ids of a closed one."""

    __slots__ = ("_places", "bytes", "entries", "high", "low")

    def __init__(self, entries: list[Awaited | Plain]) -> None:
        self.entries = entries
        self.bytes = 0
        self.low, self.high = 0, 2**63
        self._places: dict[int, int] = {}  # by id, once one was asked for

    def find(self, query_id: int) -> Awaited | None:
        if not self.low <= query_id <= self.high:
            return None
        if len(self._places) != len(self.entries):
            self._places = {_id(entry): place for place, entry in enumerate(self.entries)}
        place = self._places.get(query_id)
        return None if place is None else self.at(place)

    def at(self, place: int) -> Awaited:
        entry = self.entries[place]
        if isinstance(entry, tuple):
            entry = self.entries[place] = Awaited(*entry)
        return entry

    def close(self) -> None:
        """Nothing is added any more."""
        self.bytes = sum(map(_size, self.entries))
        ids = [_id(entry) for entry in self.entries]
        self.low, self.high = min(ids), max(ids)

    def join(self, later: Segment) -> None:
        self.entries += later.entries
        self.close()


def _id(entry: Awaited | Plain) -> int:
    return entry[0] if isinstance(entry, tuple) else entry.query_id


def _size(entry: Awaited | Plain) -> int:
    """Bytes in memory, about: of several models, each answer as large as the output."""
    if isinstance(entry, tuple):
        return _ENTRY_BYTES + len(entry[3]) + len(entry[4])
    return _ENTRY_BYTES + len(entry.input) + len(entry.output) * (len(entry.answers) or 1)


class AwaitedPredictions:
    """Of one application, in segments in the order of their times. What is joined stays in its segment, and counts as
    removed; segments are forgotten as a whole. `decode`: reads an input, so that equal ones are found."""

    def __init__(
        self,
        decode: Callable[[msgspec.Raw], Any],
        *,
        max_entries: int = MAX_AWAITED,
        max_bytes: int = MAX_AWAITED_BYTES,
        segment_entries: int = SEGMENT_ENTRIES,
    ) -> None:
        self.decode = decode
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._segment_entries = segment_entries
        self._segment_bytes = max(1, max_bytes // 16)
        self._current = Segment([])
        self._input_bytes = 0  # of the current segment
        self._closed: deque[Segment] = deque()  # the oldest first
        self._unsaved: deque[Segment] = deque()  # of those
        self._count = self._bytes = 0  # of the closed ones
        self._removed: set[int] = set()
        self._by_input: dict[bytes, list[int]] = {}
        self._indexed: dict[int, bytes] | None = None  # id -> digest of its input, once feedback came by input

    def __len__(self) -> int:
        return self._count + len(self._current.entries) - len(self._removed)

    def add(self, entry: Awaited | Plain, input_bytes: int) -> None:
        """Keep it; the oldest ones give way."""
        entries = self._current.entries
        entries.append(entry)
        self._input_bytes += input_bytes
        if len(entries) >= self._segment_entries or self._input_bytes >= self._segment_bytes:
            self._close_current()

    def _close_current(self) -> None:
        segment, self._current, self._input_bytes = self._current, Segment([]), 0
        segment.close()
        self._unsaved.append(segment)
        self._closed.append(segment)
        self._count += len(segment.entries)
        self._bytes += segment.bytes
        while self._closed and (self._count > self._max_entries or self._bytes > self._max_bytes):
            self._forget_oldest()

    def restore(self, entries: Sequence[Awaited]) -> None:
        """Keep what the store had, as far as there is room: as older than all."""
        fresh: list[Awaited | Plain] = [entry for entry in entries if self._find(entry.query_id) is None]
        if not fresh or self._count + len(fresh) > self._max_entries:
            return
        segment = Segment(fresh)
        segment.close()
        self._closed.appendleft(segment)
        self._count += len(fresh)
        self._bytes += segment.bytes

    def _forget_oldest(self) -> None:
        segment = self._closed.popleft()
        if self._unsaved and self._unsaved[0] is segment:
            self._unsaved.popleft()
        self._count -= len(segment.entries)
        self._bytes -= segment.bytes
        if self._removed or self._indexed:
            for entry in segment.entries:
                self._removed.discard(_id(entry))
                self._forget_input(_id(entry))

    def get(self, query_id: int) -> Awaited | None:
        return None if query_id in self._removed else self._find(query_id)

    def _find(self, query_id: int) -> Awaited | None:
        for segment in (self._current, *reversed(self._closed)):
            if (found := segment.find(query_id)) is not None:
                return found
        return None

    def remove(self, query_id: int) -> None:
        """It has its feedback."""
        if self._find(query_id) is not None:
            self._removed.add(query_id)
            self._forget_input(query_id)

    def expire(self, before: float) -> None:
        """Forget the segments in which all are of before this time."""
        while self._closed and self._closed[0].at(-1).at < before:
            self._forget_oldest()

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
        found = (self.get(id) for id in reversed(self._by_input.get(self.digest(input), [])))
        return sorted((entry for entry in found if entry is not None), key=lambda entry: entry.at, reverse=True)

    async def _index_new(self) -> None:
        if self._indexed is None:
            self._indexed = {}
        indexed = self._indexed
        new = [
            segment.at(place)
            for segment in (*self._closed, self._current)
            for place, entry in enumerate(segment.entries)
            if _id(entry) not in indexed
        ]
        for count, entry in enumerate(new, 1):
            if entry.query_id not in indexed and self.get(entry.query_id) is not None:
                indexed[entry.query_id] = found = self._digest_if_any(entry.input)
                self._by_input.setdefault(found, []).append(entry.query_id)
            if count % INDEXED_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _forget_input(self, query_id: int) -> None:
        if self._indexed is None or (found := self._indexed.pop(query_id, None)) is None:
            return
        ids = self._by_input[found]
        ids.remove(query_id)
        if not ids:
            del self._by_input[found]

    # The store

    @property
    def unsaved(self) -> int:
        """How many are not in the store."""
        return sum(len(segment.entries) for segment in (*self._unsaved, self._current))

    def next_unsaved(self) -> Segment | None:
        """The oldest segment that is not in the store; call `saved` once it is."""
        if not self._unsaved and self._current.entries:
            self._close_current()
        return self._unsaved[0] if self._unsaved else None

    def to_save(self, segment: Segment) -> list[Awaited | Plain]:
        """What of the segment has not had its feedback."""
        removed = self._removed
        return [entry for entry in segment.entries if _id(entry) not in removed]

    def saved(self, segment: Segment) -> None:
        """The segment is in the store. With few queries it holds few, and joins the one before it."""
        if not self._unsaved or self._unsaved[0] is not segment:
            return  # it was forgotten meanwhile
        self._unsaved.popleft()
        if len(self._closed) < 2 or self._closed[-1] is not segment:
            return
        before = self._closed[-2]
        if len(before.entries) + len(segment.entries) <= self._segment_entries:
            self._closed.pop()
            self._bytes -= before.bytes + segment.bytes
            before.join(segment)
            self._bytes += before.bytes


def chunk_of(entries: Sequence[Awaited | Plain]) -> AwaitedChunk:
    newest = entries[-1]
    last_at = newest[1] if isinstance(newest, tuple) else newest.at
    return AwaitedChunk(last_at=last_at, count=len(entries), data=_encode(entries))


def entries_of(chunk: AwaitedChunk) -> list[Awaited]:
    """Raises msgspec.DecodeError for what another Clipper wrote."""
    return _decode(chunk.data)
