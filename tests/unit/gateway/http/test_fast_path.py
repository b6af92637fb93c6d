"""Parsing on the fast path: which requests it takes, bodies in pieces, pipelines, limits, known heads."""

from __future__ import annotations

import asyncio
import json

import pytest

from clipper_platform.gateway.http.fast_path import MAX_HEAD_BYTES, MAX_PIPELINED
from tests.unit.gateway.http.wire import Held, post, serve

pytestmark = pytest.mark.virtual_time

CHUNKED = b"POST /fn/p/f HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_plain_request_is_answered_by_one_write_without_starlette() -> None:
    async with serve() as server:
        line = server.connect()
        await line.send(post(b"hello"))
        assert line.transport.writes == 1
        assert line.answers() == [(200, b"hello")]
        assert (server.passed, server.state.total_requests) == ([], 1)


OTHER = {
    "another method": b"GET /fn/p/f HTTP/1.1\r\nHost: h\r\n\r\n",
    "a query": post(path=b"/fn/p/f?x=1"),
    "an escaped path": post(path=b"/fn/p/%66"),
    "another path": post(path=b"/elsewhere"),
    "an unknown function": post(path=b"/fn/p/absent"),
    "a foreign host": post(host=b"evil.example"),
    "an origin": post(b"1", b"Origin: http://h"),
    "events": post(b"1", b"Accept: text/event-stream"),
    "an encoded body": post(b"1", b"Content-Encoding: gzip"),
    "two request ids": post(b"1", b"X-Request-Id: a", b"X-Request-Id: b"),
    "a wrong timeout": post(b"1", b"X-Clip-Timeout-Ms: soon"),
    "a body over the limit": post(b"x" * 1001),
    "HTTP/1.0": post().replace(b"HTTP/1.1", b"HTTP/1.0"),
}


@pytest.mark.parametrize("request_bytes", OTHER.values(), ids=OTHER)
async def test_any_other_request_is_left_to_starlette(request_bytes: bytes) -> None:
    async with serve() as server:
        line = server.connect()
        await line.send(request_bytes)
        assert line.answers() == [(200, b"plain")]
        assert len(server.passed) == 1
        assert server.invoked == 0


async def test_starlette_gets_the_request_as_it_was_sent() -> None:
    async with serve() as server:
        await server.connect().send(post(b"body", b"Origin: http://h", b"X-Request-Id: mine"))
        (scope,) = server.passed
        assert (scope["method"], scope["path"], scope["body"]) == ("POST", "/fn/p/f", b"body")
        assert sorted(scope["headers"]) == [
            (b"content-length", b"4"), (b"host", b"h"), (b"origin", b"http://h"), (b"x-request-id", b"mine"),
        ]  # fmt: skip


async def test_with_the_fast_path_off_starlette_gets_everything() -> None:
    async with serve(enabled=False) as server:
        await server.connect().send(post(), post())
        assert (len(server.passed), server.invoked) == (2, 0)


async def test_a_body_in_pieces_is_joined_and_invoked_once_it_is_complete() -> None:
    async with serve() as server:
        line, request = server.connect(), post(b"abcdef")
        await line.send(request[:-6], b"ab")
        await line.send(b"cd")
        assert (server.invoked, line.answers()) == (0, [])
        await line.send(b"ef")
        assert (server.invoked, line.answers()) == (1, [(200, b"abcdef")])


async def test_a_chunked_body_over_the_limit_is_refused_and_the_connection_closed() -> None:
    async with serve(max_body_bytes=10) as server:
        line = server.connect()
        await line.send(CHUNKED + b"6\r\nabcdef\r\n")
        assert line.answers() == []
        await line.send(b"6\r\nabcdef\r\n")
        assert [status for status, _ in line.answers()] == [413]
        assert (line.transport.half_closed, server.invoked) == (True, 0)


async def test_a_pipelined_body_over_the_limit_is_refused_after_the_answers_before_it() -> None:
    held = Held()
    async with serve(held, max_body_bytes=10) as server:
        line = server.connect()
        await line.send(post(b"1") + CHUNKED + b"b\r\nabcdefghijk\r\n0\r\n\r\n" + post(b"3"))
        assert line.answers() == []
        held.go.set()
        await line.send(post(b"4"))
        assert [status for status, _ in line.answers()] == [200, 413]
        assert (line.transport.half_closed, server.invoked) == (True, 1)


