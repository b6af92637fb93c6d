"""Metadata in this process only: for tests of the layers above, and the model that the other stores are held to."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from clipper_platform.clock import Clock, SystemClock
from clipper_platform.errors import StoreUnavailable
from clipper_platform.store import records
from clipper_platform.store.base import (
    EVENTS_KEPT,
    Application,
    Changes,
    Event,
    Key,
    Policy,
    Project,
    Record,
    Route,
    Version,
)
from tests.support.memory_applications import MemoryApplicationData

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
    """Lives as long as the object. For one event loop: no method that writes awaits, so each is atomic. Platforms that
    hold the same object share it as they would share a Redis server.

    `outage`, when not empty, makes every method raise StoreUnavailable with this message, like a store that went away.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.outage = ""
        self.run = "1"  # of the server that holds the data
        self._clock = clock or SystemClock()
        self._known = ""  # the id that `accept` found
        self.lose()
        self._known = self._lineage[0]

    def lose(self) -> None:
        """Lose all data, as a server without a disk does when it starts again."""
        self._lineage: tuple[str, ...] = () if self._known else ("1",)
        self._revision = 0
        self._changed: dict[
            str, int
        ] = {}  # project, or "/keys", "/policies", "/applications" -> revision of its last change
        self._published = asyncio.Event()
        self._leases: dict[str, float] = {}  # instance -> when its lease ends
        self._projects: dict[str, _Stored] = {}
        self._keys: dict[str, Key] = {}
        self._applications: dict[str, Application] = {}
        self.application_data = MemoryApplicationData(self._check, self._applications)
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

    async def changes(self, since: int) -> Changes:
        if self.outage:
            raise StoreUnavailable(self.outage)
        after = since if since <= self._revision else 0
        changed = {what for what, revision in self._changed.items() if revision > after}
        return Changes(
            revision=self._revision,
            lineage=self._lineage,
            server=self.run,
            holds=frozenset({"projects"} if self._projects else {}),
            projects=frozenset(changed - {"/keys", "/policies", "/applications"}),
            keys="/keys" in changed,
            policies="/policies" in changed,
            applications="/applications" in changed,
        )

    async def wait_changed(self, timeout_s: float) -> None:
        published = self._published
        try:
            async with asyncio.timeout(timeout_s):
                await published.wait()
        except TimeoutError:
            pass

    def _bump(self, what: str) -> None:
        self._revision += 1
        self._changed[what] = self._revision
        published, self._published = self._published, asyncio.Event()
        published.set()

    async def renew_lease(self, instance: str, ttl_s: float) -> None:
        self._check()
        self._leases[instance] = self._clock.monotonic() + ttl_s

    async def live_instances(self) -> set[str]:
        self._check()
        now = self._clock.monotonic()
        return {instance for instance, ends in self._leases.items() if ends > now}

    def _check(self) -> None:
        if self.outage:
            raise StoreUnavailable(self.outage)
        if self._lineage[:1] != (self._known,):
            raise StoreUnavailable("the store lost its data")

    async def accept(self, lost: Sequence[str]) -> tuple[str, ...]:
        if not self._lineage:
            self._lineage = (f"{int(lost[0]) + 1 if lost else 1}", *lost)
        self._known = self._lineage[0]
        return self._lineage

    async def put_back(self, record: Record) -> bool:
        self._check()
        stored = None if isinstance(record, (Project, Key, Application)) else self._projects.get(record.project)
        match record:
            case Project(name=name):
                if name in self._projects:
                    return False
                self._projects[name] = _Stored(record)
                self._bump(name)
                return True
            case Key(id=id):
                if not records.is_newer(record, self._keys.get(id)):
                    return False
                self._keys[id] = record
                self._bump("/keys")
                return True
            case Application(name=name):
                if not records.is_newer(record, self._applications.get(name)):
                    return False
                self._applications[name] = record
                self._bump("/applications")
                return True
            case _ if stored is None:
                return False
            case Version(number=number):
                if not records.is_newer(record, stored.versions.get(number)):
                    return False
                stored.versions[number] = record
                self._last_version[record.project] = max(number, self._last_version[record.project])
                self._bump(record.project)
            case Route(version=number):
                if number not in stored.versions or not records.is_newer(record, stored.route):
                    return False
                stored.route = record
                self._bump(record.project)
            case Policy(function=function):
                if not records.is_newer(record, stored.policies.get(function)):
                    return False
                stored.policies[function] = record
                self._bump("/policies")
        return True

    async def put_back_secrets(self, project: str, secrets: Mapping[str, str]) -> frozenset[str]:
        self._check()
        stored = self._projects[project].secrets if project in self._projects else dict(secrets)
        missing = {name: value for name, value in secrets.items() if name not in stored}
        stored |= missing
        return frozenset(missing)

    def _under(self, project: str) -> _Stored:
        self._check()
        try:
            return self._projects[project]
        except KeyError:
            raise records.no_project(project) from None

    # Projects

    async def put_project(self, project: Project) -> Project:
        self._check()
        if project.name not in self._projects:
            self._projects[project.name] = _Stored(records.storable(project))
            self._bump(project.name)
        return self._projects[project.name].project

    async def get_project(self, name: str) -> Project:
        return self._under(name).project

    async def list_projects(self) -> list[Project]:
        self._check()
        return [self._projects[name].project for name in sorted(self._projects)]

    async def delete_project(self, project: Project) -> None:
        if self._under(project.name).project != project:
            raise records.changed(project)
        del self._projects[project.name]
        self._bump(project.name)
        self._bump("/policies")

    # Versions

    async def add_version(self, version: Version, *, after: int = 0) -> Version:
        versions = self._under(version.project).versions
        number = max(self._last_version[version.project], after) + 1
        versions[number] = records.storable(records.numbered(version, number))
        self._last_version[version.project] = number
        self._bump(version.project)
        return records.storable(versions[number])

    async def get_version(self, project: str, number: int) -> Version:
        try:
            return records.storable(self._under(project).versions[number])
        except KeyError:
            raise records.no_version(project, number) from None

    async def list_versions(self, project: str) -> list[Version]:
        versions = self._under(project).versions
        return [records.storable(versions[number]) for number in sorted(versions, reverse=True)]

    async def update_version(self, version: Version) -> Version:
        old = await self.get_version(version.project, version.number)
        new = records.successor(version, old)
        self._projects[version.project].versions[version.number] = new
        self._bump(version.project)
        return records.storable(new)

    async def delete_version(self, version: Version) -> None:
        stored = self._under(version.project)
        records.check_deletable(
            version, stored=await self.get_version(version.project, version.number), route=stored.route
        )
        del stored.versions[version.number]
        self._bump(version.project)

    # Routes

    async def get_route(self, project: str) -> Route | None:
        self._check()
        stored = self._projects.get(project)
        return stored.route if stored else None

    async def list_routes(self) -> list[Route]:
        self._check()
        return [stored.route for _, stored in sorted(self._projects.items()) if stored.route]

    async def set_route(self, route: Route) -> Route:
        stored = self._under(route.project)
        if route.version not in stored.versions:
            raise records.no_version(route.project, route.version)
        stored.route = records.successor(route, stored.route)
        self._bump(route.project)
        return stored.route

    # Keys

    async def put_key(self, key: Key) -> Key:
        self._check()
        self._keys[key.id] = records.successor(key, self._keys.get(key.id))
        self._bump("/keys")
        return self._keys[key.id]

    async def list_keys(self) -> list[Key]:
        self._check()
        return sorted(self._keys.values(), key=lambda key: (key.created_at, key.id))

    # Secrets

    async def set_secret(self, project: str, name: str, value: str | None, *, expected: str | None) -> None:
        secrets = self._under(project).secrets
        if not records.next_secret(name, value, expected=expected, stored=secrets.get(name)):
            return
        if value is None:
            del secrets[name]
        else:
            secrets[name] = value

    async def get_secrets(self, project: str) -> dict[str, str]:
        return dict(sorted(self._under(project).secrets.items()))

    # Policies

    async def put_policy(self, policy: Policy) -> Policy:
        policies = self._under(policy.project).policies
        new = policies[policy.function] = records.successor(policy, policies.get(policy.function))
        self._bump("/policies")
        return records.storable(new)

    async def list_policies(self) -> list[Policy]:
        self._check()
        kept = [policy for stored in self._projects.values() for policy in stored.policies.values()]
        return [records.storable(policy) for policy in sorted(kept, key=lambda p: (p.project, p.function))]

    async def delete_policy(self, policy: Policy) -> None:
        policies = self._under(policy.project).policies
        stored = policies.get(policy.function)
        if stored is None:
            raise records.no_policy(policy.project, policy.function)
        if stored.revision != policy.revision:
            raise records.changed(policy)
        del policies[policy.function]
        self._bump("/policies")

    # Applications

    async def put_application(self, application: Application) -> Application:
        self._check()
        self._applications[application.name] = records.successor(application, self._applications.get(application.name))
        self._bump("/applications")
        return self._applications[application.name]

    async def list_applications(self) -> list[Application]:
        self._check()
        return [records.storable(self._applications[name]) for name in sorted(self._applications)]

    async def delete_application(self, application: Application) -> None:
        self._check()
        stored = self._applications.get(application.name)
        if stored is None:
            raise records.no_application(application.name)
        if stored.revision != application.revision:
            raise records.changed(application)
        del self._applications[application.name]
        self.application_data.forget(application.name)
        self._bump("/applications")

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
