"""One request to `/{app}/predict`: a query or a batch of them, begun and answered by callbacks.

A query of an application with a policy of the platform needs no task: its models are asked as the request arrives, and
the last answer makes the response. `begin_request` is the way in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from clipper_platform.applications.answers import batch_json
from clipper_platform.applications.choosing import ask_by_own_policy
from clipper_platform.applications.live import LiveApplication, Queues
from clipper_platform.applications.prediction import Prediction
from clipper_platform.applications.queries import PredictQuery, read_predict
from clipper_platform.applications.single_query import SingleQuery
from clipper_platform.applications.versions import versioned
from clipper_platform.errors import ClipperError

__all__ = ["Request", "begin_request"]


class Request(Protocol):
    """A request to `/{app}/predict`. `on_done` is called once, when `body` or `error` is set, unless it was cancelled.

    `reasons`: why default outputs answered, in the order of the batch.
    """

    request_id: str
    arrived: float
    body: bytes
    error: ClipperError | None
    reasons: tuple[str, ...]

    def cancel(self) -> None:
        """The caller went away: free what the models hold for it."""
        ...


def begin_request(
    live: LiveApplication,
    body: bytes | memoryview,
    request_id: str,
    arrived: float,
    timeout_s: float,
    on_done: Callable[[Request], Any],
) -> Request:
    """Ask for what the body wants; `on_done` may be called before this returns. Raises BadQuery, and then it is not."""
    query = read_predict(body, live.spec.input_type)
    deadline = arrived + (live.budget_s if timeout_s > live.budget_s else timeout_s)
    inputs = query.inputs
    if len(inputs) == 1 and query.version is None and (only := live.only_link()) is not None:
        link, queue, choice = only
        single = SingleQuery(live, request_id, arrived, deadline, on_done, inputs[0], query.context, choice)
        single.ask(link, queue)
        return single
    request = PredictRequest(live, request_id, arrived, deadline, on_done)
    request.begin(query)
    return request


class PredictRequest:
    """Implements `Request`, for any number of inputs and models."""

    __slots__ = (
        "_left", "_live", "_on_done", "_predictions", "_task", "arrived", "body", "deadline", "error",
        "reasons", "request_id",
    )  # fmt: skip

    def __init__(
        self,
        live: LiveApplication,
        request_id: str,
        arrived: float,
        deadline: float,
        on_done: Callable[[Request], Any],
    ) -> None:
        self._live = live
        self._on_done = on_done
        self.request_id = request_id
        self.arrived = arrived
        self.deadline = deadline
        self.body = b""
        self.error: ClipperError | None = None
        self.reasons: tuple[str, ...] = ()
        self._predictions: list[Prediction] = []
        self._left = 0
        self._task: asyncio.Task[None] | None = None

    def begin(self, query: PredictQuery) -> None:
        live = self._live
        next_id = live.parts.next_query_id
        id, arrived, deadline, context = self.request_id, self.arrived, self.deadline, query.context
        self._left = len(query.inputs)
        self._predictions = [
            Prediction(live, next_id(), input, context, id, arrived, deadline, self._answered) for input in query.inputs
        ]
        if not self._left:
            self._finish()
            return
        queues = live.links.queues()
        if query.version is not None or live.own is not None or (not queues and live.links.all):
            self._task = asyncio.get_running_loop().create_task(self._prepare(query, queues))
            return
        for prediction in self._predictions:
            live.ask(prediction, queues)

    async def _prepare(self, query: PredictQuery, queues: Queues) -> None:
        """What has to be waited for before models are asked: a version, a sleeping one, the user's own policy."""
        live = self._live
        try:
            if query.version is not None:
                queues = await versioned(live, query.version, self.deadline)
            elif not queues:
                queues = await _woken(live, self.deadline)
        except ClipperError as error:
            self.error = error
            self._on_done(self)
            return
        if live.own is None or query.version is not None or not queues:
            for prediction in self._predictions:
                live.ask(prediction, queues)
            return
        async with asyncio.TaskGroup() as tasks:
            for prediction in self._predictions:
                tasks.create_task(ask_by_own_policy(live, live.own, prediction, queues))

    def _answered(self, _: Prediction) -> None:
        self._left -= 1
        if not self._left:
            self._finish()

    def _finish(self) -> None:
        self.reasons = tuple(prediction.reason for prediction in self._predictions if prediction.reason)
        self.body = batch_json([prediction.body for prediction in self._predictions])
        self._on_done(self)

    def cancel(self) -> None:
        """The caller went away: free what the models hold for it."""
        if self._task is not None:
            self._task.cancel()
        for prediction in self._predictions:
            prediction.cancel()


async def _woken(live: LiveApplication, deadline: float) -> Queues:
    """The links that may be asked once the pinned versions have been started, as far as there is time."""
    try:
        async with asyncio.timeout(max(0.0, deadline - live.now())):
            await live.links.woken(tuple(live.links.all))
    except TimeoutError:
        pass
    return live.links.queues()
