"""What the headers of an invocation's request mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from clipper.contract.accept import Accept
from clipper.contract.media_types import EVENT_STREAM, JSON, MSGPACK, NDJSON, NPY, OCTET_STREAM, TEXT
from clipper_platform.errors import InvalidRequest
from clipper_platform.gateway.http.answer_coding import preferred_coding

__all__ = ["RequestHead", "media_type", "prefers_msgpack", "read_head"]


_OTHER_CHARSET: Final = re.compile(rb"charset\s*=\s*\"?(?!utf-?8|us-ascii)")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """The headers that an invocation depends on, without the request's id, so that equal requests share one head."""

    content_type: str = JSON
    accept: str = "*/*"
    authorization: str | None = None
    timeout_ms: bytes = b""
    encoding: bytes = b""
    coding: str = ""  # that the answer may have; of those that the client accepts, what it prefers

    @property
    def stream_type(self) -> str:
        """EVENT_STREAM or NDJSON where the caller wants items one by one, else empty."""
        return _stream_type(self.accept)

    def timeout_s(self, limit_s: float) -> float:
        """Seconds that the invocation may take, at most `limit_s`. Raises InvalidRequest."""
        if not self.timeout_ms:
            return limit_s
        try:
            milliseconds = float(self.timeout_ms)
        except ValueError:
            milliseconds = 0.0
        if not 0 < milliseconds < float("inf"):
            raise InvalidRequest(
                f"X-Clip-Timeout-Ms: {self.timeout_ms.decode('latin-1')!r} is not a number of milliseconds above 0"
            )
        return min(limit_s, milliseconds / 1000)


@lru_cache(maxsize=1024)
def _stream_type(header: str) -> str:
    """The form of a stream that the client wants more than any form of a whole answer.

    It has to name it, unless it takes no whole answer: `*/*` is JSON, `text/*` is events.
    """
    accept = Accept.parse(header)
    streams = [(found, kind) for kind in (EVENT_STREAM, NDJSON) if (found := accept.preference(kind)) is not None]
    if not streams:
        return ""
    best, kind = max(streams, key=lambda stream: stream[0])
    named = [one.media for one in accept.ranges if one.kind == "image" or one.media == TEXT]
    whole = [found for form in (JSON, MSGPACK, NPY, OCTET_STREAM, *named) if (found := accept.preference(form))]
    if whole and (best[1] < 2 or max(whole) > best):
        return ""
    return kind


@lru_cache(maxsize=1024)
def prefers_msgpack(header: str) -> bool:
    """Whether a client takes MessagePack rather than JSON."""
    accept = Accept.parse(header)
    return (accept.preference(MSGPACK) or (0.0, 0, 0)) > (accept.preference(JSON) or (0.0, 0, 0))


@lru_cache(maxsize=1024)  # clients repeat the same few values
def media_type(value: bytes) -> str:
    """The type in lower case, without its parameters but for those that the decoding needs: the boundary of a form, and
    a charset other than UTF-8."""
    kind, _, parameters = value.partition(b";")
    media = kind.strip().lower()
    if media.startswith(b"multipart/") or (parameters and _OTHER_CHARSET.search(value.lower())):
        media += b";" + parameters
    return media.decode("latin-1")


def read_head(headers: Iterable[tuple[bytes, bytes]]) -> RequestHead:
    """The head in header pairs with lower-case names; of a header given twice, the last one counts, but `Accept`,
    `Accept-Encoding` and `Content-Encoding` are lists that may be cut. Never raises."""
    content_type, accept, authorization, timeout_ms, encoding, codings = JSON, "", None, b"", b"", ""
    for name, value in headers:
        if name == b"content-type":
            content_type = media_type(value) or JSON
        elif name == b"accept":
            accept += ("," if accept else "") + value.decode("latin-1")
        elif name == b"authorization":
            authorization = value.decode("latin-1")
        elif name == b"x-clip-timeout-ms":
            timeout_ms = value
        elif name == b"content-encoding":
            encoding += (b"," if encoding else b"") + value
        elif name == b"accept-encoding":
            codings += ("," if codings else "") + value.decode("latin-1")
    return RequestHead(
        content_type=content_type,
        accept=accept or "*/*",
        authorization=authorization,
        timeout_ms=timeout_ms,
        encoding=encoding,
        coding=preferred_coding(codings) if codings else "",
    )
