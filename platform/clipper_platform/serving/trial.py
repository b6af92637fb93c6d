"""What a new version is tried by: a call of its own, and how its answers compare."""

from __future__ import annotations

import asyncio

from clipper.contract.media_types import JSON
from clipper_platform.clock import Clock
from clipper_platform.core.canary import Answers
from clipper_platform.errors import InvalidResult
from clipper_platform.serving.function_queue import FunctionQueue
from clipper_platform.serving.invocation import Invocation

__all__ = ["call_once", "count_answers"]


class _Taker:
    """Sink of a stream that nobody reads: each chunk is taken at once, so that the replica may go on."""

    invocation: Invocation

    def chunk(self, payload: bytes, content_type: str) -> None:
        self.invocation.queue.credit(self.invocation, 1)


async def call_once(queue: FunctionQueue, clock: Clock, body: bytes) -> None:
    """Invoke the queue's function and wait for the answer. Raises what the invocation met.

    Past the result cache: a version is to be tried, not what another run left.
    """
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    taker = _Taker()
    arrived = clock.monotonic()
    invocation = Invocation(
        queue,
        request_id=f"smoke-{queue.target.id.version}",
        content_type=JSON,
        accept=JSON,
        body=body,
        arrived=arrived,
        deadline=arrived + queue.spec.timeout_s,
        on_done=lambda _: None if done.done() else done.set_result(None),
        sink=taker,
    )
    taker.invocation = invocation
    queue.submit(invocation)
    try:
        await done
    except asyncio.CancelledError:
        queue.cancel(invocation)
        raise
    if invocation.error is not None:
        raise invocation.error
    if invocation.default_reason:
        raise InvalidResult(f"only the default output answered ({invocation.default_reason})")


def count_answers(queue: FunctionQueue, now: float) -> Answers:
    """What callers of a function version got since it started; the p99 is that of recent answers."""
    answered, failed = queue.instruments.totals()
    return Answers(
        answered=answered,
        failed=failed,
        p99_s=queue.latency.quantile(0.99, now),
        broken=bool(queue.pool.state.failed) and not queue.pool.handles,
    )
