"""An event loop in a thread of its own, for coroutines that run while the caller does something else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["BackgroundLoop"]

T = TypeVar("T")

# Long enough for cancelled requests to close their sockets.
CLOSE_TIMEOUT_S = 5.0


class BackgroundLoop:
    """Starts its thread with the first coroutine; `close` cancels what still runs. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `work` on the loop. Cancelling the future cancels the coroutine."""
        with self._lock:
            if self._loop is None:
                self._loop = self._start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _start(self) -> asyncio.AbstractEventLoop:
        started: Future[asyncio.AbstractEventLoop] = Future()

        async def main() -> None:
            self._stop = asyncio.Event()
            started.set_result(asyncio.get_running_loop())
            await self._stop.wait()

        # A daemon thread, so that a call without a waiter does not keep the program alive.
        self._thread = threading.Thread(target=asyncio.run, args=(main(),), name="clipper-calls", daemon=True)
        self._thread.start()
        return started.result()

    def close(self) -> None:
        """Cancel what runs and end the thread. A later `submit` starts a new one."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(self._stop.set)
        if thread is not threading.current_thread():
            thread.join(CLOSE_TIMEOUT_S)
