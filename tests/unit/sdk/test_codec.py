from __future__ import annotations

import dataclasses
import datetime
import enum
import uuid
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clipper import codec
from clipper.errors import UnexpectedAnswer

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@dataclasses.dataclass
class Point:
    x: int
    y: float
    tag: bytes


class Colour(enum.Enum):
    RED = "red"


@given(st.dictionaries(st.text(), PLAIN, max_size=4))
def test_plain_values_come_back_as_they_went(arguments: dict[str, Any]) -> None:
    assert codec.decode(codec.encode(arguments)) == arguments


@given(
    hnp.arrays(
        dtype=st.one_of(
            hnp.integer_dtypes(), hnp.floating_dtypes(sizes=(16, 32, 64)), hnp.boolean_dtypes(),
            hnp.unicode_string_dtypes(max_len=4), hnp.datetime64_dtypes(),
        ),
        shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)  # fmt: skip
def test_arrays_come_back_with_their_type_and_shape(array: np.ndarray[Any, Any]) -> None:
    (back,) = codec.decode(codec.encode({"a": [array]}))["a"]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_an_array_of_either_memory_order_comes_back_writable() -> None:
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    back = codec.decode(codec.encode({"a": array[:, ::2]}))["a"]
    assert np.array_equal(back, array[:, ::2])
    back[0, 0] = 5.0


def test_an_array_travels_as_a_npy_file_in_extension_one() -> None:
    packed = msgspec.msgpack.decode(codec.encode({"a": np.zeros(3)}))["a"]
    assert (packed.code, bytes(packed.data[:6])) == (1, b"\x93NUMPY")


def test_numpy_scalars_become_plain_numbers() -> None:
    sent = {"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True), "d": np.str_("x")}
    assert codec.decode(codec.encode(sent)) == {"a": 0.5, "b": 3, "c": True, "d": "x"}


def test_labels_of_any_length_become_lists() -> None:
    labels = ["a", None, 1]
    assert codec.decode(codec.encode({"a": np.array(labels, dtype=object)})) == {"a": labels}
    assert codec.decode(codec.encode({"a": np.array(["a", "bc"], dtype=np.dtypes.StringDType())})) == {"a": ["a", "bc"]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.datetime64("2024-01-02T03:04:05", "ns"), "2024-01-02T03:04:05"),
        (np.datetime64("2024-01-02T03:04:05.000000001"), "2024-01-02T03:04:05.000000001"),
        (np.datetime64("20000-01-02T00:00:00"), "20000-01-02T00:00:00"),
        (np.datetime64("NaT"), None),
        (np.timedelta64(1, "s"), "PT1S"),
        (np.longdouble(1.5), 1.5),
    ],
)
def test_dates_and_durations_of_numpy_are_never_bare_numbers(value: Any, expected: Any) -> None:
    assert codec.decode(codec.encode({"a": value})) == {"a": expected}


def test_dates_and_durations_of_pandas_are_sent_and_tables_are_refused() -> None:
    for value, expected in (
        (pd.Timestamp("2024-01-02T03:04:05"), "2024-01-02T03:04:05"),
        (pd.Timestamp("2024-01-02T03:04:05.000000001"), "2024-01-02T03:04:05.000000001"),
        (pd.Timestamp(0, tz="UTC"), datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)),
        (pd.NaT, None),
        (pd.Timedelta("1s"), "PT1S"),
    ):
        assert codec.decode(codec.encode({"a": value})) == {"a": expected}
    with pytest.raises(TypeError, match="records"):
        codec.encode({"a": pd.DataFrame({"a": [1]})})


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (1 << 70, "more than 64 bits; send it as text"),
        (np.ma.array([1, 2], mask=[0, 1]), "loses its mask"),
        (np.timedelta64(1, "M"), "timedelta64"),
    ],
)
def test_the_refusal_of_an_argument_says_what_to_send(value: Any, part: str) -> None:
    with pytest.raises(TypeError) as caught:
        codec.encode({"bad": value})
    assert part in str(caught.value)


