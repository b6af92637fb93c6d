"""The deployments that are remembered: those that run, and the newest of the others."""

from __future__ import annotations

import secrets
from typing import Final

from clipper.contract.manifest import Manifest
from clipper_platform.clock import Clock
from clipper_platform.control.current import Current
from clipper_platform.control.versions.deployment import Deployment
from clipper_platform.errors import NotFound

__all__ = ["Deployments"]

MAX_REMEMBERED: Final = 100


class Deployments:
    """By id, oldest first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_id: dict[str, Deployment] = {}

    def get(self, id: str) -> Deployment:
        """Raises NotFound."""
        try:
            return self._by_id[id]
        except KeyError:
            raise NotFound(f"there is no deployment {id!r}; the newest {MAX_REMEMBERED} are remembered") from None

    def running(self) -> list[Deployment]:
        return [deployment for deployment in self._by_id.values() if deployment.running]

    def bundles(self) -> set[str]:
        """The bundles of running deploys."""
        return {deployment.bundle for deployment in self.running()}

    def environments(self) -> set[str]:
        """The environments of running deploys, once they are built."""
        return {deployment.environment for deployment in self.running()} - {""}

    def begin(self, manifest: Manifest, current: Current | None, *, notice: str = "") -> Deployment:
        """Begin a deployment that is to replace `current`. `notice`: what its user should know of the store."""
        deployment = Deployment(
            id="dep_" + secrets.token_hex(8),
            project=manifest.project,
            bundle=manifest.bundle,
            function_names=tuple(spec.name for spec in manifest.functions),
            clock=self._clock,
            previous=current.route.version if current else None,
        )
        if notice:
            deployment.emit("log", f"the store: {notice}", phase="environment")
        self._by_id[deployment.id] = deployment
        over = [d.id for d in self._by_id.values() if not d.running and d is not deployment]
        for id in over[: max(0, len(self._by_id) - MAX_REMEMBERED)]:
            del self._by_id[id]
        return deployment
