"""Checks of the Redis server that holds the metadata, and translation of its errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TimeoutError,
)

from clipper_platform.errors import StoreUnavailable
from clipper_platform.store.redis_scripts import DATA_LOST

__all__ = ["SCHEMA", "check_schema", "check_server", "lost", "risks", "translate"]

# The layout that `redis_keys` describes. 2 has the same keys as 1 and records with revisions, which a Clipper of 1
# would drop again.
SCHEMA = 2

# Streams came with 5.0; nothing older than 6 is maintained anywhere.
MINIMUM_VERSION = (6, 0)


def check_server(info: Mapping[str, Any], where: str) -> None:
    """Raises StoreUnavailable if the server, by its own INFO, cannot be the store."""
    version = str(info.get("redis_version", "unknown"))
    parts = version.split(".")
    if not all(part.isdigit() for part in parts[:2]) or tuple(map(int, parts[:2])) < MINIMUM_VERSION:
        wanted = ".".join(map(str, MINIMUM_VERSION))
        raise StoreUnavailable(f"the server at {where} is Redis {version}: the store needs {wanted} or newer")
    if info.get("redis_mode") == "cluster":
        raise StoreUnavailable(
            f"the server at {where} is part of a Redis cluster: the store changes several keys at once and needs a "
            "single server (or its Sentinel-managed master)"
        )
    if info.get("role") != "master":
        raise StoreUnavailable(f"the server at {where} is a read-only replica: name its master")


def risks(info: Mapping[str, Any], snapshots: str | None, where: str) -> Iterator[str]:
    """Warnings about settings that could lose the metadata. `snapshots`: the server's `save` setting, if known."""
    if info.get("maxmemory") and str(info.get("maxmemory_policy", "")).startswith("allkeys-"):
        yield (
            f"the Redis server at {where} drops keys when its memory is full (maxmemory-policy "
            f"{info['maxmemory_policy']}), the store's too: set it to noeviction"
        )
    if snapshots == "" and not info.get("aof_enabled"):
        yield (
            f"the Redis server at {where} keeps nothing on disk: a restart of it loses every project; "
            "set appendonly yes"
        )


def check_schema(found: bytes, where: str, key: str) -> None:
    """Raises StoreUnavailable if the data under the prefix is of a newer Clipper, or of another program."""
    if not found.isdigit():
        raise StoreUnavailable(f"{key} at {where} holds {found[:40]!r}, not a number: choose another key prefix")
    if int(found) > SCHEMA:
        raise StoreUnavailable(
            f"the data at {where} was written by a newer Clipper (its schema is {int(found)}, this one knows up to "
            f"{SCHEMA}): upgrade Clipper, or choose another database or key prefix"
        )


def lost(where: str) -> StoreUnavailable:
    """The server does not hold the data that the platform works with."""
    return StoreUnavailable(
        f"the Redis server at {where} lost the platform's data; what the platform knows is being written back, "
        "try again in a moment",
        retry_after_s=2.0,
    )


def translate(error: RedisError | OSError, where: str) -> StoreUnavailable:
    """Any error of the client as StoreUnavailable."""
    if str(error).startswith(DATA_LOST):
        return lost(where)
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return StoreUnavailable(
            f"the Redis server at {where} has a certificate that is not trusted: name the file of its authority with "
            f"ssl_ca_certs= in the store's URL ({error})"
        )
    words = next((words for kinds, words in _WORDS if isinstance(error, kinds)), "refused a command of the store")
    detail = f" ({error})" if str(error) else ""
    waiting_helps = isinstance(error, _PASSING) and not isinstance(error, (AuthenticationError, AuthorizationError))
    return StoreUnavailable(
        f"the Redis server at {where} {words}{detail}", retry_after_s=1.0 if waiting_helps else None
    )


# What ends by itself where the server starts or a network comes back.
_PASSING = (BusyLoadingError, TimeoutError, ConnectionError, OSError)

# First match: the client's exceptions derive from each other.
_WORDS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((AuthenticationError, AuthorizationError), "refused the user name or password: check the store's URL"),
    ((NoPermissionError,), "lets this user do too little: grant it the store's keys, EVAL and INFO"),
    ((BusyLoadingError,), "is still loading its data: try again soon"),
    ((TimeoutError, OSError), "did not answer in time or cannot be reached"),
    ((ConnectionError,), "cannot be reached"),
    ((ReadOnlyError,), "became a read-only replica: name its master"),
    ((OutOfMemoryError,), "has no memory left: raise its maxmemory"),
)
