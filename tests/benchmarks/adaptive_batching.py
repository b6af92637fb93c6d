"""Adaptive batching against none, by simulation: one replica, Poisson arrivals, a model that takes a + b·n.

    python -m tests.benchmarks.adaptive_batching [--quick]

The simulation drives the real `core.batching` (plan, policies, size controllers) with a simulated clock, so that the
same seed gives the same numbers on any machine. It prints Markdown tables. Tests use `simulate` too.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from clipper_platform.core.batching import (
    BUDGET_FRACTION,
    Dispatch,
    Policy,
    PolicyName,
    SizeController,
    make_controller,
    plan,
)

Cost = Callable[[int, float], float]
"""(size, now) -> how long a batch of that size runs, in seconds."""

CAP = 512  # max_batch_size: out of the controllers' way


def poisson(rate_per_s: float, horizon_s: float, rng: random.Random) -> Iterator[float]:
    """Arrival times of an open loop: they come whether or not the earlier ones were answered."""
    now = rng.expovariate(rate_per_s)
    while now < horizon_s:
        yield now
        now += rng.expovariate(rate_per_s)


def linear(a_s: float, b_s: float, *, slow: tuple[float, float] = (math.inf, math.inf), factor: float = 5.0) -> Cost:
    """a + b·n; between the two times of `slow`, `factor` times that."""

    def cost(size: int, now: float) -> float:
        return (a_s + b_s * size) * (factor if slow[0] <= now < slow[1] else 1.0)

    return cost


def noisy(
    cost: Cost, rng: random.Random, *, sigma: float = 0.1, stall_share: float = 0.01, stall_s: float = 0.02
) -> Cost:
    """Each duration times a log-normal factor; now and then a stall on top."""

    def noised(size: int, now: float) -> float:
        stall = stall_s if rng.random() < stall_share else 0.0
        return cost(size, now) * rng.lognormvariate(0, sigma) + stall

    return noised


@dataclass(slots=True)
class Trace:
    """What happened: per answered item (arrival, stay), per batch (start, size, duration, limit afterwards)."""

    items: list[tuple[float, float]] = field(default_factory=list)
    batches: list[tuple[float, int, float, int]] = field(default_factory=list)
    dropped: int = 0

    def stay(self, q: float, since: float = 0.0, until: float = math.inf) -> float:
        """The quantile of the stays of items that came in that time, in seconds; inf without items."""
        stays = sorted(stay for at, stay in self.items if since <= at < until)
        return stays[min(len(stays) - 1, int(q * len(stays)))] if stays else math.inf

    def throughput(self, since: float, until: float) -> float:
        return sum(since <= at + stay < until for at, stay in self.items) / (until - since)

    def mean_size(self, since: float = 0.0, until: float = math.inf) -> float:
        sizes = [size for at, size, _, _ in self.batches if since <= at < until]
        return sum(sizes) / len(sizes) if sizes else math.nan

    def limit_at(self, at: float) -> int:
        """The controller's limit after the last batch that began before `at`."""
        return next((limit for start, _, _, limit in reversed(self.batches) if start < at), 1)


@dataclass(slots=True)
class _Batch:
    arrivals: list[float]
    started_at: float
    duration_s: float
    replied_at: float
    full: bool


