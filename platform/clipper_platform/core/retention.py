"""Which versions, and which environments, are not kept any longer."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

__all__ = ["EnvironmentFacts", "VersionFacts", "expired_versions", "unused_environments"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFacts:
    """A version of a project. `failed`: it never became ready. `needed`: the route leads or returns to it, it runs, or
    it is being built."""

    number: int
    failed: bool = False
    needed: bool = False


def expired_versions(versions: Iterable[VersionFacts], keep: int) -> list[int]:
    """The versions to remove, oldest first: all but the newest `keep` that became ready, the newest `keep` that failed,
    and those that are needed.

    Failed versions are counted apart, so that a series of failed deploys does not take the versions away to which a
    rollback can return. A needed version counts among the newest like any other.
    """
    kept = {False: 0, True: 0}
    expired = []
    for version in sorted(versions, key=lambda version: version.number, reverse=True):
        kept[version.failed] += 1
        if kept[version.failed] > keep and not version.needed:
            expired.append(version.number)
    return expired[::-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentFacts:
    """An environment on the disk. `last_used_at` in Unix seconds. `complete`: its build ended."""

    id: str
    bytes: int
    last_used_at: float
    complete: bool = True


def unused_environments(
    environments: Collection[EnvironmentFacts], *, wanted: Collection[str], now: float, grace_s: float, max_bytes: int
) -> list[EnvironmentFacts]:
    """The environments to remove, in this order: what interrupted builds left; what was not used for `grace_s`; while
    those that stay are larger than `max_bytes` together, the least recently used. Never one that is `wanted`.
    """
    left = sum(environment.bytes for environment in environments)
    unused = []
    for environment in sorted(environments, key=lambda e: (e.complete, e.last_used_at)):
        if environment.id in wanted:
            continue
        over = left > max_bytes
        if over or not environment.complete or environment.last_used_at + grace_s <= now:
            unused.append(environment)
            left -= environment.bytes
    return unused
