"""Whatever a hint declares holds, or the function is refused at deploy by the parameter's name."""

from __future__ import annotations

import dataclasses
from dataclasses import InitVar, dataclass, field
from datetime import datetime
from typing import Annotated, Any, Generic, NamedTuple, NotRequired, TypedDict, TypeVar

import attrs
import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from clipper.contract.wire import Status
from clipper_runtime.codec import Rejected
from clipper_runtime.hint_checks import SchemaError
from tests.unit.runtime.test_codec import codec_of, rejection, takes

JSON, MSGPACK, BYTES = "application/json", "application/msgpack", "application/octet-stream"
T = TypeVar("T")


def refusal(kind: Any, *, batched: bool = False) -> str:
    def function(x): ...

    function.__annotations__ = {"x": kind}
    with pytest.raises(SchemaError) as caught:
        codec_of(function, batched=batched)
    return str(caught.value)


class Marker:
    """Metadata that means something to another library."""


@dataclass
class OwnInit:
    x: int

    def __init__(self, x: int) -> None:
        self.x = 10 * x


@dataclass
class OwnNew:
    x: int

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return super().__new__(cls)


@dataclass
class Computed:
    x: int
    y: int = field(init=False, default=0)


@dataclass
class WithInitVar:
    x: int
    y: InitVar[int]


@dataclass
class Inherited(OwnInit):
    y: int = 0

    def __init__(self) -> None: ...


class Pair(NamedTuple):
    a: int


class OwnPair(Pair):
    def __new__(cls, a: int) -> Any:
        return super().__new__(cls, 2 * a)


@dataclass
class Holder:
    inner: OwnInit


@pytest.mark.parametrize("wrap", [lambda kind: kind, lambda kind: list[kind], lambda kind: dict[str, kind | None]])
@pytest.mark.parametrize(
    ("kind", "part"),
    [
        (Annotated[int, Marker()], "would not be enforced; write a constraint as msgspec.Meta(ge=0)"),
        (OwnInit, "OwnInit has an __init__ of its own"),
        (Inherited, "Inherited has an __init__ of its own"),
        (OwnNew, "OwnNew has a __new__ of its own"),
        (Computed, "computes its field 'y'"),
        (WithInitVar, "InitVar"),
        (OwnPair, "OwnPair has a __new__ of its own"),
        (Holder, "OwnInit has an __init__ of its own"),
    ],
)
def test_a_rule_that_nobody_would_follow_is_refused_by_the_parameters_name(kind: Any, part: str, wrap: Any) -> None:
    message = refusal(wrap(kind))
    assert (part in message, message.startswith("parameter 'x'")) == (True, True), message


def test_a_constraint_on_the_list_of_a_batch_is_refused() -> None:
    assert "list[Annotated" in refusal(Annotated[list[int], msgspec.Meta(min_length=1)], batched=True)


@pytest.mark.parametrize("default", [field(default=1), msgspec.field(default=1)])
def test_a_description_of_a_field_as_the_default_of_a_parameter_is_refused(default: Any) -> None:
    def function(x: int = default): ...

    with pytest.raises(SchemaError, match="parameter 'x' has Field as its default"):
        codec_of(function)


def test_words_and_constraints_of_msgspec_in_annotated_are_taken() -> None:
    kind = Annotated[int, "seconds", msgspec.Meta(ge=0)]
    assert takes(kind).decode(JSON, b'{"x": 1}') == (1,)
    assert rejection(takes(kind), b'{"x": -1}')[0] is Status.INVALID


def test_constraints_hold_for_a_raw_body_too() -> None:
    short = takes(Annotated[bytes, msgspec.Meta(max_length=2)])
    assert short.decode(BYTES, b"ab") == (b"ab",)
    status, message = rejection(short, b"abc", BYTES)
    assert (status, message.endswith("at `$.x`")) == (Status.INVALID, True)


# Classes of attrs


def attrs_classes() -> dict[str, Any]:
    @attrs.define
    class Checked:
        x: int = attrs.field(validator=attrs.validators.ge(0))

    @attrs.define
    class Converted:
        x: int = attrs.field(converter=int)

    @attrs.define
    class Private:
        _x: int

    @attrs.define
    class Computed:
        x: int = attrs.field(init=False, default=1)

    @attrs.define(init=False)
    class OwnInit:
        x: int

        def __init__(self, x: int) -> None:
            self.__attrs_init__(2 * x)

    return {cls.__name__: cls for cls in (Checked, Converted, Private, Computed, OwnInit)}


