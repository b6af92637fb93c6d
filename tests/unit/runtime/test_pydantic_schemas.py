"""What pydantic cannot do itself: arrays of models from JSON, and bytes as base64 without a setting."""

# No postponed annotations: the models are local to functions, where hints that are text cannot be looked up.

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pydantic
import pytest
from pydantic import BaseModel, ConfigDict

import clipper.codec
from clipper_runtime.hint_checks import SchemaError
from tests.unit.runtime.test_codec import codec_of, rejection, takes

JSON, MSGPACK = "application/json", "application/msgpack"
T = TypeVar("T")
BYTES = b"\xff\xfehi"
TEXT = base64.b64encode(BYTES).decode()


class Image(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    pixels: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_] | None = None
    layers: list[npt.NDArray[np.int64]] = []
    scale: np.float32 = np.float32(1)


class Blob(BaseModel):
    data: bytes


class Box(BaseModel):
    blob: Blob
    many: dict[str, list[bytes]] = {}
    boxes: list["Box"] = []
    any: Any = None


@pydantic.dataclasses.dataclass
class Packed:
    data: bytes


@dataclass
class Plain:
    blob: Blob
    data: bytes


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    day: date
    data: bytes


class Wrapper(BaseModel, Generic[T]):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    value: T


def back_and_forth(kind: Any) -> Callable[[Any, str], Any]:
    """Decodes a value and encodes what came of it, in one form."""

    def function(x): ...

    function.__annotations__ = {"x": kind, "return": kind}
    codec = codec_of(function)

    def both(value: Any, form: str) -> Any:
        payload = json.dumps({"x": value}).encode() if form == JSON else clipper.codec.encode({"x": value})
        (got,) = codec.decode(form, payload)
        body, _ = codec.encode(got, form)
        return json.loads(body) if form == JSON else clipper.codec.decode(body)

    return both


# Arrays


def test_arrays_of_a_model_fit_their_hints() -> None:
    value = {"pixels": [[1, 2]], "mask": [True], "layers": [[1.0], [2]], "scale": 2.5}
    (image,) = takes(Image).decode(JSON, json.dumps({"x": value}).encode())
    assert (image.pixels.dtype, image.mask.dtype, image.layers[0].dtype) == (np.float32, np.bool_, np.int64)
    assert (image.scale.dtype, image.scale) == (np.float32, 2.5)
    (packed,) = takes(Image).decode(MSGPACK, clipper.codec.encode({"x": {"pixels": np.arange(3.0)}}))
    assert (packed.pixels.dtype, packed.pixels.tolist()) == (np.float32, [0, 1, 2])


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ({"pixels": ["a"]}, "got text - at `$.x.pixels`"),
        ({"pixels": [1], "layers": [[1], [1.5]]}, "floating-point numbers - at `$.x.layers[1]`"),
        ({"pixels": [[1], [1, 2]]}, "ragged"),
        ({"pixels": [True, 2]}, "of one kind"),
        ({"pixels": {}}, "Expected `array`, got `object`"),
    ],
)
def test_an_array_of_a_model_that_does_not_fit_is_refused(value: Any, part: str) -> None:
    assert part in rejection(takes(Image), json.dumps({"x": value}).encode())[1]


def test_an_array_of_a_model_goes_out_and_comes_back() -> None:
    assert back_and_forth(Image)({"pixels": [[1.5]]}, JSON)["pixels"] == [[1.5]]
    out = back_and_forth(Image)({"pixels": np.ones(2)}, MSGPACK)["pixels"]
    assert (out.dtype, out.tolist()) == (np.float32, [1, 1])


def test_an_array_of_a_generic_model_fits_its_parameter() -> None:
    (got,) = takes(Wrapper[npt.NDArray[np.int8]]).decode(JSON, b'{"x": {"value": [1]}}')
    assert got.value.dtype == np.int8


def test_the_schema_of_a_model_says_that_an_array_is_one() -> None:
    properties = takes(Image).schema()["parameters"]["properties"]["x"]["properties"]
    assert properties["pixels"] == {
        "type": "array",
        "description": "numpy array of float32, as nested arrays",
        "title": "Pixels",
    }


def test_arrays_of_two_types_in_one_field_are_refused_at_deploy() -> None:
    class Two(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        a: npt.NDArray[np.float32] | npt.NDArray[np.int64]

    with pytest.raises(SchemaError, match=r"parameter 'x'.*cannot be told apart"):
        takes(Two)


def test_a_field_that_no_request_can_fill_is_refused_at_deploy() -> None:
    class Own:
        pass

    class Holder(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        own: Own

    with pytest.raises(SchemaError, match=r"parameter 'x': the field 'own' of .*Holder"):
        takes(Holder)


def test_a_field_that_no_request_can_fill_may_have_a_default() -> None:
    class Own:
        pass

    class Holder(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        n: int = 0
        own: Own | None = None

    assert takes(Holder).decode(JSON, b'{"x": {"n": 1}}')[0].n == 1


# Bytes


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Blob, {"data": TEXT}),
        (Box, {"blob": {"data": TEXT}, "many": {"a": [TEXT]}, "boxes": [], "any": None}),
        (list[Blob], [{"data": TEXT}]),
        (Blob | None, {"data": TEXT}),
        (Packed, {"data": TEXT}),
        (Plain, {"blob": {"data": TEXT}, "data": TEXT}),
        (pydantic.RootModel[bytes], TEXT),
        (Wrapper[bytes], {"value": TEXT}),
    ],
)
def test_bytes_are_base64_in_json_in_and_out(kind: Any, value: Any) -> None:
    assert back_and_forth(kind)(value, JSON) == value


