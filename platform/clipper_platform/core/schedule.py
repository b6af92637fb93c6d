"""The bounds that hold at a time: the policy's own, or those of the schedules whose windows are open.

Times are monotonic seconds: when a cron expression opens a window is computed outside, where time zones are known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Bounds", "Window", "bounds"]


class Window(NamedTuple):
    """Open from `opens_at` until before `closes_at`; meanwhile its bounds replace the policy's.

    `max_replicas` None: the policy's own. `name`: the cron expression with its zone, to show.
    """

    opens_at: float
    closes_at: float
    min_replicas: int
    max_replicas: int | None
    name: str


class Bounds(NamedTuple):
    """The least and the most replicas, until when both hold, and the names of the schedules that set them."""

    floor: int
    ceiling: int
    until: float = math.inf
    names: tuple[str, ...] = ()

    def clamp(self, value: int) -> int:
        """The nearest number within the bounds."""
        return self.floor if value < self.floor else self.ceiling if value > self.ceiling else value


def bounds(min_replicas: int, max_replicas: int, windows: Sequence[Window], now: float) -> Bounds:
    """Of several open windows the highest minimum and the highest maximum hold, so that no window restricts another."""
    if not windows:
        return Bounds(min_replicas, max_replicas)
    until = math.inf
    opened: list[Window] = []
    for window in windows:
        if now < window.opens_at:
            until = min(until, window.opens_at)
        elif now < window.closes_at:
            until = min(until, window.closes_at)
            opened.append(window)
    if not opened:
        return Bounds(min_replicas, max_replicas, until)
    floor = max(w.min_replicas for w in opened)
    ceiling = max(max_replicas if w.max_replicas is None else w.max_replicas for w in opened)
    return Bounds(min(floor, ceiling), ceiling, until, tuple(w.name for w in opened))
