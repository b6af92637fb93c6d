"""Arrays in and out: the hint holds, and nothing changes its meaning on the way."""

from __future__ import annotations

import io
import json
import tracemalloc
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from clipper.contract.wire import Status
from clipper_runtime.array_hints import ArrayRule, coerce
from clipper_runtime.codec import Rejected
from clipper_runtime.hint_checks import SchemaError
from tests.unit.runtime.test_codec import npy, rejection, takes

JSON, MSGPACK, NPY = "application/json", "application/msgpack", "application/x-npy"
NS = "datetime64[ns]"


def accepted(kind: Any, value: Any) -> Any:
    (got,) = takes(kind).decode(JSON, json.dumps({"x": value}).encode())
    return got


def refusal(value: Any, accept: str) -> str:
    with pytest.raises(Rejected) as caught:
        takes(int).encode(value, accept)
    assert caught.value.status is Status.UNENCODABLE
    return caught.value.message


# Hints


@pytest.mark.parametrize(
    ("kind", "value", "dtype"),
    [
        (npt.NDArray[np.floating], [1, 2], np.float64),
        (npt.NDArray[np.floating[Any]], [1.5], np.float64),
        (npt.NDArray[np.integer], [1], np.int64),
        (npt.NDArray[np.number], [1], np.int64),
        (npt.NDArray[np.float32 | np.int8], [1.5], np.float32),
        (npt.NDArray[np.int8 | np.float32], [1.5], np.float32),
        (npt.NDArray[float], [1], np.float64),
        (npt.NDArray[Any], ["a"], np.dtype("U1")),
        (np.ndarray[tuple[int, int], np.dtype[np.float32]], [[1]], np.float32),
        (np.ndarray[tuple[int, Literal[2]], np.dtype[np.float32]], [[1, 2]], np.float32),
        (np.ndarray[Any, np.dtype[np.float32]], [[1]], np.float32),
        (npt.NDArray[np.object_], ["a", None, 1], object),
        (npt.NDArray[np.datetime64], ["2024-01-01"], np.dtype("M8[D]")),
    ],
)
def test_an_array_fits_its_hint(kind: Any, value: Any, dtype: Any) -> None:
    assert accepted(kind, value).dtype == dtype


@pytest.mark.parametrize(
    ("kind", "value", "part"),
    [
        (npt.NDArray[np.integer], [1.5], "floating-point"),
        (npt.NDArray[np.floating], ["a"], "text"),
        (npt.NDArray[np.int8 | np.uint8], [300], "300 is outside"),
        (np.ndarray[tuple[int, int], np.dtype[np.float32]], [1], "shape (any, any), got (1,)"),
        (np.ndarray[tuple[int, Literal[2]], np.dtype[np.float32]], [[1, 2, 3]], "shape (any, 2), got (1, 3)"),
        (np.ndarray, [1, "a"], "one kind"),
        (np.ndarray, [2**70], "at most 64 bits"),
        (np.ndarray, [2**63, -1], "more than 64 bits"),
        (np.ndarray, [2**60 + 1, 0.5], "beyond 2**53"),
    ],
)
def test_an_array_that_does_not_fit_its_hint_is_refused(kind: Any, value: Any, part: str) -> None:
    status, message = rejection(takes(kind), json.dumps({"x": value}).encode())
    assert (status, part in message, message.endswith("at `$.x`")) == (Status.INVALID, True, True), message


def test_the_shape_and_type_of_a_binary_array_are_checked_too() -> None:
    matrix = np.ndarray[tuple[int, int], np.dtype[np.floating]]
    assert "shape (any, any)" in rejection(takes(matrix), npy(np.zeros(3)), NPY)[1]
    packed = msgspec.msgpack.encode({"x": msgspec.msgpack.Ext(1, npy(np.array([["a"]])))})
    assert "text" in rejection(takes(matrix), packed, MSGPACK)[1]


