"""What a forked child does to become a replica: what can be done before anyone knows whose, and what cannot."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final, Never

from clipper.contract.constants import REPLICA_VARIABLE
from clipper.contract.spec import FunctionSpec
from clipper_runtime.__main__ import run_replica
from clipper_runtime.codec import Codec
from clipper_runtime.fork_safety import open_descriptors
from clipper_runtime.forking import Control, Newborn
from clipper_runtime.prefault import map_libraries, prefault
from clipper_runtime.schema import read_signature
from clipper_runtime.server import Prepared

__all__ = ["REPLICA_ENTRY", "Mark", "live", "rehearse"]

REPLICA_ENTRY: Final = f"{REPLICA_VARIABLE}=".encode()


class Mark:
    """The entry CLIP_REPLICA in the memory that `/proc/PID/environ` shows: it is how what a replica leaves behind is
    found, and a child has the zygote's until it runs another program. Made in the zygote, whose children have the
    same addresses."""

    def __init__(self) -> None:
        with open("/proc/self/environ", "rb") as file:
            environ = file.read()
        self._at = self._room = 0
        at = environ.find(b"\0" + REPLICA_ENTRY) + 1
        if environ.startswith(REPLICA_ENTRY, at):
            with open("/proc/self/stat", "rb") as file:
                stat = file.read()
            start = int(stat[stat.rindex(b")") + 2 :].split()[47])  # env_start; the fields after the name count from 3
            self._at, self._room = start + at, environ.find(b"\0", at) - at

    def write(self, replica: str) -> None:
        """A name that does not fit is not written; the platform asks for none."""
        entry = REPLICA_ENTRY + replica.encode()
        if len(entry) <= self._room:
            ctypes.memmove(self._at, entry.ljust(self._room, b"\0"), self._room)


def live(newborn: Newborn, mark: Mark, prepared: Prepared | None) -> Never:
    """The whole life of a child."""
    _settle_in(newborn)
    run_replica(newborn.channel, prepared, await_name=lambda: _take_name(newborn, mark))


def _settle_in(newborn: Newborn) -> None:
    """Become a process of its own. Where nobody waits yet, also run into what would be slow later."""
    os.setsid()
    os.dup2(newborn.out, 1)
    os.dup2(newborn.err, 2)
    for descriptor in (newborn.out, newborn.err):
        os.close(descriptor)
    _close_sockets({newborn.line.fileno(), newborn.channel.fileno()})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _reseed()
    if newborn.written is not None:
        map_libraries()
        prefault(newborn.written)
        rehearse()


def _take_name(newborn: Newborn, mark: Mark) -> None:
    """Wait for the platform to say whose replica this is, and become that."""
    line = Control(newborn.line)
    received = line.receive()
    line.sock.close()
    if received is None:
        os._exit(0)  # not needed any more; what it inherited is not its own to clean up
    message, _ = received
    mark.write(message["replica"])
    _adopt(message["set"], message["unset"])
    os.chdir(message["cwd"])
    gc.enable()


def _adopt(changed: Mapping[str, str], gone: Sequence[str]) -> None:
    """What the replica's environment has otherwise than the zygote's had at its start. The rest stays, with what
    imports and a setup have set."""
    os.environ.update(changed)
    for key in gone:
        os.environ.pop(key, None)
    if "TZ" in changed or "TZ" in gone:
        time.tzset()


def _close_sockets(keep: set[int]) -> None:
    """Whatever library left one: two processes on one connection would take each other's bytes."""
    for number, target in open_descriptors().items():
        if number not in (0, 1, 2) and number not in keep and target.startswith("socket:"):
            os.close(number)


def _reseed() -> None:
    """What siblings would else have in common: random numbers, the directory for temporary files, keys.

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


def rehearse() -> None:
    """Run what each start runs, on a function of our own: what it builds on first use is there then, and in a spare
    child so are its own copies of the pages that this writes to."""

    def example(values: list[float], name: str = "") -> dict[str, int]:
        return {name: len(values)}

    FunctionSpec.from_dict(FunctionSpec.parse("example", "app:example", {}).to_dict())
    Codec(read_signature(example, batched=False, streaming=False, doc=""), in_place=True).schema()