def test_validators_of_attrs_run_and_what_decoding_would_skip_is_refused() -> None:
    classes = attrs_classes()
    assert rejection(takes(classes["Checked"]), b'{"x": {"x": -1}}')[0] is Status.INVALID
    assert takes(classes["Checked"]).decode(JSON, b'{"x": {"x": 1}}')[0].x == 1
    assert "converter for 'x'" in refusal(classes["Converted"])
    assert "'_x' 'x'" in refusal(classes["Private"])
    assert "init=False" in refusal(classes["Computed"])
    assert "__init__ of its own" in refusal(list[classes["OwnInit"]])


# Unknown keys of nested objects


@dataclass
class Point:
    x: int
    y: int = 0


@dataclass
class Tree:
    value: int
    children: list[Tree] = field(default_factory=list)


class Options(TypedDict):
    size: int
    point: NotRequired[Point]


class Open(msgspec.Struct):
    point: Point


class Left(msgspec.Struct, tag="left"):
    a: int


class Right(msgspec.Struct, tag="right"):
    b: Point


class Corner(NamedTuple):
    point: Point


@dataclass
class Box(Generic[T]):
    content: T


CLOSED = [
    (Point, {"x": 1}, {"x": 1, "z": 2}, "$.x.z"),
    (Point | None, {"x": 1}, {"x": 1, "z": 2}, "$.x.z"),
    (list[Point] | str, [{"x": 1}], [{"x": 1, "z": 2}], "$.x[0].z"),
    (dict[str, Point], {"k": {"x": 1}}, {"k": {"x": 1, "z": 2}}, "$.x[...].z"),
    (tuple[int, Point], [1, {"x": 1}], [1, {"x": 1, "z": 2}], "$.x[1].z"),
    (Tree, {"value": 1}, {"value": 1, "children": [{"value": 2, "z": 3}]}, "$.x.children[0].z"),
    (Options, {"size": 1}, {"size": 1, "point": {"x": 1, "z": 2}}, "$.x.point.z"),
    (Open, {"point": {"x": 1}}, {"point": {"x": 1}, "z": 2}, "$.x.z"),
    (Left | Right, {"type": "right", "b": {"x": 1}}, {"type": "right", "b": {"x": 1, "z": 2}}, "$.x.b.z"),
    (Corner, [{"x": 1}], [{"x": 1, "z": 2}], "$.x[0].z"),
    (Box[Point], {"content": {"x": 1}}, {"content": {"x": 1, "z": 2}}, "$.x.content.z"),
]


@pytest.mark.parametrize(("kind", "good", "bad", "path"), CLOSED)
def test_an_unknown_key_of_a_nested_object_is_refused_as_at_the_top(kind: Any, good: Any, bad: Any, path: str) -> None:
    codec = takes(kind)
    for content_type, encode in ((JSON, msgspec.json.encode), (MSGPACK, msgspec.msgpack.encode)):
        assert len(codec.decode(content_type, encode({"x": good}))) == 1
        status, message = rejection(codec, encode({"x": bad}), content_type)
        assert (status, message) == (Status.INVALID, f"unknown key - at `{path}`")


def test_the_schema_says_that_nested_objects_have_no_other_keys() -> None:
    schema = takes(Tree).schema()["parameters"]
    assert schema["$defs"]["Tree"]["additionalProperties"] is False


def test_arrays_beside_objects_are_decoded_once_and_well() -> None:
    @dataclass
    class Image:
        pixels: npt.NDArray[np.uint8]
        taken: datetime

    globals()["Image"] = Image
    codec = takes(list[Image])
    (images,) = codec.decode(JSON, b'{"x": [{"pixels": [[1]], "taken": "2024-01-01T00:00:00"}]}')
    assert (images[0].pixels.tolist(), images[0].taken) == ([[1]], datetime(2024, 1, 1))
    assert "unknown key" in rejection(codec, b'{"x": [{"pixels": [[1]], "taken": "2024-01-01T00:00:00", "z": 1}]}')[1]


def test_a_batch_is_checked_too() -> None:
    def function(x: list[Point]) -> list[int]: ...

    codec = codec_of(function, batched=True)
    with pytest.raises(Rejected, match="unknown key"):
        codec.decode(JSON, b'{"x": {"x": 1, "z": 2}}')
    assert dataclasses.astuple(codec.decode(JSON, b'{"x": {"x": 1}}')[0]) == (1, 0)
