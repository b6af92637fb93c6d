from __future__ import annotations

import datetime
import decimal
import json
import shlex
import uuid
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
import pytest

from clipper.cli.examples import Example, curl, example, python_call


def arguments(schema: dict[str, Any]) -> dict[str, Any]:
    return dict(example(schema).arguments)


@dataclass
class Point:
    x: float
    label: str = "here"


@dataclass
class Tree:
    value: int
    children: list[Tree] = field(default_factory=list)


@dataclass
class Maybe:
    """Refers to itself by something that is required."""

    value: int
    next: Maybe | None


TYPES = [
    str,
    int,
    float,
    bool,
    bytes,
    None,
    Any,
    list[float],
    list[list[int]],
    dict[str, float],
    tuple[int, str],
    tuple[int, ...],
    int | None,
    str | int,
    Literal["a", "b"],
    Annotated[datetime.datetime, msgspec.Meta(tz=True)],
    datetime.date,
    Point,
    Tree,
    list[Point],
    Annotated[int, msgspec.Meta(ge=10, le=20)],
    Annotated[float, msgspec.Meta(gt=0, lt=0.2)],
    Annotated[int, msgspec.Meta(multiple_of=7)],
    Annotated[str, msgspec.Meta(min_length=12)],
    Annotated[str, msgspec.Meta(max_length=2)],
    Annotated[list[int], msgspec.Meta(min_length=3)],
    Annotated[list[int], msgspec.Meta(max_length=1)],
    Annotated[float, msgspec.Meta(ge=0, lt=0.2)],
    Annotated[float, msgspec.Meta(gt=1.5, le=1.75)],
    Annotated[int, msgspec.Meta(gt=1, lt=3)],
    Annotated[int, msgspec.Meta(ge=10, multiple_of=7)],
    Annotated[set[int], msgspec.Meta(min_length=3)],
    set[str],
    uuid.UUID,
    datetime.timedelta,
    decimal.Decimal,
    Maybe,
]


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_the_example_for_a_type_is_accepted_by_that_type(kind: Any) -> None:
    struct = msgspec.defstruct("Arguments", [("value", kind)], forbid_unknown_fields=True)
    document = msgspec.json.schema(struct)
    example = arguments({"parameters": document})
    decoded = msgspec.json.decode(json.dumps(example), type=struct)
    assert decoded.value is not None or kind in (None, Any)


def test_only_what_is_required_is_in_the_example() -> None:
    schema = {
        "type": "object",
        "properties": {"text": {"type": "string"}, "times": {"type": "integer"}},
        "required": ["text"],
    }
    assert arguments({"parameters": schema}) == {"text": "hello"}


def test_without_required_arguments_the_example_shows_what_could_be_given() -> None:
    schema = {"type": "object", "properties": {"times": {"type": "integer", "default": 3}}}
    assert arguments({"parameters": schema}) == {"times": 3}


@pytest.mark.parametrize(
    "schema", [{}, {"parameters": None}, {"parameters": {"$ref": "#/$defs/Missing"}}, {"parameters": {"type": "array"}}]
)
def test_a_schema_that_says_nothing_gives_no_arguments(schema: dict[str, Any]) -> None:
    assert arguments(schema) == {}


def test_curl_survives_the_shell() -> None:
    schema = {
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string", "example": 'it\'s "quoted" $HOME'}},
            "required": ["text"],
        }
    }
    command = curl("http://127.0.0.1:8700/fn/p/f", schema, example(schema), key_needed=True)
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["curl", "http://127.0.0.1:8700/fn/p/f"]
    assert json.loads(words[words.index("-d") + 1]) == {"text": 'it\'s "quoted" $HOME'}
    assert "Authorization: Bearer $CLIP_API_KEY" in words


def test_curl_of_a_stream_does_not_wait_for_its_end() -> None:
    command = curl("http://h/fn/p/f", {"streaming": True}, Example(arguments={}), key_needed=False)
    assert command.startswith("curl -N ")
    assert "text/event-stream" in command
    assert "Bearer" not in command


