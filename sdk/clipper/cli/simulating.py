"""`clip policy simulate`: a policy under a load, calculated; the table and the drawing of what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from clipper.cli.declare import Option
from clipper.cli.options import Json
from clipper.cli.policyfile import PolicyFile, read_policy, read_trace
from clipper.cli.problems import UsageProblem

if TYPE_CHECKING:
    from clipper.cli.console import Output, Part

__all__ = ["simulate"]

MOST_CALLS = 5_000_000  # about half a minute of calculation


def simulate(
    file: PolicyFile,
    trace: Annotated[
        Path | None, Option(metavar="T.csv", help="Lines of call times, or of times and rates, in seconds.")
    ] = None,
    pattern: Annotated[Literal["ramp", "spike", "diurnal"] | None, Option(show_default="spike")] = None,
    peak: Annotated[float, Option(min=0.001, max=100_000, help="Calls per second at most.")] = 40.0,
    duration: Annotated[
        float | None, Option(min=1, max=7 * 86400, help="Seconds.", show_default="600; diurnal 86400")
    ] = None,
    service: Annotated[float, Option(min=1e-6, max=3600, help="Seconds that a batch takes, however small.")] = 0.1,
    per_item: Annotated[float, Option(min=0, max=3600, help="Seconds that each call of a batch adds.")] = 0.0,
    max_batch_size: Annotated[int, Option(min=1, max=65_536)] = 1,
    cold_start: Annotated[float, Option(min=0, max=3600, help="Seconds until a replica is ready.")] = 1.0,
    latency_slo: Annotated[float | None, Option(min=1e-6, help="The function's latency_slo_s.")] = None,
    start: Annotated[
        datetime | None, Option(help="When it begins, in UTC, for schedules.", show_default="Monday, midnight")
    ] = None,
    seed: Annotated[int, Option(help="Of the random arrivals.")] = 1,
    rows: Annotated[int, Option(min=2, max=1000, help="Lines of the table.")] = 20,
    plot: Annotated[Path | None, Option(metavar="OUT.svg", help="Draw it.")] = None,
    json: Json = False,
) -> None:
    """Try a policy out on a virtual clock: the real controller, a calculated function.

    Needs no running platform, but its package.
    """
    from clipper.cli.console import Output

    if trace is not None and pattern is not None:
        raise UsageProblem("give --trace or --pattern, not both", hint="--pattern")
    out = Output(json=json)
    policy, _, _ = read_policy(file)
    simulation, schedules = _platform()
    load = _Load(simulation, trace, pattern or "spike", peak, duration, seed)
    begin = (start or datetime(2026, 1, 5)).replace(tzinfo=UTC).timestamp()
    plan = schedules.Plan(policy, latency_slo, begin)
    function = simulation.Function(service, per_item, max_batch_size, cold_start)
    fine = 240 if plot is not None else rows
    run = simulation.simulate(function, plan.at, load.calls(), duration_s=load.duration_s, rows=max(rows, fine))
    if plot is not None:
        _draw(plot, f"{file.name} under {load.name}", run, latency_slo)
    if json:
        out.document({
            "summary": run.summary._asdict(),
            "rows": [row._asdict() for row in run.rows],
            "decisions": [made._asdict() for made in run.decisions],
            "plot": str(plot) if plot else None,
        })  # fmt: skip
        return
    _table(out, run, rows)
    _say(out, run.summary, latency_slo)
    if plot is not None:
        out.line("  ", (str(plot), "cyan"))


def _platform() -> tuple[Any, Any]:
    """The simulation and the schedules. By name: the SDK imports no sibling, and works without this one."""
    from clipper.cli.problems import CommandFailed

    try:
        return (
            import_module("clipper_platform.core.simulation"),
            import_module("clipper_platform.control.scaling.schedules"),
        )
    except ModuleNotFoundError as error:
        raise CommandFailed(
            f"A simulation runs the platform's controller, which is not installed here: no module {error.name!r}",
            hint="Install it: pip install 'clipper[platform]'",
            code="platform_missing",
        ) from None


class _Load:
    """What calls: a trace, or a pattern."""

    def __init__(
        self, simulation: Any, trace: Path | None, pattern: str, peak: float, duration: float | None, seed: int
    ) -> None:
        self._simulation = simulation
        self._seed = seed
        self._times: list[float] | None = None
        if trace is None:
            self.name = f"{pattern}, up to {peak:g} calls per second"
            self.duration_s = duration or (86400.0 if pattern == "diurnal" else 600.0)
            self._peak, self._rate = peak, getattr(simulation, pattern)(peak, self.duration_s)
            expected = peak * self.duration_s / (1 if pattern == "spike" else 2)
        else:
            self.name = trace.name
            times, rates = read_trace(trace)
            last = times[-1] - times[-2] if len(times) > 1 else 0.0
            self.duration_s = duration or max(1.0, times[-1] + max(last, 0.001))
            expected = float(len(times))
            if rates is None:
                self._times = times
            else:
                self._peak, self._rate = max(rates), _piecewise(times, rates)
                expected = self._peak * self.duration_s
        if expected > MOST_CALLS:
            raise UsageProblem(
                f"about {expected:.0f} calls would be calculated, over the limit of {MOST_CALLS}; take a lower --peak "
                "or a shorter --duration"
            )

    def calls(self) -> Iterator[float]:
        from random import Random

        if self._times is not None:
            return iter(self._times)
        found: Iterator[float] = self._simulation.arrivals(self._rate, self._peak, self.duration_s, Random(self._seed))
        return found


def _piecewise(times: list[float], rates: list[float]) -> Callable[[float], float]:
    from bisect import bisect_right

    return lambda at: rates[max(0, bisect_right(times, at) - 1)]


def _table(out: Output, run: Any, rows: int) -> None:
    from clipper.cli.text import duration

    every = max(1, len(run.rows) // rows)
    shown: list[list[Part]] = [
        [
            duration(row.at),
            f"{row.rate_per_s:.1f}",
            (str(row.wanted), "bold"),
            str(row.ready),
            str(row.queued),
            duration(row.p50_s),
            duration(row.p99_s),
            f"{row.cost_s / 3600:.2f}",
        ]
        for row in run.rows[every - 1 :: every]
    ]
    columns = ["TIME", "CALLS/S", "WANTED", "READY", "QUEUE", "P50", "P99", "REPLICA-HOURS"]
    out.table(columns, shown, right=columns)


def _say(out: Output, summary: Any, latency_slo: float | None) -> None:
    from clipper.cli.text import duration

    out.line()
    out.line(
        f"  {summary.invocations} calls: {summary.refused} refused, {summary.cold} met no ready replica; "
        f"p50 {duration(summary.p50_s)}, p99 {duration(summary.p99_s)}, longest {duration(summary.longest_s)}",
        wrap=True,
    )
    if latency_slo is not None and summary.within_slo is not None:
        out.line(f"  {summary.within_slo:.2%} within {duration(latency_slo)}")
    out.line(
        f"  {summary.cost_s / 3600:.2f} replica-hours, at most {summary.most_replicas} replicas, "
        f"{summary.changes} changes of their number"
    )


def _in_short(summary: Any) -> str:
    from clipper.cli.text import duration

    return (
        f"{summary.invocations:,} calls, {summary.refused} refused, {summary.cold} met no ready replica · "
        f"p50 {duration(summary.p50_s)}, p99 {duration(summary.p99_s)} · {summary.cost_s / 3600:.2f} replica-hours, "
        f"{summary.changes} changes of the number of replicas"
    )


def _draw(path: Path, title: str, run: Any, latency_slo: float | None) -> None:
    from clipper.cli.charts import Line, Panel, draw
    from clipper.cli.problems import CommandFailed

    rows = run.rows
    ms = [1000 * row.p99_s if row.p99_s is not None else None for row in rows]
    median = [1000 * row.p50_s if row.p50_s is not None else None for row in rows]
    panels = [
        Panel("Calls per second", [Line("arriving", [row.rate_per_s for row in rows], area=True)]),
        Panel("Replicas", [
            Line("wanted", [row.wanted for row in rows], steps=True),
            Line("ready", [row.ready for row in rows], steps=True, area=True),
        ]),
        Panel("Queue", [Line("waiting", [row.queued for row in rows], area=True)]),
        Panel("Latency, ms", [Line("p99", ms), Line("p50", median)], latency_slo and latency_slo * 1000),
        Panel("Cost, replica-hours", [Line("so far", [row.cost_s / 3600 for row in rows], area=True)]),
    ]  # fmt: skip
    try:
        svg = draw(title, [row.at for row in rows], panels, subtitle=_in_short(run.summary))
        path.write_text(svg, encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"{path} cannot be written: {error.strerror}", code="unwritable") from None
