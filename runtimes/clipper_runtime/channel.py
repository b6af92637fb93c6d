"""The replica's end of the channel: a connected stream socket, read and written by whichever thread has to."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable

from clipper.contract.wire import MAX_FRAME_BYTES, Frame, FrameReader

__all__ = ["JOIN_BYTES", "Channel", "ChannelClosed", "connect"]

# One read takes what a socket buffer usually holds; larger frames arrive in several.
_READ_BYTES = 256 * 1024

# Smaller buffers are joined: copying this much costs less than another system call.
JOIN_BYTES = 64 * 1024


# A read that is likely to be answered within this time looks for it without sleeping. A processor that has nothing to
# do halts, and waking it takes longer than a batch of one.
_SPIN_S = 0.0004
# How fast the usual wait follows the last ones: what an eighth of it is made of.
_NEWS = 1 / 8


class ChannelClosed(Exception):
    """The platform closed the channel, or went away."""


def connect(address: str) -> socket.socket:
    """A blocking stream socket from `fd:N`, `unix:PATH` or `tcp:HOST:PORT`.

    Raises ValueError for another form, OSError when nobody answers there.
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
    # User code may start processes: they must not keep the channel open after this one died.
    os.set_inheritable(sock.fileno(), False)
    return sock


class Channel:
    """Frames in, frames out.

    Whoever reads holds the read lock until the frames it got are handled, so that they are handled in order although
    two threads read. Writes are blocking: the platform reads at all times and never waits for us.
    """

    def __init__(self, sock: socket.socket, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._sock = sock
        self.reader = FrameReader(max_frame_bytes)
        self._buffer = bytearray(_READ_BYTES)
        self.view = memoryview(self._buffer)
        self.read_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._spins = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1
        self._usual_wait_s = 1.0
        self.lonely = False  # few calls come together: sleeping between them would be most of their time
        self.reads = 0  # grows with each read, so that the watcher sees whether anyone reads

    def fileno(self) -> int:
        return self._sock.fileno()

    def limit_frames(self, max_frame_bytes: int) -> None:
        self.reader.max_frame_bytes = max_frame_bytes

    def set_read_timeout(self, seconds: float) -> None:
        """Make a blocking `pump` return after that long; safe in a signal handler, whose interrupted read sees it."""
        whole = int(seconds)
        packed = struct.pack("@ll", whole, int((seconds - whole) * 1_000_000))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, packed)

    def readable(self) -> bool:
        """Whether a read would not block: bytes wait, or the end."""
        return bool(self._poll.poll(0))

    def pump(self, handle: Callable[[Frame], None], *, wait: bool = True, yielding: bool = False) -> None:
        """Read once and hand over each complete frame; without `wait`, only what is there.

        `yielding`: do nothing if another thread reads. Raises ChannelClosed at the end of the stream, ProtocolError on
        garbage.
        """
        if not self.read_lock.acquire(blocking=not yielding):
            return
        try:
            count = self.receive(0 if wait else socket.MSG_DONTWAIT)
            if count:
                self.hand_out(count, handle)
        finally:
            self.read_lock.release()

    def receive(self, flags: int = 0) -> int:
        """Under the read lock: how many bytes were read to the start of `view`; 0 when there is nothing.

        Nothing: with MSG_DONTWAIT, or when the read timeout passed. Raises ChannelClosed.
        """
        self.reads += 1
        try:
            soon = self._spins and not flags
            count = self._receive_soon() if soon else self._sock.recv_into(self._buffer, 0, flags)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ChannelClosed(str(error)) from None
        if not count:
            raise ChannelClosed("the platform closed the channel")
        return count

    def _receive_soon(self) -> int:
        """A blocking read. While calls come one by one, and soon, it looks for the next one for a while before it
        sleeps, giving way to whoever else wants the processor: at most one core, and only under such traffic."""
        receive, buffer, clock = self._sock.recv_into, self._buffer, time.perf_counter
        began = clock()
        count = 0
        if self.lonely and self._usual_wait_s < _SPIN_S:
            until = began + _SPIN_S
            while not count and clock() < until:
                try:
                    count = receive(buffer, 0, socket.MSG_DONTWAIT)
                    break
                except BlockingIOError:
                    os.sched_yield()
        if not count:
            count = receive(buffer, 0)
        self._usual_wait_s += (min(clock() - began, 10 * _SPIN_S) - self._usual_wait_s) * _NEWS
        return count

    def hand_out(self, count: int, handle: Callable[[Frame], None]) -> None:
        """Under the read lock: each frame that the `count` bytes read complete."""
        for frame in self.reader.feed(self.view[:count]):
            handle(frame)

    def hold(self, action: Callable[[], None]) -> None:
        """Run `action` while nobody reads."""
        with self.read_lock:
            action()

    def send(
        self, buffers: list[bytes | memoryview], first: Callable[[], list[bytes | memoryview]] | None = None
    ) -> None:
        """Write them one after the other as a unit. Raises ChannelClosed.

        `first` is called when nobody else writes; what it returns goes ahead. So what it takes keeps its order.
        """
        with self._write_lock:
            ahead = first() if first is not None else None
            if ahead:
                buffers = ahead + buffers
            try:
                if len(buffers) == 1:
                    self._sock.sendall(buffers[0])
                    return
                small: list[bytes | memoryview] = []
                for buffer in buffers:
                    if len(buffer) < JOIN_BYTES:
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

    def close(self) -> None:
        self._sock.close()

    def forget(self) -> None:
        """In a forked child: give up this copy of the descriptor, so that the parent's death is still seen."""
        os.close(self._sock.detach())
