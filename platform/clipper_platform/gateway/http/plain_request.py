"""Which requests the fast path takes: a rule over the parsed head."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from clipper_platform.gateway.http.request_head import RequestHead, read_head

__all__ = ["PlainRequest", "plain_request"]

PREFIX: Final = b"/fn/"
APPLICATION: Final = re.compile(rb"/([\w-]+)/predict/?\Z")
# Headers of requests that need more than an invocation and its answer.
SPECIAL_HEADERS: Final = frozenset(
    {
        *(b"expect", b"origin", b"sec-fetch-site", b"upgrade", b"prefer", b"idempotency-key", b"content-encoding"),
        *(b"traceparent", b"x-request-id"),  # the latter: given twice, as the protocol takes the first one out
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainRequest:
    """`path`: `project/function[@version]`; empty for a query of `application`. `keeps_alive`: an HTTP/1.1 request with
    these headers keeps its connection open. An HTTP/1.0 request with the same headers does not, and so is not taken for
    an equal one."""

    path: str
    application: str = ""
    head: RequestHead
    keeps_alive: bool


def plain_request(
    url: bytes, headers: Sequence[tuple[bytes, bytes]], host_allowed: Callable[[str], bool]
) -> PlainRequest | None:
    """The plain request that a POST is, else None. `headers`: with lower-case names."""
    application = ""
    if not url.startswith(PREFIX):
        found = APPLICATION.match(url)
        if found is None:
            return None
        application = found[1].decode()
    elif b"?" in url or b"%" in url or b"#" in url or not url.isascii():
        return None
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1 or not host_allowed(hosts[0].decode("latin-1")):
        return None
    if any(name in SPECIAL_HEADERS for name, _ in headers):
        return None
    head = read_head(headers)
    if head.stream_type or head.content_type.startswith("multipart/"):  # each has a boundary of its own
        return None
    keeps_alive = all(name != b"connection" or value.lower() == b"keep-alive" for name, value in headers)
    path = "" if application else url[len(PREFIX) :].decode()
    return PlainRequest(path=path, application=application, head=head, keeps_alive=keeps_alive)
