"""The start-up conversation with a replica, Hello → Start → Ready, over any channel.

It knows no process and no container: the backend passes it the channel's messages and the future of the replica's end,
and decides what to do with a replica that is not ready in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from clipper.contract import wire
from clipper_platform.backends.base import Exit, LaunchSpec, StartError

__all__ = ["Handshake"]

_M = TypeVar("_M")

PROTOCOL_MIN = 1


class Handshake:
    """The platform's side of one replica's start-up."""

    def __init__(
        self,
        spec: LaunchSpec,
        bundle: str,
        *,
        send: Callable[[wire.Message], None],
        gone: asyncio.Future[Exit],
        log: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """`bundle`: the directory of the unpacked bundle, as the replica sees it. `log`: the last lines that it wrote,
        for the errors."""
        loop = asyncio.get_running_loop()
        self._spec = spec
        self._bundle = bundle
        self._send = send
        self._gone = gone
        self._log = log
        self._hello: asyncio.Future[wire.Hello] = loop.create_future()
        self._answer: asyncio.Future[wire.Ready | wire.Failed] = loop.create_future()
        self.start_sent = False
        """Set it if the replica has `start_message()` already: it is not sent again."""

    def start_message(self, protocol: int = wire.PROTOCOL_VERSION) -> wire.Start:
        function = self._spec.function
        return wire.Start(
            protocol=protocol,
            project=function.project,
            function=function.function,
            version=function.version,
            replica=self._spec.replica,
            bundle=self._bundle,
            spec=dict(self._spec.spec),
        )

    def on_message(self, message: wire.Hello | wire.Ready | wire.Failed) -> None:
        """Take a message of the channel. Raises wire.ProtocolError for one out of turn."""
        if isinstance(message, wire.Hello):
            if self._hello.done():
                raise wire.ProtocolError("a second Hello")
            self._hello.set_result(message)
            return
        if not self._hello.done() or self._answer.done():
            raise wire.ProtocolError(f"{type(message).__name__} came out of turn")
        if isinstance(message, wire.Ready) and message.concurrency < 1:
            raise wire.ProtocolError(f"Ready with a concurrency of {message.concurrency}")
        self._answer.set_result(message)

    async def complete(
        self, *, timeout_s: float, failed_grace_s: float, give_up: Callable[[], Awaitable[None]]
    ) -> wire.Ready:
        """Wait until the replica is ready. Raises StartError.

        After `timeout_s` it awaits `give_up`, which ends the replica. One that sent Failed has `failed_grace_s` to end
        by itself, after its last lines.
        """
        try:
            async with asyncio.timeout(timeout_s):
                protocol = self._agree(await self._expect(self._hello, "launch"))
                if not self.start_sent:
                    self._send(self.start_message(protocol))
                answer = await self._expect(self._answer, "setup")
        except TimeoutError:
            await give_up()
            raise self._timed_out(timeout_s) from None
        if isinstance(answer, wire.Failed):
            await asyncio.wait([self._gone], timeout=failed_grace_s)
            raise self.error(answer.phase, answer.message, answer.error_type, answer.traceback)
        return answer

    def error(self, phase: str, message: str, error_type: str = "", traceback: str = "") -> StartError:
        return StartError(phase, message, error_type=error_type, traceback=traceback, log=self._log())

    def _agree(self, hello: wire.Hello) -> int:
        """The version of the protocol that both speak. Raises StartError."""
        if hello.protocol_max < PROTOCOL_MIN or hello.protocol_min > wire.PROTOCOL_VERSION:
            raise self.error(
                "handshake",
                f"the runtime {hello.runtime} {hello.runtime_version} speaks versions {hello.protocol_min} to "
                f"{hello.protocol_max} of the protocol, the platform {PROTOCOL_MIN} to {wire.PROTOCOL_VERSION}",
            )
        return min(hello.protocol_max, wire.PROTOCOL_VERSION)

    async def _expect(self, message: asyncio.Future[_M], phase: str) -> _M:
        """The message. Raises StartError if the replica ends first."""
        either: list[asyncio.Future[Any]] = [message, self._gone]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if message.done():
            return message.result()
        exit = self._gone.result()
        if exit.reason == "lost":
            raise self.error("handshake", exit.message)
        when = "before it said hello" if phase == "launch" else "while importing, loading or setting up"
        raise self.error(phase, f"{exit.message} {when}")

    def _timed_out(self, timeout_s: float) -> StartError:
        greeted = self._hello.done()
        activity = "importing, loading or setting up the function" if greeted else "starting the interpreter"
        return self.error(
            "timeout",
            f"not ready within {timeout_s:g} s (startup_timeout_s): it was still {activity}; see where in the log",
        )
