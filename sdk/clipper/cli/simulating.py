"""`clip policy simulate`: a policy under a load, calculated; the table and the drawing of what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from clipper.cli import platform_extra
from clipper.cli.charts import Line, Panel, draw
from clipper.cli.console import Output, Part
from clipper.cli.options import json_option, path, usage_error
from clipper.cli.policyfile import policy_argument, read_policy, read_trace
from clipper.cli.problems import CommandFailed
from clipper.cli.text import duration as duration_text

__all__ = ["simulate"]

MOST_CALLS: Final = 5_000_000  # about half a minute of calculation

# A drawing has more points than a table has lines.
_PLOT_ROWS: Final = 240


@click.command()
@policy_argument
@click.option("--trace", type=path(), metavar="T.csv", help="Lines of call times, or of times and rates, in seconds.")
@click.option(
    "--pattern", type=click.Choice(["ramp", "spike", "diurnal"]), help="Load without a trace.", show_default="spike"
)
@click.option(
    "--peak",
    type=click.FloatRange(0.001, 100_000),
    metavar="RATE",
    default=40.0,
    show_default=True,
    help="Calls per second at most.",
)
@click.option(
    "--duration",
    type=click.FloatRange(1, 7 * 86400),
    metavar="SECONDS",
    help="Length of the load.",
    show_default="600; diurnal 86400",
)
@click.option(
    "--service",
    "base_s",
    type=click.FloatRange(1e-6, 3600),
    metavar="SECONDS",
    default=0.1,
    show_default=True,
    help="What a batch takes, however small.",
)
@click.option(
    "--per-item",
    "per_item_s",
    type=click.FloatRange(0, 3600),
    metavar="SECONDS",
    default=0.0,
    show_default=True,
    help="What each call of a batch adds.",
)
@click.option(
    "--max-batch-size",
    type=click.IntRange(1, 65_536),
    metavar="N",
    default=1,
    show_default=True,
    help="Calls in a batch at most.",
)
@click.option(
    "--cold-start",
    "cold_start_s",
    type=click.FloatRange(0, 3600),
    metavar="SECONDS",
    default=1.0,
    show_default=True,
    help="Time until a new replica is ready.",
)
@click.option("--latency-slo", type=click.FloatRange(1e-6), metavar="SECONDS", help="The function's latency_slo_s.")
@click.option(
    "--start",
    type=click.DateTime(),
    metavar="DATE",
    default=datetime(2026, 1, 5),
    help="When it begins, in UTC, for schedules.",
    show_default="Monday, midnight",
)
@click.option("--seed", type=int, metavar="N", default=1, show_default=True, help="Seed of the random arrivals.")
@click.option(
    "--rows", type=click.IntRange(2, 1000), metavar="N", default=20, show_default=True, help="Lines of the table."
)
@click.option("--plot", type=path(), metavar="OUT.svg", help="Draw it.")
@json_option
def simulate(
    file: Path,
    trace: Path | None,
    pattern: str | None,
    peak: float,
    duration: float | None,
    latency_slo: float | None,
    start: datetime,
    seed: int,
    rows: int,
    plot: Path | None,
    out: Output,
    **function: float,
) -> None:
    """Try a policy out on a virtual clock: the real controller, a calculated function.

    Needs no running platform, but its package.
    """
    if trace is not None and pattern is not None:
        raise usage_error("give --trace or --pattern, not both", "--pattern")
    policy, _, _ = read_policy(file)
    load = _traced(trace, duration, seed) if trace is not None else _patterned(pattern or "spike", peak, duration, seed)
    run = _simulated(
        policy.to_dict(),
        function,
        load.data,
        begins_at=start.replace(tzinfo=UTC).timestamp(),
        duration_s=load.duration_s,
        latency_slo_s=latency_slo,
        rows=max(rows, _PLOT_ROWS if plot is not None else 0),
    )
    if plot is not None:
        _draw(plot, f"{file.name} under {load.name}", run, latency_slo)
    _print(out, run, rows, latency_slo, plot)


def _simulated(*arguments: Mapping[str, Any], **named: Any) -> dict[str, Any]:
    """What the platform's `simulate` gives. Raises CommandFailed."""
    run: dict[str, Any] = platform_extra.load("simulate")(*arguments, **named)
    if error := run.get("error"):
        raise CommandFailed(error.pop("message"), **error)
    return run


# Loads


@dataclass(frozen=True, slots=True)
class _Load:
    """`data` is what the platform's `simulate` takes as its load."""

    name: str
    duration_s: float
    data: dict[str, Any]


