"""The start-up conversation over a channel in memory."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from clipper.contract import wire
from clipper_platform.backends.base import Exit, StartError
from clipper_platform.backends.handshake import Handshake
from tests.support.replicas import launch_spec

HELLO = wire.Hello(1, 1, "fake", "0", "3.11", 7)
READY = wire.Ready({"type": "object"}, True, False, 4, {"setup": 0.5})


class Conversation:
    """The platform's side, with the messages that it sent and a replica that the test plays."""

    def __init__(self, tmp_path: Path) -> None:
        self.sent: list[wire.Message] = []
        self.lines: list[str] = []
        self.given_up = 0
        self.gone: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.spec = launch_spec(tmp_path)
        self.handshake = Handshake(
            self.spec, "/inside/bundle", send=self.sent.append, gone=self.gone, log=lambda: self.lines
        )

    def begin(self, timeout_s: float = 60.0, failed_grace_s: float = 60.0) -> asyncio.Task[wire.Ready]:
        return asyncio.create_task(
            self.handshake.complete(timeout_s=timeout_s, failed_grace_s=failed_grace_s, give_up=self._give_up)
        )

    async def _give_up(self) -> None:
        self.given_up += 1
        self.lines.append("where it hangs")

    async def failure(self, **time_outs: float) -> StartError:
        with pytest.raises(StartError) as caught:
            await self.begin(**time_outs)
        return caught.value


@pytest.fixture
async def conversation(tmp_path: Path) -> Conversation:
    return Conversation(tmp_path)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_start_follows_hello_and_ready_completes_it(conversation: Conversation) -> None:
    completing = conversation.begin()
    await turns()
    assert conversation.sent == []
    conversation.handshake.on_message(HELLO)
    await turns()
    spec = conversation.spec
    assert conversation.sent == [wire.Start(1, "demo", "obey", 3, spec.replica, "/inside/bundle", {"name": "obey"})]
    conversation.handshake.on_message(READY)
    assert await completing == READY


async def test_a_start_that_was_sent_ahead_is_not_sent_again(conversation: Conversation) -> None:
    conversation.handshake.start_sent = True
    completing = conversation.begin()
    conversation.handshake.on_message(HELLO)
    conversation.handshake.on_message(READY)
    assert await completing == READY
    assert conversation.sent == []


async def test_a_runtime_that_speaks_more_versions_gets_the_platforms_newest(conversation: Conversation) -> None:
    conversation.handshake.on_message(wire.Hello(1, 9, "fake", "0", "3.11", 7))
    conversation.handshake.on_message(READY)
    await conversation.begin()
    assert [message.protocol for message in conversation.sent if isinstance(message, wire.Start)] == [1]


@pytest.mark.parametrize(("lowest", "highest"), [(2, 9), (0, 0)])
async def test_without_a_common_version_both_ranges_are_named(
    conversation: Conversation, lowest: int, highest: int
) -> None:
    conversation.handshake.on_message(wire.Hello(lowest, highest, "fake", "0.7", "3.11", 7))
    error = await conversation.failure()
    assert error.phase == "handshake"
    assert error.message == (
        f"the runtime fake 0.7 speaks versions {lowest} to {highest} of the protocol, the platform 1 to 1"
    )
    assert conversation.sent == []


async def test_failed_is_the_start_error_with_the_lines_until_the_replica_ended(conversation: Conversation) -> None:
    conversation.handshake.on_message(HELLO)
    conversation.handshake.on_message(wire.Failed("import", "ModuleNotFoundError", "No module named 'x'", "Traceback"))
    completing = conversation.begin()
    await turns()
    assert not completing.done(), "its last lines may still come"
    conversation.lines.append("the last line")
    conversation.gone.set_result(Exit("crashed", "exit status 1"))
    with pytest.raises(StartError) as caught:
        await completing
    error = caught.value
    assert (error.phase, error.error_type, error.message) == ("import", "ModuleNotFoundError", "No module named 'x'")
    assert (error.traceback, error.log) == ("Traceback", ["the last line"])


async def test_a_replica_that_sent_failed_and_stays_is_not_waited_for(conversation: Conversation) -> None:
    conversation.handshake.on_message(HELLO)
    conversation.handshake.on_message(wire.Failed("setup", "ValueError", "no weights", ""))
    assert (await conversation.failure(failed_grace_s=0.0)).phase == "setup"


@pytest.mark.parametrize(
    ("greeted", "exit", "phase", "message"),
    [
        (False, Exit("crashed", "exit status 3"), "launch", "exit status 3 before it said hello"),
        (True, Exit("oom", "killed by SIGKILL"), "setup", "killed by SIGKILL while importing, loading or setting up"),
        (True, Exit("lost", "protocol violation: x"), "handshake", "protocol violation: x"),
    ],
)
async def test_a_replica_that_ends_first_is_an_error_of_its_phase(
    conversation: Conversation, greeted: bool, exit: Exit, phase: str, message: str
) -> None:
    if greeted:
        conversation.handshake.on_message(HELLO)
    conversation.gone.set_result(exit)
    error = await conversation.failure()
    assert (error.phase, error.message) == (phase, message)


@pytest.mark.parametrize(
    ("greeted", "activity"),
    [(False, "starting the interpreter"), (True, "importing, loading or setting up the function")],
)
async def test_one_that_is_not_ready_in_time_is_given_up_and_its_log_says_where(
    conversation: Conversation, greeted: bool, activity: str
) -> None:
    if greeted:
        conversation.handshake.on_message(HELLO)
    error = await conversation.failure(timeout_s=0.0)
    assert conversation.given_up == 1
    assert error.phase == "timeout"
    assert error.message == (f"not ready within 0 s (startup_timeout_s): it was still {activity}; see where in the log")
    assert error.log == ["where it hangs"]


OUT_OF_TURN: list[tuple[list[Any], str]] = [
    ([HELLO, HELLO], "a second Hello"),
    ([READY], "Ready came out of turn"),
    ([HELLO, READY, READY], "Ready came out of turn"),
    ([HELLO, wire.Ready({}, True, False, 0, {})], "Ready with a concurrency of 0"),
]


@pytest.mark.parametrize(("messages", "words"), OUT_OF_TURN, ids=[words for _, words in OUT_OF_TURN])
async def test_a_message_out_of_turn_violates_the_protocol(
    conversation: Conversation, messages: list[Any], words: str
) -> None:
    for message in messages[:-1]:
        conversation.handshake.on_message(message)
    with pytest.raises(wire.ProtocolError, match=words):
        conversation.handshake.on_message(messages[-1])
