"""Running user code: an outcome per item, whatever the code does.

What follows a call is written once for plain and async functions. The search for the guilty of a failed batch is a
generator that yields the arguments of each further call and is sent its result: `run_batch` drives it by calling,
`arun_batch` by awaiting. No I/O and no threads here.

A batch of which nothing is wrong passes through C loops (msgspec, map, zip) with a handful of Python calls around them,
however many items it has: right after a wait the processor's caches and branch predictors are cold, and then each
bytecode costs several times what a loop in a benchmark says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Generator, Sequence, Sized
from itertools import repeat
from operator import attrgetter
from typing import Any, Final, Protocol

from clipper.contract.wire import Invoke, Item, Outcome, Status, split_body
from clipper_runtime.codec import Rejected
from clipper_runtime.loader import Program
from clipper_runtime.logs import REQUEST_ID, LogBuffer, clean_text, format_error

__all__ = ["Answer", "Executor", "Raised", "Work", "failure", "skipped", "split_guilty"]

MAX_MESSAGE_CHARACTERS: Final = 4 * 1024
_MAX_TYPE_CHARACTERS: Final = 256

# Below this, no deadline is looked at before a batch runs.
_NEGLIGIBLE_WAIT_S: Final = 0.001

Steps = Generator[tuple[Any, ...], Any, None]

_item_ids = attrgetter("id")
_item_lengths = attrgetter("length")
_item_accepts = attrgetter("accept")
_item_content_types = attrgetter("content_type")


class Cancelled(Container[int], Sized, Protocol):
    """Ids of items that nobody waits for any more."""


class Raised:
    """What a call raised, as a value."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Work:
    """An Invoke on its way: its items, their payloads and when it came (seconds, monotonic)."""

    __slots__ = ("batch", "items", "payloads", "received_at")

    def __init__(self, invoke: Invoke, body: memoryview, received_at: float) -> None:
        self.batch = invoke.batch
        self.items = items = invoke.items
        if len(items) == 1 and items[0].length == len(body):
            self.payloads = [body]
        else:
            self.payloads = split_body(body, map(_item_lengths, items))
        self.received_at = received_at


class Answer:
    """Outcomes of a batch and the bodies of those that are OK, in the same order."""

    __slots__ = ("bodies", "exec_s", "outcomes", "reruns")

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.bodies: list[bytes] = []
        self.exec_s = 0.0
        self.reruns = 0

    def add(self, outcome: Outcome, body: bytes = b"") -> None:
        self.outcomes.append(outcome)
        self.bodies.append(body)


