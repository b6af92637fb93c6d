"""What an application may declare, and the refusals of what it may not."""

from __future__ import annotations

from typing import Any

import pytest

from clipper.contract.applications import ApplicationSpec, LinkSpec, check_links
from clipper.contract.rules import SpecError

MINIMAL = {"input_type": "doubles", "default_output": "none"}


def test_everything_but_the_input_type_and_the_default_output_has_a_default() -> None:
    spec = ApplicationSpec.parse("digits", MINIMAL)
    assert (spec.policy, spec.loss, spec.latency_slo_s, spec.links) == ("single", "zero_one", 0.1, ())


def test_a_spec_comes_back_from_its_table() -> None:
    links = ["a/f", "b/g@3", {"function": "c/h", "parameter": "x"}]
    spec = ApplicationSpec.parse("digits", {**MINIMAL, "policy": "exp3", "seed": 7, "links": links})
    table = spec.to_dict()
    assert ApplicationSpec.parse(table.pop("name"), table) == spec
    assert [link.id for link in spec.links] == ["a/f", "b/g@3", "c/h"]


@pytest.mark.parametrize(
    ("table", "key", "words"),
    [
        ({"input_type": "double"}, "input_type", "one of 'integers'"),
        ({"latency_slo_s": 0}, "latency_slo_s", "above 0"),
        ({"latency_slo_s": "20"}, "latency_slo_s", "a number"),
        ({"policy": "exp"}, "policy", "did you mean"),
        ({"policy": "no such policy"}, "policy", "single, split"),
        ({"policy_options": [1]}, "policy_options", "a table"),
        ({"loss": "cubic"}, "loss", "zero_one"),
        ({"seed": -1}, "seed", "at least 0"),
        ({"default_output": float("nan")}, "default_output", "JSON has no nan"),
        ({"latency": 3}, "latency", "did you mean 'latency_slo_s'"),
        ({"links": "a/f"}, "links", "a list"),
        ({"links": ["f"]}, "function", "project/function"),
        ({"links": ["a/f@0"]}, "function", "project/function@3"),
        ({"links": [3]}, "links", "project/function"),
        ({"links": [{"function": "a/f@2", "version": 3}]}, "version", "contradicts"),
        ({"links": [{"function": "a/f", "parameter": "1x"}]}, "parameter", "a parameter"),
        ({"links": [{"function": "a/f", "wight": 1}]}, "wight", "did you mean 'weight'"),
        ({"links": [{"function": "a/f", "weight": -0.5}]}, "weight", "at least 0"),
        ({"links": ["a/f", "a/f"]}, "links", "twice"),
        ({"links": [{"function": "a/f", "weight": 0.5}]}, "weight", "sum to 0.5"),
        ({"links": [{"function": "a/f", "weight": 0.5}, "a/g"]}, "weight", "a/g has no weight"),
    ],
)
def test_a_refusal_names_the_key_and_what_is_allowed(table: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(SpecError) as refusal:
        ApplicationSpec.parse("digits", {**MINIMAL, **table})
    assert refusal.value.key == key
    assert words in str(refusal.value)


@pytest.mark.parametrize("name", ["a,b", "a:b", "a/b", "", "fn", "API", "v2", "healthz", "dashboard", "x" * 64, 3])
def test_names_that_break_or_shadow_a_route_are_refused(name: object) -> None:
    with pytest.raises(SpecError) as refusal:
        ApplicationSpec.parse(name, MINIMAL)
    assert refusal.value.key == "name"


@pytest.mark.parametrize("key", ["input_type", "default_output"])
def test_what_has_no_default_must_be_given(key: str) -> None:
    with pytest.raises(SpecError, match=f"{key} is missing"):
        ApplicationSpec.parse("digits", {k: v for k, v in MINIMAL.items() if k != key})


def test_while_links_are_added_one_by_one_the_weights_may_sum_to_less() -> None:
    link = LinkSpec.parse({"function": "a/f", "weight": 0.4})
    check_links([link], whole=False)
    with pytest.raises(SpecError, match="sum to 1"):
        check_links([link])
