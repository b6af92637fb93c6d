"""The idle times of all functions: in memory across deploys, and in a file across restarts.

The file is a cache: where it is missing or cannot be read, the idle times are counted anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import zlib
from pathlib import Path
from typing import Final

import msgspec

from clipper_platform.core.keepalive import IdleTimes

__all__ = ["IdleHistory"]

logger = logging.getLogger(__name__)

MOST_FUNCTIONS: Final = 20_000  # 200 bytes each; the least recently requested one is dropped
MAX_BYTES: Final = 16 * 1024 * 1024  # of the file's content: 20,000 functions with the longest names
SAVE_PERIOD_S: Final = 300.0  # a `kill -9` loses at most the counts of this time
_HEAD: Final = b"clip idle times 1\n"


class IdleHistory:
    """Idle times by "project/function". `path`: the file, or None to keep them in memory only.

    All methods are called in the event loop; the file is read and written in a thread.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._times: dict[str, IdleTimes] = {}
        self._saved: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._times)

    def of(self, function: str) -> IdleTimes:
        """The function's idle times, which its versions share and count in."""
        times = self._times.pop(function, None)
        if times is None:
            times = IdleTimes()
            while len(self._times) >= MOST_FUNCTIONS:
                del self._times[next(iter(self._times))]
        self._times[function] = times
        return times

    def forget(self, project: str) -> None:
        """Drop the idle times of a project that was deleted."""
        for function in [name for name in self._times if name.partition("/")[0] == project]:
            del self._times[function]

    async def open(self) -> None:
        """Read the file. An unreadable one is logged and ignored."""
        if self._path is None:
            return
        try:
            self._saved = await asyncio.to_thread(_read, self._path)
            self._times = {name: IdleTimes.restored(stored) for name, stored in self._saved.items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, zlib.error, msgspec.MsgspecError) as error:
            logger.warning("the idle times in %s are ignored and counted anew: %s", self._path, error)
            self._saved = {}

    async def run(self) -> None:
        """Write the file every `SAVE_PERIOD_S`, for ever."""
        while True:
            await asyncio.sleep(SAVE_PERIOD_S)
            await self.save()

    async def save(self) -> None:
        """Write the file where a count changed since the last write. A failure is logged."""
        if self._path is None:
            return
        known = {name: times.stored() for name, times in self._times.items() if times.total}
        if known == self._saved:
            return
        try:
            await asyncio.to_thread(_write, self._path, known)
        except OSError as error:
            logger.warning("the idle times could not be written to %s: %s", self._path, error)
            return
        self._saved = known

    async def close(self) -> None:
        await self.save()


def _read(path: Path) -> dict[str, bytes]:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if not data.startswith(_HEAD) or len(data) > MAX_BYTES:
        raise ValueError("the file is of another kind")
    unpacking = zlib.decompressobj()
    content = unpacking.decompress(data[len(_HEAD) :], MAX_BYTES)
    if not unpacking.eof:
        raise ValueError("the file is cut short, or too long")
    found = msgspec.msgpack.decode(content, type=dict[str, bytes])
    if len(found) > MOST_FUNCTIONS:
        raise ValueError(f"it has {len(found)} functions, above the limit of {MOST_FUNCTIONS}")
    return found


def _write(path: Path, known: dict[str, bytes]) -> None:
    """Replaces the file atomically: a crash or a power failure leaves the old one or the new one."""
    data = _HEAD + zlib.compress(msgspec.msgpack.encode(known), 1)
    temporary = path.with_name(path.name + ".new")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
