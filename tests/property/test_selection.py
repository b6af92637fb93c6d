"""What holds for every selection policy, whatever is linked, answered and reported in whatever order."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_platform.core.answers import equality_key, numbers, shape, shaped
from clipper_platform.core.losses import LOSSES, LossError, loss
from clipper_platform.core.selection import POLICIES, Choice, SelectionPolicy, State, policy_named

MODELS = tuple(f"p/{letter}" for letter in "abcde")

discounts = st.sampled_from([0.5, 0.99, 1.0])
strengths = st.sampled_from([0.0, 1.0, 100.0])
shares = st.sampled_from([0.0, 0.001, 0.5, 1.0])
rates = st.sampled_from([0.01, 1.0, 100.0])
OPTIONS: Mapping[str, st.SearchStrategy[dict[str, Any]]] = {
    "single": st.sampled_from([{}, {"model": "p/b"}, {"model": "p/gone"}]),
    "split": st.sampled_from([{}, {"weights": {"p/a": 0.5, "p/b": 0.5}}, {"weights": {"p/gone": 1.0, "p/a": 0.0}}]),
    "shadow": st.sampled_from([{}, {"model": "p/c", "sample": 0.5}]),
    "epsilon_greedy": st.fixed_dictionaries(
        {"epsilon": st.floats(0, 1), "discount": discounts, "prior_strength": strengths}
    ),
    "ucb1": st.fixed_dictionaries({"exploration": st.floats(0, 100), "discount": discounts}),
    "thompson": st.fixed_dictionaries({"family": st.sampled_from(["beta", "gaussian"]), "discount": discounts}),
    "exp3": st.fixed_dictionaries(
        {"learning_rate": rates, "exploration": st.sampled_from([0.0, 0.1, 1.0]), "share": shares}
    ),
    "exp4": st.fixed_dictionaries(
        {"learning_rate": rates, "share": shares, "combine_by": st.sampled_from(["majority", "mean"])}
    ),
    "majority": st.just({}),
    "mean": st.just({}),
}
policies = st.sampled_from(POLICIES).flatmap(
    lambda name: OPTIONS[name].map(lambda options: policy_named(name, options))
)
usable = st.lists(st.sampled_from(MODELS), unique=True)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)
rounds = st.lists(
    st.tuples(usable, st.dictionaries(st.sampled_from(MODELS), st.floats(0, 1)), st.integers(0, 3)), max_size=12
)


def run(policy: SelectionPolicy, plan: Sequence[tuple[list[str], dict[str, float], int]], seed: int) -> list[Any]:
    """Queries of which each gets its feedback some queries later; links come and go. Returns all that happened."""
    rng, state = random.Random(seed), policy.init(plan[0][0] if plan else ())
    waiting: list[tuple[int, Choice, dict[str, float]]] = []
    happened: list[Any] = []
    for now, (models, losses, delay) in enumerate(plan):
        choice = policy.select(state, models, rng)
        waiting.append((now + delay, choice, losses))
        for due, late, late_losses in list(waiting):
            if due <= now:
                waiting.remove((due, late, late_losses))
                state = policy.observe(state, late, late_losses)
        happened.append((choice, state))
    return happened


@given(policies, rounds, st.integers())
def test_choices_are_among_the_usable_models_with_probabilities_that_sum_to_1(
    policy: SelectionPolicy, plan: list[tuple[list[str], dict[str, float], int]], seed: int
) -> None:
    for (choice, _), (models, _, _) in zip(run(policy, plan, seed), plan, strict=True):
        assert set(choice.models) | set(choice.shadows) <= set(models)
        assert not set(choice.models) & set(choice.shadows)
        if choice.models:
            assert math.fsum(choice.probabilities.values()) == pytest.approx(1.0)
            assert all(0.0 <= probability <= 1.0 + 1e-9 for probability in choice.probabilities.values())
            assert list(choice.probabilities) == list(models)
            if policy.name not in (
                "thompson",
                "exp4",
            ):  # whose draws and weights may lie beyond what a float tells apart
                assert all(choice.probabilities[model] > 0.0 for model in choice.models)
        else:
            assert not choice.probabilities
            assert not models or policy.name == "split"


@given(policies, rounds, st.integers())
def test_the_same_seed_makes_the_same_choices(
    policy: SelectionPolicy, plan: list[tuple[list[str], dict[str, float], int]], seed: int
) -> None:
    assert run(policy, plan, seed) == run(policy, plan, seed)


@given(policies, rounds, st.integers())
def test_states_are_bounded_by_the_models_and_survive_json(
    policy: SelectionPolicy, plan: list[tuple[list[str], dict[str, float], int]], seed: int
) -> None:
    seen: set[str] = set()
    for (_, state), (models, _, _) in zip(run(policy, plan, seed), plan, strict=True):
        seen |= set(models)
        assert set(state.models) <= seen
        assert not state.prior
        for record in state.models.values():
            assert 0.0 <= record.loss <= record.feedbacks + 1e-9
            assert record.log_weight <= 1e-9
        stored = json.loads(json.dumps(state.to_plain(), allow_nan=False))
        assert State.from_plain(stored) == state
        assert len(json.dumps(stored)) <= 100 + 120 * max(1, len(seen))


@given(policies, rounds, rounds, st.integers())
def test_contexts_begin_from_the_shared_state_and_fold_into_it(
    policy: SelectionPolicy,
    plan: list[tuple[list[str], dict[str, float], int]],
    own: list[tuple[list[str], dict[str, float], int]],
    seed: int,
) -> None:
    happened = run(policy, plan, seed)
    shared = happened[-1][1] if happened else policy.init(MODELS)
    state, rng, fed = policy.init(MODELS, shared), random.Random(seed), 0
    for models, losses, _ in own:
        choice = policy.select(state, models, rng)
        fed += bool({*choice.models, *choice.shadows} & set(losses))
        state = policy.observe(state, choice, losses)
    folded = policy.fold(shared, state)
    assert State.from_plain(json.loads(json.dumps(folded.to_plain(), allow_nan=False))) == folded
    assert set(folded.models) <= {*shared.models, *state.models}
    assert shared.rounds - 1e-9 <= folded.rounds <= shared.rounds + fed + 1e-9
    for model, record in folded.models.items():
        assert record.feedbacks >= shared.models[model].feedbacks - 1e-9 if model in shared.models else True
        assert record.mean is None or record.mean <= 1.0


@given(policies, rounds, usable, st.dictionaries(st.sampled_from(MODELS), values), st.integers())
def test_one_answer_comes_of_any_answers_that_arrived(
    policy: SelectionPolicy,
    plan: list[tuple[list[str], dict[str, float], int]],
    models: list[str],
    answers: dict[str, Any],
    seed: int,
) -> None:
    happened = run(policy, plan, seed)
    state = happened[-1][1] if happened else policy.init(models)
    choice = policy.select(state, models, random.Random(seed))
    combined = policy.combine(state, choice, answers)
    arrived = [model for model in choice.models if model in answers]
    if not arrived:
        assert combined is None
        return
    assert combined is not None
    assert 0.0 <= combined.confidence <= 1.0
    assert combined.models
    assert set(combined.models) <= set(arrived)
    assert combined == policy.combine(state, choice, dict(reversed(answers.items())))


@given(policies, rounds, usable, st.integers())
def test_the_explanation_names_every_model_and_what_select_would_do(
    policy: SelectionPolicy, plan: list[tuple[list[str], dict[str, float], int]], models: list[str], seed: int
) -> None:
    happened = run(policy, plan, seed)
    state = happened[-1][1] if happened else policy.init(models)
    explanation = policy.explain(state, models)
    outlooks = {outlook.model: outlook for outlook in explanation.models}
    assert set(outlooks) == {*models, *state.models}
    choice = policy.select(state, models, random.Random(seed))
    for model, probability in choice.probabilities.items():
        assert outlooks[model].share == pytest.approx(probability)
    assert all(outlook.share == 0.0 for model, outlook in outlooks.items() if model not in models)
    assert explanation.choice
    assert all(outlook.why for outlook in explanation.models)


@given(values, values)
def test_losses_are_between_0_and_1_or_the_label_is_refused(label: Any, output: Any) -> None:
    for name in LOSSES:
        try:
            assert 0.0 <= loss(name, label, output, 2.0) <= 1.0
        except LossError:
            assert name != "zero_one"
    assert loss("zero_one", label, label) == 0.0
    assert equality_key(label) == equality_key(json.loads(json.dumps(label)))


@given(values)
def test_numbers_and_their_shape_make_the_value_again(value: Any) -> None:
    try:
        form = shape(value)
    except ValueError:
        return
    assert shaped(numbers(value), form) == value
