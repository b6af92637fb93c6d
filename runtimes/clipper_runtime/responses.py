"""`clipper.Response` as the outcome of an item, and as the head of a stream."""

from __future__ import annotations

from typing import Any

from clipper.contract.media_types import JSON
from clipper.contract.response import headers_problem, status_problem
from clipper.contract.wire import Item, Outcome, ResponseHead, Status
from clipper.response import Response, is_json
from clipper_runtime.codec import Codec
from clipper_runtime.rejected import Rejected

__all__ = ["Response", "piece_of_body", "response_body", "response_outcome"]


def response_outcome(codec: Codec, item: Item, response: Response) -> tuple[Outcome, bytes]:
    """The outcome of an item and its body. Raises Rejected."""
    body, content_type, head = response_body(codec, response, item.accept)
    return Outcome(item.id, int(Status.OK), content_type, len(body), response=head), body


def response_body(codec: Codec, response: Response, accept: str) -> tuple[bytes, str, ResponseHead]:
    """(body, content type, head). Raises Rejected."""
    headers = tuple((name.lower(), value) for name, value in response.headers.items())  # they may have been changed
    if problem := status_problem(response.status) or headers_problem(headers):
        raise Rejected(Status.UNENCODABLE, f"clipper.Response: {problem}")
    body, content_type = _encoded(codec, response, accept)
    return body, content_type, ResponseHead(response.status, headers)


def _encoded(codec: Codec, response: Response, accept: str) -> tuple[bytes, str]:
    value, media = response.body, response.media_type
    if value is None:
        return b"", response.content_type
    if isinstance(value, (str, bytes, bytearray, memoryview)):
        return piece_of_body(value), response.content_type
    if media is None:
        return codec.encode(value, accept)
    if is_json(media):
        return codec.encode(value, JSON)[0], media
    try:
        return codec.encode(value, media)
    except Rejected as error:
        if error.status is not Status.NOT_ACCEPTABLE:
            raise
        raise Rejected(
            Status.UNENCODABLE, f"clipper.Response: a body of type {type(value).__name__} cannot be {media[:100]}"
        ) from None


def piece_of_body(value: Any) -> bytes:
    """Text or bytes as they are sent. Raises Rejected."""
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise Rejected(Status.UNENCODABLE, f"clipper.Response: the text is not UTF-8: {error}") from None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise Rejected(
        Status.UNENCODABLE,
        f"after a clipper.Response a generator yields text and bytes, not {type(value).__name__}",
    )
