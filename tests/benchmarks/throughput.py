"""Requests per second and latency against the peers, and with our own parts turned on and off."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from statistics import median

from tests.benchmarks import wrk
from tests.benchmarks.ours import OursLauncher
from tests.benchmarks.peers import BARE, BARE_MSGSPEC, PeerLauncher
from tests.benchmarks.plot import Bar, throughput_plot
from tests.benchmarks.section import Bench, Section, Verdict, count, milliseconds, table
from tests.benchmarks.servers import BenchmarkError, Endpoint, Launcher
from tests.benchmarks.wrk import Sample

__all__ = ["Contest", "throughput"]

# What one start costs beside what is measured: process, health, warm-up of each contestant.
START_S = 3.0


@dataclass(slots=True)
class Contest:
    """Samples by (contestant, connections, round)."""

    names: dict[str, str]
    connections: Sequence[int]
    samples: dict[tuple[str, int], dict[int, Sample]] = field(default_factory=lambda: defaultdict(dict))
    problems: list[str] = field(default_factory=list)

    def middle(self, key: str, connections: int) -> Sample | None:
        """The medians over the rounds."""
        found = self.samples.get((key, connections))
        return wrk.middle(found.values()) if found else None

    def ratio(self, key: str, other: str, connections: int, *, of: str = "rate_per_s") -> float | None:
        """key : other, the median of each round's ratio: what disturbs a round disturbs both."""
        ours, theirs = self.samples.get((key, connections), {}), self.samples.get((other, connections), {})
        ratios = [getattr(ours[r], of) / getattr(theirs[r], of) for r in ours.keys() & theirs.keys()]
        return median(ratios) if ratios else None

    @property
    def measured(self) -> list[str]:
        return [key for key in self.names if any(self.samples.get((key, c)) for c in self.connections)]


def throughput(bench: Bench) -> Section:
    """Everyone in turn, round by round: A B C, B C A, …"""
    contest = Contest(
        {"clipper": "Clipper", "cached": "Clipper, cached", "asgi": "Clipper, fast path off"}
        | {peer.key: peer.name for peer in (BARE, BARE_MSGSPEC, *bench.peers)},
        bench.plan.connections,
    )
    launchers = _launchers(bench)
    for number in range(bench.plan.rounds):
        turn = number % len(launchers)
        for launcher in launchers[turn:] + launchers[:turn]:
            _compete(bench, contest, launcher, number)
    return _section(bench, contest)


def _launchers(bench: Bench) -> list[Launcher]:
    plain = {"clipper": "total/total", "cached": "total/total_cached"}
    return [
        OursLauncher(bench.work / "fast", plain),
        PeerLauncher(BARE, bench.environment, bench.work),
        PeerLauncher(BARE_MSGSPEC, bench.environment, bench.work),
        *(PeerLauncher(peer, bench.environment, bench.work) for peer in bench.peers),
        OursLauncher(bench.work / "asgi", {"asgi": "total/total"}, {"CLIP_FAST_PATH": "false"}),
    ]


def _compete(bench: Bench, contest: Contest, launcher: Launcher, number: int) -> None:
    """One server's turn: start it, check it, measure it, end it."""
    plan, shown = bench.plan, " and ".join(contest.names[key] for key in launcher.contestants)
    each_s = len(plan.connections) * plan.measure_s + plan.warm_s
    if number and not bench.budget.fits(START_S + len(launcher.contestants) * each_s):
        contest.problems.append(f"{shown}: no time was left for round {number + 1}")
        return
    bench.display.step(f"round {number + 1} of {plan.rounds}: starting {shown}")
    try:
        with launcher.start() as running:
            for key, endpoint in running.endpoints.items():
                with _noted(contest, contest.names[key]):
                    wrk.check(endpoint, seconds=plan.warm_s)
                    _measure(bench, contest, key, endpoint, number)
    except BenchmarkError as error:
        bench.display.note(f"{shown}: {error}")  # with the end of its log
        contest.problems.append(f"{shown}, round {number + 1}: {str(error).splitlines()[0]}")


