"""Where asynchronous user code runs: an event loop on the main thread, one task per call.

Imported for async functions only: asyncio would cost a replica of a plain function 40 ms of start-up.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

from clipper.contract.wire import INITIAL_CREDIT, ProtocolError
from clipper_runtime.channel import ChannelClosed
from clipper_runtime.core import ExecutionCore
from clipper_runtime.engines import Lifeline
from clipper_runtime.outcomes import failed, skipped
from clipper_runtime.replies import Replies
from clipper_runtime.work import Answer, Work

__all__ = ["AsyncEngine", "Loop"]

# The platform did not ask for it, so it is the function's own doing: its code cancels its task, or all tasks.
SELF_CANCELLED: Final = asyncio.CancelledError("the function's own code cancelled the task of this call")


class Loop:
    """The event loop of a replica: its setup, its calls and its `close` share it."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def call(self, function: Callable[[], Any]) -> Any:
        """Call `function` inside the loop and await its result if that is awaitable."""

        async def inside() -> Any:
            value = function()
            return await value if inspect.isawaitable(value) else value

        return self._runner.run(inside())

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._runner.run(coroutine)

    def close(self) -> None:
        """Cancel the tasks that user code left running and close the loop."""
        self._runner.close()


class _AsyncCall:
    """A call that waits or runs as a task; the outlet of its stream."""

    __slots__ = ("_credit", "_more", "began", "send", "task", "work")

    def __init__(self, work: Work, replies: Replies) -> None:
        self.work = work
        self.began = 0.0
        self.task: asyncio.Task[Answer] | None = None
        self.send = replies.chunk
        self._credit = INITIAL_CREDIT
        self._more: asyncio.Future[None] | None = None  # there while the stream waits for credit

    def take(self) -> bool:
        if not self._credit:
            return False
        self._credit -= 1
        return True

    async def wait(self) -> bool:
        while not self._credit:
            self._more = asyncio.get_running_loop().create_future()
            await self._more
        self._credit -= 1
        return True  # cancelling a stream cancels its task, which raises CancelledError above

    def give(self, n: int) -> None:
        self._credit += n
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def cancel(self, item: int) -> None:
        self.work.cancel((item,))
        # A batch continues while a caller waits for any of its items.
        if self.task is not None and self.work.unwanted:
            self.task.cancel()


