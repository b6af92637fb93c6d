"""The usual query in one object: one input, for an application with one link and the policy `single`.

It does what `PredictRequest` and `Prediction` do for any number of inputs and models, without the parts that stand
between them. `python -m tests.benchmarks.hot_path` takes 40% more processor time for such a query without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from clipper.contract.media_types import JSON
from clipper_platform.applications.answers import default_json, given_json, why_no_answer
from clipper_platform.applications.links import Link
from clipper_platform.applications.live import LiveApplication
from clipper_platform.applications.prediction import let_go
from clipper_platform.core.selection import Choice
from clipper_platform.errors import ClipperError, DeadlineExceeded, QueueFull
from clipper_platform.serving.function_queue import FunctionQueue
from clipper_platform.serving.invocation import Invocation

__all__ = ["SingleQuery"]


class SingleQuery:
    """Implements `requests.Request`."""

    __slots__ = (
        "_invocation", "_live", "_on_done", "arrived", "body", "choice", "context", "deadline", "error", "input",
        "query_id", "reasons", "request_id",
    )  # fmt: skip

    def __init__(
        self,
        live: LiveApplication,
        request_id: str,
        arrived: float,
        deadline: float,
        on_done: Callable[[SingleQuery], Any],
        input: msgspec.Raw,
        context: str,
        choice: Choice,
    ) -> None:
        self._live = live
        self._on_done = on_done
        self.request_id = request_id
        self.arrived = arrived
        self.deadline = deadline
        self.input = input
        self.context = context
        self.choice = choice
        self.query_id = live.parts.next_query_id()
        self.body = b""
        self.error: ClipperError | None = None
        self.reasons: tuple[str, ...] = ()
        self._invocation: Invocation | None = None

    def ask(self, link: Link, queue: FunctionQueue) -> None:
        live = self._live
        try:
            invocation = self._invocation = Invocation(
                queue, self.request_id, JSON, JSON, link.body(queue, self.input), self.arrived,
                min(self.deadline, self.arrived + queue.timeout_s), self._answered,
            )  # fmt: skip
            live.deadlines.add(self)
            if not live.dispatcher.offer(invocation):
                self._give_default(QueueFull(f"the queue of {queue.target.id.path} is full"))
        except ClipperError as error:
            self._give_default(error)

    def _answered(self, invocation: Invocation) -> None:
        error = why_no_answer(self.choice.models[0], invocation)
        if error is not None:
            self._give_default(error)
            return
        live = self._live
        self._invocation = None
        live.deadlines.discard(self)
        output = bytes(invocation.payload)
        self.body = given_json(self.query_id, output, self.choice.models)
        live.given_by_one(self, output)
        self._on_done(self)

    def _give_default(self, error: ClipperError) -> None:
        live = self._live
        self._invocation = None
        live.deadlines.discard(self)
        reason, self.body = default_json(self.query_id, live.default_output, {self.choice.models[0]: error})
        self.reasons = (reason,)
        live.default_for_one(self)
        self._on_done(self)

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
