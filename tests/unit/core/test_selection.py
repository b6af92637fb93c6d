"""What each selection policy asks, what it makes of the answers, and what it learns."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from clipper.contract.rules import SpecError
from clipper_platform.core.losses import LossError
from clipper_platform.core.selection import POLICIES, Choice, Record, SelectionPolicy, State, policy_named

MODELS = ("p/a", "p/b", "p/c")
LEARNING = ("epsilon_greedy", "ucb1", "thompson", "exp3")
ENSEMBLES = ("exp4", "majority", "mean")


def policy(name: str, **options: Any) -> SelectionPolicy:
    return policy_named(name, options)


def choices(policy: SelectionPolicy, state: State, models: Sequence[str] = MODELS, times: int = 1000) -> Counter[str]:
    """How often each model is chosen alone."""
    rng = random.Random(5)
    return Counter(model for _ in range(times) for model in policy.select(state, models, rng).models)


def taught(policy: SelectionPolicy, losses: Mapping[str, float], rounds: int = 300, seed: int = 1) -> State:
    """The state after rounds in which each model has its constant loss."""
    rng, state = random.Random(seed), policy.init(list(losses))
    for _ in range(rounds):
        choice = policy.select(state, list(losses), rng)
        state = policy.observe(state, choice, {model: losses[model] for model in choice.models})
    return state


def ensemble(*probabilities: float) -> Choice:
    return Choice(MODELS, (), dict(zip(MODELS, probabilities, strict=True)))


# Steered by people


def test_single_asks_the_first_usable_link() -> None:
    single = policy("single")
    state = single.init(MODELS)
    assert single.select(state, MODELS, random.Random(0)).models == ("p/a",)
    assert single.select(state, MODELS[1:], random.Random(0)).models == ("p/b",)


def test_single_asks_the_model_that_it_names_while_that_is_usable() -> None:
    single = policy("single", model="p/b")
    state = single.init(MODELS)
    assert single.select(state, MODELS, random.Random(0)).models == ("p/b",)
    assert single.select(state, ("p/a", "p/c"), random.Random(0)).models == ("p/a",)
    words = {outlook.model: outlook.why for outlook in single.explain(state, ("p/a", "p/c")).models}
    assert words == {
        "p/a": "p/b is not usable, and this is the next link",
        "p/c": "asked only while p/a is not usable",
        "p/b": "not usable now",
    }
    assert single.explain(state, MODELS).choice == "p/b: the option model names it"


def test_split_follows_its_weights() -> None:
    split = policy("split", weights={"p/a": 0.9, "p/b": 0.1})
    state = split.init(MODELS)
    counts = choices(split, state)
    assert 850 < counts["p/a"] < 950
    assert counts["p/c"] == 0
    assert choices(split, state, ("p/b", "p/c"))["p/b"] == 1000  # its rival's queries are its own while that is away
    assert split.explain(state, MODELS).choice == "p/a with a probability of 90%: weight 0.9"


def test_split_never_asks_a_model_with_a_weight_of_0() -> None:
    split = policy("split", weights={"p/a": 1.0, "p/b": 0.0})
    choice = split.select(split.init(MODELS), ("p/b", "p/c"), random.Random(0))
    assert (choice.models, choice.reason) == ((), "no linked model may be asked now")
    assert split.explain(split.init(MODELS), ("p/b",)).choice == "no linked model may be asked now"


def test_split_without_weights_shares_evenly() -> None:
    split = policy("split")
    assert min(choices(split, split.init(MODELS)).values()) > 280


def test_shadows_are_asked_and_never_given() -> None:
    shadow = policy("shadow", model="p/b")
    choice = shadow.select(shadow.init(MODELS), MODELS, random.Random(0))
    assert (choice.models, choice.shadows) == (("p/b",), ("p/a", "p/c"))
    assert shadow.combine(shadow.init(MODELS), choice, {"p/a": 1, "p/c": 1}) is None
    combined = shadow.combine(shadow.init(MODELS), choice, {"p/a": 1, "p/b": 2, "p/c": 1})
    assert combined is not None
    assert (combined.output, combined.confidence, combined.models) == (2, 1.0, ("p/b",))


def test_the_losses_of_shadows_are_learnt() -> None:
    shadow = policy("shadow")
    choice = shadow.select(shadow.init(MODELS), MODELS, random.Random(0))
    state = shadow.observe(shadow.init(MODELS), choice, {"p/a": 0.0, "p/c": 1.0})
    outlooks = {outlook.model: outlook for outlook in shadow.explain(state, MODELS).models}
    assert (outlooks["p/c"].loss, outlooks["p/c"].feedbacks, outlooks["p/b"].loss) == (1.0, 1.0, None)
    assert outlooks["p/c"].why == "asked about 100% of the queries, and never given"
    assert outlooks["p/a"].why == "the first usable link"


def test_shadows_can_be_asked_about_a_sample() -> None:
    shadow, rng = policy("shadow", sample=0.25), random.Random(3)
    state = shadow.init(MODELS)
    asked = sum(bool(shadow.select(state, MODELS, rng).shadows) for _ in range(1000))
    assert 200 < asked < 300


# One model, learnt


@pytest.mark.parametrize("name", LEARNING)
def test_the_best_model_is_found(name: str) -> None:
    learner = policy(name)
    state = taught(learner, {"p/a": 0.9, "p/b": 0.1, "p/c": 0.8})
    assert choices(learner, state)["p/b"] > 700
    explanation = learner.explain(state, MODELS)
    assert explanation.models[0].model == "p/b"
    assert explanation.choice.startswith("p/b")
    assert "mean loss 0.100" in explanation.choice


@pytest.mark.parametrize("name", LEARNING)
def test_models_without_feedback_are_all_tried(name: str) -> None:
    learner = policy(name)
    assert min(choices(learner, learner.init(MODELS)).values()) > 250
    assert "no feedback yet" in learner.explain(learner.init(MODELS), MODELS).models[0].why


@pytest.mark.parametrize("name", ["epsilon_greedy", "ucb1"])
def test_a_new_model_is_tried_before_those_that_are_known(name: str) -> None:
    learner = policy(name)
    state = taught(learner, {"p/a": 0.1, "p/b": 0.2})
    assert choices(learner, state)["p/c"] > 900


@pytest.mark.parametrize("name", ["exp3", "exp4"])
def test_a_new_model_begins_with_the_mean_weight(name: str) -> None:
    learner = policy(name)
    state = taught(learner, {"p/a": 0.0, "p/b": 1.0})
    assert dict(learner.select(state, MODELS, random.Random(0)).probabilities)["p/c"] == pytest.approx(1 / 3, rel=0.02)


def test_epsilon_greedy_still_tries_the_others() -> None:
    greedy = policy("epsilon_greedy", epsilon=0.3)
    state = taught(greedy, {"p/a": 0.9, "p/b": 0.1, "p/c": 0.8})
    assert dict(greedy.select(state, MODELS, random.Random(0)).probabilities) == pytest.approx(
        {"p/a": 0.1, "p/b": 0.8, "p/c": 0.1}
    )


def test_ucb1_says_how_low_a_loss_is_still_plausible() -> None:
    ucb = policy("ucb1", exploration=0.1)
    state = taught(ucb, {"p/a": 0.5, "p/b": 0.6})
    total = 300
    tried = state.models["p/a"].feedbacks
    bound = 0.5 - 0.1 * math.sqrt(2 * math.log(total) / tried)
    outlook = next(outlook for outlook in ucb.explain(state, MODELS[:2]).models if outlook.model == "p/a")
    assert outlook.why == f"mean loss 0.500 of {tried:.4g} feedbacks; {bound:.3f} is still plausible"


@pytest.mark.parametrize("family", ["beta", "gaussian"])
def test_the_probabilities_of_thompson_are_near_how_often_it_chooses(family: str) -> None:
    thompson = policy("thompson", family=family)
    state = State({"p/a": Record(10, 3), "p/b": Record(100, 20), "p/c": Record(5, 2)}, rounds=115)
    probabilities = thompson.select(state, MODELS, random.Random(0)).probabilities
    counts = choices(thompson, state, times=4000)
    assert {model: counts[model] / 4000 for model in MODELS} == pytest.approx(dict(probabilities), abs=0.05)


@pytest.mark.parametrize("name", ["epsilon_greedy", "ucb1", "thompson"])
def test_a_discount_lets_them_follow_a_model_that_becomes_bad(name: str) -> None:
    learner = policy(name, discount=0.98)
    rng, state = random.Random(1), taught(learner, {"p/a": 0.1, "p/b": 0.5}, rounds=1000)
    chosen: list[str] = []
    for _ in range(400):
        choice = learner.select(state, MODELS[:2], rng)
        state = learner.observe(state, choice, {model: 0.9 if model == "p/a" else 0.5 for model in choice.models})
        chosen += choice.models
    assert chosen[200:].count("p/b") > 130
    assert state.rounds == pytest.approx(50, rel=0.01)  # 1 / (1 - 0.98)


def test_exp3_divides_a_loss_by_the_probability_of_the_choice() -> None:
    exp3 = policy("exp3", learning_rate=0.1, share=0.0)
    rare = Choice(("p/a",), (), {"p/a": 0.1, "p/b": 0.9})
    state = exp3.observe(exp3.init(MODELS[:2]), rare, {"p/a": 0.5})
    assert state.models["p/b"].log_weight - state.models["p/a"].log_weight == pytest.approx(0.1 * 0.5 / 0.1)


def test_late_feedback_counts_by_the_probability_at_the_time_of_the_choice() -> None:
    exp3 = policy("exp3", learning_rate=0.1, share=0.0)
    early = Choice(("p/a",), (), {"p/a": 0.5, "p/b": 0.5})
    state = taught(exp3, {"p/a": 1.0, "p/b": 0.0})
    gap = state.models["p/a"].log_weight
    later = exp3.observe(state, early, {"p/a": 1.0})
    assert later.models["p/a"].log_weight - gap == pytest.approx(-0.1 / 0.5)


def test_a_choice_without_a_recorded_probability_still_counts_by_a_bounded_amount() -> None:
    exp3 = policy("exp3", learning_rate=0.1)
    state = exp3.observe(exp3.init(MODELS), Choice(("p/a",)), {"p/a": 1.0})
    assert math.isfinite(state.models["p/a"].log_weight)


def test_exp3_learns_from_the_choice_of_an_ensemble_before_it() -> None:
    """All were asked for certain, so that their losses count once, and the missing one's not at all."""
    exp3 = policy("exp3", learning_rate=0.1, share=0.0)
    state = exp3.observe(exp3.init(MODELS), ensemble(0.2, 0.3, 0.5), {"p/a": 1.0, "p/b": 0.0, "p/c": 0.5})
    assert [state.models[model].log_weight for model in MODELS] == pytest.approx([-0.1, 0.0, -0.05])
    state = exp3.observe(exp3.init(MODELS), ensemble(0.2, 0.3, 0.5), {"p/a": 1.0})
    assert [state.models[model].log_weight for model in MODELS] == pytest.approx([-0.1, 0.0, 0.0])


