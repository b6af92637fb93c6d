"""What the control plane needs of its neighbours, as Protocols, so that tests can drive it without them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from clipper_platform.control.function_facts import FunctionBatches, FunctionStatus
from clipper_platform.core.canary import Answers
from clipper_platform.replicas.base import Progress, Target
from clipper_platform.serving.call import Answer
from clipper_platform.types import BundleDigest, EnvironmentId, FunctionId

__all__ = ["Artifacts", "Facts", "Replicas", "Router", "Stored"]


class Replicas(Protocol):
    """The replica sets of all function versions."""

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
        """Start the replicas of a function version, unless they run already; its schema once `replicas` are ready.

        Raises DeployFailed, and leaves nothing behind, nor does a cancellation. With `wait=False` it returns {} at
        once, and failed starts are repeated with back-off. For a version that ran before, `schema` is what it published
        and `idle_s` is how long nobody has called it.
        """
        ...

    async def stop(self, project: str, version: int, *, grace_s: float = math.inf) -> None:
        """Answer what was admitted, within what its functions declare and `grace_s`, then end the version's
        replicas."""
        ...

    def resume(self, project: str, version: int) -> None:
        """Let a version whose drain is under way admit calls again, as far as it has not ended."""
        ...

    def cut(self, project: str) -> None:
        """End the drains of a project now, with what still runs."""
        ...

    async def restart(self, id: FunctionId) -> None:
        """Replace the replicas one after the other; a set that gave up tries again. Returns when they are ready, or
        have failed anew."""
        ...

    def versions(self, project: str) -> set[int]:
        """The versions that have replica sets."""
        ...

    def identities(self, project: str) -> dict[int, str]:
        """The same, each with its identity."""
        ...

    def functions(self, project: str, version: int) -> list[str]:
        """The functions of a version that have replica sets."""
        ...

    def bundles(self) -> set[BundleDigest]:
        """The bundles that replicas are started from."""
        ...

    def environments(self) -> set[EnvironmentId]:
        """The environments that replicas run in."""
        ...

    def ready(self, id: FunctionId) -> int:
        """How many replicas are ready."""
        ...


class Router(Protocol):
    """Which versions callers reach, and calls of the platform's own."""

    def set_route(self, project: str, version: int) -> None: ...
    def set_weights(self, project: str, weights: Mapping[int, int]) -> None:
        """Versions share the project's calls by percent; {} and `set_route` end it."""
        ...

    def drop_route(self, project: str) -> None: ...
    async def call(
        self, function: FunctionId | str, body: bytes, *, request_id: str = "", use_cache: bool = True
    ) -> Answer:
        """Invoke a function and wait for its answer. Raises what the invocation met."""
        ...


class Facts(Protocol):
    """What is known of function versions that run."""

    def status(self, id: FunctionId) -> FunctionStatus | None: ...
    def answers(self, id: FunctionId) -> Answers: ...
    def batches(self, id: FunctionId) -> FunctionBatches | None: ...


class Stored(Protocol):
    """A stored bundle. `used_at`: when it was stored or asked for last, in Unix seconds."""

    @property
    def digest(self) -> BundleDigest: ...
    @property
    def bytes(self) -> int: ...
    @property
    def used_at(self) -> float: ...


class Artifacts(Protocol):
    """Bundles by digest."""

    def has(self, digest: str) -> bool: ...
    async def put(self, digest: str, chunks: AsyncIterator[bytes]) -> Stored:
        """Store the archive, verified. Raises InvalidSpec, PayloadTooLarge."""
        ...

    async def unpack(self, digest: str, *, check: bool = False) -> Path:
        """Make the bundle's files available to the backend; what comes back is for the backend alone. Raises NotFound
        when the archive is lost, InternalError when it is damaged."""
        ...

    async def list(self) -> Sequence[Stored]: ...
    async def sizes(self) -> Mapping[BundleDigest, int]:
        """Bytes that each bundle takes up."""
        ...

    async def discard(self, digest: str, *, asked_before: float) -> bool:
        """Remove the bundle unless it was stored or asked for after `asked_before` (Unix seconds)."""
        ...

    async def collect(self, keep: Collection[str], *, min_age_s: float) -> Sequence[Stored]:
        """Remove the bundles that are not in `keep` (digests) and were not stored or asked for within `min_age_s`;
        those removed."""
        ...
