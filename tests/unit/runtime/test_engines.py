"""Every engine gives the same outcomes: only where and how many calls run at once differs."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.contract import wire
from clipper.contract.wire import Status
from clipper_runtime.engines import InlineEngine
from clipper_runtime.logs import REQUEST_ID
from tests.support.engines import ENGINES, MAX_PAYLOAD_BYTES, STREAMING_ENGINES, ServedEngine, invoke_of, served

on_each_engine = pytest.mark.parametrize("engine", ENGINES)
on_each_streaming_engine = pytest.mark.parametrize("engine", STREAMING_ENGINES)


@dataclass
class Shown(Exception):
    """msgspec would write it as an object."""

    code: int


def troubled(x: list[Any]) -> list[Any]:
    """Doubles numbers; text says which trouble an item makes."""
    if "raise" in x:
        raise KeyError("no")
    returned = {
        "exception": Shown(5),
        "nan": math.nan,
        "object": object(),
        "large": "a" * (MAX_PAYLOAD_BYTES + 1),
        "null": None,
    }
    return [returned[one] if isinstance(one, str) else 2 * one for one in x]


TROUBLES: dict[Any, Status] = {
    "raise": Status.FUNCTION_ERROR,
    "exception": Status.FUNCTION_ERROR,
    "nan": Status.UNENCODABLE,
    "object": Status.UNENCODABLE,
    "large": Status.TOO_LARGE,
    b"{": Status.MALFORMED,
    b'{"y": 1}': Status.INVALID,
}


def status_of(outcome: Any) -> int:
    return outcome.status if isinstance(outcome, wire.Outcome) else Status.OK


@on_each_engine
@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("company", [(), (1,), (1, 2, 3)])
def test_one_bad_item_of_a_batch_fails_alone(engine: str, trouble: Any, company: tuple[int, ...]) -> None:
    with served(troubled, engine, batched=True) as replica:
        found = replica.ask(*company, trouble)
        assert found == {**{n: 2 * x for n, x in enumerate(company)}, len(company): found[len(company)]}
        assert status_of(found[len(company)]) == TROUBLES[trouble]


@on_each_engine
def test_items_of_an_unbatched_function_are_calls_of_their_own(engine: str) -> None:
    def invert(x: int) -> float:
        return 1 / x

    with served(invert, engine) as replica:
        found = replica.ask(1, 0, "a", b"{", 2)
        assert (found[0], found[4]) == (1.0, 0.5)
        assert [found[n].status for n in (1, 2, 3)] == [Status.FUNCTION_ERROR, Status.INVALID, Status.MALFORMED]


@on_each_engine
def test_a_null_is_a_value(engine: str) -> None:
    with served(troubled, engine, batched=True) as replica:
        assert replica.ask("null", "null") == {0: None, 1: None}


@on_each_engine
def test_items_of_one_batch_may_come_in_several_forms(engine: str) -> None:
    with served(troubled, engine, batched=True) as replica:
        packed = msgspec.msgpack.encode({"x": 4})
        forms = ["application/json", "application/msgpack", "video/x"]
        found = replica.ask(1, packed, 3, content_types=forms)
        assert (found[0], found[1], found[2].status) == (2, 8, Status.UNSUPPORTED_MEDIA_TYPE)


@on_each_engine
@pytest.mark.parametrize("returned", [None, 5, [], [1, 2], {"a": 1}])
def test_a_result_that_is_not_a_list_of_the_right_length_is_refused(engine: str, returned: Any) -> None:
    def function(x: list[int]) -> Any:
        return returned

    with served(function, engine, batched=True) as replica:
        assert replica.ask(1)[0].status == Status.UNENCODABLE


@on_each_engine
def test_a_failed_batch_is_searched_and_a_good_one_runs_once(engine: str) -> None:
    calls = []

    def function(x: list[int]) -> list[int]:
        calls.append(x)
        if 2 in x:
            raise ValueError("two")
        return x

    with served(function, engine, batched=True) as replica:
        found = replica.ask(1, 2, 3, 4)
        assert [status_of(found[n]) for n in range(4)] == [0, Status.FUNCTION_ERROR, 0, 0]
        assert calls.count([1, 2, 3, 4]) == 1
        calls.clear()
        replica.ask(5, 6)
        assert calls == [[5, 6]]


@on_each_engine
def test_the_request_is_known_while_one_item_runs_and_not_while_several_do(engine: str) -> None:
    seen = []

    def function(x: list[int]) -> list[int]:
        seen.append(REQUEST_ID.get())
        return x

    with served(function, engine, batched=True) as replica:
        replica.ask(1)
        replica.ask(1, 2)
        replica.ask(1)
        assert seen == ["req-0", "", "req-0"]


@on_each_engine
def test_output_of_a_call_goes_ahead_of_its_answer(engine: str) -> None:
    def function(x: int) -> int:
        replica.output.stdout.write(f"line {x}\n")
        return x

    with served(function, engine) as replica:
        replica.ask(1)
        assert [(record.request_id, record.message) for record in replica.logs] == [("req-0", "line 1")]


@on_each_engine
@pytest.mark.parametrize("batched", [True, False])
def test_what_is_cancelled_before_its_turn_is_not_run(engine: str, batched: bool) -> None:
    ran = []

    def function(x: Any) -> Any:
        ran.append(x)
        return x

    if batched:
        function.__annotations__ = {"x": list[int]}

    def before(replica: ServedEngine) -> None:
        replica.invoke_now(10, 11)
        replica.invoke_now(12, first=2)
        replica.engine.cancel([1, 2, 12345])

    with served(function, engine, batched=batched, before=before) as replica:
        found = replica.outcomes(3)
        # An async batch runs as long as anyone waits for one of its items.
        assert [status_of(found[n]) for n in range(3)] == [Status.OK, Status.CANCELLED, Status.CANCELLED]
        assert ran == [[10] if batched else 10]


@on_each_engine
@pytest.mark.parametrize("batched", [True, False])
def test_what_is_withdrawn_before_it_begins_is_answered_at_once_and_does_not_run(engine: str, batched: bool) -> None:
    ran: list[Any] = []
    began, may_end = threading.Event(), threading.Event()

    def function(x: Any) -> Any:
        ran.append(x)
        began.set()
        assert may_end.wait(10)
        return x

    if batched:
        function.__annotations__ = {"x": list[int]}

    with served(function, engine, batched=batched, concurrency=1) as replica:
        replica.send(*invoke_of(10))
        assert began.wait(10)
        replica.invoke_now(11, 12, first=1)  # as the watcher does, which reads while the call runs
        replica.engine.withdraw([0, 1, 2, 12345])
        found = replica.outcomes(2)
        assert {n: outcome.status for n, outcome in found.items()} == {1: Status.CANCELLED, 2: Status.CANCELLED}
        may_end.set()
        assert status_of(replica.outcomes(1)[0]) == Status.OK, "what has begun runs on"
        assert replica.ask(13, first=3) == {3: 13}
        assert ran == ([[10], [13]] if batched else [10, 13])


def test_the_answer_of_a_short_call_does_not_wait_for_a_long_one_of_its_frame() -> None:
    began, may_end = threading.Event(), threading.Event()

    def function(x: int) -> int:
        if x:
            began.set()
            assert may_end.wait(10)
        return x

    with served(function, "inline") as replica:
        replica.send(*invoke_of(0, 1, 0))
        assert began.wait(10)
        assert isinstance(replica.engine, InlineEngine)
        replica.engine.withdraw([2])
        replica.engine.flush()  # as the watcher does
        found = replica.outcomes(2)
        assert (found[0], found[2].status) == (0, Status.CANCELLED)
        may_end.set()
        assert replica.outcomes(1) == {1: 1}


@on_each_engine
@pytest.mark.parametrize("batched", [True, False])
def test_an_item_whose_time_is_over_before_its_turn_is_not_run(engine: str, batched: bool) -> None:
    def function(x: Any) -> Any:
        return x

    if batched:
        function.__annotations__ = {"x": list[int]}

    def before(replica: ServedEngine) -> None:
        replica.invoke_now(1, age_s=1.0, timeout_s=0.5)
        replica.invoke_now(2, first=1, age_s=1.0, timeout_s=60.0)

    with served(function, engine, batched=batched, before=before) as replica:
        found = replica.outcomes(2)
        assert (status_of(found[0]), found[1]) == (Status.CANCELLED, 2)


@on_each_engine
def test_everything_sent_before_a_drain_is_answered(engine: str) -> None:
    with served(troubled, engine, batched=True) as replica:
        for first in range(0, 300, 3):
            replica.send(*invoke_of(1, "raise", 2, first=first))
        replica.send(wire.Drain(30.0))
        found = replica.outcomes(300)
        assert [found[n] for n in (297, 299)] == [2, 4]
        replica.drain()
        assert (replica.replies.in_flight, replica.engine.busy_since) == (0, 0.0)


@on_each_engine
def test_a_running_call_is_seen_as_busy(engine: str) -> None:
    began, proceed = threading.Event(), threading.Event()

    def function(x: int) -> int:
        began.set()
        proceed.wait(10)
        return x

    with served(function, engine) as replica:
        replica.send(*invoke_of(1))
        assert began.wait(10)
        assert replica.engine.busy_since > 0
        assert replica.replies.in_flight == 1
        proceed.set()
        assert replica.outcomes(1) == {0: 1}


@on_each_engine
def test_any_mix_of_items_gets_the_outcomes_that_each_would_get_alone(engine: str) -> None:
    with served(troubled, engine, batched=True) as replica:

        @given(st.lists(st.sampled_from([1, 2, "null", *TROUBLES]), min_size=1, max_size=12))
        def check(payloads: list[Any]) -> None:
            found = replica.ask(*payloads)
            for n, payload in enumerate(payloads):
                assert status_of(found[n]) == TROUBLES.get(payload, Status.OK)
                assert not isinstance(payload, int) or found[n] == 2 * payload

        check()


# Streams


def count(x: int) -> Iterator[int]:
    yield from range(x)


def chunks(replica: ServedEngine, numbers: range) -> list[Any]:
    frames = [replica.receive(wire.Chunk) for _ in numbers]
    assert [frame.message.seq for frame in frames] == list(numbers)
    return [msgspec.json.decode(frame.body) for frame in frames]


@on_each_streaming_engine
def test_a_stream_sends_its_values_as_credit_allows_and_then_its_result(engine: str) -> None:
    pulled = []

    def function(x: int) -> Iterator[int]:
        for n in range(x):
            pulled.append(n)
            yield n

    with served(function, engine, streaming=True) as replica:
        replica.send(*invoke_of(40))
        assert chunks(replica, range(wire.INITIAL_CREDIT)) == list(range(wire.INITIAL_CREDIT))
        replica.send(wire.Credit(0, 10))
        chunks(replica, range(wire.INITIAL_CREDIT, wire.INITIAL_CREDIT + 10))
        assert len(pulled) <= wire.INITIAL_CREDIT + 11
        replica.send(wire.Credit(0, 100))
        chunks(replica, range(wire.INITIAL_CREDIT + 10, 40))
        assert status_of(replica.outcomes(1)[0]) == Status.OK


@on_each_streaming_engine
def test_cancelling_a_stream_that_waits_for_credit_closes_its_generator(engine: str) -> None:
    closed = threading.Event()

    def function(x: int) -> Iterator[int]:
        try:
            yield from range(x)
        finally:
            closed.set()

    with served(function, engine, streaming=True) as replica:
        replica.send(*invoke_of(1000))
        chunks(replica, range(wire.INITIAL_CREDIT))
        replica.send(wire.Cancel([0]))
        assert replica.outcomes(1)[0].status == Status.CANCELLED
        assert closed.is_set()
        replica.send(*invoke_of(1, first=1))
        chunks(replica, range(1))
        replica.outcomes(1)


@on_each_streaming_engine
def test_of_streams_that_came_together_each_is_cancelled_by_itself(engine: str) -> None:
    def function(x: int) -> Iterator[int]:
        yield from range(x)

    with served(function, engine, streaming=True) as replica:
        replica.send(*invoke_of(1000, 1000))
        for _ in range(2 * wire.INITIAL_CREDIT):
            replica.receive(wire.Chunk)
        replica.send(wire.Cancel([0]))
        assert replica.outcomes(1)[0].status == Status.CANCELLED
        replica.send(wire.Credit(1, 1))
        assert replica.receive(wire.Chunk).message.seq == wire.INITIAL_CREDIT
        replica.send(wire.Cancel([1]))
        assert replica.outcomes(1)[1].status == Status.CANCELLED


# Cancellations by the function's own code


def cancel_own(x: str) -> Any:
    current = asyncio.current_task()
    assert current is not None
    for task in asyncio.all_tasks() if x == "all" else [current]:
        task.cancel()
    return x


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("whom", ["own", "all"])
def test_a_task_that_the_functions_own_code_cancels_is_an_error_of_the_function(whom: str, streaming: bool) -> None:
    def function(x: str) -> Any:
        return cancel_own(x) if x in ("own", "all") else x

    def items(x: str) -> Iterator[Any]:
        yield function(x)

    with served(items if streaming else function, "async", streaming=streaming) as replica:
        for n, x in enumerate([whom, "plain"]):
            replica.send(*invoke_of(x, first=n))
            if streaming:
                replica.receive(wire.Chunk)
            outcome = replica.outcomes(1)[n]
            if x == whom:
                assert (outcome.status, outcome.error_type) == (Status.FUNCTION_ERROR, "CancelledError")
            else:
                assert status_of(outcome) == Status.OK


def test_a_call_whose_task_another_call_cancels_is_an_error_of_the_function() -> None:
    def before(replica: ServedEngine) -> None:
        replica.invoke_now("all", "plain", "plain")

    def function(x: str) -> Any:
        return cancel_own(x) if x == "all" else x

    with served(function, "async", concurrency=1, before=before) as replica:
        found = replica.outcomes(3)
        assert {status_of(found[n]) for n in range(3)} == {Status.FUNCTION_ERROR}
        assert found[1].error_type == "CancelledError"
        assert replica.ask("plain", "plain", first=10) == {10: "plain", 11: "plain"}


@on_each_streaming_engine
def test_what_ends_a_stream_early_follows_the_chunks_before_it(engine: str) -> None:
    def function(x: str) -> Iterator[Any]:
        yield 1
        if x == "raise":
            raise ValueError("broke")
        yield {"nan": math.nan, "large": "a" * (MAX_PAYLOAD_BYTES + 1)}[x]
        raise AssertionError("went on")

    expected = {"raise": Status.FUNCTION_ERROR, "nan": Status.UNENCODABLE, "large": Status.TOO_LARGE}
    with served(function, engine, streaming=True) as replica:
        for n, (trouble, status) in enumerate(expected.items()):
            replica.send(*invoke_of(trouble, first=n))
            chunks(replica, range(1))
            assert replica.outcomes(1)[n].status == status
        assert [r.message for r in replica.logs].count("ValueError: broke") == 1
        assert replica.ask(5, first=10)[10].status == Status.INVALID


@on_each_streaming_engine
def test_an_error_of_a_generators_cleanup_is_logged_and_the_outcome_stays(engine: str) -> None:
    def function(x: int) -> Iterator[Any]:
        try:
            yield math.nan
        finally:
            raise OSError("cannot clean up")

    with served(function, engine, streaming=True) as replica:
        assert replica.ask(1)[0].status == Status.UNENCODABLE
        assert replica.logs[-1].message == "OSError: cannot clean up"
        assert replica.logs[-1].request_id == "req-0"


@on_each_streaming_engine
def test_streams_and_calls_end_before_a_drain_is_done(engine: str) -> None:
    with served(count, engine, streaming=True) as replica:
        replica.send(*invoke_of(3, 3))
        replica.send(wire.Drain(30.0))
        chunked: list[int] = []
        ended: set[int] = set()
        while len(ended) < 2:
            message = replica.receive((wire.Chunk, wire.Result)).message
            if isinstance(message, wire.Chunk):
                chunked.append(message.id)
            else:
                ended |= {outcome.id for outcome in message.outcomes}
        assert sorted(chunked) == [0, 0, 0, 1, 1, 1]
        replica.drain()
