"""Values of every hint go into a function and out again unchanged, in JSON and MessagePack, batched or not."""

# No postponed annotations: hints are given as objects.

import enum
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, Optional, TypedDict
from uuid import UUID

import attrs
import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

import clipper.codec
from clipper.contract.wire import Item
from clipper_runtime.codec import Codec
from clipper_runtime.schema import read_signature

JSON, MSGPACK = "application/json", "application/msgpack"


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1


class Place(NamedTuple):
    x: int
    label: str = ""


class Options(TypedDict):
    size: int
    label: NotRequired[str]


@dataclass
class Node:
    size: int
    children: list["Node"] = field(default_factory=list)
    blob: bytes = b""


@attrs.define
class Part:
    name: str
    weight: Decimal = Decimal(0)


class Record(msgspec.Struct, rename="camel"):
    user_id: int
    days: dict[str, date] = {}


class Model(BaseModel):
    model_config = ConfigDict(strict=True)
    day: date = Field(alias="theDay")
    blob: bytes = b""
    colour: Colour = Colour.RED
    parts: list["Model"] = []


UserId = NewType("UserId", int)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
INTS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
MOMENTS = st.datetimes(timezones=st.just(UTC))
NODES = st.recursive(
    st.builds(Node, size=INTS, blob=st.binary(max_size=8)),
    lambda nodes: st.builds(Node, size=INTS, children=st.lists(nodes, max_size=2), blob=st.binary(max_size=8)),
    max_leaves=4,
)
MODELS = st.recursive(
    st.builds(Model, theDay=st.dates(), blob=st.binary(max_size=8), colour=st.sampled_from(Colour)),
    lambda models: st.builds(Model, theDay=st.dates(), parts=st.lists(models, max_size=2)),
    max_leaves=3,
)
HINTS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "bool": (bool, st.booleans()),
    "int": (int, INTS),
    "float": (float, FLOATS),
    "text": (str, TEXT),
    "bytes": (bytes, st.binary(max_size=16)),
    "moment": (datetime, MOMENTS),
    "naive moment": (datetime, st.datetimes()),
    "date": (date, st.dates()),
    "time": (time, st.times()),
    "duration": (timedelta, st.timedeltas(timedelta(days=-1000), timedelta(days=1000))),
    "decimal": (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    "uuid": (UUID, st.uuids()),
    "optional": (Optional[int], st.none() | INTS),  # noqa: UP045 - both ways of writing it
    "union": (int | str | None, st.none() | INTS | TEXT),
    "literal": (Literal["a", 1], st.sampled_from(["a", 1])),
    "enum": (Colour, st.sampled_from(Colour)),
    "int enum": (Level, st.sampled_from(Level)),
    "new type": (UserId, INTS),
    "constraint": (Annotated[int, msgspec.Meta(ge=0)], st.integers(0, 2**63 - 1)),
    "constraint of pydantic": (Annotated[float, Field(ge=0)], st.floats(0, allow_infinity=False)),
    "list": (list[float], st.lists(FLOATS, max_size=5)),
    "set": (set[int], st.sets(INTS, max_size=5)),
    "frozen set": (frozenset[str], st.frozensets(TEXT, max_size=5)),
    "tuple": (tuple[int, str], st.tuples(INTS, TEXT)),
    "tuple of any length": (tuple[bool, ...], st.lists(st.booleans(), max_size=5).map(tuple)),
    "dict": (dict[str, list[int]], st.dictionaries(TEXT, st.lists(INTS, max_size=3), max_size=3)),
    "dict of numbers": (dict[int, str], st.dictionaries(INTS, TEXT, max_size=3)),
    "dict of dates": (dict[date, int], st.dictionaries(st.dates(), INTS, max_size=3)),
    "named tuple": (Place, st.builds(Place, x=INTS, label=TEXT)),
    "typed dict": (Options, st.fixed_dictionaries({"size": INTS}, optional={"label": TEXT})),
    "dataclass": (Node, NODES),
    "attrs": (Part, st.builds(Part, name=TEXT, weight=st.decimals(allow_nan=False, allow_infinity=False))),
    "struct": (Record, st.builds(Record, user_id=INTS, days=st.dictionaries(TEXT, st.dates(), max_size=2))),
    "model": (Model, MODELS),
    "models": (dict[str, list[Model] | None], st.dictionaries(TEXT, st.none() | st.lists(MODELS, max_size=2))),
}


