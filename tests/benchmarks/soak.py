"""Soak a platform at changing load: to zero and back, again and again.

    python -m tests.benchmarks.soak                     about eight minutes
    python -m tests.benchmarks.soak --quick             about two
    python -m tests.benchmarks.soak --duration 3600     cycles for an hour, and the rest

A real platform on the process backend, a function that waits 20 ms, and an autoscaling policy applied live. Each cycle
ramps up, holds, spikes to three times as much, holds less, falls silent until no replica is left, and comes back at
once. Then 500 requests come at one moment while there is no replica, and at last the load is ten times what it was.
Checked: every answer is right and none is lost, the bounds of the policy are kept, gauges return to zero, and neither
memory nor processes grow. The report goes to standard output and, with its plot, to `--out`. Ctrl-C ends all processes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import psutil

from clipper.cli.charts import Line, Panel, draw
from tests.benchmarks import machine, ours, report
from tests.benchmarks.budget import Budget
from tests.benchmarks.changing import MOST_REPLICAS, Answer, Callers, Moment, Site, Size, Watch, at_zero, none_of, p99
from tests.benchmarks.display import Display
from tests.benchmarks.openloop import quantile
from tests.benchmarks.section import Section, Verdict, count, milliseconds, table
from tests.benchmarks.servers import BenchmarkError
from tests.benchmarks.sudden import burst, step
from tests.support.platform import PlatformProcess

__all__ = ["main"]

FUNCTION = "soak/work"
USUAL_PER_S = 60.0  # a replica carries 50 per second at most, and is planned for 40
SPIKE = 3.0
GROWTH_BYTES = 8e6  # of the platform from the second cycle to the last: what buffers and histograms may still take


FULL = Size(cycle_s=60, duration_s=360, burst=500, steady_s=40, step_s=30, step_per_s=15)
QUICK = Size(cycle_s=20, duration_s=60, burst=500, steady_s=20, step_s=15, step_per_s=15)
SANITY = Size(cycle_s=6, duration_s=6, burst=100, steady_s=1, step_s=2, step_per_s=5, sane=True)

# name, share of the cycle, rate at its beginning and at its end by the usual one
PHASES = (
    ("ramp", 0.20, 0.0, 1.0),
    ("hold", 0.12, 1.0, 1.0),
    ("spike", 0.08, SPIKE, SPIKE),
    ("half", 0.15, 0.5, 0.5),
    ("silence", 0.30, 0.0, 0.0),
    ("return", 0.15, 1.0, 1.0),
)


@dataclass(slots=True)
class Phase:
    """What happened in one."""

    name: str
    cycle: int
    began: float
    ended: float
    offered_per_s: float = 0.0


@dataclass(slots=True)
class Soak:
    """What was seen in all cycles."""

    phases: list[Phase] = field(default_factory=list)
    zeroes: list[bool] = field(default_factory=list)  # whether each silence ended without replicas
    gauges: dict[str, float] = field(default_factory=dict)  # that were not zero then
    rss: list[int] = field(default_factory=list)  # of the platform, at the end of each silence
    processes: list[int] = field(default_factory=list)


# The cycles


async def soak(site: Site) -> Soak:
    seen = Soak()
    for cycle in range(site.size.cycles):
        for name, share, first, last in PHASES:
            site.step(f"cycle {cycle + 1} of {site.size.cycles}: {name}")
            phase = Phase(name, cycle, time.monotonic(), 0.0)
            seconds = share * site.size.cycle_s
            if name == "silence":
                await asyncio.sleep(seconds)
                await _silent(site, seen)
            else:
                await _offer(site, first, last, seconds, seed=len(seen.phases))
                phase.offered_per_s = USUAL_PER_S * (first + last) / 2
            phase.ended = time.monotonic()
            seen.phases.append(phase)
    await site.callers.finished()
    site.step("the last silence")
    seen.zeroes.append(await at_zero(site))
    return seen


async def _offer(site: Site, first: float, last: float, seconds: float, seed: int) -> None:
    def rate(at: float) -> float:
        return USUAL_PER_S * (first + (last - first) * at / seconds)

    await site.callers.offer(rate, USUAL_PER_S * max(first, last), seconds, seed)


async def _silent(site: Site, seen: Soak) -> None:
    """The end of a silence: nothing may be left of the load."""
    await site.callers.finished()
    seen.zeroes.append(await at_zero(site))
    seen.gauges |= await site.watch.gauges()
    family = machine.family(site.platform.process.pid) if site.platform.process else []
    with contextlib.suppress(psutil.NoSuchProcess):
        seen.rss.append(family[0].memory_info().rss)
    seen.processes.append(len(family))


def soak_section(seen: Soak, site: Site) -> Section:
    answers, moments = site.callers.answers, site.watch.moments
    began, ended = seen.phases[0].began, seen.phases[-1].ended
    answers = [answer for answer in answers if began <= answer.due <= ended]
    moments = [moment for moment in moments if began <= moment.at <= ended]
    grown = [] if site.size.sane or len(seen.rss) < 3 else [_growth(seen)]
    wrong = [answer.wrong for answer in answers if answer.wrong]
    markdown = f"{len(answers):,} requests in {len(seen.zeroes) - 1} cycles of {site.size.cycle_s:g} s.\n\n"
    markdown += _phases(seen, answers, moments)
    if wrong:
        markdown += "\n\nThe first complaints:\n\n" + "\n".join(f"- {complaint}" for complaint in wrong[:5])
    if seen.gauges:
        markdown += f"\n\nGauges after a silence: {seen.gauges}"
    return Section(
        title="Changing load",
        markdown=markdown,
        verdicts=[
            none_of("answers wrong or lost", len(wrong)),
            none_of("looks at which the bounds were broken", sum(_out_of_bounds(m) for m in moments)),
            none_of("silences that did not end at zero", seen.zeroes.count(False)),
            none_of("gauges that did not return to zero", len(seen.gauges)),
            *grown,
        ],
        files={"soak.svg": _plot(answers, moments, began, ended)},
        data={"answers": len(answers), "wrong": wrong[:100], "rss": seen.rss, "processes": seen.processes},
    )


def _out_of_bounds(moment: Moment) -> bool:
    return not 0 <= moment.wanted <= MOST_REPLICAS or moment.ready > MOST_REPLICAS


def _growth(seen: Soak) -> Verdict:
    grown = seen.rss[-1] - seen.rss[1]
    more = max(seen.processes[1:]) - seen.processes[1]
    return Verdict(
        what="growth from the second silence to the last",
        target=f"≤ {GROWTH_BYTES / 1e6:g} MB, no process",
        measured=f"{grown / 1e6:+.1f} MB, {more} processes",
        met=grown <= GROWTH_BYTES and more <= 0,
    )


def _phases(seen: Soak, answers: Sequence[Answer], moments: Sequence[Moment]) -> str:
    """A row for each kind of phase, over all cycles."""
    rows = []
    for name, *_ in PHASES:
        spans = [(phase.began, phase.ended) for phase in seen.phases if phase.name == name]
        mine = [answer for answer in answers if any(a <= answer.due < b for a, b in spans)]
        looks = [moment for moment in moments if any(a <= moment.at < b for a, b in spans)]
        offered = next(phase.offered_per_s for phase in seen.phases if phase.name == name)
        took = [answer.took_s for answer in mine]
        rows.append([
            name, count(offered), f"{len(mine):,}", str(sum(bool(answer.wrong) for answer in mine)),
            milliseconds(quantile(took, 0.5)) if took else "", milliseconds(quantile(took, 0.99)) if took else "",
            f"{min((m.ready for m in looks), default=0)} to {max((m.ready for m in looks), default=0)}",
            str(max((m.queued for m in looks), default=0)),
        ])  # fmt: skip
    head = ["phase", "offered/s", "requests", "wrong", "p50 ms", "p99 ms", "replicas", "longest queue"]
    return table(head, rows)


def _plot(answers: Sequence[Answer], moments: Sequence[Moment], began: float, ended: float) -> str:
    """Offered load, replicas, queue and p99 over time, in at most 240 steps."""
    steps = max(20, min(240, int(2 * (ended - began))))
    width = (ended - began) / steps
    asked: list[list[Answer]] = [[] for _ in range(steps)]
    seen: list[list[Moment]] = [[] for _ in range(steps)]
    for answer in answers:
        asked[min(steps - 1, int((answer.due - began) / width))].append(answer)
    for moment in moments:
        seen[min(steps - 1, int((moment.at - began) / width))].append(moment)
    slow = [p99(found) for found in asked]
    panels = [
        Panel("Requests per second", [Line("offered", [len(found) / width for found in asked], area=True)]),
        Panel("Replicas", [
            Line("wanted", [max(m.wanted for m in found) if found else None for found in seen], steps=True),
            Line("ready", [max(m.ready for m in found) if found else None for found in seen], steps=True, area=True),
        ]),
        Panel("Queue", [
            Line("waiting", [max(m.queued for m in found) if found else None for found in seen], area=True),
        ]),
        Panel("Latency, ms", [Line("p99", [1000 * s if s is not None else None for s in slow])]),
    ]  # fmt: skip
    return draw("A soak at changing load", [(i + 1) * width for i in range(steps)], panels)


# All of it


@contextlib.asynccontextmanager
async def watching(site: Site) -> AsyncIterator[None]:
    """With an eye on the function's status all the time."""
    looking = asyncio.create_task(site.watch.run(lambda _: None))
    try:
        yield
    finally:
        looking.cancel()
        site.callers.close()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
        site.watch.close()


