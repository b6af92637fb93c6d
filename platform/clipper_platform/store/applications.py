"""What applications learn: states of contexts, predictions that await feedback, joined pairs, and counts.

Everything is under an application and goes with it. The methods keep the rules of `base`: each is atomic, and may raise
StoreUnavailable; all but the reads raise NotFound where there is no such application.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

__all__ = [
    "PAIRS_KEPT",
    "ApplicationData",
    "AwaitedPrediction",
    "ContextState",
    "Learned",
    "Learning",
    "Pair",
    "StateWrite",
]

PAIRS_KEPT: Final = 100_000  # of each application, the newest; a hundred megabytes with inputs of a kilobyte


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


class AwaitedPrediction(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction whose feedback may come. `digest`: of its input, in hexadecimal. `record`: JSON, the
    caller's."""

    query_id: int
    at: float  # Unix seconds
    context: str
    digest: str
    record: bytes


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction joined with its label. `at`: when they were joined. `record`: JSON, the caller's."""

    query_id: int
    at: float  # Unix seconds
    record: bytes
    seq: int = 0  # given by the store, growing within an application


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """What feedback changes, all of it or nothing: pairs are added, their predictions are awaited no more."""

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

    async def await_feedback(self, application: str, predictions: Sequence[AwaitedPrediction]) -> None: ...
    async def awaited(self, application: str, query_id: int) -> AwaitedPrediction | None: ...
    async def awaited_by_input(self, application: str, digest: str) -> list[AwaitedPrediction]:
        """The newest ones with this input, at most 100, newest first."""
        ...

    async def prune_awaited(self, application: str, *, before: float, keep: int) -> int:
        """Forget those of before this time, and all but the newest `keep`. Returns how many were forgotten."""
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
