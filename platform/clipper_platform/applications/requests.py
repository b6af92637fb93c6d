"""One request to `/{app}/predict`: a query or a batch of them, begun and answered by callbacks.

A query of an application with a policy of the platform needs no task: its models are asked as the request arrives, and
the last answer makes the response. `begin_request` is the way in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from clipper_platform.applications.answers import batch_json
from clipper_platform.applications.choosing import ask_by_own_policy
from clipper_platform.applications.live import LiveApplication, Queues
from clipper_platform.applications.prediction import Prediction
from clipper_platform.applications.queries import PredictQuery, read_predict
from clipper_platform.applications.single_query import SingleQuery
from clipper_platform.applications.versions import versioned
from clipper_platform.errors import ClipperError, InternalError

__all__ = ["MAX_ASKED_AT_ONCE", "OnDone", "Request", "begin_request"]

logger = logging.getLogger(__name__)

# Inputs of one request that are on their way at once: several full batches, and a few milliseconds of processor time.
MAX_ASKED_AT_ONCE: Final = 256


OnDone = Callable[[bytes, Sequence[str], ClipperError | None], Any]
"""(body, why default outputs answered, in the order of the batch, error): called once, when there is a body or an
error, unless the request was cancelled"""


class Request(Protocol):
    """A request to `/{app}/predict` on its way."""

    def cancel(self) -> None:
        """The caller went away: free what the models hold for it."""
        ...


def begin_request(
    live: LiveApplication,
    body: bytes | memoryview,
    request_id: str,
    arrived: float,
    timeout_s: float,
    on_done: OnDone,
) -> Request:
    """Ask for what the body wants; `on_done` may be called before this returns. Raises BadQuery, and then it is not."""
    query = read_predict(body, live.spec.input_type)
    deadline = arrived + (live.budget_s if timeout_s > live.budget_s else timeout_s)
    inputs, only = query.inputs, live.only
    if only is not None and len(inputs) == 1 and query.version is None:
        queue = live.links.queue(only.id)
        if queue is not None:
            return SingleQuery(live, only, queue, inputs[0], query.context, request_id, arrived, deadline, on_done)
    request = PredictRequest(live, request_id, arrived, deadline, on_done)
    request.begin(query)
    return request


class PredictRequest:
    """Implements `Request`, for any number of inputs and models. A large batch is asked piece by piece, as the models
    answer, so that it fills no queue and keeps no other request waiting."""

    __slots__ = (
        "_answered", "_arrived", "_asked", "_asking", "_deadline", "_done", "_live", "_on_done", "_predictions",
        "_queues", "_request_id", "_tasks", "_version",
    )  # fmt: skip

    def __init__(
        self,
        live: LiveApplication,
        request_id: str,
        arrived: float,
        deadline: float,
        on_done: OnDone,
    ) -> None:
        self._live = live
        self._on_done = on_done
        self._request_id = request_id
        self._arrived = arrived
        self._deadline = deadline
        self._done = False
        self._predictions: list[Prediction] = []
        self._queues: Queues = {}
        self._version: str | None = None
        self._asked = self._answered = 0
        self._asking = False
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, query: PredictQuery) -> None:
        live = self._live
        next_id = live.parts.next_query_id
        id, arrived, deadline, context = self._request_id, self._arrived, self._deadline, query.context
        self._predictions = [
            Prediction(live, next_id(), input, context, id, arrived, deadline, self._one_answered)
            for input in query.inputs
        ]
        self._version = query.version
        self._queues = live.links.queues()
        if not self._predictions:
            self._finish()
        elif query.version is not None or (not self._queues and live.links.all):
            self._start(self._prepare())
        else:
            if len(self._queues) < len(live.links.all):
                live.links.wake(self._queues)
            self._ask()

    async def _prepare(self) -> None:
        """Wait for what is to be asked: the version that the query names, or links that sleep."""
        try:
            if self._version is not None:
                self._queues = await versioned(self._live, self._version, self._deadline)
            else:
                self._queues = await _woken(self._live, self._deadline)
        except ClipperError as error:
            self._fail(error)
        else:
            self._ask()

    def _ask(self) -> None:
        """Ask the next inputs, as many as may be on their way at once."""
        if self._asking:
            return
        self._asking = True
        while self._asked < len(self._predictions) and self._asked - self._answered < MAX_ASKED_AT_ONCE:
            prediction = self._predictions[self._asked]
            self._asked += 1
            self._ask_one(prediction)
        self._asking = False

    def _ask_one(self, prediction: Prediction) -> None:
        live = self._live
        if self._queues and self._asked > MAX_ASKED_AT_ONCE and live.now() >= self._deadline:
            prediction.give_up(next(iter(self._queues)))
        elif live.own is None or self._version is not None or not self._queues:
            live.ask(prediction, self._queues)
        else:
            self._start(ask_by_own_policy(live, live.own, prediction, self._queues))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (defect := task.exception()) is not None:
            logger.error("a query of application %s failed", self._live.name, exc_info=defect)
            self._fail(InternalError("an unexpected error in the platform; its log has more under this request_id"))

    def _fail(self, error: ClipperError) -> None:
        if not self._done:
            self.cancel()
            self._on_done(b"", (), error)

    def _one_answered(self, _: Prediction) -> None:
        self._answered += 1
        if self._answered == len(self._predictions):
            self._finish()
        elif self._asked < len(self._predictions):
            self._ask()

    def _finish(self) -> None:
        self._done = True
        reasons = [prediction.reason for prediction in self._predictions if prediction.reason]
        self._on_done(batch_json([prediction.body for prediction in self._predictions]), reasons, None)

    def cancel(self) -> None:
        """See `Request`."""
        self._done = True
        for task in self._tasks:
            task.cancel()
        for prediction in self._predictions:
            prediction.cancel()


async def _woken(live: LiveApplication, deadline: float) -> Queues:
    """The links that may be asked once the pinned versions have been started, as far as there is time."""
    try:
        async with asyncio.timeout(max(0.0, deadline - live.now())):
            await live.links.woken()
    except TimeoutError:
        pass
    return live.links.queues()
