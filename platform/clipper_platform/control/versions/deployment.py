"""One deploy as users see it: its state and its events, which they can follow."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from clipper_platform.clock import Clock
from clipper_platform.control.log_stream import LogLine
from clipper_platform.errors import ClipperError
from clipper_platform.types import FunctionId

__all__ = ["DeployEvent", "DeployProblem", "Deployment", "DeploymentState", "Forward", "Phase"]

# The newest lines of a deploy are kept: more than any real build log seen.
MAX_EVENTS: Final = 5000
MAX_LINE_CHARACTERS: Final = 4000
MAX_PROBLEM_LINES: Final = 50

DeploymentState = Literal["running", "succeeded", "failed", "cancelled", "unchanged"]
Phase = Literal["environment", "replicas", "smoke", "canary", "route"]


class DeployEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`kind`: phase, log, progress, phase_done or done. `seq` counts from 1."""

    seq: int
    at: float
    kind: Literal["phase", "log", "progress", "phase_done", "done"]
    message: str
    phase: Phase | None = None
    data: dict[str, Any] | None = None


class DeployProblem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a deploy failed. `log`: the last lines of the build or of the replica."""

    code: str
    message: str
    phase: str
    exception: str = ""
    log: list[str] = []
    hint: str = ""

    @classmethod
    def of(cls, error: ClipperError, phase: str) -> DeployProblem:
        details = error.details
        return cls(
            code=error.code,
            message=error.message,
            phase=str(details.get("phase") or phase),
            exception=str(details.get("exception") or ""),
            log=[str(line) for line in details.get("log") or ()][-MAX_PROBLEM_LINES:],
            hint=str(details.get("hint") or ""),
        )


@dataclass(slots=True, kw_only=True, eq=False)
class Deployment:
    """Changed by the deployer only, in the event loop."""

    id: str
    project: str
    bundle: str
    function_names: tuple[str, ...]
    clock: Clock
    state: DeploymentState = "running"
    phase: Phase = "environment"
    environment: str = ""  # its id, once it is built
    version: int | None = None
    previous: int | None = None
    schemas: Mapping[str, Any] = field(default_factory=dict)
    error: DeployProblem | None = None
    _events: deque[DeployEvent] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))
    _seq: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def running(self) -> bool:
        return self.state == "running"

    def emit(
        self,
        kind: Literal["phase", "log", "progress", "phase_done", "done"],
        message: str,
        *,
        phase: Phase | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        self._seq += 1
        self._events.append(
            DeployEvent(
                seq=self._seq,
                at=self.clock.time(),
                kind=kind,
                message=message[:MAX_LINE_CHARACTERS],
                phase=phase,
                data=data,
            )
        )
        # Wakes all that wait on the old event; later callers wait on the new one.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    @contextmanager
    def step(self, phase: Phase, message: str) -> Iterator[dict[str, Any]]:
        """Report a phase and how long it took, with the facts that are put into the yielded table."""
        self.phase = phase
        self.emit("phase", message, phase=phase)
        began, facts = self.clock.monotonic(), dict[str, Any]()
        yield facts
        seconds = round(self.clock.monotonic() - began, 3)
        self.emit("phase_done", f"{phase} done", phase=phase, data={"seconds": seconds, **facts})

    def finish(self, state: DeploymentState, message: str) -> None:
        """End the deployment; the last event is `done`."""
        self.state = state
        self.emit("done", message)

    def events(self, after: int = 0) -> list[DeployEvent]:
        """The kept events with seq > after. Where older ones were dropped, the first event says how many."""
        kept = [event for event in self._events if event.seq > after]
        first = self._events[0].seq if self._events else 1
        missing = first - after - 1
        if missing > 0:
            gap = DeployEvent(
                seq=first - 1, at=self._events[0].at, kind="log", message=f"… {missing} earlier lines are not kept"
            )
            kept.insert(0, gap)
        return kept

    async def next_events(self, after: int, timeout_s: float | None = None) -> list[DeployEvent]:
        """Events with seq > after; waits for the first. Returns [] on a timeout, or after the last event."""
        changed = self._changed
        found = self.events(after)
        if found or not self.running:
            return found
        try:
            async with asyncio.timeout(timeout_s):
                await changed.wait()
        except TimeoutError:
            return []
        return self.events(after)

    async def follow(self, after: int = 0) -> AsyncIterator[DeployEvent]:
        """Every event with seq > after, live until `done`."""
        while True:
            batch = await self.next_events(after)
            for event in batch:
                yield event
                after = event.seq
            if not batch and not self.running:
                return

    async def wait(self) -> None:
        """Wait until the deploy has ended."""
        async for _ in self.follow(self._seq):
            pass


class Forward:
    """Turns log lines and progress of starting replicas into events of their deployment."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment

    def line(self, function: FunctionId, line: LogLine) -> None:
        self._deployment.emit("log", line.message, phase="replicas", data={"function": function.function})

    def progress(self, function: FunctionId, ready: int, wanted: int) -> None:
        self._deployment.emit(
            "progress",
            f"{function.function}: {ready} of {wanted} replicas ready",
            phase="replicas",
            data={"ready": ready, "wanted": wanted, "function": function.function},
        )
