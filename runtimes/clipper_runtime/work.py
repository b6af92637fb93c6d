"""The input and the output of the execution core: the items of a batch, and their outcomes."""

from __future__ import annotations

from collections.abc import Iterable, Set
from operator import attrgetter

from clipper.contract.frames import split_body
from clipper.contract.wire import Invoke, Outcome

__all__ = ["Answer", "Work"]

_item_lengths = attrgetter("length")


class Work:
    """Items that came in one Invoke, their payloads, and when they came (seconds, monotonic).

    `cancelled` holds the ids of items whose caller no longer waits. Any thread may add to it.
    """

    __slots__ = ("batch", "cancelled", "items", "payloads", "received_at")

    def __init__(self, invoke: Invoke, body: memoryview, received_at: float) -> None:
        """Raises ProtocolError where the items' lengths do not add up to the body."""
        self.batch = invoke.batch
        self.items = items = invoke.items
        whole = len(items) == 1 and items[0].length == len(body)
        self.payloads = [body] if whole else split_body(body, map(_item_lengths, items))
        self.received_at = received_at
        self.cancelled: set[int] = set()

    def parts(self) -> list[Work]:
        """One Work for each item; all share the set of cancelled ids."""
        parts = []
        for item, payload in zip(self.items, self.payloads, strict=True):
            part = Work(Invoke(self.batch, [item]), payload, self.received_at)
            part.cancelled = self.cancelled
            parts.append(part)
        return parts

    @property
    def unwanted(self) -> bool:
        """Whether every item is cancelled. `cancelled` may hold items of other parts as well."""
        if self.items and not self.cancelled:
            return False  # asked for each chunk of a stream: the search takes 0.4 µs
        return all(item.id in self.cancelled for item in self.items)

    def withdraw(self, ids: Set[int]) -> list[int]:
        """Take the items that are among `ids` out, before they run; returns the ids of those."""
        taken = [item.id for item in self.items if item.id in ids]
        if taken:
            kept = [pair for pair in zip(self.items, self.payloads, strict=True) if pair[0].id not in ids]
            self.items, self.payloads = [item for item, _ in kept], [payload for _, payload in kept]
        return taken

    def cancel(self, ids: Iterable[int]) -> None:
        """Mark the items of this work that are among `ids`."""
        self.cancelled.update({item.id for item in self.items}.intersection(ids))


class Answer:
    """Outcomes of items of one batch and the bodies of those that are OK, in the same order.

    `exec_s`: seconds in user code. `reruns`: calls beyond the first that isolating a failed batch took.
    """

    __slots__ = ("bodies", "exec_s", "outcomes", "reruns")

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.bodies: list[bytes] = []
        self.exec_s = 0.0
        self.reruns = 0

    def add(self, outcome: Outcome, body: bytes = b"") -> None:
        self.outcomes.append(outcome)
        self.bodies.append(body)

    def extend(self, other: Answer) -> None:
        self.outcomes += other.outcomes
        self.bodies += other.bodies
        self.exec_s += other.exec_s
        self.reruns += other.reruns
