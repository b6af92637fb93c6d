"""The call that a deploy prints, made from the schema of a function, passes that function's own validation."""

# No postponed annotations: hints are given as objects.

import enum
import json
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, Optional, TypedDict
from uuid import UUID

import attrs
import msgspec
import numpy as np
import numpy.typing as npt
import pydantic
import pytest
from pydantic import BaseModel, ConfigDict, Field

from clipper.cli.examples import example
from clipper_runtime.codec import Codec
from clipper_runtime.schema import read_signature


class Image(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    pixels: np.ndarray[tuple[Literal[2], Literal[3]], np.dtype[np.uint8]]
    data: bytes


class Item(BaseModel):
    count: int = Field(alias="theCount", ge=3, multiple_of=5)
    on: date


class Order(BaseModel):
    items: list[Item]
    by_name: dict[str, Item] = {}
    parent: Optional["Order"]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


@dataclass
class Visit:
    at: datetime
    took: timedelta
    seats: int = 1
    notes: list["Visit | None"] | None = None


class Renamed(msgspec.Struct, rename="camel", tag=True):
    starts_at: datetime


class Other(msgspec.Struct, tag=True):
    y: int


class Place(NamedTuple):
    since: time
    label: str = ""


class Options(TypedDict):
    day: date
    until: NotRequired[datetime]


@attrs.define
class Part:
    weight: Decimal


class Colour(enum.Enum):
    RED = "red"


SURE = [
    int, float, bool, str, bytes, None, Decimal, UUID, datetime, date, time, timedelta, Colour, Literal[3, "a"],
    int | None, int | str, datetime | None, list[datetime], dict[str, datetime], tuple[int, datetime], set[str],
    Annotated[datetime, msgspec.Meta(tz=False)], Annotated[datetime, msgspec.Meta(tz=True)],
    Annotated[int, msgspec.Meta(ge=7, lt=9)], Annotated[float, msgspec.Meta(gt=0, lt=0.1)],
    Annotated[str, msgspec.Meta(min_length=30)], Annotated[str, msgspec.Meta(max_length=2)],
    Annotated[int, Field(lt=0)], Annotated[float, Field(multiple_of=0.25, gt=3)], Annotated[Decimal, Field(ge=5)],
    Annotated[date, Field(ge=date(2030, 1, 1))], Annotated[timedelta, Field(gt=timedelta(hours=1))],
    Annotated[datetime, Field(lt=datetime(2020, 1, 1), gt=datetime(2019, 12, 31))],
    pydantic.FutureDate, pydantic.PastDatetime, pydantic.AwareDatetime, pydantic.Json[dict[str, int]],
    pydantic.HttpUrl, pydantic.SecretStr, pydantic.RootModel[int], Item, Order, Cat | Dog,
    Annotated[Cat | Dog, Field(discriminator="kind")], Image, Visit, list[Visit], Renamed, Renamed | Other, Place,
    Options, Part, list[tuple[Part, dict[str, Colour]]],
    np.float32, np.int64, np.bool_, np.datetime64,
    npt.NDArray[np.int8], npt.NDArray[np.bool_], npt.NDArray[np.str_], npt.NDArray[np.datetime64],
    np.ndarray[tuple[int, int], np.dtype[np.float32]],
    np.ndarray[tuple[int, Literal[3]], np.dtype[np.int8]],
]  # fmt: skip
UNSURE = [
    Any, dict, np.ndarray, Annotated[str, msgspec.Meta(pattern=r"^\d{3}$")], Annotated[bytes, Field(min_length=10)],
    dict[int, str],
]  # fmt: skip


def codec_of(hint: Any, *, batched: bool = False) -> Codec:
    def function(x): ...  # type: ignore[no-untyped-def]

    function.__annotations__ = {"x": list[hint] if batched else hint}
    return Codec(read_signature(function, batched=batched, streaming=False), batched=batched)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("number", range(len(SURE)))
def test_the_printed_arguments_are_taken(number: int, batched: bool) -> None:
    codec = codec_of(SURE[number], batched=batched)
    call = example(codec.schema())
    codec.decode("application/json", json.dumps(dict(call.arguments)).encode())


@pytest.mark.parametrize("number", range(len(UNSURE)))
def test_where_the_schema_does_not_tell_the_parameter_is_named(number: int) -> None:
    assert example(codec_of(UNSURE[number]).schema()).unsure == ("x",)


def test_the_schema_says_what_an_array_holds_and_its_shape() -> None:
    schema = codec_of(np.ndarray[tuple[int, Literal[3]], np.dtype[np.int8]]).schema()["parameters"]["properties"]["x"]
    assert schema == {
        "type": "array",
        "items": {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 3},
        "description": "numpy array of int8, as nested arrays",
    }


def test_the_schema_says_that_text_is_a_moment_at_every_depth() -> None:
    schema = codec_of(dict[str, list[Visit]]).schema()["parameters"]
    assert schema["$defs"]["Visit"]["properties"]["at"] == {"type": "string", "format": "date-time"}
    (choice, _) = codec_of(datetime | None).schema()["parameters"]["properties"]["x"]["anyOf"]
    assert choice["format"] == "date-time"
