"""Compare-and-set writes whose answer may be lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from clipper_platform.errors import StoreUnavailable

__all__ = ["REPEAT_PAUSES_S", "repeated"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Before each repetition: bridges a restart of the store and keeps no caller for long.
REPEAT_PAUSES_S: Final = (0.1, 0.5, 2.0)


async def repeated(write: Callable[[], Awaitable[T]], pauses_s: Sequence[float]) -> T:
    """A compare-and-set, repeated from the same base while its answer is lost: the store accepts it again if it
    arrived, and refuses it if another writer was first. Raises StoreUnavailable where the outcome stays unknown."""
    for pause_s in pauses_s:
        try:
            return await write()
        except StoreUnavailable as error:
            logger.warning("a write to the store is repeated: %s", error)
        await asyncio.sleep(pause_s)
    return await write()
