"""What a 429 costs the gateway, beside what an answer costs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.client import HTTPException

import psutil

from tests.benchmarks import wrk
from tests.benchmarks.machine import cpu_s
from tests.benchmarks.ours import endpoint, platform, replica_pids
from tests.benchmarks.section import Bench, Section, Verdict, count, table
from tests.benchmarks.servers import BenchmarkError, Endpoint, ask
from tests.support.platform import PlatformProcess, eventually

__all__ = ["refusals"]

CONNECTIONS = 64
FILL = 8  # two batches of one on the replica, one waiting, and some that are refused already


def refusals(bench: Bench) -> Section:
    """Processor time per request: of the gateway, and of the replica where there is work for it."""
    seconds = max(1, bench.plan.measure_s)
    bench.display.step("starting Clipper")
    with platform(bench.work / "refusals", "refusal") as running:
        if running.process is None:
            raise BenchmarkError("the platform ended")
        gateway = [psutil.Process(running.process.pid)]
        replica = [psutil.Process(pid) for pid in replica_pids(running, "refusal/total")]
        bench.display.step("answers")
        served = endpoint(running, "refusal/total")
        wrk.check(served, seconds=bench.plan.warm_s)
        answer = _cost(served, seconds, gateway, replica)
        bench.display.step("answers of a model that works for 1 ms")
        working = endpoint(running, "refusal/model")
        wrk.check(working, seconds=bench.plan.warm_s)
        replica = [psutil.Process(pid) for pid in replica_pids(running, "refusal/model")]
        worked = _cost(working, seconds, gateway, replica)
        bench.display.step("refusals")
        refused = replace(endpoint(running, "refusal/stuck"), status=429)
        with _full(running, refused):
            wrk.check(refused, seconds=bench.plan.warm_s, body=False)
            refusal = _cost(refused, seconds, gateway, [])
    return _section(answer, worked, refusal)


def _cost(
    target: Endpoint, seconds: int, gateway: list[psutil.Process], replica: list[psutil.Process]
) -> tuple[wrk.Sample, float, float]:
    """The sample, and seconds of processor time per request: (gateway, replica)."""
    before = cpu_s(gateway), cpu_s(replica)
    sample = wrk.measure(target, connections=CONNECTIONS, seconds=seconds)
    spent = cpu_s(gateway) - before[0], cpu_s(replica) - before[1]
    return sample, spent[0] / sample.requests, spent[1] / sample.requests


@contextmanager
def _full(running: PlatformProcess, target: Endpoint) -> Iterator[None]:
    """Keeps the queue full with callers that get no answer while the context lasts, so that all others are refused."""

    def call() -> None:
        with suppress(OSError, HTTPException):
            ask(target, timeout_s=45)

    for _ in range(FILL):
        threading.Thread(target=call, daemon=True).start()
    try:
        eventually(lambda: _refused(target), within_s=10, what="a full queue refuses")
    except AssertionError as error:
        raise BenchmarkError(str(error)) from error
    yield


def _refused(target: Endpoint) -> bool:
    with suppress(TimeoutError):
        return ask(target, timeout_s=0.5)[0] == target.status
    return False


Cost = tuple[wrk.Sample, float, float]


def _section(answer: Cost, worked: Cost, refusal: Cost) -> Section:
    rows = [
        [words, count(sample.rate_per_s), *(f"{spent_s * 1e6:.1f}" for spent_s in (ours, theirs, ours + theirs))]
        for words, (sample, ours, theirs) in (
            ("answered: a model that sums ten floats, in batches", answer),
            ("answered: a model that works for 1 ms", worked),
            ("refused with 429", refusal),
        )
    ]
    free, whole = (refusal[1] / (ours + theirs) for _, ours, theirs in (answer, worked))
    return Section(
        title="What a refusal costs",
        markdown=f"Processor time per request at {CONNECTIONS} connections.\n\n"
        + table(["", "requests/s", "gateway µs", "replica µs", "together µs"], rows)
        + f"\n\nA refusal costs {whole:.1%} of an answer of the model that works for 1 ms, and {free:.0%} of one of "
        "the model that works for nothing: most of it is the kernel's, for a read and a write.",
        verdicts=[Verdict.at_most("processor time of a refusal by that of an answer, of a model of 1 ms", whole, 0.1)],
        data={
            "answer_us": [answer[1] * 1e6, answer[2] * 1e6],
            "model_us": [worked[1] * 1e6, worked[2] * 1e6],
            "refusal_us": refusal[1] * 1e6,
        },
        foreign=[answer[0].foreign, refusal[0].foreign],
    )
