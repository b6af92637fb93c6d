"""The interface between an application and its selection policy: Clipper's (Crankshaw et al., NSDI '17, section 5).

A policy is a value without state of its own. What it has learnt is a `State` that it returns and is given again, so
that the caller can keep one for each context, store it, and share it among processes. Randomness comes in as `rng`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from clipper_platform.core.selection.state import ModelId, State

__all__ = ["Choice", "Combined", "Explanation", "Outlook", "SelectionPolicy"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which models are asked about one query. Kept with the query until its feedback comes.

    `models` are asked and combined, `shadows` are asked and only compared. `probabilities` sum to 1 over the models
    that could be chosen: of a policy that chooses one of them, how probable each was at that time (importance weights);
    of an ensemble, how much each one's answer counts. Without a usable model all are empty.
    """

    models: tuple[ModelId, ...]
    shadows: tuple[ModelId, ...] = ()
    probabilities: Mapping[ModelId, float] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Combined:
    """One answer. `confidence`: the share of the weight of all models asked that agrees with it, 0 to 1, so that models
    that disagree or did not answer in time lower it. `models`: those whose answers made it."""

    output: Any
    confidence: float
    models: tuple[ModelId, ...]


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a policy thinks of one model. `share`: how probably it is chosen, or how much its answer counts.
    `feedbacks`: how many losses are known of it (fewer where old ones fade); `loss`: their mean, None without any."""

    model: ModelId
    share: float
    feedbacks: float
    loss: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a policy would choose now, in a sentence, and its outlook on each model, the likeliest first."""

    policy: str
    choice: str
    models: tuple[Outlook, ...]


class SelectionPolicy(Protocol):
    """Chooses among models and learns from feedback. All methods are pure, but for the numbers drawn from `rng`."""

    @property
    def name(self) -> str: ...

    def init(self, models: Sequence[ModelId], shared: State | None = None) -> State:
        """The state of a new context, or of the application itself. `shared`: what all contexts have in common; it
        counts as only a few feedbacks, so that the context's own soon outweigh it."""
        ...

    def select(self, state: State, models: Sequence[ModelId], rng: random.Random) -> Choice:
        """Which of `models` to ask: those that are linked and usable now, in the order of their links. They may differ
        from the state's."""
        ...

    def combine(self, state: State, choice: Choice, answers: Mapping[ModelId, Any]) -> Combined | None:
        """One answer of those that arrived; None where none of the chosen models answered."""
        ...

    def observe(self, state: State, choice: Choice, losses: Mapping[ModelId, float]) -> State:
        """Learns from the feedback to one query: `choice` is the one recorded with it, however long ago.

        `losses`: 0 to 1, of the models that answered. A model that was chosen alone and failed cost the caller an
        answer: report it as 1. Models that the choice does not name are ignored. Raises LossError for another number.
        """
        ...

    def fold(self, shared: State, state: State) -> State:
        """The shared state with what an old context has learnt since its `init`, before the context is forgotten."""
        ...

    def explain(self, state: State, models: Sequence[ModelId]) -> Explanation:
        """What it would choose of `models`, and why."""
        ...
