"""What the control plane needs of its neighbours, as Protocols, so that it can be driven without them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, Protocol

from clipper_platform.core.canary import Answers
from clipper_platform.serving.base import FunctionStatus, Progress, Target
from clipper_platform.types import FunctionId

__all__ = ["Artifacts", "Serving", "Stored"]


class Serving(Protocol):
    """The data plane as the control plane drives it."""

    async def start(
        self,
        target: Target,
        *,
        replicas: int,
        on_progress: Progress | None = None,
        wait: bool = True,
        schema: Mapping[str, Any] | None = None,
        idle_s: float = 0.0,
    ) -> Mapping[str, Any]:
        """Start the pool of one function version, unless it runs already; wait for `replicas` ready ones; its schema.

        Raises DeployFailed. Failing or cancelled, it leaves nothing behind. With `wait=False` it returns {} at once
        and the pool keeps trying with back-off. Of a version that ran before, `schema` is what it published and
        `idle_s` how long nobody has called it.
        """
        ...

    def set_route(self, project: str, version: int) -> None: ...
    def set_weights(self, project: str, weights: Mapping[int, int]) -> None:
        """Versions share the project's calls by percent; {} and `set_route` end it."""
        ...

    def drop_route(self, project: str) -> None: ...
    async def call(self, id: FunctionId, body: bytes) -> None:
        """One invocation of a running function version. Raises what it met."""
        ...

    def answers(self, id: FunctionId) -> Answers: ...
    async def stop(self, project: str, version: int) -> None: ...
    async def restart(self, id: FunctionId) -> None:
        """Replace its replicas one after the other; one that gave up tries again. Returns when they are ready, or have
        failed anew."""
        ...

    def status(self, id: FunctionId) -> FunctionStatus | None: ...
    def versions(self, project: str) -> set[int]: ...
    def functions(self, project: str, version: int) -> list[str]: ...


class Stored(Protocol):
    """What the store says of a bundle that it took."""

    @property
    def bytes(self) -> int: ...


class Artifacts(Protocol):
    """Bundles by digest."""

    def has(self, digest: str) -> bool: ...
    async def put(self, digest: str, chunks: AsyncIterator[bytes]) -> Stored:
        """Store the archive, verified. Raises InvalidSpec, PayloadTooLarge."""
        ...

    async def unpack(self, digest: str) -> object:
        """Make the bundle's files available to the backend; what comes back is for the backend alone. Raises NotFound
        when the archive is lost, InternalError when it is damaged."""
        ...

    async def collect(self, keep: Collection[str]) -> Sequence[Stored]:
        """Remove bundles that are neither in `keep` (digests) nor new; those removed."""
        ...
