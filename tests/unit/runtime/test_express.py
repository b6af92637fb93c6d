"""The short way: the same bytes as the general way, and whatever is unusual goes that way."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.contract import wire
from clipper.contract.wire import Frame, Invoke, Item, Outcome, Result, Status
from clipper_runtime.channel import Channel
from clipper_runtime.codec import Codec
from clipper_runtime.executor import Executor, Work
from clipper_runtime.express import Express
from clipper_runtime.loader import Program
from clipper_runtime.logs import REQUEST_ID, LogBuffer, Output
from clipper_runtime.replies import Replies
from clipper_runtime.schema import read_signature

LIMIT = 1000


class Bench:
    """An Express on a real socket pair, and as its owner a record of what it was told."""

    def __init__(self, call: Callable[..., Any], ours: socket.socket, theirs: socket.socket, *, batched: bool) -> None:
        codec = Codec(read_signature(call, batched=batched, streaming=False))
        program = Program(call=call, close=None, codec=codec, kind="sync", streaming=False, batched=batched)
        self.handed: list[Frame] = []
        self.general: list[Work] = []
        self.output = Output(LogBuffer())
        executor = Executor(program, self.output.logs, max_payload_bytes=LIMIT)
        self.channel = Channel(theirs)
        self.replies = Replies(self.channel, self.output, wire.MAX_FRAME_BYTES)
        self.express = Express(executor, self.replies, self.channel, self, self.handed.append)
        self._ours = ours
        self._reader = wire.FrameReader()

    def begin(self, invoke: Invoke, now: float) -> None:
        assert self.replies.in_flight == len(invoke.items)

    def run(self, work: Work) -> None:
        self.general.append(work)

    def end(self, items: Sequence[Item]) -> None:
        pass

    def send(self, payloads: Sequence[bytes], **fields: Any) -> None:
        items = [
            Item(
                n, f"req-{n}", fields.get("content_type", "application/json"), fields.get("accept", "*/*"), 0.0, len(p)
            )
            for n, p in enumerate(payloads)
        ]
        self._ours.sendall(b"".join(wire.encode_frames(Invoke(7, items), payloads)))

    def ask(self, *values: Any, **fields: Any) -> list[tuple[Outcome, bytes]]:
        """Outcomes and payloads, in the order of the items."""
        self.send([v if isinstance(v, bytes) else json.dumps({"x": v}).encode() for v in values], **fields)
        self.express.turn()
        while True:
            for frame in self._reader.feed(self._ours.recv(1 << 16)):
                if isinstance(frame.message, Result):
                    outcomes = frame.message.outcomes
                    parts = wire.split_body(frame.body, [o.length for o in outcomes])
                    pairs = zip(outcomes, map(bytes, parts), strict=True)
                    return sorted(pairs, key=lambda pair: pair[0].id)


@contextmanager
def bench(call: Callable[..., Any], *, batched: bool = True) -> Iterator[Bench]:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    theirs.settimeout(10)
    with ours, theirs:
        yield Bench(call, ours, theirs, batched=batched)


def double(x: list[int]) -> list[Any]:
    return [2 * n for n in x]


ids = st.integers(0, 2**63 - 1)


@given(ids, st.lists(st.tuples(ids, st.binary(max_size=300)), min_size=1, max_size=40), st.floats(0, 1e6))
def test_a_result_encoded_the_short_way_has_the_bytes_of_the_message(
    batch: int, answers: list[tuple[int, bytes]], exec_s: float
) -> None:
    outcomes = [Outcome(item, 0, "application/json", len(body)) for item, body in answers]
    bodies = [body for _, body in answers]
    expected = b"".join(wire.encode_frames(Result(batch, outcomes, exec_s), bodies))
    assert wire.encode_values(batch, [item for item, _ in answers], "application/json", bodies, exec_s) == expected
    if len(answers) == 1:
        assert wire.encode_value(batch, answers[0][0], "application/json", bodies[0], exec_s) == expected


@given(st.binary(max_size=40), st.integers(0, 60))
def test_only_one_whole_invoke_within_the_limits_is_read_the_short_way(extra: bytes, cut: int) -> None:
    frame = b"".join(wire.encode_frames(Invoke(7, [Item(0, "r", "", "", 0.0, 2)]), [b"{}"]))
    found = wire.read_invoke(memoryview(frame), len(frame), wire.MAX_FRAME_BYTES)
    assert found is not None
    assert (found[0].batch, frame[found[1] :]) == (7, b"{}")
    assert wire.read_invoke(memoryview(frame), len(frame), len(frame) - 5) is None
    if extra:
        assert wire.read_invoke(memoryview(frame + extra), len(frame + extra), wire.MAX_FRAME_BYTES) is None
    part = frame[: min(cut, len(frame) - 1)]
    assert wire.read_invoke(memoryview(part), len(part), wire.MAX_FRAME_BYTES) is None
    other = wire.encode(wire.Ping(1))
    assert wire.read_invoke(memoryview(other), len(other), wire.MAX_FRAME_BYTES) is None


@pytest.mark.parametrize("values", [[1], [1, 2, 3]])
def test_a_batch_of_json_is_answered_with_nothing_left_to_the_general_way(values: list[int]) -> None:
    with bench(double) as b:
        found = b.ask(*values)
        assert [json.loads(body) for _, body in found] == [2 * v for v in values]
        assert (b.handed, b.general, b.replies.in_flight) == ([], [], 0)


def test_a_plain_function_is_called_with_the_value_itself() -> None:
    def half(x: int, y: int = 2) -> float:
        return x / y

    with bench(half, batched=False) as b:
        assert b.ask(3)[0][1] == b"1.5"
        b.send([b'{"x": 1}', b'{"x": 2}'])  # several at once are several calls
        b.express.turn()
        assert len(b.handed) == 1


@pytest.mark.parametrize(
    "fields", [{"content_type": "application/msgpack"}, {"accept": "application/msgpack"}, {"content_type": "text/x"}]
)
def test_another_form_than_json_is_handed_out(fields: dict[str, str]) -> None:
    with bench(double) as b:
        b.send([b'{"x": 1}'], **fields)
        b.express.turn()
        assert (len(b.handed), b.replies.in_flight) == (1, 0)


def test_other_frames_and_parts_of_frames_are_handed_out_in_order() -> None:
    with bench(double) as b:
        invoke = b"".join(wire.encode_frames(Invoke(7, [Item(0, "r", "", "", 0.0, 8)]), [b'{"x": 1}']))
        for piece in (wire.encode(wire.Ping(1)) + invoke[:20], invoke[20:], wire.encode(wire.Drain(1.0))):
            b._ours.sendall(piece)
            b.express.turn()
        assert [type(frame.message) for frame in b.handed] == [wire.Ping, Invoke, wire.Drain]


@pytest.mark.parametrize("bad", [[b"{"], [b'{"x": 1}', b'{"x": "a"}']])
def test_what_does_not_decode_runs_the_general_way_and_counts_once(bad: list[bytes]) -> None:
    with bench(double) as b:
        b.send(bad)
        b.express.turn()
        assert [len(work.items) for work in b.general] == [len(bad)]
        assert b.replies.in_flight == len(bad)  # the general way answers them


@dataclass
class Shown(Exception):
    """msgspec would write it as an object."""

    code: int


@pytest.mark.parametrize("batch", [[2], [1, 2, 3]])
@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (Shown(5), Status.FUNCTION_ERROR),
        (KeyError("no"), Status.FUNCTION_ERROR),
        (math.nan, Status.UNENCODABLE),
        (object(), Status.UNENCODABLE),
        ("a" * (LIMIT + 1), Status.TOO_LARGE),
    ],
)
def test_a_bad_value_fails_just_its_item_without_a_second_call(batch: list[int], bad: Any, status: Status) -> None:
    calls = []

    def function(x: list[int]) -> list[Any]:
        calls.append(x)
        return [bad if n == 2 else n for n in x]

    with bench(function) as b:
        found = b.ask(*batch)
        assert [o.status for o, _ in found] == [status if n == 2 else Status.OK for n in batch]
        assert calls == [batch]
        assert b.replies.in_flight == 0


@pytest.mark.parametrize("returned", [None, 5, [], [1, 2], {"a": 1}])
def test_a_result_that_is_no_list_of_the_right_length_is_refused(returned: Any) -> None:
    def function(x: list[int]) -> Any:
        return returned

    with bench(function) as b:
        assert b.ask(1)[0][0].status == Status.UNENCODABLE


def test_null_is_a_value() -> None:
    with bench(lambda x: [None] * len(x)) as b:
        assert [body for _, body in b.ask(1, 2)] == [b"null", b"null"]
        assert [body for _, body in b.ask(1)] == [b"null"]


def test_what_is_raised_is_searched_for_and_runs_the_innocent_again() -> None:
    calls = []

    def function(x: list[int]) -> list[int]:
        calls.append(x)
        if 2 in x:
            raise ValueError("two")
        return x

    with bench(function) as b:
        found = b.ask(1, 2, 3, 4)
        assert [o.status for o, _ in found] == [0, Status.FUNCTION_ERROR, 0, 0]
        assert calls[0] == [1, 2, 3, 4]
        assert calls.count([1, 2, 3, 4]) == 1
        assert REQUEST_ID.get() == ""


def test_the_request_is_known_while_one_item_runs_and_not_after() -> None:
    seen = []

    def function(x: list[int]) -> list[int]:
        seen.append(REQUEST_ID.get())
        return x

    with bench(function) as b:
        b.ask(1)
        b.ask(1, 2)
        assert (seen, REQUEST_ID.get()) == (["req-0", ""], "")


def test_what_user_code_printed_goes_ahead_of_its_answer() -> None:
    def function(x: list[int]) -> list[int]:
        b.output.stdout.write("said")  # no line end: the end of the call is the line's
        return x

    with bench(function) as b:
        b.send([b'{"x": 1}'])
        b.express.turn()
        frames = wire.FrameReader().feed(b._ours.recv(1 << 16))
        assert [type(frame.message) for frame in frames] == [wire.Log, Result]
        assert [(r.request_id, r.message) for r in frames[0].message.records] == [("req-0", "said")]