async def measure(size: Size, platform: PlatformProcess, display: Display) -> list[Section]:
    site = Site(size, platform, Callers(platform.port), Watch(platform, FUNCTION), display.step)
    async with watching(site):
        display.section("soak")
        seen = await soak(site)
        sections = [soak_section(seen, site)]
        display.section("burst")
        sections.append(await burst(site))
        display.section("step")
        sections.append(await step(site))
    return sections


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Size]:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="about two minutes")
    parser.add_argument("--sanity", action="store_true", help="some seconds: does it work?")
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="of the cycles together")
    parser.add_argument("--out", type=Path, default=Path("out/soak"), help="where the report goes (%(default)s)")
    given = parser.parse_args(argv)
    size = SANITY if given.sanity else QUICK if given.quick else FULL
    if given.duration is not None:
        if not 1 <= given.duration <= 7 * 86_400:
            parser.error(f"--duration {given.duration:g}: it must be from 1 to {7 * 86_400}")
        fields = {name: getattr(size, name) for name in Size.__slots__}
        size = Size(**{**fields, "duration_s": given.duration})
    return given, size


@contextlib.contextmanager
def opened(size: Size, work: Path) -> Iterator[PlatformProcess]:
    """A platform with the function, under the policy."""
    with ours.platform(work / "soak", "soak") as platform:
        file = work / "autoscaling.toml"
        file.write_text(size.policy(), encoding="utf-8")
        platform.clip("policy", "check", file)
        platform.clip("policy", "apply", FUNCTION, file)
        yield platform


