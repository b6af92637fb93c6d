"""A stream's items as server-sent events and as one array."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from clipper.contract.media_types import EVENT_STREAM, NDJSON
from clipper_platform.errors import FunctionError, InvalidResult
from clipper_platform.gateway.http.stream import FRAMINGS, ItemSink, event, line, send_array, send_items
from clipper_platform.serving.invocation import Invocation, OwningQueue
from tests.support.serving import harness, target

pytestmark = pytest.mark.virtual_time


class Stream:
    """An invocation whose items are all there, and what was sent of them."""

    def __init__(self, queue: OwningQueue, *items: bytes, kind: str = "application/json") -> None:
        self.invocation = Invocation(queue, "id-1", "application/json", "*/*", b"", 1.0, 9.0, lambda _: None)
        self.sink = ItemSink()
        self.credits = 0
        self.messages: list[Any] = []
        for item in items:
            self.sink.chunk(item, kind, None)
        self.sink.end()

    def credit(self) -> None:
        self.credits += 1

    async def send(self, message: Any) -> None:
        self.messages.append(message)

    async def events(self) -> tuple[int, bytes]:
        return await self.items(EVENT_STREAM)

    async def items(self, kind: str) -> tuple[int, bytes]:
        await send_items(self.invocation, self.sink, self.credit, self.send, framing=FRAMINGS[kind])
        return self.answer()

    async def array(self, max_bytes: int = 100) -> tuple[int, bytes]:
        await send_array(self.invocation, self.sink, self.credit, self.send, max_bytes=max_bytes, coding="")
        return self.answer()

    def answer(self) -> tuple[int, bytes]:
        start, *parts = self.messages
        assert [part["more_body"] for part in parts] == [True] * (len(parts) - 1) + [False]
        return start["status"], b"".join(part["body"] for part in parts)


@pytest.fixture
async def queue() -> AsyncIterator[OwningQueue]:
    async with harness() as h:
        await h.deploy(target())
        yield h.dispatcher.resolve("p/f")


@pytest.mark.parametrize(
    ("data", "name", "lines"),
    [
        (b'"x"', "", b'data: "x"\n\n'),
        (b"", "", b"data: \n\n"),
        (b"one\ntwo", "", b"data: one\ndata: two\n\n"),
        (b"{}", "end", b"event: end\ndata: {}\n\n"),
    ],
)
def test_an_event_has_a_data_line_for_each_line(data: bytes, name: str, lines: bytes) -> None:
    assert event(data, name) == lines


def test_a_line_has_no_line_break_inside() -> None:
    assert line(b'{"a":\n 1}') == b'{"a":  1}\n'


async def test_each_item_is_a_line_of_ndjson_and_nothing_follows(queue: OwningQueue) -> None:
    assert await Stream(queue, b"1", b"2").items(NDJSON) == (200, b"1\n2\n")
    single = Stream(queue)
    single.invocation.payload = b"42"
    assert await single.items(NDJSON) == (200, b"42\n")


async def test_an_error_after_the_first_item_is_the_last_line_of_ndjson(queue: OwningQueue) -> None:
    stream = Stream(queue, b"1")
    stream.invocation.error = FunctionError("it raised")
    status, body = await stream.items(NDJSON)
    assert (status, body[:2]) == (200, b"1\n")
    assert msgspec.json.decode(body[2:])["error"]["code"] == "function_error"


async def test_each_item_is_an_event_and_gives_the_replica_a_credit(queue: OwningQueue) -> None:
    stream = Stream(queue, b"1", b"2")
    assert await stream.events() == (200, b"data: 1\n\ndata: 2\n\nevent: end\ndata: {}\n\n")
    assert stream.credits == 2


async def test_an_error_after_the_first_item_is_the_last_event(queue: OwningQueue) -> None:
    stream = Stream(queue, b"1")
    stream.invocation.error = FunctionError("it raised")
    status, body = await stream.events()
    assert status == 200
    first, last, rest = body.split(b"\n\n")
    assert (first, rest) == (b"data: 1", b"")
    assert last.startswith(b"event: error\ndata: ")
    assert msgspec.json.decode(last.partition(b"data: ")[2])["error"]["code"] == "function_error"


async def test_an_error_before_the_first_item_is_an_answer_with_its_status(queue: OwningQueue) -> None:
    stream = Stream(queue)
    stream.invocation.error = FunctionError("it raised")
    status, body = await stream.events()
    assert (status, msgspec.json.decode(body)["error"]["code"]) == (500, "function_error")


async def test_the_result_of_a_function_that_does_not_stream_is_one_event(queue: OwningQueue) -> None:
    stream = Stream(queue)
    stream.invocation.payload = b"42"
    assert await stream.events() == (200, b"data: 42\n\nevent: end\ndata: {}\n\n")


@pytest.mark.parametrize(
    ("kind", "item", "decode"),
    [
        ("application/json", b"7", msgspec.json.decode),
        ("application/msgpack", b"\x07", msgspec.msgpack.decode),
    ],
)
@pytest.mark.parametrize("count", [1, 15, 16])
async def test_items_that_are_not_asked_for_as_events_are_one_array(
    queue: OwningQueue, kind: str, item: bytes, decode: Any, count: int
) -> None:
    stream = Stream(queue, *[item] * count, kind=kind)
    status, body = await stream.array()
    assert (status, decode(body)) == (200, [7] * count)
    assert (b"content-type", kind.encode()) in stream.messages[0]["headers"]
    assert stream.credits == count


async def test_a_stream_without_items_is_an_empty_array(queue: OwningQueue) -> None:
    queue.streaming = True
    assert await Stream(queue).array() == (200, b"[]")


async def test_an_array_over_the_limit_is_refused_before_it_is_sent(queue: OwningQueue) -> None:
    stream = Stream(queue, b"x" * 60, b"x" * 60)
    with pytest.raises(InvalidResult, match="text/event-stream"):
        await stream.array()
    assert (stream.messages, stream.credits) == ([], 1)


async def test_an_error_in_the_middle_of_an_array_is_the_whole_answer(queue: OwningQueue) -> None:
    stream = Stream(queue, b"1")
    stream.invocation.error = FunctionError("it raised")
    status, body = await stream.array()
    assert (status, msgspec.json.decode(body)["error"]["code"]) == (500, "function_error")


async def test_a_replica_that_sends_items_without_credit_fills_no_memory(queue: OwningQueue) -> None:
    stream = Stream(queue, *[b"1"] * 100_000)
    assert stream.sink._items.qsize() < 100
    with pytest.raises(InvalidResult, match="credit"):
        await stream.events()