@pytest.mark.parametrize("name", ["exp3", "exp4"])
def test_a_share_keeps_every_model_near_enough_to_come_back(name: str) -> None:
    shared, plain = policy(name, share=0.01), policy(name, share=0.0)
    losses = {"p/a": 1.0, "p/b": 0.0}
    assert taught(plain, losses, 3000).models["p/a"].log_weight < -10
    assert taught(shared, losses, 3000).models["p/a"].log_weight > math.log(0.01 / 2) - 0.2
    everything = policy(name, share=1.0)
    assert [r.log_weight for r in taught(everything, losses, 10).models.values()] == pytest.approx([0.0, 0.0])


# Ensembles


def combined(
    name: str, choice: Choice, answers: Mapping[str, Any], **options: Any
) -> tuple[Any, float, tuple[str, ...]]:
    found = policy(name, **options).combine(State(), choice, answers)
    assert found is not None
    return found.output, pytest.approx(found.confidence), found.models


EQUAL = ensemble(1 / 3, 1 / 3, 1 / 3)


@pytest.mark.parametrize("name", ENSEMBLES)
def test_an_ensemble_asks_every_model(name: str) -> None:
    policy_ = policy(name)
    choice = policy_.select(policy_.init(MODELS), MODELS, random.Random(0))
    assert choice.models == MODELS
    assert sum(choice.probabilities.values()) == pytest.approx(1.0)
    assert "all 3 models are asked" in policy_.explain(policy_.init(MODELS), MODELS).choice
    assert "1 model is asked" in policy_.explain(policy_.init(MODELS), MODELS[:1]).choice


