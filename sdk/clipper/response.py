"""`clipper.Response`: a value with the media type, status and headers of its HTTP answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from clipper.contract.media_types import JSON, OCTET_STREAM, TEXT
from clipper.contract.response import BODILESS_STATUSES, headers_problem, status_problem

__all__ = ["Response", "is_json"]

_BINARY: Final = (bytes, bytearray, memoryview)


class Response:
    """What a function returns to say more than a value: `Response(page, media_type="text/html", status=201)`.

    `body`: text and bytes are sent as they are, any other value as `media_type`, or in the form that the caller
    accepts; None is an empty body. `media_type`: by default `text/plain` for text and `application/octet-stream` for
    bytes; text has UTF-8 as its charset. A generator may yield one as its first item: the text and bytes that follow
    are then sent as they come.

    `remote` returns a Response as well, whatever its status is. `headers` has lower-case names. Raises ValueError for a
    status, media type or header that an answer cannot have.
    """

    __slots__ = ("body", "headers", "media_type", "status")

    def __init__(
        self,
        body: Any = None,
        *,
        media_type: str | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if problem := status_problem(status) or headers_problem((headers or {}).items()):
            raise ValueError(f"clipper.Response: {problem}")
        if media_type is not None:
            _check_media_type(media_type)
        raw = body is None or isinstance(body, (str, *_BINARY))
        if status in BODILESS_STATUSES and not (body is None or (raw and not len(body))):
            raise ValueError(f"clipper.Response: an answer with status {status} has no body")
        self.body = body
        self.media_type = media_type
        self.status = int(status)
        self.headers: dict[str, str] = {name.lower(): value for name, value in (headers or {}).items()}

    @property
    def content_type(self) -> str:
        """The Content-Type of a body that is sent as it is; empty where the caller's Accept decides, or nothing is
        sent."""
        media = self.media_type
        if media is None:
            media = TEXT if isinstance(self.body, str) else OCTET_STREAM if isinstance(self.body, _BINARY) else ""
        if media.lower().startswith("text/") and "charset" not in media.lower():
            return f"{media}; charset=utf-8"
        return media

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Response):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in Response.__slots__)

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        body = repr(self.body)
        shown = body if len(body) <= 60 else f"{body[:57]}..."
        return f"clipper.Response({shown}, media_type={self.media_type!r}, status={self.status})"


def is_json(media_type: str) -> bool:
    media = media_type.partition(";")[0].strip().lower()
    return media == JSON or media.endswith("+json")


def _check_media_type(media_type: object) -> None:
    problem = headers_problem([("media-type", media_type)])
    kind, slash, subtype = str(media_type).partition(";")[0].strip().partition("/")
    if problem or not (kind and slash and subtype) or not str(media_type).isascii() or len(str(media_type)) > 256:
        raise ValueError(f"clipper.Response: {media_type!r} is no media type, as in text/html")
