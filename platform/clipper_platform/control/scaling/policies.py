"""Which autoscaling policy a function has: the one that was deployed with it, or one that was applied live.

An applied policy is stored with the digest of the policy that was deployed at that time. It holds, through deploys and
restarts, until a version answers that declares another policy: then the file in the project has changed, and wins.
Policies that another platform applies or withdraws are read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from clipper.contract.spec import AutoscalingPolicy, SpecError
from clipper_platform.clock import Clock
from clipper_platform.control.registry import Registry
from clipper_platform.control.scaling.schedules import Plan
from clipper_platform.errors import ClipperError, Conflict, InvalidSpec, NotFound, StoreUnavailable
from clipper_platform.store.base import Changes, MetadataStore, Policy

__all__ = ["Effective", "Policies", "digest_of"]

logger = logging.getLogger(__name__)

WATCH_PERIOD_S: Final = 1.0


def digest_of(policy: AutoscalingPolicy) -> str:
    """The same for policies that say the same, however their files are written."""
    return "sha256:" + hashlib.sha256(msgspec.json.encode(policy.to_dict(), order="deterministic")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """The policy in force. `applied` is the record of one that was applied live, None for the deployed one."""

    policy: AutoscalingPolicy
    deployed: AutoscalingPolicy
    applied: Policy | None


class Policies:
    """The applied policies: in memory, written to the store first."""

    def __init__(self, registry: Registry, store: MetadataStore, clock: Clock) -> None:
        self._registry = registry
        self._store = store
        self._clock = clock
        self._applied: dict[tuple[str, str], tuple[Policy, AutoscalingPolicy]] = {}
        self._changed: list[Callable[[str, str], None]] = []
        # Of those, the ones that a version ended: for ever, even if the next version declares what an earlier one did.
        self._ended: set[tuple[str, str]] = set()
        self._has_ended = asyncio.Event()
        self._lock = asyncio.Lock()  # a policy that is being stored must not be missing in what is read meanwhile
        self._stale = False  # whether the stored policies may differ
        registry.on_route(self._routed)
        registry.watch.on_poll(self._polled)

    def on_change(self, callback: Callable[[str, str], None]) -> None:
        """Have `callback(project, function)` called when another policy is in force from now on."""
        self._changed.append(callback)

    async def load(self) -> None:
        """Raises StoreUnavailable."""
        async with self._lock:
            await self._read()

    async def _read(self) -> None:
        self._stale = True
        records = {(record.project, record.function): record for record in await self._store.list_policies()}
        self._stale = False
        for key in [key for key in self._applied if key not in records]:
            self._forget(key)
            self._announce(*key)
        for key, record in records.items():
            known = self._applied.get(key)
            if known is not None and known[0] == record:
                continue
            try:
                policy = AutoscalingPolicy.parse(record.policy, where="/".join(key))
            except SpecError as error:
                logger.error("an applied policy cannot be read and is ignored: %s", error)
                continue
            self._remember(record, policy)
            self._announce(*key)

    async def _polled(self, changes: Changes) -> None:
        if changes.policies or self._stale:
            try:
                await self.load()
            except StoreUnavailable as error:
                logger.warning("policies that changed could not be read yet: %s", error)

    def _remember(self, record: Policy, policy: AutoscalingPolicy) -> None:
        key = record.project, record.function
        self._applied[key] = record, policy
        if self._is_over(record):  # a version was routed while it was stored
            self._ended.add(key)
            self._has_ended.set()
        else:
            self._ended.discard(key)

    def _forget(self, key: tuple[str, str]) -> None:
        self._applied.pop(key, None)
        self._ended.discard(key)

    def records(self, project: str) -> list[Policy]:
        """Those applied to functions of the project, as stored."""
        return [record for (name, _), (record, _) in self._applied.items() if name == project]

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
                self._has_ended.set()

    def _is_over(self, record: Policy) -> bool:
        """Whether the version that answers declares another policy than the one that this one replaced."""
        current = self._registry.current(record.project)
        if current is None or current.route.revision < record.route:
            return False  # it was applied, by another platform, to a version that does not answer here yet
        spec = current.function(record.function)
        return spec is None or digest_of(spec.autoscaling) != record.declared

    def effective(self, project: str, function: str) -> Effective:
        """Of the version that answers. Raises NotFound."""
        deployed, _ = self._declared(project, function)
        policy = self.of(project, function, deployed)
        found = self._applied.get((project, function))
        record = found[0] if found is not None and found[1] is policy else None
        return Effective(policy=policy, deployed=deployed, applied=record)

    async def apply(self, project: str, function: str, table: Mapping[str, Any], digest: str = "") -> Effective:
        """Let `table` be the function's policy from now on; `digest` is that of its file, for people.

        Raises InvalidSpec, NotFound, StoreUnavailable, and Conflict if another platform applied one at the same time.
        """
        deployed, route = self._declared(project, function)
        try:
            policy = AutoscalingPolicy.parse(table, where="policy")
        except SpecError as error:
            raise InvalidSpec(str(error), key=error.key, where=error.where) from None
        Plan(policy, None, lambda: 0.0)  # refuses a cron expression that never comes true
        self._registry.watch.check()
        async with self._lock:
            known = self._applied.get((project, function))
            record = Policy(
                project=project,
                function=function,
                policy=policy.to_dict(),
                digest=digest or digest_of(policy),
                applied_at=self._clock.time(),
                declared=digest_of(deployed),
                route=route,
                revision=known[0].revision if known else 0,
            )
            with self._stale_on_doubt():
                self._remember(await self._store.put_policy(record), policy)
        self._announce(project, function)
        return self.effective(project, function)

    async def withdraw(self, project: str, function: str) -> Effective:
        """Return to the policy that was deployed. Raises NotFound where none was applied, StoreUnavailable, Conflict as
        `apply` does."""
        self._declared(project, function)
        async with self._lock:
            known = self._applied.get((project, function))
            if known is None:
                raise NotFound(f"no policy was applied to {project}/{function}: it has the one it was deployed with")
            self._registry.watch.check()
            with self._stale_on_doubt():
                await self._delete(known[0])
            self._forget((project, function))
        self._announce(project, function)
        return self.effective(project, function)

    async def _delete(self, record: Policy) -> None:
        try:
            await self._store.delete_policy(record)
        except NotFound:
            pass  # an earlier attempt got through although its answer was lost

    @contextlib.contextmanager
    def _stale_on_doubt(self) -> Iterator[None]:
        """What is stored is read again after a write whose outcome is unknown, or that came second."""
        try:
            yield
        except (Conflict, StoreUnavailable):
            self._stale = True
            raise

    async def watch(self, ended: Callable[[str, str], None], period_s: float = WATCH_PERIOD_S) -> None:
        """Forget applied policies that a newly routed version ends, for ever; calls `ended(project, function)` of
        each."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(period_s):
                    await self._has_ended.wait()
            try:
                self._has_ended.clear()
                for project, function in await self.sweep():
                    ended(project, function)
            except Exception:
                logger.exception("a round over the applied policies failed")

    async def sweep(self) -> list[tuple[str, str]]:
        """Forget the policies that ended: (project, function). One that cannot be deleted now is tried again."""
        forgotten = []
        for key in sorted(self._ended):
            async with self._lock:
                found = self._applied.get(key)
                if found is None or key not in self._ended:
                    continue  # since this round began
                try:
                    with self._stale_on_doubt():
                        await self._delete(found[0])
                except ClipperError as error:
                    logger.warning("the policy of %s/%s could not be deleted yet: %s", *key, error)
                    continue
                self._forget(key)
            forgotten.append(key)
        return forgotten

    def forget(self, project: str) -> None:
        """The project was deleted, and in the store its policies with it."""
        for key in [key for key in self._applied if key[0] == project]:
            self._forget(key)

    def _declared(self, project: str, function: str) -> tuple[AutoscalingPolicy, int]:
        """The policy that the answering version declares, and the revision of its route."""
        current = self._registry.check_answers(project)
        spec = current.function(function)
        if spec is None:
            raise NotFound(f"project {project!r} has no function {function!r}")
        return spec.autoscaling, current.route.revision

    def _announce(self, project: str, function: str) -> None:
        for callback in self._changed:
            callback(project, function)
