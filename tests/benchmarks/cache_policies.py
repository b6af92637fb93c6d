"""Hit ratios of cache policies at equal bytes, on synthetic traces: why `core.caching` is as it is.

    python -m tests.benchmarks.cache_policies [--quick]

Prints Markdown; hit ratios in percent. The policies and the traces are those of `tests.support.cache_simulation`.
"""

from __future__ import annotations

import argparse
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median
from time import process_time

from tests.support.cache_simulation import POLICIES, belady, hit_ratios, make_trace, pfoo_upper


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    kind: str
    sizes: str
    objects: int
    requests: int
    share: float  # the cache's bytes by those of all objects
    alpha: float = 0.9


def cases(quick: bool) -> list[Case]:
    selected = [Case(kind="loop", sizes="equal", objects=5_000, requests=50_000, share=0.5)]
    for sizes in ("equal", "log-normal", "1000-fold"):
        if quick or sizes == "1000-fold":
            selected += [
                Case(kind=kind, sizes=sizes, objects=10_000, requests=60_000, share=0.05)
                for kind in ("zipf", "scan", "shift")
            ]
            continue
        selected += [
            Case(kind="zipf", sizes=sizes, objects=50_000, requests=400_000, share=share, alpha=alpha)
            for alpha in (0.6, 0.8, 1.0, 1.2)
            for share in (0.01, 0.05, 0.2)
        ]
        selected.append(Case(kind="zipf", sizes=sizes, objects=10_000, requests=300_000, share=0.05))
        selected.append(Case(kind="zipf", sizes=sizes, objects=1_000_000, requests=1_000_000, share=0.01))
        selected += [
            Case(kind=kind, sizes=sizes, objects=20_000, requests=300_000, share=share)
            for kind in ("scan", "one-hit", "shift")
            for share in (0.01, 0.1)
        ]
    return selected


Row = tuple[str, float, dict[str, tuple[float, float]]]


def measure(case: Case) -> Row:
    trace = make_trace(case.kind, case.sizes, objects=case.objects, requests=case.requests, alpha=case.alpha)
    capacity = int(trace.working_set * case.share)
    found = {name: hit_ratios(make(capacity), trace, capacity) for name, make in POLICIES.items()}
    found["Belady"] = belady(trace, capacity)
    found["bound"] = pfoo_upper(trace, capacity)
    return trace.name, case.share, found


def cost(policy: str) -> tuple[float, float]:
    """Seconds of processor time per request, the median of 5 replays, and bytes per entry beside the value."""
    trace = make_trace("zipf", "equal", objects=20_000, requests=100_000)
    capacity = trace.working_set // 10
    took = []
    for _ in range(5):
        began = process_time()
        hit_ratios(POLICIES[policy](capacity), trace, capacity)
        took.append((process_time() - began) / len(trace.keys))
    filled = 50_000
    tracemalloc.start()
    cache = POLICIES[policy](filled * 2000)
    for key in range(filled):
        cache.access(1_000_000 + key, 1000)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return median(took), held / filled


def against_best(found: dict[str, tuple[float, float]], which: int = 0) -> float:
    """ResultCache's hit ratio by the best of the published online policies, less 1."""
    best = max(found[name][which] for name in POLICIES if name != "ResultCache")
    return found["ResultCache"][which] / best - 1 if best else 0.0


def print_table(rows: Sequence[Row], which: int) -> None:
    names = [*POLICIES, "Belady", "bound"]
    print("| trace | cache | " + " | ".join(names) + " | ours by the best online |")
    print("| --- | ---: |" + " ---: |" * (len(names) + 1))
    for trace, share, found in rows:
        cells = [f"{found[name][which] * 100:.1f}" for name in names]
        print(f"| {trace} | {share:.0%} | " + " | ".join(cells) + f" | {against_best(found, which):+.1%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small traces, under 20 seconds")
    quick = parser.parse_args().quick
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(measure, cases(quick)))
    print("## Requests that hit, in percent\n")
    print_table(rows, 0)
    print("\n## Bytes that hit, in percent\n")
    print_table(rows, 1)
    print("\n## Cost: 10% of 20,000 objects, equal sizes\n")
    print("| policy | processor time per request | memory per entry |\n| --- | ---: | ---: |")
    for policy in POLICIES:
        seconds, held = cost(policy)
        print(f"| {policy} | {seconds * 1e6:.2f} µs | {held:.0f} bytes |")
    steady = [row for row in rows if row[0].startswith("Zipf") and "redrawn" not in row[0]]
    name, share, found = min(steady, key=lambda row: against_best(row[2]))
    print(f"\nZipf, scans and one-hit wonders: {against_best(found):+.1%} at worst ({name}, cache {share:.0%}).")


if __name__ == "__main__":
    main()
