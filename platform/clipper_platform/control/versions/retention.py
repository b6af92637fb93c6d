"""Removes old versions of a project beyond `keep_versions`, and the bundles that only they referred to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

import msgspec

from clipper_platform.control.events import EventLog
from clipper_platform.control.holding import Freed, Holding
from clipper_platform.control.ports import Artifacts
from clipper_platform.control.registry import Registry
from clipper_platform.core.retention import VersionFacts, expired_versions
from clipper_platform.errors import Conflict, NotFound
from clipper_platform.store.base import Version

__all__ = ["VersionRetention"]

logger = logging.getLogger(__name__)


class VersionRetention:
    """`in_use(project)` are the versions that run or are being started. `changing(project)`: whether a deploy, a
    rollback or another change of the project is under way; its versions are left alone meanwhile.

    The version goes first, then its bundle: a crash in between leaves a bundle without a version, which a later bundle
    garbage collection removes.
    """

    def __init__(
        self,
        registry: Registry,
        artifacts: Artifacts,
        events: EventLog,
        *,
        in_use: Callable[[str], Collection[int]],
        changing: Callable[[str], bool],
    ) -> None:
        self._registry = registry
        self._artifacts = artifacts
        self._events = events
        self._in_use = in_use
        self._changing = changing

    async def holding(self) -> Holding:
        count = total = unused_count = unused_bytes = 0
        for project in self._projects():
            versions = await self._stored(project)
            expired = self._expired(project, versions)
            count, total = count + len(versions), total + _bytes(versions)
            unused_count, unused_bytes = unused_count + len(expired), unused_bytes + _bytes(expired)
        return Holding(count=count, bytes=total, unused_count=unused_count, unused_bytes=unused_bytes)

    async def collect(self, *, at_once: bool = False) -> Freed:
        """Remove what the projects do not keep. Their bundles are left to the bundle garbage collector."""
        removed = [version for name in self._projects() for version in await self._remove_expired(name)]
        return Freed(count=len(removed), bytes=_bytes(removed))

    async def collect_project(self, project: str) -> None:
        """Remove what the project does not keep, with the bundles. Raises StoreUnavailable."""
        if self._registry.has(project):
            await self._discard_bundles(await self._remove_expired(project))

    def _projects(self) -> list[str]:
        return [project.name for project in self._registry.projects()]

    async def _stored(self, project: str) -> list[Version]:
        try:
            return await self._registry.versions(project)
        except NotFound:
            return []  # deleted meanwhile

    async def _remove_expired(self, project: str) -> list[Version]:
        """The versions removed, oldest first."""
        if not self._may_have_expired(project):
            return []
        removed = []
        for version in self._expired(project, await self._stored(project)):
            if self._changing(project) or version.number in self._needed(project):
                continue
            try:
                await self._registry.delete_version(version)
            except Conflict as error:
                logger.info("a version is kept: %s", error, extra={"project": project})
                continue
            removed.append(version)
        if removed:
            self._report(project, removed)
        return removed

    def _expired(self, project: str, versions: Sequence[Version]) -> list[Version]:
        """Those of the project's versions that are not kept, oldest first."""
        needed = self._needed(project)
        facts = (
            VersionFacts(
                number=version.number,
                failed=version.state == "failed",
                needed=version.number in needed or version.state == "building",
            )
            for version in versions
        )
        expired = set(expired_versions(facts, self._registry.keep_versions(project)))
        return [version for version in reversed(versions) if version.number in expired]

    def _may_have_expired(self, project: str) -> bool:
        """Whether it is worth to read the project's versions from the store."""
        known = self._registry.references.of(project)
        return not self._changing(project) and len(known) > self._registry.keep_versions(project)

    def _needed(self, project: str) -> set[int]:
        found = self._registry.current(project) or self._registry.unusable(project)
        routed = {found.route.version, found.route.previous or 0} if found else set[int]()
        return routed | set(self._in_use(project))

    async def _discard_bundles(self, removed: Sequence[Version]) -> None:
        """Without the time that bundle garbage collection leaves to an upload whose deploy is not recorded yet: a
        bundle that was last asked for before its newest version was recorded is in no such upload."""
        newest = {version.bundle: version.created_at for version in removed}  # oldest first
        for digest in newest.keys() - self._registry.references.bundles():
            await self._artifacts.discard(digest, asked_before=newest[digest])

    def _report(self, project: str, removed: Sequence[Version]) -> None:
        keep = self._registry.keep_versions(project)
        numbers = ", ".join(str(version.number) for version in removed)
        message = f"removed version {numbers}: the project keeps its newest {keep}"
        self._events.record(project, "retention", message, data={"versions": [v.number for v in removed]})
        logger.info("%s", message, extra={"project": project})


def _bytes(versions: Sequence[Version]) -> int:
    """Of their records in the store."""
    return sum(len(msgspec.json.encode(version)) for version in versions)
