"""Selection policies lose no more than their theorems say, and follow models that change: seeded, on digits."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_platform.core.selection import SelectionPolicy, State
from tests.support.selection_experiment import (
    BEST,
    GENERAL_AND_SPECIALISTS,
    MODELS,
    by_context,
    degraded,
    errors,
    make,
    play,
)

N, K = 4000, len(MODELS)
SEEDS = (0, 1)


def best_fixed(queries: Sequence[Any]) -> int:
    return min(errors(model, queries)[-1] for model in queries[0].answers)


def mean_errors(policy: SelectionPolicy, **how: Any) -> float:
    return fmean(play(policy, degraded(N, seed), seed=seed, **how)[-1] for seed in SEEDS)


# Against the best fixed model, whatever the losses are


def test_exp3_is_within_the_bound_of_auer_and_others_of_the_best_fixed_model() -> None:
    eta = math.sqrt(2 * math.log(K) / (N * K))
    exp3 = make("exp3", learning_rate=eta, exploration=0.0, share=0.0)
    regret = fmean(play(exp3, degraded(N, s), seed=s)[-1] - best_fixed(degraded(N, s)) for s in SEEDS)
    bound = math.sqrt(2 * N * K * math.log(K))
    assert regret <= bound < 2.63 * math.sqrt(N * K * math.log(K))


def test_exp3_with_a_share_is_within_its_bound_of_the_best_sequence_of_models() -> None:
    """Auer et al. (2002), theorem 8.1, in losses: three segments, each with its own best model."""
    eta, gamma, alpha = 0.03, 0.02, 1 / N
    exp3 = make("exp3", learning_rate=eta, exploration=gamma, share=alpha)
    segments, regrets = [(0, N // 4), (N // 4, N // 2), (N // 2, N)], []
    for seed in SEEDS:
        queries = degraded(N, seed)
        regrets.append(play(exp3, queries, seed=seed)[-1] - sum(best_fixed(queries[a:b]) for a, b in segments))
    restarts = math.log(K) + 2 * math.log(K / alpha) - N * math.log1p(-alpha)
    assert fmean(regrets) <= restarts / eta + eta * K * N / (2 * (1 - gamma)) + gamma * N


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=40),
    st.sampled_from([0.05, 0.5, 3.0]),
    st.sampled_from([0.0, 0.01, 0.3]),
)
def test_the_weighted_losses_of_exp4_are_within_its_bound_for_any_sequence(
    rows: list[list[float]], eta: float, alpha: float
) -> None:
    exp4, models, rng = make("exp4", learning_rate=eta, share=alpha), ("a", "b", "c"), random.Random(0)
    state, total = exp4.init(models), 0.0
    for row in rows:
        losses = dict(zip(models, row, strict=True))
        choice = exp4.select(state, models, rng)
        total += math.fsum(choice.probabilities[model] * losses[model] for model in models)
        state = exp4.observe(state, choice, losses)
    best = min(math.fsum(column) for column in zip(*rows, strict=True))
    staying = -len(rows) * math.log1p(-alpha)  # what the best model gives away, round by round
    assert total - best <= (math.log(3) + staying) / eta + eta * len(rows) / 8 + 1e-9


@given(st.lists(st.tuples(st.floats(0, 1), st.lists(st.floats(0, 1), min_size=3, max_size=3)), min_size=1, max_size=30))
def test_the_mean_of_exp4_loses_no_more_than_its_weighted_models(rows: list[tuple[float, list[float]]]) -> None:
    exp4, models, rng = make("exp4", combine_by="mean"), ("a", "b", "c"), random.Random(0)
    state = exp4.init(models)
    for label, outputs in rows:
        answers = dict(zip(models, outputs, strict=True))
        losses = {model: (output - label) ** 2 for model, output in answers.items()}
        choice = exp4.select(state, models, rng)
        combined = exp4.combine(state, choice, answers)
        assert combined is not None
        weighted = math.fsum(choice.probabilities[model] * losses[model] for model in models)
        assert (combined.output - label) ** 2 <= weighted + 1e-9
        state = exp4.observe(state, choice, losses)


# Models of constant quality


def pseudo_regret(policy: SelectionPolicy, means: Sequence[float], rounds: int, rng: random.Random) -> float:
    """How much worse the chosen models are than the best one, over rounds of losses of 0 and 1."""
    models = [f"m{n}" for n in range(len(means))]
    mean_of, state, regret = dict(zip(models, means, strict=True)), policy.init(models), 0.0
    for _ in range(rounds):
        choice = policy.select(state, models, rng)
        (model,) = choice.models
        regret += mean_of[model] - min(means)
        state = policy.observe(state, choice, {model: float(rng.random() < mean_of[model])})
    return regret


def test_ucb1_is_within_the_bound_of_its_theorem() -> None:
    means, rounds = (0.1, 0.4, 0.6, 0.9), 2000
    gaps = [mean - min(means) for mean in means if mean > min(means)]
    regret = fmean(pseudo_regret(make("ucb1"), means, rounds, random.Random(seed)) for seed in SEEDS)
    assert regret <= sum(8 * math.log(rounds) / gap + (1 + math.pi**2 / 3) * gap for gap in gaps)


@pytest.mark.parametrize(("family", "factor"), [("beta", 1.0), ("gaussian", 3.0)])
def test_thompson_is_within_its_bound_on_problems_drawn_from_the_prior(family: str, factor: float) -> None:
    """Russo and Van Roy (2016) for beta; for gaussian the order is theirs, and the factor what leaves room for it."""
    rounds, rng = 300, random.Random(4)
    problems = [[rng.random() for _ in range(4)] for _ in range(25)]
    regret = fmean(pseudo_regret(make("thompson", family=family), means, rounds, rng) for means in problems)
    assert regret <= factor * math.sqrt(rounds * 4 * math.log(4) / 2)


def test_epsilon_greedy_loses_by_trying_and_little_else() -> None:
    means, rounds, epsilon = (0.1, 0.4, 0.6, 0.9), 2000, 0.1
    tried = epsilon * rounds * fmean(mean - min(means) for mean in means)
    regret = fmean(pseudo_regret(make("epsilon_greedy"), means, rounds, random.Random(seed)) for seed in SEEDS)
    assert regret <= 1.5 * tried


# The paper's experiment: the best model is degraded and restored


def weight_of_best(name: str) -> list[float]:
    """The share of the model that is degraded, after each query."""
    policy, course = make(name), []

    def watch(state: State) -> None:
        course.append(next(o.share for o in policy.explain(state, MODELS).models if o.model == BEST))

    play(policy, degraded(N), watch=watch)
    return course


@pytest.mark.parametrize(("name", "leaves"), [("exp3", 400), ("exp4", 60)])
def test_the_degraded_model_is_left_and_taken_again_when_it_is_restored(name: str, leaves: int) -> None:
    course = weight_of_best(name)
    assert fmean(course[N // 4 - 300 : N // 4]) > 0.5
    assert fmean(course[N // 4 + leaves : N // 2]) < 0.1
    assert fmean(course[N - 300 :]) > 0.4


def test_exp3_and_exp4_beat_the_best_fixed_model_and_exp4_by_far() -> None:
    queries = degraded()  # all 20,000 of the paper
    fixed = best_fixed(queries)
    assert play(make("exp3"), queries)[-1] < fixed
    assert play(make("exp4"), queries)[-1] < 0.7 * fixed


def test_a_discount_makes_epsilon_greedy_follow() -> None:
    assert mean_errors(make("epsilon_greedy", discount=0.995)) < mean_errors(make("epsilon_greedy"))


@pytest.mark.parametrize("name", ["exp3", "exp4", "thompson"])
def test_personal_selection_beats_the_shared_one_where_contexts_differ(name: str) -> None:
    queries = by_context(N, contexts=4)
    personal = play(make(name), queries, personal=True)[-1]
    shared = play(make(name), queries)[-1]
    assert personal < 0.6 * shared
    assert personal < min(errors(model, queries)[-1] for model in GENERAL_AND_SPECIALISTS)
