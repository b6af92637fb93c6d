"""The bound over all queues together."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Admission"]


@dataclass(slots=True)
class Admission:
    """At most `limit` invocations wait, over all functions. The last fifth is kept for functions below their fair share
    of the limit."""

    limit: int
    total: int = 0
    queues: int = 0  # queues in which something waits
    scarce: int = field(init=False)  # from this total on, fair shares count

    def __post_init__(self) -> None:
        self.scarce = -(-self.limit * 4 // 5)

    def refuses(self, depth: int) -> bool:
        """Whether a queue in which `depth` invocations wait may admit no other."""
        if self.total >= self.limit:
            return True
        return self.total >= self.scarce and depth * max(1, self.queues) >= self.limit
