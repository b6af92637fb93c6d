"""One replica as a child process: its start, its end, and the one moment at which it is gone."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from clipper.contract import wire
from clipper_platform.backends.base import ChannelListener, Exit
from clipper_platform.backends.channel import WireChannel
from clipper_platform.backends.handshake import Handshake
from clipper_platform.backends.process.child import Child, ChildProcess, describe_status
from clipper_platform.backends.process.forked_process import ForkedProcess
from clipper_platform.backends.process.guardian import kill_marked
from clipper_platform.backends.process.launch import Launch, LaunchPlan
from clipper_platform.backends.process.output import ReplicaOutput
from clipper_platform.backends.process.procfs import out_of_memory_kills, tree_rss
from clipper_platform.backends.process.temporary import remove_tmp
from clipper_platform.clock import Clock
from clipper_platform.types import ReplicaId

__all__ = ["ProcessReplica"]

# A closed connection is followed by the process's end within moments, and only its status says how it ended.
STATUS_GRACE_S = 1.0
# After the end of the process: for its last lines, which are in the pipes, and its last frames.
DRAIN_GRACE_S = 0.25
# For faulthandler to write where a start-up hangs; and for a replica that sent Failed to end by itself.
TRACE_GRACE_S = 2.0
FAILED_GRACE_S = 1.0

# A Unix socket's buffer takes 200 KiB; what it does not take whole would be cut in the middle of a frame.
MAX_EARLY_BYTES = 64 * 1024


class ProcessReplica:
    """Implements `Replica`. Call `start` once; if it raises, `kill` and `gone` leave nothing behind."""

    def __init__(
        self,
        launch: Launch,
        plan: LaunchPlan,
        output: ReplicaOutput,
        clock: Clock,
        on_gone: Callable[[], None],
        forked: ForkedProcess | None = None,
    ) -> None:
        """Starts a process, unless one was `forked` for it. Raises StartError."""
        loop = asyncio.get_running_loop()
        self._launch, self._spec = launch, launch.spec
        self._plan = plan
        self._output = output
        self._clock = clock
        self._launched_at = clock.monotonic() if forked is None else forked.launched_at
        self._forked = forked
        self._channel = WireChannel(self)
        self._listener: ChannelListener | None = None
        self._disconnected: asyncio.Future[None] = loop.create_future()
        self._exit: asyncio.Future[Exit] = loop.create_future()
        self._handshake = Handshake(
            launch.spec, str(launch.bundle), send=self._channel.send, gone=self._exit, log=lambda: output.tail
        )
        self._ready: wire.Ready | None = None
        self._violation: str | None = None
        self._kill_message: str | None = None  # why the platform killed it
        self._status_grace_s = STATUS_GRACE_S
        self._oom_kills: int | None = None  # counted when the replica was last looked at
        self._socket: socket.socket | None  # until the channel has it
        self._child: ChildProcess
        if forked is None:
            self._socket, self._child = self._spawn()
        else:
            self._socket, self._child = forked.socket, forked.child
            # A zygote runs the runtime that this platform staged, so the version of its protocol is known.
            self._handshake.start_sent = _send_at_once(self._socket, wire.encode(self._handshake.start_message()))
        self._child.limit(self._spec.memory_bytes)
        self._watching = asyncio.create_task(self._watch(), name=f"replica {self._spec.replica}")
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
        return self._plan.env

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
        # Older out-of-memory kills are other processes': the one of this replica comes after this look.
        self._oom_kills = out_of_memory_kills()
        return tree_rss(self._child.pid)

    async def stop(self, timeout_s: float) -> None:
        if not self._exit.done() and self._kill_message is None:
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
        plan, bundle = self._plan, self._launch.bundle
        if not bundle.is_dir():
            raise self._handshake.error("launch", f"the bundle {bundle} is not a directory")
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise self._handshake.error("launch", f"the process cannot be started: {error}") from error
        ours.setblocking(False)
        argv = [*plan.argv, "--channel", f"fd:{theirs.fileno()}"]
        try:
            child = Child.spawn(argv, cwd=bundle, env=plan.env, inherit=theirs.fileno(), output=self._output)
        except (OSError, ValueError) as error:
            ours.close()
            raise self._handshake.error("launch", f"the process cannot be started: {error}") from error
        finally:
            theirs.close()
        return ours, child

    async def start(self) -> None:
        """Converse until it is ready. Raises StartError."""
        await self._connect()
        self._oom_kills = out_of_memory_kills()
        await self._child.read_output()
        ready = await self._handshake.complete(
            timeout_s=self._spec.startup_timeout_s, failed_grace_s=FAILED_GRACE_S, give_up=self._give_up
        )
        self._ready = msgspec.structs.replace(ready, phases=self._phases(ready.phases))

    async def _give_up(self) -> None:
        """Let it write where it is, then end it."""
        self._kill_message = "killed: it did not become ready in time"
        self._child.ask_where()
        await asyncio.wait([self._exit], timeout=TRACE_GRACE_S)
        self._child.kill_group()
        await self.gone()

    def _phases(self, own: Mapping[str, float]) -> dict[str, float]:
        """The replica's own phases and those before them, which together are the time from the launch to now: the start
        of an interpreter, or the choice of a zygote and the fork, with the conversation."""
        rest = max(0.0, self._clock.monotonic() - self._launched_at - sum(own.values()))
        if self._forked is None:
            return {"launch": rest, **own}
        return {"place": self._forked.place_s, "fork": max(0.0, rest - self._forked.place_s), **own}

    async def _connect(self) -> None:
        ours, self._socket = self._socket, None
        await asyncio.get_running_loop().create_unix_connection(lambda: self._channel, sock=ours)

    # ChannelOwner

    def on_control(self, message: wire.Hello | wire.Ready | wire.Failed | wire.Log) -> None:
        if isinstance(message, wire.Log):
            self._output.records(message)
        else:
            self._handshake.on_message(message)

    def on_disconnect(self, violation: str | None) -> None:
        self._violation = violation
        if violation is not None:
            self._child.kill_group()
        if not self._disconnected.done():
            self._disconnected.set_result(None)

    # Ending

    def _kill(self, message: str) -> None:
        if not self._exit.done():
            self._kill_message = self._kill_message or message
            self._child.kill_group()

    async def _watch(self) -> None:
        """Runs as long as the process: finds out how it ended, tells the listener and cleans up."""
        try:
            exit = await self._see_exit()
        finally:
            self._child.kill_group()
            self._channel.close()
            self._child.close()
            if self._socket is not None:
                self._socket.close()
            self._output.close()
        exit = replace(exit, last_words=self._output.last_words)
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
        if self._kill_message is not None and status != 0:
            return Exit("killed", self._kill_message)
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
        """Blocking: end what left the process group, and remove the private directory."""
        kill_marked(self._plan.mark)
        remove_tmp(self._plan.tmp)


def _send_at_once(sock: socket.socket, frame: bytes) -> bool:
    """Whether the frame was sent: it must fit the empty buffer of a new connection as a whole."""
    if len(frame) > MAX_EARLY_BYTES:
        return False
    try:
        return sock.send(frame) == len(frame)
    except OSError:
        return False  # it has ended, which its pidfd reports
