"""Writes back what the platform knows when the store has lost data.

What serves calls is in memory: projects, the version that answers and the one before it, routes, keys, applied policies
and the secrets that replicas were started with. Each record that the store does not hold in the same or a later
revision is stored again as it was, so what other platforms wrote meanwhile stays. Earlier versions, events, and secrets
that no replica was started with are in the store alone: they are lost, and the projects' events and the log say so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from clipper_platform.clock import Clock
from clipper_platform.control.access.keyring import Keyring
from clipper_platform.control.access.secrets import ProjectSecrets
from clipper_platform.control.events import EventLog
from clipper_platform.control.registry import Registry
from clipper_platform.control.scaling.policies import Policies
from clipper_platform.control.store_loss import Loss, vanished
from clipper_platform.errors import NotFound, StoreUnavailable
from clipper_platform.store.base import Changes, Record, RecoverableStore, Version

__all__ = ["Recovery"]

logger = logging.getLogger(__name__)

AT_ONCE: Final = 64  # projects; most of the time goes into round trips
# A platform that has not reached the store for longer knows too little: another one may have deleted what it knows.
MAX_AWAY_S: Final = 60.0
NOTICE_S: Final = 3600.0


class Recovery:
    """`recover` is for `StoreWatch.on_loss`."""

    def __init__(
        self,
        store: RecoverableStore,
        *,
        registry: Registry,
        keyring: Keyring,
        policies: Policies,
        secrets: ProjectSecrets,
        events: EventLog,
        clock: Clock,
        others: Callable[[], Iterable[Record]] = tuple,
    ) -> None:
        """`others`: records that are under no project."""
        self._store = store
        self._registry = registry
        self._keyring = keyring
        self._policies = policies
        self._secrets = secrets
        self._events = events
        self._clock = clock
        self._others = others
        self._lost_at: float | None = None

    def notice(self) -> str:
        """What was lost, for an hour; empty otherwise."""
        if self._lost_at is None or self._clock.monotonic() - self._lost_at >= NOTICE_S:
            return ""
        return (
            "it lost data; projects, routes, keys, policies and the secrets in use were written back, but earlier "
            "versions and events are gone, and secrets may be: see the events of each project"
        )

    async def recover(self, what: Loss, seen: Changes, away_s: float) -> frozenset[str]:
        """The projects to read again. Raises StoreUnavailable."""
        if what is Loss.FOREIGN:
            raise StoreUnavailable(
                f"{self._store.url} holds the data of other platforms, not what this one works with: bring its data "
                "back, or restart the platform to work with what is there"
            )
        await self._store.accept(seen.lineage)
        names = frozenset(project.name for project in self._registry.projects())
        if what is Loss.WRITTEN_BACK and away_s > MAX_AWAY_S:
            return names
        await self._registry.builds.renew_lease()
        all_lost = what in (Loss.EMPTY, Loss.WRITTEN_BACK)
        written = await self._put_back(sorted(names), secrets=all_lost)
        keys = await self._put([*self._keyring.list(), *self._others()])
        if written or keys:
            self._lost_at = self._clock.monotonic()
            logger.error(
                "the store %s: %d records of %d projects and %d others were written back",
                what.value, sum(written.values()), len(written), keys,
            )  # fmt: skip
        for project in written:
            gone = self._gone(project) if all_lost else ""
            self._events.record(project, "store", f"the store {what.value}: what was missing was written back{gone}")
        return names

    async def mend(self, name: str) -> None:
        """Write back what the store lost of one project, if it did: see `vanished`. Raises StoreUnavailable."""
        try:
            project = await self._store.get_project(name)
            versions = await self._store.list_versions(name)
            route = await self._store.get_route(name)
        except NotFound:
            return
        if not self._registry.has(name) or not vanished(self._registry.known(name), project, versions, route):
            return
        if count := (await self._put_back([name], secrets=False)).get(name, 0):
            self._lost_at = self._clock.monotonic()
            logger.error("the store lost a part of a project: %d records were written back", count)
            self._events.record(
                name, "store", f"the store lost a part of the project: {count} records were written back"
            )

    async def _put_back(self, names: list[str], *, secrets: bool) -> dict[str, int]:
        """How many records of which projects were missing. Secrets have no revision: one that is missing where not all
        is lost may have been deleted by another platform."""

        async def one(name: str) -> int:
            count = await self._put([*self._registry.known(name), *self._policies.records(name)])
            known = self._secrets.known(name)
            return count + (len(await self._store.put_back_secrets(name, known)) if secrets and known else 0)

        written: dict[str, int] = {}
        for first in range(0, len(names), AT_ONCE):
            some = names[first : first + AT_ONCE]
            counts = await asyncio.gather(*map(one, some))
            written |= {name: count for name, count in zip(some, counts, strict=True) if count}
        return written

    async def _put(self, records: Iterable[Record]) -> int:
        count = 0
        for record in records:
            count += await self._store.put_back(record)
        return count

    def _gone(self, project: str) -> str:
        """What of a project could not be written back, in words."""
        kept = sorted({record.number for record in self._registry.known(project) if isinstance(record, Version)})
        secrets = self._secrets.known(project)
        if secrets is None:
            words = f"secrets that it had are lost: `clip secret set {project} NAME`"
        elif secrets:
            words = f"the secrets {', '.join(sorted(secrets))} are those that were read last"
        else:
            words = "it is not known to have secrets"
        return f"; of its versions there are {', '.join(map(str, kept)) or 'none'}, earlier events are gone, {words}"
