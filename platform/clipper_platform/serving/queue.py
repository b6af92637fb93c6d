"""The bounded queue of one function: earliest deadline first, removal in O(1)."""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from math import inf

from clipper_platform.serving.deadlines import TICKS_PER_S
from clipper_platform.serving.invocation import Invocation, State

__all__ = ["InvocationQueue"]

# In place of a deque in which nothing was put yet: an empty one takes 760 bytes, and most queues of most functions are
# empty. It keeps nothing itself.
_NONE: deque[Invocation] = deque(maxlen=0)


class InvocationQueue:
    """Invocations that wait, by deadline. A removed invocation stays in place as a husk (its state is not QUEUED) and
    is passed over; husks are swept once they outnumber the living, so that memory follows the live count.

    Deadlines mostly grow with arrival, and then a deque is a sorted list for free. Those that come with an earlier
    deadline than the youngest go to a heap. Both are sorted, so the next one is the smaller of their heads. Suspects,
    which must run alone, wait in a queue of their own and go first.
    """

    __slots__ = ("_heap", "_husks", "_seq", "_steady", "_suspects", "live", "weight")

    def __init__(self) -> None:
        self._steady = _NONE
        self._heap: list[tuple[float, int, Invocation]] = []
        self._suspects = _NONE
        self._seq = 0
        self._husks = 0
        self.live = 0
        self.weight = 0  # of all that wait, in items

    def __len__(self) -> int:
        return self.live

    @property
    def held(self) -> int:
        """Entries in memory, husks included."""
        return len(self._steady) + len(self._heap) + len(self._suspects)

    def push(self, invocation: Invocation) -> None:
        invocation.state = State.QUEUED
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
        self.live -= 1
        self.weight -= invocation.weight
        self._husks += 1
        if not self.live:
            self.rest()
        elif self._husks > 64 and self._husks > self.live:
            self._sweep()

    def rest(self) -> None:
        """Keep nothing while nothing waits: no husks, which hold their requests' bodies, and no room for others."""
        if not self.live:
            self._steady = self._suspects = _NONE
            self._heap = []
            self._husks = 0

    def _sweep(self) -> None:
        self._steady = deque(i for i in self._steady if i.state is State.QUEUED)
        self._suspects = deque(i for i in self._suspects if i.state is State.QUEUED)
        self._heap = [entry for entry in self._heap if entry[2].state is State.QUEUED]
        heapify(self._heap)
        self._husks = 0

    def suspect(self) -> Invocation | None:
        """The next invocation that must run alone, left in the queue."""
        while self._suspects:
            if self._suspects[0].state is State.QUEUED:
                return self._suspects[0]
            self._suspects.popleft()
            self._husks -= 1
        return None

    def pop_suspect(self) -> Invocation:
        """Take what `suspect` showed."""
        return self._taken(self._suspects.popleft())

    @property
    def waiting(self) -> int:
        """Those that may share a batch."""
        return self.live - sum(i.state is State.QUEUED for i in self._suspects) if self._suspects else self.live

    def peek(self) -> Invocation | None:
        """The one with the earliest deadline, suspects aside."""
        self._skip_husks()
        if not self._heap:
            return self._steady[0] if self._steady else None
        if not self._steady or self._heap[0][0] < self._steady[0].deadline:
            return self._heap[0][2]
        return self._steady[0]

    def pop(self) -> Invocation | None:
        """Take what `peek` shows."""
        head = self.peek()
        if head is None:
            return None
        if self._steady and self._steady[0] is head:
            self._steady.popleft()
        else:
            heappop(self._heap)
        return self._taken(head)

    def take(
        self, limit: int, room: int, latest: float, max_bytes: int
    ) -> tuple[list[Invocation], int, list[Invocation]]:
        """The next batch, suspects aside, and its weight: at most `room` invocations, of at most `limit` in weight and
        `max_bytes` in all unless a single one is larger. Third, those found before them whose deadline is not after
        `latest`, taken out too.
        """
        items: list[Invocation] = []
        late: list[Invocation] = []
        steady, heap, queued, new = self._steady, self._heap, State.QUEUED, State.NEW
        weight = size = dropped = 0
        while len(items) < room:
            if heap:
                head = self.peek()
                if head is None:
                    break
            elif steady:
                head = steady[0]
                if head.state is not queued:
                    steady.popleft()
                    self._husks -= 1
                    continue
            else:
                break
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
        self.live -= len(items) + len(late)
        self.weight -= weight + dropped
        return items, weight, late

    def due(self, before: int, *, ordered: bool) -> tuple[list[Invocation], float]:
        """Those whose deadline is earlier than `before`, in ticks of the wheel, left in place; and the earliest
        deadline of the others in seconds (inf).

        `ordered` False looks at all of them: deadlines moved since they came.
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

    def _taken(self, invocation: Invocation) -> Invocation:
        invocation.state = State.NEW
        self.live -= 1
        self.weight -= invocation.weight
        return invocation

    def _skip_husks(self) -> None:
        queued = State.QUEUED
        while self._steady and self._steady[0].state is not queued:
            self._steady.popleft()
            self._husks -= 1
        while self._heap and self._heap[0][2].state is not queued:
            heappop(self._heap)
            self._husks -= 1
