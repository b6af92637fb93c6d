"""Metadata in this process only: for tests of the layers above, and the model that the other stores are held to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from clipper_platform.errors import StoreUnavailable
from clipper_platform.store import records
from clipper_platform.store.base import EVENTS_KEPT, Event, Key, Policy, Project, Route, Version

__all__ = ["MemoryStore"]


@dataclass(slots=True)
class _Stored:
    """One project and everything under it."""

    project: Project
    versions: dict[int, Version] = field(default_factory=dict)
    route: Route | None = None
    secrets: dict[str, str] = field(default_factory=dict)
    policies: dict[str, Policy] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)


class MemoryStore:
    """Lives as long as the object. For one event loop: no method awaits, so each is atomic.

    `outage`, when not empty, makes every method raise StoreUnavailable with these words, as a store that went away.
    """

    def __init__(self) -> None:
        self.outage = ""
        self._projects: dict[str, _Stored] = {}
        self._keys: dict[str, Key] = {}
        # Outlive the project: numbers are never given out again.
        self._last_version: defaultdict[str, int] = defaultdict(int)
        self._last_event: defaultdict[str, int] = defaultdict(int)

    @property
    def url(self) -> str:
        return "memory://"

    async def open(self) -> None:
        self._check()

    async def close(self) -> None:
        pass

    async def ping(self) -> None:
        self._check()

    def _check(self) -> None:
        if self.outage:
            raise StoreUnavailable(self.outage)

    def _under(self, project: str) -> _Stored:
        self._check()
        try:
            return self._projects[project]
        except KeyError:
            raise records.no_project(project) from None

    # Projects

    async def put_project(self, project: Project) -> Project:
        self._check()
        return self._projects.setdefault(project.name, _Stored(records.storable(project))).project

    async def get_project(self, name: str) -> Project:
        return self._under(name).project

    async def list_projects(self) -> list[Project]:
        self._check()
        return [self._projects[name].project for name in sorted(self._projects)]

    async def delete_project(self, name: str) -> None:
        self._under(name)
        del self._projects[name]

    # Versions

    async def add_version(self, version: Version) -> Version:
        versions = self._under(version.project).versions
        number = self._last_version[version.project] + 1
        versions[number] = records.storable(records.numbered(version, number))
        self._last_version[version.project] = number
        return records.storable(versions[number])

    async def get_version(self, project: str, number: int) -> Version:
        try:
            return records.storable(self._under(project).versions[number])
        except KeyError:
            raise records.no_version(project, number) from None

    async def list_versions(self, project: str) -> list[Version]:
        versions = self._under(project).versions
        return [records.storable(versions[number]) for number in sorted(versions, reverse=True)]

    async def update_version(
        self, project: str, number: int, *, state: str, detail: str = "", schemas: dict[str, Any] | None = None
    ) -> Version:
        old = await self.get_version(project, number)
        new = records.revised(old, state=state, detail=detail, schemas=schemas)
        self._projects[project].versions[number] = new
        return records.storable(new)

    # Routes

    async def get_route(self, project: str) -> Route | None:
        self._check()
        stored = self._projects.get(project)
        return stored.route if stored else None

    async def list_routes(self) -> list[Route]:
        self._check()
        return [stored.route for _, stored in sorted(self._projects.items()) if stored.route]

    async def set_route(self, route: Route, *, expected_revision: int) -> Route:
        stored = self._under(route.project)
        if route.version not in stored.versions:
            raise records.no_version(route.project, route.version)
        if (stored.route.revision if stored.route else 0) != expected_revision:
            raise records.lost_race(route.project)
        stored.route = records.routed(route, expected_revision)
        return stored.route

    # Keys

    async def put_key(self, key: Key) -> None:
        self._check()
        if self._keys.setdefault(key.id, records.storable(key)) != key:
            raise records.key_taken(key.id)

    async def list_keys(self) -> list[Key]:
        self._check()
        return sorted(self._keys.values(), key=lambda key: (key.created_at, key.id))

    async def revoke_key(self, key_id: str, at: float) -> Key:
        self._check()
        if key_id not in self._keys:
            raise records.no_key(key_id)
        self._keys[key_id] = records.revoked(self._keys[key_id], at)
        return self._keys[key_id]

    # Secrets

    async def put_secret(self, project: str, name: str, value: str) -> None:
        try:
            (name + value).encode()
        except UnicodeEncodeError as error:
            raise records.not_unicode(error) from error
        self._under(project).secrets[name] = value

    async def list_secrets(self, project: str) -> list[str]:
        return sorted(self._under(project).secrets)

    async def get_secrets(self, project: str) -> dict[str, str]:
        return dict(self._under(project).secrets)

    async def delete_secret(self, project: str, name: str) -> None:
        if self._under(project).secrets.pop(name, None) is None:
            raise records.no_secret(project, name)

    # Policies

    async def put_policy(self, policy: Policy) -> None:
        self._under(policy.project).policies[policy.function] = records.storable(policy)

    async def list_policies(self) -> list[Policy]:
        self._check()
        kept = [policy for stored in self._projects.values() for policy in stored.policies.values()]
        return [records.storable(policy) for policy in sorted(kept, key=lambda p: (p.project, p.function))]

    async def delete_policy(self, project: str, function: str) -> None:
        if self._under(project).policies.pop(function, None) is None:
            raise records.no_policy(project, function)

    # Events

    async def add_event(self, event: Event) -> Event:
        events = self._under(event.project).events
        seq = self._last_event[event.project] + 1
        events.append(records.storable(msgspec.structs.replace(event, seq=seq)))
        self._last_event[event.project] = seq
        del events[:-EVENTS_KEPT]
        return records.storable(events[-1])

    async def list_events(self, project: str, *, after: int = 0, limit: int = 100) -> Sequence[Event]:
        events = self._under(project).events
        after, limit = records.event_window(after, limit)
        later = [event for event in events if event.seq > after]
        window = later[:limit] if after else later[max(len(later) - limit, 0) :]
        return [records.storable(event) for event in window]