def test_bytes_are_bytes_in_messagepack() -> None:
    assert back_and_forth(Blob)({"data": BYTES}, MSGPACK) == {"data": BYTES}
    assert back_and_forth(Blob)(Blob(data=BYTES), MSGPACK) == {"data": BYTES}
    assert back_and_forth(Box)({"blob": {"data": BYTES}, "any": BYTES}, MSGPACK)["any"] == BYTES


def test_bytes_of_any_field_are_base64_too() -> None:
    box = Box(blob=Blob(data=b""), any={"a": [BYTES, (BYTES, 1)]})
    assert json.loads(takes(int).encode(box, JSON)[0])["any"] == {"a": [TEXT, [TEXT, 1]]}


def test_text_that_is_no_base64_is_refused_with_its_place() -> None:
    assert rejection(takes(Blob), b'{"x": {"data": "a!"}}')[1] == "Value error, invalid base64 - at `$.x.data`"


@pytest.mark.parametrize("mode", ["parameters", "returns"])
def test_the_schema_says_that_bytes_are_base64(mode: str) -> None:
    def function(x): ...

    function.__annotations__ = {"x": Blob, "return": Blob}
    schema = codec_of(function).schema()[mode]
    of_blob = schema["properties"]["x"] if mode == "parameters" else schema
    assert of_blob["properties"]["data"] == {"type": "string", "contentEncoding": "base64", "title": "Data"}


@pytest.mark.parametrize(("setting", "text"), [("utf8", "hi"), ("hex", "6869")])
def test_a_model_that_says_how_its_bytes_are_written_keeps_its_way(setting: Any, text: str) -> None:
    class Own(BaseModel):
        model_config = ConfigDict(val_json_bytes=setting, ser_json_bytes="base64" if setting == "hex" else setting)
        data: bytes

    assert takes(Own).decode(JSON, json.dumps({"x": {"data": text}}).encode())[0].data == b"hi"


def test_a_type_that_decodes_base64_itself_is_decoded_once() -> None:
    class Own(BaseModel):
        data: pydantic.Base64Bytes
        more: bytes

    (got,) = takes(Own).decode(JSON, json.dumps({"x": {"data": TEXT, "more": TEXT}}).encode())
    assert (got.data, got.more) == (BYTES, BYTES)


def test_a_class_of_the_user_is_not_changed() -> None:
    takes(Box)
    takes(int).encode(Box(blob=Blob(data=b"")), JSON)
    assert Blob.model_validate_json('{"data": "hi"}').data == b"hi"
    assert Blob(data=b"hi").model_dump_json() == '{"data":"hi"}'


# What stands beside JSON


@pytest.mark.parametrize("day", ["2024-01-02", date(2024, 1, 2)])
def test_a_strict_model_takes_dates_beside_bytes_in_messagepack(day: Any) -> None:
    (got,) = takes(Strict).decode(MSGPACK, msgspec.msgpack.encode({"x": {"day": day, "data": BYTES}}))
    assert got == Strict(day=date(2024, 1, 2), data=BYTES)


def test_bytes_where_a_strict_model_has_text_are_refused() -> None:
    class Text(BaseModel):
        model_config = ConfigDict(strict=True)
        day: date
        text: str

    payload = msgspec.msgpack.encode({"x": {"day": "2024-01-02", "text": b"a"}})
    assert "valid string - at `$.x.text`" in rejection(takes(Text), payload, MSGPACK)[1]


def test_the_place_of_an_error_beside_bytes_is_told() -> None:
    payload = msgspec.msgpack.encode({"x": {"day": "soon", "data": BYTES}})
    assert "at `$.x.day`" in rejection(takes(Strict), payload, MSGPACK)[1]


def test_what_looks_like_a_value_beside_json_is_text() -> None:
    class Text(BaseModel):
        data: bytes
        text: str

    (got,) = takes(Text).decode(MSGPACK, msgspec.msgpack.encode({"x": {"data": BYTES, "text": "\x000"}}))
    assert got.text == "\x000"
    assert "invalid base64" in rejection(takes(Blob), json.dumps({"x": {"data": "\x000"}}).encode())[1]


# Sent by the SDK


def test_a_model_is_sent_under_the_names_by_which_it_is_validated() -> None:
    class Renamed(BaseModel):
        x: int = pydantic.Field(validation_alias="inX", serialization_alias="outX")
        y: int = pydantic.Field(1, validation_alias=pydantic.AliasChoices("inY", "why"))

    both = back_and_forth(Renamed)
    assert both(Renamed(inX=3), MSGPACK) == {"outX": 3, "y": 1}


def test_a_secret_of_a_model_is_sent_as_it_is() -> None:
    class Login(BaseModel):
        password: pydantic.SecretStr

    (got,) = takes(Login).decode(MSGPACK, clipper.codec.encode({"x": Login(password="abc")}))  # type: ignore[arg-type]
    assert got.password.get_secret_value() == "abc"


def test_paths_of_a_model_are_text_in_every_form() -> None:
    class File(BaseModel):
        path: Path

    for form in (JSON, MSGPACK):
        assert back_and_forth(File)({"path": "a/b"}, form) == {"path": "a/b"}
    assert back_and_forth(File)(File(path=Path("a/b")), MSGPACK) == {"path": "a/b"}
