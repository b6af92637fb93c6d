"""The progress of a materialization: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol

from clipper.cli.console import Output
from clipper.cli.text import duration

__all__ = ["Meter", "Rate", "meter"]

_WINDOW_S: Final = 10.0  # over which the rate is measured
_LINE_EVERY_S: Final = 5.0


class Meter(Protocol):
    def show(self, job: Mapping[str, Any]) -> None:
        """Take what the platform says of the job."""
        ...


class Rate:
    """Rows per second of late, and how long the rest takes."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def observe(self, ended: int, now: float) -> None:
        self._seen.append((now, ended))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW_S:
            self._seen.popleft()

    @property
    def per_s(self) -> float | None:
        (began, before), (now, ended) = self._seen[0], self._seen[-1]
        return (ended - before) / (now - began) if now > began and ended > before else None

    def words(self, rows: int | None) -> str:
        """As in "1,200 rows/s, 40 s left"."""
        if (rate := self.per_s) is None:
            return ""
        left = f", {duration(max(0, rows - self._seen[-1][1]) / rate)} left" if rows is not None else ""
        return f"{rate:,.0f} rows/s{left}"


@contextmanager
def meter(out: Output, title: str) -> Iterator[Meter]:
    if not out.terminal:
        yield _Lines(out.note if out.json else out.line, time.monotonic)
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"))
    with Progress(*columns, console=out.console()) as progress:
        yield _Bar(progress, progress.add_task(title, total=None, words=""))


def _words(job: Mapping[str, Any], rate: Rate) -> str:
    rows = job["total"]
    ended = job["done"] + job["failed"]
    parts = [f"{ended:,} of {rows:,}" if rows is not None else f"{ended:,}, {job['received']:,} sent"]
    if job["failed"]:
        parts.append(f"{job['failed']:,} failed")
    if job["waiting"]:
        parts.append(f"waits: {job['waiting']}")
    elif words := rate.words(rows):
        parts.append(words)
    return " · ".join(parts)


class _Lines:
    def __init__(self, print: Callable[[str], None], now: Callable[[], float]) -> None:
        self._print, self._now = print, now
        self._rate = Rate()
        self._next = now() + _LINE_EVERY_S

    def show(self, job: Mapping[str, Any]) -> None:
        now = self._now()
        self._rate.observe(job["done"] + job["failed"], now)
        if now >= self._next:
            self._next = now + _LINE_EVERY_S
            self._print(_words(job, self._rate))


class _Bar:
    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task
        self._rate = Rate()

    def show(self, job: Mapping[str, Any]) -> None:
        ended = job["done"] + job["failed"]
        self._rate.observe(ended, time.monotonic())
        self._progress.update(self._task, completed=ended, total=job["total"], words=_words(job, self._rate))
