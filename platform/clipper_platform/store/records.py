"""What the stores share: records to and from JSON, compare-and-set, and the messages of refusals."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from clipper_platform.errors import Conflict, InvalidRequest, NotFound, StoreUnavailable
from clipper_platform.store.base import EVENTS_KEPT, Application, Event, Key, Policy, Project, Record, Route, Version

__all__ = [
    "changed",
    "changed_secret",
    "check_deletable",
    "decode",
    "encode",
    "event_window",
    "is_newer",
    "next_secret",
    "no_application",
    "no_policy",
    "no_project",
    "no_version",
    "not_unicode",
    "numbered",
    "storable",
    "successor",
    "text",
]

R = TypeVar("R", Project, Version, Route, Key, Policy, Application, Event)
Revised = TypeVar("Revised", Version, Route, Key, Policy, Application)

_MEANWHILE = "was changed by someone else meanwhile: look and try again"

# Numbers above fit neither SQLite's integers nor Redis' stream ids; no version or event will ever have one.
MAX_NUMBER = 2**63 - 1


def encode(record: Record | Event) -> bytes:
    """The record as JSON. Raises InvalidRequest for text that UTF-8 cannot carry."""
    try:
        return msgspec.json.encode(record)
    except UnicodeEncodeError as error:
        raise not_unicode(error) from error


def decode(kind: type[R], data: bytes, where: str) -> R:
    """The reverse of `encode`. Raises StoreUnavailable, naming the store, for what no Clipper wrote."""
    try:
        record = msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise StoreUnavailable(
            f"the store at {where} holds a {kind.__name__.lower()} that cannot be read ({error}): "
            "it was changed by something else; restore it from a backup"
        ) from error
    if getattr(record, "revision", None) == 0:
        # Stored by a Clipper whose versions, keys and policies had no revision: 0 would mean that it is not stored.
        return msgspec.structs.replace(record, revision=1)
    return record


def storable(record: R) -> R:
    """The record as reading it back will give it: JSON values only, sharing nothing with the caller's."""
    return msgspec.json.decode(encode(record), type=type(record))


def numbered(version: Version, number: int) -> Version:
    """The version as it is added under this number."""
    return msgspec.structs.replace(version, number=number, revision=1)


def successor(record: Revised, stored: Revised | None) -> Revised:
    """What a compare-and-set of `record` stores in place of `stored`; `stored` itself where the same write arrived
    before. Raises Conflict where another writer was first."""
    new = storable(msgspec.structs.replace(record, revision=record.revision + 1))
    if stored is not None and stored == new:
        return stored
    if (stored.revision if stored is not None else 0) != record.revision:
        raise changed(record)
    return new


def is_newer(record: Record, stored: Record | None) -> bool:
    """Whether `put_back` of the record replaces what is stored."""
    if stored is None:
        return True
    if isinstance(record, Project) or isinstance(stored, Project):
        return False  # a project has no revision: the stored one counts
    if isinstance(record, Version) and isinstance(stored, Version) and record.identity != stored.identity:
        return False  # another platform was given the number
    return stored.revision < record.revision


def check_deletable(version: Version, *, stored: Version, route: Route | None) -> None:
    """Raises Conflict where another writer was first, or where the project's route needs the version."""
    if stored.revision != version.revision:
        raise changed(version)
    if route is not None and version.number in (route.version, route.previous):
        raise Conflict(f"the route of project {version.project!r} needs version {version.number}")


def next_secret(name: str, value: str | None, *, expected: str | None, stored: str | None) -> bool:
    """Whether a compare-and-set of a secret has to be carried out: not if it arrived before. Raises Conflict where
    another writer was first, InvalidRequest for text that UTF-8 cannot carry."""
    try:
        (name + (value or "")).encode()
    except UnicodeEncodeError as error:
        raise not_unicode(error) from error
    if stored == value:
        return False
    if stored != expected:
        raise changed_secret(name)
    return True


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


def no_application(name: str) -> NotFound:
    return NotFound(f"there is no application {name!r}")


def no_policy(project: str, function: str) -> NotFound:
    return NotFound(f"function '{project}/{function}' has no policy")


def changed(record: Record) -> Conflict:
    """Another writer was first."""
    match record:
        case Project(name=name):
            what = f"project {name!r}"
        case Version(project=project, number=number):
            what = f"version {number} of project {project!r}"
        case Route(project=project):
            what = f"the route of project {project!r}"
        case Key(id=id):
            what = f"the key {id!r}"
        case Policy(project=project, function=function):
            what = f"the policy of '{project}/{function}'"
        case Application(name=name):
            what = f"application {name!r}"
    return Conflict(f"{what} {_MEANWHILE}")


def changed_secret(name: str) -> Conflict:
    return Conflict(f"the secret {name!r} {_MEANWHILE}")


def not_unicode(error: UnicodeEncodeError) -> InvalidRequest:
    return InvalidRequest(f"text holds {error.object[error.start]!r}, a surrogate that is no character of Unicode")
