"""What a function may say about its HTTP answer: the status, and headers that are not the platform's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = [
    "BODILESS_STATUSES",
    "MAX_HEADERS",
    "MAX_HEADER_BYTES",
    "RESPONSE_MARK",
    "header_problem",
    "headers_problem",
    "status_problem",
]

RESPONSE_MARK: Final = "x-clip-response"
"""A header of answers whose status and type the function chose: a 404 of a function is not the platform's."""

BODILESS_STATUSES: Final = frozenset({204, 205, 304})
# All headers of one answer; clients and proxies take 8 KiB to 64 KiB together with the platform's.
MAX_HEADERS: Final = 64
MAX_HEADER_BYTES: Final = 8 * 1024

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # a token of RFC 9110 §5.6.2
_VALUE: Final = re.compile(r"[\t -~\x80-\xff]*")

_FRAMING: Final = "is set by the server"
_HOP: Final = "belongs to the connection, not to the answer"
_SHARED: Final = "would hold for all functions, which share one address"
_RESERVED: Final = {
    **dict.fromkeys(("content-length", "date", "server", "cache-status", "server-timing", "x-request-id"), _FRAMING),
    **dict.fromkeys(("connection", "keep-alive", "proxy-connection", "proxy-authenticate", "te", "trailer"), _HOP),
    **dict.fromkeys(("transfer-encoding", "upgrade", "http2-settings"), _HOP),
    **dict.fromkeys(("set-cookie", "clear-site-data", "strict-transport-security", "alt-svc"), _SHARED),
    **dict.fromkeys(("service-worker-allowed", "refresh"), _SHARED),
    "content-type": "is the response's media_type",
}
_RESERVED_PREFIXES: Final = {"x-clip-": _FRAMING, "access-control-": "is the platform's --cors-origin"}


def status_problem(status: object) -> str:
    """Why this is no status of a whole answer; empty if it is one."""
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        return f"status = {status!r} is not allowed: it must be a whole number from 200 to 599"
    return ""


def header_problem(name: object, value: object) -> str:
    """Why a function may not set this header; empty if it may."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"{name!r} is no name of a header"
    if not isinstance(value, str) or not _VALUE.fullmatch(value) or value != value.strip():
        return f"the header {name} cannot have the value {value!r}: it must be text of one line, in Latin-1"
    lower = name.lower()
    reason = _RESERVED.get(lower) or next((r for p, r in _RESERVED_PREFIXES.items() if lower.startswith(p)), "")
    return f"the header {name} cannot be set by a function: it {reason}" if reason else ""


def headers_problem(headers: Iterable[tuple[object, object]]) -> str:
    """The first problem of the headers of an answer; empty if there is none."""
    count = size = 0
    for name, value in headers:
        if problem := header_problem(name, value):
            return problem
        count += 1
        size += len(str(name)) + len(str(value)) + 4
    if count > MAX_HEADERS or size > MAX_HEADER_BYTES:
        return f"the headers are too many or too long: at most {MAX_HEADERS}, of {MAX_HEADER_BYTES} bytes together"
    return ""
