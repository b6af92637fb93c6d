from __future__ import annotations

import datetime
import json
import shlex
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
import pytest

from clipper.cli.examples import arguments, curl, python_call


@dataclass
class Point:
    x: float
    label: str = "here"


@dataclass
class Tree:
    value: int
    children: list[Tree] = field(default_factory=list)


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
    command = curl("http://127.0.0.1:8700/fn/p/f", schema, key_needed=True)
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["curl", "http://127.0.0.1:8700/fn/p/f"]
    assert json.loads(words[words.index("-d") + 1]) == {"text": 'it\'s "quoted" $HOME'}
    assert "Authorization: Bearer $CLIP_API_KEY" in words


def test_curl_of_a_stream_does_not_wait_for_its_end() -> None:
    command = curl("http://h/fn/p/f", {"streaming": True}, key_needed=False)
    assert command.startswith("curl -N ")
    assert "text/event-stream" in command
    assert "Bearer" not in command


def test_the_python_call_is_valid_python_with_the_same_arguments() -> None:
    schema = {
        "type": "object",
        "properties": {"flag": {"type": "boolean"}, "text": {"type": "string"}, "n": {"type": "null"}},
        "required": ["flag", "text", "n"],
    }
    call = python_call("p/f", {"parameters": schema})
    assert call == 'clipper.Function.from_name("p/f").remote(flag=True, text="hello", n=None)'
    compile(call, "call", "eval")


def test_a_function_that_takes_raw_bytes_is_shown_with_a_file() -> None:
    struct = msgspec.defstruct("Arguments", [("image", bytes)])
    schema = {
        "parameters": msgspec.json.schema(struct),
        "content_types": ["application/json", "application/octet-stream", "image/*"],
    }
    assert "--data-binary @FILE" in curl("http://h/fn/p/f", schema, key_needed=False)
    assert python_call("p/f", schema).endswith('.remote(image=open("FILE", "rb").read())')
