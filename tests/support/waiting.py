"""Waiting for something outside the event loop, a file or a process, for a bounded time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import psutil

__all__ = ["has_ended", "until"]

POLL_S = 0.02


async def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Return once `condition()` is true. Raises TimeoutError."""
    for _ in range(int(timeout_s / POLL_S)):
        if condition():
            return
        await asyncio.sleep(POLL_S)
    raise TimeoutError(f"not within {timeout_s} s")


def has_ended(pid: int, timeout_s: float = 10.0) -> bool:
    """Whether the process is gone, or a zombie, within `timeout_s`. Blocks."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
