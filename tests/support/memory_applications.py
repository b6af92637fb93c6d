"""What applications learn, in this process only; see `memory_store`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field

import msgspec

from clipper_platform.store import records
from clipper_platform.store.applications import (
    PAIRS_KEPT,
    AwaitedChunk,
    ContextState,
    Learned,
    Learning,
    Pair,
    last_to_forget,
)

__all__ = ["MemoryApplicationData"]


@dataclass(slots=True)
class _Stored:
    """What one application has learnt."""

    states: dict[str, ContextState] = field(default_factory=dict)
    awaited: list[AwaitedChunk] = field(default_factory=list)
    pairs: dict[int, Pair] = field(default_factory=dict)  # by query id
    counts: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    last_pair: int = 0
    last_state: int = 0
    last_chunk: int = 0


class MemoryApplicationData:
    """Implements `ApplicationData`. `check` raises where the store is away; `known` are the applications' names."""

    def __init__(self, check: Callable[[], None], known: Container[str]) -> None:
        self._check = check
        self._known = known
        self._stored: defaultdict[str, _Stored] = defaultdict(_Stored)

    def forget(self, application: str) -> None:
        self._stored.pop(application, None)

    def _of(self, application: str) -> _Stored:
        self._check()
        if application not in self._known:
            raise records.no_application(application)
        return self._stored[application]

    def _read(self, application: str) -> _Stored:
        self._check()
        return self._stored[application] if application in self._known else _Stored()

    async def states(self, application: str, *, after: int = 0) -> list[ContextState]:
        states = self._read(application).states.values()
        return sorted((state for state in states if state.seq > after), key=lambda state: state.seq)

    async def learn(self, application: str, learning: Learning) -> Learned:
        stored = self._of(application)
        revisions = {context: state.revision for context, state in stored.states.items()}
        refused = Learned(
            duplicates=frozenset(pair.query_id for pair in learning.pairs if pair.query_id in stored.pairs),
            conflicts=frozenset(w.context for w in learning.states if revisions.get(w.context, 0) != w.revision),
        )
        if not refused.stored:
            return refused
        for pair in learning.pairs:
            stored.last_pair += 1
            stored.pairs[pair.query_id] = msgspec.structs.replace(pair, seq=stored.last_pair)
        for old in list(stored.pairs)[: max(0, len(stored.pairs) - PAIRS_KEPT)]:
            del stored.pairs[old]
        for write in learning.states:
            if write.state is None:
                stored.states.pop(write.context, None)
                continue
            stored.last_state += 1
            stored.states[write.context] = ContextState(
                context=write.context,
                state=msgspec.json.decode(msgspec.json.encode(write.state)),
                updated_at=write.updated_at,
                revision=write.revision + 1,
                seq=stored.last_state,
            )
        await self.add_counts(application, learning.counts)
        return Learned()

    async def add_awaited(self, application: str, chunk: AwaitedChunk) -> int:
        stored = self._of(application)
        stored.last_chunk += 1
        stored.awaited.append(msgspec.structs.replace(chunk, seq=stored.last_chunk))
        return stored.last_chunk

    async def awaited(self, application: str, *, after: int = 0) -> list[AwaitedChunk]:
        return [chunk for chunk in self._read(application).awaited if chunk.seq > after]

    async def prune_awaited(self, application: str, *, before: float, keep: int) -> None:
        stored = self._of(application)
        chunks = [(chunk.seq, chunk.last_at, chunk.count) for chunk in reversed(stored.awaited)]
        last = last_to_forget(chunks, before=before, keep=keep)
        stored.awaited = [chunk for chunk in stored.awaited if chunk.seq > last]

    async def joined(self, application: str, query_id: int) -> bool:
        return query_id in self._read(application).pairs

    async def pairs(self, application: str, *, after: int = 0, since: float = 0.0, limit: int = 1000) -> list[Pair]:
        pairs = self._read(application).pairs.values()
        return [pair for pair in pairs if pair.seq > after and pair.at >= since][:limit]

    async def last_pairs(self, application: str, limit: int) -> list[Pair]:
        pairs = list(self._read(application).pairs.values())
        return pairs[max(0, len(pairs) - limit) :]

    async def counts(self, application: str) -> dict[str, float]:
        return dict(sorted(self._read(application).counts.items()))

    async def add_counts(self, application: str, counts: Mapping[str, float]) -> None:
        stored = self._of(application)
        for name, value in counts.items():
            stored.counts[name] += value
