"""The autoscaling policy and its schedules: their options, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from clipper.contract.rules import (
    COUNT,
    POSITIVE_COUNT,
    POSITIVE_SECONDS,
    SECONDS,
    Rule,
    SpecError,
    checked,
    nearest,
    shown,
)

__all__ = [
    "OPTIONAL_POLICY",
    "POLICY_RULES",
    "SCHEDULE_RULES",
    "AutoscalingPolicy",
    "KeepAlive",
    "Schedule",
    "policy_dict",
]


KeepAlive = Literal["fixed", "learnt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A window, opened by a cron expression for `duration_s` seconds, with replica bounds of its own."""

    cron: str
    duration_s: float
    min_replicas: int
    max_replicas: int | None = None
    timezone: str = "UTC"

    @classmethod
    def parse(cls, table: object, *, where: str) -> Self:
        if not isinstance(table, Mapping):
            raise SpecError("each [[schedule]] must be a table", where=where, key="schedule")
        table = {k: v for k, v in table.items() if v is not None or k != "max_replicas"}
        values = checked(table, SCHEDULE_RULES, where)
        for key in ("cron", "duration_s", "min_replicas"):
            if key not in values:
                raise SpecError(f"{key} is missing", where=where, key=key)
        _check_cron(values["cron"], where)
        if "timezone" in values:
            _check_timezone(values["timezone"], where)
        schedule = cls(**values)
        if schedule.max_replicas is not None and schedule.min_replicas > schedule.max_replicas:
            raise SpecError(
                f"min_replicas = {schedule.min_replicas} is above max_replicas = {schedule.max_replicas}",
                where=where,
                key="min_replicas",
            )
        return schedule


# The fields of a cron expression: name, lowest and highest value, and the names of the values from the lowest on.
_CRON_FIELDS = (
    ("minute", 0, 59, ""),
    ("hour", 0, 23, ""),
    ("day-of-month", 1, 31, ""),
    ("month", 1, 12, "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC"),
    ("day-of-week", 0, 7, "SUN MON TUE WED THU FRI SAT"),
)
_CRON_TERM = re.compile(r"(?P<low>\*|\w+)(?:-(?P<high>\w+))?(?:/(?P<step>[1-9]\d{0,3}))?\Z", re.ASCII)


def _check_cron(cron: str, where: str) -> None:
    parts = cron.split()
    if len(parts) != len(_CRON_FIELDS):
        raise SpecError(
            f"cron = {shown(cron)} must have five fields: minute hour day-of-month month day-of-week",
            where=where,
            key="cron",
        )
    for text, (name, low, high, words) in zip(parts, _CRON_FIELDS, strict=True):
        if not all(_cron_term(term, low, high, words.split()) for term in text.split(",")):
            named = f" or names ({words.split()[0]} to {words.split()[-1]})" if words else ""
            raise SpecError(
                f"cron = {shown(cron)} is not allowed: the {name} {shown(text)} must be *, or numbers from {low} to "
                f"{high}{named}, as in {low},{high} or {low}-{high} or */2",
                where=where,
                key="cron",
            )


def _cron_term(term: str, low: int, high: int, words: list[str]) -> bool:
    found = _CRON_TERM.match(term)
    if found is None or (found["low"] == "*" and found["high"] is not None):
        return False
    ends = []
    for text in (found["low"], found["high"]):
        if text is None or text == "*":
            continue
        if text in words:
            ends.append(low + words.index(text))
        elif text.isdecimal() and len(text) < 3 and low <= int(text) <= high:
            ends.append(int(text))
        else:
            return False
    return ends == sorted(ends)


