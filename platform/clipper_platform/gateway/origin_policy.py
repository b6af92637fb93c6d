"""Which hosts and origins of requests are allowed. Decisions only, shared by every HTTP path.

On a loopback bind, any web page that a developer opens could otherwise reach the platform: by a form or a script from
its own origin, or under a name of its own that resolves to 127.0.0.1 (DNS rebinding). Therefore the Host must be a
loopback name, and a cross-origin request of a browser is refused unless its origin is allowed.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from clipper_platform.errors import Forbidden

__all__ = ["OriginPolicy", "is_loopback", "is_loopback_authority"]

ALLOWED_METHODS: Final = "GET, HEAD, POST, PUT, DELETE"
ALLOWED_HEADERS: Final = (
    "Accept, Authorization, Content-Type, Idempotency-Key, Prefer, X-Clip-Timeout-Ms, X-Request-Id, traceparent"
)
EXPOSED_HEADERS: Final = (
    "Cache-Status, Location, Retry-After, Server-Timing, X-Clip-Default, X-Clip-Version, X-Request-Id"
)
PREFLIGHT_MAX_AGE_S: Final = 600

_AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\[\]:@/?#\s]*)(:(?P<port>\d{0,5}))?\Z")


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address, without a port) is this machine and nothing else."""
    name = host.strip("[]").lower().rstrip(".")
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or (mapped is not None and mapped.is_loopback)


@lru_cache(maxsize=256)
def is_loopback_authority(authority: str) -> bool:
    """As `is_loopback`, for the value of a Host header with any port."""
    match = _AUTHORITY.match(authority)
    return match is not None and is_loopback(match["host"])


def _origin(value: str) -> str:
    """`scheme://host:port` in one form: lower case, the scheme's own port left out. Raises ValueError."""
    parts = urlsplit(value.strip().rstrip("/"))
    if not parts.scheme or not parts.hostname or parts.path or parts.query or parts.fragment or parts.username:
        raise ValueError(f"{value!r} is not an origin: write scheme://host or scheme://host:port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port not in (None, default) else "")


class OriginPolicy:
    """`bind`: the host that the platform listens on. `cors_origins`: origins of browsers that may call, or `*`.

    Raises ValueError for something that is not an origin.
    """

    def __init__(self, bind: str, cors_origins: tuple[str, ...] = ()) -> None:
        self.loopback = is_loopback(bind)
        self._any = "*" in cors_origins
        self._allowed = frozenset(_origin(value) for value in cors_origins if value != "*")

    def allows_host(self, host: str) -> bool:
        """Whether the Host header's value is allowed. Cheap enough for every request."""
        return not self.loopback or is_loopback_authority(host)

    def check_host(self, host: str | None) -> None:
        """Raises Forbidden."""
        if not self.allows_host(host or ""):
            raise Forbidden(
                f"the host {host or ''!r} is refused: this platform listens on this machine only and answers to "
                "localhost, 127.0.0.1 and [::1]"
            )

    def allows(self, origin: str) -> bool:
        """Whether `--cors-origin` names this origin."""
        if self._any:
            return True
        try:
            return _origin(origin) in self._allowed
        except ValueError:
            return False

    def check_origin(self, origin: str | None, fetch_site: str | None, host: str | None) -> bool:
        """Refuse a browser's cross-origin request unless its origin is allowed; True if the answer needs CORS headers.

        `origin`, `fetch_site`, `host`: the headers Origin, Sec-Fetch-Site and Host. Raises Forbidden. On a bind that
        is not loopback, keys decide, and other origins only get no CORS headers.
        """
        if origin is None:
            crossed = fetch_site in ("cross-site", "same-site") and not self._any
        elif self.allows(origin):
            return True
        else:
            crossed = not _same_host(origin, host)
        if crossed and self.loopback:
            named = f"from {origin!r} " if origin else ""
            raise Forbidden(
                f"a browser's cross-origin request {named}is refused: start the platform with "
                f"--cors-origin {origin or 'ORIGIN'} to allow it"
            )
        return False

    def cors_headers(self, origin: str) -> list[tuple[bytes, bytes]]:
        """For answers to an allowed origin."""
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", EXPOSED_HEADERS.encode()),
            (b"vary", b"Origin"),
        ]

    def preflight_headers(self, private_network: bool) -> list[tuple[bytes, bytes]]:
        """For the answer to an allowed origin's preflight, beside `cors_headers`."""
        headers = [
            (b"access-control-allow-methods", ALLOWED_METHODS.encode()),
            (b"access-control-allow-headers", ALLOWED_HEADERS.encode()),
            (b"access-control-max-age", str(PREFLIGHT_MAX_AGE_S).encode()),
        ]
        if private_network:
            headers.append((b"access-control-allow-private-network", b"true"))
        return headers


def _same_host(origin: str, host: str | None) -> bool:
    """Whether the origin's host and port are those of the Host header. The scheme may differ: a proxy may end TLS."""
    try:
        parts = urlsplit(origin)
        mine = urlsplit(f"//{host or ''}")
        default = {"http": 80, "https": 443}.get(parts.scheme)
        if parts.hostname is None or default is None:
            return False
        return (parts.hostname, parts.port or default) == (mine.hostname, mine.port or default)
    except ValueError:
        return False
