"""The usual query in one object: one input, for an application with one link and the policy `single`.

It does what `PredictRequest` and `Prediction` do for any number of inputs and models, without the parts that stand
between them. `python -m tests.benchmarks.hot_path` takes 18.0 µs for such a query without it, and 10.7 with it,
where an invocation takes 6.6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from clipper.contract.media_types import JSON
from clipper_platform.applications.answers import GIVEN, default_json, why_no_answer
from clipper_platform.applications.awaiting import Awaited
from clipper_platform.applications.live import LiveApplication, OnlyLink
from clipper_platform.applications.prediction import let_go
from clipper_platform.errors import ClipperError, DeadlineExceeded, QueueFull
from clipper_platform.serving.function_queue import FunctionQueue
from clipper_platform.serving.invocation import Invocation

__all__ = ["SingleQuery"]


class SingleQuery:
    """Implements `requests.Request`. It asks as it is made."""

    __slots__ = ("_arrived", "_context", "_input", "_invocation", "_live", "_on_done", "_only", "_query_id", "deadline")

    def __init__(
        self,
        live: LiveApplication,
        only: OnlyLink,
        queue: FunctionQueue,
        input: msgspec.Raw,
        context: str,
        request_id: str,
        arrived: float,
        deadline: float,
        on_done: Callable[[bytes, Sequence[str], ClipperError | None], Any],
    ) -> None:
        self._live = live
        self._only = only
        self._input = input
        self._context = context
        self._arrived = arrived
        self.deadline = deadline
        self._on_done = on_done
        self._query_id = live.parts.next_query_id()
        self._invocation: Invocation | None = None
        limit = arrived + queue.timeout_s
        try:
            invocation = self._invocation = Invocation(
                queue, request_id, JSON, JSON, only.link.body(queue, input), arrived,
                deadline if deadline < limit else limit, self._answered,
            )  # fmt: skip
            live.deadlines.add(self)
            if not live.dispatcher.offer(invocation):
                self._give_default(QueueFull(f"the queue of {queue.target.id.path} is full"))
        except ClipperError as error:
            self._give_default(error)

    def _answered(self, invocation: Invocation) -> None:
        only = self._only
        if (
            invocation.error is not None
            or invocation.default_reason
            or invocation.response is not None
            or invocation.content_type_out != JSON
        ) and (error := why_no_answer(only.id, invocation)) is not None:
            self._give_default(error)
            return
        live, arrived = self._live, self._arrived
        self._invocation = None
        live.deadlines.discard(self)
        output, query_id = msgspec.Raw(bytes(invocation.payload)), self._query_id
        only.answered.value += 1
        only.given.value += 1
        only.predictions.value += 1
        only.duration.observe(live.now() - arrived)
        input = self._input
        live.awaiting.add((query_id, live.parts.clock.time(), self._context, input, output, only.id), len(input))
        self._on_done(GIVEN % (query_id, output, only.made_by), (), None)

    def _give_default(self, error: ClipperError) -> None:
        live, only, input = self._live, self._only, self._input
        self._invocation = None
        live.deadlines.discard(self)
        reason, body = default_json(self._query_id, live.default_output, {only.id: error})
        live.monitor.asked(only.choice.models, (), ())
        live.monitor.predicted(live.now() - self._arrived, True)
        entry = Awaited(
            self._query_id,
            live.parts.clock.time(),
            self._context,
            input,
            live.default_output,
            choice=only.choice,
            default=True,
            failed=only.choice.models,
        )
        live.awaiting.add(entry, len(input))
        self._on_done(body, (reason,), None)

    def expire(self) -> None:
        """The deadline passed."""
        if self._invocation is not None:
            let_go(self._invocation, self._live.dispatcher)
        self._give_default(DeadlineExceeded("no answer within the objective"))

    def cancel(self) -> None:
        """The caller went away: free what the model holds for it."""
        invocation, self._invocation = self._invocation, None
        if invocation is not None:
            self._live.deadlines.discard(self)
            let_go(invocation, self._live.dispatcher)