@pytest.mark.parametrize("pad", [b"X-Pad: " + b"x" * 1000 + b"\r\n", b"x" * 1000], ids=["many", "one"])
async def test_a_head_that_is_too_large_is_refused_and_the_connection_closed(pad: bytes) -> None:
    async with serve() as server:
        line = server.connect()
        await line.send(b"POST /fn/p/f HTTP/1.1\r\nHost: h\r\nX-First: ")
        for _ in range(MAX_HEAD_BYTES // 1000 + 2):
            await line.send(pad)
        assert line.transport.half_closed
        assert [status for status, _ in line.answers()] == [431]


async def test_garbage_is_refused_and_the_connection_closed() -> None:
    async with serve() as server:
        line = server.connect()
        await line.send(b"\x16\x03\x01nonsense\r\n\r\n")
        await line.send(post(b"1"))  # what follows is not read
        ((status, body),) = line.answers()
        assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_request")
        assert (line.transport.half_closed, server.invoked) == (True, 0)


async def test_pipelined_requests_of_both_ways_are_answered_in_their_order() -> None:
    async with serve() as server:
        line = server.connect()
        await line.send(post(b"1") + post(b"2", b"Origin: x") + post(b"3") + post(b"4", b"Origin: x"))
        assert line.answers() == [(200, b"1"), (200, b"plain"), (200, b"3"), (200, b"plain")]


async def test_a_long_pipeline_is_read_no_further_until_it_is_shorter() -> None:
    held = Held()
    async with serve(held) as server:
        line = server.connect()
        await line.send(post(b"1") * (MAX_PIPELINED + 1))
        assert line.transport.reading  # else the end of the connection would not be seen
        await line.send(post(b"1"))
        assert not line.transport.reading
        held.go.set()
        await asyncio.sleep(1)
        assert line.transport.reading
        assert line.answers() == [(200, b"1")] * (MAX_PIPELINED + 2)


# Known heads


async def test_a_known_head_is_not_parsed_again_on_any_connection() -> None:
    async with serve() as server:
        await server.connect().send(post(b"1"))
        line = server.connect()
        line.protocol.parser = None  # type: ignore[assignment]  # would raise if it were used
        await line.send(post(b"2"))
        await line.send(post(b"3"))
        assert line.answers() == [(200, b"2"), (200, b"3")]


@pytest.mark.parametrize(
    "first",
    [
        (post(b"1", b"X-Request-Id: a"),),
        (post(b"1", b"Connection: close"),),
        (post(b"1")[:-1], b"1"),
        (post(b"1") + post(b"1"),),
        (CHUNKED + b"1\r\n1\r\n0\r\n\r\n",),
    ],
    ids=["an id of its own", "closes", "in two reads", "two in a read", "chunked"],
)
async def test_a_head_is_remembered_only_from_a_read_that_is_one_plain_request(first: tuple[bytes, ...]) -> None:
    async with serve() as server:
        await server.connect().send(*first)
        line = server.connect()
        for data in first:
            assert line.protocol.known_heads.find(data) is None


async def test_part_of_a_request_with_a_known_head_is_parsed() -> None:
    async with serve() as server:
        line, request = server.connect(), post(b"12")
        await line.send(request)
        await line.send(request[:-1])
        await line.send(b"2")
        await line.send(request + request)
        assert line.answers() == [(200, b"12")] * 4


async def test_a_known_head_in_the_body_of_another_request_is_a_body() -> None:
    async with serve() as server:
        line, inner = server.connect(), post(b"1")
        await line.send(inner)
        outer = post(inner)
        await line.send(outer[: -len(inner)])
        await line.send(inner)
        assert line.answers() == [(200, b"1"), (200, inner)]


async def test_a_function_that_is_gone_is_left_to_starlette_though_its_head_is_known() -> None:
    async with serve() as server:
        line = server.connect()
        await line.send(post(b"1"))
        server.harness.dispatcher.drop_route("p")
        await line.send(post(b"1"))
        assert line.answers() == [(200, b"1"), (200, b"plain")]


async def test_a_cached_result_is_answered_without_an_invocation() -> None:
    async with serve(cache_ttl_s=60.0) as server:
        line = server.connect()
        await line.send(post(b"1"))
        await line.send(post(b"1"))
        await line.send(post(b"2"))
        assert line.answers() == [(200, b"1"), (200, b"1"), (200, b"2")]
        assert server.invoked == 2
        assert server.state.total_requests == 3
