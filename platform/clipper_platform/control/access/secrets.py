"""Secrets of a project: environment variables of its replicas. Only the store holds them."""

from __future__ import annotations

import re
from typing import Final

from clipper_platform.control.registry import Registry
from clipper_platform.errors import Conflict, InvalidRequest, NotFound

__all__ = ["ProjectSecrets", "check_secret"]

MAX_SECRETS: Final = 256  # per project: they all travel in one process environment
SECRET_NAME: Final = re.compile(r"[A-Z_][A-Z0-9_]{0,127}\Z")
# These steer the platform's runtime, the interpreter and the dynamic linker.
RESERVED_PREFIXES: Final = ("CLIP_", "CLIPPER_", "PYTHON", "LD_")
MAX_SECRET_BYTES: Final = 64 * 1024


class ProjectSecrets:
    """Every method raises StoreUnavailable while the store is away."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._store = registry.store

    async def put(self, project: str, name: str, value: str) -> None:
        """Set it, also before the project's first deploy.

        Raises InvalidRequest, and Conflict if there are too many or another writer changes it at the same time.
        """
        check_secret(name, value)
        await self._registry.ensure_project(project)
        known = await self._store.get_secrets(project)
        if name not in known and len(known) >= MAX_SECRETS:
            raise Conflict(f"{project!r} already has {MAX_SECRETS} secrets; delete one first")
        await self._store.set_secret(project, name, value, expected=known.get(name))

    async def names(self, project: str) -> list[str]:
        """In order. Raises NotFound."""
        self._registry.project(project)
        return list(await self._store.get_secrets(project))

    async def delete(self, project: str, name: str) -> None:
        """Raises NotFound, Conflict."""
        self._registry.project(project)
        known = await self._store.get_secrets(project)
        if name not in known:
            raise NotFound(f"project {project!r} has no secret {name!r}")
        await self._store.set_secret(project, name, None, expected=known[name])


def check_secret(name: str, value: str) -> None:
    """Raises InvalidRequest unless the pair can be an environment variable of a replica."""
    if not SECRET_NAME.match(name):
        raise InvalidRequest(
            f"secret name {name!r} is not allowed: use capital letters, digits and '_', not starting with a digit",
            key="name",
        )
    if name.startswith(RESERVED_PREFIXES):
        raise InvalidRequest(
            f"secret name {name!r} is not allowed: names that start with {', '.join(RESERVED_PREFIXES)} are reserved",
            key="name",
        )
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise InvalidRequest("value must be text without NUL characters", key="value")
    if len(value.encode()) > MAX_SECRET_BYTES:
        raise InvalidRequest(f"value is over the limit of {MAX_SECRET_BYTES} bytes", key="value")
