"""One replica as a child process: its start-up conversation, its end, and the one moment at which it is gone."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from clipper.contract import wire
from clipper_platform.backends.base import ChannelListener, Exit, StartError
from clipper_platform.backends.channel import WireChannel
from clipper_platform.backends.process.child import Child, ChildProcess, describe_status
from clipper_platform.backends.process.guardian import kill_marked
from clipper_platform.backends.process.launch import Launch
from clipper_platform.backends.process.output import ReplicaOutput
from clipper_platform.backends.process.procfs import out_of_memory_kills, tree_rss
from clipper_platform.clock import Clock
from clipper_platform.types import ReplicaId

__all__ = ["Born", "Means", "ProcessReplica"]

_M = TypeVar("_M")

# A closed connection is followed by the process's end within moments; only its status makes good words of it.
STATUS_GRACE_S = 1.0
# After the end of the process: for its last words, which are in the pipes, and its last frames.
DRAIN_GRACE_S = 0.25
# For faulthandler to write where a start-up hangs; and for a replica that said Failed to end by itself.
TRACE_GRACE_S = 2.0
FAILED_GRACE_S = 1.0

PROTOCOL_MIN = 1
# A Unix socket's buffer takes 200 KiB; what it does not take whole would be cut in the middle of a frame.
MAX_EARLY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """With what a replica is run."""

    argv: tuple[str, ...]  # `--channel fd:N` is appended
    env: dict[str, str]
    tmp: Path  # removed with the replica
    mark: frozenset[bytes]  # environment entries that all its descendants share


@dataclass(frozen=True, slots=True, kw_only=True)
class Born:
    """A process that was forked for the replica already. `place_s`: from the launch until the fork was asked for."""

    child: ChildProcess
    socket: socket.socket  # our end of its channel, not blocking
    launched_at: float
    place_s: float


class ProcessReplica:
    """Implements `Replica`. `start` is called once; whatever it raises, `end` leaves nothing behind."""

    def __init__(
        self,
        launch: Launch,
        means: Means,
        output: ReplicaOutput,
        clock: Clock,
        on_gone: Callable[[], None],
        born: Born | None = None,
    ) -> None:
        """Starts a process, unless one was `born` for it. Raises StartError."""
        loop = asyncio.get_running_loop()
        spec = launch.spec
        self._launch, self._spec = launch, spec
        self._means = means
        self._output = output
        self._clock = clock
        self._launched_at = clock.monotonic() if born is None else born.launched_at
        self._place_s = None if born is None else born.place_s
        self._channel = WireChannel(self)
        self._listener: ChannelListener | None = None
        self._hello: asyncio.Future[wire.Hello] = loop.create_future()
        self._answer: asyncio.Future[wire.Ready | wire.Failed] = loop.create_future()
        self._disconnected: asyncio.Future[None] = loop.create_future()
        self._exit: asyncio.Future[Exit] = loop.create_future()
        self._ready: wire.Ready | None = None
        self._violation: str | None = None
        self._kill_words: str | None = None  # why we killed it
        self._status_grace_s = STATUS_GRACE_S
        self._oom_kills: int | None = None  # not looked yet
        self._socket: socket.socket | None  # until the channel has it
        self._child: ChildProcess
        early = b""
        if born is not None:
            # A zygote runs the runtime that we staged: what its child's greeting says is known.
            early = wire.encode(self._start_message(wire.PROTOCOL_VERSION))
        self._socket, self._child = self._spawn() if born is None else (born.socket, born.child)
        self._start_sent = bool(early) and _send_at_once(self._socket, early)
        self._child.limit(spec.memory_bytes)
        self._watching = asyncio.create_task(self._watch(), name=f"replica {spec.replica}")
        self._watching.add_done_callback(lambda _: on_gone())

    # Replica

    @property
    def id(self) -> ReplicaId:
        return self._spec.replica

    @property
    def details(self) -> Mapping[str, Any]:
        return {} if self._exit.done() else {"pid": self._child.pid}

    @property
    def ready(self) -> wire.Ready:
        if self._ready is None:
            raise RuntimeError("the replica is not ready yet")
        return self._ready

    @property
    def channel(self) -> WireChannel:
        return self._channel

    @property
    def env(self) -> Mapping[str, str]:
        """The environment that it was started with."""
        return self._means.env

    def attach(self, listener: ChannelListener) -> None:
        if self._listener is not None:
            raise RuntimeError("the replica has a listener already")
        self._listener = listener
        self._channel.listen(listener)
        if self._exit.done():
            asyncio.get_running_loop().call_soon(listener.on_exit, self._exit.result())

    def memory_bytes(self) -> int | None:
        if self._exit.done():
            return None
        # Also the moment to forget older out-of-memory kills: those that matter come between two looks.
        self._oom_kills = out_of_memory_kills()
        return tree_rss(self._child.pid)

    async def stop(self, timeout_s: float) -> None:
        if not self._exit.done() and self._kill_words is None:
            self._status_grace_s = timeout_s
            self._channel.send(wire.Drain(timeout_s))
            try:
                await asyncio.wait([self._exit], timeout=timeout_s)
            finally:
                self._kill(f"killed: it had not finished {timeout_s:g} s after it was asked to stop")
        await self.gone()

    def kill(self) -> None:
        self._kill("killed by the platform")

    async def gone(self) -> None:
        """Wait until the process, its descendants and its directory are gone. Call `kill` or `stop` before."""
        await asyncio.shield(asyncio.wait([self._watching]))

    # Starting

    def _spawn(self) -> tuple[socket.socket, Child]:
        means, bundle = self._means, self._launch.bundle
        if not bundle.is_dir():
            raise self._start_error("launch", f"the bundle {bundle} is not a directory")
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise self._start_error("launch", f"the process cannot be started: {error}") from error
        ours.setblocking(False)
        argv = [*means.argv, "--channel", f"fd:{theirs.fileno()}"]
        try:
            child = Child.spawn(argv, cwd=bundle, env=means.env, inherit=theirs.fileno(), output=self._output)
        except (OSError, ValueError) as error:
            ours.close()
            raise self._start_error("launch", f"the process cannot be started: {error}") from error
        finally:
            theirs.close()
        return ours, child

    async def start(self) -> None:
        """Converse until it is ready. Raises StartError."""
        try:
            async with asyncio.timeout(self._spec.startup_timeout_s):
                await self._connect()
                self._oom_kills = out_of_memory_kills()
                await self._child.read_output()
                hello = await self._expect(self._hello, "launch")
                if not self._start_sent:
                    self._channel.send(self._start_message(self._agreed(hello)))
                answer = await self._expect(self._answer, "setup")
        except TimeoutError:
            raise await self._timed_out() from None
        if isinstance(answer, wire.Failed):
            # It ends by itself, after its last lines.
            await asyncio.wait([self._exit], timeout=FAILED_GRACE_S)
            raise self._start_error(answer.phase, answer.message, answer.error_type, answer.traceback)
        self._ready = msgspec.structs.replace(answer, phases=self._phases(answer.phases))

    def _phases(self, own: Mapping[str, float]) -> dict[str, float]:
        """Its own with what came before them, so that all together are the time from the launch to now: a whole
        interpreter's start, or a place found and a fork there, and the conversation."""
        rest = max(0.0, self._clock.monotonic() - self._launched_at - sum(own.values()))
        if self._place_s is None:
            return {"launch": rest, **own}
        return {"place": self._place_s, "fork": max(0.0, rest - self._place_s), **own}

    async def _connect(self) -> None:
        ours, self._socket = self._socket, None
        await asyncio.get_running_loop().create_unix_connection(lambda: self._channel, sock=ours)

    def _agreed(self, hello: wire.Hello) -> int:
        """The version of the protocol that both speak. Raises StartError."""
        if hello.protocol_max < PROTOCOL_MIN or hello.protocol_min > wire.PROTOCOL_VERSION:
            raise self._start_error(
                "handshake",
                f"the runtime {hello.runtime} {hello.runtime_version} speaks versions {hello.protocol_min} to "
                f"{hello.protocol_max} of the protocol, the platform {PROTOCOL_MIN} to {wire.PROTOCOL_VERSION}",
            )
        return min(hello.protocol_max, wire.PROTOCOL_VERSION)

    def _start_message(self, protocol: int) -> wire.Start:
        spec = self._spec
        return wire.Start(
            protocol=protocol,
            project=spec.function.project,
            function=spec.function.function,
            version=spec.function.version,
            replica=spec.replica,
            bundle=str(self._launch.bundle),
            spec=dict(spec.spec),
        )

    async def _expect(self, message: asyncio.Future[_M], phase: str) -> _M:
        """The message, or StartError if the replica ends first."""
        either: list[asyncio.Future[Any]] = [message, self._exit]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if message.done():
            return message.result()
        exit = self._exit.result()
        if exit.reason == "lost":
            raise self._start_error("handshake", exit.message)
        doing = "before it said hello" if phase == "launch" else "while importing, loading or setting up"
        raise self._start_error(phase, f"{exit.message} {doing}")

    async def _timed_out(self) -> StartError:
        said_hello = self._hello.done()
        self._kill_words = "killed: it did not become ready in time"
        self._child.ask_where()
        await asyncio.wait([self._exit], timeout=TRACE_GRACE_S)
        self._child.kill_group()
        await self.gone()
        doing = "importing, loading or setting up the function" if said_hello else "starting the interpreter"
        seconds = f"{self._spec.startup_timeout_s:g} s"
        return self._start_error(
            "timeout", f"not ready within {seconds} (startup_timeout_s): it was still {doing}; see where in the log"
        )

    def _start_error(self, phase: str, message: str, error_type: str = "", traceback: str = "") -> StartError:
        return StartError(phase, message, error_type=error_type, traceback=traceback, log=self._output.tail)

    # ChannelOwner

    def on_control(self, message: wire.Hello | wire.Ready | wire.Failed | wire.Log) -> None:
        if isinstance(message, wire.Log):
            self._output.records(message.records, message.dropped)
        elif isinstance(message, wire.Hello):
            if self._hello.done():
                raise wire.ProtocolError("a second Hello")
            self._hello.set_result(message)
        else:
            if not self._hello.done() or self._answer.done():
                raise wire.ProtocolError(f"{type(message).__name__} came out of turn")
            if isinstance(message, wire.Ready) and message.concurrency < 1:
                raise wire.ProtocolError(f"Ready with a concurrency of {message.concurrency}")
            self._answer.set_result(message)

    def on_disconnect(self, violation: str | None) -> None:
        self._violation = violation
        if violation is not None:
            self._child.kill_group()
        if not self._disconnected.done():
            self._disconnected.set_result(None)

    # Ending

    def _kill(self, words: str) -> None:
        if not self._exit.done():
            self._kill_words = self._kill_words or words
            self._child.kill_group()

    async def _watch(self) -> None:
        """From the start to the end of the process: find out how it ended, tell, and clean up after it."""
        try:
            exit = await self._see_exit()
        finally:
            self._child.kill_group()
            self._channel.close()
            self._child.close()
            if self._socket is not None:
                self._socket.close()
            self._output.close()
        self._exit.set_result(exit)
        if self._listener is not None:
            self._listener.on_exit(exit)
        await asyncio.to_thread(self._clean_up)

    async def _see_exit(self) -> Exit:
        child = self._child
        ends: list[asyncio.Future[Any]] = [child.exited, self._disconnected]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not child.exited.done():
            await asyncio.wait([child.exited], timeout=self._status_grace_s)
        by_itself = child.exited.done()
        child.kill_group()
        await asyncio.wait([*ends, child.drained], timeout=DRAIN_GRACE_S)
        return self._describe(child.exited.result() if child.exited.done() else None, by_itself)

    def _describe(self, status: int | None, by_itself: bool) -> Exit:
        if self._violation is not None:
            return Exit("lost", f"protocol violation: {self._violation}")
        if self._kill_words is not None and status != 0:
            return Exit("killed", self._kill_words)
        if status is None and by_itself:
            return Exit("crashed", "it ended; how is not known, because the zygote that forked it is gone too")
        if status is None or not by_itself:
            return Exit("lost", "it closed its connection and went on running")
        words = describe_status(status)
        if status == -signal.SIGKILL:
            if self._oom_kills is not None and out_of_memory_kills() > self._oom_kills:
                return Exit("oom", f"{words}, by the kernel for want of memory")
            return Exit("killed_externally", words)
        return Exit("exited" if status == 0 else "crashed", words)

    def _clean_up(self) -> None:
        """Blocking: what left the process group, and the private directory."""
        kill_marked(self._means.mark)
        shutil.rmtree(self._means.tmp, ignore_errors=True)


def _send_at_once(sock: socket.socket, frame: bytes) -> bool:
    """Whether the frame fits the empty buffer of a new connection: it is there before the other end asks for it."""
    if len(frame) > MAX_EARLY_BYTES:
        return False
    try:
        return sock.send(frame) == len(frame)
    except OSError:
        return False  # it has ended, which is told otherwise
