"""The Clipper paper's experiment on selection (NSDI '17, 5.3), on a simulated stream of queries with feedback.

Classifiers of scikit-learn's digits, really trained (`tests/benchmarks/digits_training.py`), said what they say about
each digit of a test half; queries are drawn from it. The real policies choose, combine and learn.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clipper_platform.core.losses import loss
from clipper_platform.core.selection import SelectionPolicy, State, policy_named

__all__ = [
    "BEST",
    "GENERAL_AND_SPECIALISTS",
    "MODELS",
    "QUERIES",
    "Query",
    "by_context",
    "degraded",
    "errors",
    "make",
    "play",
]

MODELS: Final = ("tree", "bayes", "centroid", "logistic", "svm")
BEST: Final = "svm"
GENERAL_AND_SPECIALISTS: Final = ("svm_low", "svm_high", "centroid")
QUERIES: Final = 20_000
_TABLE: Final[Mapping[str, str]] = json.loads(
    Path(__file__).with_name("digits_predictions.json").read_text(encoding="utf-8")
)


@dataclass(frozen=True, slots=True)
class Query:
    """`answers` by model; `context`: whose query it is, "" where there is none."""

    label: str
    answers: Mapping[str, str]
    context: str = ""


def degraded(queries: int = QUERIES, seed: int = 0) -> list[Query]:
    """The best of five models is degraded from a quarter of the queries to a half, and restored then."""
    rng = random.Random(f"degraded {seed}")
    label, found = _TABLE["label"], []
    for number in range(queries):
        digit = rng.randrange(len(label))
        answers = {model: _TABLE[model][digit] for model in MODELS}
        if queries // 4 <= number < queries // 2:
            answers[BEST] = _TABLE["svm_degraded"][digit]
        found.append(Query(label[digit], answers))
    return found


def by_context(queries: int = QUERIES, contexts: int = 20, seed: int = 0) -> list[Query]:
    """Half of the users write only the digits 0 to 4, the others only 5 to 9. There is a specialist for each, wrong
    about all else, and a general model that is worse than either in its field."""
    rng = random.Random(f"contexts {seed}")
    label = _TABLE["label"]
    halves = [[n for n, digit in enumerate(label) if (digit < "5") == low] for low in (True, False)]
    found = []
    for _ in range(queries):
        user = rng.randrange(contexts)
        digit = rng.choice(halves[user % 2])
        answers = {model: _TABLE[model][digit] for model in GENERAL_AND_SPECIALISTS}
        found.append(Query(label[digit], answers, f"user-{user}"))
    return found


def make(name: str, **options: Any) -> SelectionPolicy:
    return policy_named(name, options)


def play(
    policy: SelectionPolicy,
    queries: Sequence[Query],
    *,
    seed: int = 0,
    personal: bool = False,
    watch: Callable[[State], None] | None = None,
) -> list[int]:
    """The number of wrong answers after each query. Each one gets feedback before the next. `personal`: a state for
    each context. `watch` sees the state after each feedback."""
    rng = random.Random(f"policy {seed}")
    models = tuple(queries[0].answers)
    states: dict[str, State] = {}
    wrong, course = 0, []
    for query in queries:
        context = query.context if personal else ""
        state = states.get(context) or policy.init(models)
        choice = policy.select(state, models, rng)
        combined = policy.combine(state, choice, {model: query.answers[model] for model in choice.models})
        wrong += combined is None or combined.output != query.label
        losses = {model: loss("zero_one", query.label, query.answers[model]) for model in choice.models}
        states[context] = policy.observe(state, choice, losses)
        if watch is not None:
            watch(states[context])
        course.append(wrong)
    return course


def errors(model: str, queries: Sequence[Query]) -> list[int]:
    """The number of wrong answers of one model after each query."""
    wrong, course = 0, []
    for query in queries:
        wrong += query.answers[model] != query.label
        course.append(wrong)
    return course
