"""Bringing a version up: environment, bundle, replicas. Shared by deploy, rollback and restart."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from clipper.contract.manifest import PACKAGES, Manifest
from clipper.contract.spec import AutoscalingPolicy, FunctionSpec
from clipper_platform.control.current import Current
from clipper_platform.control.ports import Artifacts, Replicas
from clipper_platform.control.tasks import uninterrupted
from clipper_platform.control.versions.deploy_request import DeployRequest
from clipper_platform.environments.base import BuildProgress, EnvironmentBuilder
from clipper_platform.errors import DeployFailed, InternalError, InvalidSpec, NotFound
from clipper_platform.replicas.base import Progress, Target
from clipper_platform.types import BundleDigest, EnvironmentId, FunctionId

__all__ = ["Rollout", "initial_replicas"]


def initial_replicas(spec: FunctionSpec) -> int:
    """How many replicas a version starts with: its minimum, at least one, at most its maximum."""
    policy = spec.autoscaling
    return min(max(1, policy.min_replicas), policy.max_replicas)


class Rollout:
    """Prepares versions and starts their replicas."""

    def __init__(
        self,
        artifacts: Artifacts,
        environments: EnvironmentBuilder,
        replicas: Replicas,
        *,
        secrets: Callable[[str], Awaitable[Mapping[str, str]]],
        policy_of: Callable[[FunctionId, FunctionSpec], AutoscalingPolicy] = lambda _, spec: spec.autoscaling,
    ) -> None:
        """`secrets(project)`: `ProjectSecrets.read`. `policy_of(id, spec)`: the autoscaling policy that counts for a
        function."""
        self._secrets = secrets
        self._artifacts = artifacts
        self._environments = environments
        self._replicas = replicas
        self._policy_of = policy_of

    async def resolve(self, request: DeployRequest, current: Current | None, now: float) -> Manifest:
        """The manifest to deploy, with what its moving references mean now. `current` is the version that answers."""
        before = current.manifest if current else None
        meanings = await self._environments.resolve(request.manifest.environment) if request.moves else {}
        return request.resolved(meanings, before, now)

    async def prepare(self, manifest: Manifest, progress: BuildProgress) -> EnvironmentId:
        """Read the secrets, so that launches have them also when the store goes away; unpack the bundle and build the
        environment unless they are there. Returns the environment.

        Raises DeployFailed, StoreUnavailable.
        """
        await self._secrets(manifest.project)
        try:
            files = await self._artifacts.unpack(manifest.bundle, check=True)
        except (NotFound, InvalidSpec, InternalError) as error:
            raise DeployFailed(
                f"the bundle {manifest.bundle} cannot be read: {error}",
                phase="bundle",
                hint="deploy again from the project's directory: that uploads it anew",
            ) from error
        # Last: with an await after it the environment could be collected before the caller refers to it.
        return await self._environments.build(manifest.environment, progress, files, manifest.meanings)

    def with_packages(self, manifest: Manifest, environment: EnvironmentId) -> Manifest:
        """The manifest with the versions that its environment got: it is built with them again if it is lost."""
        packages = self._environments.packages(environment)
        if not packages:
            return manifest
        return replace(manifest, meanings={**manifest.meanings, PACKAGES: " ".join(packages)})

    async def start(
        self,
        manifest: Manifest,
        version: int,
        environment: EnvironmentId,
        on_progress: Progress | None = None,
        *,
        identity: str,
        like: Current | None = None,
    ) -> dict[str, Any]:
        """Start all functions at the same time and wait until they are ready; their schemas by name.

        Each gets as many replicas as that of version `like` has now, within its own bounds, so that what takes over
        can carry what is taken over. Raises DeployFailed, the first that a function met; nothing of the version runs
        on then.
        """
        targets = self._targets(manifest, version, identity, environment)
        schemas: dict[str, Any] = {}

        async def start_one(target: Target) -> None:
            replicas = max(self._initial(target), self._surge(target, like))
            schema = await self._replicas.start(target, replicas=replicas, on_progress=on_progress)
            schemas[target.id.function] = dict(schema)

        started = False
        try:
            async with asyncio.TaskGroup() as group:
                for target in targets:
                    group.create_task(start_one(target), name=f"start {target.id}")
            started = True
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            if not started:  # some of the functions may have started
                await uninterrupted(self._replicas.stop(manifest.project, version))
        return schemas

    def _surge(self, target: Target, like: Current | None) -> int:
        """Replicas that the function of version `like` has, at most as many as the target may have."""
        if like is None:
            return 0
        ready = self._replicas.ready(FunctionId(target.id.project, target.id.function, like.route.version))
        most = self._policy_of(target.id, target.spec).max_replicas
        return min(ready, most)

    def _initial(self, target: Target) -> int:
        return initial_replicas(target.spec.with_policy(self._policy_of(target.id, target.spec)))

    async def revive(
        self,
        manifest: Manifest,
        version: int,
        environment: EnvironmentId,
        schemas: Mapping[str, Any],
        *,
        identity: str,
        at_rest: bool = False,
    ) -> None:
        """Start all functions in the background: they keep trying until they run. `schemas` by function, as the
        version published them. `at_rest`: as if nobody had called them for long, with the replicas that their policies
        ask for then, maybe none."""
        for target in self._targets(manifest, version, identity, environment):
            policy = self._policy_of(target.id, target.spec)
            await self._replicas.start(
                target,
                replicas=policy.min_replicas if at_rest else self._initial(target),
                wait=False,
                schema=schemas.get(target.id.function),
                idle_s=policy.downscale_to_zero_delay_s if at_rest else 0.0,
            )

    def _targets(self, manifest: Manifest, version: int, identity: str, environment: EnvironmentId) -> list[Target]:
        return [
            Target(
                id=FunctionId(manifest.project, spec.name, version),
                spec=spec,
                environment=environment,
                bundle=BundleDigest(manifest.bundle),
                identity=identity,
                warm_pool_size=manifest.environment.warm_pool_size,
                env=manifest.env,
            )
            for spec in manifest.functions
        ]


def _first(error: BaseException) -> BaseException:
    """The error to report: a failure of a function before a defect of the platform."""
    flat = _leaves(error)
    return next((e for e in flat if isinstance(e, DeployFailed)), flat[0])


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for child in error.exceptions for leaf in _leaves(child)]
    return [error]