def test_the_majority_answers_with_the_share_that_agrees() -> None:
    answers = {"p/a": 7, "p/b": [1], "p/c": 7.0}
    assert combined("majority", EQUAL, answers) == (7, 2 / 3, MODELS)
    assert combined("majority", EQUAL, {"p/a": ["x", 1], "p/b": ["x", 1.0], "p/c": ["x", True]})[1] == 2 / 3


def test_of_equal_votes_the_first_link_wins() -> None:
    assert combined("majority", EQUAL, {"p/c": "z", "p/b": "y", "p/a": "x"})[0] == "x"


@pytest.mark.parametrize("name", ENSEMBLES)
def test_answers_that_did_not_arrive_lower_the_confidence(name: str) -> None:
    assert combined(name, EQUAL, {"p/b": 3, "p/c": 3}) == (3, 2 / 3, ("p/b", "p/c"))
    assert combined(name, EQUAL, {"p/c": 3, "p/x": 4}) == (3, 1 / 3, ("p/c",))
    assert policy(name).combine(State(), EQUAL, {}) is None
    assert policy(name).combine(State(), EQUAL, {"p/x": 4}) is None


def test_exp4_votes_by_the_weights_of_the_time_of_the_query() -> None:
    assert combined("exp4", ensemble(0.2, 0.2, 0.6), {"p/a": 1, "p/b": 1, "p/c": 2}) == (2, 0.6, MODELS)


