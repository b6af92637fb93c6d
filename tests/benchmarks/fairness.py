"""One function at ten times its capacity, and the latency of another one beside it."""

from __future__ import annotations

from contextlib import ExitStack

from tests.benchmarks import openloop
from tests.benchmarks.machine import Processors
from tests.benchmarks.openloop import Load, Outcome
from tests.benchmarks.ours import endpoint, platform
from tests.benchmarks.section import Bench, Section, Verdict, count, milliseconds, table
from tests.benchmarks.servers import ended, expect_answer
from tests.support.platform import PlatformProcess

__all__ = ["fairness"]

BODY = '{"x": 1.5}'
QUIET_PER_S = 150.0  # a third of what a function that takes 2 ms can do
NOISY_PER_S = 2000.0  # ten times what one that takes 5 ms can do


def fairness(bench: Bench) -> Section:
    """The quiet function alone, then beside the noisy one, in turn; the same arrivals each time."""
    alone: list[Outcome] = []
    beside: list[Outcome] = []
    noisy: list[Outcome] = []
    bench.display.step("starting Clipper")
    with platform(bench.work / "fairness", "fairness") as running, Processors() as processors:
        for name in ("quiet", "noisy"):
            expect_answer(endpoint(running, f"fairness/{name}", body=BODY.encode(), expected=b"1.5"))
        for number in range(bench.plan.fairness_rounds):
            bench.display.step(f"round {number + 1} of {bench.plan.fairness_rounds}: alone")
            alone += _run(running, bench.plan.fairness_s, number, loud=False)
            bench.display.step(
                f"round {number + 1} of {bench.plan.fairness_rounds}: beside a function at 10× its capacity"
            )
            second, loud = _run(running, bench.plan.fairness_s, number, loud=True)
            beside.append(second)
            noisy.append(loud)
    return _section(alone, beside, noisy, processors.foreign)


def _run(running: PlatformProcess, seconds: float, seed: int, *, loud: bool) -> list[Outcome]:
    """The quiet function's outcome and, if `loud`, the noisy one's."""
    lead_s = 1.0  # the noisy queue is full before anything counts
    quiet = Load(
        url=f"{running.url}/fn/fairness/quiet",
        body=BODY,
        rate_per_s=QUIET_PER_S,
        seconds=seconds + lead_s,
        seed=seed + 1,
        skip_s=lead_s,
    )
    loads = [quiet]
    if loud:
        loads.append(
            Load(
                url=f"{running.url}/fn/fairness/noisy",
                body=BODY,
                rate_per_s=NOISY_PER_S,
                seconds=seconds + lead_s,
                seed=seed + 100,
            )
        )
    with ExitStack() as stack:
        children = []
        for load in loads:
            child = openloop.start(load)
            stack.callback(ended, child)
            children.append(child)
        return [openloop.collect(child, load) for child, load in zip(children, loads, strict=True)]


def _section(alone: list[Outcome], beside: list[Outcome], noisy: list[Outcome], foreign: float) -> Section:
    def pooled(outcomes: list[Outcome], q: float) -> float:
        return openloop.quantile([one for outcome in outcomes for one in outcome.latencies_s], q)

    rows = []
    for words, outcomes in (("alone", alone), ("beside", beside)):
        failed = sum(n for outcome in outcomes for status, n in outcome.statuses.items() if status != "200")
        rows.append([words, milliseconds(pooled(outcomes, 0.5)), milliseconds(pooled(outcomes, 0.99)), str(failed)])
    refused = sum(outcome.statuses.get("429", 0) for outcome in noisy)
    served = sum(outcome.answered_per_s for outcome in noisy) / max(1, len(noisy))
    before, during = pooled(alone, 0.99), pooled(beside, 0.99)
    return Section(
        title="Fairness",
        markdown=f"A function that takes 2 ms gets {QUIET_PER_S:g} requests/s (Poisson, the same arrivals in both "
        f"lines), alone and beside one that takes 5 ms and gets {NOISY_PER_S:,.0f}/s, ten times its capacity. The "
        f"noisy one answered {count(served)}/s and was refused {count(refused)} times with 429.\n\n"
        + table(["the quiet function", "p50 ms", "p99 ms", "not answered"], rows),
        verdicts=[Verdict.at_most("p99 beside a function at 10× its capacity", during / before, 1.25)],
        data={"p99_alone_s": before, "p99_beside_s": during, "refused": refused},
        foreign=[foreign],
    )
