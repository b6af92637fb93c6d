"""Metadata: what the platform must still know after a restart. Records, and the Protocol that stores implement.

No request needs the store: `control` holds routes, keys and policies in memory, writes each change to the store first,
and reads again what another platform changed. Every method may raise `StoreUnavailable`; a method that names something
unknown raises `NotFound`, one that loses a race raises `Conflict`, one given text that is not Unicode (a lone
surrogate) raises `InvalidRequest`.

Each method is atomic, also against the writes of other processes. One that ends in `StoreUnavailable` or is cancelled
may have taken effect or not, or take effect a moment later, but never in part. A method returns what is stored: JSON
values, so a tuple in a manifest comes back as a list.

Records change by compare-and-set. A record carries the `revision` under which it was read, 0 if it is new; a write
stores it with `revision + 1` and raises `Conflict` unless the store holds that revision (no record, for 0). A write
whose answer was lost may be repeated: where the store holds the very record that the write would store, the write
succeeds again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from clipper.contract.constants import Scope
from clipper_platform.store.applications import ApplicationData

__all__ = [
    "EVENTS_KEPT",
    "Application",
    "Changes",
    "Event",
    "Key",
    "MetadataStore",
    "Policy",
    "Project",
    "Record",
    "RecoverableStore",
    "Route",
    "Version",
]

EVENTS_KEPT = 1_000  # of each project: months of deploys, and under a megabyte


class _Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Base of what is stored: JSON objects; unknown fields of newer versions are ignored."""


class Project(_Record, frozen=True):
    """Immutable; a project that is deleted and created again has another `created_at`."""

    name: str
    created_at: float  # Unix seconds


class Version(_Record, frozen=True):
    """Immutable once added, but for `state`, `detail` and `schemas`."""

    project: str
    number: int  # 1, 2, 3…: allocated by the store, never reused
    created_at: float
    manifest: dict[str, Any]  # clipper.contract.manifest.Manifest.to_dict()
    bundle: str
    environment: str  # EnvironmentId
    schemas: dict[str, Any] = {}  # function name -> JSON Schema, as its replica published it
    state: Literal["building", "ready", "failed"] = "building"
    detail: str = ""  # why it failed, in a line
    builder: str = ""  # the platform instance that deploys it: while it is `building`, only that instance changes it
    id: str = ""  # random; empty where a Clipper before 0.2 added it
    revision: int = 0

    @property
    def identity(self) -> str:
        """Tells versions with the same number apart: a store that lost data gives a number out again."""
        return self.id or repr(self.created_at)


class Route(_Record, frozen=True):
    """Which version answers a project's functions."""

    project: str
    version: int
    previous: int | None = None  # what `rollback` without a number returns to
    revision: int = 0
    updated_at: float = 0.0


class Key(_Record, frozen=True):
    """An API key: only the SHA-256 of its secret is kept."""

    id: str  # shown to people, e.g. "key_4f1c…"
    name: str
    hash: str  # hexadecimal SHA-256 of the whole key
    scopes: tuple[Scope, ...]
    created_at: float
    revoked_at: float | None = None
    revision: int = 0


class Policy(_Record, frozen=True):
    """An autoscaling policy applied live to a function; `digest` is that of the file it came from, `declared` that of
    the policy which the function was deployed with at that time, `route` the revision of the project's route then."""

    project: str
    function: str
    policy: dict[str, Any]
    digest: str
    applied_at: float
    declared: str = ""
    route: int = 0
    revision: int = 0


class Application(_Record, frozen=True):
    """A name that clients query. One that is deleted and created again has another `created_at`."""

    name: str
    spec: dict[str, Any]  # clipper.contract.applications.ApplicationSpec.to_dict()
    created_at: float
    updated_at: float
    revision: int = 0


