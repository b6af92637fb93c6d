"""Adaptive batching against none, by simulation: one replica, Poisson arrivals, a model that takes a + b·n.

    python -m tests.benchmarks.adaptive_batching [--quick]

Prints Markdown tables. The simulation is `tests.support.batch_simulation`.
"""

from __future__ import annotations

import argparse
import random

from clipper.contract.spec import BatchPolicy
from clipper_platform.core.batching import BUDGET_FRACTION, make_controller
from tests.support.batch_simulation import (
    CAP,
    MAIN,
    Model,
    PaperAimd,
    linear,
    poisson,
    settled_at,
    simulate,
    slope_slows,
)


def highest_rate(policy: BatchPolicy, model: Model, horizon_s: float) -> float:
    """The highest Poisson rate at which the p99 stay keeps the objective once the size has settled; to 2%."""
    low, high = 0.0, 1 / model.b_s
    while high - low > 0.02 * high:
        rate = (low + high) / 2
        trace = model.run(policy, rate, horizon_s, patience_s=10 * model.slo_s)
        if trace.stay(0.99, horizon_s / 2) <= model.slo_s:
            low = rate
        else:
            high = rate
    return low


def print_models(quick: bool) -> None:
    horizon_s = 6.0 if quick else 12.0
    models = [MAIN]
    if not quick:
        models += [
            Model(a_s=0.001, b_s=0.0001, slo_s=0.02),
            Model(a_s=0.002, b_s=0.00002, slo_s=0.01),
            Model(a_s=0.02, b_s=0.0002, slo_s=0.1),
            Model(a_s=0.0002, b_s=0.001, slo_s=0.02),
        ]
    print("## The highest rate with p99 inside the objective (Poisson arrivals, one replica)\n")
    print("| model (ms) | objective | unbatched, saturated | policy | highest rate | ratio | p99 there | mean size |")
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    policies: tuple[BatchPolicy, ...] = ("none", "aimd", "latency_model")
    for model in models:
        for policy in policies:
            rate = highest_rate(policy, model, horizon_s)
            trace = model.run(policy, rate, horizon_s)
            print(
                f"| {model} | {model.unbatched_per_s:,.0f}/s | {policy} | {rate:,.0f}/s "
                f"| {rate / model.unbatched_per_s:.1f}x | {trace.stay(0.99, horizon_s / 2) * 1e3:.1f} ms "
                f"| {trace.mean_size(horizon_s / 2):.0f} |"
            )


def print_loads(quick: bool) -> None:
    print("\n## 5 ms + 0.05 ms·n, objective 20 ms: p50 and p99 stay from second 5 on, by load\n")
    print("| rate | times unbatched | policy | p50 | p99 | mean size | limit | limit settled after |")
    print("| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    policies: tuple[BatchPolicy, ...] = ("aimd", "latency_model")
    for rate in (100.0, 1000.0, 3960.0, 8000.0) if not quick else (3960.0, 8000.0):
        for policy in policies:
            trace = MAIN.run(policy, rate, 12)
            settled = f"{settled_at(trace, MAIN.best_size):.2f} s" if rate == 8000.0 else ""
            print(
                f"| {rate:,.0f}/s | {rate / MAIN.unbatched_per_s:.1f} | {policy} | {trace.stay(0.5, 5) * 1e3:.1f} ms "
                f"| {trace.stay(0.99, 5) * 1e3:.1f} ms | {trace.mean_size(5):.1f} | {trace.limit_at(12)} | {settled} |"
            )


def print_slowdown() -> None:
    print("\n## The model slows 5 times from second 10 to 20 (dropped after waiting 1 s)\n")
    print("| model | rate | policy | limit at 10 s | at 12 s | at 20 s | back at 25 s | answered/s, slow | its p99 |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    cases = [
        ("both costs: 25 + 0.25·n", 1000.0, linear(0.005, 0.00005, slow=(10, 20))),
        ("slope only: 2 + 0.05 -> 0.25·n", 2000.0, slope_slows(0.002, 0.00005)),
    ]
    for words, rate, cost in cases:
        for name, controller in (
            ("aimd", make_controller("aimd", CAP, 0.02)),
            ("latency_model", make_controller("latency_model", CAP, 0.02)),
            ("paper's aimd", PaperAimd(0.02 * BUDGET_FRACTION)),
        ):
            trace = simulate(controller, cost, poisson(rate, 26, random.Random(1)), patience_s=1.0)
            limits = " | ".join(str(trace.limit_at(at)) for at in (10, 12, 20, 25))
            print(
                f"| {words} | {rate:,.0f}/s | {name} | {limits} | {trace.throughput(12, 20):,.0f} "
                f"| {trace.stay(0.99, 12, 20) * 1e3:.0f} ms |"
            )


def print_pipelining(quick: bool) -> None:
    print("\n## The second batch in flight (0.5 ms to the replica, 0.5 ms back; latency_model, objective 20 ms)\n")
    print("| rate | in flight | p50 | p99 | mean size |")
    print("| ---: | --- | ---: | ---: | ---: |")
    for rate in (2000, 6000) if not quick else (6000,):
        for words, depth, lead_s in (("1", 1, 0.001), ("2, by plan", 2, 0.001), ("2, at once", 2, 1.0)):
            controller = make_controller("latency_model", CAP, MAIN.slo_s)
            arrivals = poisson(rate, 12, random.Random(1))
            trace = simulate(controller, linear(MAIN.a_s, MAIN.b_s), arrivals, depth=depth, lead_s=lead_s, hop_s=0.0005)
            print(
                f"| {rate:,}/s | {words} | {trace.stay(0.5, 5) * 1e3:.1f} ms | {trace.stay(0.99, 5) * 1e3:.1f} ms "
                f"| {trace.mean_size(5):.1f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one model, under 20 seconds")
    quick = parser.parse_args().quick
    print_models(quick)
    print_loads(quick)
    print_slowdown()
    print_pipelining(quick)


if __name__ == "__main__":
    main()
