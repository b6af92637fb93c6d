"""`clip top`: all functions of all projects, live.

Each refresh asks the platform for its projects, its metrics, and the status of the busiest projects.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from clipper.cli.console import Output, Part, state_style, styled
from clipper.cli.exposition import parse
from clipper.cli.monitor import Monitor, Reading, Row, spark
from clipper.cli.options import connect, json_option
from clipper.cli.problems import CommandFailed
from clipper.cli.text import duration, plural, stamp
from clipper.errors import ClipperError, NotFound, UnexpectedAnswer

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from clipper.control import ControlClient

# The status of a project has exact percentiles but costs a request: only the busiest projects are asked for.
_DETAILED_PROJECTS = 8
# A narrower terminal has no room for the rate of each function over the last minute.
_WIDE = 100


@click.command()
@click.option("--once", is_flag=True, help="One picture, taken over one interval, then leave.")
@click.option(
    "--interval",
    "-i",
    type=click.FloatRange(0.1, 60),
    metavar="SECONDS",
    default=1.0,
    show_default=True,
    help="Between two pictures.",
)
@json_option
def top(once: bool, interval: float, out: Output) -> None:
    """Watch all functions live: rate, latency, queues, batches, cache, replicas.

    The busiest first. q leaves, and so does Ctrl-C.
    """
    with connect() as control, _source(control) as read:
        try:
            if out.terminal and not once:
                _watch(out, read, interval)
            else:
                _report(out, read, interval, once=once)
        except KeyboardInterrupt:
            return  # Ctrl-C is the usual way to leave


Read = Callable[[Monitor], Reading]


@contextmanager
def _source(control: ControlClient) -> Iterator[Read]:
    """A function that reads the platform of `control`, without retries."""
    from clipper.transport import Connection, Request, RetryPolicy

    connection = Connection(control.location, retry=RetryPolicy(max_attempts=1, max_connect_attempts=1))
    scrape = Request(method="GET", path="/metrics", timeout_s=10.0)

    def read(monitor: Monitor) -> Reading:
        projects = control.projects()
        text = connection.send(scrape).content.decode(errors="replace")
        at = time.monotonic()
        try:
            samples = parse(text)
        except ValueError as error:
            raise UnexpectedAnswer(f"{control.location.url}/metrics answered with {error}") from None
        return Reading(at, samples, _detailed(control, projects, monitor.rows))

    try:
        yield read
    finally:
        connection.close()


def _detailed(
    control: ControlClient, projects: Sequence[Mapping[str, Any]], known: Sequence[Row]
) -> list[Mapping[str, Any]]:
    """The projects; the busiest of them (any before the first rates) with exact percentiles of their functions."""
    # The rows are the busiest first already; each project counts once.
    names = [row.function.partition("/")[0] for row in known if row.p50_s is not None]
    wanted = set(list(dict.fromkeys(names if known else (p["name"] for p in projects)))[:_DETAILED_PROJECTS])
    detailed: list[Mapping[str, Any]] = []
    for project in projects:
        if project["name"] not in wanted:
            detailed.append(project)
            continue
        try:
            full = {function["name"]: function for function in control.project(project["name"])["functions"]}
        except NotFound:
            continue  # deleted a moment ago
        functions = [{**brief, **full.get(brief["name"], {})} for brief in project["functions"]]
        detailed.append({**project, "functions": functions})
    return detailed


def _report(out: Output, read: Read, interval: float, *, once: bool) -> None:
    """Print each refresh as JSON or as lines."""
    monitor = Monitor()
    monitor.take(read(monitor))
    while True:
        time.sleep(interval)
        monitor.take(read(monitor))
        if out.json:
            document = {"at": time.time(), "interval_s": interval, "functions": [asdict(row) for row in monitor.rows]}
            (out.document if once else out.event)(document)
        elif once and out.terminal:
            out.console().print(_table(monitor, time.monotonic(), out.console().width))
        else:
            for row in monitor.rows:
                out.line(_line(row))
            if not monitor.rows:
                out.line(_NOTHING_YET)
        if once:
            return


_NOTHING_YET = "No functions yet. Start with: clip init demo && clip deploy demo"


def _line(row: Row) -> str:
    facts = [
        f"{stamp(time.time())}  {row.function}",
        f"{_rate(row.rate_per_s)}/s",
        f"p50 {duration(row.p50_s)}",
        f"p99 {duration(row.p99_s)}",
        f"queue {row.queue_depth}",
        f"running {row.running}",
        f"batch {_batch(row)}",
        f"cache {_ratio(row.cache_hit_ratio)}",
        f"replicas {row.replicas_ready}/{row.replicas_wanted}",
        f"errors {_rate(row.errors_per_s)}/s",
    ]
    return "  ".join(facts)


def _rate(rate: float) -> str:
    """0 → "0", 0.25 → "0.2", 940.3 → "940", 12345 → "12,345"."""
    return f"{rate:.1f}" if 0 < rate < 9.95 else f"{rate:,.0f}"


def _ratio(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.0%}"


def _batch(row: Row) -> str:
    """The mean size and the limit; "–" for a function without batches."""
    if row.batch_limit is None or row.batch_limit <= 1:
        return "–"
    return f"{row.batch_size:.1f}/{row.batch_limit}" if row.batch_size is not None else f"–/{row.batch_limit}"


# The live display


def _watch(out: Output, read: Read, interval: float) -> None:
    """Redraw until q. An error of the platform is shown, and reading goes on: a restart can be watched."""
    from rich.live import Live

    monitor, trouble = Monitor(), ""
    monitor.take(read(monitor))
    with (
        _keys() as pressed,
        Live(console=out.console(), screen=True, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        while True:
            live.update(_picture(out, monitor, trouble), refresh=True)
            if "q" in pressed(interval).lower():
                return
            try:
                monitor.take(read(monitor))
                trouble = ""
            except (ClipperError, CommandFailed) as error:
                trouble = str(error)


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A function that waits that many seconds and returns the typed text; q ends the wait."""
    import select

    if not sys.stdin.isatty():

        def nothing(seconds: float) -> str:
            time.sleep(seconds)
            return ""

        yield nothing
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed(seconds: float) -> str:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([descriptor], [], [], left)[0]:
                typed = os.read(descriptor, 1024).decode(errors="replace")
                if not typed or "q" in typed.lower():
                    return typed or "q"  # end of file: the terminal is gone
        return ""

    try:
        tty.setcbreak(descriptor)
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _picture(out: Output, monitor: Monitor, trouble: str) -> RenderableType:
    from rich.console import Group

    width, now = out.console().width, time.monotonic()
    lines: list[RenderableType] = [_heading(monitor, now, width)]
    if trouble:
        lines.append(styled([(f"{trouble}; trying again", "red")]))
    if monitor.rows:
        lines.append(_table(monitor, now, width))
    else:
        lines.append(styled([_NOTHING_YET if monitor.history() else "Measuring…"]))
    return Group(*lines)


