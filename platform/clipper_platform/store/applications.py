"""What applications learn: states of contexts, predictions that await feedback, joined pairs, and counts.

Everything is under an application and goes with it. The methods keep the rules of `base`: each is atomic, and may raise
StoreUnavailable; all but the reads raise NotFound where there is no such application.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

__all__ = [
    "PAIRS_KEPT",
    "ApplicationData",
    "AwaitedChunk",
    "ContextState",
    "Learned",
    "Learning",
    "Pair",
    "StateWrite",
    "last_to_forget",
]

# Of each application, the newest. Twice as many as there are predictions that await feedback: then a prediction that is
# still awaited somewhere and was joined before has its pair here, and is not joined again.
PAIRS_KEPT: Final = 200_000


class ContextState(msgspec.Struct, frozen=True, kw_only=True):
    """What a selection policy has learnt of one context; of the context "", what all have in common."""

    context: str
    state: Any  # as JSON has it
    updated_at: float  # Unix seconds
    revision: int
    seq: int  # grows with each write of a state of the application


class StateWrite(msgspec.Struct, frozen=True, kw_only=True):
    """A compare-and-set: `revision` is that of the stored state, 0 for none. `state` None deletes it."""

    context: str
    state: Any
    updated_at: float
    revision: int


class AwaitedChunk(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions whose feedback may come: `count` of them, the newest made at `last_at`. `data`: the caller's."""

    last_at: float  # Unix seconds
    count: int
    data: bytes
    seq: int = 0  # given by the store, growing within an application


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction joined with its label. `at`: when they were joined. `record`: JSON, the caller's."""

    query_id: int
    at: float  # Unix seconds
    record: bytes
    seq: int = 0  # given by the store, growing within an application


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """What feedback changes, all of it or nothing."""

    pairs: Sequence[Pair]
    states: Sequence[StateWrite] = ()
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What became of a `Learning`: stored if nothing of it is a duplicate or a conflict.

    `duplicates`: predictions that were joined before. `conflicts`: contexts whose state has another revision.
    """

    duplicates: frozenset[int] = frozenset()
    conflicts: frozenset[str] = frozenset()

    @property
    def stored(self) -> bool:
        return not self.duplicates and not self.conflicts


class ApplicationData(Protocol):
    """Contract suite: tests/contracts/test_store_applications.py."""

    async def states(self, application: str, *, after: int = 0) -> list[ContextState]:
        """Those written with seq > after, in the order of seq."""
        ...

    async def learn(self, application: str, learning: Learning) -> Learned:
        """Keeps the newest PAIRS_KEPT pairs."""
        ...

    async def add_awaited(self, application: str, chunk: AwaitedChunk) -> int:
        """Its seq."""
        ...

    async def awaited(self, application: str, *, after: int = 0) -> list[AwaitedChunk]:
        """Those with seq > after, oldest first."""
        ...

    async def prune_awaited(self, application: str, *, before: float, keep: int) -> None:
        """Forget the oldest chunks: those of before this time, and those that the newest ones leave no room for, which
        together have `keep` predictions or more."""
        ...

    async def joined(self, application: str, query_id: int) -> bool:
        """Whether the pair of this prediction is kept."""
        ...

    async def pairs(self, application: str, *, after: int = 0, since: float = 0.0, limit: int = 1000) -> list[Pair]:
        """Those with seq > after that were joined at `since` or later, oldest first, at most `limit`."""
        ...

    async def last_pairs(self, application: str, limit: int) -> list[Pair]:
        """The newest ones, oldest first."""
        ...

    async def counts(self, application: str) -> dict[str, float]: ...
    async def add_counts(self, application: str, counts: Mapping[str, float]) -> None: ...


def last_to_forget(chunks: Iterable[tuple[int, float, int]], *, before: float, keep: int) -> int:
    """The seq up to which `prune_awaited` forgets, 0 for none. `chunks`: (seq, last_at, count), newest first."""
    kept = 0
    for seq, last_at, count in chunks:
        if last_at < before or kept >= keep:
            return seq
        kept += count
    return 0
