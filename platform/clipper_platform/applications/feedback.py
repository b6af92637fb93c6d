"""Feedback joined to its prediction, once, and what the application learns from it.

Feedback that arrives together is stored together: one transaction adds the pairs, the policy's new states and the
counts, or nothing of it. Who sent it is answered after that.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from clipper_platform.applications.awaiting import Awaited
from clipper_platform.applications.cached_answers import cached_answers
from clipper_platform.applications.learning import Joined, Learner
from clipper_platform.applications.live import LiveApplication
from clipper_platform.applications.prediction import decoded
from clipper_platform.applications.queries import FeedbackQuery
from clipper_platform.applications.refusals import QUERY_ERROR, BadQuery
from clipper_platform.core.answers import equality_key
from clipper_platform.core.losses import REPORTED, LossError, checked_loss, loss
from clipper_platform.core.selection import Choice, ModelId
from clipper_platform.errors import NotFound

__all__ = ["Acknowledgement", "Feedback"]

# Inputs whose feedback came by input, so that the same feedback is recognised while its window lasts.
MAX_JOINED_INPUTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """`duplicate`: the prediction had its feedback before, and this one does not count."""

    query_id: int
    duplicate: bool


class Feedback:
    """Of one application."""

    def __init__(self, live: LiveApplication) -> None:
        self._live = live
        self._learner = Learner(live)
        self._joined_inputs: OrderedDict[tuple[str, bytes], tuple[float, int]] = OrderedDict()  # → (when, query id)

    async def close(self) -> None:
        await self._learner.close()

    async def take(self, query: FeedbackQuery) -> Acknowledgement:
        """Raises NotFound for a prediction that is unknown or too old, BadQuery for a label of the wrong type."""
        monitor = self._live.monitor
        try:
            if query.query_id is not None:
                acknowledged = await self._by_id(query.query_id, query.label)
            else:
                acknowledged = await self._by_input(query)
        except NotFound:
            monitor.feedback("unknown")
            raise
        except BadQuery:
            monitor.feedback("invalid")
            raise
        monitor.feedback("duplicate" if acknowledged.duplicate else "joined")
        return acknowledged

    async def _by_id(self, query_id: int, label: Any) -> Acknowledgement:
        live = self._live
        entry = live.awaiting.get(query_id)
        if entry is None:
            if 0 < query_id < 2**63 and await live.parts.data.joined(live.name, query_id):
                return Acknowledgement(query_id, True)
            await live.awaited_store.follow()  # another platform may have made it
            entry = live.awaiting.get(query_id)
        if entry is None or not self._in_time(entry.at):
            raise self._unknown(f"under query_id {query_id}")
        return await self._join(entry, label)

    def _in_time(self, at: float) -> bool:
        return at >= self._live.parts.clock.time() - self._live.spec.feedback_window_s

    async def _by_input(self, query: FeedbackQuery) -> Acknowledgement:
        live, input = self._live, query.input
        assert input is not None  # for the type checker: one of both is there
        key = (query.context, live.awaiting.digest(input))
        acknowledged = None
        for entry in await self._for_input(query.context, input):
            acknowledged = await self._join(entry, query.label)
            if not acknowledged.duplicate:
                break
        if acknowledged is None:
            joined = self._joined_inputs.get(key)
            if joined is not None and self._in_time(joined[0]):
                return Acknowledgement(joined[1], True)
            cached = self._from_cache(input, query.context)
            if cached is None:
                raise self._unknown("for this input")
            acknowledged = await self._join(cached, query.label)
        self._joined_inputs[key] = (live.parts.clock.time(), acknowledged.query_id)
        self._joined_inputs.move_to_end(key)
        if len(self._joined_inputs) > MAX_JOINED_INPUTS:
            self._joined_inputs.popitem(last=False)
        return acknowledged

    async def _for_input(self, context: str, input: msgspec.Raw) -> list[Awaited]:
        """The predictions for the input, newest first: those in this context, else those that named none."""
        live = self._live
        entries = await live.awaiting.by_input(input)
        if not entries:
            await live.awaited_store.follow()
            entries = await live.awaiting.by_input(input)
        for allowed in (context, ""):
            if found := [entry for entry in entries if entry.context == allowed and self._in_time(entry.at)]:
                return found
        return []

    def _from_cache(self, input: msgspec.Raw, context: str) -> Awaited | None:
        """What the result cache still has of the linked models' answers to the input, as if they had been asked now."""
        answers = cached_answers(self._live, input)
        if not answers:
            return None
        parts, models = self._live.parts, tuple(answers)
        choice = Choice(models, (), dict.fromkeys(models, 1.0), "their answers were in the result cache")
        output = answers[models[0]]
        at = parts.clock.time()
        return Awaited(parts.next_query_id(), at, context, input, output, choice=choice, answers=answers)

    async def _join(self, entry: Awaited, label: Any) -> Acknowledgement:
        joined = Joined(entry, label, self._losses(entry, label))
        return Acknowledgement(entry.query_id, not await self._learner.learn(joined))

    def _losses(self, entry: Awaited, label: Any) -> dict[ModelId, float]:
        """Raises BadQuery."""
        spec = self._live.spec
        try:
            answers = decoded(entry.all_answers())
            if spec.loss == REPORTED:
                reported = checked_loss(label, "a reported loss")
                given = equality_key(msgspec.json.decode(entry.output))
                losses = {model: reported for model, answer in answers.items() if equality_key(answer) == given}
            else:
                loss(spec.loss, label, label, spec.loss_scale)  # refuses the label, also where no model answered
                losses = {model: loss(spec.loss, label, answer, spec.loss_scale) for model, answer in answers.items()}
        except LossError as error:
            raise BadQuery(QUERY_ERROR, f"the label does not fit: {error}") from None
        chosen = entry.choice.models
        if len(chosen) == 1 and chosen[0] in entry.failed:
            losses[chosen[0]] = 1.0  # it was chosen alone, and cost the caller an answer
        return losses

    def _unknown(self, what: str) -> NotFound:
        window = self._live.spec.feedback_window_s
        return NotFound(
            f"application {self._live.name!r} awaits no feedback {what}: it made no such prediction, or more than "
            f"{window:g} s ago (feedback_window_s)"
        )
