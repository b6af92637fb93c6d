"""Versions in state `building`: built by this platform, by another one that is live, or abandoned.

A platform that builds something holds a lease in the store. A version that another platform builds is left alone while
that one's lease runs; after it, the version is marked failed.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Final

import msgspec

from clipper.contract.manifest import Manifest
from clipper_platform.clock import Clock
from clipper_platform.errors import Conflict, NotFound, StoreUnavailable
from clipper_platform.store.base import MetadataStore, Version

__all__ = ["Builds"]

INTERRUPTED: Final = "the platform ended while this version was being deployed"
# A platform is live for so long after its last renewal: three renewals may fail or be late.
LEASE_S: Final = 15.0
RENEW_PERIOD_S: Final = 4.0


class Builds:
    """`home` names the platform's home directory. Only one platform at a time works in it, so what an earlier instance
    of the same home was building is abandoned, whatever its lease."""

    def __init__(self, store: MetadataStore, clock: Clock, home: str) -> None:
        self._store = store
        self._clock = clock
        self._home = home
        self._instance = f"{home}/{secrets.token_hex(8)}"
        self._own: dict[tuple[str, int], Version] = {}
        self._others: dict[tuple[str, int], Version] = {}  # as they were read last
        self._unsaved: dict[tuple[str, int], Version] = {}  # failed versions, not yet stored
        self._adding: list[str] = []  # projects for which a version is being added
        self._renew_at = 0.0

    async def add(self, manifest: Manifest, environment: str, *, after: int) -> Version:
        """Record a version as built by this platform, under a number above `after`. Raises NotFound,
        StoreUnavailable."""
        project = manifest.project
        self._adding.append(project)
        try:
            await self._renew_lease()
            version = await self._store.add_version(
                Version(
                    project=project,
                    number=0,
                    created_at=self._clock.time(),
                    manifest=manifest.to_dict(),
                    bundle=manifest.bundle,
                    environment=environment,
                    builder=self._instance,
                    id=secrets.token_hex(8),
                ),
                after=after,
            )
            self._own[project, version.number] = version
        finally:
            self._adding.remove(project)
        return version

    def owned(self, project: str) -> list[Version]:
        """Those of the project that this platform builds."""
        return [version for version in self._own.values() if version.project == project]

    def own(self, project: str, number: int) -> Version:
        return self._own[project, number]

    def ready(self, version: Version) -> None:
        """It was stored as ready; until it is `finished` it may still fail."""
        self._own[version.project, version.number] = version

    def finished(self, project: str, number: int) -> None:
        """A route may lead to it from now on, so it stays ready."""
        self._own.pop((project, number), None)

    async def fail(self, project: str, number: int, detail: str) -> None:
        """A version that this platform builds failed; one that is finished stays as it is. Never raises
        StoreUnavailable: what cannot be stored now is stored when the store is back."""
        version = self._own.pop((project, number), None)
        if version is not None:
            try:
                await self._save(msgspec.structs.replace(version, state="failed", detail=detail))
            except StoreUnavailable:
                pass

    async def _save(self, version: Version) -> None:
        key = version.project, version.number
        self._unsaved[key] = version
        try:
            await self._store.update_version(version)
        except (NotFound, Conflict):
            pass  # it was deleted, or changed: by another platform, or by a write of this one that arrived late
        self._unsaved.pop(key, None)

    def note(self, project: str, versions: Iterable[Version]) -> None:
        """The store holds these versions of the project."""
        for version in versions:
            key = project, version.number
            if version.state != "building" or key in self._own or key in self._unsaved:
                self._others.pop(key, None)
            elif version.builder != self._instance or project not in self._adding:
                self._others[key] = version

    def forget(self, project: str) -> None:
        """The project was deleted."""
        for versions in (self._own, self._others, self._unsaved):
            for key in [key for key in versions if key[0] == project]:
                del versions[key]

    async def poll(self) -> None:
        """Renew the lease, store what could not be stored, and mark versions failed whose builder is gone: an earlier
        instance of this home, this one if it did not learn that it added them, or another one whose lease ran out.

        Raises StoreUnavailable.
        """
        await self._renew_lease()
        for version in list(self._unsaved.values()):
            await self._save(version)
        if not self._others:
            return
        live = await self._store.live_instances()
        for key, version in list(self._others.items()):
            if version.builder not in live or version.builder.partition("/")[0] == self._home:
                await self._save(msgspec.structs.replace(version, state="failed", detail=INTERRUPTED))
                self._others.pop(key, None)

    async def renew_lease(self) -> None:
        """Renew it now, where there is one."""
        self._renew_at = 0.0
        await self._renew_lease()

    async def _renew_lease(self) -> None:
        now = self._clock.monotonic()
        if (self._own or self._adding) and now >= self._renew_at:
            await self._store.renew_lease(self._instance, LEASE_S)
            self._renew_at = now + RENEW_PERIOD_S