@pytest.mark.parametrize(
    "kind",
    [
        npt.NDArray[Literal["float32"]],
        list[npt.NDArray[list]],
        np.ndarray[int, np.dtype[np.int8]],
        np.ndarray[tuple[str], np.dtype[np.int8]],
    ],
)
def test_a_hint_of_an_array_that_is_not_understood_is_refused_by_name(kind: Any) -> None:
    with pytest.raises(SchemaError, match="'x'"):
        takes(kind)


@pytest.mark.parametrize("sent", [np.array(["20000-01-01"], dtype="M8[s]"), np.array([1], dtype="M8[as]")])
def test_a_date_that_the_unit_cannot_hold_is_refused_and_not_another_date(sent: npt.NDArray[Any]) -> None:
    rule = ArrayRule(kinds=(np.int8,), targets=(np.dtype(NS),))
    with pytest.raises(ValueError, match="outside the range of the unit"):
        coerce(sent, rule)
    assert coerce(np.array(["2024-01-01"], dtype="M8[s]"), rule).dtype == np.dtype(NS)


# Values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array(["a", None, 1], dtype=object), ["a", None, 1]),
        (np.array(["a", "bcd"], dtype=np.dtypes.StringDType()), ["a", "bcd"]),
        (np.array("a", dtype=object), "a"),
    ],
)
@pytest.mark.parametrize("accept", [JSON, MSGPACK])
def test_labels_of_any_length_are_lists(value: Any, expected: Any, accept: str) -> None:
    body, _ = takes(int).encode(value, accept)
    assert (json.loads(body) if accept == JSON else msgspec.msgpack.decode(body)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array(["2024-01-01", "NaT"], dtype=NS), ["2024-01-01T00:00:00", None]),
        (np.array(["2024-01-01T00:00:00.000000001", "NaT"], dtype=NS), ["2024-01-01T00:00:00.000000001", None]),
        (np.array([1, "NaT"], dtype="timedelta64[s]"), ["PT1S", None]),
        (np.array([1.5], dtype=np.longdouble), [1.5]),
        (np.longdouble(1.5), 1.5),
        (np.ma.array([1, 2], mask=[False, True]), [1, None]),
        (np.ma.array(["2024", "2025"], mask=[False, True], dtype=NS), ["2024-01-01T00:00:00", None]),
        (2**70, 2**70),
    ],
)
def test_json_says_what_an_array_holds(value: Any, expected: Any) -> None:
    assert json.loads(takes(int).encode(value, JSON)[0]) == expected


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (np.array(["20000-01-01"], dtype="M8[s]"), "20000-01-01T00:00:00 is outside the years 1 to 9999"),
        (np.datetime64("-0005-01-01"), "outside the years"),
        (np.array([1], dtype="timedelta64[M]"), "return a number"),
        (np.array([1], dtype="timedelta64[ns]"), "return a number"),
        (np.array(["1e4000"], dtype=np.longdouble), "outside the range of a float"),
        (np.array([1j]), "no JSON form"),
        (np.zeros(1, dtype=[("a", "i4"), ("b", NS)]), "a dict with an array for each field"),
        (np.zeros(1, dtype=[("a", "i4")])[0], "a dict with an array for each field"),
    ],
)
def test_what_json_cannot_say_of_an_array_is_refused(value: Any, part: str) -> None:
    assert part in refusal(value, JSON)


@pytest.mark.parametrize("accept", [MSGPACK, NPY])
def test_a_mask_is_refused_where_it_would_be_lost(accept: str) -> None:
    assert ".filled(value)" in refusal(np.ma.array([1, 2], mask=[False, True]), accept)


@pytest.mark.parametrize("dtype", [NS, "M8[D]", "m8[s]", "<U3", "S2", ">i4", "f2", "c8", "V2"])
def test_types_that_a_npy_file_carries_come_back_as_they_went(dtype: Any) -> None:
    array = np.zeros(2, dtype=dtype)
    body, _ = takes(int).encode(array, NPY)
    back = np.load(io.BytesIO(body))
    assert (back.dtype, back.tobytes()) == (array.dtype, array.tobytes())


