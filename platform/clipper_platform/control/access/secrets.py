"""The secrets of projects: environment variables of their replicas that are never shown again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from clipper.contract.spec import SpecError
from clipper.contract.variables import check_total, check_variable
from clipper_platform.control.registry import Registry
from clipper_platform.errors import InvalidRequest, NotFound, StoreUnavailable

__all__ = ["ProjectSecrets"]

logger = logging.getLogger(__name__)


class ProjectSecrets:
    """Only the store holds them, so that a change by another platform counts too. What was read last is remembered for
    launches while the store is away."""

    on_change: Callable[[str], None] | None = None
    """Called with a project whose secrets this platform changed."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._store = registry.store
        self._known: dict[str, Mapping[str, str]] = {}  # by project; none for a project without secrets

    async def put(self, project: str, name: str, value: str) -> None:
        """Raises InvalidRequest, and Conflict if someone else changes the same one at the same time."""
        try:
            check_variable(name, value, where="secret")
            await self._registry.ensure_project(project)
            known = await self._store.get_secrets(project)
            check_total({**known, name: value}, where="secrets")
        except SpecError as error:
            raise InvalidRequest(str(error), key=error.key) from None
        await self._store.set_secret(project, name, value, expected=known.get(name))
        self._remember(project, {**known, name: value})

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
        self._remember(project, {other: value for other, value in known.items() if other != name})

    async def read(self, project: str) -> Mapping[str, str]:
        """For a launch: the values of this moment, or while the store is away those of the launch before.

        Raises StoreUnavailable if there was none.
        """
        try:
            found: Mapping[str, str] = await self._store.get_secrets(project)
        except NotFound:
            found = {}  # a project's first deploy: it is not stored yet; or it was deleted meanwhile
        except StoreUnavailable as error:
            if project not in self._known:
                raise
            logger.warning("the secrets are those of the launch before: %s", error, extra={"project": project})
            return self._known[project]
        self._known[project] = found or _NONE
        return found

    def _remember(self, project: str, changed: Mapping[str, str]) -> None:
        if project in self._known:
            self._known[project] = changed or _NONE
        if self.on_change is not None:
            self.on_change(project)

    def known(self, project: str) -> Mapping[str, str] | None:
        """Those of the last launch, with the changes since that this platform made; None where there was no launch."""
        return self._known.get(project)

    def forget(self, project: str) -> None:
        """The project was deleted."""
        self._known.pop(project, None)


_NONE: Mapping[str, str] = {}