def _measure(bench: Bench, contest: Contest, key: str, endpoint: Endpoint, number: int) -> None:
    for connections in contest.connections:
        with _noted(contest, contest.names[key]):
            bench.display.step(
                f"round {number + 1} of {bench.plan.rounds}: {contest.names[key]}, {connections} connections"
            )
            sample = wrk.measure(endpoint, connections=connections, seconds=bench.plan.measure_s)
            contest.samples[key, connections][number] = sample


@contextmanager
def _noted(contest: Contest, name: str) -> Iterator[None]:
    """A run that failed is left out of the table and noted below it; the others go on."""
    try:
        yield
    except BenchmarkError as error:
        contest.problems.append(f"{name}: {error}")


# The report


def _section(bench: Bench, contest: Contest) -> Section:
    rounds = max((len(found) for found in contest.samples.values()), default=0)
    text = [
        f"wrk `-t1`, `POST` of ten floats as JSON, their sum as JSON back; batches of at most 32, one worker each; "
        f"medians of {rounds} rounds in turn, {bench.plan.measure_s} s each. Ratios are to Clipper in the same round.",
        "![Throughput and latency](throughput.svg)",
        "Requests per second, and Clipper's by theirs:",
        _rates(contest),
        "Latency in milliseconds, p50 / p99:",
        _latencies(contest),
    ]
    if contest.problems:
        text.append("Not in the tables:\n\n" + "\n".join(f"- {problem}" for problem in contest.problems))
    samples = [sample for found in contest.samples.values() for sample in found.values()]
    return Section(
        title="Throughput and latency",
        markdown="\n\n".join(text),
        verdicts=_verdicts(bench, contest),
        files={"throughput.svg": throughput_plot(_bars(contest))},
        data={
            f"{key} c={c}": [asdict(sample) for sample in found.values()] for (key, c), found in contest.samples.items()
        },
        foreign=[sample.foreign for sample in samples],
    )


def _head(contest: Contest) -> list[str]:
    return ["server", *(f"{c} connection{'s' * (c > 1)}" for c in contest.connections)]


def _rates(contest: Contest) -> str:
    def cell(key: str, connections: int) -> str:
        found = contest.middle(key, connections)
        if found is None:
            return "–"
        ratio = contest.ratio("clipper", key, connections) if key != "clipper" else None
        return count(found.rate_per_s) + (f" ({ratio:.2f}×)" if ratio is not None else "")

    rows = [[contest.names[key], *(cell(key, c) for c in contest.connections)] for key in contest.measured]
    return table(_head(contest), rows)


def _latencies(contest: Contest) -> str:
    def cell(key: str, connections: int) -> str:
        found = contest.middle(key, connections)
        return "–" if found is None else f"{milliseconds(found.p50_s)} / {milliseconds(found.p99_s)}"

    rows = [[contest.names[key], *(cell(key, c) for c in contest.connections)] for key in contest.measured]
    return table(_head(contest), rows)


def _verdicts(bench: Bench, contest: Contest) -> list[Verdict]:
    busy = 64 if 64 in contest.connections else max(contest.connections)
    verdicts = [
        Verdict.at_least(f"requests/s by bare uvicorn's, {busy} connections",
                         contest.ratio("clipper", BARE.key, busy), 2.5),
        Verdict.at_most("p50 by bare uvicorn's, 1 connection",
                        contest.ratio("clipper", BARE.key, 1, of="p50_s"), 1.6),
        Verdict.at_least(f"cached requests/s by uncached, {busy} connections",
                         contest.ratio("cached", "clipper", busy), 1.3),
    ]  # fmt: skip
    if any(peer.key == "mosec" for peer in bench.peers):
        what = f"requests/s by mosec's, {busy} connections"
        verdicts.insert(0, Verdict.at_least(what, contest.ratio("clipper", "mosec", busy), 1.5))
    return verdicts


def _bars(contest: Contest) -> list[tuple[str, list[Bar]]]:
    panels = []
    for connections in contest.connections:
        bars = []
        for key in contest.measured:
            found = contest.middle(key, connections)
            if found is not None:
                ratio = contest.ratio("clipper", key, connections)
                bars.append(Bar(key, contest.names[key], found.rate_per_s, found.p50_s, found.p99_s, ratio))
        panels.append((f"{connections} connection{'s' * (connections > 1)}", bars))
    return panels