class Executor:
    """Runs one program. `max_payload_bytes`: the largest encoded value that may leave."""

    def __init__(self, program: Program, logs: LogBuffer, *, bisect: bool = True, max_payload_bytes: int) -> None:
        self.program = program
        self._call = program.call
        self._codec = program.codec
        self._logs = logs
        self._bisect = bisect
        self.max_payload_bytes = max_payload_bytes

    # Batches

    def run_batch(self, work: Work, cancelled: Cancelled) -> Answer:
        """Run a batched function on all items that can be decoded, together."""
        answer = Answer()
        items, columns = self._decode_all(work, cancelled, answer)
        if items:
            REQUEST_ID.set(items[0].request_id if len(items) == 1 else "")
            value = self._run(columns, answer)
            if type(value) is list and len(value) == len(items) and self._encode_all(items, value, answer):
                return answer
            if not self._settle(items, value, answer):
                self._run_parts(self._bisect_steps(work, items, answer), answer)
        return answer

    def conclude(self, work: Work, value: Any, exec_s: float) -> Answer:
        """The rest, after all of `work` was decoded and run by someone else in `exec_s`; `value` may be a Raised."""
        answer = Answer()
        answer.exec_s = exec_s
        if not self.program.batched:
            self.finish(work.items[0], value, answer)
        elif not self._settle(work.items, value, answer):
            self._run_parts(self._bisect_steps(work, work.items, answer), answer)
        return answer

    def _run(self, arguments: tuple[Any, ...], answer: Answer) -> Any:
        clock = time.perf_counter
        began = clock()
        try:
            value = self._call(*arguments)
        except BaseException as error:  # noqa: BLE001 - whatever user code raises is an outcome
            value = Raised(error)
        answer.exec_s += clock() - began
        return value

    def _run_parts(self, steps: Steps, answer: Answer) -> None:
        try:
            arguments = next(steps)
            while True:
                arguments = steps.send(self._run(arguments, answer))
        except StopIteration:
            return

    async def arun_batch(self, work: Work, cancelled: Cancelled) -> Answer:
        """The same for an async function. Cancelling the task cancels the call and raises CancelledError."""
        answer = Answer()
        items, columns = self._decode_all(work, cancelled, answer)
        if items:
            REQUEST_ID.set(items[0].request_id if len(items) == 1 else "")
            value = await self._arun(columns, answer)
            if not self._settle(items, value, answer):
                await self._arun_parts(self._bisect_steps(work, items, answer), answer)
        return answer

    async def _arun(self, arguments: tuple[Any, ...], answer: Answer) -> Any:
        began = time.perf_counter()
        try:
            value = await self._call(*arguments)
        except BaseException as error:
            if _was_cancelled(error):
                raise
            value = Raised(error)
        answer.exec_s += time.perf_counter() - began
        return value

    async def _arun_parts(self, steps: Steps, answer: Answer) -> None:
        try:
            arguments = next(steps)
            while True:
                arguments = steps.send(await self._arun(arguments, answer))
        except StopIteration:
            return

    def _settle(self, items: Sequence[Item], value: Any, answer: Answer) -> bool:
        """Put what the call of a whole batch gave into the answer; False where it has to run again in parts."""
        if not isinstance(value, Raised):
            self._finish_batch(items, value, answer)
        elif len(items) == 1 or not self._bisect:
            self._fail(items, value.error, answer)
        else:
            return False
        return True

    def _decode_all(
        self, work: Work, cancelled: Cancelled, answer: Answer
    ) -> tuple[Sequence[Item], tuple[list[Any], ...]]:
        """The items that can run and, for each parameter, the list of their arguments; the others are answered."""
        waited = time.monotonic() - work.received_at
        items = work.items
        if waited < _NEGLIGIBLE_WAIT_S and not cancelled and (len(items) == 1 or _alike(_item_content_types, items)):
            try:
                return items, self._codec.decode_batch(items[0].content_type, work.payloads)
            except BaseException:  # noqa: BLE001, S110 - one by one, below, each gets its own outcome
                pass
        items = []
        rows: list[tuple[Any, ...]] = []
        for item, payload in zip(work.items, work.payloads, strict=True):
            try:
                if item.id in cancelled or 0 < item.timeout_s < waited:
                    answer.add(skipped(item.id))
                    continue
                rows.append(self._codec.decode(item.content_type, payload))
            except BaseException as error:  # noqa: BLE001 - a type's own validation is user code too
                answer.add(self._rejection(item, error))
            else:
                items.append(item)
        return items, tuple(map(list, zip(*rows, strict=True)))

    def _bisect_steps(self, work: Work, items: Sequence[Item], answer: Answer) -> Steps:
        payloads = {item.id: payload for item, payload in zip(work.items, work.payloads, strict=True)}
        plan = split_guilty(0, len(items))
        low, high = next(plan)
        while True:
            part = items[low:high]
            answer.reruns += 1
            REQUEST_ID.set(part[0].request_id if len(part) == 1 else "")
            # Decoded anew: the failed run may have changed its arguments in place.
            rows = [self._codec.decode(item.content_type, payloads[item.id]) for item in part]
            value = yield tuple(map(list, zip(*rows, strict=True)))
            if not isinstance(value, Raised):
                self._finish_batch(part, value, answer)
            elif len(part) == 1:
                self._fail(part, value.error, answer)
            try:
                low, high = plan.send(isinstance(value, Raised))
            except StopIteration:
                return

    def _finish_batch(self, items: Sequence[Item], value: Any, answer: Answer) -> None:
        try:
            values = _as_list(value)
            if len(values) != len(items):
                raise Rejected(
                    Status.UNENCODABLE,
                    f"the function returned {len(values)} values for {len(items)} invocations: "
                    f"expected {len(items)}, one per entry of its arguments, in their order",
                )
        except BaseException as error:  # noqa: BLE001 - a returned object's own methods may raise anything
            rejected = error if isinstance(error, Rejected) else _unencodable(value, error)
            self._logs.add("log", "ERROR", rejected.message, logger="clipper")
            for item in items:
                answer.add(_refused(item, rejected))
            return
        if self._encode_all(items, values, answer):
            return
        for item, one in zip(items, values, strict=True):
            if isinstance(one, BaseException):
                self._fail((item,), one, answer)
            else:
                answer.add(*self._encoded(item, one))

    def _encode_all(self, items: Sequence[Item], values: Sequence[Any], answer: Answer) -> bool:
        """The common case, several times faster than one by one: JSON for all, and nothing wrong with any value."""
        if len(items) > 1 and not _alike(_item_accepts, items):
            return False
        # msgspec would write an exception that is a dataclass as an object.
        for kind in set(map(type, values)):
            if issubclass(kind, BaseException):
                return False
        try:
            encoded = self._codec.encode_batch(values, items[0].accept)
        except BaseException:  # noqa: BLE001 - one by one, each gets its own outcome
            return False
        if encoded is None:
            return False
        bodies, content_type = encoded
        sizes = list(map(len, bodies))
        if max(sizes) > self.max_payload_bytes:
            return False
        answer.outcomes += map(Outcome, map(_item_ids, items), repeat(0), repeat(content_type), sizes)
        answer.bodies += bodies
        return True

    # Single items

    def run_item(self, item: Item, payload: memoryview, answer: Answer) -> None:
        """Run an unbatched function once."""
        arguments = self.prepare(item, payload, answer)
        if arguments is None:
            return
        began = time.perf_counter()
        try:
            value = self._call(*arguments)
        except BaseException as error:  # noqa: BLE001 - whatever user code raises is an outcome
            value = Raised(error)
        answer.exec_s += time.perf_counter() - began
        self.finish(item, value, answer)

    async def arun_item(self, item: Item, payload: memoryview, answer: Answer) -> None:
        """The same for an async function. Cancelling the task cancels the call and raises CancelledError."""
        arguments = self.prepare(item, payload, answer)
        if arguments is None:
            return
        began = time.perf_counter()
        try:
            value = await self._call(*arguments)
        except BaseException as error:
            if _was_cancelled(error):
                raise
            value = Raised(error)
        answer.exec_s += time.perf_counter() - began
        self.finish(item, value, answer)

    def prepare(self, item: Item, payload: memoryview, answer: Answer) -> tuple[Any, ...] | None:
        """The arguments of an item's call, or None with its outcome in the answer."""
        REQUEST_ID.set(item.request_id)
        try:
            return self._codec.decode(item.content_type, payload)
        except BaseException as error:  # noqa: BLE001 - a type's own validation is user code too
            answer.add(self._rejection(item, error))
            return None

    def finish(self, item: Item, value: Any, answer: Answer) -> None:
        """Put what a call returned, or raised, into the answer."""
        if isinstance(value, Raised):
            self._fail((item,), value.error, answer)
        else:
            answer.add(*self._encoded(item, value))

    def encode_chunk(self, item: Item, value: Any) -> tuple[bytes, str]:
        """One item of a stream. Raises Rejected."""
        body, content_type = self._codec.encode(value, item.accept)
        if len(body) > self.max_payload_bytes:
            raise _too_large(len(body), self.max_payload_bytes)
        return body, content_type

    # Outcomes

    def _encoded(self, item: Item, value: Any) -> tuple[Outcome, bytes]:
        try:
            body, content_type = self._codec.encode(value, item.accept)
            if len(body) > self.max_payload_bytes:
                raise _too_large(len(body), self.max_payload_bytes)
        except BaseException as error:  # noqa: BLE001 - a value's own methods are user code too
            return self._rejection(item, error), b""
        return Outcome(item.id, 0, content_type, len(body)), body

    def _rejection(self, item: Item, error: BaseException) -> Outcome:
        if isinstance(error, Rejected):
            return _refused(item, error)
        self._logs.add("log", "ERROR", format_error(error), logger="clipper", request_id=item.request_id)
        return failure(item.id, error)

    def _fail(self, items: Sequence[Item], error: BaseException, answer: Answer) -> None:
        """The same error for all of `items`; its traceback goes to the log, once."""
        request_id = items[0].request_id if len(items) == 1 else ""
        self._logs.add("log", "ERROR", format_error(error), logger="clipper", request_id=request_id)
        for item in items:
            answer.add(failure(item.id, error))


