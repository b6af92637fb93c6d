"""Versions that callers pin (`project/function@3`) and no route leads to: started for the first call, ended when no
call has come for a while. So every version that is kept stays callable, and costs nothing while it is not called."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from clipper_platform.clock import Clock
from clipper_platform.control.current import parse_manifest
from clipper_platform.control.ports import Facts, Replicas
from clipper_platform.control.registry import Registry
from clipper_platform.control.versions.rollout import Rollout
from clipper_platform.errors import ClipperError, NotFound, Unavailable
from clipper_platform.types import FunctionId

__all__ = ["PinnedVersions"]

logger = logging.getLogger(__name__)

IDLE_S = 300.0  # like the default of downscale_to_zero_delay_s
WATCH_PERIOD_S = 5.0


class PinnedVersions:
    """`reuse(project, version)` takes back a drain of that version that may be under way; `trouble(project)` says
    why a routed project does not answer, `retry_s(project)` in how many seconds it is tried again."""

    def __init__(
        self,
        *,
        registry: Registry,
        rollout: Rollout,
        replicas: Replicas,
        facts: Facts,
        clock: Clock,
        reuse: Callable[[str, int], Awaitable[None]],
        trouble: Callable[[str], str],
        retry_s: Callable[[str], float],
        idle_s: float = IDLE_S,
    ) -> None:
        self._registry = registry
        self._rollout = rollout
        self._replicas = replicas
        self._facts = facts
        self._clock = clock
        self._reuse = reuse
        self._trouble = trouble
        self._retry_s = retry_s
        self._idle_s = idle_s
        self._starting: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._used: dict[tuple[str, int], tuple[int, float]] = {}  # version -> (its calls, when they last grew)

    def starting(self, project: str) -> set[int]:
        """The versions of a project that are being started."""
        return {number for name, number in self._starting if name == project}

    async def wake(self, path: str) -> None:
        """Make `project/function[@version]` answer, if it can. Returns when invocations may be queued for it.

        Raises NotFound, Unavailable, or what the start of the version raises.
        """
        name, _, pinned = path.partition("@")
        project, _, function = name.partition("/")
        current = self._registry.current(project)
        unusable = self._registry.unusable(project)
        found = current or unusable
        if found is None:
            raise NotFound(f"there is no project {project!r}")
        number = int(pinned) if pinned.isascii() and pinned.isdigit() and len(pinned) < 10 else None
        if pinned and number is None:
            raise NotFound(f"{pinned!r} is not a version: versions are numbers, as in {name}@{found.route.version}")
        if number is None or number == found.route.version:
            known = [s.name for s in current.manifest.functions] if current else unusable.functions if unusable else ()
            if known and function not in known:
                raise self._no_function(project, function, known)
            if unusable is not None:
                raise Unavailable(f"{name} does not answer: {unusable.why}")
            why = self._trouble(project) or "it is being started"
            raise Unavailable(f"{name} does not answer yet: {why}", retry_after_s=max(1.0, self._retry_s(project)))
        await self._start_once(project, function, number)

    def _no_function(self, project: str, function: str, known: Sequence[str]) -> NotFound:
        return NotFound(f"project {project!r} has no function {function!r}; it has {', '.join(sorted(known))}")

    async def _start_once(self, project: str, function: str, number: int) -> None:
        version = await self._registry.version(project, number)
        if version.state != "ready":
            raise NotFound(f"version {number} of {project!r} never became ready")
        manifest = parse_manifest(version)
        if all(spec.name != function for spec in manifest.functions):
            raise self._no_function(f"{project}@{number}", function, [s.name for s in manifest.functions])
        key = (project, number)
        task = self._starting.get(key)
        if task is None:
            task = asyncio.create_task(self._start(project, number), name=f"pin {project}@{number}")
            self._starting[key] = task
            task.add_done_callback(lambda _: self._starting.pop(key, None))
        await asyncio.shield(task)

    async def _start(self, project: str, number: int) -> None:
        await self._reuse(project, number)
        version = await self._registry.version(project, number)
        manifest = parse_manifest(version)
        if not {spec.name for spec in manifest.functions} <= set(self._replicas.functions(project, number)):
            environment = await self._rollout.prepare(manifest, lambda _: None)
            await self._rollout.revive(manifest, number, environment, version.schemas, identity=version.identity)
            logger.info("started for callers that pin it", extra={"project": project, "version": number})
        self._used[project, number] = (-1, self._clock.monotonic())

    async def watch(self) -> None:
        """End idle pinned versions, for ever."""
        while True:
            await asyncio.sleep(WATCH_PERIOD_S)
            try:
                await self.sweep()
            except Exception:
                logger.exception("a round over the pinned versions failed")

    async def sweep(self) -> None:
        """End the pinned versions that got no call for `idle_s` seconds."""
        now = self._clock.monotonic()
        for (project, number), (before, since) in list(self._used.items()):
            current = self._registry.current(project)
            routed = current is not None and current.route.version == number
            if routed or number not in self._replicas.versions(project):
                del self._used[project, number]
                continue
            calls = self._calls(project, number)
            if calls != before:
                self._used[project, number] = (calls, now)
            elif now - since >= self._idle_s:
                del self._used[project, number]
                logger.info("idle, ended", extra={"project": project, "version": number})
                try:
                    await self._replicas.stop(project, number)
                except ClipperError as error:
                    logger.warning("%s@%d did not stop: %s", project, number, error)

    def _calls(self, project: str, number: int) -> int:
        """Calls that the version's replicas answered, and those under way: the number changes with each call."""
        total = 0
        for name in self._replicas.functions(project, number):
            status = self._facts.status(FunctionId(project, name, number))
            if status is not None:
                total += sum(replica.invocations for replica in status.replicas) + status.queue_depth + status.running
        return total

    async def close(self) -> None:
        for task in list(self._starting.values()):
            task.cancel()
        await asyncio.gather(*self._starting.values(), return_exceptions=True)
