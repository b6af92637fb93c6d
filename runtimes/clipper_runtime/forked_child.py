"""What a forked child does to become a replica: all that is possible before its assignment, then the rest."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final, Never

from clipper.contract.constants import REPLICA_VARIABLE
from clipper.contract.zygote import decode_assignment
from clipper_runtime.confinement import separate, take_rules
from clipper_runtime.fork_safety import open_descriptors
from clipper_runtime.forking import Control, ForkedChild
from clipper_runtime.prefault import prefault
from clipper_runtime.replica_process import run_replica
from clipper_runtime.server import Prepared

__all__ = ["ReplicaEntry", "run_forked_child"]

_ENTRY: Final = f"{REPLICA_VARIABLE}=".encode()


class ReplicaEntry:
    """The entry CLIP_REPLICA in the memory that `/proc/PID/environ` shows. The platform finds by it what a replica
    leaves behind. A child has the zygote's memory until it runs another program, so it writes its own id there. Made in
    the zygote, whose children have the same addresses."""

    def __init__(self) -> None:
        with open("/proc/self/environ", "rb") as file:
            environ = file.read()
        self._at = self._room = 0
        at = environ.find(b"\0" + _ENTRY) + 1
        if environ.startswith(_ENTRY, at):
            with open("/proc/self/stat", "rb") as file:
                stat = file.read()
            start = int(stat[stat.rindex(b")") + 2 :].split()[47])  # env_start; the fields after the name count from 3
            self._at, self._room = start + at, environ.find(b"\0", at) - at

    def write(self, replica: str) -> None:
        """An id that does not fit is not written; the platform requests no such id."""
        entry = _ENTRY + replica.encode()
        if len(entry) <= self._room:
            ctypes.memmove(self._at, entry.ljust(self._room, b"\0"), self._room)


def run_forked_child(child: ForkedChild, entry: ReplicaEntry, prepared: Prepared | None, *, confined: bool) -> Never:
    """The whole life of a child. `confined`: the zygote is, and with it this process."""
    _settle_in(child)
    if confined:
        separate()  # from its siblings
    run_replica(child.channel, prepared, await_assignment=lambda: _take_assignment(child.line, entry))


def _settle_in(child: ForkedChild) -> None:
    """Become a process of its own. A child that no launch waits for yet also copies pages that a start writes to."""
    os.setsid()
    os.dup2(child.out, 1)
    os.dup2(child.err, 2)
    for descriptor in (child.out, child.err):
        os.close(descriptor)
    _close_sockets({child.line.fileno(), child.channel.fileno()})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _reseed()
    if child.written is not None:
        prefault(child.written)


def _take_assignment(line: socket.socket, entry: ReplicaEntry) -> None:
    """Wait for the assignment, and become that replica."""
    data = Control(line).receive()
    line.close()
    if data is None:
        os._exit(0)  # the child is not needed; exit handlers that it inherited are not its own to run
    assignment = decode_assignment(data)
    entry.write(assignment.replica)
    _adopt_environment(assignment.set, assignment.unset)
    take_rules()  # for a process that is not forked
    os.chdir(assignment.cwd)
    gc.enable()


def _adopt_environment(changed: Mapping[str, str], removed: Sequence[str]) -> None:
    """Apply the differences between the replica's environment and the zygote's at its start. The rest stays, with what
    imports and a setup have set."""
    os.environ.update(changed)
    for key in removed:
        os.environ.pop(key, None)
    if "TZ" in changed or "TZ" in removed:
        time.tzset()


def _close_sockets(keep: set[int]) -> None:
    """Close the sockets that libraries left open: two processes on one connection would take each other's bytes."""
    for number, target in open_descriptors().items():
        if number not in (0, 1, 2) and number not in keep and target.startswith("socket:"):
            os.close(number)


def _reseed() -> None:
    """Renew what siblings would have in common: random numbers, the directory for temporary files, keys.

    Not the hash seed of strings: dictionaries that exist depend on it. `secrets`, `ssl` and new generators of numpy
    draw from the kernel anyway.
    """
    loaded = sys.modules
    for name in ("random", "numpy.random"):
        if name in loaded:
            loaded[name].seed()
    if "torch" in loaded and hasattr(loaded["torch"], "seed"):
        loaded["torch"].seed()
    if "tempfile" in loaded:
        setattr(loaded["tempfile"], "tempdir", None)  # noqa: B010 - the type of a looked-up module has no attributes
    if "multiprocessing.process" in loaded:
        loaded["multiprocessing.process"].current_process().authkey = os.urandom(32)
