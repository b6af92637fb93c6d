"""Framing: any split of the bytes gives the same frames, and garbage neither hangs nor crashes the reader."""

from __future__ import annotations

import ctypes
import itertools
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clipper.contract import wire
from clipper.contract.frames import FrameReader, read_invoke, split_body
from tests.support.frames import frame_of

INTEGERS = st.integers(-(2**63), 2**64 - 1)
IDS = st.integers(0, 2**53)
SECONDS = st.floats(allow_nan=False)
TEXT = st.text(max_size=40)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | SECONDS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
TABLE = st.dictionaries(TEXT, PLAIN, max_size=4)
PAYLOADS = st.lists(st.binary(max_size=300), max_size=5)

# Messages without a body of their own.
BARE: st.SearchStrategy[Any] = st.one_of(
    st.builds(wire.Hello, IDS, IDS, TEXT, TEXT, TEXT, IDS, TEXT),
    st.builds(wire.Start, IDS, TEXT, TEXT, IDS, TEXT, TEXT, TABLE, IDS),
    st.builds(wire.Ready, TABLE, st.booleans(), st.booleans(), IDS, st.dictionaries(TEXT, SECONDS, max_size=3)),
    st.builds(wire.Failed, TEXT, TEXT, TEXT, TEXT),
    st.builds(wire.Credit, IDS, IDS),
    st.builds(wire.Cancel, st.lists(IDS, max_size=5)),
    st.builds(wire.Ping, IDS),
    st.builds(wire.Pong, IDS, IDS, SECONDS),
    st.builds(wire.Drain, SECONDS),
    st.builds(wire.Log, st.lists(st.builds(wire.LogRecord, SECONDS, TEXT, TEXT, TEXT, TEXT, TEXT), max_size=3), IDS),
)


@st.composite
def messages(draw: st.DrawFn) -> tuple[Any, list[bytes]]:
    """A message and the payloads that its header announces."""
    payloads = draw(PAYLOADS)
    match draw(st.sampled_from(["bare", "invoke", "result", "chunk"])):
        case "invoke":
            items = [wire.Item(draw(IDS), draw(TEXT), draw(TEXT), draw(TEXT), draw(SECONDS), len(p)) for p in payloads]
            return wire.Invoke(draw(IDS), items), payloads
        case "result":
            statuses = st.sampled_from([int(s) for s in wire.Status])
            outcomes = [wire.Outcome(draw(IDS), draw(statuses), draw(TEXT), len(p)) for p in payloads]
            return wire.Result(draw(IDS), outcomes, draw(SECONDS), draw(IDS)), payloads
        case "chunk":
            return wire.Chunk(draw(IDS), draw(IDS), draw(TEXT)), [b"".join(payloads)]
        case _:
            return draw(BARE), []


def read(reader: FrameReader, pieces: list[bytes]) -> list[tuple[Any, bytes]]:
    return [(f.message, bytes(f.body)) for piece in pieces for f in reader.feed(piece)]


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(messages(), max_size=5), st.lists(st.integers(0, 10_000), max_size=20))
def test_any_split_of_the_stream_gives_the_same_messages(sent: list[tuple[Any, list[bytes]]], cuts: list[int]) -> None:
    data = b"".join(frame_of(message, payloads) for message, payloads in sent)
    reader = FrameReader()
    assert read(reader, pieces_of(data, cuts)) == [(message, b"".join(payloads)) for message, payloads in sent]
    assert reader.pending == 0


@given(messages())
def test_byte_by_byte_is_a_split_too(sent: tuple[Any, list[bytes]]) -> None:
    message, payloads = sent
    data = frame_of(message, payloads)
    assert read(FrameReader(), [data[i : i + 1] for i in range(len(data))]) == [(message, b"".join(payloads))]


@given(messages(), st.lists(st.integers(0, 10_000), max_size=3))
def test_frames_outlive_the_buffer_they_were_read_into(sent: tuple[Any, list[bytes]], cuts: list[int]) -> None:
    message, payloads = sent
    reader, got = FrameReader(), []
    for piece in pieces_of(frame_of(message, payloads), cuts):
        buffer = bytearray(piece)
        got += reader.feed(memoryview(buffer))
        buffer[:] = b"\xff" * len(buffer)
    assert [(f.message, bytes(f.body)) for f in got] == [(message, b"".join(payloads))]


@given(messages())
def test_payloads_are_the_exact_partition_of_the_body(sent: tuple[Any, list[bytes]]) -> None:
    message, payloads = sent
    (got,) = FrameReader().feed(frame_of(message, payloads))
    if isinstance(message, wire.Invoke | wire.Result):
        parts = message.items if isinstance(message, wire.Invoke) else message.outcomes
        lengths = [part.length for part in parts]
        assert [bytes(p) for p in split_body(got.body, lengths)] == payloads
        with pytest.raises(wire.ProtocolError):
            split_body(got.body, [*lengths, 1])
        with pytest.raises(wire.ProtocolError):
            split_body(got.body, [*lengths, -1, 1])


def check_survives(data: bytes, limit: int) -> None:
    """Frames, or a ProtocolError that stays; nothing else, and no more memory than the bytes given."""
    reader = FrameReader(max_frame_bytes=limit)
    errors: list[wire.ProtocolError] = []
    for n in range(0, len(data), 7):
        try:
            reader.feed(data[n : n + 7])
        except wire.ProtocolError as error:
            errors.append(error)
        else:
            assert not errors
    assert all(error is errors[0] for error in errors)
    assert reader.pending <= min(len(data), limit + wire.PREFIX_BYTES)


