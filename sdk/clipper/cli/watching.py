"""Detects saved files of a project by polling.

Polling needs no package, works on every file system, and sees exactly the files that a bundle would hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from clipper.packaging import file_stamps

__all__ = ["Watcher", "differences"]

PERIOD_S: Final = 0.2
# Editors write a file in several steps, and several files one after the other.
SETTLE_S: Final = 0.05
# Reading a large tree takes long: polling may take a fifth of the time.
MAX_SHARE: Final = 0.2

Stamps = Mapping[str, tuple[int, int]]


def differences(before: Stamps, after: Stamps) -> list[str]:
    """Paths that were added, changed or removed, sorted."""
    return sorted(path for path in {*before, *after} if before.get(path) != after.get(path))


class Watcher:
    """Call `take`, deploy, then wait for `changed`. Both raise SpecError for a tree that cannot be bundled."""

    def __init__(
        self,
        directory: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        look: Callable[[Path], Stamps | None] = file_stamps,
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._sleep = sleep
        self._look = look
        self._seen: Stamps = {}

    def take(self) -> None:
        """Remember the files as they are: `changed` compares with them."""
        self._seen = self._settled()[0]

    def changed(self) -> list[str]:
        """Wait until files differ from those seen last and are stable; their paths."""
        while True:
            now, cost_s = self._settled()
            if paths := differences(self._seen, now):
                self._seen = now
                return paths
            self._sleep(max(PERIOD_S, cost_s / MAX_SHARE))

    def _settled(self) -> tuple[Stamps, float]:
        """The files when two reads of a change agree, and what a read costs in seconds."""
        while True:
            began = self._clock()
            first = self._look(self._directory)
            cost_s = self._clock() - began
            if first is not None and first == self._seen:
                return first, cost_s
            self._sleep(SETTLE_S)
            if first is not None and first == self._look(self._directory):
                return first, cost_s
