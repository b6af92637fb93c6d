"""Whether an invocation that its replica did not answer is queued again: every reason has a limit."""

from __future__ import annotations

from typing import Any

from clipper_platform.backends.base import Exit
from clipper_platform.errors import ClipperError, DeadlineExceeded, Quarantined, ReplicaLost
from clipper_platform.serving.invocation import Invocation

__all__ = ["error_after_loss", "error_after_pass"]

QUARANTINE_AFTER = 2  # an invocation that ended so many replicas is not tried again
MAX_REQUEUES = 100  # for any reason: also behind others that end one replica after the other
MAX_PASSES = 3  # a replica passes over an invocation for its time at most once for each extension of its deadline


def error_after_loss(
    invocation: Invocation, exit: Exit, *, begun: bool, max_retries: int, ended: str
) -> ClipperError | None:
    """The error that the invocation ends with, or None to try it again. `begun`: the replica ran it. `ended`: why no
    replica will run anything any more, if so. What had not begun by then waits again, for its queue to pass it on.

    All items of a batch that ended a replica are suspects. Each runs alone from then on, so that innocent ones get
    their answers and the one that ends a second replica is known.
    """
    hint = _hint(invocation, exit)
    if invocation.blamed >= QUARANTINE_AFTER:
        message = f"the invocation ended {invocation.blamed} replicas and is not tried again: {exit.message}"
        return Quarantined(message, **hint)
    if invocation.chunks:
        return ReplicaLost(f"the replica was lost in the middle of the stream: {exit.message}", **hint)
    if invocation.attempts > max_retries:
        message = f"the replica was lost {invocation.attempts} times under this invocation: {exit.message}"
        return ReplicaLost(message, **hint)
    if invocation.requeues >= MAX_REQUEUES:
        return ReplicaLost(f"{invocation.requeues} replicas were lost before the invocation ran: {exit.message}")
    if ended and begun:
        return ReplicaLost(f"it was cut off while it ran: {ended}", **hint)
    return None


def _hint(invocation: Invocation, exit: Exit) -> dict[str, Any]:
    """What the replica printed last, for the caller whose invocation it ended with."""
    lines = exit.last_lines(invocation.request_id) if exit.reason != "killed" else []
    return {"hint": "its last lines were:\n" + "\n".join(lines)} if lines else {}


def error_after_pass(invocation: Invocation, now: float) -> ClipperError | None:
    """As `error_after_loss`, where the replica passed over the invocation although a caller waits.

    Its time was up when its turn came. A flight of the cache may have got more time since it was sent, from a follower
    that came later: then it is queued again.
    """
    if invocation.chunks:
        return ReplicaLost("the replica cancelled the stream in its middle")
    if now >= invocation.deadline:
        return DeadlineExceeded("the deadline passed before its turn on a replica came")
    invocation.passes += 1
    return ReplicaLost("the replica did not run it, again and again") if invocation.passes > MAX_PASSES else None