def _patterned(pattern: str, peak: float, duration_s: float | None, seed: int) -> _Load:
    duration_s = duration_s or (86400.0 if pattern == "diurnal" else 600.0)
    _check_size(peak * duration_s / (1 if pattern == "spike" else 2))
    data = {"pattern": pattern, "peak": peak, "seed": seed}
    return _Load(f"{pattern}, up to {peak:g} calls per second", duration_s, data)


def _traced(trace: Path, duration_s: float | None, seed: int) -> _Load:
    times, rates = read_trace(trace)
    last = times[-1] - times[-2] if len(times) > 1 else 0.0
    duration_s = duration_s or max(1.0, times[-1] + max(last, 0.001))
    if rates is None:
        _check_size(len(times))
        return _Load(trace.name, duration_s, {"times": times})
    _check_size(max(rates) * duration_s)
    return _Load(trace.name, duration_s, {"times": times, "rates": rates, "seed": seed})


def _check_size(calls: float) -> None:
    if calls > MOST_CALLS:
        raise click.UsageError(
            f"about {calls:.0f} calls would be calculated, over the limit of {MOST_CALLS}; take a lower --peak or a "
            "shorter --duration",
            ctx=click.get_current_context(),
        )


# Results


def _print(out: Output, run: Mapping[str, Any], rows: int, latency_slo: float | None, plot: Path | None) -> None:
    if out.json:
        out.document({**run, "plot": str(plot) if plot else None})
        return
    _table(out, run["rows"], rows)
    _summary(out, run["summary"], latency_slo)
    if plot is not None:
        out.line("  ", (str(plot), "cyan"))


def _table(out: Output, rows: list[dict[str, Any]], count: int) -> None:
    every = max(1, len(rows) // count)
    shown: list[list[Part]] = [
        [
            duration_text(row["at"]),
            f"{row['rate_per_s']:.1f}",
            (str(row["wanted"]), "bold"),
            str(row["ready"]),
            str(row["queued"]),
            duration_text(row["p50_s"]),
            duration_text(row["p99_s"]),
            f"{row['cost_s'] / 3600:.2f}",
        ]
        for row in rows[every - 1 :: every]
    ]
    columns = ["TIME", "CALLS/S", "WANTED", "READY", "QUEUE", "P50", "P99", "REPLICA-HOURS"]
    out.table(columns, shown, right=columns)


def _summary(out: Output, summary: Mapping[str, Any], latency_slo: float | None) -> None:
    out.line()
    out.line(
        f"  {summary['invocations']} calls: {summary['refused']} refused, {summary['cold']} met no ready replica; "
        f"p50 {duration_text(summary['p50_s'])}, p99 {duration_text(summary['p99_s'])}, "
        f"longest {duration_text(summary['longest_s'])}",
        wrap=True,
    )
    if latency_slo is not None and summary["within_slo"] is not None:
        out.line(f"  {summary['within_slo']:.2%} within {duration_text(latency_slo)}")
    out.line(
        f"  {summary['cost_s'] / 3600:.2f} replica-hours, at most {summary['most_replicas']} replicas, "
        f"{summary['changes']} changes of their number"
    )


def _in_short(summary: Mapping[str, Any]) -> str:
    return (
        f"{summary['invocations']:,} calls, {summary['refused']} refused, {summary['cold']} met no ready replica · "
        f"p50 {duration_text(summary['p50_s'])}, p99 {duration_text(summary['p99_s'])} · "
        f"{summary['cost_s'] / 3600:.2f} replica-hours, {summary['changes']} changes of the number of replicas"
    )


def _draw(file: Path, title: str, run: Mapping[str, Any], latency_slo: float | None) -> None:
    """Write the drawing. Raises CommandFailed."""
    rows = run["rows"]

    def values(key: str, scale: float = 1.0) -> list[float | None]:
        return [scale * row[key] if row[key] is not None else None for row in rows]

    panels = [
        Panel("Calls per second", [Line("arriving", values("rate_per_s"), area=True)]),
        Panel(
            "Replicas",
            [Line("wanted", values("wanted"), steps=True), Line("ready", values("ready"), steps=True, area=True)],
        ),
        Panel("Queue", [Line("waiting", values("queued"), area=True)]),
        Panel(
            "Latency, ms",
            [Line("p99", values("p99_s", 1000)), Line("p50", values("p50_s", 1000))],
            latency_slo and latency_slo * 1000,
        ),
        Panel("Cost, replica-hours", [Line("so far", values("cost_s", 1 / 3600), area=True)]),
    ]
    try:
        svg = draw(title, [row["at"] for row in rows], panels, subtitle=_in_short(run["summary"]))
        file.write_text(svg, encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"{file} cannot be written: {error.strerror}", code="unwritable") from None
