"""A child process on any event loop: exit by pidfd, output by pipes, and a process group that ends with it.

`asyncio.create_subprocess_exec` reaps the process before it reports the end, and then the number of its process group
may already belong to another group. Here the group is killed while its dead leader still holds the number.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, cast

from clipper_platform.backends.process.output import ReplicaOutput

__all__ = ["Child", "ChildProcess", "HandedPipe", "describe_status", "kill_process_group", "watch_exit"]

# Of at most 1000, on top of the share of memory that a process uses.
_OOM_SCORE_ADJ = "500"


def watch_exit(process: subprocess.Popen[bytes], *, kill_group: bool) -> asyncio.Future[int]:
    """A future of the exit status (-N: signal N). With `kill_group` the process group that `process` leads is killed
    before the process is reaped."""
    loop = asyncio.get_running_loop()
    exited: asyncio.Future[int] = loop.create_future()
    descriptor = os.pidfd_open(process.pid)

    def reap() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        if kill_group:
            kill_process_group(process.pid)
        status = process.wait()  # returns at once: the descriptor says that it has ended
        if not exited.done():
            exited.set_result(status)

    loop.add_reader(descriptor, reap)
    return exited


def describe_status(status: int) -> str:
    """`exit status 3`, `killed by SIGSEGV`."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


class ChildProcess(ABC):
    """A running process, leader of its own session and process group, whose output goes to `output`."""

    exited: asyncio.Future[int] | asyncio.Future[int | None]
    """Its exit status, -N for signal N; None if it cannot be known."""

    def __init__(self, pid: int, streams: Sequence[IO[bytes] | None], output: ReplicaOutput) -> None:
        """`streams`: the read ends of its stdout and its stderr."""
        self.pid = pid
        self._streams = tuple(streams)
        self._output = output
        self._pipes: list[asyncio.ReadTransport] = []
        self._open_pipes = 2
        self.drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when everything that it wrote has been read."""

    async def read_output(self) -> None:
        """Begin to read its output. Call once."""
        await self._read("stdout", self._streams[0])
        await self._read("stderr", self._streams[1])

    async def _read(self, stream: str, pipe: IO[bytes] | None) -> None:
        if pipe is None:
            raise ValueError(f"the {stream} of the process is not a pipe")
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: _Pipe(self._output, stream, self._pipe_ended), HandedPipe(pipe, loop)
        )
        self._pipes.append(transport)

    def limit(self, memory_bytes: int | None) -> None:
        """Bound the memory of the process and of each process that it starts from now on.

        RLIMIT_DATA bounds private writable memory: heap, anonymous and private mappings. RLIMIT_AS would also count
        address space that libraries reserve and never touch, many GiB with CUDA or thread arenas. Core dumps are off:
        they would hold requests and secrets. If the machine runs out of memory, the kernel chooses a replica before the
        platform.
        """
        try:
            resource.prlimit(self.pid, resource.RLIMIT_CORE, (0, 0))
            if memory_bytes is not None:
                _, most = resource.prlimit(self.pid, resource.RLIMIT_DATA)
                bytes_ = memory_bytes if most == resource.RLIM_INFINITY else min(memory_bytes, most)
                resource.prlimit(self.pid, resource.RLIMIT_DATA, (bytes_, bytes_))
            Path(f"/proc/{self.pid}/oom_score_adj").write_text(_OOM_SCORE_ADJ)
        except OSError:
            pass  # it has ended already, which `exited` reports

    def close(self) -> None:
        """Stop reading, even if other processes still hold the pipes' other ends."""
        for transport in self._pipes:
            transport.close()
        for pipe in self._streams:
            if pipe is not None:
                pipe.close()

    def _pipe_ended(self) -> None:
        self._open_pipes -= 1
        if self._open_pipes == 0 and not self.drained.done():
            self.drained.set_result(None)

    @abstractmethod
    def ask_where(self) -> None:
        """Send SIGABRT: an interpreter with faulthandler writes where its threads are, then ends."""

    @abstractmethod
    def kill_group(self) -> None:
        """Kill it and its process group, unless it was reaped."""


class Child(ChildProcess):
    """A process that this one started."""

    def __init__(self, process: subprocess.Popen[bytes], output: ReplicaOutput) -> None:
        super().__init__(process.pid, (process.stdout, process.stderr), output)
        self._process = process
        self.exited = watch_exit(process, kill_group=True)

    @classmethod
    def spawn(
        cls, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], inherit: int, output: ReplicaOutput
    ) -> Child:
        """Start it; `inherit` is the one descriptor that it gets besides its output. Raises OSError or ValueError.

        Blocks for about a millisecond (vfork until exec). It runs in the loop's thread because a parent-death signal
        is tied to the thread that forked.
        """
        process = subprocess.Popen(
            list(argv),
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=(inherit,),
            start_new_session=True,
        )
        try:
            return cls(process, output)
        except OSError:  # no descriptor is left to watch it
            kill_process_group(process.pid)
            process.wait()
            raise

    def ask_where(self) -> None:
        """Send SIGABRT: an interpreter with faulthandler writes where its threads are, then ends."""
        if not self.exited.done():
            os.kill(self.pid, signal.SIGABRT)

    def kill_group(self) -> None:
        """Kill it and its process group, unless it was reaped."""
        if self._process.returncode is None:
            kill_process_group(self.pid)


class HandedPipe:
    """The read end of a pipe, taken over from a file object for a transport to own: it is closed exactly once.

    uvloop lets libuv close the descriptor and then closes the object that it was given. A file object would close the
    same number a second time (and a third time when it is collected), when a thread may have opened another file under
    that number.
    """

    def __init__(self, pipe: IO[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._descriptor = os.dup(pipe.fileno())
        pipe.close()
        self._ours = type(loop).__module__.partition(".")[0] != "uvloop"  # to close

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        """Called by the transport at its end."""
        descriptor, self._descriptor = self._descriptor, -1
        if self._ours and descriptor >= 0:
            os.close(descriptor)


class _Pipe(asyncio.Protocol):
    """Reads one of the output pipes, as fast as the output allows."""

    def __init__(self, output: ReplicaOutput, stream: str, on_end: Callable[[], None]) -> None:
        self._output = output
        self._stream = stream
        self._on_end = on_end
        self._transport: asyncio.ReadTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.ReadTransport, transport)  # uvloop's have the methods, not the base class

    def data_received(self, data: bytes) -> None:
        pause_s = self._output.feed(self._stream, data)
        if pause_s and self._transport is not None:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(pause_s, self._resume)

    def _resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._output.end(self._stream)
        self._on_end()


def kill_process_group(leader: int) -> None:
    """Send SIGKILL to the group. The caller knows that the number still means this group."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass  # no process is left in it
    except PermissionError:
        pass  # the kernel has killed all but processes that changed their user
