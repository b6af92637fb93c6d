"""Models, constraints and dataclasses of pydantic: JSON means what pydantic says, in and out."""

# No postponed annotations: the models are local to functions, where hints that are text cannot be looked up.

import enum
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal
from typing import TypedDict as StandardTypedDict

import msgspec
import numpy as np
import pydantic
import pytest
from pydantic import BaseModel, ConfigDict
from pydantic import Field as PydField
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from clipper.contract.wire import Item, Status
from clipper_runtime.codec import Codec, Rejected
from clipper_runtime.hint_checks import SchemaError
from clipper_runtime.schema import read_signature
from tests.unit.runtime.test_codec import npy, rejection, takes

JSON, MSGPACK = "application/json", "application/msgpack"


class Colour(enum.Enum):
    RED = "red"


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    day: date
    colour: Colour
    count: int = 0


class Blob(BaseModel):
    model_config = ConfigDict(val_json_bytes="base64", ser_json_bytes="base64")
    data: bytes


class Aliased(BaseModel):
    user_id: int = PydField(alias="userId")


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int = 0


class Numbers(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    array: np.ndarray
    any: Any = None


class Loose(BaseModel):
    x: float = 0.0
    any: Any = None


class Texts(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")
    x: float
    y: int | None = None


@pydantic.dataclasses.dataclass
class Even:
    n: int

    @pydantic.field_validator("n")
    @classmethod
    def even(cls, n: int) -> int:
        if n % 2:
            raise ValueError("must be even")
        return n


@pydantic.dataclasses.dataclass
class Renamed:
    user_id: int = PydField(alias="userId")


@dataclass
class Plain:
    n: Annotated[int, PydField(ge=0)]
    data: bytes = b""


class Table(TypedDict):
    n: Annotated[int, PydField(ge=0)]


def returns(kind: Any) -> Codec:
    def function(): ...

    function.__annotations__ = {"return": kind}
    return Codec(read_signature(function, batched=False, streaming=False), batched=False)


def decoded(kind: Any, value: Any, content_type: str = JSON) -> Any:
    encode = msgspec.json.encode if content_type == JSON else msgspec.msgpack.encode
    (got,) = takes(kind).decode(content_type, encode({"x": value}))
    return got


# Requests


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
@pytest.mark.parametrize(
    ("kind", "good", "bad", "part"),
    [
        (Annotated[float, PydField(ge=0)], 1.5, -1.0, "greater than or equal to 0 - at `$.x`"),
        (Annotated[float, PydField(ge=0)], 1.5, "1.5", "valid number - at `$.x`"),
        (list[Annotated[str, PydField(max_length=2)]], ["ab"], ["ab", "abc"], "at `$.x[1]`"),
        (Annotated[int, PydField(gt=0)] | None, None, 0, "greater than 0"),
        (pydantic.conint(ge=3), 3, 2, "greater than or equal to 3"),
        (pydantic.PositiveInt, 1, 0, "greater than 0"),
        (Even, {"n": 2}, {"n": 3}, "must be even - at `$.x.n`"),
        (list[Even], [{"n": 2}], [{"n": 3}], "must be even - at `$.x[0].n`"),
        (Plain, {"n": 1}, {"n": -1}, "at `$.x.n`"),
        (Plain, {"n": 1}, {"n": 1, "z": 1}, "at `$.x.z`"),
        (Plain, {"n": 1}, {"n": "1"}, "at `$.x.n`"),
        (Table, {"n": 1}, {"n": -1}, "at `$.x.n`"),
        (Strict, {"day": "2024-01-02", "colour": "red"}, {"day": "2024-01-02", "colour": "red", "count": "1"}, "count"),
        (Cat | Dog, {"kind": "dog", "name": "a"}, {"kind": "cow"}, "at `$.x"),
        (Annotated[Cat | Dog, PydField(discriminator="kind")], {"kind": "cat", "lives": 9}, {"kind": "cow"}, "cow"),
        (Aliased, {"userId": 1}, {"user_id": 1}, "Field required - at `$.x.userId`"),
        (dict[str, Closed], {"k": {"a": 1}}, {"k": {"b": 1}}, "at `$.x.k.b`"),
        (tuple[int, Closed], [1, {"a": 1}], [1, {"b": 1}], "at `$.x[1].b`"),
        (pydantic.EmailStr if "email_validator" in sys.modules else pydantic.AnyUrl, "http://a.b", "nope", "URL"),
        (pydantic.RootModel[list[int]], [1], ["a"], "at `$.x[0]`"),
    ],
)
def test_a_hint_of_pydantic_holds_and_its_refusal_names_the_path(
    kind: Any, good: Any, bad: Any, part: str, content_type: str
) -> None:
    decoded(kind, good, content_type)
    encode = msgspec.json.encode if content_type == JSON else msgspec.msgpack.encode
    status, message = rejection(takes(kind), encode({"x": bad}), content_type)
    assert (status, part in message) == (Status.INVALID, True), message


def test_strict_models_take_dates_and_enums_of_json_and_of_the_sdk() -> None:
    expected = Strict(day=date(2024, 1, 2), colour=Colour.RED)
    assert decoded(Strict, {"day": "2024-01-02", "colour": "red"}) == expected
    assert decoded(Strict, {"day": date(2024, 1, 2), "colour": "red"}, MSGPACK) == expected


def test_bytes_are_base64_where_the_model_says_so_and_beside_models() -> None:
    assert decoded(Blob, {"data": "/w=="}).data == b"\xff"
    assert decoded(Plain, {"n": 1, "data": "/w=="}).data == b"\xff"
    assert decoded(Blob, {"data": b"\xff"}, MSGPACK).data == b"\xff"
    assert json.loads(takes(int).encode(Blob(data=b"\xff"), JSON)[0]) == {"data": "_w=="}
    assert msgspec.msgpack.decode(takes(int).encode(Blob(data=b"\xff"), MSGPACK)[0]) == {"data": b"\xff"}


def test_bytes_that_pydantic_decodes_itself_are_decoded_once() -> None:
    assert decoded(pydantic.Base64Bytes, "aGk=") == b"hi"


def test_a_whole_number_with_a_fraction_of_zero_is_an_integer_under_a_constraint_too() -> None:
    (got,) = takes(Annotated[int, PydField(ge=0)]).decode(JSON, b'{"x": 1.0}')
    assert (got, type(got)) == (1, int)
    assert rejection(takes(Annotated[int, PydField(ge=0)]), b'{"x": 1.5}')[0] is Status.INVALID


@pytest.mark.parametrize("kind", [type[Closed], Callable[[Closed], int], list[Callable[[], int]]])
def test_a_class_or_a_function_as_an_argument_is_refused_at_deploy(kind: Any) -> None:
    with pytest.raises(SchemaError, match=r"parameter 'x'.*cannot be built"):
        takes(kind)


def test_json_keeps_all_digits_of_a_decimal() -> None:
    (got,) = takes(Annotated[Decimal, PydField(gt=0)]).decode(JSON, b'{"x": "0.12345678901234567890"}')
    assert got == Decimal("0.12345678901234567890")


@pytest.mark.parametrize("payload", [b'{"x": {"x": NaN}}', b'{"x": {"x": 1e999}}', b'{"x": {"x": "\xff"}}', b'{"x": {'])
def test_what_json_cannot_say_is_refused_for_a_model_as_for_a_float(payload: bytes) -> None:
    assert rejection(takes(Loose), payload)[0] in (Status.MALFORMED, Status.INVALID)


def test_nan_goes_through_messagepack_into_a_model() -> None:
    assert math.isnan(decoded(Loose, {"x": math.nan}, MSGPACK).x)


def test_an_optional_argument_keeps_its_default_object() -> None:
    default = Closed(a=7)

    def function(x: Closed = default, y: Annotated[int, PydField(ge=0)] = 3): ...

    codec = Codec(read_signature(function, batched=False, streaming=False), batched=False)
    assert codec.decode(JSON, b"{}") == (default, 3)
    assert codec.decode(JSON, b'{"y": 4}')[1] == 4


def test_a_batch_of_models_is_decoded_one_by_one() -> None:
    def function(x: list[Closed]) -> list[int]: ...

    codec = Codec(read_signature(function, batched=True, streaming=False), batched=True)
    payloads = [memoryview(b'{"x": {"a": 1}}'), memoryview(b'{"x": {"a": 2}}')]
    items = [Item(n, "r", JSON, "*/*", 1.0, len(payload)) for n, payload in enumerate(payloads)]
    assert [one.a for one in codec.arguments(items, payloads)[0]] == [1, 2]


def test_an_array_of_a_model_comes_by_messagepack_and_json() -> None:
    packed = msgspec.msgpack.encode({"x": {"array": msgspec.msgpack.Ext(1, npy(np.arange(3)))}})
    assert takes(Numbers).decode(MSGPACK, packed)[0].array.tolist() == [0, 1, 2]
    assert decoded(Numbers, {"array": [[1], [2]]}).array.tolist() == [[1], [2]]
    assert "Expected `array`, got `str` - at `$.x.array`" in rejection(takes(Numbers), b'{"x": {"array": "a"}}')[1]


def test_models_beside_arrays_in_one_hint_are_validated_too() -> None:
    kind = tuple[Closed, np.ndarray]
    model, array = decoded(kind, [{"a": 1}, [1.5]])
    assert (model, array.tolist()) == (Closed(a=1), [1.5])
    assert "(at b) - at `$.x[0]`" in rejection(takes(kind), b'{"x": [{"b": 1}, [1]]}')[1]


def test_models_in_a_class_that_pydantic_does_not_know_are_validated_too() -> None:
    class Holder(msgspec.Struct):
        model: Closed

    class Item(StandardTypedDict):
        model: Closed

    for kind in (Holder, Item):
        decoded(kind, {"model": {"a": 1}})
        assert "at `$.x.model`" in rejection(takes(kind), b'{"x": {"model": {"b": 1}}}')[1]


@pytest.mark.parametrize("kind", [tuple[Even, np.ndarray], msgspec.defstruct("Holder", [("even", Even)])])
def test_a_dataclass_of_pydantic_whose_validators_would_not_run_is_refused_at_deploy(kind: Any) -> None:
    with pytest.raises(SchemaError, match="parameter 'x': the validators of Even"):
        takes(kind)


def test_a_constraint_of_pydantic_on_an_array_is_refused_at_deploy() -> None:
    with pytest.raises(SchemaError, match=r"parameter 'x'.*would not be enforced"):
        takes(Annotated[np.ndarray, PydField(min_length=1)])


def test_a_field_of_pydantic_as_the_default_of_a_parameter_is_refused() -> None:
    def function(x: int = PydField(default=3, ge=0)): ...

    with pytest.raises(SchemaError, match="parameter 'x' has FieldInfo as its default"):
        read_signature(function, batched=False, streaming=False)


def test_the_schema_of_a_model_stands_alone_under_the_names_of_requests() -> None:
    class Outer(BaseModel):
        inner: Aliased

    schema = takes(Outer).schema()["parameters"]
    assert schema["properties"]["x"]["properties"]["inner"] == {"$ref": "#/$defs/Aliased"}
    assert schema["$defs"]["Aliased"]["properties"].keys() == {"userId"}
    assert schema["required"] == ["x"]


# Answers


@pytest.mark.parametrize("accept", [JSON, MSGPACK])
def test_answers_use_the_aliases_that_the_schema_publishes(accept: str) -> None:
    for kind, value in ((Aliased, Aliased(userId=1)), (Renamed, Renamed(userId=1))):
        codec = returns(kind)
        assert codec.schema()["returns"]["properties"].keys() == {"userId"}
        body, _ = codec.encode(value, accept)
        assert (json.loads(body) if accept == JSON else msgspec.msgpack.decode(body)) == {"userId": 1}
        together = codec.encode_batch([value, value], accept)
        assert together == (None if accept == MSGPACK else ([b'{"userId":1}'] * 2, JSON))
    body, _ = returns(list[Renamed]).encode([Renamed(userId=1)], accept)
    assert (json.loads(body) if accept == JSON else msgspec.msgpack.decode(body)) == [{"userId": 1}]


def test_an_array_in_a_model_has_the_form_that_it_has_alone() -> None:
    value = Numbers(array=np.array([1.5]), any=[np.int64(3), np.float32(0.5)])
    assert json.loads(takes(int).encode(value, JSON)[0]) == {"array": [1.5], "any": [3, 0.5]}
    packed = msgspec.msgpack.decode(takes(int).encode(value, MSGPACK)[0])
    assert (packed["array"].code, packed["any"]) == (1, [3, 0.5])


@pytest.mark.parametrize("value", [Loose(x=math.nan), Loose(any=math.inf), Loose(any=[{"deep": math.nan}])])
def test_nan_in_a_model_is_never_silently_null(value: Any) -> None:
    for one in (value, {"in": [value]}):
        with pytest.raises(Rejected, match="JSON cannot express"):
            takes(int).encode(one, JSON)
    assert b"any" in takes(int).encode(value, MSGPACK)[0]


def test_a_model_that_says_how_it_writes_nan_is_written_so() -> None:
    assert json.loads(takes(int).encode(Texts(x=math.nan), JSON)[0]) == {"x": "NaN", "y": None}


def test_secrets_and_urls_have_the_json_form_in_messagepack() -> None:
    class Account(BaseModel):
        key: pydantic.SecretStr
        url: pydantic.AnyUrl

    value = Account(key="k", url="http://a.b/")
    expected = {"key": "**********", "url": "http://a.b/"}
    assert json.loads(takes(int).encode(value, JSON)[0]) == expected
    assert msgspec.msgpack.decode(takes(int).encode(value, MSGPACK)[0]) == expected
