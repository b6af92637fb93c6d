"""The version that a project's route leads to, as it is held in memory, or why this platform cannot run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from clipper.contract.manifest import Manifest
from clipper.contract.spec import FunctionSpec, SpecError
from clipper_platform.errors import Conflict, NotFound, Unavailable
from clipper_platform.store.base import Route, Version

__all__ = ["Current", "Unusable", "current_version", "function_names", "parse_manifest"]


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

    @property
    def schemas(self) -> Mapping[str, Any]:
        """By function, as the version published them."""
        found: dict[str, Any] = msgspec.json.decode(self.published)
        return found

    def function(self, name: str) -> FunctionSpec | None:
        return next((spec for spec in self.manifest.functions if spec.name == name), None)


def current_version(route: Route, versions: Sequence[Version]) -> Current | Unusable:
    """The version that the route leads to, of the project's `versions`."""
    version = next((v for v in versions if v.number == route.version), None)
    try:
        if version is None:
            raise NotFound("the store has no record of it")
        manifest = Manifest.from_dict(version.manifest)
        if version.state == "failed":
            raise Conflict(f"it failed: {version.detail}")
    except (NotFound, SpecError, Conflict) as error:
        why = f"version {route.version} cannot be brought back: {error}"
        names = function_names(version.manifest) if version is not None else ()
        return Unusable(route=route, why=why, functions=names)
    return Current(route=route, manifest=manifest, published=msgspec.json.encode(version.schemas))


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
