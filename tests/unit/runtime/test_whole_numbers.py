"""Numbers without a fraction are integers, however they are written."""

from __future__ import annotations

from typing import Any

import pytest

from clipper.contract.wire import Status
from tests.unit.runtime.test_codec import codec_of, rejection


def function(
    n: int, many: list[int] | None = None, ratio: float = 0.5, other: dict[str, Any] | None = None
) -> None: ...


@pytest.mark.parametrize(
    ("payload", "arguments"),
    [
        (b'{"n": 1.0}', (1, None, 0.5, None)),
        (b'{"n": 1e3, "many": [1, 2.0, -0.0]}', (1000, [1, 2, 0], 0.5, None)),
        (b'{"n": 1.0, "ratio": 2.0, "other": {"a": [0.5]}}', (1, None, 2.0, {"a": [0.5]})),
    ],
)
def test_a_float_without_a_fraction_is_an_integer(payload: bytes, arguments: Any) -> None:
    decoded = codec_of(function).decode("application/json", payload)
    assert decoded == arguments
    assert type(decoded[0]) is int
    assert type(decoded[2]) is float


def test_without_an_integer_that_was_refused_floats_stay_as_they_are() -> None:
    other = codec_of(function).decode("application/json", b'{"n": 1, "other": {"a": 1.0}}')[3]
    assert type(other["a"]) is float


@pytest.mark.parametrize("number", [b"1.5", b"1e300", b"9007199254740994.0", b'"1.0"', b"true", b"null"])
def test_what_is_no_exact_integer_is_refused(number: bytes) -> None:
    status, message = rejection(codec_of(function), b'{"n": ' + number + b"}")
    assert (status, "at `$.n`" in message) == (Status.INVALID, True)


def test_another_fault_of_the_same_request_is_named() -> None:
    status, message = rejection(codec_of(function), b'{"n": 1.0, "nope": 1}')
    assert (status, "unknown argument" in message) == (Status.INVALID, True)
