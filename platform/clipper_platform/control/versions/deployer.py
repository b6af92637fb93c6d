"""Deploy, rollback, restart and delete of projects, and restoring all of them after a restart of the platform.

The steps of a deploy: environment → version recorded → replicas ready → smoke calls → canary, where it is one → route
flips → the old version is kept warm, then drains. Until the flip the old version answers (a canary shares the calls
with it, `recreate` stops it first): a failure or cancellation before the flip stops what was started and leaves the old
route alone. The flip is one compare-and-set in the store and then, without an await in between, the dispatcher's.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from clipper.contract.manifest import Manifest
from clipper_platform.clock import Clock
from clipper_platform.control.current import Current, parse_manifest
from clipper_platform.control.events import EventLog
from clipper_platform.control.log_store import LogStore
from clipper_platform.control.ports import Artifacts, Facts, Replicas, Router
from clipper_platform.control.registry import Registry
from clipper_platform.control.tasks import TaskSet, uninterrupted
from clipper_platform.control.versions.canary import Canary
from clipper_platform.control.versions.claims import Claims
from clipper_platform.control.versions.deploy_request import DeployRequest, Unchanged, read_deploy
from clipper_platform.control.versions.deployment import Deployment, DeployProblem, Forward
from clipper_platform.control.versions.deployments import Deployments
from clipper_platform.control.versions.follow import Follower
from clipper_platform.control.versions.restore import RETRY_S, Restorer
from clipper_platform.control.versions.rollout import Rollout
from clipper_platform.control.versions.smoke import smoke
from clipper_platform.control.versions.takeover import Takeover
from clipper_platform.errors import ClipperError, Conflict, InternalError, NotFound, Unavailable
from clipper_platform.store.base import Version
from clipper_platform.types import EnvironmentId, FunctionId

__all__ = ["Deployer"]

logger = logging.getLogger(__name__)

MAX_RUNNING: Final = 16  # deploys at the same time; each may hold a build and a set of starting replicas
RESTORE_WAIT_S: Final = 5.0
DELETE: Final = "a delete"


class Deployer:
    """Makes one change of a project at a time; projects do not wait for each other."""

    def __init__(
        self,
        *,
        registry: Registry,
        artifacts: Artifacts,
        rollout: Rollout,
        replicas: Replicas,
        router: Router,
        facts: Facts,
        logs: LogStore,
        events: EventLog,
        clock: Clock,
        restore_retry_s: float = RETRY_S,
    ) -> None:
        self._registry = registry
        self._artifacts = artifacts
        self._replicas = replicas
        self._router = router
        self._facts = facts
        self._logs = logs
        self._events = events
        self._clock = clock
        self._rollout = rollout
        self._tasks = TaskSet()
        self._claims = Claims(self._tasks)
        self._restorer = Restorer(rollout, replicas, router, events, self._tasks, retry_s=restore_retry_s)
        self.retry_s = self._restorer.retry_s  # seconds until a project that is not back is tried again
        self.deployments = Deployments(clock)
        self._on_change: list[Callable[[str], None]] = []
        self._working: dict[str, asyncio.Task[Current]] = {}  # deployment -> its steps, while they may be cancelled
        self._canaries: dict[str, Canary] = {}
        self.takeover = Takeover(registry, replicas, router, self._restorer, self._tasks)
        self._follower = Follower(
            registry, rollout, self._claims, events, self._tasks, replicas=replicas, takeover=self.takeover,
            drop=self._drop, retry_s=restore_retry_s,
        )  # fmt: skip
        registry.on_foreign_change(self._follower.ask)

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Have `callback(project)` called after a deploy of the project succeeded."""
        self._on_change.append(callback)

    def changes(self, project: str) -> bool:
        """Whether a deploy, a rollback, a restart or a delete of the project is under way."""
        return self._claims.held(project)

    # Deploying

    def submit(self, project: str, body: Mapping[str, Any]) -> Deployment:
        """Begin a deploy from a manifest (with optional `force` and `rebuild`); it goes on by itself.

        Raises InvalidSpec, Conflict (the project is busy, or its bundle was not uploaded), StoreUnavailable,
        Unavailable.
        """
        request = read_deploy(project, body)
        manifest = request.manifest
        self._registry.watch.check()
        if not self._artifacts.has(manifest.bundle):
            raise Conflict(
                f"the bundle {manifest.bundle} is not on the platform: upload it with "
                f"PUT /api/v1/bundles/{manifest.bundle}, then deploy again",
                bundle=manifest.bundle,
            )
        current = self._registry.current(project)
        if current is not None and request.is_answered_by(current.manifest) and not self._failed(current):
            self._claims.check_free(project)
            return self._unchanged(current, self.deployments.begin(current.manifest, current))
        if len(self._working) >= MAX_RUNNING:
            raise Unavailable(f"{MAX_RUNNING} deploys are running already; try again soon", retry_after_s=5.0)
        self._claims.claim(project, "a deploy")
        deployment = self.deployments.begin(manifest, current, notice=self._registry.watch.notice())
        steps = asyncio.create_task(self._deploy(deployment, request), name=f"deploy {project}")
        self._working[deployment.id] = steps
        self._tasks.start(self._supervise(deployment, steps), f"supervise the deploy of {project}")
        return deployment

    def get(self, id: str) -> Deployment:
        """Raises NotFound; the newest 100 are remembered."""
        return self.deployments.get(id)

    async def cancel(self, id: str) -> Deployment:
        """Stop a deploy and wait until it has ended. One that is over, or whose route is flipping, stays as it is."""
        deployment = self.get(id)
        if (steps := self._working.get(id)) is not None:
            steps.cancel()
        await deployment.wait()
        return deployment

    def canary(self, project: str) -> Canary | None:
        """The comparison of two versions that a deploy of the project is making now."""
        return self._canaries.get(project)

    def _failed(self, current: Current) -> bool:
        """Whether a function of the version gave up: deploying the same again is then worth a try."""
        project, number = current.route.project, current.route.version
        statuses = (self._facts.status(FunctionId(project, f.name, number)) for f in current.manifest.functions)
        return any(status is not None and status.state == "failed" for status in statuses)

    def _unchanged(self, current: Current, deployment: Deployment) -> Deployment:
        deployment.version = current.route.version
        deployment.previous = current.route.previous
        deployment.schemas = current.schemas
        deployment.finish("unchanged", f"no changes: version {current.route.version} is this already")
        return deployment

    async def _supervise(self, deployment: Deployment, steps: asyncio.Task[Current]) -> None:
        """Wait for a deploy's steps and record how they ended. It is never cancelled, so every deployment ends."""
        await asyncio.wait([steps])
        self._working.pop(deployment.id, None)
        if steps.cancelled():
            problem = None
        elif (error := steps.exception()) is None:
            self._succeed(deployment, steps.result())
            return
        elif isinstance(error, Unchanged):
            self._claims.release(deployment.project)
            self._unchanged(error.current, deployment)
            return
        elif isinstance(error, ClipperError):
            problem = DeployProblem.of(error, deployment.phase)
        else:
            logger.error("a deploy met a defect", exc_info=error, extra={"project": deployment.project})
            problem = DeployProblem.of(
                InternalError("the platform met a defect; its log has the details", hint="see the platform's log"),
                deployment.phase,
            )
        await self._fail(deployment, problem)

    def _succeed(self, deployment: Deployment, current: Current) -> None:
        project, number = deployment.project, current.route.version
        self._claims.release(project)
        self._events.record(project, "deploy", f"version {number} answers", version=number)
        logger.info("version %d answers", number, extra={"project": project})
        deployment.finish("succeeded", f"version {number} answers")
        for callback in self._on_change:
            callback(project)

    async def _fail(self, deployment: Deployment, problem: DeployProblem | None) -> None:
        """`problem` is None for a cancelled deploy."""
        ended = "ended: the platform was stopped" if self._claims.closed else "cancelled"
        outcome = ended if problem is None else f"{problem.phase}: {problem.message}"
        if deployment.version is not None:
            try:
                await self._registry.mark_failed(
                    deployment.project, deployment.version, (outcome.splitlines() or [""])[0]
                )
            except Exception:
                logger.exception("a failed version could not be marked", extra={"project": deployment.project})
        self._claims.release(deployment.project)
        deployment.error = problem
        self._events.record(deployment.project, "deploy_failed", f"deploy {outcome}", version=deployment.version)
        logger.warning("deploy did not succeed: %s", outcome, extra={"project": deployment.project})
        deployment.finish("cancelled" if problem is None else "failed", outcome)

    async def _deploy(self, deployment: Deployment, request: DeployRequest) -> Current:
        """The steps of a deploy. Cancelled or failing at any await, they leave nothing running."""
        manifest, environment = await self._prepare(deployment, request)
        recorded = await uninterrupted(self._record(deployment, manifest, environment))
        version = recorded.number
        before = self._registry.current(manifest.project)
        recreate = manifest.deploy.strategy == "recreate" and before is not None
        try:
            with deployment.step("replicas", f"starting version {version}"):
                self.takeover.standby.end(manifest.project)  # memory for two versions, not for three
                if recreate:
                    await self._make_room(deployment)
                forward = Forward(deployment)
                with self._logs.tap(manifest.project, version, forward.line):
                    schemas = await self._rollout.start(
                        manifest, version, environment, forward.progress, identity=recorded.identity, like=before
                    )
                deployment.schemas = schemas
            try:
                await self._try_out(deployment, manifest, version, before)
                with deployment.step("route", f"switching to version {version}"):
                    ready = await uninterrupted(self._registry.mark_ready(manifest.project, version, schemas))
                    self._working.pop(deployment.id, None)  # from here on it is too late to cancel
                    return await uninterrupted(self.takeover.flip(ready))
            except BaseException:
                await uninterrupted(self._replicas.stop(manifest.project, version))
                raise
        except BaseException:
            if recreate and before is not None and not self._claims.closed:
                self._restorer.begin(before)  # stopped for one that did not take over
            raise

    async def _prepare(self, deployment: Deployment, request: DeployRequest) -> tuple[Manifest, EnvironmentId]:
        """Raises Unchanged if the moving references mean what they meant in the version that answers."""
        with deployment.step("environment", "building the environment") as facts:
            lines = 0

            def on_line(line: str) -> None:
                nonlocal lines
                lines += 1
                deployment.emit("log", line, phase="environment")

            current = self._registry.current(deployment.project)
            manifest = await self._rollout.resolve(request, current, self._clock.time())
            if current and not self._failed(current):
                request.check_changed(manifest, current)
            deployment.environment = environment = await self._rollout.prepare(manifest, on_line)
            facts["reused"] = lines == 0  # a builder that finds the environment there has nothing to say
        return self._rollout.with_packages(manifest, environment), environment

    async def _try_out(self, deployment: Deployment, manifest: Manifest, version: int, before: Current | None) -> None:
        """The smoke calls and the canary of a version with ready replicas. Raises DeployFailed."""
        spec = manifest.deploy
        if spec.smoke:
            with deployment.step("smoke", f"trying version {version}"):
                await smoke(deployment, spec.smoke, version, self._router, self._logs)
        # A version that is still being restored has no answers to compare with.
        if spec.strategy == "canary" and before is not None and manifest.project not in self._restorer:
            old = before.route.version
            with deployment.step("canary", f"comparing version {version} with {old}"):
                canary = Canary(
                    deployment, spec, old=old, new=version, replicas=self._replicas, router=self._router,
                    facts=self._facts, clock=self._clock,
                )  # fmt: skip
                self._canaries[manifest.project] = canary
                try:
                    await canary.run()
                finally:
                    del self._canaries[manifest.project]

    async def _make_room(self, deployment: Deployment) -> None:
        """`recreate`: drain all that runs of the project before the new version starts."""
        project = deployment.project
        self._restorer.explain(project, f"version {deployment.version} takes its place, after it has stopped")
        self.takeover.standby.forget(project)
        await self._restorer.stop(project)
        await asyncio.gather(*(self._replicas.stop(project, number) for number in self._replicas.versions(project)))

    async def _record(self, deployment: Deployment, manifest: Manifest, environment: str) -> Version:
        version = await self._registry.add_version(manifest, environment)
        deployment.version = version.number
        return version

    # Rollback and delete

    async def rollback(self, project: str, number: int | None = None) -> Current:
        """Let an earlier version answer again, healthy before the route flips.

        Raises NotFound, Conflict, DeployFailed, StoreUnavailable.
        """
        self._registry.project(project)
        self._registry.watch.check()
        current = self._registry.current(project)
        unusable = self._registry.unusable(project)
        if number is None:
            route = current.route if current else unusable.route if unusable else None
            number = route.previous if route else None
            if number is None:
                raise Conflict(f"{project!r} has no previous version to return to")
        if current is not None and current.route.version == number:
            raise Conflict(f"version {number} of {project!r} is the one that answers already")
        version = await self._registry.version(project, number)
        if version.state != "ready":
            why = f": {version.detail}" if version.detail else ""
            raise Conflict(f"version {number} of {project!r} never became ready{why}")
        return await self._claims.exclusively(project, "a rollback", self._roll_back(version))

    async def _roll_back(self, version: Version) -> Current:
        project, number = version.project, version.number
        manifest = parse_manifest(version)
        await self.takeover.reuse(project, number)
        environment = await self._rollout.prepare(manifest, lambda _: None)
        before = self._registry.current(project)
        await self._rollout.start(manifest, number, environment, identity=version.identity, like=before)
        try:
            current = await uninterrupted(self.takeover.flip(version))
        except BaseException:
            if not self._answers(project, number):
                await uninterrupted(self._replicas.stop(project, number))
            raise
        self._events.record(project, "rollback", f"rolled back to version {number}", version=number)
        logger.info("rolled back to version %d", number, extra={"project": project})
        return current

    async def restart(self, project: str, function: str | None = None) -> Current:
        """Replace the replicas of the version that answers, or of one function of it, one after the other; one that
        gave up tries again. Returns when they are ready or have failed anew.

        Raises NotFound, Conflict, Unavailable.
        """
        current = self._registry.check_answers(project)
        names = [spec.name for spec in current.manifest.functions if function in (None, spec.name)]
        if not names:
            raise NotFound(f"project {project!r} has no function {function!r}")
        return await self._claims.exclusively(project, "a restart", self._restart(current, names))

    async def _restart(self, current: Current, functions: list[str]) -> Current:
        project, number = current.route.project, current.route.version
        if project in self._restorer:
            await self._restorer.stop(project)
            self._restorer.begin(current)
            await self._restorer.wait(RESTORE_WAIT_S)
        else:
            await asyncio.gather(*(self._replicas.restart(FunctionId(project, name, number)) for name in functions))
        self._events.record(project, "restart", f"restarted {', '.join(functions)}", version=number)
        return current

    def _answers(self, project: str, number: int) -> bool:
        current = self._registry.current(project)
        return current is not None and current.route.version == number

    async def delete(self, project: str, *, force: bool = False) -> None:
        """Delete a project: its names lead nowhere from now on. Returns when calls that run have ended.

        `force` cuts them off, also those that an earlier delete waits for. Raises NotFound, Conflict, StoreUnavailable.
        """
        if force and self._claims.held(project, DELETE):
            self._replicas.cut(project)
            await self._claims.wait_free(project)
            return
        self._registry.project(project)
        await self._claims.exclusively(project, DELETE, self._delete(project, 0.0 if force else math.inf))

    async def _delete(self, project: str, grace_s: float) -> None:
        await self._registry.delete_project(project)
        await self._drop(project, grace_s)
        logger.info("deleted", extra={"project": project})

    async def _drop(self, project: str, grace_s: float = math.inf) -> None:
        """End all that runs of a project that the store holds no more."""
        await self.takeover.end_all(project, grace_s=grace_s)
        await self._logs.delete(project)

    # Restart and shutdown

    def trouble(self, project: str) -> str:
        """Why a routed project could not be restored yet; empty if it was."""
        return self._restorer.trouble(project)

    async def restore(self, wait_s: float = RESTORE_WAIT_S) -> None:
        """Restore every route. Returns when all are back, at the latest after `wait_s`; the rest goes on."""
        self._restorer.begin_all(self._registry.routed())
        await self._restorer.wait(wait_s)

    async def close(self) -> None:
        """Cancel what can be cancelled, let a flip that has begun end, and accept nothing more."""
        self._claims.closed = True
        self.takeover.close()
        for steps in list(self._working.values()):
            steps.cancel()
        for deployment in self.deployments.running():
            await deployment.wait()
        await self._tasks.cancel()
