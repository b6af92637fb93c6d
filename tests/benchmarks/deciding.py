"""`python -m tests.benchmarks.deciding`: processor time of a round of the autoscaler, in which all functions have load.

The real loop on samples of real lanes, whose replicas are in memory: 500 of them, each standing for twenty functions.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
from collections.abc import Callable
from time import process_time

from clipper_platform.backends.memory import InMemoryBackend
from clipper_platform.control.autoscaler import Autoscaler
from clipper_platform.core.scaling import Sample
from clipper_platform.serving.lane import Lane
from clipper_platform.serving.status import lane_sample
from clipper_platform.tuning import tune
from clipper_platform.types import FunctionId
from tests.support.serving import ManualClock, harness, target

FUNCTIONS, LANES, ROUNDS = 10_000, 500, 20


class Plant:
    """Whose functions are always busy, and stay as they are."""

    def __init__(self, lanes: list[Lane], clock: ManualClock) -> None:
        self.lanes = {FunctionId(f"p{n}", "f", 1): lanes[n % len(lanes)] for n in range(FUNCTIONS)}
        self._clock = clock

    def sample(self, id: FunctionId) -> Sample | None:
        lane = self.lanes.get(id)
        return None if lane is None or lane.held else lane_sample(lane, self._clock.now)

    def scale(self, id: FunctionId, replicas: int) -> None: ...

    def on_call(self, id: FunctionId, callback: Callable[[FunctionId], None] | None) -> None: ...


async def measure(**options: object) -> None:
    async with harness(InMemoryBackend()) as h:
        for n in range(LANES):
            await h.deploy(target("f", project=f"p{n}", **options))
            for _ in range(3):
                await h.call(f"p{n}/f").wait()
        clock = ManualClock()
        clock.now = h.clock.monotonic()
        plant = Plant(h.dispatcher.lanes(), clock)
        for lane in h.dispatcher.lanes():
            lane.running, lane.idle_since = 1, None
        loop = Autoscaler(plant, clock=clock, events=lambda *_: None, count=lambda *_: None)
        for id, lane in plant.lanes.items():
            loop.appeared(id, lane.spec)
        loop.tick()
        tune()  # as the platform does before it serves
        rounds, slices = [], []
        for _ in range(ROUNDS):
            clock.now += 0.5
            began = before = process_time()
            for _ in loop.round():
                now = process_time()
                slices.append(now - before)
                before = now
            rounds.append(before - began)
        gc.unfreeze()
        for lane in h.dispatcher.lanes():
            lane.running, lane.idle_since = 0, clock.now
    print(
        f"{loop.active} functions with load{' and an objective' if options else ''}: a round takes "
        f"{min(rounds) * 1000:.0f} ms at best, {statistics.median(rounds) * 1000:.0f} ms in the middle; a slice of it "
        f"{statistics.median(slices) * 1000:.1f} ms, {statistics.quantiles(slices, n=100)[-1] * 1000:.1f} ms at p99"
    )


async def main() -> None:
    await measure()
    await measure(latency_slo_s=0.1, max_batch_size=8)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
