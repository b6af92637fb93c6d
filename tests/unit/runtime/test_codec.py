"""Payloads in and values out: what fits, and how everything else is refused."""

from __future__ import annotations

import base64
import collections
import io
import ipaddress
import json
import math
import pathlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import Enum
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

import clipper.codec
from clipper.contract.wire import Item, Status
from clipper_runtime.codec import Codec, Rejected
from clipper_runtime.schema import read_signature

PNG = b"\x89PNG\r\n\x1a\n rest"


FORMS = ["application/x-www-form-urlencoded", "multipart/form-data"]


def codec_of(function: Callable[..., Any], *, batched: bool = False, streaming: bool = False) -> Codec:
    return Codec(read_signature(function, batched=batched, streaming=streaming), batched=batched)


def takes(kind: Any) -> Codec:
    def function(x): ...

    function.__annotations__ = {"x": kind}
    return codec_of(function)


def npy(array: npt.NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def rejection(codec: Codec, payload: bytes, content_type: str = "application/json") -> tuple[Status, str]:
    with pytest.raises(Rejected) as caught:
        codec.decode(content_type, payload)
    return caught.value.status, caught.value.message


def unencodable(value: Any, accept: str = "*/*") -> tuple[Status, str]:
    with pytest.raises(Rejected) as caught:
        takes(int).encode(value, accept)
    return caught.value.status, caught.value.message


@dataclass
class Point:
    x: float
    y: float = 0.0


class Colour(Enum):
    RED = "red"


class Options(TypedDict):
    size: int
    label: NotRequired[str]


def shout(text: str, times: int = 1, *, suffix: str = "!") -> str: ...


# Requests: JSON


def test_arguments_come_in_the_order_of_the_parameters_with_defaults_filled_in() -> None:
    assert codec_of(shout).decode("application/json", b'{"times": 3, "text": "a"}') == ("a", 3, "!")


@pytest.mark.parametrize("content_type", ["", "application/json", "Application/JSON; charset=UTF-8", "text/json"])
def test_json_is_understood_under_its_usual_names(content_type: str) -> None:
    assert takes(int).decode(content_type, b'{"x": 1}') == (1,)


@pytest.mark.parametrize(
    ("payload", "status", "part"),
    [
        (b'{"text": 5}', Status.INVALID, "Expected `str`, got `int` - at `$.text`"),
        (b"{}", Status.INVALID, "missing required argument - at `$.text`"),
        (b"", Status.INVALID, "missing required argument - at `$.text`"),
        (b'{"text": "a", "tmes": 2}', Status.INVALID, "unknown argument, did you mean `times`? - at `$.tmes`"),
        (b'{"text": "a", "zzzzzz": 2}', Status.INVALID, "unknown argument - at `$.zzzzzz`"),
        (b"[1]", Status.INVALID, "Expected `object`, got `array` - at `$`"),
        (b'{"text": ', Status.MALFORMED, "JSON is malformed"),
        (b'{"text": "a"} trailing', Status.MALFORMED, "JSON is malformed"),
        (b'{"text": "a",}', Status.MALFORMED, "JSON is malformed"),
        (b"\xef\xbb\xbf{}", Status.MALFORMED, "JSON is malformed"),
        (b'{"text": "\xff"}', Status.MALFORMED, "UTF-8"),
        (b'{"text": NaN}', Status.MALFORMED, "JSON is malformed"),
        (b'{"text": "a", "times": Infinity}', Status.MALFORMED, "JSON is malformed"),
        (b'{"text": "a", "times": 1e999}', Status.INVALID, "Number out of range - at `$.times`"),
        (b"\x00\x01\x02", Status.MALFORMED, "JSON is malformed"),
    ],
)
def test_a_bad_json_request_is_refused_with_the_reason_and_the_path(payload: bytes, status: Status, part: str) -> None:
    got, message = rejection(codec_of(shout), payload)
    assert (got, part in message) == (status, True), message


def test_the_path_of_a_misfit_leads_into_lists_and_objects() -> None:
    assert rejection(takes(list[int]), b'{"x": [1, "a"]}')[1].endswith("at `$.x[1]`")
    assert rejection(takes(Point), b'{"x": {"x": 1, "y": "a"}}')[1].endswith("at `$.x.y`")
    assert rejection(takes(Point), b'{"x": {}}')[1] == "missing required argument - at `$.x.x`"


@pytest.mark.parametrize("kind", [Any, list[Any], dict[str, Any], np.ndarray])
@pytest.mark.parametrize("brackets", [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_without_end_is_refused_and_not_a_crash(kind: Any, brackets: tuple[bytes, bytes]) -> None:
    deep = brackets[0] * 100_000 + b"1" + brackets[1] * 100_000
    assert rejection(takes(kind), b'{"x": ' + deep + b"}")[0] in (Status.MALFORMED, Status.INVALID)
    assert rejection(takes(kind), brackets[0] * 100_000)[0] in (Status.MALFORMED, Status.INVALID)
    packed = b"\x81\xa1x" + b"\x91" * 100_000
    assert rejection(takes(kind), packed, "application/msgpack")[0] in (Status.MALFORMED, Status.INVALID)


def test_bytes_in_json_are_base64() -> None:
    assert takes(bytes).decode("", b'{"x": "aGk="}') == (b"hi",)
    assert rejection(takes(bytes), b'{"x": "***"}')[0] is Status.INVALID


def test_plain_and_structured_types_are_built_from_json() -> None:
    def function(
        p: Point, when: datetime, day: date, colour: Colour, options: Options, maybe: int | None = None
    ) -> None: ...

    payload = {
        "p": {"x": 1},
        "when": "2025-01-02T03:04:05Z",
        "day": "2025-01-02",
        "colour": "red",
        "options": {"size": 3},
    }
    assert codec_of(function).decode("", json.dumps(payload).encode()) == (
        Point(1.0),
        datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC),
        date(2025, 1, 2),
        Colour.RED,
        {"size": 3},
        None,
    )


def test_constraints_of_annotated_types_hold() -> None:
    codec = takes(Annotated[int, msgspec.Meta(ge=0, le=9)])
    assert codec.decode("", b'{"x": 9}') == (9,)
    assert rejection(codec, b'{"x": 10}')[0] is Status.INVALID


def test_what_a_types_own_check_raises_is_the_callers_mistake() -> None:
    @dataclass
    class Positive:
        n: int

        def __post_init__(self) -> None:
            if self.n < 0:
                raise ValueError("n must not be negative")

    status, message = rejection(takes(Positive), b'{"x": {"n": -1}}')
    assert (status, "n must not be negative" in message) == (Status.INVALID, True)


def test_what_is_remembered_of_clients_headers_is_bounded() -> None:
    codec = takes(int)
    for n in range(500):
        codec.decode(f"application/json; x={n}", b'{"x": 1}')
        codec.encode(1, f"application/json; x={n}")
    assert len(codec._decoders) + len(codec._encoders) <= 128


# Requests: other content types


def test_msgpack_arguments_are_typed_too() -> None:
    codec = codec_of(shout)
    assert codec.decode("application/x-msgpack", msgspec.msgpack.encode({"text": "a"})) == ("a", 1, "!")
    assert rejection(codec, msgspec.msgpack.encode({"text": 1}), "application/msgpack")[0] is Status.INVALID
    assert rejection(codec, b"\xc1", "application/msgpack")[0] is Status.MALFORMED
    assert rejection(codec, b"\x81\xa4text", "application/msgpack")[0] is Status.MALFORMED


def test_a_raw_body_fills_the_only_required_parameter() -> None:
    def caption(image: bytes, words: int = 5) -> str: ...

    codec = codec_of(caption)
    assert codec.decode("image/png", PNG) == (PNG, 5)
    assert codec.decode("application/octet-stream", memoryview(b"\x00")) == (b"\x00", 5)
    assert takes(bytes | None).decode("image/jpeg", b"x") == (b"x",)


def test_a_raw_body_is_refused_where_no_single_parameter_takes_it() -> None:
    def two(a: bytes, b: bytes) -> None: ...

    for codec in (codec_of(two), codec_of(shout), codec_of(lambda: None)):
        assert rejection(codec, b"x", "application/octet-stream")[0] is Status.UNSUPPORTED_MEDIA_TYPE
        assert rejection(codec, npy(np.zeros(2)), "application/x-npy")[0] is Status.UNSUPPORTED_MEDIA_TYPE


def test_the_refusal_of_a_content_type_names_the_known_ones() -> None:
    status, message = rejection(takes(Any), b"a,b", "video/mp4")
    assert status is Status.UNSUPPORTED_MEDIA_TYPE
    assert "application/octet-stream" in message
    assert rejection(takes(int), b"{}", "application/json; charset=utf-16")[0] is Status.UNSUPPORTED_MEDIA_TYPE


# Arrays in


def test_nested_lists_become_an_array_of_the_annotated_type() -> None:
    (array,) = takes(npt.NDArray[np.float32]).decode("", b'{"x": [[1, 2], [3, 4.5]]}')
    assert (array.dtype, array.tolist()) == (np.float32, [[1, 2], [3, 4.5]])
    (empty,) = takes(npt.NDArray[np.int64]).decode("", b'{"x": []}')
    assert (empty.dtype, empty.shape) == (np.int64, (0,))
    (plain,) = takes(np.ndarray).decode("", b'{"x": [1, 2]}')
    assert plain.dtype.kind == "i"


@pytest.mark.parametrize(
    ("kind", "value", "part"),
    [
        (np.ndarray, "[[1, 2], [3]]", "ragged"),
        (np.ndarray, "[null, 1]", "one kind"),
        (np.ndarray, "5", "Expected `array`, got `int`"),
        (np.ndarray, '"abc"', "Expected `array`, got `str`"),
        (npt.NDArray[np.float32], '["1.5"]', "text"),
        (npt.NDArray[np.float32], "[1e300]", "float32"),
        (npt.NDArray[np.float32], "[null]", "one kind"),
        (npt.NDArray[np.uint8], "[300]", "300 is outside the range of uint8"),
        (npt.NDArray[np.uint8], "[-1]", "-1 is outside"),
        (npt.NDArray[np.int64], "[1.5]", "floating-point"),
        (npt.NDArray[np.bool_], "[2]", "bool"),
        (np.float32, '"a"', "text"),
        (np.int8, "1000", "outside the range"),
        (np.int8, "[1]", "one value"),
    ],
)
def test_values_that_an_array_cannot_hold_are_refused(kind: Any, value: str, part: str) -> None:
    status, message = rejection(takes(kind), f'{{"x": {value}}}'.encode())
    assert (status, part in message, "`$.x`" in message) == (Status.INVALID, True, True), message


def test_npy_bodies_and_msgpack_extensions_carry_arrays() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    extension = msgspec.msgpack.encode({"x": msgspec.msgpack.Ext(1, npy(array))})
    for kind in (np.ndarray, npt.NDArray[np.float32], Any, npt.NDArray[np.float32] | None):
        for content_type, payload in (("application/x-npy", npy(array)), ("application/msgpack", extension)):
            (got,) = takes(kind).decode(content_type, memoryview(payload))
            assert (got.dtype, got.tolist()) == (np.float32, array.tolist())
            got += 1  # writable: user code may work in place


def test_an_array_of_another_type_is_converted_only_without_loss() -> None:
    (got,) = takes(npt.NDArray[np.float64]).decode("application/x-npy", npy(np.arange(3, dtype=np.float32)))
    assert got.dtype == np.float64
    status, message = rejection(takes(npt.NDArray[np.uint8]), npy(np.array([1.5])), "application/x-npy")
    assert (status, message.endswith("at `$.x`")) == (Status.INVALID, True)


def npy_with_shape(shape: str) -> bytes:
    """A file of six float64 whose header claims another shape."""
    good = npy(np.zeros((2, 3)))
    length = int.from_bytes(good[8:10], "little")
    header = good[10 : 10 + length].replace(b"(2, 3)", shape.encode()).rstrip()
    return good[:8] + (len(header) + 1).to_bytes(2, "little") + header + b"\n" + good[10 + length :]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff",
        b"not an array at all",
        npy(np.zeros(4))[:-1],
        npy(np.zeros(4)) + b"x",
        npy(np.array([object()], dtype=object), allow_pickle=True),
        npy_with_shape("(-2, -3)"),
        npy_with_shape("(2, 4)"),
        npy_with_shape("(99999999999999, 99999999999999)"),
        npy_with_shape("9**999999"),
        npy_with_shape("(2.0, 3)"),
        b"\x93NUMPY\x01\x00" + (20_000).to_bytes(2, "little") + b"(" * 20_000,
        b"\x93NUMPY\x09\x00" + npy(np.zeros(1))[8:],
    ],
)
def test_a_broken_or_dangerous_npy_is_malformed(payload: bytes) -> None:
    assert rejection(takes(np.ndarray), payload, "application/x-npy")[0] is Status.MALFORMED
    extension = msgspec.msgpack.encode({"x": msgspec.msgpack.Ext(1, payload)})
    assert rejection(takes(np.ndarray), extension, "application/msgpack")[0] is Status.MALFORMED


