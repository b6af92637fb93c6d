"""The version that a project's route leads to, as it is held in memory, or why this platform cannot run it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from clipper.contract.manifest import Manifest
from clipper.contract.spec import FunctionSpec, SpecError
from clipper_platform.errors import Conflict, NotFound, Unavailable
from clipper_platform.store.base import Route, Version

__all__ = ["Current", "PreviousVersions", "Unusable", "current_version", "function_names", "parse_manifest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unusable:
    """A stored route whose version this platform cannot run, and why. `functions`: the names in its manifest."""

    route: Route
    why: str
    functions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """The version that answers a project's functions, with only what is needed of it, as there are thousands."""

    route: Route
    manifest: Manifest
    published: bytes  # `schemas` as JSON: a fifth of what the objects take
    record: Version  # without manifest and schemas

    @classmethod
    def of(cls, route: Route, version: Version) -> Current:
        """Raises SpecError if the version's manifest is not one that this platform can read."""
        return cls(
            route=route,
            manifest=Manifest.from_dict(version.manifest),
            published=msgspec.json.encode(version.schemas),
            record=msgspec.structs.replace(version, manifest={}, schemas={}),
        )

    @property
    def schemas(self) -> Mapping[str, Any]:
        """By function, as the version published them."""
        found: dict[str, Any] = msgspec.json.decode(self.published)
        return found

    @property
    def identity(self) -> str:
        return self.record.identity

    def function(self, name: str) -> FunctionSpec | None:
        return next((spec for spec in self.manifest.functions if spec.name == name), None)

    def version(self) -> Version:
        """The whole record."""
        return msgspec.structs.replace(self.record, manifest=self.manifest.to_dict(), schemas=dict(self.schemas))


class PreviousVersions:
    """The versions that `rollback` returns to, kept for a store that loses them: compressed, half a kilobyte each."""

    def __init__(self) -> None:
        self._records: dict[str, bytes] = {}

    def note(self, route: Route | None, versions: Sequence[Version]) -> None:
        """The store holds these versions of a project and this route."""
        for version in versions:
            if route is not None and version.number == route.previous:
                self._keep(version)

    def replaced(self, before: Current | None, current: Current) -> None:
        """`current` answers from now on in place of `before`."""
        if before is not None and before.route.version == current.route.previous:
            self._keep(before.version())

    def _keep(self, version: Version) -> None:
        self._records[version.project] = zlib.compress(msgspec.json.encode(version), 1)

    def get(self, project: str) -> Version | None:
        packed = self._records.get(project)
        return None if packed is None else msgspec.json.decode(zlib.decompress(packed), type=Version)

    def forget(self, project: str) -> None:
        self._records.pop(project, None)


def current_version(route: Route, versions: Sequence[Version]) -> Current | Unusable:
    """The version that the route leads to, of the project's `versions`."""
    version = next((v for v in versions if v.number == route.version), None)
    try:
        if version is None:
            raise NotFound("the store has no record of it")
        current = Current.of(route, version)
        if version.state == "failed":
            raise Conflict(f"it failed: {version.detail}")
    except (NotFound, SpecError, Conflict) as error:
        why = f"version {route.version} cannot be brought back: {error}"
        names = function_names(version.manifest) if version is not None else ()
        return Unusable(route=route, why=why, functions=names)
    return current


def function_names(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Of a manifest that may be damaged."""
    functions = manifest.get("functions")
    tables = functions if isinstance(functions, list) else []
    return tuple(table["name"] for table in tables if isinstance(table, dict) and isinstance(table.get("name"), str))


def parse_manifest(version: Version) -> Manifest:
    """The manifest of a stored version. Raises Unavailable if this platform cannot run it."""
    try:
        return Manifest.from_dict(version.manifest)
    except SpecError as error:
        raise Unavailable(f"version {version.number} of {version.project!r} cannot be run here: {error}") from error