def test_a_mean_is_weighted_and_confident_as_far_as_answers_are_near() -> None:
    choice = ensemble(0.5, 0.25, 0.25)
    assert combined("exp4", choice, {"p/a": 1.0, "p/b": 2, "p/c": 3}, combine_by="mean")[0] == pytest.approx(1.75)
    output, confidence, _ = combined("mean", EQUAL, {"p/a": [0.0, 1.0], "p/b": [0.5, 0.5], "p/c": [1.0, 0.0]})
    assert (output, confidence) == (pytest.approx([0.5, 0.5]), 2 / 3)
    nested = combined("mean", EQUAL, {"p/a": [[0, 1], []], "p/b": [[2, 3], []]})
    assert nested == ([[pytest.approx(1.0), pytest.approx(2.0)], []], 0.0, ("p/a", "p/b"))
    assert combined("mean", EQUAL, {model: [] for model in MODELS}) == ([], 1.0, MODELS)


def test_the_scale_of_the_loss_says_what_is_near() -> None:
    mean = policy_named("mean", {}, loss="absolute", loss_scale=10.0)
    found = mean.combine(State(), ensemble(0.5, 0.5, 0.0), {"p/a": 0.0, "p/b": 10.0})
    assert found is not None
    assert (found.output, found.confidence) == (5.0, pytest.approx(0.5))


def test_what_is_no_number_or_of_another_shape_is_left_out_of_a_mean() -> None:
    assert combined("mean", EQUAL, {"p/a": 1.0, "p/b": math.nan, "p/c": 3.0}) == (2.0, 0.0, ("p/a", "p/c"))
    assert combined("mean", EQUAL, {"p/a": [1.0], "p/b": [1.0, 2.0], "p/c": [1.0]}) == ([1.0], 2 / 3, ("p/a", "p/c"))
    assert combined("mean", EQUAL, {"p/a": "cat", "p/b": 1, "p/c": "cat"}) == ("cat", 2 / 3, MODELS)


def test_lists_without_numbers_have_themselves_as_mean() -> None:
    assert combined("mean", EQUAL, {model: [[], []] for model in MODELS}) == ([[], []], 1.0, MODELS)


def test_an_ensemble_of_models_without_weight_still_answers() -> None:
    nothing = ensemble(0.0, 0.0, 0.0)
    assert combined("mean", nothing, {"p/a": 1.0, "p/b": 3.0}) == (2.0, 0.0, ("p/a", "p/b"))
    assert combined("majority", nothing, {"p/b": 3.0}) == (3.0, 0.0, ("p/b",))


def test_exp4_gives_the_weighted_mean_where_the_loss_is_a_difference() -> None:
    answers = {"p/a": 1.0, "p/b": 2.0, "p/c": 4.0}
    for loss, expected in (("zero_one", 1.0), ("reported", 1.0), ("absolute", 7 / 3), ("squared", 7 / 3)):
        found = policy_named("exp4", {}, loss=loss).combine(State(), EQUAL, answers)
        assert found is not None
        assert found.output == pytest.approx(expected)


