"""What a function's replicas have to spare, as background work sees it from look to look."""

from __future__ import annotations

import math
from typing import Final

from clipper_platform.core.background import Load
from clipper_platform.serving.endpoint import Endpoint
from clipper_platform.serving.function_queue import FunctionQueue

__all__ = ["Looks"]

SHARED: Final = 16  # calls of an unbatched function that a replica gets one after the other


class Looks:
    """Knows from the look before whether a call came since. `batch_ended`: when background work last ended."""

    def __init__(self) -> None:
        self.batch_ended = -math.inf
        self._submitted = 0
        self._called = -math.inf

    def load(self, queue: FunctionQueue, now: float) -> Load:
        if queue.submitted != self._submitted:
            self._submitted, self._called = queue.submitted, now
        endpoints = [endpoint for endpoint in queue.endpoints.by_id.values() if not endpoint.draining]
        costs = [found for endpoint in endpoints if (found := endpoint.controller.costs()) is not None]
        fixed_s, each_s = max(costs, key=sum, default=(0.0, None))
        return Load(
            waiting=queue.waiting.live,
            idle=sum(not endpoint.batches for endpoint in endpoints),
            replicas=len(endpoints),
            batch_limit=min((_limit(queue, endpoint) for endpoint in endpoints), default=1),
            fixed_s=fixed_s,
            each_s=each_s,
            live_p99_s=queue.latency.quantile(0.99, now),
            since_live_s=now - self._called,
            since_batch_s=now - self.batch_ended,
        )


def _limit(queue: FunctionQueue, endpoint: Endpoint) -> int:
    """How many items a replica takes at once."""
    if queue.spec.batched:
        return endpoint.controller.limit
    return SHARED if endpoint.one_at_a_time else endpoint.concurrency
