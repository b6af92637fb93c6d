"""What the headers of an invocation mean, which id it gets, and which requests are plain."""

from __future__ import annotations

import re

import pytest

from clipper_platform.errors import InvalidRequest
from clipper_platform.gateway.http.plain_request import SPECIAL_HEADERS, plain_request
from clipper_platform.gateway.http.request_head import RequestHead, media_type, prefers_msgpack, read_head
from clipper_platform.gateway.http.request_id import new_request_id, request_id

HOST = (b"host", b"h")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_a_head_without_headers_has_the_defaults() -> None:
    assert read_head([]) == RequestHead(content_type="application/json", accept="*/*", authorization=None)


def test_the_headers_of_an_invocation_are_read_and_others_are_not() -> None:
    head = read_head([
        (b"content-type", b"Application/MsgPack; a=x"), (b"accept", b"application/x-npy"),
        (b"authorization", b"Bearer k"), (b"x-clip-timeout-ms", b"250"), (b"content-encoding", b"gzip"), (b"x", b"y"),
    ])  # fmt: skip
    assert head == RequestHead(
        content_type="application/msgpack",
        accept="application/x-npy",
        authorization="Bearer k",
        timeout_ms=b"250",
        encoding=b"gzip",
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((b"", ""), (b" A/B ; q=1", "a/b"), (b"\xff/x", "\xff/x"), (b"a/b; charset=UTF-8", "a/b")),
        (b"Application/JSON;charset=latin-1", "application/json;charset=latin-1"),
        (b"Multipart/Form-Data; boundary=XyZ", "multipart/form-data; boundary=XyZ"),
    ],
)
def test_a_media_type_has_the_parameters_that_decoding_needs_and_is_in_lower_case(value: bytes, expected: str) -> None:
    assert media_type(value) == expected


def test_an_empty_content_type_is_json() -> None:
    assert read_head([(b"content-type", b"")]).content_type == "application/json"


def test_a_timeout_shortens_the_functions_own_and_never_extends_it() -> None:
    assert RequestHead().timeout_s(60.0) == 60.0
    assert RequestHead(timeout_ms=b"1500").timeout_s(60.0) == 1.5
    assert RequestHead(timeout_ms=b"90000").timeout_s(60.0) == 60.0


@pytest.mark.parametrize("value", [b"soon", b"-1", b"0", b"nan", b"inf", b"\xff"])
def test_a_timeout_that_is_no_positive_number_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidRequest, match="X-Clip-Timeout-Ms"):
        RequestHead(timeout_ms=value).timeout_s(60.0)


def test_a_request_keeps_its_own_id_else_takes_its_traces_else_gets_a_new_one() -> None:
    traceparent = f"00-{TRACE}-00f067aa0ba902b7-01"
    assert request_id("mine:1", traceparent) == "mine:1"
    assert request_id("not one", traceparent) == TRACE
    assert re.fullmatch(r"[0-9a-f]{16}", request_id("", traceparent.replace(TRACE, "0" * 32)))


def test_new_ids_are_distinct() -> None:
    assert len({new_request_id() for _ in range(1000)}) == 1000


JSON, EVENTS, LINES = "application/json", "text/event-stream", "application/x-ndjson"


@pytest.mark.parametrize(
    ("accept", "stream"),
    [
        (EVENTS, EVENTS), ("Text/Event-Stream; charset=utf-8", EVENTS), (f"{EVENTS}, */*", EVENTS),
        (f"{JSON}, {EVENTS}", ""), (f"{EVENTS}, {JSON}", EVENTS), (f"{JSON};q=0.5, {EVENTS}", EVENTS),
        (f"{EVENTS};q=0.5, {JSON}", ""), (f"{EVENTS};q=0, {JSON}", ""), (f"{EVENTS};q=0", ""), ("*/*", ""), ("", ""),
        ("application/*", ""), ("text/*", EVENTS), ("text/*, */*;q=0.1", ""), (f"text/html, {EVENTS}", EVENTS),
        ("image/*", ""), (f"image/png, {EVENTS};q=0.9", ""), (LINES, LINES), ("application/jsonl", LINES),
        (f"{LINES}, {EVENTS}", LINES), (f"{LINES};q=0.1, {EVENTS}", EVENTS), (f"x{EVENTS}", ""),
        (f'{JSON};profile="{EVENTS}"', ""), (f'{JSON};profile=",{EVENTS},"', ""),
    ],
)  # fmt: skip
def test_items_come_one_by_one_where_the_caller_wants_that_most(accept: str, stream: str) -> None:
    assert RequestHead(accept=accept).stream_type == stream


def test_an_accept_header_in_several_lines_is_one_list() -> None:
    assert read_head([(b"accept", b"a/b"), (b"accept", b"c/d;q=0.5")]).accept == "a/b,c/d;q=0.5"


@pytest.mark.parametrize(
    ("accept", "msgpack"),
    [("*/*", False), ("application/MsgPack", True), ("application/json;q=0.1, application/x-msgpack;q=0.2", True)],
)
def test_messagepack_is_preferred_where_it_is_wanted_more_than_json(accept: str, msgpack: bool) -> None:
    assert prefers_msgpack(accept) is msgpack


# Plain requests


def test_a_plain_request_names_its_path_and_its_head() -> None:
    plain = plain_request(b"/fn/p/f@2", [HOST, (b"accept", b"a/b")], lambda host: host == "h")
    assert plain is not None
    assert (plain.path, plain.head, plain.keeps_alive) == ("p/f@2", RequestHead(accept="a/b"), True)


@pytest.mark.parametrize("url", [b"/", b"/fn", b"/api/fn/p/f", b"/fn/p/f?x", b"/fn/p/%66", b"/fn/p/f#x", b"/fn/p/\xc3"])
def test_another_address_is_not_plain(url: bytes) -> None:
    assert plain_request(url, [HOST], lambda _: True) is None


@pytest.mark.parametrize("name", sorted(SPECIAL_HEADERS))
def test_a_header_that_asks_for_more_makes_a_request_not_plain(name: bytes) -> None:
    assert plain_request(b"/fn/p/f", [HOST, (name, b"x")], lambda _: True) is None


@pytest.mark.parametrize("hosts", [[], [HOST, HOST], [(b"host", b"evil")]])
def test_without_one_allowed_host_a_request_is_not_plain(hosts: list[tuple[bytes, bytes]]) -> None:
    assert plain_request(b"/fn/p/f", hosts, lambda host: host == "h") is None


@pytest.mark.parametrize(("value", "keeps"), [(b"keep-alive", True), (b"Keep-Alive", True), (b"close", False)])
def test_a_connection_header_says_whether_the_connection_is_kept(value: bytes, keeps: bool) -> None:
    plain = plain_request(b"/fn/p/f", [HOST, (b"connection", value)], lambda _: True)
    assert plain is not None
    assert plain.keeps_alive is keeps
