"""What one kind of stored thing takes up, and what collects its garbage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Collector", "Freed", "Holding"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """How many things there are and their bytes; `unused` are those that `Collector.collect(at_once=True)` removes."""

    count: int = 0
    bytes: int = 0
    unused_count: int = 0
    unused_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """What a collection removed."""

    count: int = 0
    bytes: int = 0


class Collector(Protocol):
    """Removes what nothing needs of one kind: versions, bundles, environments or logs."""

    async def holding(self) -> Holding: ...
    async def collect(self, *, at_once: bool = False) -> Freed:
        """Remove what nothing needs; `at_once`: without waiting for the time in which it may be needed again."""
        ...
