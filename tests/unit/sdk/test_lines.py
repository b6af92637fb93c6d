from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.errors import UnexpectedAnswer
from clipper.lines import EventReader, LineReader, ServerEvent


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(
    st.lists(st.binary().map(lambda b: b.replace(b"\n", b"").rstrip(b"\r")), max_size=6),
    st.lists(st.integers(0), max_size=6),
)
def test_any_split_gives_the_same_lines(lines: list[bytes], cuts: list[int]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    reader = LineReader()
    assert [line for piece in split(data, cuts) for line in reader.feed(piece)] == lines


TEXT = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))


@given(
    st.lists(st.tuples(st.sampled_from(["message", "end", "error"]), TEXT), max_size=5),
    st.lists(st.integers(0), max_size=6),
)
def test_any_split_gives_the_same_events(events: list[tuple[str, str]], cuts: list[int]) -> None:
    data = b"".join(
        (b"" if name == "message" else f"event: {name}\n".encode()) + b"data: " + text.encode() + b"\n\n"
        for name, text in events
    )
    reader = EventReader()
    found = [event for piece in split(data, cuts) for event in reader.feed(piece)]
    assert found == [ServerEvent(name, text) for name, text in events]


def test_crlf_comments_and_many_data_lines_are_understood() -> None:
    reader = EventReader()
    data = b": heartbeat\r\n\r\nid: 4\r\nevent: x\r\ndata:a\r\ndata: b\r\n\r\n"
    assert list(reader.feed(data)) == [ServerEvent("x", "a\nb")]


def test_unicode_line_marks_are_text() -> None:
    reader = EventReader()
    assert list(reader.feed('data: "a\u2028b\x0bc\x85"\n\n'.encode())) == [
        ServerEvent("message", '"a\u2028b\x0bc\x85"')
    ]


def test_an_endless_line_is_refused_before_it_fills_memory() -> None:
    reader = LineReader(max_line_bytes=10)
    assert reader.feed(b"0123456789") == []
    with pytest.raises(UnexpectedAnswer, match="more than 10 bytes"):
        reader.feed(b"x")


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UnexpectedAnswer, match="UTF-8"):
        list(EventReader().feed(b"data: \xff\n\n"))
