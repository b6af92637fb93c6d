"""Locks on environments, one file each, between all processes that share their directory.

A process that builds or removes an environment holds its file exclusively; a process that may run replicas in it holds
it shared. The locks are the kernel's (flock): they end with the process, however that ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from clipper_platform.types import EnvironmentId

__all__ = ["EnvironmentLocks"]

# How often a lock that another process holds is tried again.
POLL_S = 0.1


class EnvironmentLocks:
    """`ROOT/<id>.lock` files, for one event loop. Methods raise OSError if the directory cannot be written."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._held: dict[EnvironmentId, int] = {}  # shared locks of this process, as descriptors

    def hold(self, id: EnvironmentId) -> bool:
        """Hold it shared until `release`: no process removes the environment meanwhile. False if a process is
        building or removing it."""
        if id not in self._held:
            descriptor = self._acquire(id, fcntl.LOCK_SH)
            if descriptor is None:
                return False
            self._held[id] = descriptor
        return True

    def release(self, id: EnvironmentId) -> None:
        descriptor = self._held.pop(id, None)
        if descriptor is not None:
            os.close(descriptor)

    def release_others(self, ids: Collection[str]) -> None:
        """Release all that this process holds but `ids`."""
        for id in [id for id in self._held if id not in ids]:
            self.release(id)

    @asynccontextmanager
    async def building(
        self, id: EnvironmentId, on_wait: Callable[[], None], is_built: Callable[[], bool]
    ) -> AsyncIterator[int | None]:
        """Hold it exclusively, as a descriptor that a child may inherit: the lock then lasts as long as the child does.

        `on_wait` is called once if another process holds it. None if that one has built it: it is used from then on.
        """
        self.release(id)
        waited = False
        while (descriptor := self._acquire(id, fcntl.LOCK_EX)) is None:
            if not waited:
                on_wait()
                waited = True
            await asyncio.sleep(POLL_S)
            if is_built():
                yield None
                return
        try:
            yield descriptor
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # also where a daemon that a build started still has it open
        finally:
            os.close(descriptor)

    @contextmanager
    def removing(self, id: EnvironmentId) -> Iterator[bool]:
        """Hold it exclusively and remove the lock's file at the end; False if another process holds it."""
        self.release(id)
        descriptor = self._acquire(id, fcntl.LOCK_EX)
        if descriptor is None:
            yield False
            return
        try:
            yield True
            self._path(id).unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def _path(self, id: EnvironmentId) -> Path:
        return self._root / f"{id}.lock"

    def _acquire(self, id: EnvironmentId, kind: int) -> int | None:
        """The descriptor of the locked file, or None if it is locked otherwise."""
        while True:
            descriptor = os.open(self._path(id), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                # Between the two calls another process may have removed the file with the environment.
                if self._is_current(id, descriptor):
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                return None
            os.close(descriptor)

    def _is_current(self, id: EnvironmentId, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.stat(self._path(id)), os.fstat(descriptor))
        except FileNotFoundError:
            return False
