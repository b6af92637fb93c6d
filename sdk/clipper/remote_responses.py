"""`clipper.Response` as a caller gets it back: from the status, the headers and the body of an answer."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from clipper.contract.response import RESPONSE_MARK, header_problem, status_problem
from clipper.errors import UnexpectedAnswer
from clipper.response import Response

__all__ = ["OwnStream", "body_of", "is_own", "response_of"]

_CHARSET: Final = re.compile(r";\s*charset=\"?([^\s;\"]+)", re.IGNORECASE)
_NOT_OWN: Final = frozenset({"content-encoding", "vary", "x-accel-buffering"})  # of the way here


def is_own(headers: Mapping[str, str]) -> bool:
    """Whether the function wrote the answer, with a status of its own that may be one of errors."""
    return RESPONSE_MARK in headers


def response_of(status: int, headers: Mapping[str, str], body: Any) -> Response:
    """The Response that the function returned, without the platform's headers. Raises UnexpectedAnswer."""
    if problem := status_problem(status):
        raise UnexpectedAnswer(f"the answer of the function: {problem}")
    own = {
        name: value
        for name, value in headers.items()
        if name.lower() not in _NOT_OWN and not header_problem(name, value)
    }
    return Response(body, media_type=headers.get("content-type") or None, status=status, headers=own)


def body_of(content: bytes, headers: Mapping[str, str]) -> str | bytes:
    """Text where the type is text, else the bytes."""
    content_type = headers.get("content-type", "")
    if not content_type.lower().startswith("text/"):
        return content
    try:
        return content.decode(_charset(content_type))
    except UnicodeDecodeError:
        return content


def _charset(content_type: str) -> str:
    found = _CHARSET.search(content_type)
    try:
        return codecs.lookup(found[1]).name if found is not None else "utf-8"
    except LookupError:
        return "utf-8"


class OwnStream:
    """An answer that a generator writes itself: its head as a Response, then its text or bytes as they come."""

    ended = False  # it ends with the answer

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self._head = response_of(status, headers, None)
        content_type = headers.get("content-type", "")
        is_text = content_type.lower().startswith("text/")
        self._decoder = codecs.getincrementaldecoder(_charset(content_type))("replace") if is_text else None

    def begin(self) -> Iterator[Any]:
        yield self._head

    def feed(self, piece: bytes) -> Iterator[Any]:
        found = self._decoder.decode(piece) if self._decoder is not None else piece
        if found:
            yield found

    def check_ended(self) -> None:
        return
