"""Projects, versions and routes: the truth in memory, loaded from the store at start and written through to it.

Serving reads memory only, so it does not notice when the store is away; whatever has to be written or read from the
store then raises StoreUnavailable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from clipper.contract.manifest import Manifest
from clipper.contract.spec import FunctionSpec, SpecError
from clipper_platform.clock import Clock
from clipper_platform.errors import ClipperError, Conflict, InternalError, NotFound, StoreUnavailable
from clipper_platform.store.base import Event, MetadataStore, Project, Route, Version

__all__ = ["Current", "Registry"]

logger = logging.getLogger(__name__)

PING_PERIOD_S: Final = 1.0
# A ping answers within about a second or raises; this ends one that does neither.
PING_TIMEOUT_S: Final = 3.0
LOADED_AT_ONCE: Final = 64  # projects
MAX_SECRETS: Final = 256  # per project: they all travel in one process environment
INTERRUPTED: Final = "the platform ended while this version was being deployed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """The version that answers a project's functions now: what is needed of it, as there are thousands."""

    route: Route
    manifest: Manifest
    published: bytes  # `schemas` as JSON: a fifth of what the objects take

    @property
    def schemas(self) -> Mapping[str, Any]:
        """By function, as the version published them."""
        found: dict[str, Any] = msgspec.json.decode(self.published)
        return found

    def function(self, name: str) -> FunctionSpec | None:
        return next((spec for spec in self.manifest.functions if spec.name == name), None)


