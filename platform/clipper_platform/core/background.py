"""How much background work a function's replicas may get beside live calls: pure decisions.

Background work uses what would be idle. A live call that comes meanwhile waits at most for what is left of one batch,
so these batches are short by the measure of the live calls, and rare where they cannot be short.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["Load", "allowance"]

# After so long without a live call, none is taken to be near.
QUIET_S: Final = 1.0
# The part of the live calls' p99 that one background batch may take beside them: a call that meets one is late by less.
LATE_SHARE: Final = 0.05
# The same where another replica is free, so that few calls meet one. In the simulation of the tests, p99s grow by 6% at
# most; with the whole p99 they grow by 30%.
SPARE_SHARE: Final = 0.5
# Where even one item is longer than that: the part of the time that is spent on such items. Fewer than one live call
# in a hundred meets one, so that the p99 does not see them.
RARE_SHARE: Final = 0.005
# Without live calls: longer batches gain nothing, and the first live call would wait for one.
LONGEST_S: Final = 0.025


class Load(NamedTuple):
    """What runs now. `each_s`: how long a batch takes per item, None while unknown. Times in seconds."""

    waiting: int  # live calls in the queue
    idle: int  # replicas that run nothing
    replicas: int
    batch_limit: int  # items that a replica takes at once
    fixed_s: float  # what a batch takes beside its items
    each_s: float | None
    live_p99_s: float | None  # None without recent calls
    since_live_s: float  # since the newest live call
    since_batch_s: float  # since the last background batch ended


def allowance(load: Load) -> int:
    """How many items of background work may begin now, over all idle replicas; 0: none for the moment."""
    if load.waiting or not load.idle:
        return 0
    if load.each_s is None:
        return 1  # the first one measures what an item takes
    if load.since_live_s >= QUIET_S or load.live_p99_s is None:
        return load.idle * max(1, min(load.batch_limit, _fitting(load, LONGEST_S)))
    # One replica stays free for the next live call, where there is another.
    replicas, share = (load.idle - 1, SPARE_SHARE) if load.replicas > 1 else (1, LATE_SHARE)
    fitting = min(load.batch_limit, _fitting(load, share * load.live_p99_s))
    if fitting or not replicas:
        return replicas * fitting
    rest_s = (load.fixed_s + load.each_s) * (1 / RARE_SHARE - 1)
    return 1 if load.since_batch_s >= rest_s else 0


def _fitting(load: Load, budget_s: float) -> int:
    """Items of a batch that takes at most so long."""
    room_s = budget_s - load.fixed_s
    if room_s <= 0 or load.each_s is None:
        return 0
    return int(min(room_s / load.each_s, load.batch_limit)) if load.each_s > 0 else load.batch_limit
