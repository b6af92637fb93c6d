"""`python -m tests.benchmarks.trees TREE…`: throughput and latency of several checkouts, in turn, and of mosec.

A platform of each tree runs at the same time as those of the others, and wrk loads one after the other for a few
seconds, round by round in another order. The ratios are those of the same round, to the first tree, so that a slow
minute of the machine falls on all of them. Each tree needs a `.venv` of its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from tests.benchmarks import wrk
from tests.benchmarks.ours import FUNCTIONS, endpoint
from tests.benchmarks.peers import PEERS, PeerEnvironment, PeerLauncher, bench_home
from tests.benchmarks.servers import Endpoint
from tests.support import platform
from tests.support.platform import PlatformProcess

__all__ = ["main"]

CONNECTIONS = (1, 64)
SECONDS = 3


@contextmanager
def running(tree: Path, home: Path) -> Iterator[PlatformProcess]:
    """The platform of a tree, by the `clip` of its own environment, with the model deployed."""
    before, platform.CLIP = platform.CLIP, str(tree / ".venv" / "bin" / "clip")
    try:
        process = PlatformProcess(home, env={"CLIP_LOG_LEVEL": "warning"})
        process.start()
    finally:
        platform.CLIP = before
    try:
        process.deploy(FUNCTIONS / "total")
        yield process
    finally:
        process.stop()


def measured(endpoints: dict[str, Endpoint], rounds: int) -> dict[tuple[str, int], list[wrk.Sample]]:
    """The samples of each contestant and number of connections, one a round."""
    samples: dict[tuple[str, int], list[wrk.Sample]] = {(n, c): [] for n in endpoints for c in CONNECTIONS}
    for turn in range(rounds):
        names = list(endpoints)[turn % len(endpoints) :] + list(endpoints)[: turn % len(endpoints)]
        for connections in CONNECTIONS:
            for name in names:
                print(f"round {turn + 1} of {rounds}: {name}, {connections} connections", file=sys.stderr)
                sample = wrk.measure(endpoints[name], connections=connections, seconds=SECONDS)
                samples[name, connections].append(sample)
    return samples


def show(samples: dict[tuple[str, int], list[wrk.Sample]], first: str) -> None:
    print(f"{'':28}{'requests/s':>12}{'by the first':>14}{'p50':>10}{'p99':>10}")
    for (name, connections), own in samples.items():
        ratios = [a.rate_per_s / b.rate_per_s for a, b in zip(own, samples[first, connections], strict=True)]
        middle = wrk.middle(own)
        print(
            f"{f'{name}, {connections}':28}{middle.rate_per_s:12,.0f}{median(ratios):13.2f}×"
            f"{middle.p50_s * 1000:7.3f} ms{middle.p99_s * 1000:7.3f} ms"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.trees", description=__doc__)
    parser.add_argument("trees", nargs="+", type=Path, metavar="TREE")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args(arguments)
    mosec, environment = PEERS["mosec"], PeerEnvironment(bench_home() / "peers")
    environment.install(mosec)
    with tempfile.TemporaryDirectory(prefix="bench-trees-") as folder, ExitStack() as stack:
        endpoints: dict[str, Endpoint] = {}
        for number, tree in enumerate(given.trees):
            process = stack.enter_context(running(tree.resolve(), Path(folder, f"home-{number}")))
            for function in ("total", "total_cached"):
                name = tree.name + (" cached" if function != "total" else "")
                endpoints[name] = endpoint(process, f"total/{function}")
        peer = stack.enter_context(PeerLauncher(mosec, environment, Path(folder)).start())
        endpoints |= peer.endpoints
        for one in endpoints.values():
            wrk.check(one)
        show(measured(endpoints, given.rounds), given.trees[0].name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
