"""Which functions an application may ask, judged by the schema that the runtime publishes for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from clipper.contract.applications import InputType, LinkSpec
from clipper_platform.applications.linking import check_link, parameter_of
from clipper_platform.errors import InvalidSpec
from clipper_runtime.json_schemas import parameters_schema
from clipper_runtime.schema import read_signature

LINK = LinkSpec(function="digits/classify")


def schema(function: Callable[..., Any], **extra: Any) -> dict[str, Any]:
    return {"parameters": parameters_schema(read_signature(function, batched=False, streaming=False)), **extra}


def doubles(x: list[float]) -> float: ...
def integers(x: list[int]) -> float: ...
def array(x: np.ndarray) -> float: ...
def anything(x): ...  # type: ignore[no-untyped-def]
def pair(x: tuple[float, float]) -> float: ...
def perhaps(x: list[float] | None) -> float: ...
def text(x: str) -> str: ...
def image(x: bytes) -> str: ...
def number(x: float) -> float: ...
def two(x: list[float], y: list[float]) -> float: ...
def optional(x: list[float], k: int = 3) -> float: ...
def nothing() -> float: ...


@pytest.mark.parametrize(
    ("input_type", "function"),
    [
        *(("doubles", f) for f in (doubles, array, anything, pair, perhaps, optional)),
        *(("floats", f) for f in (doubles, array)),
        *(("integers", f) for f in (integers, doubles, array, anything)),
        *(("strings", f) for f in (text, anything)),
        *(("bytes", f) for f in (image, anything)),
    ],
)
def test_a_function_that_takes_the_input_may_be_linked(input_type: InputType, function: Callable[..., Any]) -> None:
    check_link(LINK, input_type, schema(function))


@pytest.mark.parametrize(
    ("input_type", "function", "words"),
    [
        ("doubles", integers, "takes array of integer as 'x', and the application's input type is doubles"),
        ("doubles", text, "takes string"),
        ("doubles", number, "takes number"),
        ("integers", image, "takes bytes"),
        ("strings", image, "takes bytes"),
        ("strings", doubles, "takes array of number"),
        ("bytes", text, "takes string"),
        ("bytes", array, "takes numpy array"),
        ("doubles", two, "name the one for the input"),
        ("doubles", nothing, "has the parameters none"),
    ],
)
def test_a_function_of_another_input_is_refused_in_words(
    input_type: InputType, function: Callable[..., Any], words: str
) -> None:
    with pytest.raises(InvalidSpec, match=words):
        check_link(LINK, input_type, schema(function))


def test_the_link_may_name_the_parameter() -> None:
    named = LinkSpec(function="digits/classify", parameter="x")
    assert parameter_of(named, schema(optional)) == "x"
    assert parameter_of(LINK, schema(optional)) == "x"
    with pytest.raises(InvalidSpec, match="also needs y"):
        parameter_of(named, schema(two))
    with pytest.raises(InvalidSpec, match="no parameter 'x'; it has none"):
        parameter_of(named, schema(nothing))


def test_a_generator_is_refused_and_a_function_without_a_schema_is_not_judged() -> None:
    with pytest.raises(InvalidSpec, match="is a generator"):
        check_link(LINK, "doubles", schema(doubles, streaming=True))
    check_link(LINK, "doubles", {})


def test_a_schema_that_refers_to_itself_ends() -> None:
    loop = {"parameters": {"properties": {"x": {"$ref": "#/$defs/X"}}, "$defs": {"X": {"$ref": "#/$defs/X"}}}}
    with pytest.raises(InvalidSpec, match="input type"):
        check_link(LINK, "doubles", {"parameters": {**loop["parameters"], "$defs": {"X": {"type": "object"}}}})
    check_link(LINK, "doubles", loop)
