"""What the stored versions of all projects refer to: their bundles and environments, known without asking the store."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from clipper_platform.store.base import Version

__all__ = ["Reference", "References"]


class Reference(NamedTuple):
    """`version` is 0 while the version is being stored, or if it is not known whether it was."""

    version: int
    bundle: str
    environment: str


class References:
    """Versions of whatever state count, failed ones too."""

    def __init__(self) -> None:
        self._by_project: dict[str, tuple[Reference, ...]] = {}
        self._highest: dict[str, int] = {}

    def of(self, project: str) -> tuple[Reference, ...]:
        return self._by_project.get(project, ())

    def bundles(self) -> set[str]:
        return {reference.bundle for references in self._by_project.values() for reference in references}

    def environments(self) -> set[str]:
        return {reference.environment for references in self._by_project.values() for reference in references}

    def has(self, project: str, version: int) -> bool:
        return any(reference.version == version for reference in self.of(project))

    def newest(self, project: str) -> int:
        """The project's highest version number, 0 without one."""
        return max((reference.version for reference in self.of(project)), default=0)

    def highest(self, project: str) -> int:
        """The highest version number that the project is known to have had, also where the store lost it since."""
        return max(self._highest.get(project, 0), self.newest(project))

    def replace(self, project: str, versions: Sequence[Version]) -> None:
        """The store holds these versions of the project."""
        self._highest[project] = self.highest(project)
        # Many versions share an environment: one string for all of them.
        self._by_project[project] = tuple(Reference(v.number, v.bundle, sys.intern(v.environment)) for v in versions)

    @contextmanager
    def adding(self, project: str, bundle: str, environment: str) -> Iterator[None]:
        """A version is being stored. From before the write: if its outcome is unknown, what it refers to must stay,
        until the project's versions are read again."""
        reference = Reference(0, bundle, environment)
        self._by_project[project] = (reference, *self.of(project))
        yield
        self._by_project[project] = tuple(other for other in self.of(project) if other is not reference)

    def add(self, version: Version) -> None:
        self.delete(version.project, version.number)  # the store may have been read again already
        reference = Reference(version.number, version.bundle, sys.intern(version.environment))
        self._by_project[version.project] = (reference, *self.of(version.project))

    def delete(self, project: str, version: int) -> None:
        self._by_project[project] = tuple(other for other in self.of(project) if other.version != version)

    def forget(self, project: str) -> None:
        """The project was deleted."""
        self._highest[project] = self.highest(project)
        self._by_project.pop(project, None)