class AsyncEngine:
    """`concurrency` calls at a time, as tasks; the other calls wait in their order of arrival."""

    def __init__(
        self,
        core: ExecutionCore,
        replies: Replies,
        lifeline: Lifeline,
        concurrency: int,
        *,
        loop: Loop,
        descriptor: int,
    ) -> None:
        self._core = core
        self._lifeline = lifeline
        self._replies = replies
        self._loop = loop
        self._descriptor = descriptor
        self._slots = asyncio.Semaphore(concurrency)
        self._claim = threading.Lock()  # a call begins, or is withdrawn
        self._thread = threading.get_ident()
        self._events: deque[partial[None]] = deque()  # what the reading thread received, in order
        self._calls: dict[int, _AsyncCall] = {}  # by item
        self._answers: dict[int, Answer] = {}  # by batch: finished in this turn of the loop
        self._running: asyncio.AbstractEventLoop | None = None
        self._drained = asyncio.Event()

    @property
    def busy_since(self) -> float:
        return min((call.began for call in self._calls.copy().values() if call.began), default=0.0)

    # Called by the thread that reads

    def invoke(self, work: Work) -> None:
        self._post(partial(self._begin, work))

    def cancel(self, ids: Sequence[int]) -> None:
        self._post(partial(self._cancel, ids))

    def withdraw(self, ids: Sequence[int]) -> None:
        """Also while user code blocks the loop: what the loop has not begun is answered here."""
        wanted = set(ids)
        for event in self._events.copy():
            work = event.args[0]
            if not isinstance(work, Work):
                continue
            try:
                self._events.remove(event)
            except ValueError:  # the loop took it meanwhile
                continue
            self._replies.withdrawn(work.batch, work.withdraw(wanted))
            if work.items:
                self._events.appendleft(event)
        for item in ids:
            if (call := self._calls.get(item)) is not None:
                self._withdraw(call, wanted)

    def _withdraw(self, call: _AsyncCall, ids: set[int]) -> None:
        with self._claim:
            taken = [] if call.began else call.work.withdraw(ids)
        for item in taken:
            self._calls.pop(item, None)
        self._replies.withdrawn(call.work.batch, taken)

    def credit(self, item: int, n: int) -> None:
        self._post(partial(self._give, item, n))

    def drain(self) -> None:
        if self._running is not None:  # a signal handler calls this too, where no other call is safe
            self._running.call_soon_threadsafe(self._check_drained)

    def _post(self, event: partial[None]) -> None:
        self._events.append(event)
        if self._running is not None and threading.get_ident() != self._thread:
            self._running.call_soon_threadsafe(self._process)

    # In the loop

    def serve(self) -> None:
        self._loop.run(self._serve())

    async def _serve(self) -> None:
        self._running = asyncio.get_running_loop()
        self._process()
        self._running.add_reader(self._descriptor, self._on_readable)
        self._check_drained()
        while not self._drained.is_set():
            # Only user code that cancels all tasks of its loop cancels this one: the replica goes on.
            with contextlib.suppress(asyncio.CancelledError):
                await self._drained.wait()
        self._running.remove_reader(self._descriptor)

    def _on_readable(self) -> None:
        try:
            self._lifeline.pump(wait=False)
            self._process()
        except (ChannelClosed, ProtocolError) as error:
            self._lifeline.fatal(error)

    def _process(self) -> None:
        while self._events:
            self._events.popleft()()

    def _check_drained(self) -> None:
        if self._lifeline.draining and not self._calls and not self._answers:
            self._drained.set()

    def _begin(self, work: Work) -> None:
        for part in self._core.calls(work):
            call = _AsyncCall(part, self._replies)
            self._calls.update({item.id: call for item in part.items})
            call.task = asyncio.get_running_loop().create_task(self._run(call))
            call.task.add_done_callback(partial(self._finish, call))

    async def _run(self, call: _AsyncCall) -> Answer:
        answer = Answer()
        async with self._slots:
            with self._claim:
                if not call.work.items:
                    return answer  # withdrawn
                call.began = time.monotonic()
            await self._core.run(call.work, answer, call if self._core.program.streaming else None)
        return answer

    def _cancel(self, ids: Sequence[int]) -> None:
        for item in ids:
            if (call := self._calls.get(item)) is not None:
                call.cancel(item)

    def _give(self, item: int, n: int) -> None:
        if (call := self._calls.get(item)) is not None:
            call.give(n)

    def _finish(self, call: _AsyncCall, task: asyncio.Task[Answer]) -> None:
        for item in call.work.items:
            del self._calls[item.id]
        answer = Answer()
        if task.cancelled():
            for item in call.work.items:
                answer.add(skipped(item.id, "cancelled") if call.work.unwanted else failed(item.id, SELF_CANCELLED))
        elif (error := task.exception()) is not None:
            self._lifeline.fatal(error)
            return
        else:
            answer = task.result()
        self._collect(call.work.batch, answer)

    def _collect(self, batch: int, answer: Answer) -> None:
        """Send the answers of one turn of the loop together: one write instead of one per item."""
        if not self._answers:
            asyncio.get_running_loop().call_soon(self._send)
        known = self._answers.setdefault(batch, answer)
        if known is not answer:
            known.extend(answer)

    def _send(self) -> None:
        answers, self._answers = self._answers, {}
        try:
            for batch, answer in answers.items():
                self._replies.answer(batch, answer)
        except ChannelClosed as error:
            self._lifeline.fatal(error)
        self._check_drained()
