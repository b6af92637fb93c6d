"""The replica's end of the channel, on a real socket pair."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.contract.wire import Drain, Invoke, Item, Ping, ProtocolError
from clipper_runtime.channel import Channel, ChannelClosed
from tests.support.frames import frame_of

INVOKE = frame_of(Invoke(7, [Item(0, "r", "", "", 0.0, 8)]), [b'{"x": 1}'])
FRAMES = {"ping": frame_of(Ping(1)), "invoke": INVOKE, "drain": frame_of(Drain(1.0))}


class Received(list[tuple[str, bytes]]):
    def __call__(self, message: Any, body: memoryview) -> None:
        self.append((type(message).__name__.lower(), bytes(body)))


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Channel]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, Channel(theirs)


def test_frames_come_in_order_with_their_bodies_however_they_are_split(ends: tuple[socket.socket, Channel]) -> None:
    ours, channel = ends

    @given(
        st.lists(st.sampled_from(list(FRAMES)), max_size=6), st.lists(st.integers(1, 150), max_size=4), st.booleans()
    )
    def check(names: list[str], cuts: list[int], expecting: bool) -> None:
        received, data = Received(), b"".join(FRAMES[name] for name in names)
        bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
        for start, end in pairwise(bounds):
            ours.sendall(data[start:end])
            channel.pump(received, expecting=expecting)
        assert received == [(name, b'{"x": 1}' if name == "invoke" else b"") for name in names]

    check()


def test_a_read_that_does_not_wait_gives_what_is_there(ends: tuple[socket.socket, Channel]) -> None:
    ours, channel = ends
    received = Received()
    channel.pump(received, wait=False)
    assert not channel.readable()
    ours.sendall(INVOKE)
    assert channel.readable()
    channel.pump(received, wait=False)
    assert received == [("invoke", b'{"x": 1}')]


def test_a_thread_that_yields_does_not_read_while_another_one_does(ends: tuple[socket.socket, Channel]) -> None:
    ours, channel = ends
    received = Received()

    def handle(message: Any, body: memoryview) -> None:
        channel.pump(received, yielding=True)  # as another thread would, while this frame is handled
        received(message, body)

    ours.sendall(INVOKE)
    channel.pump(handle)
    assert received == [("invoke", b'{"x": 1}')]


@pytest.mark.parametrize("expecting", [True, False])
def test_the_end_of_the_stream_and_garbage_are_told_apart(ends: tuple[socket.socket, Channel], expecting: bool) -> None:
    ours, channel = ends
    ours.sendall(b"\xff" * 64)
    with pytest.raises(ProtocolError):
        channel.pump(Received(), expecting=expecting)
    ours.close()
    with pytest.raises(ChannelClosed):
        channel.pump(Received(), expecting=expecting)
