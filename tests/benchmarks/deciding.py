"""`python -m tests.benchmarks.deciding [--functions N]`: processor time of a round of the autoscaler, in which all
functions have load.

The real loop on samples of real queues, one for each function, whose replicas are in memory. Between the rounds, which
is not counted, calls come to each of them and end, so that every sample changes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import statistics
import sys
from collections.abc import Callable
from time import process_time

from clipper_platform.clock import SystemClock
from clipper_platform.control.function_facts import ScaledFunctions
from clipper_platform.control.scaling.autoscaler import Autoscaler
from clipper_platform.serving.function_queue import FunctionQueue
from clipper_platform.tuning import tune
from clipper_platform.types import FunctionId
from tests.support.memory_backend import InMemoryBackend
from tests.support.serving import ManualClock, harness, target

ROUNDS = 30


class ScaleTarget:
    """Samples of the real functions, but nothing is done to them."""

    def __init__(self, functions: ScaledFunctions) -> None:
        self.sampler = functions.sampler

    def scale(self, id: FunctionId, replicas: int) -> None: ...

    def on_call(self, id: FunctionId, callback: Callable[[FunctionId], None] | None) -> None: ...


def stir(queue: FunctionQueue, rng: random.Random, now: float) -> None:
    """What half a second of a few calls leaves in a function's statistics."""
    calls = rng.randrange(1, 4)
    queue.running, queue.idle_since = rng.randrange(1, 3), None
    queue.submitted += calls
    durations_s = [rng.uniform(0.02, 0.04) for _ in range(calls)]
    queue.latency.observe_all(durations_s, now)
    for endpoint in queue.endpoints.by_id.values():
        for duration_s in durations_s:
            endpoint.controller.observe(1, duration_s)


async def measure(functions: int, **options: object) -> None:
    rng = random.Random(7)
    async with harness(InMemoryBackend(), clock=SystemClock()) as h:
        for n in range(functions):
            await h.deploy(target("f", project=f"p{n}", **options))
        queues = h.dispatcher.queues()
        clock = ManualClock()
        clock.now = h.clock.monotonic()
        loop = Autoscaler(ScaleTarget(h.scaled), clock=clock, events=lambda *_: None, count=lambda *_: None)
        for queue in queues:
            stir(queue, rng, clock.now)
            loop.appeared(queue.target.id, queue.spec)
        loop.tick()
        tune()  # as the platform does before it serves
        rounds, slices = [], []
        for _ in range(ROUNDS):
            clock.now += 0.5
            for queue in queues:
                stir(queue, rng, clock.now)
            began = before = process_time()
            for _ in loop.round():
                now = process_time()
                slices.append(now - before)
                before = now
            rounds.append(before - began)
        gc.unfreeze()
        for queue in queues:
            queue.running, queue.idle_since = 0, clock.now
    print(
        f"{loop.active} functions with load{' and an objective' if options else ''}: a round takes "
        f"{min(rounds) * 1000:.0f} ms at best, {statistics.median(rounds) * 1000:.0f} ms in the middle; a slice of it "
        f"{statistics.median(slices) * 1000:.1f} ms, {statistics.quantiles(slices, n=100)[-1] * 1000:.1f} ms at p99"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.deciding", description=__doc__.split("\n\n")[1])
    parser.add_argument("--functions", type=int, default=10_000)
    functions = parser.parse_args().functions
    await measure(functions)
    await measure(functions, latency_slo_s=0.1, max_batch_size=8)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