def run(given: argparse.Namespace, size: Size, argv: Sequence[str]) -> int:
    needed_s = size.cycles * size.cycle_s + 1.25 * size.steady_s + size.step_s + size.cycle_s / 2 + 10
    budget = Budget(needed_s)
    sections: list[Section] = []
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="clip-soak-") as work, Display(budget) as display:
        display.section("preparation")
        display.step("starting Clipper")
        try:
            with opened(size, Path(work)) as platform, machine.Processors() as processors:
                sections = asyncio.run(measure(size, platform, display))
            sections[0].foreign.append(processors.foreign)
        except (BenchmarkError, AssertionError) as error:
            failures["soak"] = str(error).strip()[-1000:]
    command = shlex.join(["python", "-m", "tests.benchmarks.soak", *argv])
    facts = {
        **machine.describe(), "Clipper": version("clipper"), "command": f"`{command}`, {budget.spent_s:.0f} s",
    }  # fmt: skip
    text = report.render(sections, facts, failures).replace("# Benchmarks", "# A soak at changing load", 1)
    data: dict[str, Any] = {"facts": facts, **{section.title: section.data for section in sections}}
    print(text)
    for path in report.write(given.out, sections, text, data):
        print(path, file=sys.stderr)
    missed = [verdict for section in sections for verdict in section.verdicts if verdict.met is False]
    return 1 if failures or missed else 0


def _stopped(number: int, _: object) -> NoReturn:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    given, size = parse(argv)
    # So that everything is ended then as well.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stopped)
    try:
        return run(given, size, argv)
    except KeyboardInterrupt:
        print("stopped; all processes are ended", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
