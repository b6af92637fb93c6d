"""Measure Clipper, alone and beside other servers.

    python -m tests.benchmarks                    everything, in at most eleven minutes
    python -m tests.benchmarks --quick            in at most two
    python -m tests.benchmarks --only throughput --with bentoml,ray

The report goes to standard output and, with its plots, to `--out`. Ctrl-C ends all servers.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from tests.benchmarks import machine, report, wrk
from tests.benchmarks.applications import WARM_S, applications, stragglers
from tests.benchmarks.batching import batching_live
from tests.benchmarks.budget import FULL, QUICK, SANITY, Budget, Plan
from tests.benchmarks.display import Display
from tests.benchmarks.fairness import fairness
from tests.benchmarks.payloads import payloads
from tests.benchmarks.peers import BARE, OPTIONAL, PEERS, Peer, PeerEnvironment, bench_home
from tests.benchmarks.profile import profile
from tests.benchmarks.refusals import refusals
from tests.benchmarks.section import Bench, Section
from tests.benchmarks.servers import BenchmarkError
from tests.benchmarks.simulations import batching_simulated, caches
from tests.benchmarks.throughput import throughput

# In the order in which they run: what matters most comes before the time can run out. With each the time that it takes
# at least, in seconds; one that does not fit any more is not begun.
START_S = 4.0  # a platform and a deploy
SECTIONS: dict[str, tuple[Callable[[Bench], Section], Callable[[Plan], float]]] = {
    "throughput": (throughput, lambda p: START_S + 4 * (p.warm_s + len(p.connections) * p.measure_s)),
    "payloads": (payloads, lambda p: START_S + 3 * p.payload_rounds * p.payload_s),
    "batching": (batching_live, lambda p: START_S + 2 * (p.batching_s + 2)),
    "applications": (applications, lambda p: START_S + 2 * (p.warm_s + 3 * p.measure_s)),
    "stragglers": (stragglers, lambda p: 4 * START_S + 8 * (WARM_S + p.stragglers_s)),
    "fairness": (fairness, lambda p: START_S + 2 * p.fairness_rounds * (p.fairness_s + 2)),
    "refusals": (refusals, lambda p: START_S + 2 * (p.warm_s + p.measure_s)),
    "profile": (profile, lambda p: START_S + 3 * (p.profile_s + 1.5)),
    "simulation": (batching_simulated, lambda p: 30 if p.full_simulations else 8),
    "caches": (caches, lambda p: 5),
}
SANE = ("throughput", "payloads", "refusals")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="at most two minutes")
    parser.add_argument("--sanity", action="store_true", help="under a minute, installs nothing: does it work?")
    parser.add_argument("--only", action="append", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--with", dest="also", default="", metavar="PEERS", help=f"also {' and '.join(OPTIONAL)}")
    parser.add_argument("--no-peers", action="store_true", help="only bare uvicorn and ourselves")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"), help="where the report goes (%(default)s)")
    given = parser.parse_args(argv)
    given.also = tuple(filter(None, given.also.split(",")))
    for name in given.also:
        if name not in OPTIONAL:
            parser.error(f"--with {name}: it must be one of {', '.join(OPTIONAL)}")
    return given


def install_peers(
    given: argparse.Namespace, environment: PeerEnvironment, display: Display
) -> tuple[list[Peer], dict[str, str]]:
    """The peers that can be measured, and why others cannot."""
    ready: list[Peer] = []
    failures: dict[str, str] = {}
    if given.no_peers or given.sanity:
        return ready, failures
    for key, peer in PEERS.items():
        if key in OPTIONAL and key not in given.also:
            continue
        display.step(f"installing {peer.name}")
        try:
            environment.install(peer)
            ready.append(peer)
        except BenchmarkError as error:
            failures[peer.name] = str(error)
    return ready, failures


def run(given: argparse.Namespace, argv: Sequence[str]) -> int:
    plan = SANITY if given.sanity else QUICK if given.quick else FULL
    chosen = given.only or (SANE if given.sanity else tuple(SECTIONS))
    budget = Budget(plan.limit_s)
    sections: dict[str, Section] = {}
    with tempfile.TemporaryDirectory(prefix="clip-bench-") as work, Display(budget) as display:
        display.section("preparation")
        environment = PeerEnvironment(bench_home() / "peers")
        needs_peers = "throughput" in chosen
        peers, failures = install_peers(given, environment, display) if needs_peers else ([], {})
        bench = Bench(
            plan=plan, budget=budget, display=display, work=Path(work), out=given.out, peers=peers,
            environment=environment,
        )  # fmt: skip
        for name in chosen:
            measure, needs_s = SECTIONS[name]
            if not budget.fits(needs_s(plan)):
                failures[name] = f"too little was left of {plan.limit_s:g} s"
                continue
            display.section(name)
            try:
                sections[name] = measure(bench)
            except BenchmarkError as error:
                failures[name] = str(error).strip()
                display.note(f"{name} failed: {error}")
    command = shlex.join(["python", "-m", "tests.benchmarks", *argv])
    facts = {
        **machine.describe(),
        "versions": ", ".join(f"{peer.name} {environment.version(peer)}" for peer in (BARE, *peers)),
        "Clipper": version("clipper"),
        "command": f"`{command}`, {budget.spent_s:.0f} s",
    }
    found = list(sections.values())
    text = report.render(found, facts, failures)
    data = {"facts": facts, "failures": failures, **{name: section.data for name, section in sections.items()}}
    print(text)
    for path in report.write(given.out, found, text, data):
        print(path, file=sys.stderr)
    return 1 if failures.keys() & set(SECTIONS) else 0


def _stopped(number: int, _: object) -> NoReturn:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    given = parse(argv)
    if not wrk.available():
        print("wrk is not installed; infra/scripts/bench installs it", file=sys.stderr)
        return 2
    # So that servers are ended then as well.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stopped)
    try:
        return run(given, argv)
    except KeyboardInterrupt:
        print("stopped; all servers are ended", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
