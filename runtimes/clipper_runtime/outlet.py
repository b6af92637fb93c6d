"""Where the chunks of one stream go, with the credit that the platform gives for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from clipper.contract.wire import Chunk

__all__ = ["Outlet"]


class Outlet(Protocol):
    """Of one stream. `take` and `send` are apart, and the first does not wait, so that most chunks need no coroutine:
    a stream of 10 chunks takes 131 µs instead of 141 (`tests/benchmarks/runtime_path.py`)."""

    @property
    def send(self) -> Callable[[Chunk, bytes], None]: ...

    def take(self) -> bool:
        """Whether the platform takes one more chunk now, which is then to be sent."""
        ...

    async def wait(self) -> bool:
        """As `take`, but wait until it does; False where the stream was cancelled instead."""
        ...
