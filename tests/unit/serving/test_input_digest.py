"""Equal arguments have one digest, however they are written."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from clipper.contract.media_types import JSON, MSGPACK, OCTET_STREAM
from clipper_platform.serving.input_digest import InputDigest


def schema(**properties: Any) -> dict[str, Any]:
    return {"parameters": {"type": "object", "properties": properties, "additionalProperties": False}}


EXACT = InputDigest(None)
TYPED = InputDigest(schema(x={"type": "number"}, rows={"type": "array", "items": {"type": "number"}}))


def test_spaces_the_order_of_keys_and_the_format_make_no_difference() -> None:
    digest = EXACT(JSON, b'{"a": 1, "b": [true, null, "x"]}')
    assert digest is not None
    assert len(digest) == 32
    assert EXACT(JSON, b' {"b":[true,null,"x"],"a":1} ') == digest
    assert EXACT(MSGPACK, msgspec.msgpack.encode({"b": [True, None, "x"], "a": 1})) == digest
    assert EXACT(JSON, memoryview(b'{"a":1,"b":[true,null,"x"]}')) == digest


@pytest.mark.parametrize(
    "other", [b'{"a": 2}', b'{"a": "1"}', b'{"a": true}', b'{"b": 1}', b"[1]", b'{"a": 1, "b": 2}']
)
def test_other_arguments_have_another_digest(other: bytes) -> None:
    assert EXACT(JSON, other) != EXACT(JSON, b'{"a": 1}')


def test_1_is_1_point_0_where_the_types_say_which_numbers_are_whole() -> None:
    assert TYPED(JSON, b'{"x": 1, "rows": [2.0]}') == TYPED(JSON, b'{"x": 1.0, "rows": [2]}')
    assert TYPED(JSON, b'{"x": 1.5}') != TYPED(JSON, b'{"x": 1}')
    assert TYPED(JSON, b'{"x": 1e300}') is not None
    assert EXACT(JSON, b'{"x": 1}') != EXACT(JSON, b'{"x": 1.0}')


@pytest.mark.parametrize(
    ("kind", "typed"),
    [
        ({"type": "integer"}, True),
        ({"type": "object", "properties": {"a": {"type": "number"}}, "additionalProperties": False}, True),
        ({"type": "object", "additionalProperties": {"type": "number"}}, True),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, True),
        ({"anyOf": [{"type": "number"}, {"type": "integer"}]}, False),
        ({"type": "object", "additionalProperties": True}, False),
        ({"type": "array"}, False),
        ({"$ref": "#/$defs/Point"}, False),
        ({}, False),
    ],
)
def test_what_is_not_typed_in_full_is_exact(kind: dict[str, Any], typed: bool) -> None:
    digest = InputDigest(schema(v=kind))
    assert (digest(JSON, b'{"v": 1}') == digest(JSON, b'{"v": 1.0}')) is typed


@pytest.mark.parametrize("body", [b"", b"{", b"nope", b'{"a": NaN}', b"\xff", b"[" * 5000])
def test_a_body_that_cannot_be_read_has_none(body: bytes) -> None:
    assert EXACT(JSON, body) is None
    assert EXACT(MSGPACK, b"\xc1") is None


def test_bytes_of_another_type_are_taken_as_they_are() -> None:
    assert EXACT(OCTET_STREAM, b"abc") == EXACT(OCTET_STREAM, memoryview(b"abc"))
    assert EXACT(OCTET_STREAM, b"abc") != EXACT("image/png", b"abc")
    assert EXACT(OCTET_STREAM, b'{"a":1}') != EXACT(JSON, b'{"a":1}')
