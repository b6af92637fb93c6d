"""Answers of finished invocations: rendered one by one, and from templates."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from clipper_platform.errors import FunctionError
from clipper_platform.gateway.http.answer import answer_of
from clipper_platform.gateway.http.answer_templates import AnswerTemplates
from clipper_platform.serving.cache import CachedResult
from clipper_platform.serving.invocation import Invocation, OwningQueue
from tests.support.serving import harness, target

pytestmark = pytest.mark.virtual_time

DATE = [(b"date", b"today")]


@pytest.fixture
async def queue() -> AsyncIterator[OwningQueue]:
    async with harness() as h:
        await h.deploy(target(default_output={"label": "none"}))
        yield h.dispatcher.resolve("p/f")


def answered(queue: OwningQueue, payload: bytes = b"42", **fields: Any) -> Invocation:
    """Arrived at 1.0, dispatched at 1.5, finished at 2.0 after 0.25 s of execution."""
    invocation = Invocation(queue, "id-1", "application/json", "*/*", b"", 1.0, 9.0, lambda _: None)
    invocation.payload, invocation.content_type_out = payload, "application/json"
    invocation.dispatched, invocation.finished, invocation.exec_s = 1.5, 2.0, 0.25
    for name, value in fields.items():
        setattr(invocation, name, value)
    return invocation


def lines(head: bytes) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)


async def test_a_result_is_answered_with_its_type_its_version_and_where_its_time_went(queue: OwningQueue) -> None:
    answer = answer_of(answered(queue, cache_status="miss"))
    assert (answer.status, answer.body) == (200, b"42")
    assert lines(answer.head) == {
        "content-type": "application/json",
        "content-length": "2",
        "x-clip-version": "1",
        "cache-status": "clipper; fwd=miss; stored",
        "server-timing": "queue;dur=500.000, batch;dur=500.000, exec;dur=250.000",
    }


async def test_a_cold_start_is_answered_with_its_phases_instead_of_a_wait(queue: OwningQueue) -> None:
    head = answer_of(answered(queue, cold={"fork": 0.1, "setup": 0.4})).head
    timing = "fork;dur=100.000, setup;dur=400.000, batch;dur=500.000, exec;dur=250.000, first_batch;dur=500.000"
    assert lines(head)["server-timing"] == timing


async def test_an_error_is_answered_with_its_status_and_the_version(queue: OwningQueue) -> None:
    answer = answer_of(answered(queue, error=FunctionError("it raised", type="ValueError"), dispatched=0.0))
    assert answer.status == 500
    assert lines(answer.head)["server-timing"] == "queue;dur=1000.000"
    assert lines(answer.head)["x-clip-version"] == "1"
    assert msgspec.json.decode(answer.body)["error"] == {
        "type": "ValueError", "code": "function_error", "message": "it raised", "request_id": "id-1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("accept", "kind", "decode"),
    [
        ("*/*", "application/json", msgspec.json.decode),
        ("application/msgpack", "application/msgpack", msgspec.msgpack.decode),
    ],
)
async def test_the_default_output_says_why_and_has_the_form_that_is_accepted(
    queue: OwningQueue, accept: str, kind: str, decode: Any
) -> None:
    answer = answer_of(answered(queue, default_reason="deadline_exceeded", accept=accept))
    assert answer.status == 200
    assert lines(answer.head)["x-clip-default"] == "deadline_exceeded"
    assert lines(answer.head)["content-type"] == kind
    assert decode(answer.body) == {"label": "none"}


# Templates


async def test_a_template_gives_the_same_lines_as_the_answer_rendered_for_itself(queue: OwningQueue) -> None:
    templates = AnswerTemplates()
    for invocation in (
        answered(queue),
        answered(queue, cache_status="miss", finished=3.0),
        answered(queue, cache_status="hit", dispatched=0.0),
        answered(queue, b"other"),
    ):
        head, _, body = templates.result(invocation, DATE).partition(b"\r\n\r\n")
        expected = answer_of(invocation)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert lines(head) == {**lines(expected.head), "date": "today", "x-request-id": "id-1"}
        assert body == expected.body


async def test_a_hits_head_is_that_of_an_answered_hit(queue: OwningQueue) -> None:
    hit = answered(queue, cache_status="hit", dispatched=0.0)
    head = AnswerTemplates().hit(queue, CachedResult(b"42", "application/json"), "id-1", 1.0, DATE)
    assert lines(head) == {**lines(answer_of(hit).head), "date": "today", "x-request-id": "id-1"}


async def test_a_new_date_is_on_the_next_answer(queue: OwningQueue) -> None:
    templates = AnswerTemplates()
    assert lines(templates.result(answered(queue), DATE))["date"] == "today"
    tomorrow = [(b"date", b"tomorrow")]
    assert lines(templates.result(answered(queue), tomorrow))["date"] == "tomorrow"
    assert lines(templates.queue_full(answered(queue), 2.0, tomorrow))["date"] == "tomorrow"


async def test_a_refusal_has_its_own_id_and_time_and_numbers_that_are_a_tenth_of_a_second_old(
    queue: OwningQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    templates, rendered = AnswerTemplates(), []
    refusal = queue.queue_full()
    monkeypatch.setattr(type(queue), "queue_full", lambda _: rendered.append(1) or refusal)
    for now, id in ((2.0, "a"), (2.05, "of-a-client"), (2.2, "c")):
        head, _, body = templates.queue_full(answered(queue, request_id=id), now, DATE).partition(b"\r\n\r\n")
        assert re.match(rb"HTTP/1.1 429 ", head)
        assert lines(head)["x-request-id"] == msgspec.json.decode(body)["error"]["request_id"] == id
        assert lines(head)["content-length"] == str(len(body))
        assert lines(head)["server-timing"] == f"total;dur={(now - 1) * 1000:.3f}"
    assert len(rendered) == 2


@pytest.mark.parametrize("kind", ["text/html\r\nset-cookie: a=b", "a/b\n", "a/\0", "a/\u2603", "", "x" * 300])
async def test_a_content_type_that_is_no_header_value_is_that_of_bytes(queue: OwningQueue, kind: str) -> None:
    """It comes from the replica, whose code may be hostile to others behind the same proxy."""
    assert lines(answer_of(answered(queue, content_type_out=kind)).head)["content-type"] == "application/octet-stream"
    whole = AnswerTemplates().result(answered(queue, content_type_out=kind), DATE)
    assert b"\r\ncontent-type: application/octet-stream\r\n" in whole
    assert b"set-cookie" not in whole
