"""A policy over time: with the windows that its cron expressions open now and next."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from clipper.contract.cron import never
from clipper.contract.spec import AutoscalingPolicy, Schedule
from clipper_platform.core.scaling import Policy
from clipper_platform.core.schedule import Window
from clipper_platform.errors import InvalidSpec

__all__ = ["Plan"]

# How far the wall clock may move against the monotonic one before windows are computed again: less than anybody notices
# of a window, and more than the two readings lie apart.
TOLERANCE_S: Final = 1.0


class Plan:
    """A policy over time. `at(now)` is the controller's policy then.

    `wall()` is Unix time minus monotonic time. It is read at each look, since it changes: NTP sets the clock, an
    administrator too, and the monotonic clock stands still while the machine is suspended.
    """

    __slots__ = ("_policy", "_until", "_wall", "_wall_then", "policy")

    def __init__(self, policy: AutoscalingPolicy, latency_slo_s: float | None, wall: Callable[[], float]) -> None:
        """Raises InvalidSpec for a cron expression that never matches or cannot be read, and for an unknown zone."""
        self.policy = policy
        self._wall = wall
        self._wall_then = math.inf  # what the windows were computed with
        self._until = math.inf
        self._policy = _controlled(policy, latency_slo_s)
        for schedule in policy.schedule:
            self._windows(schedule, datetime.now(UTC).timestamp(), 0.0)

    def at(self, now: float) -> Policy:
        """`now`: monotonic seconds, like the windows in the policy."""
        if not self.policy.schedule:
            return self._policy
        wall = self._wall()
        if now >= self._until or abs(wall - self._wall_then) > TOLERANCE_S:
            windows = tuple(w for s in self.policy.schedule for w in self._windows(s, now + wall, wall))
            self._until = min(edge for w in windows for edge in (w.opens_at, w.closes_at) if edge > now)
            self._wall_then = wall
            self._policy = replace(self._policy, windows=windows)
        return self._policy

    def _windows(self, schedule: Schedule, unix: float, wall: float) -> list[Window]:
        """The window that is open at `unix`, if one is, and the next one."""
        moment = datetime.fromtimestamp(unix, _zone(schedule.timezone))
        opened = []
        try:
            # CronSim returns times strictly before or after the given one: the second is for a window that opens now.
            before = next(CronSim(schedule.cron, moment + timedelta(seconds=1), reverse=True))
            if before.timestamp() + schedule.duration_s > unix:
                opened.append(before)
            opened.append(next(CronSim(schedule.cron, moment)))
        except (CronSimError, StopIteration) as error:
            why = never(schedule.cron) or str(error) or "it never comes true"
            raise InvalidSpec(f"cron = {schedule.cron!r} is not allowed: {why}", key="cron") from None
        name = f"{schedule.cron} {schedule.timezone}"
        return [
            Window(
                at.timestamp() - wall,
                at.timestamp() + schedule.duration_s - wall,
                schedule.min_replicas,
                schedule.max_replicas,
                name,
            )
            for at in opened
        ]


def _zone(name: str) -> tzinfo:
    """Raises InvalidSpec."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidSpec(
            f"timezone = {name!r} is not known on the platform's machine: {error}", key="timezone"
        ) from None


@lru_cache(maxsize=1024)
def _controlled(policy: AutoscalingPolicy, latency_slo_s: float | None) -> Policy:
    """Without windows. Cached, since most functions of a platform have the same policy."""
    return Policy(**{f.name: getattr(policy, f.name) for f in fields(policy)}, latency_slo_s=latency_slo_s)
