"""Projects, versions and routes: held in memory, loaded from the store at start, written to the store first.

Serving reads memory only, so it goes on while the store is away; what has to be written or read from the store then
raises StoreUnavailable. What the store holds counts: each write is a compare-and-set on the record that memory has, and
after a write of unknown outcome the stored record is read again. `StoreWatch` notices what other platforms change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from clipper.contract.manifest import DEFAULT_KEEP_VERSIONS, MAX_KEEP_VERSIONS, Manifest
from clipper_platform.clock import Clock
from clipper_platform.control.builds import Builds
from clipper_platform.control.current import Current, PreviousVersions, Unusable, current_version
from clipper_platform.control.references import References
from clipper_platform.control.repeated_writes import REPEAT_PAUSES_S, repeated
from clipper_platform.control.store_loss import vanished
from clipper_platform.control.store_watch import StoreWatch
from clipper_platform.errors import ClipperError, Conflict, NotFound, StoreUnavailable, Unavailable
from clipper_platform.store.base import Changes, Event, MetadataStore, Project, Record, Route, Version

__all__ = ["Registry"]

logger = logging.getLogger(__name__)

LOADED_AT_ONCE: Final = 64  # projects


class Registry:
    """See the module. Methods that raise StoreUnavailable say so by being `async`. `home` is that of `Builds`."""

    def __init__(
        self,
        store: MetadataStore,
        clock: Clock,
        *,
        home: str = "",
        repeat_pauses_s: Sequence[float] = REPEAT_PAUSES_S,
    ) -> None:
        self._store = store
        self._clock = clock
        self._repeat_pauses_s = repeat_pauses_s
        self._projects: dict[str, Project] = {}
        self._current: dict[str, Current] = {}
        self._routes: dict[str, Route] = {}  # as stored, also where their version cannot be brought back
        self._unusable: dict[str, Unusable] = {}  # projects with a route and without a current version
        self._deleting: set[tuple[str, int]] = set()  # versions
        self.references = References()
        self._previous = PreviousVersions()
        self.builds = Builds(store, clock, home)
        self._doubtful: dict[str, None] = {}  # projects to read again, in this order
        self._trouble = ""
        self._on_route: list[Callable[[str], None]] = []
        self._on_foreign_change: list[Callable[[str], None]] = []
        self.watch = StoreWatch(store, clock)
        self.watch.on_poll(self._polled)

    @property
    def store(self) -> MetadataStore:
        return self._store

    def on_route(self, callback: Callable[[str], None]) -> None:
        """Have `callback(project)` called, before anything else happens, when another version becomes the current."""
        self._on_route.append(callback)

    def on_foreign_change(self, callback: Callable[[str], None]) -> None:
        """Have `callback(project)` called when the store holds another route or project than memory: written by
        another platform, or by a write of this one whose answer was lost. `catch_up` reads it."""
        self._on_foreign_change.append(callback)

    # Loading

    async def load(self) -> None:
        """Read projects, routes and routed versions. Raises StoreUnavailable.

        Versions whose builder is gone are marked failed.
        """
        await self.watch.begin()
        self._projects = {project.name: project for project in await self._store.list_projects()}
        self._routes = {route.project: route for route in await self._store.list_routes()}
        self._current, self._unusable = {}, {}
        names = list(self._projects)
        for first in range(0, len(names), LOADED_AT_ONCE):
            some = names[first : first + LOADED_AT_ONCE]
            # Concurrently: most of the time goes into round trips to the store.
            for name, versions in zip(
                some, await asyncio.gather(*(self._store.list_versions(name) for name in some)), strict=True
            ):
                route = self._routes.get(name)
                self._note_versions(name, versions, route)
                if route is not None and (found := self._load_current(route, versions)) is not None:
                    self._current[name] = found
        await self.builds.poll()

    def _load_current(self, route: Route, versions: Sequence[Version]) -> Current | None:
        found = current_version(route, versions)
        if isinstance(found, Current):
            self._unusable.pop(route.project, None)
            return found
        logger.error("%s", found.why, extra={"project": route.project, "version": route.version})
        self._unusable[route.project] = found
        return None

    # What other platforms change

    async def _polled(self, changes: Changes) -> None:
        """Read again what changed, and write what could not be written. Projects that could not be read are read at
        the next poll, in turn, so that one broken record does not keep the others waiting."""
        self._doubtful |= dict.fromkeys(sorted(changes.projects))
        try:
            await self.builds.poll()
            for name in list(self._doubtful):
                del self._doubtful[name]
                try:
                    await self._read_again(name)
                except ClipperError:
                    self._doubtful[name] = None
                    raise
        except ClipperError as error:
            if str(error) != self._trouble:
                logger.warning("catching up with the store failed: %s", error)
            self._trouble = str(error)
        else:
            self._trouble = ""

    async def _read_again(self, name: str) -> None:
        try:
            project = await self._store.get_project(name)
            versions = await self._store.list_versions(name)
            route = await self._store.get_route(name)
        except NotFound:
            if name in self._projects:
                self._changed_elsewhere(name)
            return
        lost = name in self._projects and vanished(self.known(name), project, versions, route)
        known = self._projects.setdefault(name, project)
        if not lost:
            self._note_versions(name, versions, route)
        current = self._current.get(name)
        version = next((v for v in versions if current is not None and v.number == current.route.version), None)
        other = current is not None and version is not None and version.identity != current.identity
        if lost or known != project or route != self._routes.get(name) or other:
            self._changed_elsewhere(name)

    def _changed_elsewhere(self, project: str) -> None:
        for callback in self._on_foreign_change:
            callback(project)
        if not self._on_foreign_change:  # the platform is starting: the next poll reports it again
            self._doubtful[project] = None

    async def catch_up(self, name: str) -> Current | None:
        """Read the project and its route again; the next write is based on them. Nothing else may change the project
        meanwhile.

        Returns the version that the route leads to, which counts as current only after `adopt`; the current one if that
        version cannot be brought back; None without a route. Raises NotFound for a project that was deleted.
        """
        project = await self._store.get_project(name)
        route = await self._store.get_route(name)
        try:
            version = await self._store.get_version(name, route.version) if route is not None else None
        except NotFound:
            raise Conflict(f"project {name!r} is being changed by someone else") from None
        self._projects[name] = project
        if route is None or version is None:
            self._routes.pop(name, None)
            self._current.pop(name, None)
            self._unusable.pop(name, None)
            return None
        self._routes[name] = route
        return self._load_current(route, [version]) or self._current.get(name)

    def adopt(self, current: Current) -> None:
        """Let this version be the current one, as its stored route says."""
        project = current.route.project
        self._previous.replaced(self._current.get(project), current)
        self._routes[project] = current.route
        self._current[project] = current
        self._unusable.pop(project, None)
        for callback in self._on_route:
            callback(project)

    def forget(self, project: str) -> None:
        """The store holds it no more."""
        self._projects.pop(project, None)
        self._current.pop(project, None)
        self._routes.pop(project, None)
        self._unusable.pop(project, None)
        self.references.forget(project)
        self._previous.forget(project)
        self.builds.forget(project)

    def _note_versions(self, project: str, versions: Sequence[Version], route: Route | None) -> None:
        self.references.replace(project, versions)
        self._previous.note(route, versions)
        self.builds.note(project, versions)

    def known(self, name: str) -> list[Record]:
        """The records of a project that memory holds, each after what it is under."""
        current, previous, route = self._current.get(name), self._previous.get(name), self._routes.get(name)
        versions = [*self.builds.owned(name), previous, current.version() if current is not None else None]
        return [record for record in (self._projects[name], *versions, route) if record is not None]

    async def _written(self, wanted: Route) -> Route:
        """Store a route. One that the store lost, as a server does that evicts keys, is written back before."""
        try:
            return await repeated(lambda: self._store.set_route(wanted), self._repeat_pauses_s)
        except Conflict:
            await self.watch.mend(wanted.project)
            return await repeated(lambda: self._store.set_route(wanted), self._repeat_pauses_s)

    # Projects

    def projects(self) -> list[Project]:
        return sorted(self._projects.values(), key=lambda p: p.name)

    def has(self, project: str) -> bool:
        return project in self._projects

    def project(self, name: str) -> Project:
        """Raises NotFound."""
        try:
            return self._projects[name]
        except KeyError:
            raise NotFound(f"there is no project {name!r}") from None

    async def ensure_project(self, name: str) -> Project:
        """Create it unless it exists. Asks the store even for a known one, which the store may have lost."""
        wanted = Project(name=name, created_at=self._clock.time())
        project = await repeated(lambda: self._store.put_project(wanted), self._repeat_pauses_s)
        self._projects[name] = project
        return project

    async def delete_project(self, name: str) -> None:
        """Forget the project and all that is under it, in the store first. Raises NotFound."""
        project = self.project(name)
        self.watch.check()
        try:
            await self._store.delete_project(project)
        except NotFound:
            pass  # an earlier delete got through although its answer was lost
        except (Conflict, StoreUnavailable):
            self._doubtful[name] = None
            raise
        self.forget(name)

    # Routes

    def current(self, project: str) -> Current | None:
        return self._current.get(project)

    def unusable(self, project: str) -> Unusable | None:
        """The project's stored route, where no version answers because this platform cannot run the route's."""
        return None if project in self._current else self._unusable.get(project)

    def check_answers(self, project: str) -> Current:
        """The current version. Raises NotFound for an unknown project, Unavailable where its version cannot be run
        here, Conflict where none was deployed."""
        self.project(project)
        current = self._current.get(project)
        if current is not None:
            return current
        if (unusable := self.unusable(project)) is not None:
            raise Unavailable(f"{project!r} does not answer: {unusable.why}")
        raise Conflict(f"no version of {project!r} was deployed successfully yet")

    def routed(self) -> list[Current]:
        return [self._current[name] for name in sorted(self._current)]

    def _last_usable(self, project: str, number: int) -> int | None:
        """What to return to from version `number`, where the one that was routed before it cannot be run."""
        base = self._routes.get(project)
        return base.previous if base is not None and base.previous != number else None

    async def set_route(self, version: Version) -> Current:
        """Store the route to `version`, then let it be the current one.

        Raises Conflict if another platform changed the route since memory followed it; theirs stays, and is followed.
        Raises StoreUnavailable if it is not known whether the route was stored: the stored route is followed then,
        as soon as it can be read.
        """
        project = version.project
        current = Current.of(Route(project=project, version=version.number), version)
        base, before = self._routes.get(project), self._current.get(project)
        self.builds.finished(project, version.number)
        wanted = Route(
            project=project,
            version=version.number,
            previous=before.route.version if before else self._last_usable(project, version.number),
            revision=base.revision if base else 0,
            updated_at=self._clock.time(),
        )
        try:
            route = await self._written(wanted)
        except StoreUnavailable as error:
            self._doubtful[project] = None
            raise StoreUnavailable(
                f"whether version {version.number} of {project!r} answers will be known when the store is back: {error}"
            ) from error
        except Conflict:
            self._changed_elsewhere(project)
            raise Conflict(
                f"the route of {project!r} was changed by someone else meanwhile; look at `clip versions {project}` "
                "and try again"
            ) from None
        current = replace(current, route=route)
        self.adopt(current)
        return current

    # Versions

    async def add_version(self, manifest: Manifest, environment: str) -> Version:
        """Record a version in state `building`, under the project's next number, as built by this instance."""
        project = manifest.project
        await self.ensure_project(project)
        try:
            with self.references.adding(project, manifest.bundle, environment):
                version = await self.builds.add(manifest, environment, after=self.references.highest(project))
        except StoreUnavailable:
            self._doubtful[project] = None  # a version that was added all the same has no builder
            raise
        self.references.add(version)
        return version

    async def delete_version(self, version: Version) -> None:
        """Forget a version for good. From the call on `version` does not find it.

        Raises Conflict if it was changed meanwhile, or the stored route needs it.
        """
        project, number = version.project, version.number
        self._deleting.add((project, number))
        try:
            await repeated(lambda: self._store.delete_version(version), self._repeat_pauses_s)
        except NotFound:
            pass  # an earlier try got through although its answer was lost, or another platform was first
        finally:
            self._deleting.discard((project, number))
        self.references.delete(project, number)

    def keep_versions(self, project: str) -> int:
        """How many versions of a project are kept, as its current version declares. As many as can be declared where
        that version cannot be read here."""
        if project in self._unusable:
            return MAX_KEEP_VERSIONS
        current = self._current.get(project)
        return DEFAULT_KEEP_VERSIONS if current is None else current.manifest.keep_versions

    async def versions(self, project: str) -> list[Version]:
        """Newest first. Raises NotFound."""
        self.project(project)
        return await self._store.list_versions(project)

    async def version(self, project: str, number: int) -> Version:
        """Raises NotFound."""
        self.project(project)
        try:
            version = await self._store.get_version(project, number)
        except NotFound:
            if 0 < number < self.references.newest(project):
                raise self._removed(project, number) from None
            raise
        # Deleted while it was read. A version that another platform added is not in `references` until the next poll.
        deleted = number < self.references.newest(project) and not self.references.has(project, number)
        if deleted or (project, number) in self._deleting:
            raise self._removed(project, number)
        return version

    def _removed(self, project: str, number: int) -> NotFound:
        return NotFound(
            f"version {number} of {project!r} was removed: the project keeps its newest {self.keep_versions(project)} "
            "versions (keep_versions in clip.toml)"
        )

    async def mark_ready(self, project: str, number: int, schemas: dict[str, Any]) -> Version:
        """Raises Conflict if another platform took this instance for gone and marked the version failed."""
        ready = msgspec.structs.replace(self.builds.own(project, number), state="ready", schemas=schemas)
        ready = await repeated(lambda: self._store.update_version(ready), self._repeat_pauses_s)
        self.builds.ready(ready)
        return ready

    async def mark_failed(self, project: str, number: int, detail: str) -> None:
        """See `Builds.fail`."""
        await self.builds.fail(project, number, detail)

    async def events(self, project: str, *, after: int = 0, limit: int = 100) -> Sequence[Event]:
        self.project(project)
        return await self._store.list_events(project, after=after, limit=limit)
