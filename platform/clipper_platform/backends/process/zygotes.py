"""One zygote seen from the platform: its start, its forks, and its reports of how its children ended.

A child comes with its channel, its output and a line for its assignment. One spare child is kept, forked ahead of time:
a launch then writes the assignment to a process that waits for just that, and needs nothing of the zygote.
The spare child takes the processor time of the first answer from 14.2 to 4.7 ms with a snapshot and from 20.3 to 7.5 ms
with a warm zygote (`python -m tests.benchmarks.cold_start`, two busy cores, medians of 40 rounds interleaved with a
variant that keeps none); its p50 from 45 to 16 ms and from 54 to 18 ms.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipper.contract import zygote as messages
from clipper_platform.backends.process.child import Child, describe_status
from clipper_platform.backends.process.forked_process import ForkedChild, UnassignedChild
from clipper_platform.backends.process.output import ReplicaOutput
from clipper_platform.backends.process.procfs import own_rss
from clipper_platform.backends.process.temporary import remove_tmp

__all__ = ["REPLICA_PLACEHOLDER", "ForkFailed", "Zygote", "ZygoteRefused", "ZygoteStart"]

_logger = logging.getLogger(__name__)

REPLICA_PLACEHOLDER = "." * 100
"""CLIP_REPLICA in a zygote's own environment: room for the id of each replica that a child becomes."""

# A fork takes milliseconds. A zygote that takes longer is starved or stuck: the replica is started without it.
FORK_TIMEOUT_S = 2.0
# From an assignment to the fork of the next spare child, so that the replica's first work has the processor.
SPARE_AFTER_S = 0.2