def test_no_weight_is_learnt_of_a_choice_that_names_only_shadows() -> None:
    for name in ("exp3", "exp4"):
        learner = policy(name, share=0.0)
        state = learner.observe(learner.init(MODELS), Choice((), MODELS[:1]), {"p/a": 1.0})
        assert [record.log_weight for record in state.models.values()] == pytest.approx([0.0, 0.0, 0.0])
        assert state.models["p/a"].mean == 1.0


def test_a_model_that_did_not_answer_keeps_its_part_of_the_weight() -> None:
    exp4 = policy("exp4", share=0.0, learning_rate=0.5)
    state, rng = exp4.init(MODELS), random.Random(0)
    choice = exp4.select(state, MODELS, rng)
    later = exp4.select(exp4.observe(state, choice, {"p/a": 1.0, "p/b": 0.0}), MODELS, rng).probabilities
    assert later["p/c"] == pytest.approx(1 / 3)
    assert later["p/b"] / later["p/a"] == pytest.approx(math.exp(0.5))
    only_one = exp4.observe(state, choice, {"p/a": 1.0})
    assert dict(exp4.select(only_one, MODELS, rng).probabilities) == pytest.approx(dict.fromkeys(MODELS, 1 / 3))


# All of them


@pytest.mark.parametrize("name", POLICIES)
def test_without_a_usable_model_nothing_is_asked(name: str) -> None:
    policy_ = policy(name)
    state = taught(policy_, dict.fromkeys(MODELS, 0.5), rounds=3)
    choice = policy_.select(state, (), random.Random(0))
    assert (choice.models, choice.shadows, dict(choice.probabilities)) == ((), (), {})
    assert policy_.combine(state, choice, {"p/a": 1}) is None
    explanation = policy_.explain(state, ())
    assert explanation.choice == "no linked model may be asked now"
    assert {outlook.why for outlook in explanation.models} == {"not usable now"}


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.1, True, None, "0"])
def test_a_loss_that_is_no_number_between_0_and_1_is_refused(name: str, bad: Any) -> None:
    policy_ = policy(name)
    state = policy_.init(MODELS)
    choice = policy_.select(state, MODELS, random.Random(0))
    with pytest.raises(LossError):
        policy_.observe(state, choice, {choice.models[0]: bad})


@pytest.mark.parametrize("name", POLICIES)
def test_losses_of_models_that_were_not_asked_are_ignored(name: str) -> None:
    policy_ = policy(name)
    state = policy_.init(MODELS)
    choice = policy_.select(state, MODELS, random.Random(0))
    assert policy_.observe(state, choice, {"p/unknown": 0.5}) is state
    assert policy_.observe(state, choice, {}) is state


@pytest.mark.parametrize("name", POLICIES)
def test_removed_models_leave_the_state(name: str) -> None:
    policy_ = policy(name)
    shared = taught(policy_, dict.fromkeys(MODELS, 0.5), rounds=30)
    state = policy_.init(MODELS, shared).only(["p/a", "p/new"])
    assert set(state.models) == set(state.prior) == {"p/a"}


# Contexts


@pytest.mark.parametrize("name", LEARNING)
def test_a_new_context_begins_with_what_all_have_in_common_and_soon_follows_its_own(name: str) -> None:
    learner = policy(name)
    shared = taught(learner, {"p/a": 0.05, "p/b": 0.95}, rounds=2000)
    state = learner.init(MODELS[:2], shared)
    assert choices(learner, state, MODELS[:2])["p/a"] > 550
    rng = random.Random(2)
    for _ in range(400):
        choice = learner.select(state, MODELS[:2], rng)
        state = learner.observe(state, choice, {model: 0.95 if model == "p/a" else 0.05 for model in choice.models})
    assert choices(learner, state, MODELS[:2])["p/b"] > 700


@pytest.mark.parametrize("name", POLICIES)
def test_folding_adds_what_the_context_learnt_and_not_what_it_began_with(name: str) -> None:
    policy_ = policy(name)
    shared = taught(policy_, {"p/a": 0.25, "p/b": 0.5, "p/c": 1.0}, rounds=50)
    untouched = policy_.init(MODELS, shared)
    same = policy_.fold(shared, untouched)
    assert same.rounds == pytest.approx(shared.rounds)
    for model in MODELS:
        assert same.models[model] == pytest.approx(shared.models[model])
    choice = policy_.select(untouched, MODELS, random.Random(4))
    learnt = policy_.fold(shared, policy_.observe(untouched, choice, dict.fromkeys(choice.models, 0.5)))
    assert learnt.rounds == pytest.approx(shared.rounds + 1, rel=0.02)
    for model in choice.models:
        assert learnt.models[model].feedbacks == pytest.approx(shared.models[model].feedbacks + 1, rel=0.02)


