"""The parts of the platform that the gateway's routes use; the composition root joins them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from clipper_platform.applications.applications import Applications
from clipper_platform.backends.base import IsolationState
from clipper_platform.clock import Clock
from clipper_platform.control.access.keyring import Keyring
from clipper_platform.control.access.secrets import ProjectSecrets
from clipper_platform.control.log_store import LogStore
from clipper_platform.control.materializing import Materializer
from clipper_platform.control.ports import Artifacts, Facts
from clipper_platform.control.registry import Registry
from clipper_platform.control.scaling.autoscaler import Autoscaler
from clipper_platform.control.scaling.policies import Policies
from clipper_platform.control.storage import Storage
from clipper_platform.control.versions.deployer import Deployer
from clipper_platform.gateway.auth import Access
from clipper_platform.gateway.lifecycle import Lifecycle
from clipper_platform.gateway.origin_policy import OriginPolicy

__all__ = ["PlatformFacts", "Services"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformFacts:
    """What does not change while the platform runs. Sizes in bytes."""

    version: str
    backend: str
    isolation: IsolationState
    home: str
    started_at: float  # Unix seconds
    max_body_bytes: int
    max_bundle_bytes: int
    pythons: Callable[[], Sequence[str]] = tuple
    """Interpreters that an environment may ask for; called in a thread, as it may look at the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """`access.open_invoke` is `origin_policy.loopback`, unless a caller wants it stricter."""

    registry: Registry
    keyring: Keyring
    secrets: ProjectSecrets
    access: Access
    origin_policy: OriginPolicy
    deployer: Deployer
    logs: LogStore
    artifacts: Artifacts
    facts: Facts
    policies: Policies
    autoscaler: Autoscaler
    storage: Storage
    materializer: Materializer
    applications: Applications
    lifecycle: Lifecycle
    clock: Clock
    metrics_slices: Callable[[], Iterable[bytes]]
    """The exposition in pieces; the event loop runs other work after each."""

    metrics_type: str
    platform: PlatformFacts
    extra_routes: Sequence[BaseRoute] = ()
    """Tried before the gateway's own: those of invocations."""

    lifespan: Callable[[Starlette], AbstractAsyncContextManager[Any]] | None = None
