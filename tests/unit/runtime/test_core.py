"""The execution core: whatever user code does, each item ends with exactly one outcome of its own."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.contract.frames import FrameReader
from clipper.contract.wire import Invoke, Item, Log, Outcome, Status
from clipper_runtime.codec import Codec
from clipper_runtime.core import ExecutionCore, complete, split_guilty
from clipper_runtime.loader import Program
from clipper_runtime.logs import REQUEST_ID, LogBuffer
from clipper_runtime.schema import read_signature
from clipper_runtime.work import Answer, Work

LIMIT = 1000


def core_of(call: Callable[..., Any], *, batched: bool = True, bisect: bool = True) -> ExecutionCore:
    codec = Codec(read_signature(call, batched=batched, streaming=False), batched=batched)
    kind = "async" if asyncio.iscoroutinefunction(call) else "sync"
    program = Program(call=call, close=None, codec=codec, kind=kind, streaming=False, batched=batched)
    return ExecutionCore(program, LogBuffer(), bisect=bisect, max_payload_bytes=LIMIT)


def work_of(values: Iterable[Any], *, timeout_s: float = 10.0, age_s: float = 0.0) -> Work:
    bodies = [v if isinstance(v, bytes) else json.dumps({"x": v}).encode() for v in values]
    items = [Item(n, f"r{n}", "application/json", "*/*", timeout_s, len(body)) for n, body in enumerate(bodies)]
    return Work(Invoke(1, items), memoryview(b"".join(bodies)), time.monotonic() - age_s)


def answer_of(core: ExecutionCore, work: Work) -> Answer:
    """What all calls of `work` give, one after the other; as an engine does, it resets the request afterwards."""
    answer = Answer()
    for call in core.calls(work):
        complete(core.run(call, answer))
    REQUEST_ID.set("")
    return answer


def outcomes_of(answer: Answer) -> dict[int, Any]:
    """id -> the decoded value of an item that went well, else its outcome. Each id exactly once."""
    ids = [outcome.id for outcome in answer.outcomes]
    assert len(ids) == len(set(ids)), "an item was answered twice"
    assert [o.length for o in answer.outcomes] == [len(body) for body in answer.bodies]
    return {
        outcome.id: json.loads(body) if outcome.status == Status.OK else outcome
        for outcome, body in zip(answer.outcomes, answer.bodies, strict=True)
    }


def run(call: Callable[..., Any], values: Iterable[Any], **options: Any) -> dict[int, Any]:
    return outcomes_of(answer_of(core_of(call, **options), work_of(values)))


def log_lines(core: ExecutionCore) -> list[tuple[str, str]]:
    (buffer,) = core._logs.take()
    (frame,) = FrameReader().feed(buffer)
    assert isinstance(frame.message, Log)
    return [(record.request_id, record.message) for record in frame.message.records]


# Batches that go well


def test_a_batch_runs_once_with_a_list_per_parameter() -> None:
    seen = []

    def double(x: list[int]) -> list[int]:
        seen.append(x)
        return [2 * n for n in x]

    assert run(double, [1, 2, 3]) == {0: 2, 1: 4, 2: 6}
    assert seen == [[1, 2, 3]]


@pytest.mark.parametrize(
    "make", [list, tuple, np.array, lambda values: np.array([[v] for v in values]), lambda values: range(values[0], 3)]
)
def test_any_sequence_or_array_is_taken_as_the_list_of_results(make: Callable[[list[int]], Any]) -> None:
    def function(x: list[int]) -> Any:
        return make(x)

    assert [np.ravel(v)[0] for v in run(function, [1, 2]).values()] == [1, 2]


def test_a_table_as_the_result_of_a_batch_has_a_row_for_each_invocation() -> None:
    def function(x: list[int]) -> Any:
        return pd.DataFrame({"n": x, "square": [n * n for n in x]})

    assert run(function, [2, 3]) == {0: {"n": 2, "square": 4}, 1: {"n": 3, "square": 9}}
    assert "0, 1, 2" in run(lambda x: pd.DataFrame({"x": x}).sort_values("x"), [3, 2])[0].message


def test_an_async_batch_gives_the_same_outcomes() -> None:
    async def double(x: list[int]) -> list[int]:
        await asyncio.sleep(0)
        if 3 in x:
            raise ValueError("three")
        return [2 * n for n in x]

    core = core_of(double)
    answer = Answer()
    asyncio.run(core.run(work_of([1, 3, "a", 2]), answer))
    outcomes = outcomes_of(answer)
    assert (outcomes[0], outcomes[3]) == (2, 4)
    assert outcomes[1].error_type == "ValueError"
    assert outcomes[2].status == Status.INVALID


# Batches that do not


def test_items_that_do_not_decode_never_reach_the_batch() -> None:
    seen = []

    def function(x: list[int]) -> list[int]:
        seen.extend(x)
        return x

    outcomes = run(function, [1, "a", b"{", 2, b'{"y": 1}'])
    assert seen == [1, 2]
    assert [outcomes[n].status for n in (1, 2, 4)] == [Status.INVALID, Status.MALFORMED, Status.INVALID]
    assert (outcomes[0], outcomes[3]) == (1, 2)


def test_a_batch_of_nothing_but_misfits_runs_no_user_code() -> None:
    def function(x: list[int]) -> list[int]:
        raise AssertionError("ran")

    assert {o.status for o in run(function, ["a", "b"]).values()} == {Status.INVALID}


@pytest.mark.parametrize("returned", [[], [1], [1, 2, 3], (1,), np.zeros(5)])
def test_a_result_of_the_wrong_length_fails_every_item_and_says_both_numbers(returned: Any) -> None:
    def function(x: list[int]) -> Any:
        return returned

    for outcome in run(function, [1, 2], bisect=False).values():
        assert outcome.status == Status.UNENCODABLE
        assert f"returned {len(returned)} values for 2 invocations: expected 2" in outcome.message


@pytest.mark.parametrize("make", [list, tuple, np.array], ids=["list", "tuple", "array"])
def test_an_item_that_a_function_leaves_out_fails_alone_and_the_log_says_why(make: Callable[[list[int]], Any]) -> None:
    def function(x: list[int]) -> Any:
        return make([2 * n for n in x if n != 3])

    core = core_of(function)
    outcomes = outcomes_of(answer_of(core, work_of(range(6))))
    assert [outcomes[n] for n in (0, 1, 2, 4, 5)] == [0, 2, 4, 8, 10]
    assert outcomes[3].status == Status.UNENCODABLE
    assert "returned 0 values for 1" in outcomes[3].message
    assert "returned 5 values for 6" in log_lines(core)[0][1]


@pytest.mark.parametrize("returned", [None, 5, "ab", b"ab", {"a": 1, "b": 2}, {1, 2}, np.array(1.0), iter([1, 2])])
def test_a_result_that_is_no_list_fails_every_item(returned: Any) -> None:
    def function(x: list[int]) -> Any:
        return returned

    for outcome in run(function, [1, 2]).values():
        assert outcome.status == Status.UNENCODABLE
        assert "must return a list" in outcome.message


def test_an_exception_in_the_list_fails_just_its_item() -> None:
    def function(x: list[int]) -> list[Any]:
        return [n if n != 2 else KeyError("two") for n in x]

    outcomes = run(function, [1, 2, 3])
    assert (outcomes[0], outcomes[2]) == (1, 3)
    assert (outcomes[1].status, outcomes[1].error_type) == (Status.FUNCTION_ERROR, "KeyError")


def test_a_value_that_cannot_be_encoded_fails_just_its_item() -> None:
    def function(x: list[int]) -> list[Any]:
        return [object(), math.nan, None, "a" * LIMIT, 5]

    outcomes = run(function, range(5))
    assert [outcomes[n].status for n in (0, 1, 3)] == [Status.UNENCODABLE, Status.UNENCODABLE, Status.TOO_LARGE]
    assert (outcomes[2], outcomes[4]) == (None, 5)


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(5), MemoryError()]
)
def test_whatever_is_raised_is_an_outcome(error: BaseException) -> None:
    def batched(x: list[int]) -> list[int]:
        raise error

    def single(x: int) -> int:
        raise error

    for outcome in run(batched, [1, 2]).values():
        assert outcome.error_type == type(error).__name__
    (outcome,) = run(single, [1], batched=False).values()
    assert outcome.error_type == type(error).__name__


def test_an_error_that_cannot_be_shown_is_an_outcome_too() -> None:
    class Rude(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    def function(x: list[int]) -> list[int]:
        raise Rude

    (outcome,) = run(function, [1]).values()
    assert outcome.message == "(its message cannot be shown)"


def test_messages_to_the_caller_are_bounded_and_can_be_sent() -> None:
    def function(x: list[int]) -> list[int]:
        raise ValueError("\ud800" + "m" * 100_000)

    (outcome,) = run(function, [1]).values()
    assert len(outcome.message.encode()) < 5000


def test_the_traceback_goes_to_the_log_with_the_request_and_begins_at_user_code() -> None:
    def function(x: list[int]) -> list[int]:
        if 2 in x:
            raise ValueError("two")
        return x

    core = core_of(function)
    answer_of(core, work_of([1, 2]))
    lines = log_lines(core)
    assert {request for request, _ in lines} == {"r1"}
    assert lines[0][1] == "Traceback (most recent call last):"
    assert "test_core.py" in lines[1][1]
    assert lines[-1][1] == "ValueError: two"
    assert not any("clipper_runtime" in line for _, line in lines)


def test_the_request_id_is_known_while_an_item_runs_and_unknown_while_several_do() -> None:
    seen = []

    def function(x: list[int]) -> list[int]:
        seen.append(REQUEST_ID.get())
        return x

    run(function, [1])
    run(function, [1, 2])
    assert seen == ["r0", ""]


# Cancellation and deadlines


def test_cancelled_items_are_skipped() -> None:
    def function(x: list[int]) -> list[int]:
        return x

    work = work_of([1, 2, 3])
    work.cancel([1, 77])
    outcomes = outcomes_of(answer_of(core_of(function), work))
    assert outcomes.pop(1).status == Status.CANCELLED
    assert outcomes == {0: 1, 2: 3}


def test_items_whose_time_passed_while_they_waited_are_skipped() -> None:
    def function(x: list[int]) -> list[int]:
        raise AssertionError("ran")

    answer = answer_of(core_of(function), work_of([1], timeout_s=5.0, age_s=6.0))
    assert outcomes_of(answer)[0].status == Status.CANCELLED


def test_cancelling_the_task_of_an_async_item_cancels_the_call_but_raising_it_oneself_is_an_error() -> None:
    async def raises(x: int) -> int:
        raise asyncio.CancelledError

    async def sleeps(x: int) -> int:
        await asyncio.Event().wait()
        return x

    async def main() -> None:
        answer = Answer()
        await core_of(raises, batched=False).run(work_of([1]), answer)
        assert answer.outcomes[0].error_type == "CancelledError"
        work = work_of([1])
        task = asyncio.ensure_future(core_of(sleeps, batched=False).run(work, Answer()))
        await asyncio.sleep(0)
        work.cancel([0])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_an_async_batch_that_cancels_its_own_task_is_bisected_as_one_that_raises() -> None:
    async def cancels(x: list[int]) -> list[int]:
        if 2 in x:
            current = asyncio.current_task()
            assert current is not None
            current.cancel()
            await asyncio.sleep(0)
        return x

    async def main() -> None:
        answer = Answer()
        await core_of(cancels).run(work_of([1, 2, 3]), answer)
        outcomes = outcomes_of(answer)
        assert outcomes.pop(1).error_type == "CancelledError"
        assert outcomes == {0: 1, 2: 3}
        current = asyncio.current_task()
        assert current is not None
        assert not current.cancelling(), "the runtime goes on with the task"

    asyncio.run(main())


# Bisection


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_bisecting_fails_exactly_the_guilty_in_few_runs(guilty: list[bool]) -> None:
    runs = []

    def function(x: list[int]) -> list[int]:
        runs.append(list(x))
        if any(guilty[n] for n in x):
            raise ValueError(str([n for n in x if guilty[n]]))
        return x

    core = core_of(function)
    answer = answer_of(core, work_of(range(len(guilty))))
    outcomes = outcomes_of(answer)
    assert set(outcomes) == set(range(len(guilty)))
    for n, bad in enumerate(guilty):
        if bad:
            assert (outcomes[n].status, outcomes[n].message) == (Status.FUNCTION_ERROR, f"[{n}]")
        else:
            assert outcomes[n] == n
    k, depth = sum(guilty), math.ceil(math.log2(len(guilty))) if len(guilty) > 1 else 0
    assert answer.reruns == len(runs) - 1 <= 2 * k * depth


@given(st.integers(2, 300), st.data())
def test_one_guilty_item_is_found_in_about_log2_runs(n: int, data: st.DataObject) -> None:
    culprit = data.draw(st.integers(0, n - 1))
    plan, runs = split_guilty(0, n), 1
    low, high = next(plan)
    while True:
        try:
            low, high = plan.send(low <= culprit < high)
        except StopIteration:
            break
        runs += 1
    assert runs <= 2 * math.ceil(math.log2(n))


@given(st.integers(2, 64))
def test_a_batch_that_fails_only_as_a_whole_succeeds_in_parts(n: int) -> None:
    def function(x: list[int]) -> list[int]:
        if len(x) == n:
            raise MemoryError
        return x

    assert run(function, range(n)) == {i: i for i in range(n)}


def test_reruns_see_arguments_that_the_failed_run_did_not_touch() -> None:
    def function(x: list[list[int]]) -> list[int]:
        for row in x:
            row.append(100)
        if len(x) > 1:
            raise ValueError
        return [sum(row) for row in x]

    assert run(function, [[1], [2]]) == {0: 101, 1: 102}


def test_on_batch_error_fail_runs_once_and_fails_all() -> None:
    runs = []

    def function(x: list[int]) -> list[int]:
        runs.append(x)
        raise ValueError("no")

    core = core_of(function, bisect=False)
    answer = answer_of(core, work_of(range(8)))
    assert (len(runs), answer.reruns) == (1, 0)
    assert {o.error_type for o in answer.outcomes} == {"ValueError"}
    assert sum(line == "ValueError: no" for _, line in log_lines(core)) == 1


# Single items


def test_each_item_of_an_unbatched_function_is_on_its_own() -> None:
    def function(x: int) -> float:
        return 1 / x

    answer = answer_of(core_of(function, batched=False), work_of([1, 0, "a", 2]))
    outcomes = outcomes_of(answer)
    assert (outcomes[0], outcomes[3]) == (1.0, 0.5)
    assert (outcomes[1].error_type, outcomes[2].status) == ("ZeroDivisionError", Status.INVALID)
    assert isinstance(outcomes[1], Outcome)
    assert answer.exec_s > 0
