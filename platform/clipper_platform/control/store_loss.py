"""How the data of a store differs from what this platform saw in it last: lost, taken back, replaced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

from clipper_platform.store.base import Changes, Project, Record, Route, Version

__all__ = ["Loss", "loss", "vanished"]


class Loss(Enum):
    """The value says it in words."""

    EMPTY = "lost all of its data"
    WRITTEN_BACK = "lost its data, and another platform wrote back what it knew"
    FOREIGN = "holds the data of other platforms now"
    SHORTENED = "lost its newest writes"
    RESTARTED = "runs in another process"  # a restart, or a replica that took over: it may lack the newest writes


def loss(seen: Changes, found: Changes) -> Loss | None:
    """What happened to the data between two polls; None if nothing but writes."""
    if not found.lineage:
        return Loss.EMPTY
    if found.lineage[:1] != seen.lineage[:1]:
        # Data without projects is what a platform makes that starts on a server which lost everything.
        related = not seen.lineage or set(found.lineage) & set(seen.lineage) or "projects" not in found.holds
        return Loss.WRITTEN_BACK if related else Loss.FOREIGN
    if found.revision < seen.revision or (found.revision == seen.revision and seen.holds - found.holds):
        return Loss.SHORTENED
    return Loss.RESTARTED if found.server != seen.server else None


def vanished(known: Sequence[Record], project: Project, versions: Iterable[Version], route: Route | None) -> bool:
    """Whether the store lost a part of a project, as a server does that evicts keys: the route, or a version that it
    needs. `known` is what memory holds, the rest what is stored. A route and what it needs go with their project only.
    """
    if project not in known:
        return False  # deleted and made anew
    if route is None:
        return any(isinstance(record, Route) for record in known)
    return not {route.version, route.previous or route.version} <= {version.number for version in versions}