@given(st.binary(max_size=400), st.integers(0, 2000))
@example(b"\xff\xff\xff\xff\x01\x00\x00\x00\x05", 2**32)
@example(b"\x00\x00\x00\x00\x01\x00\x00\x00\x00", 100)
@example(b"\x00\x00\x00\x05\x0a\x00\x00\x00\x00", 100)
def test_random_bytes_are_frames_or_a_protocol_error(data: bytes, limit: int) -> None:
    check_survives(data, limit)


@given(st.lists(messages(), min_size=1, max_size=3), st.data())
def test_a_changed_byte_is_frames_or_a_protocol_error(sent: list[tuple[Any, list[bytes]]], data: st.DataObject) -> None:
    whole = bytearray(b"".join(frame_of(message, payloads) for message, payloads in sent))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    check_survives(bytes(whole), 1_000_000)


@given(st.sampled_from(sorted(wire.KINDS)), st.binary(max_size=60))
def test_any_header_is_a_message_or_a_protocol_error(kind: int, header: bytes) -> None:
    data = (5 + len(header)).to_bytes(4, "big") + bytes([kind]) + len(header).to_bytes(4, "big") + header
    check_survives(data, 1000)


def test_a_header_nested_without_end_is_a_protocol_error() -> None:
    header = b"\x91" * 500_000
    data = (5 + len(header)).to_bytes(4, "big") + b"\x02" + len(header).to_bytes(4, "big") + header
    with pytest.raises(wire.ProtocolError):
        FrameReader().feed(data)


@given(st.integers(0, 40), st.integers(1, 5000))
def test_a_body_that_came_in_pieces_is_aligned_and_the_frames_own(padding: int, size: int) -> None:
    data = frame_of(wire.Chunk(1, 0, "x" * padding), [bytes(size)])
    reader = FrameReader()
    reader.feed(data[:5])
    (got,) = reader.feed(data[5:])
    assert ctypes.addressof(ctypes.c_char.from_buffer(got.body)) % 16 == 0


def test_an_announced_size_costs_no_memory_before_its_bytes_come() -> None:
    prefix = (100_000_000).to_bytes(4, "big") + b"\x05" + (10).to_bytes(4, "big")
    tracemalloc.start()
    try:
        reader = FrameReader()
        reader.feed(prefix + b"x" * 1000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.pending == 1009
    assert peak < 1_000_000


@pytest.mark.parametrize(
    ("data", "part"),
    [
        ((1001).to_bytes(4, "big") + b"\x05\x00\x00\x00\x01", "over the limit of 1000"),
        ((10).to_bytes(4, "big") + b"\x63\x00\x00\x00\x01", "unknown frame kind 99"),
        ((10).to_bytes(4, "big") + b"\x05\x00\x00\x00\x06", "does not fit"),
        ((4).to_bytes(4, "big") + b"\x05\x00\x00\x00\x00", "does not fit"),
        ((6).to_bytes(4, "big") + b"\x0a\x00\x00\x00\x01\xc0", "header of a Ping frame"),
    ],
)
def test_each_violation_is_named(data: bytes, part: str) -> None:
    with pytest.raises(wire.ProtocolError, match=part):
        FrameReader(max_frame_bytes=1000).feed(data)


@given(BARE, st.lists(PLAIN, min_size=1, max_size=3))
def test_fields_appended_by_a_later_version_are_ignored(message: Any, surplus: list[Any]) -> None:
    fields = [*msgspec.structs.astuple(message), *surplus]
    header = msgspec.msgpack.encode(fields)
    kind = next(kind for kind, cls in wire.KINDS.items() if cls is type(message))
    data = (5 + len(header)).to_bytes(4, "big") + bytes([kind]) + len(header).to_bytes(4, "big") + header
    (got,) = FrameReader().feed(data)
    assert got.message == message


def test_a_header_over_its_limit_is_not_sent() -> None:
    with pytest.raises(wire.ProtocolError, match="header"):
        wire.encode(wire.Cancel(list(range(10**9, 10**9 + 2_000_000))))


def test_a_frame_that_the_length_field_cannot_say_is_not_sent() -> None:
    with pytest.raises(wire.ProtocolError, match="cannot be expressed"):
        wire.encode(wire.Chunk(1, 0, ""), 2**32)


@given(st.binary(max_size=40), st.integers(0, 60))
def test_only_one_whole_invoke_within_the_limits_is_read_without_a_reader(extra: bytes, cut: int) -> None:
    data = frame_of(wire.Invoke(7, [wire.Item(0, "r", "", "", 0.0, 2)]), [b"{}"])
    found = read_invoke(memoryview(data), len(data), wire.MAX_FRAME_BYTES)
    assert found is not None
    assert (found[0].batch, data[found[1] :]) == (7, b"{}")
    assert read_invoke(memoryview(data), len(data), len(data) - 5) is None
    if extra:
        assert read_invoke(memoryview(data + extra), len(data + extra), wire.MAX_FRAME_BYTES) is None
    part = data[: min(cut, len(data) - 1)]
    assert read_invoke(memoryview(part), len(part), wire.MAX_FRAME_BYTES) is None
    other = frame_of(wire.Ping(1))
    assert read_invoke(memoryview(other), len(other), wire.MAX_FRAME_BYTES) is None