def test_the_broken_headers_above_are_broken_by_their_shape_alone() -> None:
    (array,) = takes(np.ndarray).decode("application/x-npy", npy_with_shape("(2, 3)"))
    assert array.shape == (2, 3)


def test_an_unknown_msgpack_extension_is_refused() -> None:
    payload = msgspec.msgpack.encode({"x": msgspec.msgpack.Ext(7, b"abc")})
    assert rejection(takes(Any), payload, "application/msgpack")[0] is Status.MALFORMED


# Batches


def test_a_batch_is_decoded_into_one_list_per_parameter() -> None:
    def function(xs: list[int], ys: list[str] | None = None) -> list[int]: ...

    codec = codec_of(function, batched=True)
    json = ("application/json", b'{"ys": "b", "xs": 2}')
    packed = ("application/msgpack", msgspec.msgpack.encode({"xs": 1}))
    for batch in ([json], [packed], [json, json], [packed, packed], [json, packed], [packed, json, json]):
        items = [Item(n, "", content_type, "", 0.0, len(body)) for n, (content_type, body) in enumerate(batch)]
        rows = [(1, None) if one is packed else (2, "b") for one in batch]
        assert codec.arguments(items, [memoryview(body) for _, body in batch]) == [
            list(x) for x in zip(*rows, strict=True)
        ]


