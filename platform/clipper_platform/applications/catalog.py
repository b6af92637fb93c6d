"""The applications: in memory, written to the store first, and followed where another platform changes them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from clipper.contract.applications import ApplicationSpec, LinkSpec, check_links
from clipper.contract.rules import SpecError, nearest
from clipper_platform.applications.linking import check_link
from clipper_platform.applications.policies import check_policy, is_own
from clipper_platform.clock import Clock
from clipper_platform.errors import Conflict, InvalidSpec, NotFound, StoreUnavailable
from clipper_platform.store.base import Application, Changes, MetadataStore

__all__ = ["Catalog", "Declared", "Functions", "parsed"]

logger = logging.getLogger(__name__)


class Functions(Protocol):
    """The functions that applications may link."""

    def has_project(self, name: str) -> bool: ...
    async def schema(self, project: str, function: str, version: int | None) -> Mapping[str, Any]:
        """What the version (None: the current one) published; empty where it published nothing. Raises NotFound, and
        what keeps the function from answering."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """An application as it is stored, and its spec."""

    record: Application
    spec: ApplicationSpec


OnChange = Callable[[str, Declared | None], None]
"""(name, the application; None once it is deleted)"""


def parsed(name: object, table: object, *, where: str = "") -> ApplicationSpec:
    """A spec of a request. Raises InvalidSpec."""
    try:
        return ApplicationSpec.parse(name, table, where=where)
    except SpecError as error:
        raise InvalidSpec(str(error), key=error.key, where=error.where) from None


class Catalog:
    """`check_store` raises at once where the store is known to be away."""

    def __init__(
        self,
        store: MetadataStore,
        functions: Functions,
        clock: Clock,
        *,
        check_store: Callable[[], None],
    ) -> None:
        self._store = store
        self._functions = functions
        self._clock = clock
        self._check_store = check_store
        self._known: dict[str, Declared] = {}
        self._on_change: list[OnChange] = []
        self._lock = asyncio.Lock()  # one change at a time; what is being stored must not be missing in what is read
        self._stale = False  # whether the stored applications may differ

    def on_change(self, callback: OnChange) -> None:
        """Have `callback` called when an application is there, changed, or deleted."""
        self._on_change.append(callback)

    # Reading

    async def load(self) -> None:
        """Raises StoreUnavailable."""
        async with self._lock:
            await self._read()

    async def _read(self) -> None:
        self._stale = True
        records = {record.name: record for record in await self._store.list_applications()}
        self._stale = False
        for name in [name for name in self._known if name not in records]:
            self._remember(name, None)
        for name, record in records.items():
            known = self._known.get(name)
            if known is None or known.record != record:
                self._adopt(record)

    def _adopt(self, record: Application) -> None:
        table = {key: value for key, value in record.spec.items() if key != "name"}
        try:
            spec = ApplicationSpec.parse(record.name, table)
        except SpecError as error:
            logger.error("a stored application cannot be read and is ignored: %s", error)
            return
        self._remember(record.name, Declared(record=record, spec=spec))

    def _remember(self, name: str, declared: Declared | None) -> None:
        if declared is None:
            del self._known[name]
        else:
            self._known[name] = declared
        for callback in self._on_change:
            callback(name, declared)

    async def polled(self, changes: Changes) -> None:
        """For `StoreWatch.on_poll`."""
        if changes.applications or self._stale:
            try:
                await self.load()
            except StoreUnavailable as error:
                logger.warning("applications that changed could not be read yet: %s", error)

    def names(self) -> list[str]:
        return sorted(self._known)

    def has(self, name: str) -> bool:
        return name in self._known

    def records(self) -> list[Application]:
        return [declared.record for declared in self._known.values()]

    def get(self, name: str) -> Declared:
        """Raises NotFound."""
        try:
            return self._known[name]
        except KeyError:
            guess = nearest(name, self._known)
            hint = f"; did you mean {guess!r}?" if guess else ""
            raise NotFound(f"there is no application {name!r}{hint}") from None

    # Changing. Each raises InvalidSpec, NotFound for what it names, StoreUnavailable, and Conflict where another
    # platform was first.

    async def create(self, spec: ApplicationSpec) -> Declared:
        """Raises Conflict if the name is taken."""
        async with self._lock:
            if spec.name in self._known:
                raise Conflict(f"application {spec.name!r} exists already")
            return await self._put(spec, None)

    async def put(self, spec: ApplicationSpec) -> tuple[Declared, bool]:
        """Create or replace it. Returns it and whether anything changed."""
        async with self._lock:
            known = self._known.get(spec.name)
            if known is not None and known.spec == spec:
                return known, False
            return await self._put(spec, known), True

    async def link(self, name: str, link: LinkSpec) -> tuple[Declared, bool]:
        """Add the link, or replace the one of the same function and version."""
        async with self._lock:
            known = self.get(name)
            others = [one for one in known.spec.links if one.id != link.id]
            place = next((i for i, one in enumerate(known.spec.links) if one.id == link.id), len(others))
            return await self._with_links(known, (*others[:place], link, *others[place:]))

    async def unlink(self, name: str, link_id: str) -> Declared:
        """Raises NotFound where it is not linked."""
        async with self._lock:
            known = self.get(name)
            links = tuple(link for link in known.spec.links if link.id != link_id)
            if len(links) == len(known.spec.links):
                linked = ", ".join(link.id for link in links) or "none"
                raise NotFound(f"{link_id!r} is not linked to application {name!r}; linked: {linked}")
            return (await self._with_links(known, links))[0]

    async def _with_links(self, known: Declared, links: Sequence[LinkSpec]) -> tuple[Declared, bool]:
        try:
            check_links(links, where=f"[apps.{known.spec.name}]", whole=False)
        except SpecError as error:
            raise InvalidSpec(str(error), key=error.key, where=error.where) from None
        spec = msgspec.structs.replace(known.spec, links=tuple(links))
        if spec == known.spec:
            return known, False
        return await self._put(spec, known), True

    async def _put(self, spec: ApplicationSpec, known: Declared | None) -> Declared:
        await self._check(spec, known)
        self._check_store()
        now = self._clock.time()
        base = known.record if known else Application(name=spec.name, spec={}, created_at=now, updated_at=now)
        record = msgspec.structs.replace(base, spec=spec.to_dict(), updated_at=now)
        with self._stale_on_doubt():
            record = await self._store.put_application(record)
        declared = Declared(record=record, spec=spec)
        self._remember(spec.name, declared)
        return declared

    async def delete(self, name: str) -> None:
        async with self._lock:
            known = self.get(name)
            self._check_store()
            with self._stale_on_doubt(), contextlib.suppress(NotFound):  # an earlier delete got through
                await self._store.delete_application(known.record)
            self._remember(name, None)

    @contextlib.contextmanager
    def _stale_on_doubt(self) -> Iterator[None]:
        """What is stored is read again after a write whose outcome is unknown, or that came second."""
        try:
            yield
        except (Conflict, StoreUnavailable):
            self._stale = True
            raise

    async def _check(self, spec: ApplicationSpec, known: Declared | None) -> None:
        """Raises InvalidSpec, Conflict for the name of a project, NotFound for functions that are not there."""
        if known is None and self._functions.has_project(spec.name):
            raise Conflict(f"there is a project {spec.name!r}: give the application another name", key="name")
        check_policy(spec)
        if is_own(spec):
            project, _, function = spec.policy.partition("/")
            await self._functions.schema(project, function, None)
        checked = known.spec.links if known is not None and known.spec.input_type == spec.input_type else ()
        for link in spec.links:
            if link not in checked:  # what was linked stays linked, whatever became of the function
                schema = await self._functions.schema(link.project, link.name, link.version)
                check_link(link, spec.input_type, schema)
