"""Adaptive batching through the real platform: a model that sleeps 5 ms + 0.05 ms per item, an objective of 20 ms."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from tests.benchmarks import openloop
from tests.benchmarks.machine import Processors
from tests.benchmarks.openloop import Load, Outcome
from tests.benchmarks.ours import endpoint, platform
from tests.benchmarks.section import Bench, Section, Verdict, count, milliseconds, table
from tests.benchmarks.servers import ended, expect_answer
from tests.support.platform import PlatformProcess

__all__ = ["batching_live"]

OBJECTIVE_S = 0.02
UNBATCHED_PER_S = 1 / 0.00505  # what the model does one by one
POLICIES = ("aimd", "latency_model")
SAMPLE_S = 0.25


class _Run:
    """What was measured of one policy under one load."""

    def __init__(self, policy: str, load: Load, outcome: Outcome, mean_size: float, limits: list[tuple[float, float]],
                 foreign: float) -> None:  # fmt: skip
        self.policy = policy
        self.load = load
        self.outcome = outcome
        self.mean_size = mean_size
        self.limits = limits
        self.foreign = foreign

    @property
    def times(self) -> float:
        """Throughput as a multiple of what the model does one by one."""
        return self.outcome.answered_per_s / UNBATCHED_PER_S

    @property
    def saturated(self) -> bool:
        """Whether batches were often full: only then does their limit mean anything."""
        return self.policy in POLICIES and self.times > 5

    @property
    def settled_s(self) -> float:
        """When the size limit was first within a quarter of where it was in the end (the last second's median)."""
        final = median([limit for at, limit in self.limits if at > self.limits[-1][0] - 1.0] or [0.0])
        return next((at for at, limit in self.limits if abs(limit - final) <= final / 4), 0.0)


def batching_live(bench: Bench) -> Section:
    """No batching at the highest rate, which shows its capacity, then each adaptive policy by rate."""
    runs = []
    bench.display.step("starting Clipper")
    with platform(bench.work / "batching", "sleepy") as running:
        cases = [("none", bench.plan.batching_rates[-1])]
        cases += [(policy, times) for times in bench.plan.batching_rates for policy in POLICIES]
        for policy, times in cases:
            if bench.budget.fits(bench.plan.batching_s + 3):
                bench.display.step(f"{policy}, {times:g} times what one by one can do")
                runs.append(_measure(running, policy, times * UNBATCHED_PER_S, bench.plan.batching_s))
    return _section(runs)


def _measure(running: PlatformProcess, policy: str, rate_per_s: float, seconds: float) -> _Run:
    path = f"sleepy/{policy}"
    target = endpoint(running, path, body=b'{"x": 1.5}', expected=b"1.5")
    expect_answer(target)
    # The first half is for the size to settle, and does not count.
    load = Load(url=target.url, body='{"x": 1.5}', rate_per_s=rate_per_s, seconds=seconds, skip_s=seconds / 2)
    before = _batches(running, path)
    with Processors() as processors, _limits(running, path) as limits:
        child = openloop.start(load)
        try:
            outcome = openloop.collect(child, load)
        finally:
            ended(child)
    after = _batches(running, path)
    items, batches = after[0] - before[0], after[1] - before[1]
    _drained(running, path)
    return _Run(policy, load, outcome, items / batches if batches else 0.0, limits, processors.foreign)


def _batches(running: PlatformProcess, path: str) -> tuple[float, float]:
    """Items and batches so far."""
    samples, labels = running.metrics(), f'{{function="{path}",version="1"}}'
    return samples.get(f"clip_batch_size_sum{labels}", 0.0), samples.get(f"clip_batch_size_count{labels}", 0.0)


def _drained(running: PlatformProcess, path: str, within_s: float = 60.0) -> None:
    """Wait for an overloaded queue to empty, so that it does not fall on the next measurement."""
    deadline, name = time.monotonic() + within_s, f'clip_queue_depth{{function="{path}",version="1"}}'
    while running.metrics().get(name) and time.monotonic() < deadline:
        time.sleep(0.2)


@contextmanager
def _limits(running: PlatformProcess, path: str) -> Iterator[list[tuple[float, float]]]:
    """The policy's size limit meanwhile, as (seconds since the first batch, limit)."""
    found: list[tuple[float, float]] = []
    labels, stop = f'{{function="{path}",version="1"}}', threading.Event()

    def watch() -> None:
        idle = _batches(running, path)[1]
        began = 0.0
        while not stop.wait(SAMPLE_S):
            samples = running.metrics()
            if not began and samples.get(f"clip_batch_size_count{labels}", 0.0) == idle:
                continue
            began = began or time.monotonic()
            found.append((time.monotonic() - began, samples.get(f"clip_batch_limit{labels}", 0.0)))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        stop.set()
        watcher.join(10)


def _section(runs: list[_Run]) -> Section:
    head = ["policy", "offered/s", "answered/s", "of one by one", "p50 / p99 ms", "mean batch", "settled after",
            "not answered", "generator late, p99 ms"]  # fmt: skip
    settled = [run.settled_s for run in runs if run.saturated]
    return Section(
        title="Adaptive batching, live",
        markdown="An open loop (Poisson arrivals, latencies from the moment a request was due) to a function that "
        "sleeps 5 ms + 0.05 ms per item, with an objective of 20 ms, one replica. One by one the model does "
        f"{UNBATCHED_PER_S:.0f}/s. The first half of each run is for the size to settle.\n\n"
        + table(head, [_row(run) for run in runs]),
        verdicts=[
            _throughput(runs),
            Verdict.at_most("batch size settled after", max(settled, default=None), 5, " s"),
        ],
        data={
            f"{run.policy} {run.load.rate_per_s:.0f}/s": {
                "answered_per_s": run.outcome.answered_per_s,
                "p50_s": run.outcome.quantile(0.5),
                "p99_s": run.outcome.quantile(0.99),
                "statuses": run.outcome.statuses,
                "limits": run.limits,
            }
            for run in runs
        },
        foreign=[run.foreign for run in runs],
    )


def _row(run: _Run) -> list[str]:
    return [
        run.policy,
        count(run.load.rate_per_s),
        count(run.outcome.answered_per_s),
        f"{run.times:.1f}×",
        f"{milliseconds(run.outcome.quantile(0.5))} / {milliseconds(run.outcome.quantile(0.99))}",
        f"{run.mean_size:.1f}",
        f"{run.settled_s:.1f} s" if run.saturated else "",
        count(sum(n for status, n in run.outcome.statuses.items() if status != "200")),
        milliseconds(run.outcome.late_p99_s),
    ]


def _throughput(runs: list[_Run]) -> Verdict:
    within = [run for run in runs if run.policy in POLICIES and run.outcome.quantile(0.99) <= OBJECTIVE_S]
    best = max(within, key=lambda run: run.times, default=None)
    fastest = min((run.outcome.quantile(0.99) for run in runs if run.saturated), default=None)
    measured = f"{best.times:.1f}×" if best else f"p99 {milliseconds(fastest)} ms" if fastest else "not measured"
    return Verdict(
        what="throughput by no batching's with p99 ≤ 20 ms",
        target="≥ 20×",
        measured=measured,
        # Poisson arrivals: 20 times the rate is offered on average.
        met=(best.times >= 19.5 if best else False) if fastest else None,
    )
