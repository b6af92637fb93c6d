"""What an application would choose now, and why."""

from __future__ import annotations

from typing import Any, Final

from clipper_platform.applications.choosing import own_state
from clipper_platform.applications.live import LiveApplication
from clipper_platform.applications.own_policy import OwnPolicy, PolicyFailed
from clipper_platform.core.selection import Explanation, Outlook

__all__ = ["explain"]

TIMEOUT_S: Final = 5.0  # of a user's own policy: nobody waits for an answer of a model


async def explain(live: LiveApplication, context: str) -> Explanation:
    """In the context; one that is not known is explained as a new one."""
    models = live.models()
    if live.own is None:
        return live.policy.explain(live.state_of(context), models)
    try:
        return await _explained(live, live.own, context)
    except PolicyFailed as failure:
        fallback = live.policy.explain(live.policy.init(models), models)
        return Explanation(live.spec.policy, f"falls back to single: {failure}", fallback.models)


async def _explained(live: LiveApplication, own: OwnPolicy, context: str) -> Explanation:
    models = live.models()
    state: Any = await own_state(live, own, context, TIMEOUT_S)
    choice = await own.select(state, models, TIMEOUT_S)
    outlooks = []
    for model in models:
        report = live.monitor.model(model)
        role = "chosen" if model in choice.models else "a shadow" if model in choice.shadows else "not chosen"
        share = choice.probabilities.get(model, 0.0)
        outlooks.append(Outlook(model, share, float(report.feedbacks), report.loss, role))
    words = f"{own.path} chose {', '.join(choice.models)}"
    return Explanation(own.path, f"{words}: {choice.reason}" if choice.reason else words, tuple(outlooks))
