"""One zygote seen from the platform: its start, its forks, and what it tells of the children's ends."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import shutil
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from clipper_platform.backends.child import Child, ChildProcess, describe_status, kill_process_group
from clipper_platform.backends.output import ReplicaOutput

__all__ = ["REPLICA_PLACEHOLDER", "ForkFailed", "ForkedChild", "Zygote", "ZygoteRefused", "ZygoteStart"]

_logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 192 * 1024  # as in clipper_runtime.zygote, which the platform's process need not import
REPLICA_PLACEHOLDER = "." * 100
"""CLIP_REPLICA in a zygote's own environment: room for the id of each replica that it becomes."""

# A fork takes milliseconds. A zygote that takes longer is starved or stuck: the replica is started without it.
FORK_TIMEOUT_S = 2.0
# The zygote reports a status within moments of the end; if it does not, it is gone or stuck itself.
REPORT_GRACE_S = 0.5


class ZygoteRefused(Exception):
    """It cannot become what it was asked to. `module`: the one whose import is to blame, if any."""

    def __init__(self, why: str, module: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.module = module


class ForkFailed(Exception):
    """No child: start the replica without the zygote."""


class ForkedChild(ChildProcess):
    """A process that a zygote forked. The zygote is its parent, reaps it and says how it ended."""

    def __init__(self, pid: int, pidfd: int, streams: Sequence[IO[bytes]], output: ReplicaOutput) -> None:
        super().__init__(pid, streams, output)
        self._loop = asyncio.get_running_loop()
        self._pidfd = pidfd
        self._ended = False
        self._grace_s = REPORT_GRACE_S
        self.exited: asyncio.Future[int | None] = self._loop.create_future()
        self._loop.add_reader(pidfd, self._on_end)

    def report(self, status: int | None) -> None:
        """How it ended, from whoever reaped it."""
        if not self.exited.done():
            self.exited.set_result(status)
        self._on_end()

    def orphan(self) -> None:
        """The zygote is gone: nobody will report."""
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
class ZygoteStart:
    """With what a zygote is run. `message`: its first request."""

    argv: tuple[str, ...]  # `--control fd:N` is appended
    env: Mapping[str, str]
    tmp: Path  # its directory, removed with it
    message: Mapping[str, Any]
    memory_bytes: int | None = None


@dataclass(slots=True)
class _Asked:
    """A fork that was asked for. `child` is made when the answer is read, so that no report can come before it."""

    output: ReplicaOutput
    streams: list[IO[bytes]]
    child: asyncio.Future[ForkedChild] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Zygote:
    """A running zygote or template. Belongs to one event loop."""

    def __init__(self, start: ZygoteStart, output: ReplicaOutput, on_end: Callable[[Zygote], None]) -> None:
        """Starts the process. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._start = start
        self._output = output
        self._on_end = on_end
        self._asked: dict[int, _Asked] = {}
        self._number = 0
        self._answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self.children: dict[int, ForkedChild] = {}
        self.modules: frozenset[str] = frozenset()  # top-level names that it has loaded
        self.skipped: dict[str, str] = {}
        self.used_at = self._loop.time()
        self._closed = self._retired = self._ready = False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._child = Child.spawn(
                [*start.argv, "--control", f"fd:{theirs.fileno()}"],
                cwd=start.tmp,
                env=start.env,
                inherit=theirs.fileno(),
                output=output,
            )
        except (OSError, ValueError):
            ours.close()
            raise
        finally:
            theirs.close()
        self._child.limit(start.memory_bytes)
        ours.setblocking(False)
        self._socket = ours
        self._loop.add_reader(ours.fileno(), self._read)
        self._watching = asyncio.create_task(self._watch(), name=f"zygote {self._child.pid}")

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def usable(self) -> bool:
        """Whether it forks: it became ready, and it is neither retired nor gone."""
        return self._ready and not self._closed and not self._retired

    async def become(self, timeout_s: float) -> dict[str, float]:
        """Ask it to become what it was started for; the seconds that this took it by phase.

        Raises ZygoteRefused; then it ends.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._child.read_output()
                self._send(self._start.message)
                ends: list[asyncio.Future[Any]] = [self._answer, self._watching]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            self.kill()
            raise ZygoteRefused(f"it was not ready within {timeout_s:g} s") from None
        except OSError as error:
            self.kill()
            raise ZygoteRefused(f"it could not be asked: {error}") from error
        except asyncio.CancelledError:
            self.kill()
            raise
        if not self._answer.done():
            status = self._child.exited.result()
            raise ZygoteRefused(f"it ended: {describe_status(status) if status is not None else 'unknown'}")
        answer = self._answer.result()
        if answer["did"] == "refused":
            raise ZygoteRefused(answer["why"], answer.get("module", ""))
        self.modules, self.skipped = frozenset(answer["modules"]), answer["skipped"]
        self._ready = True
        return dict(answer["phases"])

    async def fork(
        self, *, replica: str, cwd: Path, env: Mapping[str, str], channel: int, output: ReplicaOutput
    ) -> ForkedChild:
        """A child that greets on `channel`, which stays the caller's to close. Raises ForkFailed."""
        if not self.usable or len(replica) > len(REPLICA_PLACEHOLDER):
            raise ForkFailed("it does not fork any more")
        self._number += 1
        number = self._number
        self.used_at = self._loop.time()
        asked = self._asked[number] = _Asked(output, [])
        message = {"do": "fork", "id": number, "replica": replica, "cwd": str(cwd), "env": dict(env)}
        try:
            self._ask(message, channel, asked)
            await asyncio.wait([asked.child], timeout=FORK_TIMEOUT_S)
            if not asked.child.done():
                raise ForkFailed(f"it did not fork within {FORK_TIMEOUT_S:g} s")
            return asked.child.result()
        except BaseException:
            self._give_up(number, asked)
            raise

    def _ask(self, message: Mapping[str, Any], channel: int, asked: _Asked) -> None:
        theirs: list[int] = []
        try:
            for _ in range(2):
                reading, writing = os.pipe()
                asked.streams.append(os.fdopen(reading, "rb", 0))
                theirs.append(writing)
            self._send(message, [channel, *theirs])
        except OSError as error:
            raise ForkFailed(f"it cannot be asked: {error}") from error
        finally:
            for descriptor in theirs:
                os.close(descriptor)

    def _give_up(self, number: int, asked: _Asked) -> None:
        """Nobody waits for this child any more: if it comes, it is killed."""
        if asked.child.done() and asked.child.exception() is None:
            asked.child.result().kill_group()
        self._asked.pop(number, None)
        for stream in asked.streams:
            stream.close()

    def _send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        data = json.dumps(message).encode()
        if len(data) > MAX_MESSAGE_BYTES:
            raise OSError(f"a request of {len(data)} bytes is over the limit of {MAX_MESSAGE_BYTES}")
        socket.send_fds(self._socket, [data], list(descriptors))

    # What it says

    def _read(self) -> None:
        while not self._closed:
            try:
                data, descriptors, _, _ = socket.recv_fds(
                    self._socket, MAX_MESSAGE_BYTES, 4, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            try:
                self._take(json.loads(data) if data else {}, descriptors)
            except (ValueError, KeyError, TypeError):
                _logger.warning("zygote %d says what cannot be understood and is ended", self.pid)
                self.kill()
                return
            if not data:
                self._loop.remove_reader(self._socket.fileno())  # the process's end follows, and cleans up
                self._retired = True
                return

    def _take(self, message: dict[str, Any], descriptors: list[int]) -> None:
        match message.get("did"):
            case "fork":
                self._take_fork(message, descriptors)
            case "exit":
                child = self.children.pop(message["pid"], None)
                if child is not None:
                    child.report(message["status"])
            case "ready" | "refused" if not self._answer.done():
                self._answer.set_result(message)

    def _take_fork(self, message: dict[str, Any], descriptors: list[int]) -> None:
        asked = self._asked.pop(message["id"], None)
        if "pid" not in message:
            if asked is not None:
                asked.child.set_exception(ForkFailed(message.get("error", "it cannot fork")))
            return
        if asked is None:
            signal.pidfd_send_signal(descriptors[0], signal.SIGKILL)
            os.close(descriptors[0])
            return
        child = ForkedChild(message["pid"], descriptors[0], asked.streams, asked.output)
        self.children[child.pid] = child
        asked.child.set_result(child)

    # Its end

    def retire(self) -> None:
        """No more forks. It ends with its last child, whose end it reports."""
        if not self._retired and not self._closed:
            self._retired = True
            try:
                self._send({"do": "retire"})
            except OSError:
                self.kill()

    def kill(self) -> None:
        """End it now. Its children go on; how they end will not be known."""
        self._child.kill_group()

    async def gone(self) -> None:
        await asyncio.shield(asyncio.wait([self._watching]))

    async def _watch(self) -> None:
        await asyncio.wait([self._child.exited])
        self._closed = True
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._child.close()
        self._output.close()
        for asked in self._asked.values():
            if not asked.child.done():
                asked.child.set_exception(ForkFailed("the zygote ended"))
        self._asked.clear()
        for child in self.children.values():
            child.orphan()
        self.children.clear()
        self._on_end(self)
        await asyncio.to_thread(shutil.rmtree, self._start.tmp, True)
