"""How the data of a store differs from what this platform saw in it last: lost, taken back, replaced."""

from __future__ import annotations

from enum import Enum

from clipper_platform.store.base import Changes

__all__ = ["Loss", "loss"]


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
