"""The progress of a deploy, from its events: a live display on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clipper.cli.text import clean, duration, plural, size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clipper.cli.console import Output

__all__ = ["PHASES", "Phase", "Progress", "display"]

PHASES = ("bundle", "upload", "environment", "replicas", "smoke", "canary", "route")

# Lines of the build's or a replica's log under the running phase.
_LOG_LINES = 4
_REFRESHES_PER_S = 10


@dataclass(slots=True)
class Phase:
    """One phase: pending while `began` is None, running while `seconds` is None."""

    name: str
    began: float | None = None
    seconds: float | None = None
    detail: str = ""
    failed: bool = False
    fraction: float | None = None  # of a phase with a known total
    log: deque[str] = field(default_factory=lambda: deque(maxlen=_LOG_LINES))

    @property
    def running(self) -> bool:
        return self.began is not None and self.seconds is None and not self.failed


class Progress:
    """The state of one deploy, from its events (`infra/docs/control-api.md`; `clipper.deploying` adds its own)."""

    def __init__(self) -> None:
        self.phases = {name: Phase(name) for name in PHASES}
        self.ready: dict[str, tuple[int, int]] = {}  # function → ready, wanted
        self.retrying = ""  # the refusal that is tried again; "" after the next event
        self.warnings: list[str] = []

    def handle(self, event: Mapping[str, Any], now: float) -> None:
        """Take one event at monotonic time `now`. Unknown kinds and phases are ignored."""
        kind, data = event.get("kind"), event.get("data") or {}
        if kind == "retry":
            self.retrying = clean(event.get("message") or "")
            return
        self.retrying = ""
        if kind == "warning":
            self.warnings.append(clean(event.get("message") or ""))
            return
        phase = self.phases.get(str(event.get("phase") or ("replicas" if kind == "progress" else "")))
        if phase is None:
            return
        if phase.began is None:
            phase.began = now
        if kind == "log":
            name = data.get("function")
            line = clean(event.get("message") or "").rstrip()
            phase.log.append(f"{name}: {line}" if name else line)
        elif kind == "progress":
            self._progress(phase, data)
        elif kind == "phase_done":
            seconds = data.get("seconds")
            phase.seconds = float(seconds) if seconds is not None else now - phase.began
            phase.detail = _done_words(phase, data) or phase.detail

    def _progress(self, phase: Phase, data: Mapping[str, Any]) -> None:
        if "wanted" in data:
            self.ready[str(data.get("function") or "")] = (int(data["ready"]), int(data["wanted"]))
            phase.detail = ", ".join(f"{name} {ready}/{wanted}" for name, (ready, wanted) in self.ready.items())
        elif "share" in data:
            phase.detail = f"{data['share']} % of the calls, step {data.get('step')} of {data.get('steps')}"
        elif data.get("total"):
            phase.fraction = min(1.0, data.get("sent", 0) / data["total"])
            phase.detail = f"{size(data.get('sent', 0))} of {size(data['total'])}"

    def succeed(self, now: float) -> None:
        """Mark the running phase as done."""
        for phase in self.phases.values():
            if phase.running and phase.began is not None:
                phase.seconds = now - phase.began

    def fail(self) -> None:
        """Mark the running phase as failed."""
        for phase in self.phases.values():
            phase.failed = phase.failed or phase.running


def _done_words(phase: Phase, data: Mapping[str, Any]) -> str:
    """The result of a finished phase, for its line."""
    if phase.name == "bundle" and "files" in data:
        total = data.get("uncompressed_bytes")
        unpacked = f" ({size(total)} unpacked)" if total is not None else ""
        return f"{plural(int(data['files']), 'file')}, {size(data.get('bytes'))}{unpacked}"
    if phase.name == "upload":
        return "already there" if data.get("reused") else size(data.get("bytes"))
    if phase.name == "environment":
        return "reused" if data.get("reused") else "built"
    if phase.name == "canary":
        return "does as well as the version before"
    return ""


@contextmanager
def display(out: Output, progress: Progress) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Show a deploy during the block; yields the function that takes its events.

    On a terminal it is a live display on stdout, whose last frame stays. Otherwise it is a line for each event, on
    stdout, or on stderr when stdout is for JSON.
    """
    if not out.terminal:
        yield _Lines(out, progress).handle
        return
    from rich.live import Live

    view = _View(progress)
    with Live(view, console=out.console(), refresh_per_second=_REFRESHES_PER_S, transient=False):
        yield lambda event: progress.handle(event, time.monotonic())


class _Lines:
    """Progress as plain lines: the phase, then its event."""

    def __init__(self, out: Output, progress: Progress) -> None:
        self.progress = progress
        self.print: Callable[[str], None] = out.note if out.json else out.line
        self.last = ""

    def handle(self, event: Mapping[str, Any]) -> None:
        self.progress.handle(event, time.monotonic())
        if self.progress.retrying:
            self.print(f"waiting      {self.progress.retrying}")
            return
        kind, name = (
            event.get("kind"),
            str(event.get("phase") or ("replicas" if event.get("kind") == "progress" else "")),
        )
        phase = self.progress.phases.get(name)
        if phase is None:
            return
        if kind == "log":
            self.print(f"{name:<11}  | {phase.log[-1]}")
        elif kind == "progress" and phase.fraction is None and phase.detail != self.last:
            self.last = phase.detail  # a failed replica and its successor leave the count unchanged
            self.print(f"{name:<11}  {phase.detail}")
        elif kind == "phase_done":
            done = phase.detail or "done"
            self.print(f"{name:<11}  {done}, {duration(phase.seconds)}")


class _View:
    """The live display; rich renders it several times a second, so that elapsed times advance."""

    def __init__(self, progress: Progress) -> None:
        from rich.spinner import Spinner

        self.progress = progress
        self.spinner = Spinner("dots", style="cyan")

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        parts: list[RenderableType] = []
        now = time.monotonic()
        for phase in self.progress.phases.values():
            if phase.began is None:
                continue
            row = Table.grid(padding=(0, 1), pad_edge=False, expand=True)
            row.add_column(width=1)
            row.add_column(width=11)
            row.add_column(ratio=1, overflow="ellipsis", no_wrap=True)
            row.add_column(justify="right", no_wrap=True)
            elapsed = phase.seconds if phase.seconds is not None else now - phase.began
            row.add_row(
                self._mark(phase), Text(phase.name, "bold"), self._middle(phase), Text(duration(elapsed), "dim")
            )
            parts.append(row)
            if phase.running or phase.failed:
                parts += [Text(f"    {line}", "dim", no_wrap=True, overflow="ellipsis") for line in phase.log]
        if self.progress.retrying:
            parts.append(Text(f"! {self.progress.retrying}", "yellow"))
        return Group(*parts)

    def _mark(self, phase: Phase) -> RenderableType:
        from rich.text import Text

        from clipper.cli.console import FAIL, OK

        if phase.failed:
            return Text(FAIL, "red")
        return self.spinner if phase.running else Text(OK, "green")

    def _middle(self, phase: Phase) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        words = Text(phase.detail, overflow="ellipsis", no_wrap=True)
        if not phase.running or phase.fraction is None:
            return words
        both = Table.grid(padding=(0, 1))
        both.add_row(ProgressBar(total=1.0, completed=phase.fraction, width=24), words)
        return both
