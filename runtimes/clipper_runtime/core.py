"""The execution core: decode the payloads, call user code, encode what it returns, an outcome for each item.

These steps and the errors of each are written once. The core is a coroutine that waits only for an async function or
for the credit of a stream; `complete` runs it for a plain function, on any thread and without an event loop. An
unbatched item is a batch of one whose argument and value are not wrapped in lists.

A batch of JSON without errors passes through C loops (msgspec, map, zip) with a few Python calls around them, however
many items it has: after a wait the processor's caches and branch predictors are cold, and each bytecode costs several
times what a warm loop shows. A separate path that decoded, called and encoded such batches in half as many Python calls
saved 3 to 4 µs of 13 for a batch of one and 0.1 µs of 1.3 per invocation for batches of 32
(`tests/benchmarks/runtime_path.py`). The whole platform answers 0.96 times as many requests per second without it over
one connection, and 0.99 times over 64 (`python -m tests.benchmarks.trees`, beside the tree that had it).
"""

from __future__ import annotations

import time
from collections.abc import Coroutine, Generator, Sequence
from itertools import repeat
from operator import attrgetter
from typing import Any, Final

from clipper.contract.wire import Chunk, Item, Outcome, ResponseHead, Status
from clipper_runtime.batch_values import as_list, has_wrong_length
from clipper_runtime.channel import ChannelClosed
from clipper_runtime.codec import Rejected, alike, as_columns
from clipper_runtime.loader import Program
from clipper_runtime.logs import REQUEST_ID, LogBuffer, format_error
from clipper_runtime.outcomes import failed, not_a_list, refused, skipped, too_large, wrong_length
from clipper_runtime.outlet import Outlet
from clipper_runtime.responses import Response, piece_of_body, response_body, response_outcome
from clipper_runtime.work import Answer, Work

__all__ = ["ExecutionCore", "complete", "split_guilty"]

# Deadlines of items that waited less than this are not checked.
_NEGLIGIBLE_WAIT_S: Final = 0.001

_END: Final = object()
_OK: Final = int(Status.OK)
_NO_VALUES: Final = (BaseException, Response)
_item_ids = attrgetter("id")
_accepts = attrgetter("accept")


