"""The platform's end of the wire to one replica, over any stream transport: a Unix socket here, TCP elsewhere.

Every batch passes here, so it is kept small: a protocol on the transport (no stream reader, no task), and frames that
`wire.FrameReader` decodes without a copy. Frames are written one by one: uvloop's transport collects what is written in
one turn of the event loop and hands it to the kernel at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol, cast

from clipper.contract import wire
from clipper.contract.frames import FrameReader, split_body
from clipper_platform.backends.base import ChannelListener, Exit

__all__ = ["ChannelOwner", "WireChannel"]

# Above this many unsent bytes `writable` is False: about two batches of large payloads.
HIGH_WATER_BYTES = 4 * 1024 * 1024

# Small frames are joined into one buffer, which costs less than handing the kernel a vector; large ones are not copied.
_JOIN_BYTES = 64 * 1024

# Log frames that are read of a replica per window. The runtime sends one before a Result and 500 per second beside
# that; more, at some 3 µs each, would take more than a twentieth of a core.
WINDOW_S = 1.0
MAX_LOG_FRAMES = 20_000

_STATUSES = frozenset(int(status) for status in wire.Status)

Buffer = bytes | memoryview


class ChannelOwner(Protocol):
    """Receives the messages of the start-up, log frames and the end of the channel."""

    def on_control(self, message: wire.Hello | wire.Ready | wire.Failed | wire.Log) -> None:
        """May raise wire.ProtocolError: the message came out of turn."""
        ...

    def on_disconnect(self, violation: str | None) -> None:
        """Called once, as the last call. `violation` says how the replica broke the protocol, if it did."""
        ...


class _NoListener:
    """Listens until the owner of the replica attaches. No Invoke was sent yet, so every answer is a violation."""

    def on_result(self, result: wire.Result, payloads: Sequence[memoryview]) -> None:
        raise wire.ProtocolError("a Result came before any Invoke")

    def on_chunk(self, chunk: wire.Chunk, payload: memoryview) -> None:
        raise wire.ProtocolError("a Chunk came before any Invoke")

    def on_pong(self, pong: wire.Pong) -> None:
        return None  # it answers a Ping

    def on_exit(self, exit: Exit) -> None:
        return None


class WireChannel(asyncio.Protocol):
    """Implements `Channel`. Belongs to one event loop; `owner` outlives it."""

    def __init__(self, owner: ChannelOwner, max_frame_bytes: int = wire.MAX_FRAME_BYTES) -> None:
        self._owner = owner
        self._listener: ChannelListener = _NoListener()
        self._reader = FrameReader(max_frame_bytes, wire.FROM_REPLICA)
        self._transport: asyncio.Transport | None = None
        self._unsent: list[Buffer] = []  # until there is a connection
        self._paused = False
        self._pings = 0  # that are not answered
        self._window_at = 0.0
        self._log_frames = 0  # in the window
        self._violation: str | None = None
        self._closed = False

    # For the owner

    def listen(self, listener: ChannelListener) -> None:
        """Deliver results, chunks and pongs to `listener` from now on."""
        self._listener = listener

    def send(self, message: wire.Message) -> None:
        """Send a message without a body."""
        header = wire.encode(message)
        self._write([header], len(header))

    def close(self) -> None:
        """Abort the connection: nothing more is sent or delivered. `on_disconnect` follows."""
        self._closed = True
        if self._transport is not None:
            self._transport.abort()

    # Channel

    @property
    def writable(self) -> bool:
        return not self._paused and not self._closed

    def send_invoke(self, invoke: wire.Invoke, payloads: Sequence[Buffer]) -> None:
        size = sum(map(len, payloads))
        header = wire.encode(invoke, size)
        self._write([header, *payloads], len(header) + size)

    def send_cancel(self, ids: Sequence[int]) -> None:
        self.send(wire.Cancel(list(ids)))

    def send_withdraw(self, ids: Sequence[int]) -> None:
        self.send(wire.Cancel(list(ids), withdraw=True))

    def send_credit(self, item: int, n: int) -> None:
        self.send(wire.Credit(item, n))

    def send_ping(self, nonce: int) -> None:
        self._pings += 1
        self.send(wire.Ping(nonce))

    def _write(self, buffers: list[Buffer], size: int) -> None:
        if self._closed:
            return  # on_exit was called, or follows
        if self._transport is None:
            self._unsent += buffers
        elif size <= _JOIN_BYTES:
            self._transport.write(b"".join(buffers))
        else:
            self._transport.writelines(buffers)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's have the methods, not the base class
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        if self._unsent:
            self._transport.writelines(self._unsent)
            self._unsent.clear()

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        try:
            for frame in self._reader.feed(data):
                self._dispatch(frame.message, frame.body)
        except wire.ProtocolError as error:
            self._violation = str(error)
            self.close()

    def _dispatch(self, message: Any, body: memoryview) -> None:
        kind = type(message)
        if kind is wire.Result:
            self._on_result(message, body)
        elif kind is wire.Chunk:
            self._listener.on_chunk(message, body)
        elif kind is wire.Pong:
            if not self._pings:
                raise wire.ProtocolError("a Pong came before any Ping")
            self._pings -= 1
            self._listener.on_pong(message)
        else:
            if kind is wire.Log:
                self._pace_logs()
            self._owner.on_control(message)

    def _pace_logs(self) -> None:
        """Read no more until the window ends where too many Log frames come: each takes time of all functions."""
        now = asyncio.get_running_loop().time()
        if now - self._window_at >= WINDOW_S:
            self._window_at, self._log_frames = now, 0
        self._log_frames += 1
        transport = self._transport
        if self._log_frames == MAX_LOG_FRAMES and transport is not None and not transport.is_closing():
            transport.pause_reading()
            asyncio.get_running_loop().call_later(self._window_at + WINDOW_S - now, self._read_on)

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _on_result(self, result: wire.Result, body: memoryview) -> None:
        payloads = split_body(body, [outcome.length for outcome in result.outcomes])
        for outcome in result.outcomes:
            if outcome.status not in _STATUSES:
                raise wire.ProtocolError(f"{outcome.status} is not the status of an outcome")
        self._listener.on_result(result, payloads)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._unsent.clear()
        self._owner.on_disconnect(self._violation)
