"""Frees what nothing needs any longer, in the background and on request: versions, bundles, environments and logs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Final

from clipper_platform.control.holding import Collector, Freed, Holding
from clipper_platform.control.versions.retention import VersionRetention
from clipper_platform.errors import ClipperError

__all__ = ["Storage", "period_s"]

logger = logging.getLogger(__name__)

ROUND_S: Final = 600.0
FIRST_ROUND_S: Final = 60.0  # after the start of the platform, which it does not slow down then
MIN_ROUND_S: Final = 1.0


def period_s(environment_grace_s: float) -> float:
    """The time between two rounds: no environment stays longer than its grace and a quarter of it."""
    return min(ROUND_S, max(MIN_ROUND_S, environment_grace_s / 4))


class Storage:
    """`collectors` by kind, in the order in which they free: what versions refer to comes after the versions."""

    def __init__(
        self, versions: VersionRetention, others: Mapping[str, Collector], *, round_s: float = ROUND_S
    ) -> None:
        self._versions = versions
        self._collectors: dict[str, Collector] = {"versions": versions, **others}
        self._round_s = round_s
        self._changed: dict[str, None] = {}  # projects, in the order of their changes
        self._wake = asyncio.Event()
        self._collecting = asyncio.Lock()

    def ask(self, project: str) -> None:
        """Another version of the project is current: soon remove those that it does not keep."""
        self._changed[project] = None
        self._wake.set()

    async def run(self) -> None:
        """Collect old versions of projects that changed, and all that is unused once per round, for ever."""
        loop = asyncio.get_running_loop()
        next_round = loop.time() + min(self._round_s, FIRST_ROUND_S)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_round):
                    await self._wake.wait()
            await self.collect_changed()
            if loop.time() >= next_round:
                await self.collect()
                next_round = loop.time() + self._round_s

    async def collect_changed(self) -> None:
        """Remove old versions of the projects that `ask` named."""
        self._wake.clear()
        changed, self._changed = self._changed, {}
        async with self._collecting:
            for project in changed:
                with _logged(f"old versions of {project}"):
                    await self._versions.collect_project(project)

    async def collect(self, *, at_once: bool = False) -> dict[str, Freed]:
        """Free what is unused of each kind. What cannot be freed now is logged, and freed by a later round."""
        freed = {}
        async with self._collecting:
            for kind, collector in self._collectors.items():
                freed[kind] = Freed()
                with _logged(f"unused {kind}"):
                    freed[kind] = await collector.collect(at_once=at_once)
        return freed

    async def holdings(self) -> dict[str, Holding]:
        """What each kind takes up. Raises StoreUnavailable."""
        return {kind: await collector.holding() for kind, collector in self._collectors.items()}


@contextlib.contextmanager
def _logged(what: str) -> Iterator[None]:
    """Log what keeps `what` from being removed, and go on."""
    try:
        yield
    except (ClipperError, OSError) as error:
        logger.warning("%s were not removed: %s", what, error)
    except Exception:
        logger.exception("removing %s met a defect", what)
