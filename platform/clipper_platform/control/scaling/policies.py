"""Which autoscaling policy a function has: the one that was deployed with it, or one that was applied live.

An applied policy is stored with the digest of what was deployed when it was applied. It holds, through deploys and
restarts, until a version answers that declares another policy: then the file in the project has changed, and wins.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from clipper.contract.spec import AutoscalingPolicy, SpecError
from clipper_platform.clock import Clock
from clipper_platform.control.registry import Registry
from clipper_platform.control.scaling.schedules import Plan
from clipper_platform.errors import ClipperError, InvalidSpec, NotFound
from clipper_platform.store.base import MetadataStore, Policy

__all__ = ["Effective", "Policies", "digest_of"]

logger = logging.getLogger(__name__)

WATCH_PERIOD_S: Final = 1.0


def digest_of(policy: AutoscalingPolicy) -> str:
    """The same for policies that say the same, however their files are written."""
    return "sha256:" + hashlib.sha256(msgspec.json.encode(policy.to_dict(), order="deterministic")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """The policy that counts. `applied` is the record of one that was applied live, None for the deployed one."""

    policy: AutoscalingPolicy
    deployed: AutoscalingPolicy
    applied: Policy | None


class Policies:
    """The applied policies: in memory, written through to the store."""

    def __init__(self, registry: Registry, store: MetadataStore, clock: Clock) -> None:
        self._registry = registry
        self._store = store
        self._clock = clock
        self._applied: dict[tuple[str, str], tuple[Policy, AutoscalingPolicy]] = {}
        self._changed: list[Callable[[str, str], None]] = []
        # Of those, the ones that a version ended: for ever, even if the next version declares what an earlier one did.
        self._ended: set[tuple[str, str]] = set()
        self._news = asyncio.Event()
        registry.on_route(self._routed)

    def on_change(self, callback: Callable[[str, str], None]) -> None:
        """Have `callback(project, function)` called when another policy counts from now on."""
        self._changed.append(callback)

    async def load(self) -> None:
        """Raises StoreUnavailable."""
        for record in await self._store.list_policies():
            try:
                policy = AutoscalingPolicy.parse(record.policy, where=f"{record.project}/{record.function}")
            except SpecError as error:
                logger.error("an applied policy cannot be read and is passed over: %s", error)
                continue
            self._remember(record, policy)

    def _remember(self, record: Policy, policy: AutoscalingPolicy) -> None:
        key = record.project, record.function
        self._applied[key] = record, policy
        if self._is_over(record):  # a version was routed while it was stored
            self._ended.add(key)
            self._news.set()
        else:
            self._ended.discard(key)

    def of(self, project: str, function: str, deployed: AutoscalingPolicy) -> AutoscalingPolicy:
        """The policy of a function whose version declares `deployed`."""
        found = self._applied.get((project, function))
        if found is None or (project, function) in self._ended or found[0].declared != digest_of(deployed):
            return deployed
        return found[1]

    def _routed(self, project: str) -> None:
        for key, (record, _) in self._applied.items():
            if key[0] == project and self._is_over(record):
                self._ended.add(key)
                self._news.set()

    def _is_over(self, record: Policy) -> bool:
        """Whether the version that answers declares another policy than the one that this one took the place of."""
        current = self._registry.current(record.project)
        if current is None:
            return False
        spec = current.function(record.function)
        return spec is None or digest_of(spec.autoscaling) != record.declared

    def effective(self, project: str, function: str) -> Effective:
        """Of the version that answers. Raises NotFound."""
        deployed = self._declared(project, function)
        policy = self.of(project, function, deployed)
        found = self._applied.get((project, function))
        record = found[0] if found is not None and found[1] is policy else None
        return Effective(policy=policy, deployed=deployed, applied=record)

    async def apply(self, project: str, function: str, table: Mapping[str, Any], digest: str = "") -> Effective:
        """Let `table` be the function's policy from now on; `digest` is that of its file, for people.

        Raises InvalidSpec, NotFound, StoreUnavailable.
        """
        deployed = self._declared(project, function)
        try:
            policy = AutoscalingPolicy.parse(table, where="policy")
        except SpecError as error:
            raise InvalidSpec(str(error), key=error.key, where=error.where) from None
        Plan(policy, None, 0.0)  # refuses a cron expression that never comes true
        self._registry.check_store()
        record = Policy(
            project=project,
            function=function,
            policy=policy.to_dict(),
            digest=digest or digest_of(policy),
            applied_at=self._clock.time(),
            declared=digest_of(deployed),
        )
        await self._store.put_policy(record)
        self._remember(record, policy)
        self._tell(project, function)
        return self.effective(project, function)

    async def withdraw(self, project: str, function: str) -> Effective:
        """Return to the policy that was deployed. Raises NotFound where none was applied, StoreUnavailable."""
        self._declared(project, function)
        if (project, function) not in self._applied:
            raise NotFound(f"no policy was applied to {project}/{function}: it has the one it was deployed with")
        self._registry.check_store()
        try:
            await self._store.delete_policy(project, function)
        except NotFound:
            pass  # an earlier attempt got through although its answer was lost
        self._applied.pop((project, function), None)
        self._ended.discard((project, function))
        self._tell(project, function)
        return self.effective(project, function)

    async def watch(self, ended: Callable[[str, str], None], period_s: float = WATCH_PERIOD_S) -> None:
        """Forget applied policies that a newly routed version ends, for ever; `ended(project, function)` is told."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(period_s):
                    await self._news.wait()
            try:
                self._news.clear()
                for project, function in await self.sweep():
                    ended(project, function)
            except Exception:
                logger.exception("a round over the applied policies failed")

    async def sweep(self) -> list[tuple[str, str]]:
        """Forget the policies that ended: (project, function). One that the store keeps now is tried again."""
        gone = []
        for project, function in sorted(self._ended):
            found = self._applied.get((project, function))
            if found is None or (project, function) not in self._ended:
                continue  # since this round began
            try:
                await self._store.delete_policy(project, function)
            except NotFound:
                pass
            except ClipperError as error:
                logger.warning("the policy of %s/%s could not be forgotten yet: %s", project, function, error)
                continue
            if self._applied.get((project, function)) is found:  # no other was applied meanwhile
                del self._applied[project, function]
                self._ended.discard((project, function))
            gone.append((project, function))
        return gone

    def forget(self, project: str) -> None:
        """The project was deleted, and in the store its policies with it."""
        for key in [key for key in self._applied if key[0] == project]:
            del self._applied[key]
            self._ended.discard(key)

    def _declared(self, project: str, function: str) -> AutoscalingPolicy:
        self._registry.project(project)
        current = self._registry.current(project)
        spec = current.function(function) if current is not None else None
        if spec is None:
            raise NotFound(f"project {project!r} has no function {function!r}")
        return spec.autoscaling

    def _tell(self, project: str, function: str) -> None:
        for callback in self._changed:
            callback(project, function)