def test_a_batch_is_encoded_together_only_when_it_is_json_without_nulls() -> None:
    codec = takes(int)
    assert codec.encode_batch([1, "a"], "*/*") == ([b"1", b'"a"'], "application/json")
    assert codec.encode_batch([1, math.nan], "*/*") is None
    assert codec.encode_batch([1, 2], "application/msgpack") is None


# Values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": [1, None, "ü"]}, b'{"a":[1,null,"\xc3\xbc"]}'),
        (Point(1.5, 2.5), b'{"x":1.5,"y":2.5}'),
        (datetime(2025, 1, 2, tzinfo=UTC), b'"2025-01-02T00:00:00Z"'),
        (Colour.RED, b'"red"'),
        (b"hi", b'"aGk="'),
        (np.float32(1.5), b"1.5"),
        (np.int64(3), b"3"),
        (np.bool_(True), b"true"),
        (np.str_("a"), b'"a"'),
        (np.array([[1, 2], [3, 4]]), b"[[1,2],[3,4]]"),
        (np.datetime64("2025-01-02T03:04:05.000000001"), b'"2025-01-02T03:04:05.000000001"'),
        ({"a": np.array([1.5]), "b": np.int8(1)}, b'{"a":[1.5],"b":1}'),
        (None, b"null"),
        ("null", b'"null"'),
        ({"nan": None, "b": [None]}, b'{"nan":null,"b":[null]}'),
    ],
)
def test_values_have_the_json_form_one_expects(value: Any, expected: bytes) -> None:
    assert takes(int).encode(value, "application/json") == (expected, "application/json")


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        [1.0, math.inf],
        {"a": {"b": (-math.inf,)}},
        Point(math.nan),
        np.array([1.0, np.nan]),
        np.float32("inf"),
        {"ok": None, "scores": np.array([[np.inf]])},
    ],
)
def test_nan_and_infinity_are_never_silently_null(value: Any) -> None:
    status, message = unencodable(value)
    assert status is Status.UNENCODABLE
    assert "JSON cannot express" in message