def _alike(field: Callable[[Item], str], items: Sequence[Item]) -> bool:
    """Whether all items say the same."""
    values = list(map(field, items))
    return values.count(values[0]) == len(values)


def split_guilty(low: int, high: int) -> Generator[tuple[int, int], bool, None]:
    """Which parts of the failed batch [low, high) to run, until each failing item has failed alone.

    Each `send` says whether the part just yielded failed. When the first half of a failed part succeeds, the fault is
    in the second, which is split without being run as a whole first. With k guilty items of n, at most
    2·k·ceil(log2 n) parts are run.
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


def failure(item: int, error: BaseException) -> Outcome:
    """The outcome of an item whose code raised `error`."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        message = "(its message cannot be shown)"
    kind = clean_text(type(error).__qualname__, _MAX_TYPE_CHARACTERS)
    return Outcome(item, Status.FUNCTION_ERROR, "", 0, kind, clean_text(message, MAX_MESSAGE_CHARACTERS))


def _refused(item: Item, rejected: Rejected) -> Outcome:
    return Outcome(item.id, rejected.status, "", 0, "", clean_text(rejected.message, MAX_MESSAGE_CHARACTERS))


def skipped(item: int, message: str = "cancelled before it ran") -> Outcome:
    return Outcome(item, Status.CANCELLED, message=message)


def _too_large(size: int, limit: int) -> Rejected:
    return Rejected(Status.TOO_LARGE, f"the encoded return value has {size} bytes, the limit is {limit}")


def _unencodable(value: Any, error: BaseException) -> Rejected:
    return Rejected(Status.UNENCODABLE, f"the returned {type(value).__name__} cannot be read as a list: {error}")


def _as_list(value: Any) -> Sequence[Any]:
    """A batch's results, one per invocation. Raises Rejected for what is no sequence of them."""
    if isinstance(value, (list, tuple)):
        return value
    dtype = getattr(value, "dtype", None)
    if getattr(value, "ndim", 0) == 1 and getattr(dtype, "kind", "O") in "biuf":
        plain: list[Any] = value.tolist()  # Python numbers encode many times faster than numpy's
        return plain
    if getattr(value, "ndim", 0) >= 1 or (
        isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview))
    ):
        return list(value)
    raise Rejected(
        Status.UNENCODABLE,
        f"a function with max_batch_size above 1 must return a list with one value per invocation, "
        f"not {type(value).__name__}",
    )


def _was_cancelled(error: BaseException) -> bool:
    """Whether the running task was asked to stop, as opposed to user code raising CancelledError by itself."""
    import asyncio

    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
