"""Metadata: what the platform must still know after a restart. Records, and the Protocol that stores implement.

Nothing here is on the way of a request: routes, keys and policies are held in memory by `control.registry` and
written through. Every method may raise `StoreUnavailable`; a method that names something unknown raises `NotFound`,
one that loses a race raises `Conflict`, one given text that is not Unicode (a lone surrogate) raises `InvalidRequest`.

Each method is atomic, whoever else writes at the same time. One that ends in `StoreUnavailable` or is cancelled may
have taken effect or not, or take effect a moment later, but never in part. What a method returns is what is
stored: JSON values, so a tuple in a manifest comes back as a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

from clipper.contract.constants import Scope

__all__ = [
    "EVENTS_KEPT",
    "Event",
    "Key",
    "MetadataStore",
    "Policy",
    "Project",
    "Route",
    "Version",
]

EVENTS_KEPT = 1_000  # of each project: months of deploys, and under a megabyte


class _Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Base of what is stored: JSON objects; unknown fields of newer versions are ignored."""


class Project(_Record, frozen=True):
    name: str
    created_at: float  # Unix seconds


class Version(_Record, frozen=True):
    """Immutable once added, but for `state` and `detail`."""

    project: str
    number: int  # 1, 2, 3…: allocated by the store, never reused
    created_at: float
    manifest: dict[str, Any]  # clipper.contract.manifest.Manifest.to_dict()
    bundle: str
    environment: str  # EnvironmentId
    schemas: dict[str, Any] = {}  # function name -> JSON Schema, as its replica published it
    state: Literal["building", "ready", "failed"] = "building"
    detail: str = ""  # why it failed, in a line


class Route(_Record, frozen=True):
    """Which version answers a project's functions. `revision` grows with each change, for compare-and-set."""

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


class Policy(_Record, frozen=True):
    """An autoscaling policy applied live to a function; `digest` is that of the file it came from, `declared` that of
    the policy which the function was deployed with at that time."""

    project: str
    function: str
    policy: dict[str, Any]
    digest: str
    applied_at: float
    declared: str = ""


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


class MetadataStore(Protocol):
    """Contract suite: tests/contracts/test_store.py."""

    @property
    def url(self) -> str:
        """What people see: `sqlite:///…` or `redis://…`, without a password."""
        ...

    async def open(self) -> None:
        """Connect and migrate. Raises StoreUnavailable with what to do about it."""
        ...

    async def close(self) -> None:
        """Finish what runs and disconnect; twice is fine, and `open` may follow."""
        ...

    async def ping(self) -> None:
        """Return if the store answers within about a second, else raise StoreUnavailable."""
        ...

    # Projects. Deleting one deletes everything under it, but its version numbers are never given out again, nor the
    # numbers of its events. Whatever names a project that does not exist raises NotFound, but for get_route.
    async def put_project(self, project: Project) -> Project:
        """Create it unless it exists; the stored record either way."""
        ...

    async def get_project(self, name: str) -> Project: ...
    async def list_projects(self) -> list[Project]:
        """By name."""
        ...

    async def delete_project(self, name: str) -> None: ...

    # Versions
    async def add_version(self, version: Version) -> Version:
        """Store it under the project's next number (`number` of the argument is ignored), atomically."""
        ...

    async def get_version(self, project: str, number: int) -> Version: ...
    async def list_versions(self, project: str) -> list[Version]:
        """Newest first."""
        ...

    async def update_version(
        self, project: str, number: int, *, state: str, detail: str = "", schemas: dict[str, Any] | None = None
    ) -> Version:
        """Replace state and detail, and the schemas unless None. ValueError for a state that is none."""
        ...

    # Routes
    async def get_route(self, project: str) -> Route | None: ...
    async def list_routes(self) -> list[Route]:
        """By project."""
        ...

    async def set_route(self, route: Route, *, expected_revision: int) -> Route:
        """Compare-and-set: stored with revision `expected_revision + 1`, or Conflict if another writer was first.
        `expected_revision` is 0 where there is no route yet. NotFound if the version does not exist."""
        ...

    # Keys
    async def put_key(self, key: Key) -> None:
        """Conflict if another key has this id; the same key again is fine."""
        ...

    async def list_keys(self) -> list[Key]:
        """Oldest first, revoked ones too."""
        ...

    async def revoke_key(self, key_id: str, at: float) -> Key:
        """The revoked key. A key revoked before keeps the time of the first."""
        ...

    # Secrets: environment variables of a project's replicas. They are kept in clear, not encrypted: whoever reads the
    # database file (mode 0600) or connects to Redis reads them.
    async def put_secret(self, project: str, name: str, value: str) -> None: ...
    async def list_secrets(self, project: str) -> list[str]:
        """Their names, in order."""
        ...

    async def get_secrets(self, project: str) -> dict[str, str]: ...
    async def delete_secret(self, project: str, name: str) -> None: ...

    # Policies
    async def put_policy(self, policy: Policy) -> None: ...
    async def list_policies(self) -> list[Policy]:
        """By project and function."""
        ...

    async def delete_policy(self, project: str, function: str) -> None: ...

    # Events: the newest EVENTS_KEPT of each project are kept
    async def add_event(self, event: Event) -> Event: ...
    async def list_events(self, project: str, *, after: int = 0, limit: int = 100) -> Sequence[Event]:
        """Those with seq > after, oldest first, at most `limit`; with after = 0 the newest `limit`."""
        ...
