"""Environments: a builder turns requirements into something that a backend can run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from clipper.contract.spec import EnvironmentSpec
from clipper_platform.core.retention import EnvironmentFacts
from clipper_platform.types import EnvironmentId

__all__ = ["BuildProgress", "EnvironmentBuilder"]

BuildProgress = Callable[[str], None]
"""Called with each line that the build prints, from the event loop's thread."""


class EnvironmentBuilder(Protocol):
    """Builds environments of one kind; the platform keeps their ids. A backend is given the builder's own look-up
    from an id to what it runs."""

    def identify(self, spec: EnvironmentSpec, files: Path | None = None) -> EnvironmentId:
        """The digest of the spec: equal specs have equal ids. `files` is the project's directory, for requirements that
        are paths. Raises DeployFailed if the requested Python is not on the
        machine, with a list of those that are."""
        ...

    async def resolve(self, spec: EnvironmentSpec) -> dict[str, str]:
        """What the moving references of the requirements mean now, as a branch of a Git repository does."""
        ...

    async def build(
        self,
        spec: EnvironmentSpec,
        progress: BuildProgress,
        files: Path | None = None,
        meanings: Mapping[str, str] = MappingProxyType({}),
    ) -> EnvironmentId:
        """Build it, or return at once if it exists. Concurrent calls for one id share one build. Cancelling
        the last waiter stops the build. `meanings` are those of the version's manifest: where they hold packages,
        it gets these and no newer ones. Raises DeployFailed with the resolver's explanation."""
        ...

    def packages(self, environment: EnvironmentId) -> Sequence[str]:
        """The packages from an index in an environment that is there, as in "six==1.17.0"."""
        ...

    def pythons(self) -> Sequence[str]:
        """The versions of Python that an environment may ask for. Looks at the disk."""
        ...

    def retain(self, wanted: Collection[EnvironmentId]) -> None:
        """Count these as used now, and keep every process that shares them from removing them. The others that this
        platform built or looked up before may be removed from now on."""
        ...

    async def stored(self) -> list[EnvironmentFacts]:
        """All that are there, also what interrupted builds left."""
        ...

    async def remove(self, environment: EnvironmentId) -> bool:
        """Delete it, unless a process builds or uses it; whether it was deleted."""
        ...