def test_a_context_without_a_prior_takes_nothing() -> None:
    learner = policy("ucb1", prior_strength=0)
    state = learner.init(MODELS, taught(learner, {"p/a": 0.05, "p/b": 0.95}))
    assert state.rounds == 0
    assert all(record.mean is None for record in state.models.values())


def test_one_policy_goes_on_with_what_another_learnt() -> None:
    state = taught(policy("epsilon_greedy"), {"p/a": 0.9, "p/b": 0.1, "p/c": 0.8})
    for name in ("ucb1", "thompson"):
        assert choices(policy(name), state)["p/b"] > 700


# States as plain values


def test_a_state_is_read_back_as_it_was() -> None:
    state = State({"p/a": Record(3, 1.5, -0.25)}, 3.0, {"p/a": Record(1, 0.5, 0.0)}, 1.0)
    assert State.from_plain(state.to_plain()) == state


@pytest.mark.parametrize(
    "plain",
    [
        None, [], "x", {}, {"models": {}}, {"models": [], "rounds": 0, "prior": {}, "prior_rounds": 0},
        {"models": {"p/a": [1, 2]}, "rounds": 0, "prior": {}, "prior_rounds": 0},
        {"models": {"p/a": 1}, "rounds": 0, "prior": {}, "prior_rounds": 0},
        {"models": {"p/a": [1, 0, "0"]}, "rounds": 0, "prior": {}, "prior_rounds": 0},
        {"models": {"p/a": [-1, 0, 0]}, "rounds": 0, "prior": {}, "prior_rounds": 0},
        {"models": {"p/a": [1, math.nan, 0]}, "rounds": 0, "prior": {}, "prior_rounds": 0},
        {"models": {}, "rounds": True, "prior": {}, "prior_rounds": 0},
        {"models": {}, "rounds": -1.0, "prior": {}, "prior_rounds": 0},
    ],
)  # fmt: skip
def test_what_is_no_state_is_refused(plain: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text differs by what is wrong
        State.from_plain(plain)


# Options


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("exp5", {}, "policy = 'exp5' is not known; did you mean 'exp4'?"),
        ("qqq", {}, "policy = 'qqq' is not known; there are single, split, shadow"),
        ("single", {"modle": "p/a"}, "policy_options: unknown key 'modle'; did you mean 'model'?"),
        ("single", {"model": 3}, "policy_options: model = 3 is not allowed: it must be a string"),
        ("majority", {"epsilon": 1}, "unknown key 'epsilon'"),
        (
            "epsilon_greedy",
            {"epsilon": 1.5},
            "epsilon = 1.5 is not allowed: it must be a number at least 0 and at most 1",
        ),
        ("ucb1", {"discount": 0}, "discount = 0.0 is not allowed: it must be a number above 0 and at most 1"),
        ("thompson", {"family": "gamma"}, "family = 'gamma' is not allowed: it must be one of 'beta', 'gaussian'"),
        ("exp3", {"learning_rate": math.nan}, "learning_rate = nan is not allowed"),
        ("exp4", {"combine_by": "median"}, "it must be one of 'majority', 'mean'"),
        ("split", {"weigths": {}}, "unknown key 'weigths'; did you mean 'weights'?"),
        ("split", {"weights": {"p/a": 0.5, "p/b": 0.6}}, "the weights must sum to 1, and these sum to 1.1"),
        ("split", {"weights": {"p/a": -0.5, "p/b": 1.5}}, "weights['p/a'] = -0.5 is not allowed"),
        ("split", {"weights": {}}, "it must be a table of models and numbers"),
        ("split", {"weights": [1]}, "it must be a table of models and numbers"),
    ],
)
def test_a_refusal_names_the_key_and_what_to_write(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as refused:
        policy_named(name, options)
    assert words in str(refused.value)
    assert refused.value.key


def test_every_policy_says_its_name() -> None:
    assert [policy(name).name for name in POLICIES] == list(POLICIES)
