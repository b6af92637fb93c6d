"""Requests over a plain socket end as those of the HTTP library do."""

from __future__ import annotations

import random
import socket

import pytest

from clipper import errors
from clipper.direct import DirectConnection, reaches
from clipper.location import Location
from clipper.retrying import Request, RetryPolicy
from tests.unit.sdk.scripted_platform import ScriptedPlatform, error_response, json_response
from tests.unit.sdk.test_transport import OK, FakeTime, Rude

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

GET = Request(method="GET", path="/thing", params={"after": 3}, timeout_s=10.0)


@pytest.mark.parametrize(
    ("url", "reached"),
    [
        ("http://127.0.0.1:8700", True),
        ("http://localhost:8700", True),
        ("http://[::1]:8700", True),
        ("https://localhost:8700", False),
        ("http://localhost:8700/clip", False),
        ("http://example.org", False),
    ],
)
def test_it_is_for_a_platform_of_this_machine_with_nothing_in_between(url: str, reached: bool) -> None:
    assert reaches(Location(url)) is reached


def test_a_request_goes_out_with_its_key_query_and_body(platform: ScriptedPlatform) -> None:
    platform.scripted.append(json_response({"a": 1}, status=201))
    answer = DirectConnection(Location(platform.url, "clip_k")).send(
        Request(method="POST", path="/thing", params={"x": "a b"}, content=b"{}", headers={"Content-Type": "text/x"})
    )
    assert (answer.status, answer.content) == (201, b'{"a": 1}')
    assert answer.headers["content-type"].startswith("application/json")
    (seen,) = platform.seen
    assert (seen.method, seen.path, seen.body) == ("POST", "/thing", b"{}")
    assert (seen.headers["authorization"], seen.headers["content-type"]) == ("Bearer clip_k", "text/x")


def test_a_refusal_is_told_and_tried_again(platform: ScriptedPlatform) -> None:
    time, retries = FakeTime(), list[tuple[str, float]]()
    platform.scripted += [error_response(503, "store_unavailable", "no store"), json_response({})]
    connection = DirectConnection(
        Location(platform.url),
        clock=time.clock,
        sleep=time.sleep,
        rng=random.Random(0),
        on_retry=lambda error, delay_s: retries.append((error.code, delay_s)),
    )
    assert connection.send(GET).status == 200
    assert retries == [("store_unavailable", time.slept[0])]


def test_an_error_is_what_the_platform_says(platform: ScriptedPlatform) -> None:
    platform.scripted.append(error_response(404, "not_found", "no such thing"))
    with pytest.raises(errors.NotFound, match="no such thing"):
        DirectConnection(Location(platform.url)).send(GET)


def test_an_expected_status_is_an_answer_also_without_a_body(platform: ScriptedPlatform) -> None:
    platform.scripted.append(error_response(404, "not_found", "no such thing"))
    request = Request(method="HEAD", path="/thing", expected=frozenset({404}))
    assert DirectConnection(Location(platform.url)).send(request).status == 404


def test_nobody_there_is_unreachable_after_some_tries() -> None:
    time = FakeTime()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    connection = DirectConnection(Location(f"http://127.0.0.1:{port}"), clock=time.clock, sleep=time.sleep)
    with pytest.raises(errors.PlatformUnreachable, match="is `clip up` running"):
        connection.send(GET)
    assert len(time.slept) == RetryPolicy().max_connect_attempts - 1


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        (OK, b"{}"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=1\r\n[1\r\n2\r\n,2\r\n1\r\n]\r\n0\r\n\r\n",
            b"[1,2]",
        ),
        (b"HTTP/1.0 200\r\n\r\nuntil the end", b"until the end"),
    ],
    ids=["length", "chunks", "end"],
)
def test_a_body_ends_by_its_length_its_last_chunk_or_the_connection(answer: bytes, content: bytes) -> None:
    rude = Rude(answer)
    try:
        found = DirectConnection(Location(rude.url)).send(Request(method="POST", path="/x", timeout_s=5.0))
        assert (found.status, found.content) == (200, content)
    finally:
        rude.close()


def test_a_key_with_a_line_break_is_refused_before_anything_is_sent(platform: ScriptedPlatform) -> None:
    with pytest.raises(errors.InvalidRequest, match="Authorization"):
        DirectConnection(Location(platform.url, "clip_k\r\nX-Other: 1")).send(GET)
    assert platform.seen == []


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"HTTP/1.1 OK\r\n\r\n",
        OK.replace(b": 2", b": 9"),
        OK.replace(b": 2", b": two"),
        CHUNKED + b"x\r\n",
        CHUNKED + b"9\r\n[1",
    ],
)
def test_a_broken_answer_is_a_lost_connection(answer: bytes) -> None:
    rude = Rude(answer)
    try:
        with pytest.raises(errors.ConnectionLost):
            DirectConnection(Location(rude.url)).send(Request(method="POST", path="/x", timeout_s=5.0))
    finally:
        rude.close()


def test_no_answer_in_time_is_a_deadline_that_passed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connection = DirectConnection(Location(f"http://127.0.0.1:{silent.getsockname()[1]}"))
        with pytest.raises(errors.DeadlineExceeded):
            connection.send(Request(method="POST", path="/x", timeout_s=5.0, read_timeout_s=0.01))
