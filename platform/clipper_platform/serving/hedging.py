"""Hedged invocations: a second copy for what a replica is slow with ("The Tail at Scale", Dean and Barroso 2013)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

from clipper_platform.serving.endpoint import Batch, Endpoint
from clipper_platform.serving.function_metrics import FunctionMetrics
from clipper_platform.serving.invocation import State

__all__ = ["Hedging"]


class Hedging:
    """For one function with `hedge_after`: a batch that takes longer than this quantile of recent latencies is sent to
    an idle replica as well, and the first answer counts."""

    __slots__ = ("_endpoints", "_loop", "_metrics", "_rng", "quantile")

    def __init__(
        self, quantile: float, endpoints: Mapping[str, Endpoint], *, metrics: FunctionMetrics, rng: random.Random
    ) -> None:
        self.quantile = quantile
        self._endpoints = endpoints
        self._metrics = metrics
        self._rng = rng
        self._loop = asyncio.get_running_loop()

    def plan(self, endpoint: Endpoint, batch: Batch, delay_s: float | None) -> None:
        """Hedge the batch after `delay_s` seconds; None where no latency is known yet."""
        if delay_s is not None and len(self._endpoints) > 1:
            self._loop.call_later(delay_s, self._hedge, endpoint, batch)

    def _hedge(self, slow: Endpoint, batch: Batch) -> None:
        unanswered = [
            i for i in batch.items if i is not None and i.state is State.RUNNING and not (i.chunks or i.withdrawn)
        ]
        if not unanswered or slow.id not in self._endpoints:
            return
        idle = [e for e in self._endpoints.values() if e is not slow and e.room() >= len(unanswered) and not e.batches]
        if idle:
            self._rng.choice(idle).send(unanswered, batch.weight, hedge=True)
            self._metrics.hedged(len(unanswered))
