"""What becomes of an invocation whose replica was lost under it."""

from __future__ import annotations

from clipper_platform.backends.base import Exit
from clipper_platform.errors import ClipperError, Quarantined, ReplicaLost, Unavailable
from clipper_platform.serving.invocation import Invocation

__all__ = ["error_after_loss"]

QUARANTINE_AFTER = 2  # replicas that an invocation may end before it is given up


def error_after_loss(invocation: Invocation, exit: Exit, *, max_retries: int, closed: str) -> ClipperError | None:
    """The error that it ends with, or None: it is tried elsewhere. `closed`: why nothing new is begun, if so.

    Items of one batch that ended a replica are all suspect; each runs alone from then on, so that the innocent get
    their answers and the one that ends a second replica is known.
    """
    if invocation.blamed >= QUARANTINE_AFTER:
        return Quarantined(f"the invocation ended {invocation.blamed} replicas and is not tried again: {exit.message}")
    if invocation.chunks:
        return ReplicaLost(f"the replica was lost in the middle of the stream: {exit.message}")
    if invocation.attempts > max_retries:
        return ReplicaLost(f"the replica was lost {invocation.attempts} times under this invocation: {exit.message}")
    return Unavailable(closed) if closed else None
