"""Snapshots: per version of a function with `snapshot = true` one template, a process that has run its setup.

What is refused is remembered with its reason, and tried again later: a download may have failed, a port been taken.
Nobody waits for such another attempt; the replica that caused it is started without a snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from clipper.contract.wire import LogRecord
from clipper_platform.backends.base import SnapshotState
from clipper_platform.backends.process.import_manifest import identity
from clipper_platform.backends.process.launch import Launch
from clipper_platform.backends.process.output import ReplicaOutput
from clipper_platform.backends.process.zygotes import Zygote, ZygoteRefused
from clipper_platform.clock import Clock
from clipper_platform.types import FunctionId

__all__ = ["TemplateMaker", "Templates"]

# After a template that ended, or was given up: its setup may have been what the machine had no room for.
REMAKE_S = 60.0
# After a refusal, doubled with each one that follows. An attempt costs a whole setup, in the background.
RETRY_FIRST_S = 30.0
RETRY_MOST_S = 900.0
# One that nobody forked for so long is given up, sooner if a newer version has one.
TEMPLATE_IDLE_S = 3600.0
SUPERSEDED_IDLE_S = 60.0

TemplateMaker = Callable[[Launch, Mapping[str, Any], ReplicaOutput], Zygote]
"""Starts a process for a launch, with this first request. Raises OSError."""


@dataclass(slots=True)
class _Template:
    function: FunctionId
    making: asyncio.Task[Zygote | None]
    started_at: float
    used_at: float
    refusal: str = ""  # why the latest attempt failed
    refusals: int = 0  # one after the other
    lasting: bool = False  # another attempt would end the same
    refused_at: float = 0.0

    @property
    def zygote(self) -> Zygote | None:
        made = self.making.done() and not self.making.cancelled() and self.making.exception() is None
        return self.making.result() if made else None

    @property
    def retry_at(self) -> float:
        return self.refused_at + min(RETRY_MOST_S, RETRY_FIRST_S * 2.0 ** min(self.refusals - 1, 16))


class Templates:
    """Belongs to one event loop. `say` writes a line into a function's log; `spawn` runs a task that is held."""

    def __init__(
        self,
        make: TemplateMaker,
        say: Callable[[Launch, str], None],
        spawn: Callable[[Coroutine[Any, Any, Zygote | None]], asyncio.Task[Zygote | None]],
        clock: Clock,
    ) -> None:
        self._make = make
        self._say = say
        self._spawn = spawn
        self._clock = clock
        self._templates: dict[bytes, _Template] = {}

    async def source(self, launch: Launch) -> Zygote | None:
        """The template to fork a replica from. Waits while the first one is made; None: there is none."""
        key, spec = _key(launch), launch.spec
        now = self._now()
        template = self._templates.get(key)
        if template is None:
            template = self._templates[key] = _Template(spec.function, self._begin(launch, key), now, now)
        elif self._due(template, now):
            template.started_at = now
            template.making = self._begin(launch, key)
        template.used_at = now
        if template.refusal:
            return None
        # Shielded: a launch that is given up must not take the template from the others.
        made = await asyncio.shield(template.making)
        return made if made is not None and made.usable else None

    def state(self, function: FunctionId) -> SnapshotState | None:
        """Of the template that was used last; None if none was asked for."""
        found = [template for template in self._templates.values() if template.function == function]
        if not found:
            return None
        template = max(found, key=lambda one: one.used_at)
        if template.refusal:
            retry_s = None if template.lasting else max(0.0, template.retry_at - self._now())
            return SnapshotState("refused", template.refusal, retry_s)
        if not template.making.done():
            return SnapshotState("making")
        if (zygote := template.zygote) is not None and zygote.usable:
            return SnapshotState("ready")
        retry_s = max(0.0, template.started_at + REMAKE_S - self._now())
        return SnapshotState("gone", "its process ended, or was given up to save memory", retry_s)

    def forget_idle(self) -> None:
        """Those that nobody uses, also the memory of a refusal."""
        now = self._now()
        newest: dict[tuple[str, str], int] = {}
        for template in self._templates.values():
            name = (template.function.project, template.function.function)
            newest[name] = max(newest.get(name, 0), template.function.version)
        for key, template in list(self._templates.items()):
            function, zygote = template.function, template.zygote
            superseded = function.version < newest[function.project, function.function]
            idle_s = SUPERSEDED_IDLE_S if superseded else TEMPLATE_IDLE_S
            if template.making.done() and now - template.used_at >= idle_s and not (zygote and zygote.children):
                if zygote is not None:
                    zygote.retire()
                del self._templates[key]

    def _due(self, template: _Template, now: float) -> bool:
        """Whether to make it again."""
        if not template.making.done():
            return False
        if template.refusal:
            return not template.lasting and now >= template.retry_at
        made = template.zygote
        return (made is None or not made.usable) and now - template.started_at > REMAKE_S

    def _begin(self, launch: Launch, key: bytes) -> asyncio.Task[Zygote | None]:
        return self._spawn(self._freeze(launch, key))

    async def _freeze(self, launch: Launch, key: bytes) -> Zygote | None:
        spec = launch.spec
        message = {"do": "prepare", "bundle": str(launch.bundle), "spec": dict(spec.spec)}
        try:
            zygote = self._make(launch, message, ReplicaOutput(self._lines(launch), self._clock))
            await zygote.become(spec.startup_timeout_s)
        except (ZygoteRefused, OSError) as error:
            self._refused(self._templates[key], error)
            self._say(launch, f"no snapshot of {spec.function}: {error}; its replicas start without one")
            return None
        template = self._templates[key]
        template.refusal, template.refusals = "", 0
        return zygote

    def _refused(self, template: _Template, error: ZygoteRefused | OSError) -> None:
        template.refusal = str(error) or type(error).__name__
        template.refusals += 1
        template.refused_at = self._now()
        template.lasting = isinstance(error, ZygoteRefused) and error.lasting

    def _lines(self, launch: Launch) -> Callable[[Sequence[LogRecord]], None]:
        def emit(records: Sequence[LogRecord]) -> None:
            for record in records:
                self._say(launch, record.message)

        return emit

    def _now(self) -> float:
        return self._clock.monotonic()


def _key(launch: Launch) -> bytes:
    """Equal launches, equal keys: the version, the secrets' values, the build of the environment."""
    spec, environment = launch.spec, launch.environment
    parts = [str(spec.function), str(launch.bundle), environment.id, identity(environment), spec.memory_bytes]
    return msgspec.json.encode([*parts, spec.spec, sorted(spec.env.items())])
