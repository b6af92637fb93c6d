"""Descriptors of child processes: each is closed once, on either event loop."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from clipper_platform.backends.process.child import HandedPipe

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
}


class Reader(asyncio.Protocol):
    def __init__(self) -> None:
        self.data = b""
        self.ended = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)


def under(number: int) -> list[int]:
    """Open descriptors until one has the number; all that were opened."""
    opened: list[int] = []
    while number not in opened:
        opened.append(os.open(os.devnull, os.O_RDONLY))
        assert len(opened) < 1000, "the number is still taken"
    return opened


@pytest.mark.parametrize("loop", LOOPS)
def test_a_pipe_is_closed_once_and_never_again_under_its_number(loop: str) -> None:
    async def check() -> None:
        read, write = os.pipe()
        handed = HandedPipe(os.fdopen(read, "rb", 0), asyncio.get_running_loop())
        number = handed.fileno()
        connected: tuple[Any, Reader] = await asyncio.get_running_loop().connect_read_pipe(Reader, handed)
        transport, reader = connected
        os.write(write, b"words")
        os.close(write)
        async with asyncio.timeout(5):
            await reader.ended
        assert reader.data == b"words"
        others = under(number)
        handed.close()
        del transport, reader, connected, handed
        gc.collect()
        for other in others:
            os.close(other)  # raises where somebody closed it

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(check())
