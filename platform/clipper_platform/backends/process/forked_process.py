"""Processes that a zygote forked: first without an assignment, then each as one replica."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from clipper_platform.backends.process.child import ChildProcess, kill_process_group
from clipper_platform.backends.process.output import ReplicaOutput

__all__ = ["ForkedChild", "ForkedProcess", "UnassignedChild"]

# The zygote reports a status within moments of the end; if it does not, it is gone or stuck itself.
REPORT_GRACE_S = 0.5


class ForkedChild(ChildProcess):
    """A process that a zygote forked. The zygote is its parent, reaps it and reports how it ended."""

    def __init__(self, pid: int, pidfd: int, streams: Sequence[IO[bytes]], output: ReplicaOutput) -> None:
        super().__init__(pid, streams, output)
        self._loop = asyncio.get_running_loop()
        self._pidfd = pidfd
        self._ended = False
        self._grace_s = REPORT_GRACE_S
        self.exited: asyncio.Future[int | None] = self._loop.create_future()
        self._loop.add_reader(pidfd, self._on_end)

    def report(self, status: int | None) -> None:
        """Takes its exit status; None: nobody knows it."""
        if not self.exited.done():
            self.exited.set_result(status)
        self._on_end()

    def orphan(self) -> None:
        """The zygote is gone: no report will come."""
        self._grace_s = 0.0

    def _on_end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if not self.exited.done():
            self._loop.call_later(self._grace_s, self.report, None)

    @property
    def _running(self) -> bool:
        if self._ended:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)

    def limit(self, memory_bytes: int | None) -> None:
        """Children inherit the limits of their zygote: only that of the memory may differ."""
        if memory_bytes is not None:
            super().limit(memory_bytes)

    def ask_where(self) -> None:
        if self._running:
            signal.pidfd_send_signal(self._pidfd, signal.SIGABRT)

    def kill_group(self) -> None:
        # Once it has ended, the zygote kills its group before the number is free again.
        if self._running:
            kill_process_group(self.pid)
            try:
                # In the moment between fork and setsid it has no group of its own yet.
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkedProcess:
    """A process that was forked for a launch. `place_s`: seconds from the launch to the request to fork."""

    child: ForkedChild
    socket: socket.socket  # our end of its channel, not blocking
    launched_at: float
    place_s: float


class UnassignedChild:
    """A child that waits for its assignment."""

    def __init__(self, pid: int, descriptors: Sequence[int]) -> None:
        """Takes over the descriptors, which are pidfd, line, channel, stdout, stderr. Raises ValueError for another
        number of them."""
        self.pid = pid
        try:
            self._pidfd, line, channel, out, err = descriptors
        except ValueError:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        self._line = socket.socket(fileno=line)
        self._channel = socket.socket(fileno=channel)
        self._streams = [os.fdopen(end, "rb", 0) for end in (out, err)]

    def assign(self, assignment: bytes, output: ReplicaOutput) -> tuple[ForkedChild, socket.socket]:
        """Make it a replica. Returns the child and our end of its channel. Raises OSError; then it is gone."""
        try:
            self._line.send(assignment)
        except OSError:
            self.drop()
            raise
        self._line.close()
        self._channel.setblocking(False)
        return ForkedChild(self.pid, self._pidfd, self._streams, output), self._channel

    def drop(self) -> None:
        """Give it up: it sees the end of its line, and exits."""
        self._line.close()
        self._channel.close()
        for stream in self._streams:
            stream.close()
        os.close(self._pidfd)