class Event(_Record, frozen=True):
    """Something that happened to a project, for people: deployed, rolled back, replica crashed."""

    project: str
    at: float
    kind: str  # "deploy", "rollback", "replica", "scale", …
    message: str
    function: str = ""
    version: int | None = None
    data: dict[str, Any] = {}
    seq: int = 0  # given by the store, growing within a project


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What was written after a revision of the whole store: by any process, the one that asks included.

    `lineage` is the id of the data, then the ids of the data that it was written back from, newest first; empty where
    the store holds none of its data any more.
    """

    revision: int  # of the store, now
    lineage: tuple[str, ...] = ("only",)
    server: str = ""  # names the process that holds the data: another one may lack the newest writes
    holds: frozenset[str] = frozenset()  # which of projects, routes and keys there are any of
    projects: frozenset[str] = frozenset()  # whose record, versions or route changed
    keys: bool = False
    policies: bool = False
    applications: bool = False


class MetadataStore(Protocol):
    """Contract suite: tests/contracts/test_store.py."""

    @property
    def url(self) -> str:
        """What people see: `sqlite:///…` or `redis://…`, without a password."""
        ...

    @property
    def application_data(self) -> ApplicationData:
        """What applications learn."""
        ...

    async def open(self) -> None:
        """Connect and migrate. Raises StoreUnavailable with what to do about it."""
        ...

    async def close(self) -> None:
        """Finish what runs and disconnect; twice is fine, and `open` may follow."""
        ...

    # Several platforms on one store. A store for one process (SQLite) reports no change and knows no other instance.
    async def changes(self, since: int) -> Changes:
        """What changed after revision `since`. Cheap where nothing did; answers within about a second, or raises
        StoreUnavailable, so it serves as a health check as well. A store that lost data goes back to an earlier
        revision; all changes that it remembers are reported then."""
        ...

    async def wait_changed(self, timeout_s: float) -> None:
        """Return when some process writes what `changes` reports, at the latest after `timeout_s`. A hint: one that
        gets lost is made up for by asking `changes` after each timeout."""
        ...

    async def renew_lease(self, instance: str, ttl_s: float) -> None:
        """Count `instance` among the live ones for `ttl_s` seconds of the store's clock."""
        ...

    async def live_instances(self) -> set[str]: ...

    # Projects. Deleting one deletes everything under it, but its version numbers are never given out again, nor the
    # numbers of its events. Every method that names a project raises NotFound where there is none, but for get_route.
    async def put_project(self, project: Project) -> Project:
        """Create it unless it exists; the stored record either way."""
        ...

    async def get_project(self, name: str) -> Project: ...
    async def list_projects(self) -> list[Project]:
        """By name."""
        ...

    async def delete_project(self, project: Project) -> None:
        """Conflict if the store holds another project of this name."""
        ...

    # Versions
    async def add_version(self, version: Version, *, after: int = 0) -> Version:
        """Store it under the project's next number, at least `after` + 1, atomically. `number` of the argument is
        ignored."""
        ...

    async def get_version(self, project: str, number: int) -> Version: ...
    async def list_versions(self, project: str) -> list[Version]:
        """Newest first."""
        ...

    async def update_version(self, version: Version) -> Version:
        """Compare-and-set."""
        ...

    async def delete_version(self, version: Version) -> None:
        """Conflict if the store holds another revision of it, or if its project's route leads to it or returns to it
        (`previous`). Its number is never given out again."""
        ...

    # Routes
    async def get_route(self, project: str) -> Route | None: ...
    async def list_routes(self) -> list[Route]:
        """By project."""
        ...

    async def set_route(self, route: Route) -> Route:
        """Compare-and-set. NotFound if the version does not exist."""
        ...

    # Keys
    async def put_key(self, key: Key) -> Key:
        """Compare-and-set."""
        ...

    async def list_keys(self) -> list[Key]:
        """Oldest first, revoked ones too."""
        ...

    # Secrets: environment variables of a project's replicas. They are kept in clear, not encrypted: who can read the
    # database file (mode 0600) or connect to Redis can read them.
    async def set_secret(self, project: str, name: str, value: str | None, *, expected: str | None) -> None:
        """Compare-and-set on the value; None is no secret. Repeating a write is fine here too."""
        ...

    async def get_secrets(self, project: str) -> dict[str, str]:
        """By name, in order."""
        ...

    # Policies
    async def put_policy(self, policy: Policy) -> Policy:
        """Compare-and-set."""
        ...

    async def list_policies(self) -> list[Policy]:
        """By project and function."""
        ...

    async def delete_policy(self, policy: Policy) -> None:
        """Conflict if the store holds another revision of it, NotFound if none."""
        ...

    # Applications
    async def put_application(self, application: Application) -> Application:
        """Compare-and-set."""
        ...

    async def list_applications(self) -> list[Application]:
        """By name."""
        ...

    async def delete_application(self, application: Application) -> None:
        """With all that it learnt. Conflict if the store holds another revision of it, NotFound if none."""
        ...

    # Events: the newest EVENTS_KEPT of each project are kept
    async def add_event(self, event: Event) -> Event: ...
    async def list_events(self, project: str, *, after: int = 0, limit: int = 100) -> Sequence[Event]:
        """Those with seq > after, oldest first, at most `limit`; with after = 0 the newest `limit`."""
        ...


Record = Project | Version | Route | Key | Policy | Application


@runtime_checkable
class RecoverableStore(MetadataStore, Protocol):
    """A store on a server that may lose its data, or be replaced by another one, while the platform runs.

    Each of its data sets has an id. Where the id that `open` or `accept` found is gone, no method but `changes` and
    those of the leases reads or writes: it waits a moment for the data to be written back, then raises
    StoreUnavailable. From `accept` until `changes` is called again, the others wait and these methods write back.
    """

    async def accept(self, lost: Sequence[str]) -> tuple[str, ...]:
        """Work with the data that the server holds now; one without data gets a new id, with `lost` as its ancestors.
        Returns the lineage."""
        ...

    async def put_back(self, record: Record) -> bool:
        """Store a record as it is, with its revision, unless the store holds one of the same or a later revision, or
        lacks what the record is under. A version's number is not given out again. Returns whether it was stored."""
        ...

    async def put_back_secrets(self, project: str, secrets: Mapping[str, str]) -> frozenset[str]:
        """Store those that the store lacks; their names. None where there is no such project."""
        ...
