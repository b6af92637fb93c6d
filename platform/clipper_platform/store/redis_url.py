"""Checks a Redis URL, and shows it without its password."""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qs, quote, urlsplit

from clipper_platform.errors import InvalidRequest

__all__ = ["checked", "shown"]

# The store sets the client's other options (timeouts, decoding, pool): a URL that changed them would break what the
# store promises.
_ALLOWED_OPTIONS = ("db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")

_HOW = (
    "write redis://HOST:6379/0, rediss://HOST:6380/0 for TLS, or unix:///path/to/redis.sock, "
    "and '/', '?' and '#' in a password as %2F, %3F and %23"
)


def checked(url: str) -> str:
    """Returns the URL if it names a Redis server. Raises InvalidRequest, without quoting a password."""
    try:
        parts = urlsplit(url)
        port_is_right = parts.port is None or parts.port > 0
    except ValueError:
        raise InvalidRequest(f"the store's URL is no URL, or its port is none: {_HOW}") from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise InvalidRequest(f"a store URL with the scheme {parts.scheme!r} is not a Redis server's: {_HOW}")
    has_host = bool(parts.netloc.rpartition("@")[2])
    cut = has_host if parts.scheme == "unix" else "@" in parts.path + parts.query
    if cut or parts.fragment or not port_is_right:
        # What stands before the cut may be half a password: nothing of the URL is quoted.
        raise InvalidRequest(f"the store's URL is cut by a character that means something in URLs: {_HOW}")
    options = parse_qs(parts.query, keep_blank_values=True)
    for option in options:
        if option not in _ALLOWED_OPTIONS:
            raise InvalidRequest(
                f"the option {option!r} in {shown(url)} is not known; known options: {', '.join(_ALLOWED_OPTIONS)}"
            )
    database = options["db"][-1] if "db" in options else parts.path.strip("/") if parts.scheme != "unix" else ""
    if database and not (database.isascii() and database.isdigit()):
        raise InvalidRequest(f"the database {database!r} in {shown(url)} must be a whole number, as in redis://HOST/0")
    if parts.scheme == "unix" and not parts.path:
        raise InvalidRequest("unix:// needs the path of the socket, as in unix:///run/redis/redis.sock")
    return url


def shown(url: str) -> str:
    """The URL for people and logs: without user name, password and options other than `db`."""
    parts = urlsplit(url)
    database = parse_qs(parts.query).get("db")
    return _without_login(parts) + (f"?db={quote(database[-1])}" if database else "")


def _without_login(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
