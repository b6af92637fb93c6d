"""What the parser lets pass and HTTP/1.1 does not: versions, transfer codings, the host of an absolute target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from clipper_platform.errors import InvalidRequest

__all__ = ["framing_problem", "with_host_of"]

Headers = Sequence[tuple[bytes, bytes]]

_VERSIONS: Final = ("1.0", "1.1")
_SCHEMES: Final = (b"http://", b"https://")


def framing_problem(version: str, headers: Headers) -> InvalidRequest | None:
    """Why the end of such a request is uncertain, or its body not what it seems. `headers`: with lower-case names."""
    if version not in _VERSIONS:
        return InvalidRequest(f"HTTP/{version} is not spoken here: send HTTP/1.1")
    codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    if not codings:
        return None
    if version == "1.0":
        return InvalidRequest("HTTP/1.0 has no Transfer-Encoding")  # RFC 9112 §6.1
    if codings != [b"chunked"]:
        shown = b", ".join(codings)[:60].decode("latin-1")
        return InvalidRequest(
            f"Transfer-Encoding {shown!r} is not supported: send chunked, and pack by Content-Encoding"
        )
    return None


def with_host_of(url: bytes, headers: Headers) -> list[tuple[bytes, bytes]]:
    """The headers with the host of the target where that is absolute: it counts, and not Host (RFC 9112 §3.2.2)."""
    scheme = next((one for one in _SCHEMES if url[: len(one)].lower() == one), b"")
    if not scheme:
        return list(headers)
    rest = url[len(scheme) :]
    end = min((at for at in map(rest.find, (b"/", b"?", b"#")) if at >= 0), default=len(rest))
    host = rest[:end].rpartition(b"@")[2]
    return [(name, host if name == b"host" else value) for name, value in headers]
