"""Files and images as arguments and values: `BinaryIO`, `io.BytesIO`, `PIL.Image.Image`.

Both travel as bytes: as the whole body of a request, in a form, in MessagePack, or as base64 in JSON. Pillow is the
user's requirement; it is never imported here.
"""

from __future__ import annotations

import base64
import binascii
import io
import sys
import types
import typing
from typing import Any, BinaryIO, Final, get_args, get_origin

from clipper_runtime.hints import is_image

__all__ = ["IMAGE_FORMS", "build_file", "image_bytes", "is_bytes_like", "read_file_hints", "schema_of_file"]

_FILES: Final = (BinaryIO, typing.IO[bytes])

IMAGE_FORMS: Final = {
    "image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP", "image/gif": "GIF", "image/bmp": "BMP",
    "image/tiff": "TIFF",
}  # fmt: skip
"""Media types in which images are sent, the default first, and Pillow's names of them."""


# Modes that a format cannot hold and whose colours it can.
_UNSUITED: Final = {
    "image/png": frozenset({"CMYK", "YCbCr", "LAB", "HSV", "F", "I"}),
    "image/jpeg": frozenset({"RGBA", "LA", "PA", "P", "La", "RGBa", "1", "I", "F", "HSV", "LAB"}),
    "image/bmp": frozenset({"CMYK", "YCbCr", "LAB", "HSV", "F", "I", "LA", "PA"}),
}


def read_file_hints(hint: Any) -> Any:
    """The hint with `io.BytesIO` in place of `BinaryIO` and `IO[bytes]`, whose instances these are not for msgspec."""
    if hint in _FILES:
        return io.BytesIO
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        inner = read_file_hints(arguments[0])
        return hint if inner is arguments[0] else typing.Annotated[(inner, *hint.__metadata__)]
    if origin not in (typing.Union, types.UnionType, list, dict):
        return hint
    inner = tuple(map(read_file_hints, arguments))
    if inner == arguments:
        return hint
    return typing.Union[inner] if origin in (typing.Union, types.UnionType) else origin[inner]  # noqa: UP007


def is_bytes_like(kind: Any) -> bool:
    """Whether the content of a file is a value of this type."""
    return kind is bytes or kind is io.BytesIO or is_image(kind)


def build_file(kind: Any, value: Any) -> Any:
    """A file or an image from its bytes, or from their base64 (a `data:` URL too). Raises ValueError."""
    if isinstance(value, str):
        text = value.partition(",")[2] if value.startswith("data:") else value
        try:
            value = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("Expected the content of a file as base64") from None
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise ValueError(f"Expected the content of a file, got `{type(value).__name__}`")
    file = io.BytesIO(value)
    return file if kind is io.BytesIO else _read_image(file)


def _read_image(file: io.BytesIO) -> Any:
    import warnings

    try:
        with warnings.catch_warnings():
            # Pillow refuses an image that would take over 0.5 GB, and warns of one above half of that.
            warnings.simplefilter("ignore")
            image = sys.modules["PIL.Image"].open(file)
            image.load()
    except Exception as error:  # noqa: BLE001 - the plug-ins of Pillow raise errors of many kinds
        unknown = type(error).__name__ == "UnidentifiedImageError"
        reason = "in none of its formats" if unknown else str(error)
        raise ValueError(f"Expected an image that Pillow can read: {reason}") from None
    return image


def image_bytes(image: Any, media: str = "image/png") -> bytes:
    """The image as a file of one of `IMAGE_FORMS`. Raises ValueError or OSError where it cannot be one."""
    out = io.BytesIO()
    if image.mode in _UNSUITED.get(media, ()):
        image = image.convert("I;16" if media == "image/png" and image.mode == "I" else "RGB")
    image.save(out, IMAGE_FORMS[media])
    return out.getvalue()


def schema_of_file(kind: Any) -> dict[str, Any]:
    """JSON Schema of its form in JSON."""
    schema: dict[str, Any] = {"type": "string", "contentEncoding": "base64"}
    return {**schema, "contentMediaType": "image/*"} if is_image(kind) else schema
