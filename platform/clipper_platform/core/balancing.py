"""Which replica gets the next batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Candidate", "pick"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica that may take work now. `load`: invocations it has in flight; `capacity`: what it works on at once."""

    replica: str
    load: int
    capacity: int = 1


def pick(candidates: Sequence[Candidate], rng: random.Random) -> str | None:
    """The least loaded candidate in proportion to its capacity, ties broken at random; None when there is none.

    All of them are looked at: a function has tens of replicas, not thousands, and the dispatcher knows every load
    exactly, so that sampling two (Mitzenmacher's power of two choices) would only lose information.
    """
    best: list[str] = []
    lowest = float("inf")
    for candidate in candidates:
        load = candidate.load / candidate.capacity
        if load < lowest:
            lowest, best = load, [candidate.replica]
        elif load == lowest:
            best.append(candidate.replica)
    if not best:
        return None
    return best[0] if len(best) == 1 else rng.choice(best)
