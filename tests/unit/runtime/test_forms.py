"""HTML forms as arguments."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pytest

from clipper.contract.wire import Status
from tests.unit.runtime.test_codec import codec_of, rejection

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=XyZ"


def every(
    text: str,
    number: int = 0,
    ratio: float = 0.0,
    flag: bool = False,
    day: datetime.date | None = None,
    tags: list[str] | None = None,
    sizes: list[int] | None = None,
    pixels: np.ndarray | None = None,  # type: ignore[type-arg]
) -> None: ...


def upload(image: bytes, caption: str = "") -> None: ...


def multipart(*parts: tuple[str, bytes]) -> bytes:
    heads = [(b"Content-Disposition: form-data; " + head.encode(), body) for head, body in parts]
    return b"".join(b"--XyZ\r\n%b\r\n\r\n%b\r\n" % part for part in heads) + b"--XyZ--\r\n"


def test_the_fields_of_a_form_are_the_arguments_by_their_types() -> None:
    form = b"text=5&number=5&ratio=1.5&flag=on&day=2026-11-29&tags=a&tags=b+c&sizes=[1,2]&pixels=[[1,2]]"
    text, number, ratio, flag, day, tags, sizes, pixels = codec_of(every).decode(FORM, form)
    assert (text, number, ratio, flag, day) == ("5", 5, 1.5, True, datetime.date(2026, 11, 29))
    assert (tags, sizes, pixels.tolist()) == (["a", "b c"], [1, 2], [[1, 2]])


def test_one_field_of_a_list_is_its_entry_and_an_empty_number_is_left_out() -> None:
    decoded = codec_of(every).decode(FORM, b"text=&number=&tags=a&sizes=7")
    assert decoded[:7] == ("", 0, 0.0, False, None, ["a"], [7])


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\0", b"", b"--Xy", b"\r\n--", b"\n\r\n\r\n"])
def test_a_file_of_a_form_is_bytes_as_they_are(content: bytes) -> None:
    file = 'name="image"; filename="a;name=b.png"\r\nContent-Type: image/png'
    body = multipart((file, content), ("name=caption", b"x"))
    assert codec_of(upload).decode(MULTIPART, body) == (content, "x")


def test_names_are_quoted_as_clients_quote_them_and_a_preamble_is_skipped() -> None:
    body = b"preamble\r\n" + multipart(('NAME="image"', b"1"))
    kind = 'multipart/form-data; charset=utf-8; boundary="XyZ"'
    assert codec_of(upload).decode(kind, body) == (b"1", "")


@pytest.mark.parametrize(
    ("content_type", "payload", "status", "words"),
    [
        (FORM, b"caption=x", Status.INVALID, "missing required argument - at `$.image`"),
        (FORM, b"image=x&captoin=y", Status.INVALID, "did you mean `caption`"),
        (FORM, b"image=x&caption=y&caption=z", Status.MALFORMED, "2 times"),
        (FORM, b'{"image": "eA=="}', Status.INVALID, "curl -d sends a form, unless"),
        (FORM, b"\xff", Status.MALFORMED, "UTF-8"),
        (FORM, b"&".join([b"a=1"] * 10_001), Status.MALFORMED, "fields"),
        ("multipart/form-data", b"", Status.MALFORMED, "boundary"),
        (MULTIPART, b"", Status.MALFORMED, "boundary"),
        (MULTIPART, multipart(("name=image", b"x"))[:-8], Status.MALFORMED, "ends within"),
        (MULTIPART, b"--XyZ\r\n\r\nx\r\n--XyZ--", Status.MALFORMED, "no name"),
        (MULTIPART, b"--XyZ\r\nA: b\r\nx\r\n--XyZ--", Status.MALFORMED, "no headers"),
        (MULTIPART, multipart(("name=image", b"x"), ("name=caption", b"\xff")), Status.MALFORMED, "not text"),
        (MULTIPART, multipart(*[("name=a", b"")] * 10_001), Status.MALFORMED, "fields"),
    ],
)
def test_what_is_no_form_or_does_not_fit_is_refused(
    content_type: str, payload: bytes, status: Status, words: str
) -> None:
    refused, message = rejection(codec_of(upload), payload, content_type)
    assert (refused, words in message) == (status, True), message


@pytest.mark.parametrize("kind", ["text/csv", "application/pdf", "audio/wav", "application/octet-stream", "image/png"])
def test_any_other_type_fills_a_parameter_of_bytes(kind: str) -> None:
    assert codec_of(upload).decode(kind, b"\0x") == (b"\0x", "")


@pytest.mark.parametrize("kind", ["application/vnd.api+json", "Application/LD+JSON; charset=utf-8"])
def test_a_type_that_is_written_in_json_is_json(kind: str) -> None:
    payload: Any = b'{"text": "a"}'
    assert codec_of(every).decode(kind, payload)[0] == "a"