def test_msgpack_and_npy_carry_nan() -> None:
    codec = takes(int)
    assert math.isnan(msgspec.msgpack.decode(codec.encode(math.nan, "application/msgpack")[0]))
    data, kind = codec.encode(np.array([np.nan]), "application/x-npy")
    assert kind == "application/x-npy"
    assert np.isnan(np.load(io.BytesIO(data))[0])


def test_what_has_no_form_is_unencodable_and_names_the_type() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    assert "deeply" in unencodable(cycle)[1]
    assert "complex" in unencodable(1 + 2j)[1]
    assert "codec" in unencodable("\ud800")[1]
    assert unencodable(np.array([1 + 2j]))[0] is Status.UNENCODABLE
    assert unencodable(np.array([object()]))[0] is Status.UNENCODABLE
    assert unencodable(np.array([object()]), "application/msgpack")[0] is Status.UNENCODABLE
    assert unencodable(np.array([object()]), "application/x-npy")[0] is Status.UNENCODABLE
    assert unencodable(sys)[0] is Status.UNENCODABLE
    assert unencodable(ValueError("x"))[0] is Status.UNENCODABLE


@pytest.mark.parametrize(
    ("value", "accept", "expected"),
    [
        (1, "", "application/json"),
        (1, "*/*", "application/json"),
        (1, "text/html, application/json;q=0.5", "application/json"),
        (1, "application/msgpack", "application/msgpack"),
        (1, "application/json;q=0.1, application/x-msgpack", "application/msgpack"),
        (np.zeros(1), "*/*", "application/json"),
        (np.zeros(1), "application/x-npy", "application/x-npy"),
        (b"x", "*/*", "application/json"),
        (b"x", "application/octet-stream", "application/octet-stream"),
        (b"x", "image/tiff", "image/tiff"),
        (PNG, "image/png", "image/png"),
        (PNG, "image/*", "image/png"),
        (PNG, "image/avif,image/webp,image/png,*/*;q=0.8", "image/png"),
        (PNG, "image/jpeg, */*;q=0.1", "application/json"),
        (1, "application/json;q=0, */*", "application/msgpack"),
    ],
)
def test_accept_chooses_the_form(value: Any, accept: str, expected: str) -> None:
    assert takes(int).encode(value, accept)[1] == expected


