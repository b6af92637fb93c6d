"""A user's own policy on the way of a query: it chooses and combines, in time, or FALLBACK does."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from clipper_platform.applications.live import LiveApplication, Queues
from clipper_platform.applications.own_policy import OwnPolicy, PolicyFailed
from clipper_platform.applications.prediction import Prediction, decoded
from clipper_platform.applications.states import SHARED
from clipper_platform.core.selection import Combined

__all__ = ["ask_by_own_policy", "own_state"]

MAX_BEGUN: Final = 1_000  # contexts without feedback, for which `init` was asked
# Of the time that is left of the objective, for the operations before the models are asked, and for combining.
SELECT_SHARE: Final = 0.3
COMBINE_SHARE: Final = 0.2


async def own_state(live: LiveApplication, own: OwnPolicy, context: str, timeout_s: float) -> Any:
    """The state of the context, a new one where none was learnt. Raises PolicyFailed."""
    known = live.states.known(context)
    if known is None:
        known = live.begun.get(context)
    if known is None:
        shared = None if context == SHARED else live.states.known(SHARED)
        known = await own.init(tuple(live.links.all), shared, timeout_s)
        if len(live.begun) >= MAX_BEGUN:
            live.begun.clear()
        live.begun[context] = known
    return known


async def ask_by_own_policy(live: LiveApplication, own: OwnPolicy, prediction: Prediction, queues: Queues) -> None:
    """Have the policy choose among these, ask the chosen, and have it combine what they answer."""
    left = prediction.deadline - live.now()
    try:
        state = await own_state(live, own, prediction.context, left * SELECT_SHARE / 2)
        choice = await own.select(state, tuple(queues), left * SELECT_SHARE / 2)
    except PolicyFailed as failure:
        prediction.fallback = str(failure)
        live.policy_failed(failure.op, str(failure))
        live.ask(prediction, queues)
        return
    if len(choice.models) == 1:
        live.ask_chosen(prediction, choice, queues)
        return
    final, gathered = prediction.deadline, asyncio.Event()
    prediction.deadline -= left * COMBINE_SHARE
    live.ask_chosen(prediction, choice, queues, gathered=gathered.set)
    await gathered.wait()
    prediction.give(await _combined(live, own, state, prediction, final))


async def _combined(
    live: LiveApplication, own: OwnPolicy, state: Any, prediction: Prediction, deadline: float
) -> Combined | None:
    """What the policy makes of the answers; where it fails, the first of them."""
    choice, answers = prediction.choice, decoded(prediction.answers)
    chosen = {model: answers[model] for model in choice.models if model in answers}
    if not chosen:
        return None
    try:
        return await own.combine(state, choice, chosen, deadline - live.now())
    except PolicyFailed as failure:
        prediction.fallback = str(failure)
        live.policy_failed(failure.op, str(failure))
        first = next(iter(chosen))
        return Combined(chosen[first], 1.0 / len(choice.models), (first,))