def simulate(
    controller: SizeController,
    cost: Cost,
    arrivals: Iterable[float],
    *,
    depth: int = 2,
    wait_timeout_s: float = 0.0,
    hop_s: float = 0.0002,
    lead_s: float = 0.001,
    patience_s: float = math.inf,
) -> Trace:
    """Serve `arrivals` (ascending times) on one replica that runs one batch after another.

    hop_s: from the platform to the replica, and back again. patience_s: items that waited longer are dropped, as the
    deadline would do. Every event happens at its exact time; the platform itself costs nothing.
    """
    trace, waiting, flying = Trace(), deque[float](), deque[_Batch]()
    policy = Policy(
        max_batch_size=CAP, wait_timeout_s=wait_timeout_s, limit=controller.limit, depth=depth, lead_s=lead_s
    )
    source = iter(arrivals)
    next_arrival = next(source, math.inf)
    timer, free_at, last_reply = math.inf, 0.0, -math.inf
    while True:
        reply = flying[0].replied_at if flying else math.inf
        now = min(next_arrival, reply, timer)
        if now == math.inf:
            return trace
        if now == reply:
            batch = flying.popleft()
            # As the platform sees it: since it was sent, or since the previous reply if that was later.
            seen = now - max(batch.started_at - hop_s, last_reply)
            last_reply = now
            controller.observe(len(batch.arrivals), seen, full=batch.full)
            policy = policy.with_limit(controller.limit)
            trace.batches.append((batch.started_at, len(batch.arrivals), batch.duration_s, controller.limit))
            trace.items += [(at, now - at) for at in batch.arrivals]
        elif now == next_arrival:
            waiting.append(now)
            next_arrival = next(source, math.inf)
        while waiting and now - waiting[0] > patience_s:
            waiting.popleft()
            trace.dropped += 1
        timer = math.inf
        while waiting:
            running = flying[0] if flying else None
            step = plan(
                len(waiting),
                waiting[0],
                policy,
                now,
                in_flight=len(flying),
                running_since=None if running is None else max(running.started_at - hop_s, last_reply),
                expected_s=None if running is None else controller.expected(len(running.arrivals)),
            )
            if not isinstance(step, Dispatch):
                timer = step.t
                break
            start = max(now + hop_s, free_at)
            taken = [waiting.popleft() for _ in range(step.n)]
            duration = cost(step.n, start)
            free_at = start + duration
            flying.append(_Batch(taken, start, duration, free_at + hop_s, step.full))


class PaperAimd:
    """Clipper's rule alone, for comparison: +1 per batch inside the budget, -10% outside, no floor."""

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s
        self._limit = 1.0

    @property
    def limit(self) -> int:
        return int(self._limit)

    def observe(self, size: float, duration_s: float, *, full: bool | None = None) -> None:
        self._limit = max(1.0, self._limit * 0.9) if duration_s > self._budget_s else self._limit + 1

    def expected(self, size: float) -> float | None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a batch costs (a + b·n) and the objective for each item's stay; seconds."""

    a_s: float
    b_s: float
    slo_s: float

    def __str__(self) -> str:
        return f"{self.a_s * 1e3:g} + {self.b_s * 1e3:g}·n | {self.slo_s * 1e3:g} ms"

    @property
    def unbatched_per_s(self) -> float:
        return 1 / (self.a_s + self.b_s)

    @property
    def best_size(self) -> float:
        """The size whose run takes the whole budget."""
        return (self.slo_s * BUDGET_FRACTION - self.a_s) / self.b_s

    def run(self, policy: PolicyName, rate_per_s: float, horizon_s: float, *, patience_s: float = math.inf) -> Trace:
        arrivals = poisson(rate_per_s, horizon_s, random.Random(1))
        controller = make_controller(policy, CAP, self.slo_s)
        return simulate(controller, linear(self.a_s, self.b_s), arrivals, patience_s=patience_s)


MAIN = Model(a_s=0.005, b_s=0.00005, slo_s=0.02)


def highest_rate(policy: PolicyName, model: Model, horizon_s: float) -> float:
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


def settled_at(trace: Trace, target: float, *, within: float = 0.25) -> float:
    """From when on the limit stays within a share of `target`, in seconds."""
    last_outside = 0.0
    for start, _, _, limit in trace.batches:
        if abs(limit - target) > within * target:
            last_outside = start
    return last_outside


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
    policies: tuple[PolicyName, ...] = ("none", "aimd", "latency_model")
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
    policies: tuple[PolicyName, ...] = ("aimd", "latency_model")
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


def slope_slows(a_s: float, b_s: float, *, slow: tuple[float, float] = (10.0, 20.0), factor: float = 5.0) -> Cost:
    """Only the cost per item grows: the objective stays within reach, with smaller batches."""

    def cost(size: int, now: float) -> float:
        return a_s + b_s * size * (factor if slow[0] <= now < slow[1] else 1.0)

    return cost


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
