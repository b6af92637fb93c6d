"""The memory of heads by their bytes."""

from __future__ import annotations

from clipper_platform.gateway.http.known_heads import MAX_KNOWN_HEAD_BYTES, MAX_KNOWN_HEADS, KnownHeads
from clipper_platform.gateway.http.request_head import RequestHead
from tests.unit.gateway.http.wire import post

HEAD = RequestHead()


def remembered(data: bytes, body_bytes: int) -> KnownHeads:
    heads = KnownHeads()
    heads.add(data, "p/f", HEAD, body_bytes)
    return heads


def test_a_request_with_the_same_head_and_another_body_is_found() -> None:
    known = remembered(post(b"12"), 2).find(post(b"34"))
    assert known is not None
    assert (known.path, known.head) == ("p/f", HEAD)
    assert post(b"34")[len(known.raw) :] == b"34"
    assert known.begins(post(b"56"))


def test_what_is_not_one_whole_request_with_this_head_is_not_found() -> None:
    heads = remembered(post(b"12"), 2)
    for data in (b"", b"\r\n\r\n", post(b"12")[:-1], post(b"12") + post(b"12"), post(b"123"), post(b"12", b"A: b")):
        assert heads.find(data) is None
    known = heads.find(post(b"12"))
    assert known is not None
    assert not known.begins(post(b"12")[:-1])
    assert not known.begins(post(b"12", path=b"/fn/p/g"))


def test_a_read_with_more_or_less_than_one_request_is_not_remembered() -> None:
    for data, body_bytes in ((post(b"12") + post(b"12"), 2), (post(b"12")[:-1], 2), (b"", 0)):
        assert remembered(data, body_bytes).find(post(b"12")) is None


def test_the_size_of_a_head_and_the_number_of_heads_are_bounded() -> None:
    large = post(b"1", b"X-Pad: " + b"x" * MAX_KNOWN_HEAD_BYTES)
    assert remembered(large, 1).find(large) is None
    heads = KnownHeads()
    for number in range(MAX_KNOWN_HEADS + 1):
        heads.add(post(b"1", b"X-Number: %d" % number), "p/f", HEAD, 1)
    assert heads.find(post(b"1", b"X-Number: 0")) is None
    assert heads.find(post(b"1", b"X-Number: %d" % MAX_KNOWN_HEADS)) is not None
