"""The zygote's loop: children on request, some of them ahead of time, and word of how each one ended.

A child is made with all that a replica needs but its name: a channel, pipes for its output, and a *line* on which the
platform says later who it is. The platform gets the other ends; so the children that were forked ahead of time take a
replica's start from the platform itself, and the zygote sleeps on.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clipper.contract.constants import MAX_DESCRIPTORS, MAX_MESSAGE_BYTES
from clipper_runtime.prefault import Span, own_pages, written_pages

__all__ = ["Control", "Forks", "Newborn"]

# How many children are looked at for the pages that they wrote to: the first may be asked before it has served a call.
_LOOKS: Final = 3


class Control:
    """One end of a SOCK_SEQPACKET pair; a message is one JSON object, with descriptors beside it (SCM_RIGHTS)."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next message with its descriptors; None when the other end is gone."""
        try:
            data, descriptors, _, _ = socket.recv_fds(
                self.sock, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionError:
            return None
        return (json.loads(data), descriptors) if data else None

    def send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Raises OSError."""
        socket.send_fds(self.sock, [json.dumps(message).encode()], list(descriptors))


@dataclass(frozen=True, slots=True)
class Newborn:
    """What a child has from its birth. `written`: pages that siblings wrote to; None where somebody waits already."""

    line: socket.socket
    channel: socket.socket
    out: int
    err: int
    written: Sequence[Span] | None


class Forks:
    """Serves requests to fork. One thread; `serve` returns in a child only, as what it was born with."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._poll = select.poll()
        self._poll.register(control.sock, select.POLLIN)
        self._children: dict[int, int] = {}  # pidfd -> pid
        self._latest = 0  # the youngest child that somebody asked for by now
        self._memory = own_pages()
        self._written: list[Span] = []
        self._looks = 0
        self._retired = False

    def serve(self) -> Newborn | None:
        """None: the platform is gone, or retired us and the last child has ended."""
        while not (self._retired and not self._children):
            for descriptor, _ in self._poll.poll():
                if descriptor != self._control.sock.fileno():
                    self._reap(descriptor)
                    continue
                received = self._control.receive()
                if received is None:
                    return None
                if (newborn := self._handle(received[0])) is not None:
                    return newborn
        return None

    def _handle(self, message: dict[str, Any]) -> Newborn | None:
        if message.get("do") == "retire":
            self._retired = True
        if message.get("do") != "fork":
            return None
        number, ahead = message["id"], message["ahead"]
        if ahead:
            self._learn()
        ends: list[socket.socket | int] = []
        try:
            ours, newborn = _endow(ends, self._written if ahead else None)
            pid = os.fork()
            if pid == 0:
                self._forget()
                for end in ours:
                    _close(end)
                return newborn
            pidfd = self._watch(pid)
            numbers = [end if isinstance(end, int) else end.fileno() for end in ours]
            self._control.send({"did": "fork", "id": number, "pid": pid}, [pidfd, *numbers])
            self._latest = pid
        except OSError as error:
            self._control.send({"did": "fork", "id": number, "error": str(error)})
        for end in ends:
            _close(end)
        return None

    def _learn(self) -> None:
        """Before a child is forked ahead of time: what did the one before it write to?"""
        if self._looks < _LOOKS and self._latest in self._children.values():
            self._looks += 1
            self._written = written_pages(self._latest, self._memory) or self._written

    def _watch(self, pid: int) -> int:
        pidfd = os.pidfd_open(pid)  # nobody else reaps it, so it is still this child
        self._children[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        return pidfd

    def _reap(self, pidfd: int) -> None:
        pid = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        try:
            # While the dead leader still holds the number, it is certainly this group that is killed.
            os.killpg(pid, signal.SIGKILL)
        except OSError:
            pass  # nobody is left in it
        _, status = os.waitpid(pid, 0)
        self._control.send({"did": "exit", "pid": pid, "status": os.waitstatus_to_exitcode(status)})

    def _forget(self) -> None:
        """In the child: what belongs to the zygote."""
        self._control.sock.close()
        for pidfd in self._children:
            os.close(pidfd)
        self._children.clear()


def _endow(
    ends: list[socket.socket | int], written: Sequence[Span] | None
) -> tuple[list[socket.socket | int], Newborn]:
    """(The platform's ends: line, channel, stdout, stderr; the child's.) All are in `ends`, also if OSError comes."""
    line, its_line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ends += [line, its_line]
    channel, its_channel = socket.socketpair()
    ends += [channel, its_channel]
    out, its_out = os.pipe()
    ends += [out, its_out]
    err, its_err = os.pipe()
    ends += [err, its_err]
    return [line, channel, out, err], Newborn(its_line, its_channel, its_out, its_err, written)


def _close(end: socket.socket | int) -> None:
    if isinstance(end, int):
        os.close(end)
    else:
        end.close()