@pytest.mark.parametrize("accept", [MSGPACK, NPY])
def test_a_structured_array_is_refused_in_every_form_and_both_ways(accept: str) -> None:
    structured = np.zeros(2, dtype=[("a", "i4"), ("b", "f8")])
    assert "a dict with an array for each field" in refusal(structured, accept)
    payload = npy(structured)
    if accept == MSGPACK:
        payload = msgspec.msgpack.encode({"x": msgspec.msgpack.Ext(1, payload)})
    status, message = rejection(takes(np.ndarray), payload, accept)
    assert (status, "send an array for each field" in message) == (Status.MALFORMED, True)


def test_a_hint_of_structured_arrays_is_refused_at_deploy() -> None:
    with pytest.raises(SchemaError, match=r"parameter 'x'.*an array for each field"):
        takes(npt.NDArray[np.void])


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
@pytest.mark.parametrize("value", [[True, 2], [1.5, False], [[True], [2]], [None, True]])
def test_booleans_are_no_numbers_of_an_array(value: Any, content_type: str) -> None:
    encode = msgspec.json.encode if content_type == JSON else msgspec.msgpack.encode
    assert "one kind" in rejection(takes(np.ndarray), encode({"x": value}), content_type)[1]


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.uint8])
def test_an_array_of_booleans_is_none_of_numbers(dtype: Any) -> None:
    assert "got booleans" in rejection(takes(npt.NDArray[dtype]), b'{"x": [true, false]}')[1]
    payload = npy(np.array([True]))
    assert "got booleans" in rejection(takes(npt.NDArray[dtype]), payload, NPY)[1]


def test_numbers_that_are_zero_or_one_are_no_booleans() -> None:
    assert accepted(np.ndarray, [0, 1, 2.5]).tolist() == [0, 1, 2.5]
    assert accepted(npt.NDArray[np.int64], [[0], [1]]).tolist() == [[0], [1]]
    assert accepted(np.ndarray, [True, False]).dtype == np.bool_


def test_a_float_without_a_fraction_is_an_integer_of_an_array_in_json() -> None:
    assert accepted(npt.NDArray[np.int8], [1.0, 2]).tolist() == [1, 2]
    assert "got floating-point numbers" in rejection(takes(npt.NDArray[np.int8]), b'{"x": [1.0, 2.5]}')[1]


def test_an_integer_above_64_bits_is_refused_in_messagepack_with_the_reason() -> None:
    assert "more than 64 bits" in refusal([2**70], MSGPACK)


# Amplification: what a small body may not become


@pytest.mark.parametrize(
    "value",
    [
        ["a" * 500_000] + ["b"] * 1500,
        [["a" * 500_000]] + [["b"]] * 1500,
        [["b"] * 2000, ["a" * 500_000]],
        [1.5] * 1500 + ["a" * 500_000],
    ],
)
@pytest.mark.parametrize("kind", [np.ndarray, npt.NDArray[np.str_], npt.NDArray[np.float64]])
def test_one_long_text_beside_many_short_ones_is_refused_before_it_takes_gigabytes(kind: Any, value: Any) -> None:
    tracemalloc.start()
    status, message = rejection(takes(kind), json.dumps({"x": value}).encode())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert status is Status.INVALID
    assert "as a list[str]" in message
    assert peak < 32 * 2**20


@pytest.mark.parametrize("value", [["a" * 1000] * 1500, [["a"], ["b" * 20]] * 5000, [[1, 2]] * 5000, [[], []], []])
def test_texts_and_numbers_of_usual_sizes_are_arrays(value: Any) -> None:
    assert accepted(np.ndarray, value).shape[0] == len(value)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        *(("<f8", "(9999999999, 9999999999)"), ("<f8", "(4294967296, 4294967296)"), ("<f8", "(0, 99999999999999)")),
        *(("<f8", "(99999999999999, 0)"), ("<U0", "(9999999999999,)"), ("|S0", "(9999,)"), ("|V0", "(999999999,)")),
    ],
)
def test_an_npy_header_that_promises_a_huge_array_is_refused(dtype: str, shape: str) -> None:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    body = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    status, message = rejection(takes(np.ndarray), body, NPY)
    assert (status, message.split(":")[0]) == (Status.MALFORMED, "not a valid .npy file")
