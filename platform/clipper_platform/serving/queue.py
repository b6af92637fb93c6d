"""The bounded queue of one function: earliest deadline first, removal in O(1)."""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from math import inf

from clipper_platform.serving.admission import Admission
from clipper_platform.serving.deadlines import TICKS_PER_S
from clipper_platform.serving.invocation import Invocation, State

__all__ = ["InvocationQueue"]

# Stands for a deque that is still empty: a real one takes 760 bytes, and most queues of most functions are empty. With
# maxlen 0 it never holds anything.
_NONE: deque[Invocation] = deque(maxlen=0)


class InvocationQueue:
    """Invocations that wait, by deadline. A removed invocation stays in place as a tombstone (its state is not QUEUED)
    and is skipped. Tombstones are swept once they outnumber the live entries, so that memory follows the live count.

    Deadlines mostly grow with arrival, and then a deque is a sorted list for free. An invocation with an earlier
    deadline than the latest in the deque goes to a heap. Both are sorted, so the next one is the smaller of their
    heads. Suspects, which must run alone, wait in a queue of their own and go first. `admission` counts what waits.
    """

    __slots__ = ("_admission", "_heap", "_seq", "_steady", "_suspects", "_tombstones", "live", "weight")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._steady = _NONE
        self._heap: list[tuple[float, int, Invocation]] = []
        self._suspects = _NONE
        self._seq = 0
        self._tombstones = 0
        self.live = 0
        self.weight = 0  # of all that wait, in items

    def __len__(self) -> int:
        return self.live

    @property
    def held(self) -> int:
        """Entries in memory, tombstones included."""
        return len(self._steady) + len(self._heap) + len(self._suspects)

    def push(self, invocation: Invocation) -> None:
        invocation.state = State.QUEUED
        admission = self._admission
        admission.total += 1
        if not self.live:
            admission.queues += 1
        self.live += 1
        self.weight += invocation.weight
        steady = self._steady
        if invocation.blamed:
            if self._suspects is _NONE:
                self._suspects = deque()
            self._suspects.append(invocation)
        elif not steady:
            if steady is _NONE:
                steady = self._steady = deque()
            steady.append(invocation)
        elif invocation.deadline >= steady[-1].deadline:
            steady.append(invocation)
        else:
            self._seq += 1
            heappush(self._heap, (invocation.deadline, self._seq, invocation))

    def remove(self, invocation: Invocation) -> None:
        """Forget a queued invocation. The caller sets its next state."""
        invocation.state = State.NEW
        self._tombstones += 1
        self._left(1, invocation.weight)
        if not self.live:
            self.rest()
        elif self._tombstones > 64 and self._tombstones > self.live:
            self._sweep()

    def rest(self) -> None:
        """Free everything while nothing waits: tombstones, which hold their requests' bodies, and spare room."""
        if not self.live:
            self._steady = self._suspects = _NONE
            self._heap = []
            self._tombstones = 0

    def _left(self, n: int, weight: int) -> None:
        self.live -= n
        self.weight -= weight
        self._admission.total -= n
        if not self.live:
            self._admission.queues -= 1

    def _sweep(self) -> None:
        self._steady = deque(i for i in self._steady if i.state is State.QUEUED)
        self._suspects = deque(i for i in self._suspects if i.state is State.QUEUED)
        self._heap = [entry for entry in self._heap if entry[2].state is State.QUEUED]
        heapify(self._heap)
        self._tombstones = 0

    def suspect(self) -> Invocation | None:
        """The next invocation that must run alone, left in the queue."""
        while self._suspects:
            if self._suspects[0].state is State.QUEUED:
                return self._suspects[0]
            self._suspects.popleft()
            self._tombstones -= 1
        return None

    def pop_suspect(self) -> Invocation:
        """Take out what `suspect` returned."""
        invocation = self._suspects.popleft()
        invocation.state = State.NEW
        self._left(1, invocation.weight)
        return invocation

    def peek(self) -> Invocation | None:
        """The invocation with the earliest deadline, suspects aside, left in the queue."""
        self._skip_tombstones()
        if not self._heap:
            return self._steady[0] if self._steady else None
        if not self._steady or self._heap[0][0] < self._steady[0].deadline:
            return self._heap[0][2]
        return self._steady[0]

    def take(
        self, limit: int, room: int, latest: float, max_bytes: int
    ) -> tuple[list[Invocation], int, list[Invocation]]:
        """Take the next batch out, suspects aside: (its invocations, their weight, late ones).

        The batch has at most `room` invocations, of at most `limit` in weight and `max_bytes` in all unless a single
        one is larger. Late are those found before them whose deadline is not after `latest`.
        """
        items: list[Invocation] = []
        late: list[Invocation] = []
        steady, heap, queued, new = self._steady, self._heap, State.QUEUED, State.NEW
        weight = size = dropped = 0
        while len(items) < room:
            head = steady[0] if steady and not heap else self.peek()
            if head is None:
                break
            if head.state is not queued:  # a tombstone, which `peek` would have skipped
                steady.popleft()
                self._tombstones -= 1
                continue
            if head.deadline <= latest:
                dropped += head.weight
                late.append(head)
            else:
                size += len(head.body)
                if items and (weight + head.weight > limit or size > max_bytes):
                    break
                weight += head.weight
                items.append(head)
            if steady and steady[0] is head:
                steady.popleft()
            else:
                heappop(heap)
            head.state = new
        if items or late:
            self._left(len(items) + len(late), weight + dropped)
        return items, weight, late

    def take_all(self) -> list[Invocation]:
        """Take out everything. All of it has left before any of it can wait elsewhere: its places here go by its state,
        which it takes along."""
        taken: list[Invocation] = []
        while (head := self.suspect() or self.peek()) is not None:
            self.remove(head)
            taken.append(head)
        return taken

    def due(self, before: int, *, ordered: bool) -> tuple[list[Invocation], float]:
        """Invocations whose deadline is earlier than `before`, in ticks of the wheel, left in place; and the earliest
        deadline of the others in seconds (inf).

        `ordered=False` looks at all of them, for deadlines that were moved since the invocations came.
        """
        found: list[Invocation] = []
        earliest = inf
        for invocation in (*self._suspects, *(entry[2] for entry in self._heap)):
            if invocation.state is State.QUEUED:
                if invocation.deadline * TICKS_PER_S < before:
                    found.append(invocation)
                elif invocation.deadline < earliest:
                    earliest = invocation.deadline
        for invocation in self._steady:
            if invocation.state is State.QUEUED:
                if invocation.deadline * TICKS_PER_S < before:
                    found.append(invocation)
                    continue
                earliest = min(earliest, invocation.deadline)
                if ordered:
                    break
        return found, earliest

    def _skip_tombstones(self) -> None:
        queued = State.QUEUED
        while self._steady and self._steady[0].state is not queued:
            self._steady.popleft()
            self._tombstones -= 1
        while self._heap and self._heap[0][2].state is not queued:
            heappop(self._heap)
            self._tombstones -= 1
