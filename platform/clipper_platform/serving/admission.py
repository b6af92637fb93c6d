"""The bound over all queues together."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Admission"]


@dataclass(slots=True)
class Admission:
    """At most `limit` wait, over all functions. The last fifth is kept for functions below their fair share of it."""

    limit: int
    total: int = 0
    queues: int = 0  # queues with something in their queue
    scarce: int = field(init=False)  # the total from which on the rest is shared out

    def __post_init__(self) -> None:
        self.scarce = -(-self.limit * 4 // 5)

    def refuses(self, depth: int) -> bool:
        if self.total >= self.limit:
            return True
        return self.total >= self.scarce and depth * max(1, self.queues) >= self.limit