class ZygoteRefused(Exception):
    """It cannot become what was requested. `module`: the one whose import is to blame, if any. `lasting`: another
    attempt would end the same."""

    def __init__(self, why: str, module: str = "", *, lasting: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.module = module
        self.lasting = lasting


class ForkFailed(Exception):
    """There is no child: start the replica without the zygote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZygoteStart:
    """How a zygote is started."""

    argv: tuple[str, ...]  # `--control fd:N` is appended
    env: Mapping[str, str]
    tmp: Path  # its directory, removed with it
    request: messages.Preload | messages.Prepare
    memory_bytes: int | None = None


class Zygote:
    """A running zygote or template. Implements `WarmInstance`. Belongs to one event loop."""

    def __init__(self, start: ZygoteStart, output: ReplicaOutput, on_end: Callable[[Zygote], None]) -> None:
        """Starts the process. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._start = start
        self._output = output
        self._on_end = on_end
        self._ordered: dict[int, asyncio.Future[UnassignedChild]] = {}  # by the Fork's id
        self._number = 0
        self._spare: UnassignedChild | None = None
        self._next_spare: asyncio.Future[UnassignedChild] | None = None
        self._ordering: asyncio.TimerHandle | None = None  # until the next spare child is ordered
        self._answer: asyncio.Future[messages.Ready | messages.Refused] = self._loop.create_future()
        self.children: dict[int, ForkedChild] = {}
        self.modules: frozenset[str] = frozenset()  # top-level names that it has loaded
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
    def area(self) -> Path:
        """Where its children must have their directories."""
        return self._start.tmp.parent

    @property
    def env(self) -> Mapping[str, str]:
        """The environment variables that it was started with."""
        return self._start.env

    @property
    def usable(self) -> bool:
        """Whether it forks: it became ready, and it is neither retired nor gone."""
        return self._ready and not self._closed and not self._retired

    @property
    def in_use(self) -> bool:
        return bool(self.children)

    @property
    def spare_pid(self) -> int | None:
        """The child that was forked ahead of time, if there is one now."""
        return None if self._spare is None else self._spare.pid

    @property
    def memory_limit(self) -> int | None:
        """The bound of its memory, which its children inherit."""
        return self._start.memory_bytes

    def memory_bytes(self) -> int:
        """Resident memory of the zygote alone."""
        return own_rss(self.pid) or 0

    async def become(self, timeout_s: float) -> None:
        """Let it become what it was started for. Raises ZygoteRefused; then it ends."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._child.read_output()
                self._send(self._start.request)
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
        if isinstance(answer, messages.Refused):
            raise ZygoteRefused(answer.why, answer.module, lasting=answer.lasting)
        if answer.skipped:
            _logger.info("zygote %d could not import %s", self.pid, answer.skipped)
        self.modules = frozenset(answer.modules)
        self._ready = True
        self._order_spare()

    async def fork(
        self, *, replica: str, cwd: Path, env: Mapping[str, str], output: ReplicaOutput
    ) -> tuple[ForkedChild, socket.socket]:
        """A child that becomes the replica, and our end of its channel. Raises ForkFailed."""
        if not self.usable or len(replica) > len(REPLICA_PLACEHOLDER):
            raise ForkFailed("it does not fork any more")
        self.used_at = self._loop.time()
        spare, self._spare = self._spare, None
        if self._ordering is None:
            self._ordering = self._loop.call_later(SPARE_AFTER_S, self._order_spare)
        try:
            assignment = messages.encode(_assignment(replica, cwd, self._start.env, env))
            if spare is not None:
                try:
                    return self._keep(spare.assign(assignment, output))
                except OSError:
                    pass  # it was killed meanwhile
            child = await self._fork_now()
            return self._keep(child.assign(assignment, output))
        except OSError as error:
            raise ForkFailed(f"its child ended: {error}") from error

    def _keep(self, assigned: tuple[ForkedChild, socket.socket]) -> tuple[ForkedChild, socket.socket]:
        self.children[assigned[0].pid] = assigned[0]
        return assigned

    async def _fork_now(self) -> UnassignedChild:
        number, forked = self._order(ahead=False)
        try:
            await asyncio.wait([forked], timeout=FORK_TIMEOUT_S)
            if forked.done():
                return forked.result()
            raise ForkFailed(f"it did not fork within {FORK_TIMEOUT_S:g} s")
        except BaseException:
            # No launch waits for this child any more: if it comes, it is dropped.
            self._ordered.pop(number, None)
            if forked.done() and forked.exception() is None:
                forked.result().drop()
            raise

    def _order(self, *, ahead: bool) -> tuple[int, asyncio.Future[UnassignedChild]]:
        """Request a child. Raises ForkFailed."""
        self._number += 1
        number = self._number
        try:
            self._send(messages.Fork(number, ahead))
        except OSError as error:
            raise ForkFailed(f"it cannot be asked: {error}") from error
        forked = self._ordered[number] = self._loop.create_future()
        return number, forked

    def _order_spare(self) -> None:
        self._ordering = None
        if not self.usable or self._spare is not None:
            return
        if self._next_spare is not None and not self._next_spare.done():
            return
        try:
            _, self._next_spare = self._order(ahead=True)
        except ForkFailed:
            return  # the next launch requests a child itself, and gets the reason
        self._next_spare.add_done_callback(self._store_spare)

    def _store_spare(self, forked: asyncio.Future[UnassignedChild]) -> None:
        if forked.cancelled() or forked.exception() is not None:
            return
        if self.usable and self._spare is None:
            self._spare = forked.result()
        else:
            forked.result().drop()

    def _send(self, request: messages.Request) -> None:
        self._socket.send(messages.encode(request))

    # Its reports

    def _read(self) -> None:
        while not self._closed:
            try:
                data, descriptors, _, _ = socket.recv_fds(
                    self._socket,
                    messages.MAX_MESSAGE_BYTES,
                    messages.MAX_DESCRIPTORS,
                    socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT,
                )
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                self._loop.remove_reader(self._socket.fileno())  # the process's end follows, and cleans up
                self._retired = True
                return
            try:
                self._on_event(messages.decode_event(data), descriptors)
            except ValueError:  # msgspec.DecodeError is one
                _logger.warning("zygote %d sent an unknown message and is ended", self.pid)
                self.kill()
                return

    def _on_event(self, event: messages.Event, descriptors: list[int]) -> None:
        match event:
            case messages.Forked(id, pid):
                self._on_forked(id, UnassignedChild(pid, descriptors))
            case messages.ForkFailed(id, error):
                forked = self._ordered.pop(id, None)
                if forked is not None and not forked.done():
                    forked.set_exception(ForkFailed(error))
            case messages.Exited(pid, status):
                child = self.children.pop(pid, None)
                if child is not None:
                    child.report(status)
                elif pid == self.spare_pid:
                    # The next fork orders another one, so that children that end at once make no loop.
                    self._drop_spare()
            case messages.Ready() | messages.Refused() if not self._answer.done():
                self._answer.set_result(event)

    def _on_forked(self, id: int, child: UnassignedChild) -> None:
        forked = self._ordered.pop(id, None)
        if forked is None or forked.done():
            child.drop()
        else:
            forked.set_result(child)

    # Its end

    def retire(self) -> None:
        """Let it fork no more. It ends with its last child, whose end it reports."""
        if not self._retired and not self._closed:
            self._retired = True
            self._drop_spare()
            try:
                self._send(messages.Retire())
            except OSError:
                self.kill()

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.drop()

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
        if self._ordering is not None:
            self._ordering.cancel()
        self._drop_spare()
        for forked in self._ordered.values():
            if not forked.done():
                forked.set_exception(ForkFailed("the zygote ended"))
                forked.exception()  # marks it as seen: no launch waits for a spare child
        self._ordered.clear()
        for child in self.children.values():
            child.orphan()
        self.children.clear()
        self._on_end(self)
        await asyncio.to_thread(remove_tmp, self._start.tmp)


def _assignment(replica: str, cwd: Path, before: Mapping[str, str], after: Mapping[str, str]) -> messages.Assignment:
    """With the differences between the zygote's environment variables and the replica's."""
    changed = {key: value for key, value in after.items() if before.get(key) != value}
    return messages.Assignment(replica, str(cwd), changed, [key for key in before if key not in after])
