"""What the three stores share: records to and from JSON, the changes made to them, and the words of refusals."""

from __future__ import annotations

from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from clipper_platform.errors import Conflict, InvalidRequest, NotFound, StoreUnavailable
from clipper_platform.store.base import EVENTS_KEPT, Event, Key, Policy, Project, Route, Version

__all__ = [
    "decode",
    "encode",
    "event_window",
    "key_taken",
    "lost_race",
    "no_key",
    "no_policy",
    "no_project",
    "no_secret",
    "no_version",
    "not_unicode",
    "numbered",
    "revised",
    "revoked",
    "routed",
    "storable",
    "text",
]

R = TypeVar("R", Project, Version, Route, Key, Policy, Event)

STATES: tuple[str, ...] = get_args(get_type_hints(Version)["state"])

# Numbers above fit neither SQLite's integers nor Redis' stream ids; no version or event will ever have one.
MAX_NUMBER = 2**63 - 1


def encode(record: Project | Version | Route | Key | Policy | Event) -> bytes:
    """The record as JSON. Raises InvalidRequest for text that UTF-8 cannot carry."""
    try:
        return msgspec.json.encode(record)
    except UnicodeEncodeError as error:
        raise not_unicode(error) from error


def decode(kind: type[R], data: bytes, where: str) -> R:
    """The reverse of `encode`. Raises StoreUnavailable, naming the store, for what no Clipper wrote."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise StoreUnavailable(
            f"the store at {where} holds a {kind.__name__.lower()} that cannot be read ({error}): "
            "it was changed by something else; restore it from a backup"
        ) from error


def storable(record: R) -> R:
    """The record as reading it back will give it: JSON values only, sharing nothing with the caller's."""
    return msgspec.json.decode(encode(record), type=type(record))


def numbered(version: Version, number: int) -> Version:
    return msgspec.structs.replace(version, number=number)


def revised(version: Version, *, state: str, detail: str, schemas: dict[str, Any] | None) -> Version:
    """The version after `update_version`. Raises ValueError for a state that is none."""
    if state not in STATES:
        raise ValueError(f"state = {state!r} is not allowed: it must be one of {', '.join(STATES)}")
    changes: dict[str, Any] = {"state": state, "detail": detail}
    if schemas is not None:
        changes["schemas"] = schemas
    return storable(msgspec.structs.replace(version, **changes))


def routed(route: Route, expected_revision: int) -> Route:
    """The route as `set_route` stores it."""
    return msgspec.structs.replace(route, revision=expected_revision + 1)


def revoked(key: Key, at: float) -> Key:
    """The key after `revoke_key`: the first revocation counts."""
    return key if key.revoked_at is not None else msgspec.structs.replace(key, revoked_at=at)


def event_window(after: int, limit: int) -> tuple[int, int]:
    """`after` and `limit` of `list_events` brought to what every store can take."""
    return min(max(after, 0), MAX_NUMBER - 1), min(max(limit, 0), EVENTS_KEPT)


def text(value: str | bytes) -> str:
    """What a driver gives as bytes or text, as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def no_project(name: str) -> NotFound:
    return NotFound(f"there is no project {name!r}")


def no_version(project: str, number: int) -> NotFound:
    return NotFound(f"project {project!r} has no version {number}")


def no_key(key_id: str) -> NotFound:
    return NotFound(f"there is no key {key_id!r}")


def no_secret(project: str, name: str) -> NotFound:
    return NotFound(f"project {project!r} has no secret {name!r}")


def no_policy(project: str, function: str) -> NotFound:
    return NotFound(f"function '{project}/{function}' has no policy")


def key_taken(key_id: str) -> Conflict:
    return Conflict(f"another key has the id {key_id!r}")


def lost_race(project: str) -> Conflict:
    return Conflict(f"the route of project {project!r} was changed by someone else meanwhile: look and try again")


def not_unicode(error: UnicodeEncodeError) -> InvalidRequest:
    return InvalidRequest(f"text holds {error.object[error.start]!r}, a surrogate that is no character of Unicode")
