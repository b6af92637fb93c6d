"""Progress: a live line with the time that is left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from tests.benchmarks.budget import Budget

__all__ = ["Display"]


class Display:
    """Writes to standard error, so that standard output is the report alone."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._console = Console(stderr=True, highlight=False)
        self._live: Progress | None = None
        self._task = TaskID(0)
        self._section = ""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Progress(
                SpinnerColumn(),
                TextColumn("[bold]{task.fields[section]}[/]"),
                BarColumn(24),
                TextColumn("{task.fields[clock]}  {task.description}"),
                console=self._console,
                transient=True,
            )
            self._task = self._live.add_task("", total=self._budget.limit_s, section="", clock="")
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def section(self, name: str) -> None:
        """Another part begins."""
        self._section = name
        self.note(f"== {name}")

    def step(self, text: str) -> None:
        """What is being done now."""
        spent, limit = self._budget.spent_s, self._budget.limit_s
        clock = f"{int(spent) // 60}:{int(spent) % 60:02}/{int(limit) // 60}:{int(limit) % 60:02}"
        if self._live is not None:
            self._live.update(
                self._task, completed=min(spent, limit), description=text, section=self._section, clock=clock
            )
        else:
            print(f"{clock}  {self._section}: {text}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Something that stays on the screen."""
        if self._live is not None:
            self._live.console.print(text, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)