def test_the_python_call_is_valid_python_with_the_same_arguments() -> None:
    schema = {
        "type": "object",
        "properties": {"flag": {"type": "boolean"}, "text": {"type": "string"}, "n": {"type": "null"}},
        "required": ["flag", "text", "n"],
    }
    call = python_call("p/f", {"parameters": schema}, example({"parameters": schema}))
    assert call == 'clipper.Function.from_name("p/f").remote(flag=True, text="hello", n=None)'
    compile(call, "call", "eval")


def test_a_function_that_takes_raw_bytes_is_shown_with_a_file() -> None:
    struct = msgspec.defstruct("Arguments", [("image", bytes)])
    schema = {
        "parameters": msgspec.json.schema(struct),
        "content_types": ["application/json", "application/octet-stream", "image/*"],
    }
    assert "--data-binary @FILE" in curl("http://h/fn/p/f", schema, example(schema), key_needed=False)
    assert python_call("p/f", schema, example(schema)).endswith('.remote(image=open("FILE", "rb").read())')


def of(kind: Any) -> dict[str, Any]:
    """What a function of one parameter `x` publishes."""
    document = msgspec.json.schema(msgspec.defstruct("Arguments", [("x", kind)]))
    return {"parameters": document}


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("", [0.5, 0.5]), (" of float32", [0.5, 0.5]), (" of int64", [1, 1]), (" of bool", [True, True]),
        (" of uint8", [1, 1]), (" of datetime64[D]", ["2026-01-31", "2026-01-31"]),
    ],
)  # fmt: skip
def test_an_array_is_shown_with_numbers_and_not_with_its_name(dtype: str, value: list[Any]) -> None:
    pixels = {"type": "array", "description": f"numpy array{dtype}, as nested arrays"}
    call = example({"parameters": {"type": "object", "properties": {"pixels": pixels}, "required": ["pixels"]}})
    assert call.arguments == {"pixels": value}
    assert call.unsure == ("pixels",)


@pytest.mark.parametrize("kind", [Any, list, list[float], list[list[int]], dict, dict[str, int], bytes, list[bytes]])
def test_where_the_schema_does_not_say_which_values_the_example_says_so(kind: Any) -> None:
    assert example(of(kind)).unsure == ("x",)


@pytest.mark.parametrize(
    "kind",
    [str, int, bool, list[str], Point, list[Point], datetime.date, Literal["a", "b"], int | None, tuple[float, float]],
)
def test_where_it_does_nothing_is_unsure(kind: Any) -> None:
    assert example(of(kind)).unsure == ()


def test_an_expression_or_an_unknown_format_is_no_example() -> None:
    assert example(of(Annotated[str, msgspec.Meta(pattern="^A[0-9]+$")])).unsure == ("x",)
    text = {"type": "string", "format": "card-number"}
    assert example({"parameters": {"type": "object", "properties": {"x": text}}}).unsure == ("x",)
    assert example({"parameters": {"type": "object", "properties": {"x": {**text, "examples": ["4111"]}}}}).unsure == ()


def test_a_definition_beside_a_nested_model_is_found() -> None:
    inner = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    model = {"type": "object", "properties": {"i": {"$ref": "#/$defs/Inner"}}, "required": ["i"]}
    model["$defs"] = {"Inner": inner}
    schema = {"parameters": {"type": "object", "properties": {"m": model}, "required": ["m"]}}
    assert example(schema).arguments == {"m": {"i": {"n": 1}}}


def test_the_projects_own_smoke_call_is_the_example() -> None:
    schema = {**of(bytes), "content_types": ["application/octet-stream"]}
    call = example(schema, {"x": "aGVsbG8="})
    assert call == Example(arguments={"x": "aGVsbG8="}, given=True)
    assert '{"x": "aGVsbG8="}' in curl("http://h/fn/p/f", schema, call, key_needed=False)
    assert python_call("p/f", schema, call).endswith("remote(x=b'hello')")