def test_dataclasses_datetimes_and_bytes_have_a_form() -> None:
    moment = datetime.datetime(2024, 5, 1, 12, 30, tzinfo=datetime.UTC)
    sent = {
        "p": Point(1, 2.5, b"\x00"), "m": moment, "d": datetime.date(2024, 5, 1), "u": uuid.UUID(int=5),
        "e": Colour.RED,
    }  # fmt: skip
    back = codec.decode(codec.encode(sent))
    assert back["p"] == {"x": 1, "y": 2.5, "tag": b"\x00"}
    assert back["m"] == moment
    assert (back["d"], back["u"], back["e"]) == ("2024-05-01", str(uuid.UUID(int=5)), "red")


@pytest.mark.parametrize(
    "value",
    [object(), lambda: 1, 1 << 70, np.array([object()]), np.ma.array([1, 2], mask=[0, 1]), 1j, {1.5: {2: object()}}],
)
def test_what_has_no_form_is_refused_by_the_arguments_name(value: object) -> None:
    with pytest.raises(TypeError, match="argument 'bad' cannot be sent"):
        codec.encode({"good": 1, "bad": value})


def test_a_structure_without_end_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(TypeError, match="argument 'a' cannot be sent"):
        codec.encode({"a": endless})


@given(st.binary(max_size=40))
def test_garbage_is_an_unexpected_answer_or_a_value(data: bytes) -> None:
    try:
        codec.decode(data)
    except UnexpectedAnswer:
        pass


@pytest.mark.parametrize(
    "packed", [msgspec.msgpack.Ext(1, b"not a npy"), msgspec.msgpack.Ext(1, b""), msgspec.msgpack.Ext(7, b"x")]
)
def test_a_broken_or_unknown_extension_is_an_unexpected_answer(packed: msgspec.msgpack.Ext) -> None:
    with pytest.raises(UnexpectedAnswer):
        codec.decode(msgspec.msgpack.encode(packed))


def test_an_array_of_pickled_objects_is_not_loaded() -> None:
    import io

    out = io.BytesIO()
    np.lib.format.write_array(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UnexpectedAnswer):
        codec.decode(msgspec.msgpack.encode(msgspec.msgpack.Ext(1, out.getvalue())))


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ({"x": 1, "y": 2.0, "tag": b"a"}, Point, Point(1, 2.0, b"a")),
        ([1, 2], tuple[int, int], (1, 2)),
        ("red", Colour, Colour.RED),
        ("2024-05-01", datetime.date, datetime.date(2024, 5, 1)),
        ([1, 2], list[Point], [1, 2]),  # does not fit: what came is kept
        (5, Any, 5),
        (5, None, 5),
        ("x", "an annotation that is a string", "x"),
        ({"a": 1}, dict, {"a": 1}),
    ],
)
def test_a_value_takes_the_annotated_type_where_it_fits(value: Any, annotation: Any, expected: Any) -> None:
    assert codec.as_type(value, annotation) == expected


def test_an_array_is_kept_where_one_is_annotated() -> None:
    array = np.arange(3)
    assert codec.as_type(array, np.ndarray) is array
    assert codec.as_type([array], list[np.ndarray])[0] is array


@given(st.binary(max_size=20))
def test_broken_json_is_an_unexpected_answer_or_a_value(data: bytes) -> None:
    try:
        codec.decode_json(data)
    except UnexpectedAnswer:
        pass


def test_deep_json_is_an_unexpected_answer() -> None:
    with pytest.raises(UnexpectedAnswer):
        codec.decode_json(b"[" * 100_000)


def test_models_of_pydantic_are_sent_under_their_aliases_and_come_back_as_annotated() -> None:
    class User(pydantic.BaseModel):
        user_id: int = pydantic.Field(alias="userId")
        url: pydantic.AnyUrl
        data: bytes = b""

    user = User(userId=1, url="http://a.b/", data=b"\xff")
    sent = codec.decode(codec.encode({"user": user}))["user"]
    assert sent == {"userId": 1, "url": "http://a.b/", "data": b"\xff"}
    assert codec.as_type([sent], list[User]) == [user]
    assert codec.as_type({"other": 1}, User) == {"other": 1}