class Raised:
    """What a call raised, as a value."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def complete(run: Coroutine[Any, Any, None]) -> None:
    """Run `ExecutionCore.run` of a plain function to its end: it never waits for an event loop."""
    try:
        run.send(None)
    except StopIteration:
        return
    raise RuntimeError("the call of a plain function waited for an event loop")


class ExecutionCore:
    """Runs one program. `max_payload_bytes`: the largest encoded value that is sent.

    `bisect`: a failed batch runs again in parts, so that only the items that fail alone get the error.
    """

    def __init__(self, program: Program, logs: LogBuffer, *, bisect: bool = True, max_payload_bytes: int) -> None:
        self.program = program
        self._function = program.call
        self._codec = program.codec
        self._batched = program.batched
        self._is_async = program.kind == "async"
        self._logs = logs
        self._bisects = bisect
        self._max_payload_bytes = max_payload_bytes

    def calls(self, work: Work) -> Sequence[Work]:
        """One call takes all items together where the function is batched, else each item is a call."""
        return (work,) if self._batched or len(work.items) == 1 else work.parts()

    async def run(self, work: Work, answer: Answer, outlet: Outlet | None = None) -> None:
        """Run one of `calls` and add its outcomes to `answer`; `outlet` for a function that streams.

        REQUEST_ID is that of the item while one item runs alone, and the caller resets it after it sent the answer.
        Cancelling the task of an async function cancels the call and raises CancelledError where all items of `work`
        are cancelled; else the function cancelled it, which is an error of the function. Raises ChannelClosed.
        """
        items, arguments = self._decode(work, answer)
        if not items:
            return
        if outlet is not None:
            await self._stream(work, items[0], arguments, outlet, answer)
            return
        value = await self._call(work, arguments, answer)
        if not self._encode(items, value, answer):
            await self._bisect(work, items, answer)

    def run_now(self, work: Work, answer: Answer) -> None:
        """`run` of a plain function that does not stream, without a coroutine.

        Saves 0.3 µs of 17 for a batch of one, and 0.2 µs of 3.3 per invocation for batches of 8
        (`tests/benchmarks/runtime_path.py`).
        """
        items, arguments = self._decode(work, answer)
        if not items:
            return
        began = time.perf_counter()
        try:
            value = self._function(*arguments)
        except BaseException as error:  # noqa: BLE001 - every exception of user code is an outcome
            value = Raised(error)
        answer.exec_s += time.perf_counter() - began
        if not self._encode(items, value, answer):
            complete(self._bisect(work, items, answer))

    # Decode

    def _decode(self, work: Work, answer: Answer) -> tuple[Sequence[Item], Sequence[Any]]:
        """The items that can run, with the arguments of their call; the others are answered."""
        items, payloads = work.items, work.payloads
        waited = time.monotonic() - work.received_at
        if waited > _NEGLIGIBLE_WAIT_S or work.cancelled:
            items, payloads = _skip(work, waited, answer)
            if not items:
                return items, ()
        if len(items) == 1:
            REQUEST_ID.set(items[0].request_id)
        try:
            return items, self._codec.arguments(items, payloads)
        except BaseException as error:  # noqa: BLE001 - a type's own validation is user code too
            if not self._batched:
                self._refuse(items[0], error, answer)
                return (), ()
        good, rows = [], []
        for item, payload in zip(items, payloads, strict=True):
            try:
                rows.append(self._codec.decode(item.content_type, payload))
            except BaseException as error:  # noqa: BLE001 - as above
                self._refuse(item, error, answer)
            else:
                good.append(item)
        if len(good) == 1:
            REQUEST_ID.set(good[0].request_id)
        return good, as_columns(rows)

    # Call

    async def _call(self, work: Work, arguments: Sequence[Any], answer: Answer) -> Any:
        """What user code returned, or Raised."""
        clock = time.perf_counter
        began = clock()
        try:
            value = self._function(*arguments)
            if self._is_async:
                value = await value
        except BaseException as error:
            if self._is_async and _was_cancelled(error, work):
                raise
            value = Raised(error)
        answer.exec_s += clock() - began
        return value

    async def _bisect(self, work: Work, items: Sequence[Item], answer: Answer) -> None:
        """Run a failed batch again in parts until each item has succeeded, or failed alone."""
        payloads = {item.id: payload for item, payload in zip(work.items, work.payloads, strict=True)}
        plan = split_guilty(0, len(items))
        low, high = next(plan)
        while True:
            part = items[low:high]
            answer.reruns += 1
            REQUEST_ID.set(part[0].request_id if len(part) == 1 else "")
            # Decoded again: the failed run may have changed its arguments in place.
            arguments = self._codec.arguments(part, [payloads[item.id] for item in part])
            value = await self._call(work, arguments, answer)
            part_failed = isinstance(value, Raised) or has_wrong_length(value, len(part))
            self._encode(part, value, answer)  # a failed part of several items is bisected further
            try:
                low, high = plan.send(part_failed)
            except StopIteration:
                return

    async def _stream(self, work: Work, item: Item, arguments: Sequence[Any], outlet: Outlet, answer: Answer) -> None:
        clock, seq, raw = time.perf_counter, 0, False
        head: ResponseHead | None = None
        values: Any = None
        try:
            began = clock()
            returned = self._function(*arguments)
            values = aiter(returned) if self._is_async else iter(returned)
            while True:
                value = await anext(values, _END) if self._is_async else next(values, _END)
                answer.exec_s += clock() - began
                if value is _END:
                    answer.add(Outcome(item.id, _OK))
                    return
                if raw:
                    body = piece_of_body(value)
                elif seq == 0 and isinstance(value, Response):
                    body, content_type, head = response_body(self._codec, value, item.accept)
                    raw = True
                else:
                    body, content_type = self._codec.encode(value, item.accept)
                if len(body) > self._max_payload_bytes:
                    raise too_large(len(body), self._max_payload_bytes)
                if not outlet.take() and not await outlet.wait():  # mostly no coroutine: 0.3 µs of 12 per chunk
                    answer.add(skipped(item.id, "cancelled while it streamed"))
                    return
                outlet.send(Chunk(item.id, seq, content_type, head), body)
                seq, head = seq + 1, None
                began = clock()
        except ChannelClosed:
            raise
        except BaseException as error:
            if self._is_async and _was_cancelled(error, work):
                raise
            if isinstance(error, Rejected):
                answer.add(refused(item, error))
            else:
                self._fail((item,), error, answer)
        finally:
            await self._close(work, item, values)

    async def _close(self, work: Work, item: Item, values: Any) -> None:
        """Close a generator. An error of its clean-up goes to the log: the item has its outcome already."""
        close = getattr(values, "aclose" if self._is_async else "close", None)
        if close is None:
            return
        try:
            closing = close()
            if self._is_async:
                await closing
        except BaseException as error:
            if self._is_async and _was_cancelled(error, work):
                raise
            self._log(format_error(error), item.request_id)

    # Encode

    def _encode(self, items: Sequence[Item], value: Any, answer: Answer) -> bool:
        """Put what a call returned, or raised, into the answer; False where a failed batch has to be bisected."""
        if type(value) is Raised:
            if self._bisects and len(items) > 1:
                return False
            self._fail(items, value.error, answer)
            return True
        values: Sequence[Any] | None = value
        if not self._batched:
            values = (value,)
        elif type(value) is not list or len(value) != len(items):
            if self._bisects and len(items) > 1 and has_wrong_length(value, len(items)):
                # Mostly the doing of one item, as where a function leaves out what it cannot read.
                self._log(wrong_length(len(value), len(items)).message + "; they run again in parts", "")
                return False
            values = self._read_values(items, value, answer)
        if values is None or (len(items) > 1 and self._encode_together(items, values, answer)):
            return True
        for item, one in zip(items, values, strict=True):
            if self._batched and isinstance(one, BaseException):
                self._fail((item,), one, answer)
                continue
            try:
                if isinstance(one, Response):
                    outcome, body = response_outcome(self._codec, item, one)
                else:
                    body, content_type = self._codec.encode(one, item.accept)
                    outcome = Outcome(item.id, _OK, content_type, len(body))
                if outcome.length > self._max_payload_bytes:
                    raise too_large(outcome.length, self._max_payload_bytes)
                answer.outcomes.append(outcome)
                answer.bodies.append(body)
            except BaseException as error:  # noqa: BLE001 - a value's own methods are user code too
                self._refuse(item, error, answer)
        return True

    def _read_values(self, items: Sequence[Item], value: Any, answer: Answer) -> Sequence[Any] | None:
        """The values of a result that is not a list of the right length; None where all items are refused instead."""
        try:
            values = as_list(value)
            if len(values) != len(items):
                raise wrong_length(len(values), len(items))
        except BaseException as error:  # noqa: BLE001 - a returned object's own methods may raise anything
            rejected = error if isinstance(error, Rejected) else not_a_list(value, error)
            self._log(rejected.message, "")
            for item in items:
                answer.add(refused(item, rejected))
            return None
        return values

    def _encode_together(self, items: Sequence[Item], values: Sequence[Any], answer: Answer) -> bool:
        """Encode all values in one call, several times faster than one by one. False where that is not possible:
        a value is an exception, a Response or cannot be encoded, or an item does not accept JSON."""
        if not alike(_accepts, items):
            return False
        for kind in set(map(type, values)):
            if issubclass(kind, _NO_VALUES):  # msgspec would write an exception that is a dataclass as an object
                return False
        try:
            encoded = self._codec.encode_batch(values, items[0].accept)
        except BaseException:  # noqa: BLE001 - encoded one by one, each value gets its own outcome
            return False
        if encoded is None:
            return False
        bodies, content_type = encoded
        sizes = list(map(len, bodies))
        if max(sizes) > self._max_payload_bytes:
            return False
        answer.outcomes += map(Outcome, map(_item_ids, items), repeat(_OK), repeat(content_type), sizes)
        answer.bodies += bodies
        return True

    # Errors

    def _refuse(self, item: Item, error: BaseException, answer: Answer) -> None:
        """The outcome of a payload or value that the codec rejects, or whose own methods raise."""
        if isinstance(error, Rejected):
            answer.add(refused(item, error))
        else:
            self._fail((item,), error, answer)

    def _fail(self, items: Sequence[Item], error: BaseException, answer: Answer) -> None:
        """The same error for all of `items`; its traceback goes to the log, once."""
        self._log(format_error(error), items[0].request_id if len(items) == 1 else "")
        for item in items:
            answer.add(failed(item.id, error))

    def _log(self, message: str, request_id: str) -> None:
        self._logs.add("log", "ERROR", message, logger="clipper", request_id=request_id)


def _skip(work: Work, waited: float, answer: Answer) -> tuple[list[Item], list[memoryview]]:
    """The items of `work` that are neither cancelled nor late, and their payloads; the others are answered."""
    items: list[Item] = []
    payloads: list[memoryview] = []
    for item, payload in zip(work.items, work.payloads, strict=True):
        if item.id in work.cancelled or 0 < item.timeout_s < waited:
            answer.add(skipped(item.id))
        else:
            items.append(item)
            payloads.append(payload)
    return items, payloads


def split_guilty(low: int, high: int) -> Generator[tuple[int, int], bool, None]:
    """The parts of the failed batch [low, high) to run until each failing item has failed alone.

    Each `send` says whether the part just yielded failed. When the first half of a failed part succeeds, the second
    half contains the failing item and is split without running as a whole first. With k failing items of n, at most
    2·k·ceil(log2 n) parts run.
    """
    middle = (low + high) // 2
    left_failed = yield low, middle
    if left_failed and middle - low > 1:
        yield from split_guilty(low, middle)
    right_failed = not left_failed and high - middle > 1
    if not right_failed:
        right_failed = yield middle, high
    if right_failed and high - middle > 1:
        yield from split_guilty(middle, high)


def _was_cancelled(error: BaseException, work: Work) -> bool:
    """Whether the platform cancelled the running task; user code may cancel it too, or raise CancelledError by itself.

    A cancellation by user code is taken back, so that the runtime can go on with the task.
    """
    import asyncio  # costs 40 ms; a replica of an async function has loaded it already

    if not isinstance(error, asyncio.CancelledError):
        return False
    if work.unwanted:
        return True
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
    return False
