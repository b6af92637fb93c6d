"""Where synchronous user code runs: on the main thread itself, or on a pool of threads.

`InlineEngine` serves a plain function one call at a time. The main thread reads, calls and writes: handing a batch to
another thread would cost 20 to 50 microseconds each way, and up to 5 ms whenever both want the interpreter lock. The
usual batch takes `express`; the watcher reads only while a call takes longer than its ticks.
`ThreadEngine` serves `max_ongoing_requests` above 1 and generators; there the main thread only reads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol

from clipper.contract.wire import INITIAL_CREDIT, Frame, Invoke, Item, Outcome
from clipper_runtime.channel import Channel, ChannelClosed
from clipper_runtime.codec import Rejected
from clipper_runtime.executor import Answer, Executor, Raised, Work, skipped
from clipper_runtime.express import Express
from clipper_runtime.logs import REQUEST_ID
from clipper_runtime.replies import Replies
from clipper_runtime.watcher import Watcher

__all__ = ["Engine", "InlineEngine", "Lifeline", "ThreadEngine"]

# An unbatched frame's finished items are answered together unless the first of them has waited this long.
_HOLD_ANSWERS_S = 0.002


class Lifeline(Protocol):
    """What an engine needs of the server."""

    @property
    def draining(self) -> bool: ...
    def pump(self, *, wait: bool = True) -> None:
        """Read frames once and hand them out."""
        ...

    def handle(self, frame: Frame) -> None:
        """One frame, under the read lock."""
        ...

    @property
    def watcher(self) -> Watcher:
        """Woken when there is work to watch over."""
        ...

    def fatal(self, error: BaseException) -> None:
        """A thread of the runtime cannot go on: the process ends."""
        ...


class Engine(Protocol):
    """`invoke`, `cancel`, `credit` and `drain` come from whichever thread reads the channel, one at a time."""

    @property
    def busy_since(self) -> float:
        """Monotonic time at which the oldest running call began; 0 when none runs."""
        ...

    def invoke(self, work: Work) -> None: ...
    def cancel(self, ids: Sequence[int]) -> None: ...
    def credit(self, item: int, n: int) -> None: ...
    def drain(self) -> None: ...
    def serve(self) -> None:
        """Run on the main thread until everything that was sent is answered after a drain."""
        ...


class InlineEngine:
    """One call at a time, on the main thread."""

    def __init__(self, executor: Executor, replies: Replies, lifeline: Lifeline, channel: Channel) -> None:
        self._executor = executor
        self._lifeline = lifeline
        self._replies = replies
        self._batched = executor.program.batched
        self._inbox: deque[Work] = deque()
        self._current: Work | Invoke | None = None
        self._cancelled: set[int] = set()
        self.busy_since = 0.0
        self._watcher = lifeline.watcher
        self._express = Express(executor, replies, channel, self, lifeline.handle)

    def invoke(self, work: Work) -> None:
        self._inbox.append(work)

    def cancel(self, ids: Sequence[int]) -> None:
        # Only what still waits is remembered, so that the set empties itself.
        waiting = [w for w in (self._current, *self._inbox.copy()) if w is not None]
        self._cancelled.update({item.id for work in waiting for item in work.items}.intersection(ids))

    def credit(self, item: int, n: int) -> None:
        """Nothing: no streams here."""

    def drain(self) -> None:
        """Nothing: `serve` asks before it waits."""

    def serve(self) -> None:
        lifeline = self._lifeline
        while True:
            while self._inbox:
                self._current = self._inbox[0]
                self._inbox.popleft()
                self.run(self._current)
            self._current = None
            if not lifeline.draining:
                self._turn()
                continue
            lifeline.pump(wait=False)  # what was sent before the drain may still lie in the socket
            if not self._inbox:
                return

    def _turn(self) -> None:
        try:
            while not self._inbox and not self._lifeline.draining:
                self._express.turn()
        except ChannelClosed as error:
            self._lifeline.fatal(error)

    # Owner of the express

    def begin(self, invoke: Invoke, now: float) -> None:
        self._current = invoke
        self.busy_since = now
        if self._watcher.parked:
            self._watcher.wake()

    def end(self, items: Sequence[Item]) -> None:
        self.busy_since = 0.0
        self._current = None  # first: a cancellation that comes now is for nobody, and must not be remembered
        if self._cancelled:
            self._cancelled.difference_update([item.id for item in items])

    def run(self, work: Work) -> None:
        self.busy_since = time.monotonic()
        if self._batched:
            self._replies.answer(work.batch, self._executor.run_batch(work, self._cancelled))
        else:
            self._run_items(work)
        REQUEST_ID.set("")
        self.end(work.items)

    def _run_items(self, work: Work) -> None:
        answer, first_at = Answer(), 0.0
        for item, payload in zip(work.items, work.payloads, strict=True):
            now = time.monotonic()
            if answer.outcomes and now - first_at > _HOLD_ANSWERS_S:
                self._replies.answer(work.batch, answer)
                answer = Answer()
            if not answer.outcomes:
                first_at = now
            if item.id in self._cancelled or 0 < item.timeout_s < now - work.received_at:
                answer.add(skipped(item.id))
            else:
                self.busy_since = now
                self._executor.run_item(item, payload, answer)
        self._replies.answer(work.batch, answer)


class _Slot:
    """An item or batch that waits or runs. Its condition guards the credit of a stream."""

    __slots__ = ("cancelled", "condition", "credit")

    def __init__(self) -> None:
        self.cancelled = False
        self.credit = INITIAL_CREDIT
        self.condition = threading.Condition()

    def take(self) -> bool:
        """Wait until one more chunk may be sent; False once nobody wants it."""
        with self.condition:
            while not self.credit and not self.cancelled:
                self.condition.wait()
            self.credit -= 1
            return not self.cancelled

    def give(self, n: int) -> None:
        with self.condition:
            self.credit += n
            self.condition.notify()

    def cancel(self) -> None:
        with self.condition:
            self.cancelled = True
            self.condition.notify()


class _Cancelled:
    """The ids of a batch that were cancelled, as the container that the executor asks."""

    def __init__(self, slots: dict[int, _Slot]) -> None:
        self._slots = slots

    def __len__(self) -> int:
        return sum(slot.cancelled for slot in self._slots.copy().values())

    def __contains__(self, item: object) -> bool:
        slot = self._slots.get(item)  # type: ignore[call-overload]  # `in` may be asked about anything
        return slot is not None and slot.cancelled


class ThreadEngine:
    """`concurrency` calls at a time, on threads."""

    def __init__(self, executor: Executor, replies: Replies, lifeline: Lifeline, concurrency: int) -> None:
        self._executor = executor
        self._lifeline = lifeline
        self._replies = replies
        self._concurrency = concurrency
        self._slots: dict[int, _Slot] = {}
        self._running: dict[int, float] = {}  # thread -> when its call began; ordered, the oldest first
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()

    @property
    def busy_since(self) -> float:
        return min(self._running.copy().values(), default=0.0)

    def invoke(self, work: Work) -> None:
        self._slots.update({item.id: _Slot() for item in work.items})
        if self._executor.program.batched:
            self._jobs.put(partial(self._run_batch, work))
            return
        run = self._run_stream if self._executor.program.streaming else self._run_item
        for item, payload in zip(work.items, work.payloads, strict=True):
            self._jobs.put(partial(run, work, item, payload))

    def cancel(self, ids: Sequence[int]) -> None:
        for item in ids:
            slot = self._slots.get(item)
            if slot is not None:
                slot.cancel()

    def credit(self, item: int, n: int) -> None:
        slot = self._slots.get(item)
        if slot is not None:
            slot.give(n)

    def drain(self) -> None:
        """Nothing: the server makes reads return now and then, and `serve` asks."""

    def serve(self) -> None:
        for n in range(self._concurrency):
            threading.Thread(target=self._work, name=f"clip-call-{n}", daemon=True).start()
        while not (self._lifeline.draining and self._replies.in_flight == 0):
            self._lifeline.pump()

    def _work(self) -> None:
        me = threading.get_ident()
        try:
            while True:
                job = self._jobs.get()
                self._running[me] = time.monotonic()
                job()
                del self._running[me], job  # a waiting thread holds on to no payload
                REQUEST_ID.set("")
        except BaseException as error:  # noqa: BLE001 - user code's are outcomes: this one is the runtime's end
            self._lifeline.fatal(error)

    def _run_batch(self, work: Work) -> None:
        answer = self._executor.run_batch(work, _Cancelled(self._slots))
        self._finish(work, [item.id for item in work.items], answer)

    def _run_item(self, work: Work, item: Item, payload: memoryview) -> None:
        answer = Answer()
        if not self._skip(work, item, answer):
            self._executor.run_item(item, payload, answer)
        self._finish(work, [item.id], answer)

    def _run_stream(self, work: Work, item: Item, payload: memoryview) -> None:
        answer = Answer()
        if not self._skip(work, item, answer):
            arguments = self._executor.prepare(item, payload, answer)
            if arguments is not None:
                self._stream(item, arguments, answer)
        self._finish(work, [item.id], answer)

    def _stream(self, item: Item, arguments: tuple[Any, ...], answer: Answer) -> None:
        slot, clock, seq = self._slots[item.id], time.perf_counter, 0
        values: Any = None
        try:
            began = clock()
            values = iter(self._executor.program.call(*arguments))
            for value in values:
                answer.exec_s += clock() - began
                body, content_type = self._executor.encode_chunk(item, value)
                if not slot.take():
                    answer.add(skipped(item.id, "cancelled while it streamed"))
                    return
                self._replies.chunk(item.id, seq, content_type, body)
                seq += 1
                began = clock()
            answer.exec_s += clock() - began
            answer.add(Outcome(item.id, 0))
        except ChannelClosed:
            raise
        except Rejected as error:
            answer.add(Outcome(item.id, error.status, message=error.message))
        except BaseException as error:  # noqa: BLE001 - whatever user code raises is an outcome
            self._executor.finish(item, Raised(error), answer)
        finally:
            self._close(item, values, answer)

    def _close(self, item: Item, values: Any, answer: Answer) -> None:
        close = getattr(values, "close", None)
        if close is None:
            return
        try:
            close()
        except BaseException as error:  # noqa: BLE001 - the generator's clean-up is user code too
            ignored = Answer()  # the item has its outcome; the traceback goes to the log
            self._executor.finish(item, Raised(error), ignored)

    def _skip(self, work: Work, item: Item, answer: Answer) -> bool:
        late = 0 < item.timeout_s < time.monotonic() - work.received_at
        if late or self._slots[item.id].cancelled:
            answer.add(skipped(item.id))
            return True
        return False

    def _finish(self, work: Work, ids: Sequence[int], answer: Answer) -> None:
        for item in ids:
            self._slots.pop(item, None)
        self._replies.answer(work.batch, answer)
