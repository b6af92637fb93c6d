"""`python -P -u -m clipper_runtime.zygote --control fd:N`: a process that forks into replicas on demand.

The first request says what it becomes: `preload` imports modules and makes it the zygote of an environment, shared by
all bundles; `prepare` loads one function, runs its setup and makes it the template of a snapshot. Then each `fork`
makes a child that lives as any replica does. The control socket is a SOCK_SEQPACKET pair; a message is one JSON
object, with descriptors beside it (SCM_RIGHTS)::

    platform  {"do": "preload", "modules": [...]} | {"do": "prepare", "bundle": PATH, "spec": {...}}
    zygote    {"did": "ready", "modules": [top-level names], "skipped": {name: why}, "phases": {...}}
              {"did": "refused", "why": "...", "module": NAME or ""}, and it exits
    platform  {"do": "fork", "id": 1, "replica": ID, "cwd": PATH, "env": {...}} + channel, stdout, stderr
    zygote    {"did": "fork", "id": 1, "pid": P} + pidfd, or {"did": "fork", "id": 1, "error": "..."}
              {"did": "exit", "pid": P, "status": S}     as from subprocess: -N for signal N
    platform  {"do": "retire"}: no more forks; it exits when its last child has

A spare child is kept forked ahead of time: a request is handed on to it, and another one is forked once the zygote has
been idle for a moment. So what a fork costs is mostly paid before anyone waits.

It is single-threaded, because a fork copies only the thread that calls it: locks that others hold stay locked for
good. Children are in sessions of their own and outlive it; the platform's end reaches them by their channel.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clipper.spec import FunctionSpec, SpecError
from clipper_runtime import aio as _aio  # noqa: F401 - imported once here, for the children that run coroutines
from clipper_runtime.__main__ import prepare_process, run_replica
from clipper_runtime.codec import Codec
from clipper_runtime.loader import LoadError, Phases, load, set_up
from clipper_runtime.schema import read_signature
from clipper_runtime.server import Prepared

__all__ = ["REPLICA_ENTRY", "Control", "Fork", "Forks", "main", "preload", "prepare", "unforkable"]

REPLICA_ENTRY: Final = b"CLIP_REPLICA="
"""The entry of the initial environment that a child overwrites, so that its descendants can be told from others'."""

MAX_MESSAGE_BYTES: Final = 192 * 1024  # what the default buffer of a Unix socket takes in one piece
_MAX_DESCRIPTORS: Final = 8
_SETTLE_S: Final = 0.1
# After the last request: a burst is served first.
_SPARE_AFTER_MS: Final = 50
_MADV_POPULATE_READ: Final = 22  # Linux 5.14; before, it is refused and nothing is lost