def codec_of(hint: Any, *, batched: bool = False) -> Codec:
    def function(x): ...  # type: ignore[no-untyped-def]

    function.__annotations__ = {"x": list[hint], "return": list[hint]} if batched else {"x": hint, "return": hint}
    return Codec(read_signature(function, batched=batched, streaming=False), batched=batched)


def payload_of(codec: Codec, value: Any, form: str) -> bytes:
    """A request with the value: as the SDK sends it, or the JSON that the function itself would answer with."""
    if form == MSGPACK:
        return clipper.codec.encode({"x": value})
    return b'{"x":' + codec.encode(value, JSON)[0] + b"}"


def once_more(hint: Any, value: Any, form: str) -> tuple[Any, Any]:
    """The value as the function gets it, and as it gets its own answer."""
    codec = codec_of(hint)
    (got,) = codec.decode(form, payload_of(codec, value, form))
    body, _ = codec.encode(got, form)
    again = b'{"x":' + body + b"}" if form == JSON else b"\x81\xa1x" + body
    return got, codec.decode(form, again)[0]


@pytest.mark.parametrize("form", [JSON, MSGPACK])
@pytest.mark.parametrize("name", HINTS)
def test_a_value_comes_as_it_was_sent_and_goes_out_as_it_came(name: str, form: str) -> None:
    hint, values = HINTS[name]

    @settings(max_examples=25, deadline=None)
    @given(value=values)
    def check(value: Any) -> None:
        assert once_more(hint, value, form) == (value, value)

    check()


@pytest.mark.parametrize("form", [JSON, MSGPACK])
@pytest.mark.parametrize("name", HINTS)
def test_a_batch_holds_the_values_of_its_invocations(name: str, form: str) -> None:
    hint, values = HINTS[name]
    codec = codec_of(hint, batched=True)

    @settings(max_examples=10, deadline=None)
    @given(several=st.lists(values, min_size=1, max_size=4))
    def check(several: list[Any]) -> None:
        payloads = [memoryview(payload_of(codec, value, form)) for value in several]
        items = [Item(n, "r", form, "*/*", 1.0, len(payload)) for n, payload in enumerate(payloads)]
        assert list(codec.arguments(items, payloads)[0]) == several

    check()


# Arrays

DTYPES = st.sampled_from(["?", "i1", "u2", "<i8", ">i4", "f2", "f4", "f8", "U3", "M8[s]"])


@st.composite
def arrays(draw: st.DrawFn) -> npt.NDArray[Any]:
    dtype = np.dtype(draw(DTYPES))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    entries = {
        "b": st.booleans(),
        "i": st.integers(-100, 100),
        "u": st.integers(0, 200),
        "f": st.floats(-100, 100, width=16),
        "U": st.text("abc", max_size=3),
        "M": st.integers(0, 10**9),
    }[dtype.kind]
    size = math.prod(shape)
    return np.array(draw(st.lists(entries, min_size=size, max_size=size)), dtype=dtype).reshape(shape)


@settings(max_examples=150, deadline=None)
@given(array=arrays())
def test_an_array_is_the_same_in_messagepack_and_has_the_same_values_in_json(array: npt.NDArray[Any]) -> None:
    codec = codec_of(npt.NDArray[array.dtype.type])  # type: ignore[name-defined]  # a type that is computed
    (packed,) = codec.decode(MSGPACK, clipper.codec.encode({"x": array}))
    assert packed.shape == array.shape
    assert np.array_equal(packed, array)
    if array.size or array.ndim == 1:
        (written,) = codec.decode(JSON, b'{"x":' + codec.encode(array, JSON)[0] + b"}") if array.ndim else (array,)
        assert np.array_equal(written, array)


NUMBERS = st.recursive(
    st.lists(st.integers(-5, 5) | st.floats(-5, 5) | st.booleans(), max_size=4), lambda rows: st.lists(rows, max_size=3)
)


def leaves_of(rows: Any) -> list[Any]:
    return [leaf for row in rows for leaf in leaves_of(row)] if isinstance(rows, list) else [rows]


@settings(max_examples=300, deadline=None)
@given(rows=NUMBERS)
def test_booleans_and_numbers_never_share_an_array(rows: Any) -> None:
    decode: Callable[[str, bytes], Any] = codec_of(np.ndarray).decode
    try:
        (array,) = decode(JSON, b'{"x":' + json.dumps(rows).encode() + b"}")
    except Exception:  # noqa: BLE001 - refused, as ragged ones are too
        return
    kinds = {type(leaf) is bool for leaf in leaves_of(rows)}
    assert len(kinds) <= 1
    assert (array.dtype == np.bool_) == (kinds == {True})
