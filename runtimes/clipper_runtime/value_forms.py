"""The forms that a value has beside JSON and MessagePack: `.npy` for arrays, images, text, bytes as they are."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from clipper.contract.accept import Accept
from clipper.contract.media_types import NPY, OCTET_STREAM, TEXT
from clipper_runtime.content_negotiation import sniff_image
from clipper_runtime.file_values import IMAGE_FORMS, image_bytes
from clipper_runtime.hints import is_image
from clipper_runtime.type_hooks import is_array

__all__ = ["Encode", "other_forms"]

Encode = Callable[[Any], tuple[bytes, str]]


def other_forms(value: Any, wanted: Accept) -> Iterator[tuple[str, Encode]]:
    """(media type, what makes it). Bytes have the image type of their first bytes, else those that the client names.

    An encoder raises ValueError or OSError.
    """
    if is_array(value):
        yield NPY, _npy
    elif isinstance(value, str):
        yield TEXT, _text
    elif isinstance(value, (bytes, bytearray, memoryview, io.BytesIO)):
        image = sniff_image(_content(value)[:16])
        named = [one.media for one in wanted.ranges if one.kind == "image" and one.exactness == 2]
        for media in (OCTET_STREAM, *([image] if image is not None else named)):
            yield media, partial(_raw, media)
    elif is_image(type(value)):
        for media in IMAGE_FORMS:
            yield media, partial(_image, media)


def _npy(value: Any) -> tuple[bytes, str]:
    from clipper_runtime import arrays

    return arrays.dump_npy(value), NPY


def _text(value: str) -> tuple[bytes, str]:
    return value.encode(), f"{TEXT}; charset=utf-8"


def _raw(media: str, value: Any) -> tuple[bytes, str]:
    return _content(value), media


def _content(value: Any) -> bytes:
    return value.getvalue() if isinstance(value, io.BytesIO) else bytes(value)


def _image(media: str, value: Any) -> tuple[bytes, str]:
    return image_bytes(value, media), media
