"""Where synchronous user code runs: on the main thread itself, or on a pool of threads.

`InlineEngine` serves a plain function, one call at a time. The main thread reads, calls and writes: handing a batch to
another thread costs 20 to 50 µs each way, and up to 5 ms when both threads want the interpreter lock. The watcher
reads only while a call takes longer than its ticks.
`ThreadEngine` serves generators and functions with `max_ongoing_requests` above 1; its main thread only reads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any, Protocol

from clipper.contract.wire import INITIAL_CREDIT
from clipper_runtime.channel import Channel, ChannelClosed
from clipper_runtime.core import ExecutionCore, complete
from clipper_runtime.logs import REQUEST_ID
from clipper_runtime.replies import Replies
from clipper_runtime.work import Answer, Work

__all__ = ["Engine", "InlineEngine", "Lifeline", "ThreadEngine"]

# Finished items of an unbatched frame are answered together unless the first of them has waited this long.
_HOLD_ANSWERS_S = 0.002

# With so few items in a batch, sleeping between two batches would take most of the time.
_FEW_ITEMS = 2


class Lifeline(Protocol):
    """The part of the server that an engine uses."""

    @property
    def draining(self) -> bool: ...
    def pump(self, *, wait: bool = True) -> None:
        """Read once and handle each complete frame."""
        ...

    def handle(self, message: Any, body: memoryview) -> None:
        """Handle one frame, under the read lock."""
        ...

    def fatal(self, error: BaseException) -> None:
        """End the process: a thread of the runtime cannot continue."""
        ...


class Engine(Protocol):
    """The thread that reads the channel calls `invoke`, `cancel`, `withdraw`, `credit` and `drain`, one at a time."""

    @property
    def busy_since(self) -> float:
        """Monotonic time at which the oldest running call began; 0 when no call runs."""
        ...

    def invoke(self, work: Work) -> None: ...
    def cancel(self, ids: Sequence[int]) -> None: ...
    def withdraw(self, ids: Sequence[int]) -> None:
        """Answer those that have not begun as cancelled, at once. Nothing else happens to the others."""
        ...

    def credit(self, item: int, n: int) -> None: ...
    def drain(self) -> None: ...
    def serve(self) -> None:
        """Run on the main thread until, after a drain, every item is answered."""
        ...


class InlineEngine:
    """One call at a time, on the main thread. `flush`, which the watcher calls, sends answers during a long call."""

    def __init__(self, core: ExecutionCore, replies: Replies, lifeline: Lifeline, channel: Channel) -> None:
        self._core = core
        self._lifeline = lifeline
        self._replies = replies
        self._channel = channel
        self._few = False  # few calls come together
        self._claim = threading.Lock()  # a call begins, or is withdrawn; guards the next four
        self._inbox: deque[Work] = deque()
        self._calls: list[Work] = []  # of the current frame, not begun, the next one last
        self._ended = Answer()  # calls of the current frame that ended and are not answered
        self._current: Work | None = None
        self.busy_since = 0.0

    def invoke(self, work: Work) -> None:
        self._inbox.append(work)

    def cancel(self, ids: Sequence[int]) -> None:
        for work in (self._current, *self._inbox.copy()):
            if work is not None:
                work.cancel(ids)

    def withdraw(self, ids: Sequence[int]) -> None:
        wanted = set(ids)
        with self._claim:
            found = [(work.batch, work.withdraw(wanted)) for work in (*self._calls, *self._inbox)]
        for batch, items in found:
            self._replies.withdrawn(batch, items)

    def flush(self) -> None:
        """Send the answers of calls that ended."""
        with self._claim:
            ended, self._ended = self._ended, Answer()
            batch = self._current.batch if self._current is not None else 0
        self._replies.answer(batch, ended, amid_call=True)

    def credit(self, item: int, n: int) -> None:
        """Does nothing: this engine has no streams."""

    def drain(self) -> None:
        """Does nothing: `serve` checks before it waits."""

    def serve(self) -> None:
        pump, handle, inbox = self._channel.pump, self._lifeline.handle, self._inbox
        try:
            while True:
                while inbox:
                    self._run_next()
                if not self._lifeline.draining:
                    pump(handle, expecting=self._few)
                    continue
                pump(handle, wait=False)  # what was sent before the drain may still lie in the socket
                if not inbox:
                    return
        except ChannelClosed as error:
            self._lifeline.fatal(error)

    def _run_next(self) -> None:
        """Run the calls of the next frame."""
        with self._claim:
            # Before it leaves the inbox: a cancellation finds it in one of the two.
            self._current = work = self._inbox[0]
            self._inbox.popleft()
            first, *others = self._core.calls(work) if work.items else (work,)
            self._calls = others[::-1]
        answer = Answer()
        self._run(first, answer)
        if others:
            answer = self._run_others(work, answer)
        self._replies.answer(work.batch, answer)
        self._current = None
        self.busy_since = 0.0
        self._few = len(work.items) <= _FEW_ITEMS
        REQUEST_ID.set("")

    def _run(self, call: Work, answer: Answer) -> None:
        if call.items:  # else all of them were withdrawn
            self.busy_since = time.monotonic()
            self._core.run_now(call, answer)

    def _run_others(self, work: Work, answer: Answer) -> Answer:
        """Run the calls of a frame behind its first one; the answers that were not sent meanwhile."""
        first_at = time.monotonic()
        while True:
            with self._claim:
                self._ended.extend(answer)
                if not self._calls:
                    ended, self._ended = self._ended, Answer()
                    return ended
                call = self._calls.pop()
            answer = Answer()
            now = time.monotonic()
            if now - first_at > _HOLD_ANSWERS_S:
                self.flush()
                first_at = now
            self._run(call, answer)


class _ThreadCall:
    """A call that waits or runs, and the outlet of its stream. The lock guards the credit and the begin."""

    __slots__ = ("_begun", "_credit", "_credited", "_lock", "send", "work")

    def __init__(self, work: Work, replies: Replies) -> None:
        self.work = work
        self._begun = False
        self.send = replies.chunk
        self._credit = INITIAL_CREDIT
        self._lock = threading.Lock()  # taken as such, it costs a quarter of what it costs by way of a condition
        self._credited = threading.Condition(self._lock)

    def take(self) -> bool:
        with self._lock:
            if not self._credit or self.work.unwanted:
                return False
            self._credit -= 1
            return True

    async def wait(self) -> bool:
        with self._lock:
            while not self._credit and not self.work.unwanted:
                self._credited.wait()
            self._credit -= 1
            return not self.work.unwanted

    def give(self, n: int) -> None:
        with self._lock:
            self._credit += n
            self._credited.notify()

    def cancel(self, ids: Sequence[int]) -> None:
        with self._lock:
            self.work.cancel(ids)
            self._credited.notify()

    def begin(self) -> bool:
        """Whether anything is left to run: what was withdrawn is not."""
        with self._lock:
            self._begun = True
            return bool(self.work.items)

    def withdraw(self, ids: set[int]) -> list[int]:
        with self._lock:
            return [] if self._begun else self.work.withdraw(ids)


class ThreadEngine:
    """`concurrency` calls at a time, on threads."""

    def __init__(self, core: ExecutionCore, replies: Replies, lifeline: Lifeline, concurrency: int) -> None:
        self._core = core
        self._lifeline = lifeline
        self._replies = replies
        self._concurrency = concurrency
        self._calls: dict[int, _ThreadCall] = {}  # by item
        self._running: dict[int, float] = {}  # thread -> when its call began; ordered, the oldest first
        self._waiting: SimpleQueue[_ThreadCall | None] = SimpleQueue()  # None ends a thread

    @property
    def busy_since(self) -> float:
        return min(self._running.copy().values(), default=0.0)

    def invoke(self, work: Work) -> None:
        for part in self._core.calls(work):
            call = _ThreadCall(part, self._replies)
            self._calls.update({item.id: call for item in part.items})
            self._waiting.put(call)

    def cancel(self, ids: Sequence[int]) -> None:
        for item in ids:
            if (call := self._calls.get(item)) is not None:
                call.cancel((item,))

    def withdraw(self, ids: Sequence[int]) -> None:
        for item in ids:
            if (call := self._calls.get(item)) is not None and call.withdraw({item}):
                self._calls.pop(item, None)
                self._replies.withdrawn(call.work.batch, (item,))

    def credit(self, item: int, n: int) -> None:
        if (call := self._calls.get(item)) is not None:
            call.give(n)

    def drain(self) -> None:
        """Does nothing: reads time out while the replica drains, and `serve` checks after each."""

    def serve(self) -> None:
        for n in range(self._concurrency):
            threading.Thread(target=self._work, name=f"clip-call-{n}", daemon=True).start()
        while not (self._lifeline.draining and self._replies.in_flight == 0):
            self._lifeline.pump()
        for _ in range(self._concurrency):
            self._waiting.put(None)

    def _work(self) -> None:
        me, streaming = threading.get_ident(), self._core.program.streaming
        try:
            while (call := self._waiting.get()) is not None:
                if not call.begin():
                    continue
                self._running[me] = time.monotonic()
                answer = Answer()
                complete(self._core.run(call.work, answer, call if streaming else None))
                for item in call.work.items:
                    self._calls.pop(item.id, None)
                self._replies.answer(call.work.batch, answer)
                del self._running[me], call, answer  # a waiting thread holds on to no payload
                REQUEST_ID.set("")
        except BaseException as error:  # noqa: BLE001 - errors of user code are outcomes: this one is a defect
            self._lifeline.fatal(error)
