"""One zygote seen from the platform: its start, its forks, and what it tells of the children's ends.

A child comes with its channel, its output and a line on which it learns whose replica it is. One is kept in store: a
launch then writes a message to a process that waits for just that, and needs nothing of the zygote.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipper.contract.constants import MAX_DESCRIPTORS, MAX_MESSAGE_BYTES
from clipper_platform.backends.process.child import Child, describe_status
from clipper_platform.backends.process.forked_process import ForkedChild, UnnamedChild
from clipper_platform.backends.process.output import ReplicaOutput

__all__ = ["REPLICA_PLACEHOLDER", "ForkFailed", "Zygote", "ZygoteRefused", "ZygoteStart"]

_logger = logging.getLogger(__name__)

REPLICA_PLACEHOLDER = "." * 100
"""CLIP_REPLICA in a zygote's own environment: room for the id of each replica that it becomes."""

# A fork takes milliseconds. A zygote that takes longer is starved or stuck: the replica is started without it.
FORK_TIMEOUT_S = 2.0
# After a spare child was taken: what the replica does first is not to share the processor with a fork.
SPARE_AFTER_S = 0.2


class ZygoteRefused(Exception):
    """It cannot become what it was asked to. `module`: the one whose import is to blame, if any. `lasting`: another
    attempt would end the same."""

    def __init__(self, why: str, module: str = "", *, lasting: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.module = module
        self.lasting = lasting


class ForkFailed(Exception):
    """No child: start the replica without the zygote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZygoteStart:
    """With what a zygote is run. `message`: its first request."""

    argv: tuple[str, ...]  # `--control fd:N` is appended
    env: Mapping[str, str]
    tmp: Path  # its directory, removed with it
    message: Mapping[str, Any]
    memory_bytes: int | None = None


class Zygote:
    """A running zygote or template. Belongs to one event loop."""

    def __init__(self, start: ZygoteStart, output: ReplicaOutput, on_end: Callable[[Zygote], None]) -> None:
        """Starts the process. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._start = start
        self._output = output
        self._on_end = on_end
        self._asked: dict[int, asyncio.Future[UnnamedChild]] = {}
        self._number = 0
        self._spare: UnnamedChild | None = None
        self._coming: asyncio.Future[UnnamedChild] | None = None  # the next spare child, which was ordered
        self._ordering: asyncio.TimerHandle | None = None  # of the one after that
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

    @property
    def spare_pid(self) -> int | None:
        """The child that was forked ahead of time, if there is one now."""
        return None if self._spare is None else self._spare.pid

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
            raise ZygoteRefused(answer["why"], answer.get("module", ""), lasting=bool(answer.get("lasting")))
        self.modules, self.skipped = frozenset(answer["modules"]), answer["skipped"]
        self._ready = True
        self._order_spare()
        return dict(answer["phases"])

    async def fork(
        self, *, replica: str, cwd: Path, env: Mapping[str, str], output: ReplicaOutput
    ) -> tuple[ForkedChild, socket.socket]:
        """A child that becomes the replica, and our end of its channel. Raises ForkFailed."""
        if not self.usable or len(replica) > len(REPLICA_PLACEHOLDER):
            raise ForkFailed("it does not fork any more")
        self.used_at = self._loop.time()
        message = _encode({"replica": replica, "cwd": str(cwd), **_changes(self._start.env, env)})
        spare, self._spare = self._spare, None
        if self._ordering is None:
            self._ordering = self._loop.call_later(SPARE_AFTER_S, self._order_spare)
        if spare is not None:
            try:
                return self._keep(spare.name(message, output))
            except OSError:
                pass  # it was killed meanwhile
        unnamed = await self._fork_now()
        try:
            return self._keep(unnamed.name(message, output))
        except OSError as error:
            raise ForkFailed(f"its child ended: {error}") from error

    def _keep(self, born: tuple[ForkedChild, socket.socket]) -> tuple[ForkedChild, socket.socket]:
        self.children[born[0].pid] = born[0]
        return born

    async def _fork_now(self) -> UnnamedChild:
        number, made = self._order(ahead=False)
        try:
            await asyncio.wait([made], timeout=FORK_TIMEOUT_S)
            if made.done():
                return made.result()
            raise ForkFailed(f"it did not fork within {FORK_TIMEOUT_S:g} s")
        except BaseException:
            # Nobody waits for this child any more: if it comes, it is dropped.
            self._asked.pop(number, None)
            if made.done() and made.exception() is None:
                made.result().drop()
            raise

    def _order(self, *, ahead: bool) -> tuple[int, asyncio.Future[UnnamedChild]]:
        """Ask for a child. Raises ForkFailed."""
        self._number += 1
        number = self._number
        try:
            self._send({"do": "fork", "id": number, "ahead": ahead})
        except OSError as error:
            raise ForkFailed(f"it cannot be asked: {error}") from error
        made = self._asked[number] = self._loop.create_future()
        return number, made

    def _order_spare(self) -> None:
        self._ordering = None
        if not self.usable or self._spare is not None or (self._coming is not None and not self._coming.done()):
            return
        try:
            _, self._coming = self._order(ahead=True)
        except ForkFailed:
            return  # whoever needs a child will ask, and hear why
        self._coming.add_done_callback(self._store)

    def _store(self, made: asyncio.Future[UnnamedChild]) -> None:
        if made.cancelled() or made.exception() is not None:
            return
        if self.usable and self._spare is None:
            self._spare = made.result()
        else:
            made.result().drop()

    def _send(self, message: Mapping[str, Any]) -> None:
        self._socket.send(_encode(message))

    # What it says

    def _read(self) -> None:
        while not self._closed:
            try:
                data, descriptors, _, _ = socket.recv_fds(
                    self._socket, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
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
                elif message["pid"] == self.spare_pid:
                    self._drop_spare()  # the next fork orders another one: one that ends each time is no loop then
            case "ready" | "refused" if not self._answer.done():
                self._answer.set_result(message)

    def _take_fork(self, message: dict[str, Any], descriptors: list[int]) -> None:
        made = self._asked.pop(message["id"], None)
        if "pid" in message:
            unnamed = UnnamedChild(message["pid"], descriptors)
            if made is None or made.done():
                unnamed.drop()
            else:
                made.set_result(unnamed)
        elif made is not None and not made.done():
            made.set_exception(ForkFailed(message.get("error", "it cannot fork")))

    # Its end

    def retire(self) -> None:
        """No more forks. It ends with its last child, whose end it reports."""
        if not self._retired and not self._closed:
            self._retired = True
            self._drop_spare()
            try:
                self._send({"do": "retire"})
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
        for made in self._asked.values():
            if not made.done():
                made.set_exception(ForkFailed("the zygote ended"))
                made.exception()  # that of a spare child is nobody's
        self._asked.clear()
        for child in self.children.values():
            child.orphan()
        self.children.clear()
        self._on_end(self)
        await asyncio.to_thread(shutil.rmtree, self._start.tmp, True)


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, Any]:
    return {
        "set": {key: value for key, value in after.items() if before.get(key) != value},
        "unset": [key for key in before if key not in after],
    }


def _encode(message: Mapping[str, Any]) -> bytes:
    """Raises OSError if it is too long for one message."""
    data = json.dumps(message).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise OSError(f"a request of {len(data)} bytes is over the limit of {MAX_MESSAGE_BYTES}")
    return data
