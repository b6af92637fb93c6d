"""clipper.Response as the outcome of an item: unbatched, in a batch, async, as the head of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import clipper
from clipper.contract.wire import Chunk, Result, Status
from tests.support.engines import STREAMING_ENGINES, invoke_of, served
from tests.unit.runtime.test_core import answer_of, core_of, work_of


def outcome(call: Any, value: Any = 1, **options: Any) -> tuple[Any, bytes]:
    answer = answer_of(core_of(call, batched=False, **options), work_of([value]))
    (found,), (body,) = answer.outcomes, answer.bodies
    return found, body


@pytest.mark.parametrize("is_async", [False, True])
def test_a_response_is_an_outcome_with_its_head(is_async: bool) -> None:
    response = clipper.Response("<b>é", media_type="text/html", status=201, headers={"X-A": "1"})

    def sync(x: int) -> clipper.Response:
        return response

    async def asynchronous(x: int) -> clipper.Response:
        return response

    found, body = outcome(asynchronous if is_async else sync)
    assert (found.status, found.content_type, body) == (Status.OK, "text/html; charset=utf-8", "<b>é".encode())
    assert (found.response.status, found.response.headers) == (201, (("x-a", "1"),))


def test_in_a_batch_each_item_has_a_response_of_its_own() -> None:
    def batch(x: list[int]) -> list[Any]:
        return [clipper.Response(str(n), status=404) if n % 2 else n for n in x]

    answer = answer_of(core_of(batch), work_of([1, 2, 3]))
    assert [(o.status, o.response and o.response.status) for o in answer.outcomes] == [(0, 404), (0, None), (0, 404)]
    assert answer.bodies == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("response", "content_type", "body"),
    [
        (clipper.Response({"a": 1}), "application/json", b'{"a":1}'),
        (clipper.Response({"a": 1}, media_type="application/problem+json"), "application/problem+json", b'{"a":1}'),
        (clipper.Response([1], media_type="application/msgpack"), "application/msgpack", b"\x91\x01"),
        (clipper.Response(b"\0"), "application/octet-stream", b"\0"),
        (clipper.Response(bytearray(b"\1")), "application/octet-stream", b"\1"),
        (clipper.Response(), "", b""),
    ],
)
def test_the_body_has_the_form_that_the_response_names(response: Any, content_type: str, body: bytes) -> None:
    found, sent = outcome(lambda x: response)
    assert (found.status, found.content_type, sent) == (Status.OK, content_type, body)


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (clipper.Response({"a": 1}, media_type="text/csv"), "cannot be text/csv"),
        (clipper.Response(object()), "cannot be encoded"),
        (clipper.Response("\ud800"), "not UTF-8"),
        (clipper.Response({"a": float("nan")}), "JSON cannot express"),
        ({"nested": clipper.Response("x")}, "is the whole value"),
    ],
)
def test_a_response_that_cannot_be_sent_fails_its_item_alone(response: Any, words: str) -> None:
    found, _ = outcome(lambda x: response)
    assert found.status == Status.UNENCODABLE
    assert words in found.message


def test_headers_and_status_that_were_changed_afterwards_are_checked_again() -> None:
    changed = clipper.Response("x")
    changed.headers["Transfer-Encoding"] = "chunked"
    found, _ = outcome(lambda x: changed)
    assert (found.status, "cannot be set" in found.message) == (Status.UNENCODABLE, True)
    changed.headers, changed.status = {}, 42
    assert outcome(lambda x: changed)[0].status == Status.UNENCODABLE


def test_a_response_over_the_limit_is_too_large() -> None:
    assert outcome(lambda x: clipper.Response("x" * 2000))[0].status == Status.TOO_LARGE


@pytest.mark.parametrize("engine", STREAMING_ENGINES)
def test_a_generator_that_begins_with_a_response_writes_the_answer_itself(engine: str) -> None:
    def rows(x: int) -> Iterator[Any]:
        yield clipper.Response("a\n", media_type="text/csv", status=201)
        for n in range(x):
            yield f"{n}\n" if n % 2 else b"%d\n" % n
        if x == 3:
            yield 7

    with served(rows, engine, streaming=True) as replica:
        for count, last in ((2, Status.OK), (3, Status.UNENCODABLE)):
            replica.send(*invoke_of(count))
            chunks = []
            while isinstance((frame := replica.receive((Chunk, Result))).message, Chunk):
                chunks.append((frame.message, bytes(frame.body)))
            assert b"".join(body for _, body in chunks) == b"a\n0\n1\n" + (b"2\n" if count == 3 else b"")
            assert [bool(chunk.response) for chunk, _ in chunks] == [True] + [False] * count
            assert {chunk.content_type for chunk, _ in chunks} == {"text/csv; charset=utf-8"}
            assert frame.message.outcomes[0].status == last
