"""Snapshots: per version of a function with `snapshot = true` one template, a process that has run its setup.

A refusal is kept with its reason, and a later launch tries again: a download may have failed, a port may have been
taken. No launch waits for a second attempt; the replica is started without a snapshot meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from clipper.contract.wire import LogRecord
from clipper.contract.zygote import Prepare
from clipper_platform.backends.base import SnapshotState
from clipper_platform.backends.process.import_manifest import build_identity
from clipper_platform.backends.process.launch import Launch
from clipper_platform.backends.process.output import ReplicaOutput
from clipper_platform.backends.process.zygotes import Zygote, ZygoteRefused
from clipper_platform.clock import Clock
from clipper_platform.types import FunctionId

__all__ = ["Snapshots", "TemplateStarter"]

# From the start of a template that ended, or was given up, to the next attempt: the machine may have had no room.
REMAKE_S = 60.0
# After a refusal, doubled with each one that follows. An attempt costs a whole setup, in the background.
RETRY_FIRST_S = 30.0
RETRY_MOST_S = 900.0
# A template that no launch used for so long is given up, sooner if a newer version has one.
IDLE_S = 3600.0
SUPERSEDED_IDLE_S = 60.0

TemplateStarter = Callable[[Launch, Prepare, ReplicaOutput], Zygote]
"""Starts a process for a launch, with this first request. Raises OSError."""


@dataclass(slots=True)
class _Snapshot:
    function: FunctionId
    making: asyncio.Task[Zygote | None]  # starts the template
    started_at: float
    used_at: float
    refusal: str = ""  # why the latest attempt failed
    refusals: int = 0  # one after the other
    lasting: bool = False  # another attempt would end the same
    refused_at: float = 0.0

    @property
    def zygote(self) -> Zygote | None:
        task = self.making
        return task.result() if task.done() and not task.cancelled() and task.exception() is None else None

    @property
    def retry_at(self) -> float:
        return self.refused_at + min(RETRY_MOST_S, RETRY_FIRST_S * 2.0 ** min(self.refusals - 1, 16))


class Snapshots:
    """Belongs to one event loop. `say` writes a line into a function's log; `spawn` runs a task and holds it."""

    def __init__(
        self,
        start: TemplateStarter,
        say: Callable[[Launch, str], None],
        spawn: Callable[[Coroutine[Any, Any, Zygote | None]], asyncio.Task[Zygote | None]],
        clock: Clock,
    ) -> None:
        self._start = start
        self._say = say
        self._spawn = spawn
        self._clock = clock
        self._snapshots: dict[bytes, _Snapshot] = {}

    async def source(self, launch: Launch) -> Zygote | None:
        """The template to fork a replica from; None: there is none. Waits while the first one is made."""
        key, spec = _key(launch), launch.spec
        now = self._now()
        snapshot = self._snapshots.get(key)
        if snapshot is None:
            # Other secrets, or another build: the template of before must give nobody the old ones.
            self._end(lambda other: other.function == spec.function)
            snapshot = self._snapshots[key] = _Snapshot(spec.function, self._begin(launch, key), now, now)
        elif self._due(snapshot, now):
            snapshot.started_at = now
            snapshot.making = self._begin(launch, key)
        snapshot.used_at = now
        if snapshot.refusal:
            return None
        # Shielded: a launch that is cancelled must not cancel the template that others wait for.
        zygote = await asyncio.shield(snapshot.making)
        return zygote if zygote is not None and zygote.usable else None

    def state(self, function: FunctionId) -> SnapshotState | None:
        """The state of the function's snapshot that was used last; None if no launch wanted one."""
        found = [snapshot for snapshot in self._snapshots.values() if snapshot.function == function]
        if not found:
            return None
        snapshot = max(found, key=lambda one: one.used_at)
        if snapshot.refusal:
            retry_s = None if snapshot.lasting else max(0.0, snapshot.retry_at - self._now())
            return SnapshotState("refused", snapshot.refusal, retry_s)
        if not snapshot.making.done():
            return SnapshotState("making")
        if (zygote := snapshot.zygote) is not None and zygote.usable:
            return SnapshotState("ready")
        retry_s = max(0.0, snapshot.started_at + REMAKE_S - self._now())
        return SnapshotState("gone", "its process ended, or was given up to save memory", retry_s)

    def forget_project(self, project: str) -> None:
        """Its secrets changed: end the templates that were set up with the earlier ones."""
        self._end(lambda snapshot: snapshot.function.project == project)

    def _end(self, which: Callable[[_Snapshot], bool]) -> None:
        """Let these fork no more. One that is still being made ends when it is."""
        for key, snapshot in [(key, snapshot) for key, snapshot in self._snapshots.items() if which(snapshot)]:
            del self._snapshots[key]
            snapshot.making.add_done_callback(lambda _, ended=snapshot: _retire(ended))  # type: ignore[misc]

    def forget_idle(self) -> None:
        """Retire templates that no launch used for long, and forget old refusals."""
        now = self._now()
        newest: dict[tuple[str, str], int] = {}
        for snapshot in self._snapshots.values():
            name = (snapshot.function.project, snapshot.function.function)
            newest[name] = max(newest.get(name, 0), snapshot.function.version)
        for key, snapshot in list(self._snapshots.items()):
            function, zygote = snapshot.function, snapshot.zygote
            superseded = function.version < newest[function.project, function.function]
            idle_s = SUPERSEDED_IDLE_S if superseded else IDLE_S
            if snapshot.making.done() and now - snapshot.used_at >= idle_s and not (zygote and zygote.children):
                _retire(snapshot)
                del self._snapshots[key]

    def _due(self, snapshot: _Snapshot, now: float) -> bool:
        """Whether the next attempt is due."""
        if not snapshot.making.done():
            return False
        if snapshot.refusal:
            return not snapshot.lasting and now >= snapshot.retry_at
        zygote = snapshot.zygote
        return (zygote is None or not zygote.usable) and now - snapshot.started_at > REMAKE_S

    def _begin(self, launch: Launch, key: bytes) -> asyncio.Task[Zygote | None]:
        return self._spawn(self._make(launch, key))

    async def _make(self, launch: Launch, key: bytes) -> Zygote | None:
        spec = launch.spec
        request = Prepare(str(launch.bundle), dict(spec.spec))
        try:
            zygote = self._start(launch, request, ReplicaOutput(self._lines(launch), self._clock))
            await zygote.become(spec.startup_timeout_s)
        except (ZygoteRefused, OSError) as error:
            if (snapshot := self._snapshots.get(key)) is None:
                return None  # it was ended meanwhile
            self._refused(snapshot, error)
            self._say(launch, f"no snapshot of {spec.function}: {error}; its replicas start without one")
            return None
        if (snapshot := self._snapshots.get(key)) is not None:
            snapshot.refusal, snapshot.refusals = "", 0
        return zygote

    def _refused(self, snapshot: _Snapshot, error: ZygoteRefused | OSError) -> None:
        snapshot.refusal = str(error) or type(error).__name__
        snapshot.refusals += 1
        snapshot.refused_at = self._now()
        snapshot.lasting = isinstance(error, ZygoteRefused) and error.lasting

    def _lines(self, launch: Launch) -> Callable[[Sequence[LogRecord]], None]:
        def emit(records: Sequence[LogRecord]) -> None:
            for record in records:
                self._say(launch, record.message)

        return emit

    def _now(self) -> float:
        return self._clock.monotonic()


def _retire(snapshot: _Snapshot) -> None:
    if (zygote := snapshot.zygote) is not None:
        zygote.retire()


def _key(launch: Launch) -> bytes:
    """Equal launches, equal keys: the version, the secrets' values, the build of the environment."""
    spec, environment = launch.spec, launch.environment
    parts = [str(spec.function), str(launch.bundle), environment.id, build_identity(environment), spec.memory_bytes]
    return msgspec.json.encode([*parts, spec.spec, sorted(spec.env.items())])
