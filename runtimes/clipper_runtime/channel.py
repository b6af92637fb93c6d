"""The replica's end of the channel: a connected stream socket that several threads read and write."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from clipper.contract.frames import FrameReader, read_invoke
from clipper.contract.wire import MAX_FRAME_BYTES

__all__ = ["Channel", "ChannelClosed", "connect"]

# One read takes what a socket buffer usually holds; larger frames arrive in several.
_READ_BYTES = 256 * 1024

# Smaller buffers are joined: copying this much costs less than another system call.
_JOIN_BYTES = 64 * 1024

# A read polls without sleeping while data is likely to come within this time. An idle processor halts, and waking it
# takes longer than a batch of one.
_SPIN_S = 0.0004
# Weight of the latest wait in the moving average.
_LATEST_WEIGHT = 1 / 8


# Handles a message and its body.
Handler = Callable[[Any, memoryview], None]


class ChannelClosed(Exception):
    """The platform closed the channel, or its process ended."""


def connect(address: str) -> socket.socket:
    """A blocking stream socket from `fd:N`, `unix:PATH` or `tcp:HOST:PORT`.

    Raises ValueError for another form, OSError when the connection fails.
    """
    scheme, _, rest = address.partition(":")
    if scheme == "fd" and rest.isdigit():
        sock = socket.socket(fileno=int(rest))
    elif scheme == "unix" and rest:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(rest)
    elif scheme == "tcp" and rest.rpartition(":")[2].isdigit():
        host, _, port = rest.rpartition(":")
        sock = socket.create_connection((host.strip("[]"), int(port)))
        # A reply is one write, so waiting for more to send only adds latency.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        raise ValueError(f"the channel {address!r} is not of the form fd:N, unix:PATH or tcp:HOST:PORT")
    sock.setblocking(True)
    # Processes that user code starts must not keep the channel open after this process died.
    os.set_inheritable(sock.fileno(), False)
    return sock


class Channel:
    """Frames in, frames out.

    The reading thread holds the read lock until the frames are handled, so that they are handled in order although
    two threads read. Writes block: the platform always reads and never waits for the replica.
    """

    def __init__(self, sock: socket.socket, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._sock = sock
        self._reader = FrameReader(max_frame_bytes)
        self._buffer = bytearray(_READ_BYTES)
        self._view = memoryview(self._buffer)
        self._read_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._spins = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1
        self._usual_wait_s = 1.0
        self.reads = 0  # grows with each read: the watcher sees whether another thread reads

    def fileno(self) -> int:
        return self._sock.fileno()

    def limit_frames(self, max_frame_bytes: int) -> None:
        self._reader.max_frame_bytes = max_frame_bytes

    def set_read_timeout(self, seconds: float) -> None:
        """Make a blocking `pump` return after so many seconds. Safe in a signal handler: the interrupted read obeys."""
        whole = int(seconds)
        packed = struct.pack("@ll", whole, int((seconds - whole) * 1_000_000))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, packed)

    def readable(self, timeout_s: float = 0.0) -> bool:
        """Whether a read would not block: there are bytes, or the end of the stream. Waits for that at most so long."""
        return bool(self._poll.poll(timeout_s * 1000))

    def pump(self, handle: Handler, *, wait: bool = True, yielding: bool = False, expecting: bool = False) -> None:
        """Read once and handle each complete frame; without `wait`, only the bytes that are there already.

        `yielding`: do nothing if another thread reads. `expecting`: calls come one by one, so the next one is likely
        to come soon. Raises ChannelClosed at the end of the stream, ProtocolError on garbage.
        """
        if not self._read_lock.acquire(blocking=not yielding):
            return
        try:
            count = self._receive(wait=wait, expecting=expecting)
            if not count:
                return
            view, reader = self._view, self._reader
            # Nearly every read is one whole Invoke. The reader, which joins partial frames, is not needed for it.
            found = None if reader.pending else read_invoke(view, count, reader.max_frame_bytes)
            if found is not None:
                handle(found[0], memoryview(bytes(view[found[1] : count])))
                return
            for frame in reader.feed(view[:count]):
                handle(frame.message, frame.body)
        finally:
            self._read_lock.release()

    def _receive(self, *, wait: bool, expecting: bool) -> int:
        """How many bytes were read to the start of the buffer; 0 when there is nothing, or the read timeout passed."""
        self.reads += 1
        try:
            if wait and expecting and self._spins:
                count = self._receive_soon()
            else:
                count = self._sock.recv_into(self._buffer, 0, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ChannelClosed(str(error)) from None
        if not count:
            raise ChannelClosed("the platform closed the channel")
        return count

    def _receive_soon(self) -> int:
        """A blocking read that polls for a short time before it sleeps, if recent waits were short.

        It yields the processor between polls, and uses at most one core.
        """
        receive, buffer, clock = self._sock.recv_into, self._buffer, time.perf_counter
        began = clock()
        count = 0
        if self._usual_wait_s < _SPIN_S:
            until = began + _SPIN_S
            while not count and clock() < until:
                try:
                    count = receive(buffer, 0, socket.MSG_DONTWAIT)
                    break
                except BlockingIOError:
                    os.sched_yield()
        if not count:
            count = receive(buffer, 0)
        self._usual_wait_s += (min(clock() - began, 10 * _SPIN_S) - self._usual_wait_s) * _LATEST_WEIGHT
        return count

    def hold(self, action: Callable[[], None]) -> None:
        """Run `action` while no thread reads."""
        with self._read_lock:
            action()

    def send(
        self, buffers: list[bytes | memoryview], first: Callable[[], list[bytes | memoryview]] | None = None
    ) -> None:
        """Write the buffers as a unit. Raises ChannelClosed.

        `first` is called under the write lock, and the buffers that it returns are written before the others. So the
        log lines that it takes keep their order.
        """
        with self._write_lock:
            ahead = first() if first is not None else None
            if ahead:
                buffers = ahead + buffers
            try:
                if sum(map(len, buffers)) < _JOIN_BYTES:
                    self._sock.sendall(b"".join(buffers))
                    return
                small: list[bytes | memoryview] = []
                for buffer in buffers:
                    if len(buffer) < _JOIN_BYTES:
                        small.append(buffer)
                        continue
                    if small:
                        self._sock.sendall(b"".join(small))
                        small = []
                    self._sock.sendall(buffer)
                if small:
                    self._sock.sendall(b"".join(small))
            except OSError as error:
                raise ChannelClosed(str(error)) from None

    def send_soon(self, buffers: Callable[[], list[bytes | memoryview]]) -> None:
        """Write what `buffers` returns, unless a thread writes now, maybe this one: a `__del__` may print in the middle
        of a write. Raises ChannelClosed."""
        if not self._write_lock.acquire(blocking=False):
            return
        try:
            data = b"".join(buffers())
            if data:
                self._sock.sendall(data)
        except OSError as error:
            raise ChannelClosed(str(error)) from None
        finally:
            self._write_lock.release()

    def close(self) -> None:
        self._sock.close()

    def forget(self) -> None:
        """In a forked child: close this copy of the descriptor, so that the platform still sees the parent's death."""
        os.close(self._sock.detach())
