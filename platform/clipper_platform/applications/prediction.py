"""One query of an application on its way: the models that are asked, what they answer, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import msgspec

from clipper.contract.media_types import JSON
from clipper_platform.applications.answers import default_json, given_json, why_no_answer
from clipper_platform.applications.deadlines import Deadlines
from clipper_platform.applications.links import Link
from clipper_platform.core.selection import Choice, Combined, ModelId
from clipper_platform.errors import ClipperError, DeadlineExceeded, QueueFull
from clipper_platform.serving.dispatcher import Dispatcher
from clipper_platform.serving.function_queue import FunctionQueue
from clipper_platform.serving.invocation import Invocation

__all__ = ["Asked", "Combiner", "Prediction", "decoded", "let_go"]

Asked = Mapping[ModelId, tuple[Link, FunctionQueue]]
"""The chosen models, and where each is asked."""

Combiner = Callable[[Mapping[ModelId, Any]], Combined | None]

_NOTHING = Choice(())


class Owner(Protocol):
    """The application, as its predictions need it."""

    dispatcher: Dispatcher
    deadlines: Deadlines
    default_output: msgspec.Raw

    def given(self, prediction: Prediction) -> None:
        """It has its answer, and is about to hand it to the caller."""
        ...

    def finished(self, prediction: Prediction) -> None:
        """No model works for it any more."""
        ...


class Prediction:
    """Asks the models at `ask`, and calls `on_done` once: when all answered, at the deadline with what arrived, or at
    once where none can be asked. Mutable, with slots: there is one for each query.

    `body`: the answer, once there is one. `reason`: why the default output answers; "" where models do.
    """

    __slots__ = (
        "_asking", "_combine", "_ended", "_gathered", "_invocations", "_on_done", "_owner", "_waiting", "answers",
        "arrived", "body", "causes", "choice", "context", "deadline", "fallback", "input", "models", "output",
        "query_id", "reason", "request_id",
    )  # fmt: skip

    def __init__(
        self,
        owner: Owner,
        query_id: int,
        input: msgspec.Raw,
        context: str,
        request_id: str,
        arrived: float,
        deadline: float,
        on_done: Callable[[Prediction], Any],
    ) -> None:
        self._owner = owner
        self._on_done = on_done
        self.query_id = query_id
        self.input = input
        self.context = context
        self.request_id = request_id
        self.arrived = arrived
        self.deadline = deadline
        self.choice = _NOTHING
        self.answers: dict[ModelId, msgspec.Raw] = {}
        self.causes: dict[ModelId, ClipperError] = {}
        self.fallback = ""
        self.body = b""
        self.reason = ""
        self.output = owner.default_output
        self.models: tuple[ModelId, ...] = ()  # whose answers made the output
        self._combine: Combiner | None = None
        self._gathered: Callable[[], None] | None = None
        self._invocations: dict[ModelId, Invocation] = {}
        self._waiting = 0  # models of the choice that have neither answered nor failed
        self._asking = self._ended = False

    # Asking

    def ask(
        self,
        choice: Choice,
        asked: Asked,
        combine: Combiner | None = None,
        gathered: Callable[[], None] | None = None,
    ) -> None:
        """Without `combine`, the answer of the one model of the choice is the output, as its bytes came. With
        `gathered`, that is called when what arrives by the deadline is there, and the caller calls `give`."""
        self.choice, self._combine, self._gathered = choice, combine, gathered
        self._waiting = len(choice.models)
        self._asking = True
        if self._waiting:
            self._owner.deadlines.add(self)
        for model in (*choice.models, *choice.shadows):
            self._invoke(model, *asked[model])
        self._asking = False
        self._settle()

    def _invoke(self, model: ModelId, link: Link, queue: FunctionQueue) -> None:
        try:
            invocation = Invocation(
                queue, self.request_id, JSON, JSON, link.body(queue, self.input), self.arrived,
                min(self.deadline, self.arrived + queue.timeout_s), partial(self._answered, model),
            )  # fmt: skip
            self._invocations[model] = invocation
            if self._owner.dispatcher.offer(invocation):
                return
            refusal: ClipperError = QueueFull(f"the queue of {queue.target.id.path} is full")
        except ClipperError as error:
            refusal = error
        self._invocations.pop(model, None)
        self._failed(model, refusal)

    def _answered(self, model: ModelId, invocation: Invocation) -> None:
        self._invocations.pop(model, None)
        error = why_no_answer(model, invocation)
        if error is not None:
            self._failed(model, error)
            return
        self.answers[model] = msgspec.Raw(bytes(invocation.payload))
        self._waiting -= model in self.choice.models
        self._settle()

    def _failed(self, model: ModelId, error: ClipperError) -> None:
        self.causes[model] = error
        self._waiting -= model in self.choice.models
        self._settle()

    def _settle(self) -> None:
        """Answer once all models of the choice have answered or failed. Shadows do not hold up the answer; they have
        until the deadline."""
        if self._asking or self._ended:
            return
        if not self._waiting and not self.body:
            self._give()
        if self.body and not self._invocations:
            self._end()

    # The end

    def expire(self) -> None:
        """The deadline: answer with what arrived, and cancel the rest."""
        for model in self.choice.models:
            if model not in self.answers:
                self.causes.setdefault(model, DeadlineExceeded("no answer within the objective"))
        if not self.body:
            self._give()
        if self.body:
            self._end()
        else:
            self._release()

    def cancel(self) -> None:
        """The caller went away: nothing more is answered."""
        if not self._ended:
            self._ended = True
            self._release()

    def give_up(self, model: ModelId) -> None:
        """Answer by default, without having asked: the deadline passed before the turn of this query came."""
        late = DeadlineExceeded("the objective passed before it was asked")
        self.reason, self.body = default_json(self.query_id, self.output, {model: late}, self.fallback)
        self._hand_over()
        self._end()

    def give(self, combined: Combined | None) -> None:
        """Answer with this, or by default; for a caller whose `gathered` was called."""
        if not self._ended:
            self._answer(combined)
            if not self._invocations:
                self._end()

    def _give(self) -> None:
        if self._gathered is not None:
            gathered, self._gathered = self._gathered, None
            self._owner.deadlines.discard(self)  # the caller is in time
            gathered()
            return
        answered = [model for model in self.choice.models if model in self.answers]
        if self._combine is not None and answered:
            self._answer(self._combine(decoded({model: self.answers[model] for model in answered})))
        elif answered:
            model = answered[0]
            self.output, self.models = self.answers[model], (model,)
            self.body = given_json(self.query_id, self.output, self.models, 1.0, self.fallback)
            self._hand_over()
        else:
            self._answer(None)

    def _answer(self, combined: Combined | None) -> None:
        if combined is None:
            causes = {model: error for model, error in self.causes.items() if model in self.choice.models}
            self.reason, self.body = default_json(self.query_id, self.output, causes, self.fallback)
        else:
            self.output, self.models = msgspec.Raw(msgspec.json.encode(combined.output)), combined.models
            confidence = round(combined.confidence, 6)
            self.body = given_json(self.query_id, self.output, self.models, confidence, self.fallback)
        self._hand_over()

    def _hand_over(self) -> None:
        self._owner.given(self)
        self._on_done(self)

    def _end(self) -> None:
        self._ended = True
        self._release()
        self._owner.finished(self)

    def _release(self) -> None:
        """Free what models still hold for this query."""
        self._owner.deadlines.discard(self)
        if self._invocations:
            invocations, self._invocations = self._invocations, {}
            for invocation in invocations.values():
                let_go(invocation, self._owner.dispatcher)


def let_go(invocation: Invocation, dispatcher: Dispatcher) -> None:
    """Cancel an invocation whose answer does not matter any more."""
    invocation.on_done = _nobody
    dispatcher.cancel(invocation)


def _nobody(_: Invocation) -> None:
    pass


def decoded(answers: Mapping[ModelId, msgspec.Raw]) -> dict[ModelId, Any]:
    """Answers as values."""
    return {model: msgspec.json.decode(answer) for model, answer in answers.items()}
