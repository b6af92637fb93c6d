"""Bodies that are one argument: text, files, images; and images as values."""

from __future__ import annotations

import base64
import io
import typing
from typing import Annotated, Any, BinaryIO

import msgspec
import pytest
from PIL import Image

from clipper.contract.wire import Status
from clipper_runtime.codec import Codec, Rejected
from clipper_runtime.file_values import build_file, image_bytes
from tests.unit.runtime.test_codec import codec_of, rejection, takes

PICTURE = Image.new("RGB", (4, 3), (200, 10, 10))
PNG = image_bytes(PICTURE)
TEXT_TYPES = ("text/plain", "text/html", "text/csv; charset=utf-8", "TEXT/markdown")


@pytest.mark.parametrize("kind", [str, Any, str | None, Annotated[str, "the text"]])
@pytest.mark.parametrize("content_type", TEXT_TYPES)
def test_text_fills_the_only_parameter(kind: Any, content_type: str) -> None:
    assert takes(kind).decode(content_type, "grüße".encode()) == ("grüße",)


def test_text_is_read_by_its_charset() -> None:
    codec = takes(str)
    assert codec.decode("text/plain; charset=iso-8859-1", "grüße".encode("latin-1")) == ("grüße",)
    assert codec.decode('text/plain; charset="UTF-16"', "grüße".encode("utf-16")) == ("grüße",)
    assert rejection(codec, b"\xff", "text/plain")[0] is Status.MALFORMED
    for charset in ("none", "rot13", "base64", "\0"):
        assert rejection(codec, b"x", f"text/plain; charset={charset}")[0] is Status.UNSUPPORTED_MEDIA_TYPE


def test_text_is_not_taken_where_it_is_not_the_only_argument() -> None:
    def two(a: str, b: str) -> None: ...

    assert rejection(codec_of(two), b"x", "text/plain")[0] is Status.UNSUPPORTED_MEDIA_TYPE
    assert rejection(takes(int), b"1", "text/plain")[0] is Status.UNSUPPORTED_MEDIA_TYPE


def test_constraints_of_text_hold() -> None:
    codec = takes(Annotated[str, msgspec.Meta(max_length=2)])
    assert codec.decode("text/plain", b"ab") == ("ab",)
    assert rejection(codec, b"abc", "text/plain")[0] is Status.INVALID


@pytest.mark.parametrize("kind", [BinaryIO, typing.IO[bytes], io.BytesIO, BinaryIO | None, Annotated[BinaryIO, "a"]])
def test_a_file_is_read_from_any_body(kind: Any) -> None:
    codec = takes(kind)
    packed = msgspec.msgpack.encode({"x": b"abc"})
    forms = {"video/mp4": b"abc", "application/json": b'{"x":"YWJj"}', "application/msgpack": packed}
    for content_type, body in forms.items():
        (file,) = codec.decode(content_type, body)
        assert (type(file), file.read()) == (io.BytesIO, b"abc")
    assert codec.schema()["content_types"][2:4] == ["application/octet-stream", "image/*"]


def test_a_file_of_a_form_is_a_file() -> None:
    def upload(file: BinaryIO, more: list[BinaryIO]) -> None: ...

    parts = ((b"file", b"a\r\n--"), (b"more", b"b"), (b"more", b"c"))
    form = b"".join(b'--X\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % part for part in parts)
    file, more = codec_of(upload).decode("multipart/form-data; boundary=X", form + b"--X--\r\n")
    assert (file.read(), [one.read() for one in more]) == (b"a\r\n--", [b"b", b"c"])


def test_each_decoding_gives_a_file_that_was_not_read() -> None:
    codec = Codec(typing.cast(Any, codec_of(lambda x: x))._signature, batched=False)
    assert codec.decode("image/png", PNG) == (PNG,)
    files = takes(BinaryIO)
    for _ in range(2):
        assert files.decode("audio/x", b"abc")[0].read() == b"abc"


@pytest.mark.parametrize("content_type", ["image/png", "image/jpeg", "application/octet-stream", "image/x-unknown"])
def test_an_image_is_decoded_whatever_the_type_calls_it(content_type: str) -> None:
    (image,) = takes(Image.Image).decode(content_type, PNG)
    assert (image.size, image.getpixel((0, 0))) == ((4, 3), (200, 10, 10))


def test_an_image_comes_in_json_as_base64_and_in_messagepack_as_bytes() -> None:
    codec, text = takes(Image.Image), base64.b64encode(PNG).decode()
    bodies = (f'{{"x":"{text}"}}'.encode(), f'{{"x":"data:image/png;base64,{text}"}}'.encode())
    for body in bodies:
        assert codec.decode("application/json", body)[0].size == (4, 3)
    assert codec.decode("application/msgpack", msgspec.msgpack.encode({"x": PNG}))[0].size == (4, 3)
    assert codec.schema()["parameters"]["properties"]["x"]["contentMediaType"] == "image/*"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"no image", "image/png"),
        (PNG[:30], "image/png"),
        (b"", "image/png"),
        (b'{"x":"????"}', "application/json"),
        (b'{"x":"YWJj"}', "application/json"),
        (b'{"x":7}', "application/json"),
        (b'{"x":null}', "application/json"),
    ],
)
def test_what_is_no_image_is_refused_by_the_parameters_name(body: bytes, content_type: str) -> None:
    status, message = rejection(takes(Image.Image), body, content_type)
    assert (status, "$.x" in message, "0x" in message) == (Status.INVALID, True, False)


