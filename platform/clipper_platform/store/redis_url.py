"""Reads a Redis URL: where the server is, what keys begin with, and how the URL is shown without its password."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlencode, urlsplit

from clipper_platform.errors import InvalidRequest
from clipper_platform.store.redis_keys import DEFAULT_PREFIX, RedisKeys

__all__ = ["RedisAddress", "parsed", "shown"]

SENTINEL_PORT = 26379

# The store sets the client's other options (timeouts, decoding, pool): a URL that changed them would break what the
# store promises.
_CLIENT_OPTIONS = ("db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")

# Scheme → that of a connection to the server itself.
_SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "redis+sentinel": "redis",
    "rediss+sentinel": "rediss",
}

_HOW = (
    "write redis://HOST:6379/0, rediss://HOST:6380/0 for TLS, unix:///path/to/redis.sock, or "
    "redis+sentinel://HOST:26379,HOST:26379/SERVICE/0, and '/', '?' and '#' in a password as %2F, %3F and %23"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """`url` is what the client library reads: of the server, or with `sentinels` of the first of them in its place."""

    url: str
    shown: str
    prefix: str
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""  # the name that the Sentinels know the server by
    sentinel_username: str | None = None
    sentinel_password: str | None = None


def parsed(url: str) -> RedisAddress:
    """Raises InvalidRequest, without quoting a password, for a URL that names no Redis server."""
    parts, sentinel = _split(url)
    hosts = _hosts(parts) if sentinel else ()
    options = _options(parts, sentinel)
    path = parts.path
    service = ""
    if sentinel:
        service, _, database = path.strip("/").partition("/")
        if not service:
            raise InvalidRequest(
                f"{shown(url)} names no service: write the name that Sentinel knows the master by, as in "
                "redis+sentinel://HOST:26379/mymaster/0"
            )
        path = f"/{database}" if database else ""
    database = options["db"] if "db" in options else path.strip("/") if parts.scheme != "unix" else ""
    if database and not (database.isascii() and database.isdigit()):
        raise InvalidRequest(f"the database {database!r} in {shown(url)} must be a whole number, as in redis://HOST/0")
    if parts.scheme == "unix" and not parts.path:
        raise InvalidRequest("unix:// needs the path of the socket, as in unix:///run/redis/redis.sock")
    netloc = parts.netloc
    if sentinel:
        login, separator, _ = parts.netloc.rpartition("@")
        netloc = f"{login}{separator}sentinel"
    query = urlencode({name: value for name, value in options.items() if name in _CLIENT_OPTIONS})
    return RedisAddress(
        url=f"{_SCHEMES[parts.scheme]}://{netloc}{path}" + (f"?{query}" if query else ""),
        shown=shown(url),
        prefix=_prefix(options.get("prefix")),
        sentinels=hosts,
        service=unquote(service),
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
    )


def _split(url: str) -> tuple[SplitResult, bool]:
    """The parts of the URL, and whether it names Sentinels."""
    try:
        parts = urlsplit(url)
        sentinel = parts.scheme.endswith("+sentinel")
        port_is_right = sentinel or parts.port is None or parts.port > 0
    except ValueError:
        raise InvalidRequest(f"the store's URL is no URL, or its port is none: {_HOW}") from None
    if parts.scheme not in _SCHEMES:
        raise InvalidRequest(f"a store URL with the scheme {parts.scheme!r} is not a Redis server's: {_HOW}")
    has_host = bool(parts.netloc.rpartition("@")[2])
    cut = has_host if parts.scheme == "unix" else "@" in parts.path + parts.query
    if cut or parts.fragment or not port_is_right:
        # What stands before the cut may be half a password: nothing of the URL is quoted.
        raise InvalidRequest(f"the store's URL is cut by a character that means something in URLs: {_HOW}")
    return parts, sentinel


def _hosts(parts: SplitResult) -> tuple[tuple[str, int], ...]:
    """The Sentinels of `HOST:PORT,HOST:PORT`."""
    found = []
    for place in parts.netloc.rpartition("@")[2].split(","):
        try:
            one = urlsplit(f"//{place}")
            host, port = one.hostname, one.port or SENTINEL_PORT
        except ValueError:
            host = None
        if not host:
            raise InvalidRequest(f"{shown(parts.geturl())} does not name its Sentinels: {_HOW}")
        found.append((host, port))
    return tuple(found)


def _options(parts: SplitResult, sentinel: bool) -> dict[str, str]:
    allowed = (*_CLIENT_OPTIONS, "prefix", *(_SENTINEL_OPTIONS if sentinel else ()))
    options = parse_qs(parts.query, keep_blank_values=True)
    for option in options:
        if option not in allowed:
            raise InvalidRequest(
                f"the option {option!r} in {shown(parts.geturl())} is not known; known options: {', '.join(allowed)}"
            )
    return {name: values[-1] for name, values in options.items()}


def _prefix(given: str | None) -> str:
    """What every key begins with: `team-a` is taken as `team-a:`."""
    if given is None:
        return DEFAULT_PREFIX
    return RedisKeys(f"{given}:" if given[-1:].isalnum() else given).prefix


def shown(url: str) -> str:
    """The URL for people and logs: without user name, password and options other than `db` and `prefix`."""
    parts = urlsplit(url)
    found = parse_qs(parts.query)
    kept = "&".join(f"{name}={quote(found[name][-1], safe=':')}" for name in ("db", "prefix") if name in found)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" + (f"?{kept}" if kept else "")
