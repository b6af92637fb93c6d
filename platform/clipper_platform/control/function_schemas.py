"""What functions published of themselves, whether they run or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipper_platform.control.current import function_names
from clipper_platform.control.registry import Registry
from clipper_platform.errors import Conflict, NotFound

__all__ = ["FunctionSchemas"]


class FunctionSchemas:
    """Implements `applications.catalog.Functions`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def has_project(self, name: str) -> bool:
        return self._registry.has(name)

    async def schema(self, project: str, function: str, version: int | None) -> Mapping[str, Any]:
        """Of the current version, or of `version`. Raises NotFound, Conflict for a version that is not ready, and what
        `Registry.check_answers` and the store raise."""
        if version is None:
            current = self._registry.check_answers(project)
            names, schemas = [spec.name for spec in current.manifest.functions], current.schemas
        else:
            record = await self._registry.version(project, version)
            if record.state != "ready":
                raise Conflict(f"version {version} of {project!r} is {record.state}")
            names, schemas = list(function_names(record.manifest)), record.schemas
        if function not in names:
            raise NotFound(f"project {project!r} has no function {function!r}; it has {', '.join(sorted(names))}")
        found: Mapping[str, Any] = schemas.get(function, {})
        return found