def _heading(monitor: Monitor, now: float, width: int) -> Text:
    """The rate of all functions, its course over the last minute, and the key to leave."""
    everything, leave = monitor.history(), "q quits"
    rate = everything[-1][1] if everything else 0.0
    words = f"  {plural(len(monitor.rows), 'function')}  {_rate(rate)}/s  "
    room = max(0, min(30, width - len("clip top") - len(words) - len(leave) - 2))
    bars = spark(everything, now, room)
    gap = " " * max(1, width - len("clip top") - len(words) - len(bars) - len(leave))
    return styled([("clip top", "bold"), words, (bars, "cyan"), (f"{gap}{leave}", "dim")])


def _table(monitor: Monitor, now: float, width: int) -> Table:
    from rich.table import Table

    names = ["FUNCTION", "RATE/S", "P50", "P99", "QUEUE", "RUN", "BATCH", "CACHE", "READY", "ERR/S"]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim", expand=width < _WIDE)
    for name in names:
        left = name == "FUNCTION"
        table.add_column(
            name,
            justify="left" if left else "right",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if left and width < _WIDE else None,
        )
    if width >= _WIDE:
        table.add_column("LAST MINUTE", no_wrap=True)
    for row in monitor.rows:
        cells = _cells(row)
        if width >= _WIDE:
            cells.append((spark(monitor.history(row.function), now, 20), "cyan"))
        table.add_row(*(styled([cell]) for cell in cells))
    return table


def _cells(row: Row) -> list[Part]:
    style = state_style(row.state)
    busy = "" if row.rate_per_s else "dim"
    return [
        (row.function, "bold" if row.rate_per_s else ""),
        (_rate(row.rate_per_s), busy),
        (duration(row.p50_s).replace(" ", ""), busy),
        (duration(row.p99_s).replace(" ", ""), busy),
        (str(row.queue_depth), "" if row.queue_depth else "dim"),
        (str(row.running), "" if row.running else "dim"),
        (_batch(row), busy),
        (_ratio(row.cache_hit_ratio), busy),
        (f"{row.replicas_ready}/{row.replicas_wanted}", style),
        (_rate(row.errors_per_s), "red bold" if row.errors_per_s else "dim"),
    ]
