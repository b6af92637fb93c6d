"""One application while the platform runs: it chooses, asks, and keeps what came of it for the feedback."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec

from clipper.contract.applications import ApplicationSpec
from clipper_platform.applications.agreement import agreements
from clipper_platform.applications.answers import made_by
from clipper_platform.applications.awaited_store import AwaitedStore
from clipper_platform.applications.awaiting import Awaited, AwaitedPredictions
from clipper_platform.applications.catalog import Declared
from clipper_platform.applications.deadlines import Deadlines
from clipper_platform.applications.links import Link, Links, Wake
from clipper_platform.applications.monitor import RECENT, Monitor
from clipper_platform.applications.own_policy import OwnPolicy
from clipper_platform.applications.policies import is_own, policy_of
from clipper_platform.applications.prediction import Combiner, Prediction, decoded
from clipper_platform.applications.queries import decoder_of
from clipper_platform.applications.states import SHARED, ContextStates
from clipper_platform.clock import Clock
from clipper_platform.core.selection import Choice, ModelId, SelectionPolicy, State
from clipper_platform.metrics import Metrics
from clipper_platform.serving.dispatcher import Dispatcher
from clipper_platform.serving.function_queue import FunctionQueue
from clipper_platform.store.applications import ApplicationData

__all__ = ["LiveApplication", "PlatformParts"]

logger = logging.getLogger(__name__)

Queues = Mapping[ModelId, FunctionQueue]

# How much of the objective is left for the way back: a timer's tick and the loop's other work, at most a quarter.
MIN_MARGIN_S: Final = 0.002
MAX_MARGIN_S: Final = 0.01
MAX_FIXED: Final = 1_000
NOTICE_S: Final = 60.0  # how long the status tells of a failure of the user's own policy


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformParts:
    """What applications need of the platform. `wake` starts the version that a path names."""

    dispatcher: Dispatcher
    data: ApplicationData
    clock: Clock
    metrics: Metrics
    wake: Wake | None
    next_query_id: Callable[[], int]
    schema: Callable[[str, str, int | None], Awaitable[Mapping[str, Any]]]


class OnlyLink:
    """What every query is asked of where the policy is `single` and there is one link, and the counters of it."""

    def __init__(self, link: Link, choice: Choice, monitor: Monitor) -> None:
        self.link = link
        self.id = link.id
        self.choice = choice
        self.made_by = made_by(1.0, (link.id,))
        tally = monitor.tally(link.id)
        self.answered, self.given = tally.answered, tally.given
        self.predictions, self.duration = monitor.predictions, monitor.duration


class LiveApplication:
    """Implements `prediction.Owner`."""

    def __init__(self, declared: Declared, parts: PlatformParts) -> None:
        self.parts = parts
        self.dispatcher = parts.dispatcher
        self.now = parts.clock.monotonic
        self.name = declared.spec.name
        self.created_at = declared.record.created_at
        self.monitor = Monitor(self.name, parts.data, parts.metrics)
        self.deadlines = Deadlines(self.now)
        self.awaiting = AwaitedPredictions(decoder_of(declared.spec.input_type))
        self.awaited_store = AwaitedStore(self.name, parts.data, self.awaiting)
        self.states: ContextStates[Any] = ContextStates(self.name, parts.data, **_builtin_states())
        self.trouble = ""  # why what is written behind could not be saved
        self._failure = ""
        self._failed_at = 0.0
        self.declare(declared.spec)

    def declare(self, spec: ApplicationSpec) -> bool:
        """Work as this spec says from now on. Returns whether the states have to be loaded again."""
        self.spec = spec
        self.default_output = msgspec.Raw(msgspec.json.encode(spec.default_output))
        self.budget_s = _budget_s(spec.latency_slo_s)
        self.links = Links(spec.links, self.dispatcher, self.parts.wake)
        self.policy: SelectionPolicy = policy_of(spec)
        self.begun: dict[
            str, Any
        ] = {}  # states of contexts that the user's own policy began, and nothing was learnt of
        self.own = OwnPolicy(spec.policy, self.dispatcher, self.parts.clock) if is_own(spec) else None
        self.rng = random.Random(spec.seed)
        self.awaiting.decode = decoder_of(spec.input_type)
        self._fixed: dict[tuple[ModelId, ...], Choice] = {}  # of `single`, which chooses the same among the same
        self.only = self._only_link()
        kind = spec.policy if self.own is not None else ""
        if kind == self.states.kind:
            return False
        codec = {"kind": kind, "encode": _same, "decode": _same} if kind else _builtin_states()
        self.states = ContextStates(self.name, self.parts.data, **codec)
        return True

    def _only_link(self) -> OnlyLink | None:
        links = tuple(self.links.all.values())
        if len(links) != 1 or self.spec.policy != "single":
            return None
        return OnlyLink(links[0], self._select(SHARED, (links[0].id,)), self.monitor)

    async def load(self) -> None:
        """Read what was learnt. Raises StoreUnavailable."""
        await self.states.reload()
        await self.awaited_store.follow()
        await self.monitor.load(await self.parts.data.last_pairs(self.name, RECENT))

    def close(self) -> None:
        self.links.close()
        self.deadlines.close()

    # Choosing

    def state_of(self, context: str) -> State:
        """What the platform's policy goes by in this context."""
        known: State | None = self.states.known(context)
        if known is not None:
            return known
        models = tuple(self.links.all)
        shared: State | None = None if context == SHARED else self.states.known(SHARED)
        return self.policy.init(models, shared)

    def ask(self, prediction: Prediction, queues: Queues) -> None:
        """Let the platform's policy choose among these, and ask the chosen."""
        choice = self._choice(prediction.context, queues)
        combine = None
        if len(choice.models) > 1:
            combine = partial(self.policy.combine, self.state_of(prediction.context), choice)
        self.ask_chosen(prediction, choice, queues, combine)

    def ask_chosen(
        self,
        prediction: Prediction,
        choice: Choice,
        queues: Queues,
        combine: Combiner | None = None,
        gathered: Callable[[], None] | None = None,
    ) -> None:
        links = self.links.all
        asked = {model: (links[model], queues[model]) for model in (*choice.models, *choice.shadows)}
        prediction.ask(choice, asked, combine, gathered)

    def _choice(self, context: str, queues: Queues) -> Choice:
        """Among those that run, if any does: what sleeps and was chosen is woken, and asked once it is there."""
        choice = self._select(context, tuple(queues))
        if len(queues) == 1:
            return choice
        asleep = [model for model in (*choice.models, *choice.shadows) if not queues[model].endpoints.by_id]
        if not asleep:
            return choice
        ready = tuple(model for model, queue in queues.items() if queue.endpoints.by_id)
        if not ready:
            return choice
        for model in asleep:
            queues[model].wake()
        return self._select(context, ready)

    def _select(self, context: str, models: tuple[ModelId, ...]) -> Choice:
        if self.spec.policy != "single":
            return self.policy.select(self.state_of(context), models, self.rng)
        choice = self._fixed.get(models)
        if choice is None:
            if len(self._fixed) >= MAX_FIXED:
                self._fixed.clear()
            choice = self._fixed[models] = self.policy.select(self.state_of(context), models, self.rng)
        return choice

    # What comes of it

    def given(self, prediction: Prediction) -> None:
        """See `prediction.Owner`."""
        self.monitor.predicted(self.now() - prediction.arrived, bool(prediction.reason))
        self.awaiting.add(
            Awaited(
                prediction.query_id,
                self.parts.clock.time(),
                prediction.context,
                prediction.input,
                prediction.output,
                choice=prediction.choice,
                default=bool(prediction.reason),
                answers=prediction.answers,  # of shadows there will be more
                failed=tuple(prediction.causes),
            ),
            len(prediction.input),
        )

    def finished(self, prediction: Prediction) -> None:
        """See `prediction.Owner`."""
        choice, answers = prediction.choice, prediction.answers
        self.monitor.asked(choice.models + choice.shadows, answers, prediction.models)
        if len(answers) > 1:
            self.monitor.agreed(agreements(decoded(answers)))

    # The user's own policy

    def policy_failed(self, op: str, failure: str) -> None:
        """The user's own policy gave nothing usable: FALLBACK chooses."""
        now = self.now()
        if not self.notice():
            logger.warning("application %s falls back to single: %s", self.name, failure)
        self._failure, self._failed_at = failure, now
        self.monitor.policy_failed(op)

    def notice(self) -> str:
        """Why the user's own policy did not choose, if it failed lately."""
        lately = self._failure and self.now() - self._failed_at < NOTICE_S
        return f"falls back to single: {self._failure}" if lately else ""

    def models(self) -> Sequence[ModelId]:
        """The links that may be asked now."""
        return tuple(self.links.queues())


def _budget_s(slo_s: float) -> float:
    """How long the models have."""
    return slo_s - min(slo_s / 4, max(MIN_MARGIN_S, min(MAX_MARGIN_S, slo_s / 20)))


def _builtin_states() -> dict[str, Any]:
    return {"kind": "", "encode": State.to_plain, "decode": State.from_plain}


def _same(value: Any) -> Any:
    return value
