"""An environment's directory: its removal, and work on it in threads."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from clipper_platform.environments.completion import COMPLETE

__all__ = ["in_thread", "remove_directory", "remove_tree"]


def remove_tree(path: Path) -> None:
    """Removes the marker first, so that an interrupted removal leaves an incomplete environment."""
    (path / COMPLETE).unlink(missing_ok=True)
    if path.exists():
        remove_directory(path)


def remove_directory(path: Path) -> None:
    """Also one with directories that their owner cannot enter, as overlays and packages make them."""
    for directory, names, _ in os.walk(path):
        for name in names:
            below = os.path.join(directory, name)
            if not os.path.islink(below):
                os.chmod(below, 0o700)
    shutil.rmtree(path)


async def in_thread(function: Callable[[], None]) -> None:
    """Runs it in a thread and waits for its end, also while cancelled: two must not work on one directory."""
    work = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
