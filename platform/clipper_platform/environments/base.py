"""Environments: requirements in, something that runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from clipper.contract.spec import EnvironmentSpec
from clipper_platform.types import EnvironmentId

__all__ = ["BuildProgress", "EnvironmentBuilder"]

BuildProgress = Callable[[str], None]
"""Called with each line that the build says, from the event loop's thread."""


class EnvironmentBuilder(Protocol):
    """Builds environments of one kind; the platform keeps their ids. A backend is given the builder's own look-up
    from an id to what it runs."""

    def identify(self, spec: EnvironmentSpec) -> EnvironmentId:
        """The digest of what is asked for: equal specs, equal ids. Raises DeployFailed if the asked-for
        Python is not on the machine, listing those that are."""
        ...

    async def build(self, spec: EnvironmentSpec, progress: BuildProgress) -> EnvironmentId:
        """Build it, or return at once if it is there. Concurrent calls for one id share one build. Cancelling
        the last waiter stops the build. Raises DeployFailed with the resolver's explanation."""
        ...

    def pythons(self) -> Sequence[str]:
        """The versions of Python that an environment may ask for. Looks at the disk."""
        ...

    async def remove(self, environment: EnvironmentId) -> None:
        """Forget and delete it. Nothing happens if it is not there."""
        ...
