"""The zygote's loop: forks children on request, some of them ahead of time, and reports how each one ended.

A child is forked with all that a replica needs but its assignment: a channel, pipes for its output, and a *line* on
which the platform sends the assignment. The platform gets the other ends. So it starts a replica from a child that was
forked ahead of time by itself, while the zygote sleeps.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from clipper.contract.zygote import (
    MAX_MESSAGE_BYTES,
    Event,
    Exited,
    Fork,
    Forked,
    ForkFailed,
    Retire,
    decode_request,
    encode,
)
from clipper_runtime.prefault import Span, better_known, own_pages, written_pages

__all__ = ["Control", "ForkServer", "ForkedChild"]

# How many children are examined for the pages that they wrote to: the first may be examined before it served a call.
_MAX_EXAMINED: Final = 3


class Control:
    """One end of a SOCK_SEQPACKET pair. Messages to a process come without descriptors."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def receive(self) -> bytes | None:
        """The next message; None when the other end is gone."""
        try:
            return self.sock.recv(MAX_MESSAGE_BYTES) or None
        except ConnectionError:
            return None

    def send(self, event: Event, descriptors: Sequence[int] = ()) -> None:
        """Raises OSError."""
        socket.send_fds(self.sock, [encode(event)], list(descriptors))


@dataclass(frozen=True, slots=True)
class ForkedChild:
    """What a child is forked with. `written`: pages that earlier children wrote to; None where a launch waits for it
    already."""

    line: socket.socket
    channel: socket.socket
    out: int
    err: int
    written: Sequence[Span] | None


class ForkServer:
    """Serves requests to fork, in one thread. `serve` returns a ForkedChild in a child, None in the zygote."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._poll = select.poll()
        self._poll.register(control.sock, select.POLLIN)
        self._children: dict[int, int] = {}  # pidfd -> pid
        self._latest = 0  # the youngest child: the next fork's predecessor
        self._memory = own_pages()
        self._written: list[Span] = []
        self._examined = 0
        self._retired = False

    def serve(self) -> ForkedChild | None:
        """None: the platform is gone, or it retired this zygote and the last child has ended."""
        while not (self._retired and not self._children):
            for descriptor, _ in self._poll.poll():
                if descriptor != self._control.sock.fileno():
                    self._reap(descriptor)
                    continue
                data = self._control.receive()
                if data is None:
                    return None
                request = decode_request(data)
                if isinstance(request, Retire):
                    self._retired = True
                elif isinstance(request, Fork) and (child := self._fork(request)) is not None:
                    return child
        return None

    def _fork(self, request: Fork) -> ForkedChild | None:
        if request.ahead:
            self._examine_latest()
        ends: list[socket.socket | int] = []
        try:
            ours, child = _endow(ends, self._written if request.ahead else None)
            pid = os.fork()
            if pid == 0:
                self._close_own()
                for end in ours:
                    _close(end)
                return child
            pidfd = self._watch(pid)
            numbers = [end if isinstance(end, int) else end.fileno() for end in ours]
            self._control.send(Forked(request.id, pid), [pidfd, *numbers])
            self._latest = pid
        except OSError as error:
            self._control.send(ForkFailed(request.id, str(error)))
        for end in ends:
            _close(end)
        return None

    def _examine_latest(self) -> None:
        """Before a fork ahead of time: find the pages that the child before it wrote to."""
        if self._examined < _MAX_EXAMINED and self._latest in self._children.values():
            self._examined += 1
            self._written = better_known(self._written, written_pages(self._latest, self._memory))

    def _watch(self, pid: int) -> int:
        pidfd = os.pidfd_open(pid)  # only this process reaps it, so the number still means this child
        self._children[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        return pidfd

    def _reap(self, pidfd: int) -> None:
        pid = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        try:
            # Until the child is reaped its number means this group and no other.
            os.killpg(pid, signal.SIGKILL)
        except OSError:
            pass  # no process is left in the group
        _, status = os.waitpid(pid, 0)
        self._control.send(Exited(pid, os.waitstatus_to_exitcode(status)))

    def _close_own(self) -> None:
        """In the child: close the zygote's descriptors."""
        self._control.sock.close()
        for pidfd in self._children:
            os.close(pidfd)
        self._children.clear()


def _endow(
    ends: list[socket.socket | int], written: Sequence[Span] | None
) -> tuple[list[socket.socket | int], ForkedChild]:
    """Make the descriptors of a child. Returns the platform's ends (line, channel, stdout, stderr) and the child's.
    `ends` holds all that were made, also when OSError is raised."""
    line, its_line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ends += [line, its_line]
    channel, its_channel = socket.socketpair()
    ends += [channel, its_channel]
    out, its_out = os.pipe()
    ends += [out, its_out]
    err, its_err = os.pipe()
    ends += [err, its_err]
    return [line, channel, out, err], ForkedChild(its_line, its_channel, its_out, its_err, written)


def _close(end: socket.socket | int) -> None:
    if isinstance(end, int):
        os.close(end)
    else:
        end.close()
