"""clipper.Response: what it takes, and how a caller gets it back."""

from __future__ import annotations

from typing import Any

import pytest

import clipper
from clipper import errors
from clipper.client import _value
from clipper.item_stream import stream_of
from clipper.remote_responses import body_of
from clipper.retrying import Answer, Request, is_error


@pytest.mark.parametrize(
    ("body", "media_type", "content_type"),
    [
        ("text", None, "text/plain; charset=utf-8"),
        ("<b>", "text/html", "text/html; charset=utf-8"),
        ("x", "text/html; charset=latin-1", "text/html; charset=latin-1"),
        ("{}", "application/json", "application/json"),
        (b"\0", None, "application/octet-stream"),
        (b"\0", "image/png", "image/png"),
        (None, None, ""),
        ({"a": 1}, None, ""),
    ],
)
def test_the_content_type_follows_the_body_and_the_media_type(body: Any, media_type: Any, content_type: str) -> None:
    assert clipper.Response(body, media_type=media_type).content_type == content_type


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"status": 99}, "from 200 to 599"),
        ({"headers": {"Set-Cookie": "a=b"}}, "cannot be set by a function"),
        ({"headers": {"x": "a\r\nb: c"}}, "text of one line"),
        ({"media_type": "html"}, "no media type"),
        ({"media_type": "text/html\r\nx: y"}, "no media type"),
        ({"body": "x", "status": 204}, "has no body"),
        ({"body": {"a": 1}, "status": 304}, "has no body"),
    ],
)
def test_what_an_answer_cannot_have_is_refused_where_it_is_written(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        clipper.Response(**arguments)


def test_two_responses_with_the_same_content_are_equal() -> None:
    assert clipper.Response("a", headers={"X-A": "1"}) == clipper.Response("a", headers={"x-a": "1"})
    assert clipper.Response("a") != clipper.Response("a", status=201)
    assert clipper.Response("a") != "a"
    assert repr(clipper.Response("a" * 100)).startswith("clipper.Response('aaa")


MARK = {"x-clip-response": "1", "x-clip-version": "1", "content-length": "1", "date": "today"}


@pytest.mark.parametrize(
    ("status", "headers", "content", "response"),
    [
        (404, {"content-type": "text/html; charset=utf-8"}, "é".encode(), "é"),
        (200, {"content-type": "text/x; charset=latin-1"}, "é".encode("latin-1"), "é"),
        (200, {"content-type": "text/x; charset=none"}, "é".encode(), "é"),
        (200, {"content-type": "text/x"}, b"\xff", b"\xff"),
        (418, {"content-type": "application/msgpack"}, b"\x81\xa1a\x01", {"a": 1}),
        (422, {"content-type": "application/problem+json"}, b'{"a":1}', {"a": 1}),
        (200, {"content-type": "video/mp4"}, b"\0", b"\0"),
        (200, {"content-type": "text/plain"}, b"", ""),
        (204, {}, b"", None),
        (302, {"location": "/x"}, b"", None),
    ],
)
def test_an_answer_that_the_function_wrote_is_a_response_again(
    status: int, headers: dict[str, str], content: bytes, response: Any
) -> None:
    value = _value(Answer(status, MARK | headers | {"vary": "accept-encoding"}, content))
    assert (value.status, value.body) == (status, response)
    assert value.headers == {k: v for k, v in headers.items() if k == "location"}
    assert not is_error(status, MARK, Request(method="POST", path="/"))


def test_an_error_of_the_platform_stays_one() -> None:
    assert is_error(404, {"x-clip-version": "1"}, Request(method="POST", path="/"))
    assert body_of(b"a", {}) == b"a"


def test_a_status_that_is_none_is_an_unexpected_answer() -> None:
    with pytest.raises(errors.UnexpectedAnswer):
        _value(Answer(199, MARK, b""))


def test_an_answer_that_a_generator_writes_is_its_head_and_then_its_pieces() -> None:
    stream = stream_of(201, MARK | {"content-type": "text/csv; charset=utf-8"})
    (head,) = stream.begin()
    assert (head.status, head.media_type) == (201, "text/csv; charset=utf-8")
    pieces = "aé".encode()
    assert [item for n in range(3) for item in stream.feed(pieces[n : n + 1])] == ["a", "é"]
    stream.check_ended()
    binary = stream_of(200, MARK | {"content-type": "audio/mpeg"})
    assert [*binary.feed(b"\xff"), *binary.feed(b"")] == [b"\xff"]
