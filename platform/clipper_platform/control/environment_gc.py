"""Removes the environments that no version refers to and no replica runs in."""

from __future__ import annotations

import logging
from collections.abc import Callable

from clipper_platform.clock import Clock
from clipper_platform.control.holding import Freed, Holding
from clipper_platform.core.retention import EnvironmentFacts, unused_environments
from clipper_platform.environments.base import EnvironmentBuilder
from clipper_platform.metrics import Metrics
from clipper_platform.types import EnvironmentId

__all__ = ["EnvironmentGarbageCollector"]

logger = logging.getLogger(__name__)


class EnvironmentGarbageCollector:
    """`wanted()` are the environments that a version, a running deploy or a replica refers to.

    An unused environment stays for `grace_s` seconds, so that a project that is deployed again starts fast, unless all
    environments together take more than `max_bytes`.
    """

    def __init__(
        self,
        environments: EnvironmentBuilder,
        wanted: Callable[[], set[str]],
        *,
        grace_s: float,
        max_bytes: int,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._environments = environments
        self._wanted = wanted
        self._grace_s = grace_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._metrics = metrics

    async def holding(self) -> Holding:
        stored = await self._stored()
        unused = self._unused(stored, at_once=True)
        return Holding(count=len(stored), bytes=_bytes(stored), unused_count=len(unused), unused_bytes=_bytes(unused))

    async def collect(self, *, at_once: bool = False) -> Freed:
        stored = await self._stored()
        removed = []
        for environment in self._unused(stored, at_once=at_once):
            id = EnvironmentId(environment.id)
            # A deploy may have asked for it meanwhile. One that another platform uses or builds is not removed.
            if id not in self._wanted() and await self._environments.remove(id):
                removed.append(environment)
        if removed:
            logger.info("removed %d unused environments, %d bytes", len(removed), _bytes(removed))
            self._metrics.environments_removed.child().inc(len(removed))
            self._measured([environment for environment in stored if environment not in removed])
        return Freed(count=len(removed), bytes=_bytes(removed))

    async def _stored(self) -> list[EnvironmentFacts]:
        self._environments.retain({EnvironmentId(id) for id in self._wanted()})
        stored = await self._environments.stored()
        self._measured(stored)
        return stored

    def _measured(self, stored: list[EnvironmentFacts]) -> None:
        self._metrics.environments.child().set(len(stored))
        self._metrics.environments_bytes.child().set(_bytes(stored))

    def _unused(self, stored: list[EnvironmentFacts], *, at_once: bool) -> list[EnvironmentFacts]:
        return unused_environments(
            stored,
            wanted=self._wanted(),
            now=self._clock.time(),
            grace_s=0.0 if at_once else self._grace_s,
            max_bytes=self._max_bytes,
        )


def _bytes(environments: list[EnvironmentFacts]) -> int:
    return sum(environment.bytes for environment in environments)