class Control:
    """One end of the control socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next message with its descriptors; None when the other end is gone."""
        try:
            data, descriptors, _, _ = socket.recv_fds(
                self.sock, MAX_MESSAGE_BYTES, _MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionError:
            return None
        return (json.loads(data), descriptors) if data else None

    def send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Raises OSError."""
        socket.send_fds(self.sock, [json.dumps(message).encode()], list(descriptors))


# What a process that forks must not have


def _tasks() -> int:
    return len(os.listdir("/proc/self/task"))


def _settle() -> int:
    """Threads that a fork leaves running. OpenBLAS, for one, ends its own in a handler before each fork."""
    if _tasks() > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of just what is tried here
            pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        deadline = time.monotonic() + _SETTLE_S
        while _tasks() > 1 and time.monotonic() < deadline:
            time.sleep(0.002)  # a thread that was joined may still be listed for a moment
    return _tasks()


def _descriptors() -> dict[int, str]:
    """Open descriptors and what they are, as `/proc/self/fd` says it."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the one of the listing itself
    return found


def _mapped_files() -> set[str]:
    with open("/proc/self/maps") as file:
        return {line.split(maxsplit=5)[5].rstrip("\n") for line in file if "/" in line}


def _child_processes() -> list[str]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return file.read().split()
    except OSError:
        return []  # a kernel that does not say


def _gpu_in_use(fresh: Iterable[str]) -> bool:
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and cuda.is_initialized():
        return True
    return any(target.startswith(("/dev/nvidia", "/dev/kfd", "/dev/dri")) for target in fresh)


def unforkable(before: Mapping[int, str]) -> str:
    """Why this process cannot be forked, given the descriptors of an earlier moment; "" when it can."""
    fresh = {number: target for number, target in _descriptors().items() if before.get(number) != target}
    if _gpu_in_use(fresh.values()):
        return "it holds a GPU context, which a forked process cannot use"
    if (count := _settle()) > 1:
        threading = sys.modules.get("threading")
        names = [t.name for t in threading.enumerate() if t is not threading.main_thread()] if threading else []
        called = f" ({', '.join(map(repr, names[:5]))})" if names else ""
        return f"it started {count - 1} threads{called}, which a forked process would lack"
    if children := _child_processes():
        return f"it started {len(children)} processes, which belong to one replica only"
    mapped = _mapped_files() if fresh else set()
    for target in fresh.values():
        if not target.startswith("/"):
            return f"it left {target} open, which replicas must not share"
        if not target.startswith("/dev/") and target not in mapped:
            return f"it left the file {target} open, whose position replicas would share"
    return ""


# What it becomes


def preload(modules: Sequence[str]) -> tuple[dict[str, str], str, str]:
    """Import them; (those that cannot be, with why; the one after which this process cannot fork; and why)."""
    skipped: dict[str, str] = {}
    for name in modules:
        if name in sys.modules:
            continue
        before = _descriptors()
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 - a module may raise anything; it is only not preloaded then
            skipped[name] = f"{type(error).__name__}: {error}"[:200]
        if why := unforkable(before):
            return skipped, name, why
    return skipped, "", ""


def prepare(bundle: str, options: Mapping[str, Any], phases: Phases) -> tuple[Prepared | None, str]:
    """Load a function and run its setup; the template, or why there is none."""
    before = _descriptors()
    try:
        spec = FunctionSpec.from_dict(options, where="prepare.spec")
        loaded = load(bundle, spec, phases)
        if loaded.kind == "async":
            return None, "it is async: its setup belongs to an event loop, which a forked process cannot share"
        with phases.measure("setup"):
            program = set_up(loaded)
    except (SpecError, LoadError) as error:
        return None, f"it does not start: {error}"
    why = unforkable(before)
    return (None, why) if why else (Prepared(bundle, dict(options), loaded, program), "")


# Forking


@dataclass(frozen=True, slots=True)
class Fork:
    """What a child is asked to become. Descriptors: its channel, its stdout, its stderr."""

    id: int
    replica: str
    cwd: str
    env: dict[str, str]
    descriptors: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Spare:
    """A child that waits for the request of which it becomes the answer."""

    pid: int
    line: Control


def _await_request(line: Control) -> Fork | None:
    """In a spare child: fault the code in while nobody waits, then wait. None: it is not needed any more."""
    os.setsid()
    _populate()
    _reseed()
    rehearse()
    received = line.receive()
    line.sock.close()
    if received is None:
        return None
    message, (channel, out, err) = received
    return Fork(message["id"], message["replica"], message["cwd"], message["env"], (channel, out, err))


def rehearse() -> None:
    """Run what each start runs, on a function of our own: what it builds on first use is there then, and in a spare
    child so are its own copies of the pages that this writes to."""

    def example(values: list[float], name: str = "") -> dict[str, int]:
        return {name: len(values)}

    FunctionSpec.from_dict(FunctionSpec.parse("example", "app:example", {}).to_dict())
    Codec(read_signature(example, batched=False, streaming=False, doc=""), in_place=True).schema()


def _populate() -> None:
    """A fork leaves the pages of shared libraries to be mapped one fault at a time, thousands of them. Map the code in
    one go; it is in memory anyway, so it costs page table entries only."""
    madvise = ctypes.CDLL(None).madvise
    with open("/proc/self/maps") as file:
        for line in file:
            span, access, rest = line.split(maxsplit=2)
            if "x" in access and "/" in rest:
                start, end = (int(bound, 16) for bound in span.split("-"))
                madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_POPULATE_READ)


class Forks:
    """Serves requests to fork. One thread; `serve` returns in a child only, as the request that it was made for."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._poll = select.poll()
        self._poll.register(control.sock, select.POLLIN)
        self._children: dict[int, int] = {}  # pidfd -> pid
        self._spare: _Spare | None = None
        self._retired = False

    def serve(self) -> Fork | None:
        """None: the platform is gone, or retired us and the last child has ended."""
        while not (self._retired and not self._children):
            events = self._poll.poll(None if self._spare or self._retired else _SPARE_AFTER_MS)
            if not events and (line := self._fork_spare()) is not None:
                return _await_request(line)
            for descriptor, _ in events:
                if descriptor != self._control.sock.fileno():
                    self._reap(descriptor)
                    continue
                received = self._control.receive()
                if received is None:
                    return None
                if (fork := self._handle(*received)) is not None:
                    return fork
        return None

    def _handle(self, message: dict[str, Any], descriptors: list[int]) -> Fork | None:
        if message.get("do") == "retire":
            self._retired = True
            if self._spare is not None:
                self._spare.line.sock.close()  # it ends, and is reaped as any child is
                self._spare = None
        if message.get("do") != "fork":
            return None
        number = message["id"]
        try:
            channel, out, err = descriptors
            fork = Fork(number, message["replica"], message["cwd"], message["env"], (channel, out, err))
            pid = self._hand_on(message, descriptors) or os.fork()
        except (OSError, ValueError, KeyError) as error:
            self._control.send({"did": "fork", "id": number, "error": str(error)})
        else:
            if pid == 0:
                self._forget()
                return fork
            pidfd = self._watch(pid)
            self._control.send({"did": "fork", "id": number, "pid": pid}, [pidfd])
        for descriptor in descriptors:
            os.close(descriptor)
        return None

    def _watch(self, pid: int) -> int:
        known = next((pidfd for pidfd, watched in self._children.items() if watched == pid), None)
        if known is not None:
            return known
        pidfd = os.pidfd_open(pid)  # nobody else reaps it, so it is still this child
        self._children[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        return pidfd

    def _fork_spare(self) -> Control | None:
        """Keep a child ready; in the child, the line on which its request will come."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            return None  # the next request says why
        if pid == 0:
            self._forget()
            ours.close()
            return Control(theirs)
        theirs.close()
        self._spare = _Spare(pid, Control(ours))
        self._watch(pid)
        return None

    def _hand_on(self, message: Mapping[str, Any], descriptors: Sequence[int]) -> int:
        """Give the request to the spare child; its pid, 0 without one."""
        spare, self._spare = self._spare, None
        if spare is None:
            return 0
        try:
            spare.line.send(message, descriptors)
        except OSError:
            return 0  # it was killed; its end is reported to nobody who knows it
        finally:
            spare.line.sock.close()
        return spare.pid

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
        if self._spare is not None and self._spare.pid == pid:
            self._spare.line.sock.close()
            self._spare = None
        self._control.send({"did": "exit", "pid": pid, "status": os.waitstatus_to_exitcode(status)})

    def _forget(self) -> None:
        """In the child: what belongs to the zygote."""
        self._control.sock.close()
        if self._spare is not None:
            self._spare.line.sock.close()
        for pidfd in self._children:
            os.close(pidfd)
        self._children.clear()


