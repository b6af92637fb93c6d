"""Whether an invocation whose replica was lost is tried again."""

from __future__ import annotations

from clipper_platform.backends.base import Exit
from clipper_platform.errors import ClipperError, Quarantined, ReplicaLost, Unavailable
from clipper_platform.serving.invocation import Invocation

__all__ = ["error_after_loss"]

QUARANTINE_AFTER = 2  # an invocation that ended so many replicas is not tried again


def error_after_loss(invocation: Invocation, exit: Exit, *, max_retries: int, closed: str) -> ClipperError | None:
    """The error that the invocation ends with, or None to try it again. `closed`: why nothing new is begun, if so.

    All items of a batch that ended a replica are suspects. Each runs alone from then on, so that innocent ones get
    their answers and the one that ends a second replica is known.
    """
    if invocation.blamed >= QUARANTINE_AFTER:
        return Quarantined(f"the invocation ended {invocation.blamed} replicas and is not tried again: {exit.message}")
    if invocation.chunks:
        return ReplicaLost(f"the replica was lost in the middle of the stream: {exit.message}")
    if invocation.attempts > max_retries:
        return ReplicaLost(f"the replica was lost {invocation.attempts} times under this invocation: {exit.message}")
    return Unavailable(closed) if closed else None
