"""Where asynchronous user code runs: an event loop on the main thread, one task per call.

Imported only for async functions: asyncio costs a replica of a plain function some 40 ms of start-up.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from clipper.contract.wire import INITIAL_CREDIT, Item, Outcome, ProtocolError
from clipper_runtime.channel import ChannelClosed
from clipper_runtime.codec import Rejected
from clipper_runtime.engines import Lifeline
from clipper_runtime.executor import Answer, Executor, Raised, Work, skipped
from clipper_runtime.replies import Replies

__all__ = ["AsyncEngine", "Loop"]


class Loop:
    """The event loop of a replica: its setup, its calls and its `close` share it."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def call(self, function: Callable[[], Any]) -> Any:
        """Call `function` inside the loop, awaiting what it returns if that can be awaited."""

        async def inside() -> Any:
            value = function()
            return await value if inspect.isawaitable(value) else value

        return self._runner.run(inside())

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._runner.run(coroutine)

    def close(self) -> None:
        """Cancel what user code left running and close the loop."""
        self._runner.close()


class _Call:
    """A task and the items it answers."""

    __slots__ = ("began", "cancelled", "items", "task")

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.cancelled: set[int] = set()
        self.began = 0.0
        self.task: asyncio.Task[Answer] | None = None


class _Credit:
    """Chunks that a stream may still send."""

    def __init__(self) -> None:
        self._left = INITIAL_CREDIT
        self._more = asyncio.Event()

    async def take(self) -> None:
        while not self._left:
            self._more.clear()
            await self._more.wait()
        self._left -= 1

    def give(self, n: int) -> None:
        self._left += n
        self._more.set()


class AsyncEngine:
    """`concurrency` calls at a time, as tasks; the others wait their turn in the order they came."""

    def __init__(
        self,
        executor: Executor,
        replies: Replies,
        lifeline: Lifeline,
        concurrency: int,
        *,
        loop: Loop,
        descriptor: int,
    ) -> None:
        self._lifeline = lifeline
        self._executor = executor
        self._replies = replies
        self._loop = loop
        self._descriptor = descriptor
        self._slots = asyncio.Semaphore(concurrency)
        self._thread = threading.get_ident()
        self._events: deque[Callable[[], None]] = deque()  # what the reading thread said, in order
        self._calls: dict[int, _Call] = {}  # by item
        self._credits: dict[int, _Credit] = {}
        self._answers: dict[int, Answer] = {}  # by batch: finished in this turn of the loop
        self._running: asyncio.AbstractEventLoop | None = None
        self._drained = asyncio.Event()

    @property
    def busy_since(self) -> float:
        return min((call.began for call in self._calls.copy().values() if call.began), default=0.0)

    # From whichever thread reads

    def invoke(self, work: Work) -> None:
        self._tell(partial(self._begin, work))

    def cancel(self, ids: Sequence[int]) -> None:
        self._tell(partial(self._cancel, ids))

    def credit(self, item: int, n: int) -> None:
        self._tell(partial(self._give, item, n))

    def drain(self) -> None:
        if self._running is not None:  # also from a signal handler, where only this call is safe
            self._running.call_soon_threadsafe(self._check_drained)

    def _tell(self, event: Callable[[], None]) -> None:
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
        if self._executor.program.batched:
            call = _Call(work.items)
            self._start(work, call, self._run_batch(work, call))
            return
        run = self._run_stream if self._executor.program.streaming else self._run_item
        for item, payload in zip(work.items, work.payloads, strict=True):
            call = _Call([item])
            self._start(work, call, run(work, call, payload))

    def _start(self, work: Work, call: _Call, run: Coroutine[Any, Any, Answer]) -> None:
        self._calls.update({item.id: call for item in call.items})
        call.task = asyncio.get_running_loop().create_task(run)
        call.task.add_done_callback(partial(self._finish, work, call))

    def _cancel(self, ids: Sequence[int]) -> None:
        for item in ids:
            call = self._calls.get(item)
            if call is None:
                continue
            call.cancelled.add(item)
            # A batch goes on as long as anyone waits for one of its items.
            if call.task is not None and len(call.cancelled) == len(call.items):
                call.task.cancel()

    def _give(self, item: int, n: int) -> None:
        credit = self._credits.get(item)
        if credit is not None:
            credit.give(n)

    def _finish(self, work: Work, call: _Call, task: asyncio.Task[Answer]) -> None:
        for item in call.items:
            del self._calls[item.id]
        answer = Answer()
        if task.cancelled():
            for item in call.items:
                answer.add(skipped(item.id, "cancelled"))
        elif (error := task.exception()) is not None:
            self._lifeline.fatal(error)
            return
        else:
            answer = task.result()
        self._collect(work.batch, answer)

    def _collect(self, batch: int, answer: Answer) -> None:
        """Answers of one turn of the loop leave together: one write instead of one per item."""
        if not self._answers:
            asyncio.get_running_loop().call_soon(self._send)
        known = self._answers.setdefault(batch, answer)
        if known is not answer:
            known.outcomes += answer.outcomes
            known.bodies += answer.bodies
            known.exec_s += answer.exec_s
            known.reruns += answer.reruns

    def _send(self) -> None:
        answers, self._answers = self._answers, {}
        try:
            for batch, answer in answers.items():
                self._replies.answer(batch, answer)
        except ChannelClosed as error:
            self._lifeline.fatal(error)
        self._check_drained()

    async def _run_batch(self, work: Work, call: _Call) -> Answer:
        async with self._slots:
            call.began = time.monotonic()
            return await self._executor.arun_batch(work, call.cancelled)

    async def _run_item(self, work: Work, call: _Call, payload: memoryview) -> Answer:
        answer, item = Answer(), call.items[0]
        async with self._slots:
            call.began = time.monotonic()
            if 0 < item.timeout_s < call.began - work.received_at:
                answer.add(skipped(item.id))
            else:
                await self._executor.arun_item(item, payload, answer)
        return answer

    async def _run_stream(self, work: Work, call: _Call, payload: memoryview) -> Answer:
        answer, item = Answer(), call.items[0]
        credit = self._credits[item.id] = _Credit()
        try:
            async with self._slots:
                call.began = time.monotonic()
                if 0 < item.timeout_s < call.began - work.received_at:
                    answer.add(skipped(item.id))
                    return answer
                arguments = self._executor.prepare(item, payload, answer)
                if arguments is not None:
                    await self._stream(item, arguments, credit, answer)
        finally:
            del self._credits[item.id]
        return answer

    async def _stream(self, item: Item, arguments: tuple[Any, ...], credit: _Credit, answer: Answer) -> None:
        clock, seq = time.perf_counter, 0
        values: Any = None
        try:
            began = clock()
            values = self._executor.program.call(*arguments)
            async for value in values:
                answer.exec_s += clock() - began
                body, content_type = self._executor.encode_chunk(item, value)
                await credit.take()
                self._replies.chunk(item.id, seq, content_type, body)
                seq += 1
                began = clock()
            answer.exec_s += clock() - began
            answer.add(Outcome(item.id, 0))
        except Rejected as error:
            answer.add(Outcome(item.id, error.status, message=error.message))
        except ChannelClosed:
            raise
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            self._executor.finish(item, Raised(error), answer)
        finally:
            await self._close(item, values)

    async def _close(self, item: Item, values: Any) -> None:
        close = getattr(values, "aclose", None)
        if close is None:
            return
        try:
            await close()
        except Exception as error:  # noqa: BLE001 - the generator's clean-up is user code too
            ignored = Answer()  # the item has its outcome; the traceback goes to the log
            self._executor.finish(item, Raised(error), ignored)