class Registry:
    """See the module. Methods that raise StoreUnavailable say so by being `async`."""

    def __init__(self, store: MetadataStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._projects: dict[str, Project] = {}
        self._current: dict[str, Current] = {}
        self._revisions: dict[str, int] = {}  # of the stored route, which a write of unknown outcome may have moved
        self._bundles: dict[str, tuple[str, ...]] = {}  # project -> those of its versions
        self._doubtful: set[str] = set()  # projects whose stored route may differ: a write's outcome is unknown
        self._unsaved: dict[tuple[str, int], str] = {}  # (project, version) -> why it failed, not yet stored
        self._store_error: str | None = None
        self._on_recovery: list[Callable[[], Awaitable[None]]] = []
        self._on_route: list[Callable[[str], None]] = []

    # The store's health

    @property
    def store(self) -> MetadataStore:
        return self._store

    @property
    def store_error(self) -> str | None:
        """Why the store cannot be reached, or None while it can."""
        return self._store_error

    @property
    def store_healthy(self) -> bool:
        return self._store_error is None

    def check_store(self) -> None:
        """Raise StoreUnavailable at once if the store is known to be away."""
        if self._store_error is not None:
            raise StoreUnavailable(
                f"the metadata store cannot be reached ({self._store_error}); functions go on answering, "
                "changes have to wait",
                retry_after_s=5.0,
            )

    def on_recovery(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Have `callback` called each time that the store is back."""
        self._on_recovery.append(callback)

    def on_route(self, callback: Callable[[str], None]) -> None:
        """Have `callback(project)` called, before anything else happens, when another version becomes the current."""
        self._on_route.append(callback)

    async def watch(self, period_s: float = PING_PERIOD_S) -> None:
        """Ping the store for ever; health changes are logged once."""
        while True:
            try:
                await self.check_health()
            except Exception:
                logger.exception("a round of the store's health check failed")
            await asyncio.sleep(period_s)

    async def check_health(self) -> None:
        """One ping, and what follows from its answer."""
        try:
            async with asyncio.timeout(PING_TIMEOUT_S):
                await self._store.ping()
        except (StoreUnavailable, TimeoutError) as error:
            reason = str(error) or f"no answer within {PING_TIMEOUT_S:g} s"
            if self._store_error is None:
                logger.error(
                    "the store cannot be reached; serving goes on, changes are refused: %s",
                    reason,
                    extra={"store": self._store.url},
                )
            self._store_error = reason
            return
        if self._store_error is not None:
            logger.warning("the store answers again", extra={"store": self._store.url})
            self._store_error = None
            for callback in self._on_recovery:
                try:
                    await callback()
                except ClipperError as error:
                    logger.warning("catching up with the store failed: %s", error)
        await self._settle_doubts()

    # Loading

    async def load(self) -> None:
        """Read projects, routes and routed versions. Raises StoreUnavailable.

        Versions that an earlier platform left in the middle of a deploy are marked failed.
        """
        projects = {p.name: p for p in await self._store.list_projects()}
        routes = {route.project: route for route in await self._store.list_routes()}
        current: dict[str, Current] = {}
        bundles: dict[str, tuple[str, ...]] = {}
        names = list(projects)
        for first in range(0, len(names), LOADED_AT_ONCE):
            some = names[first : first + LOADED_AT_ONCE]
            # Together, as what takes the time is the way to the store and back.
            for name, versions in zip(
                some, await asyncio.gather(*(self._store.list_versions(name) for name in some)), strict=True
            ):
                bundles[name] = tuple({version.bundle for version in versions})
                for version in versions:
                    if version.state == "building":
                        await self._store.update_version(name, version.number, state="failed", detail=INTERRUPTED)
                route = routes.get(name)
                if route is not None and (found := self._load_current(route, versions)) is not None:
                    current[name] = found
        self._projects, self._current, self._bundles = projects, current, bundles
        self._revisions = {name: route.revision for name, route in routes.items()}

    def _load_current(self, route: Route, versions: Sequence[Version]) -> Current | None:
        try:
            version = next((v for v in versions if v.number == route.version), None)
            if version is None:
                raise NotFound(f"project {route.project!r} has no version {route.version}")
            manifest = Manifest.from_dict(version.manifest)
        except (NotFound, SpecError) as error:
            logger.error(
                "a route cannot be brought back: %s", error, extra={"project": route.project, "version": route.version}
            )
            return None
        if version.state == "failed":
            logger.error(
                "a route leads to a version that failed and is not brought back: %s",
                version.detail,
                extra={"project": route.project, "version": route.version},
            )
            return None
        return Current(route=route, manifest=manifest, published=msgspec.json.encode(version.schemas))

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
        project = await self._store.put_project(Project(name=name, created_at=self._clock.time()))
        self._projects[name] = project
        return project

    async def delete_project(self, name: str) -> None:
        """Forget the project and all that is under it, in the store first. Raises NotFound."""
        self.project(name)
        self.check_store()
        try:
            await self._store.delete_project(name)
        except NotFound:
            pass  # an earlier delete got through although its answer was lost
        self._projects.pop(name, None)
        self._current.pop(name, None)
        self._revisions.pop(name, None)
        self._bundles.pop(name, None)
        self._doubtful.discard(name)
        self._unsaved = {k: v for k, v in self._unsaved.items() if k[0] != name}

    # Routes

    def current(self, project: str) -> Current | None:
        return self._current.get(project)

    def routed(self) -> list[Current]:
        return [self._current[name] for name in sorted(self._current)]

    async def set_route(self, version: Version, previous: int | None) -> Current:
        """Store the route to `version`, then remember it. Raises Conflict if another writer was first.

        When the store fails half-way the write may or may not have been made: what memory says stands, and is
        written again once the store is back.
        """
        project = version.project
        manifest = Manifest.from_dict(version.manifest)
        wanted = Route(project=project, version=version.number, previous=previous, updated_at=self._clock.time())
        try:
            route = await self._store.set_route(wanted, expected_revision=self._revisions.get(project, 0))
        except StoreUnavailable:
            self._doubtful.add(project)
            raise
        except Conflict:
            stored = await self._store.get_route(project)
            self._revisions[project] = stored.revision if stored else 0
            raise Conflict(
                f"the route of {project!r} was changed by someone else meanwhile; look at `clip versions {project}` "
                "and try again"
            ) from None
        self._revisions[project] = route.revision
        published = msgspec.json.encode(version.schemas)
        self._current[project] = Current(route=route, manifest=manifest, published=published)
        for callback in self._on_route:
            callback(project)
        return self._current[project]

    # Versions

    async def add_version(self, manifest: Manifest, environment: str) -> Version:
        """Record a version in state `building`, under the project's next number."""
        await self.ensure_project(manifest.project)
        # Before it is stored: of a write of unknown outcome the bundle must not be taken away.
        self._bundles[manifest.project] = tuple({*self._bundles.get(manifest.project, ()), manifest.bundle})
        return await self._store.add_version(
            Version(
                project=manifest.project,
                number=0,
                created_at=self._clock.time(),
                manifest=manifest.to_dict(),
                bundle=manifest.bundle,
                environment=environment,
            )
        )

    def bundles(self) -> set[str]:
        """Those that any version refers to, of whatever state."""
        return set[str]().union(*self._bundles.values())

    async def versions(self, project: str) -> list[Version]:
        """Newest first. Raises NotFound."""
        self.project(project)
        return await self._store.list_versions(project)

    async def version(self, project: str, number: int) -> Version:
        """Raises NotFound."""
        self.project(project)
        return await self._store.get_version(project, number)

    async def mark_ready(self, project: str, number: int, schemas: dict[str, Any]) -> Version:
        return await self._store.update_version(project, number, state="ready", schemas=schemas)

    async def mark_failed(self, project: str, number: int, detail: str) -> None:
        """Never raises StoreUnavailable: what cannot be stored now is stored when the store is back."""
        try:
            await self._store.update_version(project, number, state="failed", detail=detail)
        except NotFound:
            pass  # deleted meanwhile
        except StoreUnavailable:
            self._unsaved[project, number] = detail
        else:
            self._unsaved.pop((project, number), None)

    async def _settle_doubts(self) -> None:
        """Write what could not be written: failed versions, and routes that a lost write may have moved."""
        try:
            for project in sorted(self._doubtful):
                await self._settle_route(project)
                self._doubtful.discard(project)
            for (project, number), detail in list(self._unsaved.items()):
                await self.mark_failed(project, number, detail)
        except ClipperError as error:
            logger.warning("the store could not be brought up to date yet: %s", error)

    async def _settle_route(self, project: str) -> None:
        stored = await self._store.get_route(project)
        mine = self._current.get(project)
        if stored is None:
            return
        self._revisions[project] = stored.revision
        if mine is None or stored.version == mine.route.version:
            return
        wanted = mine.route
        again = Route(project=project, version=wanted.version, previous=wanted.previous, updated_at=wanted.updated_at)
        route = await self._store.set_route(again, expected_revision=stored.revision)
        self._revisions[project] = route.revision

    # Secrets and events, which only the store holds

    async def put_secret(self, project: str, name: str, value: str) -> None:
        await self.ensure_project(project)
        known = await self._store.list_secrets(project)
        if name not in known and len(known) >= MAX_SECRETS:
            raise Conflict(f"{project!r} already has {MAX_SECRETS} secrets; delete one first")
        await self._store.put_secret(project, name, value)

    async def list_secrets(self, project: str) -> list[str]:
        self.project(project)
        return sorted(await self._store.list_secrets(project))

    async def secrets(self, project: str) -> dict[str, str]:
        return await self._store.get_secrets(project)

    async def delete_secret(self, project: str, name: str) -> None:
        self.project(project)
        await self._store.delete_secret(project, name)

    async def add_event(self, event: Event) -> Event:
        return await self._store.add_event(event)

    async def events(self, project: str, *, after: int = 0, limit: int = 100) -> Sequence[Event]:
        self.project(project)
        return await self._store.list_events(project, after=after, limit=limit)


def parse_manifest(version: Version) -> Manifest:
    """The manifest of a stored version. Raises InternalError if it is not one this platform can read."""
    try:
        return Manifest.from_dict(version.manifest)
    except SpecError as error:
        raise InternalError(
            f"the manifest of {version.project}@{version.number} cannot be read by this platform: {error}"
        ) from error