def _check_timezone(name: str, where: str) -> None:
    """Where the interpreter has no zones at all, as in a replica's environment, every name passes: the platform, which
    has them, has checked it."""
    from zoneinfo import ZoneInfo, available_timezones  # read from disk, and needed only for schedules

    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):  # ZoneInfoNotFoundError is a LookupError
        if not (known := available_timezones()):
            return
        guess = nearest(name.rpartition("/")[2], ends := {z.rpartition("/")[2].lower(): z for z in known})
        hint = f"did you mean {ends[guess]!r}?" if guess else 'write a name as in "Europe/Berlin"'
        raise SpecError(
            f"timezone = {shown(name)} is not a time zone that is known here; {hint}", where=where, key="timezone"
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscalingPolicy:
    """How many replicas a function gets. Durations in seconds, depth in invocations per replica."""

    target_queue_depth: float = 4.0
    target_ongoing_requests: float | None = None  # None: target_queue_depth counts
    min_replicas: int = 0
    max_replicas: int = 8
    buffer_replicas: int = 0
    max_scale_up_rate: float = 1000.0
    max_scale_down_rate: float = 2.0
    upscale_delay_s: float = 0.0
    downscale_delay_s: float = 30.0
    downscale_to_zero_delay_s: float = 300.0
    keep_alive: KeepAlive = "fixed"
    stable_window_s: float = 60.0
    panic_window_s: float = 6.0
    panic_threshold: float = 2.0
    schedule: tuple[Schedule, ...] = ()

    @classmethod
    def parse(cls, table: object, *, where: str) -> Self:
        """A policy from a TOML table. Raises SpecError on an unknown key, a wrong type or a contradiction."""
        if not isinstance(table, Mapping):
            raise SpecError("autoscaling must be a table or the name of a TOML file", where=where, key="autoscaling")
        table = {k: v for k, v in table.items() if v is not None or k not in OPTIONAL_POLICY}
        schedules = table.pop("schedule", [])
        if not isinstance(schedules, (list, tuple)):
            raise SpecError("schedule must be an array of tables: [[schedule]]", where=where, key="schedule")
        values = checked(table, POLICY_RULES, where, also=("schedule",))
        parsed = tuple(Schedule.parse(s, where=f"{where} [[schedule]] {i + 1}") for i, s in enumerate(schedules))
        policy = cls(**values, schedule=parsed)
        policy._check_contradictions(where)
        return policy

    def to_dict(self) -> dict[str, Any]:
        """Every key, in the form that `parse` takes; a schedule only where there is one."""
        return policy_dict(self)

    def _check_contradictions(self, where: str) -> None:
        def refuse(key: str, message: str) -> SpecError:
            return SpecError(message, where=where, key=key)

        if self.min_replicas > self.max_replicas:
            raise refuse(
                "min_replicas",
                f"min_replicas = {self.min_replicas} is above max_replicas = {self.max_replicas}; "
                "raise max_replicas or lower min_replicas",
            )
        if self.panic_window_s > self.stable_window_s:
            raise refuse(
                "panic_window_s",
                f"panic_window_s = {self.panic_window_s:g} is longer than stable_window_s = {self.stable_window_s:g}; "
                "the panic window must be the shorter one",
            )
        if self.target_ongoing_requests is not None and self.target_queue_depth != type(self)().target_queue_depth:
            raise refuse(
                "target_ongoing_requests",
                "target_queue_depth and target_ongoing_requests are two ways to say how much a replica should have: "
                "queued and running invocations, or running ones alone; keep one",
            )
        if self.buffer_replicas > self.max_replicas:
            raise refuse(
                "buffer_replicas",
                f"buffer_replicas = {self.buffer_replicas} is above max_replicas = {self.max_replicas}: so many can "
                "never be kept; raise max_replicas or lower buffer_replicas",
            )
        if self.keep_alive == "learnt" and min([self.min_replicas, *(s.min_replicas for s in self.schedule)]) > 0:
            raise refuse(
                "keep_alive",
                f'keep_alive = "learnt" has no meaning with min_replicas = {self.min_replicas}: the last replica is '
                "never taken away; set min_replicas = 0",
            )
        self._check_schedules(where)

    def _check_schedules(self, where: str) -> None:
        for schedule in self.schedule:
            ceiling = schedule.max_replicas if schedule.max_replicas is not None else self.max_replicas
            if schedule.min_replicas > ceiling:
                raise SpecError(
                    f"a schedule asks for min_replicas = {schedule.min_replicas}, above max_replicas = {ceiling}",
                    where=where,
                    key="schedule",
                )


SCHEDULE_RULES: dict[str, Rule] = {
    "cron": Rule(str),
    "duration_s": POSITIVE_SECONDS,
    "min_replicas": COUNT,
    "max_replicas": POSITIVE_COUNT,
    "timezone": Rule(str),
}

POLICY_RULES: dict[str, Rule] = {
    "target_queue_depth": Rule(float, above=0, high=100_000),
    "target_ongoing_requests": Rule(float, above=0, high=100_000),
    "min_replicas": COUNT,
    "max_replicas": POSITIVE_COUNT,
    "buffer_replicas": COUNT,
    "max_scale_up_rate": Rule(float, above=1, high=100_000),
    "max_scale_down_rate": Rule(float, above=1, high=100_000),
    "upscale_delay_s": SECONDS,
    "downscale_delay_s": SECONDS,
    "downscale_to_zero_delay_s": SECONDS,
    "keep_alive": Rule(str, choices=get_args(KeepAlive)),
    "stable_window_s": POSITIVE_SECONDS,
    "panic_window_s": POSITIVE_SECONDS,
    "panic_threshold": Rule(float, low=1, high=1000),
}

# Keys of a policy for which None means "leave the default".
OPTIONAL_POLICY = frozenset(f.name for f in fields(AutoscalingPolicy) if f.default is None)


def policy_dict(policy: AutoscalingPolicy) -> dict[str, Any]:
    out = {f.name: getattr(policy, f.name) for f in fields(policy) if f.name != "schedule"}
    if policy.schedule:
        out["schedule"] = [
            {f.name: v for f in fields(s) if (v := getattr(s, f.name)) is not None} for s in policy.schedule
        ]
    return out
