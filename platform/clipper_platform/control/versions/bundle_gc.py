"""Removes the bundles that no version refers to."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from clipper_platform.clock import Clock
from clipper_platform.control.holding import Freed, Holding
from clipper_platform.control.ports import Artifacts

__all__ = ["BundleGarbageCollector"]

logger = logging.getLogger(__name__)

# A bundle without a version may be one whose deploy is not recorded yet: its environment is being built.
GRACE_S: Final = 3600.0
# Between the upload of a bundle and the request that deploys it, after which the running deploy refers to it.
UPLOAD_GRACE_S: Final = 10.0


class BundleGarbageCollector:
    """`wanted()` are the digests of the bundles that a version, a running deploy or a replica refers to."""

    def __init__(self, artifacts: Artifacts, wanted: Callable[[], set[str]], clock: Clock) -> None:
        self._artifacts = artifacts
        self._wanted = wanted
        self._clock = clock

    async def holding(self) -> Holding:
        sizes, wanted = await self._artifacts.sizes(), self._wanted()
        newest = self._clock.time() - UPLOAD_GRACE_S
        used_at = {bundle.digest: bundle.used_at for bundle in await self._artifacts.list()}
        unused = [sizes.get(digest, 0) for digest, at in used_at.items() if digest not in wanted and at <= newest]
        return Holding(count=len(sizes), bytes=sum(sizes.values()), unused_count=len(unused), unused_bytes=sum(unused))

    async def collect(self, *, at_once: bool = False) -> Freed:
        """Raises StoreUnavailable."""
        sizes = await self._artifacts.sizes() if at_once else {}
        removed = await self._artifacts.collect(self._wanted(), min_age_s=UPLOAD_GRACE_S if at_once else GRACE_S)
        if removed:
            logger.info("removed %d bundles that nothing refers to", len(removed))
        return Freed(count=len(removed), bytes=sum(sizes.get(bundle.digest, bundle.bytes) for bundle in removed))