@pytest.mark.parametrize(
    ("value", "accept"),
    [(1, "text/html"), (1, "application/x-npy"), ("a", "image/png"), (PNG, "image/jpeg"), (b"x", "image/*"), (1, ";;")],
)
def test_a_value_without_an_acceptable_form_is_not_acceptable(value: Any, accept: str) -> None:
    assert unencodable(value, accept)[0] is Status.NOT_ACCEPTABLE


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12).reshape(3, 4),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
        np.arange(12)[::2],
        np.array(5.0),
        np.zeros((0, 3)),
        np.array(["a", "bc"]),
        np.arange(3, dtype=">f4"),
    ],
)
def test_any_array_survives_the_way_out_and_back_in(array: npt.NDArray[Any]) -> None:
    codec = takes(np.ndarray)
    data, kind = codec.encode(array, "application/x-npy")
    assert np.array_equal(np.load(io.BytesIO(data)), array)
    (back,) = codec.decode(kind, data)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    packed, _ = codec.encode({"x": array}, "application/msgpack")
    (again,) = codec.decode("application/msgpack", packed)
    assert np.array_equal(again, array)


# The published schema


def test_the_schema_describes_arguments_and_value() -> None:
    def classify(pixels: list[npt.NDArray[np.float32]], top: list[int] | None = None) -> list[Point | Exception]:
        """Classify digits.

        At length.
        """

    codec = Codec(read_signature(classify, batched=True, streaming=False, doc="Classify digits."), batched=True)
    schema = codec.schema()
    assert schema["parameters"]["required"] == ["pixels"]
    assert schema["parameters"]["additionalProperties"] is False
    assert schema["parameters"]["properties"]["pixels"]["type"] == "array"
    assert schema["parameters"]["properties"]["top"]["default"] is None
    assert schema["parameters"]["description"] == "Classify digits."
    assert schema["returns"]["properties"].keys() == {"x", "y"}
    assert schema["content_types"] == ["application/json", "application/msgpack", "application/x-npy", *FORMS]
    assert base64.b64encode(json.dumps(schema, allow_nan=False).encode())


def test_content_types_follow_the_parameter() -> None:
    assert takes(bytes).content_types[2:] == ["application/octet-stream", "image/*", *FORMS]
    assert takes(int).content_types == ["application/json", "application/msgpack", *FORMS]


def test_a_return_hint_that_has_no_schema_costs_nothing_but_the_schema() -> None:
    def function(x: int) -> io.StringIO: ...

    assert codec_of(function).schema()["returns"] == {}


class Element(str):
    """As of a parsed page."""


class Ratio(float):
    pass


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Element("a"), "a"),
        ({"ratio": Ratio(0.5)}, {"ratio": 0.5}),
        (collections.deque([1, 2]), [1, 2]),
        (range(3), [0, 1, 2]),
        ({"a": 1}.keys(), ["a"]),
        ({"a": 1}.values(), [1]),
        (collections.ChainMap({"a": 1}), {"a": 1}),
        (pathlib.PurePosixPath("a/b"), "a/b"),
        (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
    ],
)
def test_values_of_the_standard_library_have_their_plain_form(value: Any, expected: Any) -> None:
    assert json.loads(takes(int).encode(value, "application/json")[0]) == expected
    assert msgspec.msgpack.decode(takes(int).encode(value, "application/msgpack")[0]) == expected
    assert msgspec.msgpack.decode(clipper.codec.encode({"x": value})) == {"x": expected}
