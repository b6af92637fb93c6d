"""The weight of an invocation, from the one argument that makes it big."""

from __future__ import annotations

import io
import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from clipper.contract.media_types import JSON, MSGPACK, NPY, NPY_EXTENSION
from clipper_platform.serving.batch_weight import weigh_by


@pytest.mark.parametrize(
    ("value", "weight"),
    [("abc", 3), ([1, 2], 2), ({"a": 1}, 1), (7, 7), (2.9, 2), (0, 1), (-5, 1), (True, 1), (None, 1), ("", 1)],
)
def test_an_argument_weighs_its_length_or_the_number_that_it_is(value: Any, weight: int) -> None:
    weigh = weigh_by("text")
    assert weigh(JSON, msgspec.json.encode({"text": value, "other": [0] * 9})) == weight
    assert weigh(MSGPACK, msgspec.msgpack.encode({"text": value, "other": [0] * 9})) == weight


@pytest.mark.parametrize(("value", "weight"), [(math.inf, 1 << 31), (-math.inf, 1), (math.nan, 1), (2**63, 1 << 31)])
def test_a_number_without_end_has_a_weight_too(value: Any, weight: int) -> None:
    assert weigh_by("text")(MSGPACK, msgspec.msgpack.encode({"text": value})) == weight


@pytest.mark.parametrize("body", [b"", b"{", b"\xc1", b'{"text": "\xff"}', b"[" * 5000])
def test_a_body_that_cannot_be_read_weighs_one(body: bytes) -> None:
    assert (weigh_by("text")(JSON, body), weigh_by("text")(MSGPACK, body)) == (1, 1)


def npy(array: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(("shape", "weight"), [((5,), 5), ((3, 2), 3), ((0,), 1), ((), 1)])
def test_an_array_weighs_the_length_of_its_first_axis_in_every_format(shape: tuple[int, ...], weight: int) -> None:
    array = np.zeros(shape)
    weigh = weigh_by("x")
    assert weigh(MSGPACK, msgspec.msgpack.encode({"x": msgspec.msgpack.Ext(NPY_EXTENSION, npy(array))})) == weight
    assert weigh(NPY, npy(array)) == weight
    if shape:
        assert weigh("application/json; charset=utf-8", msgspec.json.encode({"x": array.tolist()})) == weight


def test_other_extensions_and_headers_weigh_one() -> None:
    assert weigh_by("x")(MSGPACK, msgspec.msgpack.encode({"x": msgspec.msgpack.Ext(9, b"abc")})) == 1
    assert weigh_by("x")(NPY, b"\x93NUMPY") == 1
    assert weigh_by("x")(NPY, b"'shape': (" + b"9" * 18 + b",)") == 1 << 31
