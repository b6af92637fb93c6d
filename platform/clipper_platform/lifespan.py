"""Parts that are opened and closed, and loops that run while others work, as async context managers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

__all__ = ["background", "opened"]


@asynccontextmanager
async def opened(part: Any) -> AsyncIterator[None]:
    """`open` and, whatever happens in between, `close`."""
    try:
        await part.open()
        yield
    finally:
        await part.close()


@asynccontextmanager
async def background(loops: dict[str, Any]) -> AsyncIterator[None]:
    """Run these loops meanwhile, and cancel them at the end."""
    tasks = [asyncio.create_task(work, name=name) for name, work in loops.items()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
