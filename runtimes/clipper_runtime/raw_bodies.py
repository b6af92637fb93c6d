"""Bodies that are one argument as they are: bytes, files, images, text. Which media types fill which parameter."""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, get_origin

import msgspec

from clipper.contract.media_types import ANY_IMAGE, ANY_TEXT, OCTET_STREAM
from clipper.contract.wire import Status
from clipper_runtime.file_values import build_file
from clipper_runtime.hints import is_image, plain_type
from clipper_runtime.rejected import Rejected
from clipper_runtime.schema import Parameter

__all__ = ["RawBodies"]


class RawBodies:
    """Of one function. `parameter`: the one that such a body fills, if there is one."""

    def __init__(self, parameter: Parameter | None) -> None:
        self._parameter = parameter
        self._type = plain_type(parameter.type) if parameter is not None else None

    @property
    def content_types(self) -> list[str]:
        if is_image(self._type):
            return [ANY_IMAGE, OCTET_STREAM]
        if self._type in (bytes, io.BytesIO):
            return [OCTET_STREAM, ANY_IMAGE]
        if self._type is Any:
            return [OCTET_STREAM, ANY_IMAGE, ANY_TEXT]
        return [ANY_TEXT] if self._type is str else []

    def reader(self, media: str, charset: str) -> Callable[[bytes], Any] | None:
        """What makes the argument of a body of this type; None where it is no argument of this function.

        Raises Rejected for a charset that is not known. The reader raises Rejected.
        """
        is_text, takes_any = media.startswith("text/"), self._type is Any
        if is_text and (takes_any or self._type is str):
            return partial(self._read_text, charset=_known(charset or "utf-8"))
        if self._type is bytes or (takes_any and _is_binary(media)):
            return self._checked
        if self._type is io.BytesIO or (is_image(self._type) and _is_binary(media)):
            return self._read_file
        return None

    def _read_text(self, body: bytes, *, charset: str) -> Any:
        try:
            return self._checked(body.decode(charset))
        except UnicodeDecodeError:
            raise Rejected(Status.MALFORMED, f"the text is not {charset}") from None

    def _read_file(self, body: bytes) -> Any:
        try:
            return build_file(self._type, body)
        except ValueError as error:
            name = self._parameter.name if self._parameter is not None else ""
            raise Rejected(Status.INVALID, f"{error} - at `$.{name}`") from None

    def _checked(self, value: Any) -> Any:
        """The value within the constraints of its parameter. Raises Rejected."""
        parameter = self._parameter
        if parameter is None:
            return value
        try:
            if parameter.adapter is not None:
                return parameter.adapter.from_python(value, parameter.name)
            return msgspec.convert(value, parameter.type) if get_origin(parameter.type) is Annotated else value
        except msgspec.ValidationError as error:
            message = str(error)
            where = "" if " - at `" in message else f" - at `$.{parameter.name}`"
            raise Rejected(Status.INVALID, message + where) from None


def _is_binary(media: str) -> bool:
    return media == OCTET_STREAM or media.startswith("image/")


def _known(charset: str) -> str:
    try:
        info = codecs.lookup(charset)
        if not info._is_text_encoding:
            raise LookupError(charset)
    except (LookupError, ValueError):
        raise Rejected(
            Status.UNSUPPORTED_MEDIA_TYPE, f"the charset {charset[:60]!r} is not known; send UTF-8"
        ) from None
    return info.name
