"""Turns among the queues, so that a function with a long queue does not keep the event loop from the others.

Each queue may dispatch a quantum of invocations before the next one has its turn: deficit round robin, Shreedhar and
Varghese 1995, with batches as packets.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from clipper_platform.serving.function_queue import FunctionQueue

__all__ = ["Turns"]

logger = logging.getLogger(__name__)

QUANTUM = 256  # invocations that a queue may dispatch in one turn


class Turns:
    """`on_error` is called for each turn that fails."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_error: Callable[[], None]) -> None:
        self._loop = loop
        self._on_error = on_error
        self._due: deque[FunctionQueue] = deque()
        self._handle: asyncio.Handle | None = None

    def schedule(self, queue: FunctionQueue) -> None:
        """Give the queue a turn. It may be scheduled once at a time."""
        self._due.append(queue)
        if self._handle is None:
            # At the end of this iteration of the loop, so that what arrived together is batched together.
            self._handle = self._loop.call_soon(self._take_turns)

    def _take_turns(self) -> None:
        self._handle = None
        for _ in range(len(self._due)):
            queue = self._due.popleft()
            try:
                more = queue.pump(QUANTUM)
            except Exception:
                # One queue's defect must not stop the others' turns.
                logger.exception("dispatching %s failed", queue.target.id)
                self._on_error()
                continue
            if more:
                self._due.append(queue)
        if self._due and self._handle is None:
            self._handle = self._loop.call_soon(self._take_turns)