# In the child


def specialise(fork: Fork) -> socket.socket:
    """Make a fresh child a process of its own; its channel."""
    channel, out, err = fork.descriptors
    if os.getsid(0) != os.getpid():  # a spare child has done so already
        os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    for descriptor in (out, err):
        os.close(descriptor)
    _close_sockets(keep=channel)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _mark(fork.replica)
    os.environ.clear()
    os.environ.update(fork.env)
    os.chdir(fork.cwd)
    time.tzset()
    _reseed()
    gc.enable()
    return socket.socket(fileno=channel)


def _close_sockets(keep: int) -> None:
    """Whatever library left one: two processes on one connection would take each other's bytes."""
    for number, target in _descriptors().items():
        if number not in (0, 1, 2, keep) and target.startswith("socket:"):
            os.close(number)


def _mark(replica: str) -> None:
    """Overwrite REPLICA_ENTRY in the memory that `/proc/PID/environ` shows: it is how what a replica leaves behind is
    found, and a child has the zygote's until it runs another program."""
    with open("/proc/self/environ", "rb") as file:
        environ = file.read()
    at = environ.find(b"\0" + REPLICA_ENTRY) + 1
    room = environ.find(b"\0", at) - at
    entry = REPLICA_ENTRY + replica.encode()
    if not environ.startswith(REPLICA_ENTRY, at) or len(entry) > room:
        return
    with open("/proc/self/stat", "rb") as file:
        stat = file.read()
    start = int(stat[stat.rindex(b")") + 2 :].split()[47])  # env_start; the fields after the name count from 3
    ctypes.memmove(start + at, entry.ljust(room, b"\0"), room)


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


def _refuse(control: Control, why: str, module: str = "") -> None:
    control.send({"did": "refused", "why": why, "module": module})


def _become(control: Control, message: dict[str, Any]) -> tuple[bool, Prepared | None]:
    """Carry the first request out and answer it; whether there is something to fork."""
    phases, prepared, skipped = Phases(), None, dict[str, str]()
    if message.get("do") == "prepare":
        prepared, why = prepare(message["bundle"], message["spec"], phases)
        module = ""
    else:
        skipped, module, why = preload(message.get("modules", ()))
    if why:
        _refuse(control, why, module)
        return False, None
    rehearse()
    gc.collect()
    # The collector writes into each object that it looks at: frozen ones stay shared with the children.
    gc.freeze()
    names = sorted({name.partition(".")[0] for name in list(sys.modules)} - {"__main__"})
    control.send({"did": "ready", "modules": names, "skipped": skipped, "phases": phases.seconds})
    return True, prepared


def main() -> None:
    parser = argparse.ArgumentParser(prog="clipper_runtime.zygote", description="Fork into replicas on demand.")
    parser.add_argument("--control", required=True, help="fd:N, a SOCK_SEQPACKET socket")
    options = parser.parse_args()
    prepare_process()
    gc.disable()  # a collection frees memory in pages that children share later
    control = Control(socket.socket(fileno=int(options.control.removeprefix("fd:"))))
    os.set_inheritable(control.sock.fileno(), False)
    received = control.receive()
    if received is None:
        return
    serving, prepared = _become(control, received[0])
    fork = Forks(control).serve() if serving else None
    if fork is not None:
        run_replica(specialise(fork), prepared)


if __name__ == "__main__":
    main()
