"""A policy over time: with the windows that its cron expressions open now and next."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from clipper.contract.cron import never
from clipper.contract.spec import AutoscalingPolicy, Schedule
from clipper_platform.core.scaling import Policy
from clipper_platform.core.schedule import Window
from clipper_platform.errors import InvalidSpec

__all__ = ["Plan"]

# The wall clock may be changed, so it is read again at least this often.
_REFRESH_S: Final = 3600.0


class Plan:
    """A policy over time. `at(now)` is the controller's policy then; `wall` is Unix time minus monotonic time."""

    __slots__ = ("_policy", "_until", "policy", "wall")

    def __init__(self, policy: AutoscalingPolicy, latency_slo_s: float | None, wall: float) -> None:
        """Raises InvalidSpec for a cron expression that never matches or that cannot be read."""
        self.policy = policy
        self.wall = wall
        self._until = -math.inf if policy.schedule else math.inf
        self._policy = _controlled(policy, latency_slo_s)
        for schedule in policy.schedule:
            self._windows(schedule, datetime.now(UTC).timestamp())

    def at(self, now: float) -> Policy:
        """`now`: monotonic seconds, like the windows in the policy."""
        if now >= self._until:
            windows = tuple(w for s in self.policy.schedule for w in self._windows(s, now + self.wall))
            edges = [edge for w in windows for edge in (w.opens_at, w.closes_at) if edge > now]
            self._until = min([*edges, now + _REFRESH_S])
            self._policy = replace(self._policy, windows=windows)
        return self._policy

    def _windows(self, schedule: Schedule, unix: float) -> list[Window]:
        """The window that is open at `unix`, if one is, and the next one."""
        moment = datetime.fromtimestamp(unix, ZoneInfo(schedule.timezone))
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
                at.timestamp() - self.wall,
                at.timestamp() + schedule.duration_s - self.wall,
                schedule.min_replicas,
                schedule.max_replicas,
                name,
            )
            for at in opened
        ]


@lru_cache(maxsize=1024)
def _controlled(policy: AutoscalingPolicy, latency_slo_s: float | None) -> Policy:
    """Without windows. Cached, since most functions of a platform have the same policy."""
    return Policy(**{f.name: getattr(policy, f.name) for f in fields(policy)}, latency_slo_s=latency_slo_s)
