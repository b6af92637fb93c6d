"""The platform's end of the wire, over a transport that remembers what it is given."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.contract import wire
from clipper.contract.frames import Frame, FrameReader
from clipper_platform.backends.channel import HIGH_WATER_BYTES, MAX_LOG_FRAMES, WireChannel
from tests.support.frames import frame_of
from tests.support.replicas import Recorder, invoke


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[list[Any]] = []
        self.aborted = False
        self.reading: list[bool] = []  # whether it reads, at each change

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        self.reading.append(False)

    def resume_reading(self) -> None:
        self.reading.append(True)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == HIGH_WATER_BYTES

    def write(self, data: Any) -> None:
        self.writes.append([data])

    def writelines(self, list_of_data: Any) -> None:
        self.writes.append(list(list_of_data))

    def abort(self) -> None:
        self.aborted = True

    def sent(self) -> list[Frame]:
        return FrameReader().feed(b"".join(bytes(part) for write in self.writes for part in write))


class Owner:
    def __init__(self) -> None:
        self.control: list[Any] = []
        self.disconnects: list[str | None] = []

    def on_control(self, message: Any) -> None:
        self.control.append(message)

    def on_disconnect(self, violation: str | None) -> None:
        self.disconnects.append(violation)


def channel(attached: bool = True) -> tuple[WireChannel, FakeTransport, Owner, Recorder]:
    owner, recorder, transport = Owner(), Recorder(), FakeTransport()
    wired = WireChannel(owner)
    wired.connection_made(transport)
    if attached:
        wired.listen(recorder)
    return wired, transport, owner, recorder


def frame(message: wire.Message, *payloads: bytes) -> bytes:
    return frame_of(message, payloads)


def result(*payloads: bytes, status: int = 0) -> bytes:
    outcomes = [wire.Outcome(n, status, "text/plain", len(payload)) for n, payload in enumerate(payloads)]
    return frame(wire.Result(1, outcomes), *payloads)


async def test_a_frame_is_written_as_it_is_sent_and_whole() -> None:
    wired, transport, _, _ = channel()
    wired.send_invoke(invoke(b"abc", b"d"), [b"abc", b"d"])
    wired.send_ping(7)
    wired.send_cancel([1])
    wired.send_credit(2, 16)
    assert len(transport.writes) == 4
    sent = transport.sent()
    assert [type(f.message) for f in sent] == [wire.Invoke, wire.Ping, wire.Cancel, wire.Credit]
    assert bytes(sent[0].body) == b"abcd"


async def test_what_is_sent_before_there_is_a_connection_goes_first() -> None:
    wired, transport = WireChannel(Owner()), FakeTransport()
    wired.send_ping(1)
    wired.connection_made(transport)
    wired.send_ping(2)
    assert [f.message.nonce for f in transport.sent()] == [1, 2]


async def test_a_large_payload_is_handed_to_the_transport_as_it_is() -> None:
    wired, transport, _, _ = channel()
    large = bytes(1 << 20)
    wired.send_invoke(invoke(large), [large])
    assert any(part is large for part in transport.writes[0])


async def test_writable_follows_the_transport() -> None:
    wired, _, _, _ = channel()
    assert wired.writable
    wired.pause_writing()
    assert not wired.writable
    wired.resume_writing()
    assert wired.writable
    wired.close()
    assert not wired.writable


@given(st.lists(st.binary(max_size=40), max_size=5), st.data())
def test_any_split_of_the_stream_gives_the_same_results(payloads: list[bytes], data: st.DataObject) -> None:
    async def check() -> None:
        wired, _, owner, recorder = channel()
        wired.send_ping(3)
        stream = result(*payloads) + frame(wire.Pong(3, 0, 0.0)) + frame(wire.Chunk(5, 0, "x"), b"chunk")
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            wired.data_received(stream[start:end])
        assert recorder.answers.get_nowait()[1] == payloads
        assert recorder.pongs.get_nowait().nonce == 3
        assert recorder.chunks.get_nowait()[1] == b"chunk"
        assert owner.disconnects == []

    asyncio.run(check())


@given(st.binary(min_size=1, max_size=200))
def test_garbage_never_raises_into_the_loop_and_only_ever_closes(garbage: bytes) -> None:
    async def check() -> None:
        wired, transport, owner, _ = channel()
        wired.data_received(garbage)
        wired.data_received(garbage)
        if transport.aborted:
            wired.connection_lost(None)
            assert owner.disconnects[0]

    asyncio.run(check())


VIOLATIONS: Sequence[tuple[bytes, str]] = [
    (b"HTTP/1.1 200 OK\r\n\r\n", "over the limit"),
    (frame(wire.Result(1, [wire.Outcome(1, 0, "", 9)]), b"abc"), "do not make the body"),
    (frame(wire.Result(1, [wire.Outcome(1, 0, "", -1)])), "negative"),
    (result(b"x", status=77), "77 is not the status"),
    (frame(wire.Invoke(1, [])), "must not send Invoke"),
    (frame(wire.Drain(1.0)), "must not send Drain"),
    (frame(wire.Pong(1, 0, 0.0)), "before any Ping"),
    (frame(wire.Ready({"a": "x" * 2**21}, True, False, 1, {})), "header"),
    (frame(wire.Result(1, [wire.Outcome(1, 0)] * (wire.MAX_ENTRIES + 1))), "65536"),
]


@pytest.mark.parametrize(("data", "words"), VIOLATIONS, ids=[words for _, words in VIOLATIONS])
async def test_a_violation_closes_the_channel_and_says_what_it_was(data: bytes, words: str) -> None:
    wired, transport, owner, recorder = channel()
    wired.data_received(data + result(b"late"))
    assert transport.aborted
    wired.data_received(result(b"later"))
    wired.connection_lost(None)
    assert owner.disconnects[0] is not None
    assert words in owner.disconnects[0]
    assert recorder.events == []


@pytest.mark.parametrize("data", [result(b"x"), frame(wire.Pong(1, 0, 0.0)), frame(wire.Chunk(1, 0, "x"), b"y")])
async def test_an_answer_before_any_question_is_a_violation(data: bytes) -> None:
    wired, transport, owner, _ = channel(attached=False)
    wired.data_received(data)
    assert transport.aborted
    wired.connection_lost(None)
    assert "before any" in str(owner.disconnects[0])


async def test_start_up_messages_and_log_frames_go_to_the_owner() -> None:
    wired, _, owner, recorder = channel()
    messages: list[wire.Message] = [
        wire.Hello(1, 1, "r", "0", "3.11", 1),
        wire.Ready({}, False, False, 1, {}),
        wire.Failed("import", "E", "m", "t"),
        wire.Log([]),
    ]
    for message in messages:
        wired.data_received(frame(message))
    assert owner.control == messages
    assert recorder.events == []


async def test_after_the_end_sends_are_dropped_and_nothing_is_heard() -> None:
    wired, transport, owner, recorder = channel()
    wired.connection_lost(None)
    wired.send_ping(2)
    wired.data_received(result(b"late"))
    assert transport.writes == []
    assert recorder.events == []
    assert owner.disconnects == [None]
    assert not wired.writable


async def test_what_was_sent_before_the_connection_was_made_goes_out_then() -> None:
    wired, transport = WireChannel(Owner()), FakeTransport()
    wired.send_ping(1)
    wired.connection_made(transport)
    await asyncio.sleep(0)
    assert [f.message for f in transport.sent()] == [wire.Ping(1)]


async def test_a_flood_of_log_frames_is_read_in_portions() -> None:
    wired, transport, owner, _ = channel()
    log = frame(wire.Log([]))
    wired.data_received(log * (MAX_LOG_FRAMES - 1))
    assert transport.reading == []
    wired.data_received(log * 2)
    assert (transport.reading, len(owner.control)) == ([False], MAX_LOG_FRAMES + 1)
    wired._read_on()
    assert transport.reading == [False, True]
    wired.close()
    wired._read_on()
    assert transport.reading == [False, True]


async def test_a_pong_answers_one_ping() -> None:
    wired, transport, _, recorder = channel()
    wired.send_ping(1)
    wired.data_received(frame(wire.Pong(1, 0, 0.0)))
    assert (len(recorder.events), transport.aborted) == (1, False)
    wired.data_received(frame(wire.Pong(1, 0, 0.0)))
    assert (len(recorder.events), transport.aborted) == (1, True)