def test_an_image_that_would_take_gigabytes_is_refused() -> None:
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    with pytest.raises(ValueError, match="pixels"):
        build_file(Image.Image, bomb.getvalue())


def picture(x: int) -> Image.Image: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("accept", "content_type", "start"),
    [
        *(("*/*", "image/png", b"\x89PNG"), ("", "image/png", b"\x89PNG"), ("image/*", "image/png", b"\x89PNG")),
        *(("image/jpeg", "image/jpeg", b"\xff\xd8"), ("image/gif;q=0.1, image/webp", "image/webp", b"RIFF")),
        *(("application/json", "application/json", b'"'), ("application/msgpack", "application/msgpack", b"\xc4")),
        ("application/json;q=0.5, */*", "image/png", b"\x89PNG"),
    ],
)
def test_an_image_is_answered_as_png_or_in_the_type_that_is_asked_for(
    accept: str, content_type: str, start: bytes
) -> None:
    for codec in (codec_of(picture), codec_of(lambda x: x)):
        body, kind = codec.encode(PICTURE, accept)
        assert (kind, body.startswith(start)) == (content_type, True)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "HSV", "I;16"])
@pytest.mark.parametrize("media", ["image/png", "image/jpeg"])
def test_every_common_mode_has_a_form(mode: str, media: str) -> None:
    image = Image.new(mode, (2, 2))
    if (mode, media) == ("I;16", "image/jpeg"):
        with pytest.raises(Rejected):
            codec_of(picture).encode(image, media)
        return
    assert codec_of(picture).encode(image, media)[1] == media


def test_other_values_of_a_function_that_loads_pillow_are_json() -> None:
    for accept in ("*/*", "application/json"):
        assert codec_of(lambda x: x).encode({"a": 1}, accept) == (b'{"a":1}', "application/json")
    with pytest.raises(Rejected) as caught:
        codec_of(picture).encode(PICTURE, "image/avif")
    assert caught.value.status is Status.NOT_ACCEPTABLE


def test_a_batch_without_images_is_encoded_together() -> None:
    codec = codec_of(lambda x: x)
    assert codec.encode_batch([1, "a"], "*/*") == ([b"1", b'"a"'], "application/json")
    assert codec.encode_batch([1, PICTURE], "*/*") is None


def test_text_and_files_have_forms_of_their_own() -> None:
    codec = codec_of(lambda x: x)
    assert codec.encode("é", "text/plain") == ("é".encode(), "text/plain; charset=utf-8")
    assert codec.encode("é", "text/html, */*;q=0.8") == ('"é"'.encode(), "application/json")
    assert codec.encode(io.BytesIO(b"ab"), "application/octet-stream") == (b"ab", "application/octet-stream")
    assert codec.encode(io.BytesIO(b"ab"), "*/*") == (b'"YWI="', "application/json")
    with pytest.raises(Rejected):
        codec.encode(5, "text/plain")


def test_a_whole_number_may_come_as_a_float_in_messagepack_too() -> None:
    codec = takes(list[int])
    assert codec.decode("application/msgpack", msgspec.msgpack.encode({"x": [1.0, 2]})) == ([1, 2],)
    assert rejection(codec, msgspec.msgpack.encode({"x": [1.5]}), "application/msgpack")[0] is Status.INVALID
    assert rejection(codec, msgspec.msgpack.encode({"x": ["1"]}), "application/msgpack")[0] is Status.INVALID
