"""What a function, an environment and a project declare: frozen values, parsed and validated at the edge.

The same keys serve `@clipper.function(...)`, `[functions.NAME]` of `clip.toml` and the deploy manifest. A refusal
(`SpecError`) names the key, the value and what is allowed; an unknown key gets the nearest right name.
Standard library only: every replica imports this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Literal, Self, get_args, get_type_hints

__all__ = [
    "AutoscalingPolicy",
    "DeploySpec",
    "EnvironmentSpec",
    "FunctionSpec",
    "Manifest",
    "Schedule",
    "SpecError",
    "check_name",
    "nearest",
]

BatchPolicy = Literal["aimd", "latency_model", "static", "none"]
OnBatchError = Literal["bisect", "fail"]
KeepAlive = Literal["fixed", "learnt"]
DeployStrategy = Literal["rolling", "canary", "recreate"]

# Names are path segments, metric labels and directory names: one conservative alphabet serves all three.
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}\Z")
ENTRYPOINT_PATTERN = re.compile(r"[A-Za-z_][\w]*(\.[A-Za-z_][\w]*)*:[A-Za-z_][\w]*\Z")
PACKAGE_PATTERN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?\Z")
PYTHON_PATTERN = re.compile(r"3\.\d{1,2}(\.\d{1,3})?\Z")

# First segments of our own routes: a project may not shadow them as an application name would.
RESERVED_NAMES = frozenset({"api", "calls", "fn", "healthz", "metrics", "openapi", "readyz", "v2"})


class SpecError(ValueError):
    """A declaration that cannot be accepted. `where` names the table or decorator, `key` the offending key."""

    def __init__(self, message: str, *, where: str = "", key: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.message = message
        self.where = where
        self.key = key


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that `word` most likely meant, or None when nothing is near."""
    import difflib  # costs a few milliseconds and is needed only for a refusal

    found = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def _shown(value: object) -> str:
    """`repr` for a message: short, and never itself an error (a huge whole number has no decimal form)."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"
    return text if len(text) <= 120 else text[:117] + "..."


def _key(key: object) -> str:
    return key if isinstance(key, str) else _shown(key)


def check_name(name: object, what: str, *, where: str = "") -> str:
    """Return `name` if it may name a project or a function, else raise SpecError."""
    if not isinstance(name, str) or not NAME_PATTERN.match(name):
        raise SpecError(
            f"{what} name {_shown(name)} is not allowed: use 1 to 63 letters, digits, '-' or '_', "
            "starting with a letter or digit",
            where=where,
            key="name",
        )
    return name


def _unknown_key(key: str, known: Iterable[str], where: str) -> SpecError:
    known = sorted(known)
    guess = nearest(key, known)
    hint = f"did you mean {guess!r}?" if guess else f"known keys: {', '.join(known)}"
    return SpecError(f"unknown key {_shown(key)}; {hint}", where=where, key=key)


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a key accepts: its type, its range and, in words, what to write."""

    kind: type
    low: float | None = None
    high: float | None = None
    above: float | None = None  # exclusive lower bound
    choices: tuple[str, ...] = ()

    def words(self) -> str:
        if self.choices:
            return "one of " + ", ".join(repr(c) for c in self.choices)
        noun = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}[self.kind]
        bounds = []
        for word, bound in (("above", self.above), ("at least", self.low), ("at most", self.high)):
            if bound is not None:
                bounds.append(f"{word} {bound if isinstance(bound, int) else format(bound, 'g')}")
        return " ".join([noun, " and ".join(bounds)]).strip()

    def check(self, key: str, value: object, where: str) -> Any:
        ok = isinstance(value, self.kind) and not (self.kind is not bool and isinstance(value, bool))
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            ok = abs(value) < 1 << 63  # beyond, a float may not hold it, and no bound here allows it
            value = float(value) if ok else value
        if ok and isinstance(value, (int, float)) and not isinstance(value, bool):
            ok = value == value and abs(value) != float("inf")  # neither NaN nor an infinity
            ok = ok and (self.above is None or value > self.above)
            ok = ok and (self.low is None or value >= self.low)
            ok = ok and (self.high is None or value <= self.high)
        if ok and self.choices:
            ok = value in self.choices
        if not ok:
            raise SpecError(f"{key} = {_shown(value)} is not allowed: it must be {self.words()}", where=where, key=key)
        return value


_SECONDS = _Rule(float, low=0, high=86_400 * 7)
_POSITIVE_SECONDS = _Rule(float, above=0, high=86_400 * 7)
_COUNT = _Rule(int, low=0, high=100_000)
_POSITIVE_COUNT = _Rule(int, low=1, high=100_000)


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
        values = _checked(table, _SCHEDULE_RULES, where)
        for key in ("cron", "duration_s", "min_replicas"):
            if key not in values:
                raise SpecError(f"{key} is missing", where=where, key=key)
        _check_cron(values["cron"], where)
        if "timezone" in values:
            _check_timezone(values["timezone"], where)
        made = cls(**values)
        if made.max_replicas is not None and made.min_replicas > made.max_replicas:
            raise SpecError(
                f"min_replicas = {made.min_replicas} is above max_replicas = {made.max_replicas}",
                where=where,
                key="min_replicas",
            )
        return made


# What a field of a cron expression may say: its name, its range, and the names of its values from the lowest on.
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
            f"cron = {_shown(cron)} must have five fields: minute hour day-of-month month day-of-week",
            where=where,
            key="cron",
        )
    for text, (name, low, high, words) in zip(parts, _CRON_FIELDS, strict=True):
        if not all(_cron_term(term, low, high, words.split()) for term in text.split(",")):
            named = f" or names ({words.split()[0]} to {words.split()[-1]})" if words else ""
            raise SpecError(
                f"cron = {_shown(cron)} is not allowed: the {name} {_shown(text)} must be *, or numbers from {low} to "
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
    from zoneinfo import ZoneInfo, available_timezones  # read from disk, and needed only for schedules

    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):  # ZoneInfoNotFoundError is a LookupError
        guess = nearest(
            name.rpartition("/")[2], ends := {z.rpartition("/")[2].lower(): z for z in available_timezones()}
        )
        hint = f"did you mean {ends[guess]!r}?" if guess else 'write a name as in "Europe/Berlin"'
        raise SpecError(
            f"timezone = {_shown(name)} is not a time zone that is known here; {hint}", where=where, key="timezone"
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
        table = {k: v for k, v in table.items() if v is not None or k not in _OPTIONAL_POLICY}
        schedules = table.pop("schedule", [])
        if not isinstance(schedules, (list, tuple)):
            raise SpecError("schedule must be an array of tables: [[schedule]]", where=where, key="schedule")
        values = _checked(table, _POLICY_RULES, where, also=("schedule",))
        parsed = tuple(Schedule.parse(s, where=f"{where} [[schedule]] {i + 1}") for i, s in enumerate(schedules))
        made = cls(**values, schedule=parsed)
        made._check_contradictions(where)
        return made

    def to_dict(self) -> dict[str, Any]:
        """Every key, in the form that `parse` takes; a schedule only where there is one."""
        return _policy_dict(self)

    def _check_contradictions(self, where: str) -> None:
        if self.min_replicas > self.max_replicas:
            raise SpecError(
                f"min_replicas = {self.min_replicas} is above max_replicas = {self.max_replicas}; "
                "raise max_replicas or lower min_replicas",
                where=where,
                key="min_replicas",
            )
        if self.panic_window_s > self.stable_window_s:
            raise SpecError(
                f"panic_window_s = {self.panic_window_s:g} is longer than stable_window_s = {self.stable_window_s:g}; "
                "the panic window must be the shorter one",
                where=where,
                key="panic_window_s",
            )
        if self.target_ongoing_requests is not None and self.target_queue_depth != type(self)().target_queue_depth:
            raise SpecError(
                "target_queue_depth and target_ongoing_requests are two ways to say how much a replica should have: "
                "queued and running invocations, or running ones alone; keep one",
                where=where,
                key="target_ongoing_requests",
            )
        if self.buffer_replicas > self.max_replicas:
            raise SpecError(
                f"buffer_replicas = {self.buffer_replicas} is above max_replicas = {self.max_replicas}: so many can "
                "never be kept; raise max_replicas or lower buffer_replicas",
                where=where,
                key="buffer_replicas",
            )
        if self.keep_alive == "learnt" and min([self.min_replicas, *(s.min_replicas for s in self.schedule)]) > 0:
            raise SpecError(
                f'keep_alive = "learnt" has no meaning with min_replicas = {self.min_replicas}: the last replica is '
                "never taken away; set min_replicas = 0",
                where=where,
                key="keep_alive",
            )
        for schedule in self.schedule:
            ceiling = schedule.max_replicas if schedule.max_replicas is not None else self.max_replicas
            if schedule.min_replicas > ceiling:
                raise SpecError(
                    f"a schedule asks for min_replicas = {schedule.min_replicas}, above max_replicas = {ceiling}",
                    where=where,
                    key="schedule",
                )


_SCHEDULE_RULES: dict[str, _Rule] = {
    "cron": _Rule(str),
    "duration_s": _POSITIVE_SECONDS,
    "min_replicas": _COUNT,
    "max_replicas": _POSITIVE_COUNT,
    "timezone": _Rule(str),
}

_POLICY_RULES: dict[str, _Rule] = {
    "target_queue_depth": _Rule(float, above=0, high=100_000),
    "target_ongoing_requests": _Rule(float, above=0, high=100_000),
    "min_replicas": _COUNT,
    "max_replicas": _POSITIVE_COUNT,
    "buffer_replicas": _COUNT,
    "max_scale_up_rate": _Rule(float, above=1, high=100_000),
    "max_scale_down_rate": _Rule(float, above=1, high=100_000),
    "upscale_delay_s": _SECONDS,
    "downscale_delay_s": _SECONDS,
    "downscale_to_zero_delay_s": _SECONDS,
    "keep_alive": _Rule(str, choices=get_args(KeepAlive)),
    "stable_window_s": _POSITIVE_SECONDS,
    "panic_window_s": _POSITIVE_SECONDS,
    "panic_threshold": _Rule(float, low=1, high=1000),
}

# Keys of a policy for which None means "leave the default".
_OPTIONAL_POLICY = frozenset(f.name for f in fields(AutoscalingPolicy) if f.default is None)


def _checked(
    table: Mapping[str, Any], rules: Mapping[str, _Rule], where: str, also: Iterable[str] = ()
) -> dict[str, Any]:
    values = {}
    for key, value in table.items():
        if key not in rules:
            raise _unknown_key(_key(key), [*rules, *also], where)
        values[key] = rules[key].check(key, value, where)
    return values


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSpec:
    """Everything a function declares. Times in seconds, sizes in bytes.

    `None` means "not limited" or, where the field's comment says so, "derived".
    """

    name: str
    entrypoint: str  # "module:Name", relative to the bundle
    max_batch_size: int = 1  # above 1, every parameter is a list
    batch_wait_timeout_s: float = 0.0  # how long the oldest invocation may wait for company
    batch_policy: BatchPolicy | None = None  # None: "aimd" with latency_slo_s and batches, else "static"
    batch_size_key: str | None = None  # a parameter whose length is the invocation's weight in a batch
    on_batch_error: OnBatchError = "bisect"
    latency_slo_s: float | None = None
    max_ongoing_requests: int | None = None  # per replica; None: 1 for plain functions, 32 for async ones
    max_queued_requests: int = 1000
    timeout_s: float = 60.0  # default deadline of an invocation; the header X-Clip-Timeout-Ms may shorten it
    startup_timeout_s: float = 120.0
    graceful_shutdown_timeout_s: float = 30.0
    health_check_period_s: float = 10.0
    max_retries: int = 2
    cache_ttl_s: float | None = None
    default_output: Any = field(default=None, hash=False)
    hedge_after: float | None = None  # quantile of the latency after which an idempotent invocation is sent twice
    memory_bytes: int | None = None
    max_invocations: int | None = None  # a replica is recycled after so many
    public: bool = False
    snapshot: bool = False  # replicas are forked from a process that has run the setup already
    autoscaling: AutoscalingPolicy = AutoscalingPolicy()

    @property
    def batched(self) -> bool:
        return self.max_batch_size > 1

    @property
    def effective_batch_policy(self) -> BatchPolicy:
        if self.batch_policy is not None:
            return self.batch_policy
        return "aimd" if self.latency_slo_s is not None and self.batched else "static"

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """The keys that a decorator or a `[functions.NAME]` table may set, the policy's short forms included."""
        return (*_FUNCTION_RULES, "entrypoint", "name", "default_output", "autoscaling", *_POLICY_RULES)

    @classmethod
    def parse(cls, name: str, entrypoint: str, options: Mapping[str, Any], *, where: str = "") -> Self:
        """A spec from a flat table of options. Raises SpecError.

        A policy's keys may stand inside `autoscaling` or, as a short form, beside the other options; the same key in
        both places is a contradiction.
        """
        where = where or f"[functions.{name}]"
        check_name(name, "function", where=where)
        if not isinstance(entrypoint, str) or not ENTRYPOINT_PATTERN.match(entrypoint):
            raise SpecError(
                f'entrypoint = {_shown(entrypoint)} is not allowed: write "module:Name", as in "app:Classify"',
                where=where,
                key="entrypoint",
            )
        table = {k: v for k, v in options.items() if k not in ("name", "entrypoint")}
        policy_table = table.pop("autoscaling", {})
        if not isinstance(policy_table, Mapping):
            raise SpecError(
                f"autoscaling = {_shown(policy_table)} is not allowed: it must be a table "
                "(or, in clip.toml, the name of a TOML file)",
                where=where,
                key="autoscaling",
            )
        short = {k: table.pop(k) for k in list(table) if k in _POLICY_RULES}
        for key in short:
            if key in policy_table:
                raise SpecError(f"{key} is set both here and in autoscaling; keep one", where=where, key=key)
        default_output = _json_value(table.pop("default_output", None), where)
        table = {k: v for k, v in table.items() if v is not None or k not in _OPTIONAL}
        values = _checked(table, _FUNCTION_RULES, where, also=cls.option_names())
        made = cls(
            name=name,
            entrypoint=entrypoint,
            default_output=default_output,
            autoscaling=AutoscalingPolicy.parse({**policy_table, **short}, where=where),
            **values,
        )
        made._check_contradictions(where)
        return made

    @classmethod
    def check_options(cls, options: Mapping[str, Any], *, where: str) -> None:
        """Check keys and types, but not how they fit together: another layer may still change one. Raises SpecError.

        A decorator's `min_replicas=10` is fine on its own if `clip.toml` raises `max_replicas`.
        """
        table = {k: v for k, v in options.items() if k != "name"}
        policy = table.pop("autoscaling", {})
        if not isinstance(policy, Mapping):
            raise SpecError(
                f"autoscaling = {_shown(policy)} is not allowed: it must be a table", where=where, key="autoscaling"
            )
        for key in table:
            if key in policy:
                raise SpecError(f"{key} is set both here and in autoscaling; keep one", where=where, key=_key(key))
        _json_value(table.pop("default_output", None), where)
        schedules = policy.get("schedule", ())
        if not isinstance(schedules, (list, tuple)):
            raise SpecError("schedule must be an array of tables: [[schedule]]", where=where, key="schedule")
        for index, schedule in enumerate(schedules):
            Schedule.parse(schedule, where=f"{where} [[schedule]] {index + 1}")
        policy = {k: v for k, v in policy.items() if k != "schedule" and (v is not None or k not in _OPTIONAL_POLICY)}
        _checked(policy, _POLICY_RULES, where, also=("schedule",))
        table = {k: v for k, v in table.items() if v is not None or k not in _OPTIONAL | _OPTIONAL_POLICY}
        known = [name for name in cls.option_names() if name != "entrypoint"]
        _checked(table, {**_FUNCTION_RULES, **_POLICY_RULES}, where, also=known)

    def _check_contradictions(self, where: str) -> None:
        def refuse(key: str, message: str) -> SpecError:
            return SpecError(message, where=where, key=key)

        if self.latency_slo_s is not None and self.batch_wait_timeout_s >= self.latency_slo_s:
            raise refuse(
                "batch_wait_timeout_s",
                f"batch_wait_timeout_s = {self.batch_wait_timeout_s:g} leaves nothing of "
                f"latency_slo_s = {self.latency_slo_s:g}; wait for less than the objective",
            )
        if self.latency_slo_s is not None and self.latency_slo_s > self.timeout_s:
            raise refuse(
                "latency_slo_s",
                f"latency_slo_s = {self.latency_slo_s:g} is above timeout_s = {self.timeout_s:g}; "
                "an invocation would time out before it misses its objective",
            )
        if self.batch_policy in ("aimd", "latency_model") and self.latency_slo_s is None:
            raise refuse("batch_policy", f"batch_policy = {self.batch_policy!r} needs latency_slo_s")
        if not self.batched:
            for key in ("batch_wait_timeout_s", "batch_size_key"):
                if getattr(self, key):
                    raise refuse(key, f"{key} needs max_batch_size above 1")
        if self.batch_policy == "none" and self.batch_wait_timeout_s:
            raise refuse("batch_wait_timeout_s", 'batch_wait_timeout_s has no meaning with batch_policy = "none"')

    def to_dict(self) -> dict[str, Any]:
        """Every key with its effective value, in the form that `from_dict` (and a TOML table) takes."""
        out: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "autoscaling":
                value = _policy_dict(value)
            out[f.name] = value
        return out

    @classmethod
    def from_dict(cls, table: object, *, where: str = "manifest") -> Self:
        """The reverse of `to_dict`, with the full validation: manifests come from outside. Raises SpecError."""
        if not isinstance(table, Mapping):
            raise SpecError("a function must be a table", where=where)
        for key in ("name", "entrypoint"):
            if key not in table:
                raise SpecError(f"{key} is missing", where=where, key=key)
        return cls.parse(table["name"], table["entrypoint"], table, where=where)

    def with_policy(self, policy: AutoscalingPolicy) -> Self:
        return replace(self, autoscaling=policy)


def _policy_dict(policy: AutoscalingPolicy) -> dict[str, Any]:
    out = {f.name: getattr(policy, f.name) for f in fields(policy) if f.name != "schedule"}
    if policy.schedule:
        out["schedule"] = [
            {f.name: v for f in fields(s) if (v := getattr(s, f.name)) is not None} for s in policy.schedule
        ]
    return out


# Deeper than any answer that people write into a settings file; bounds the recursion below.
_MAX_JSON_DEPTH = 32


def _json_value(value: object, where: str, depth: int = 0, key: str = "default_output") -> Any:
    """`value` if JSON can carry it: `default_output` travels in the manifest and is an answer. Raises SpecError."""

    def refuse(why: str) -> SpecError:
        return SpecError(f"{key} is not allowed: {why}", where=where, key=key)

    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 64:
            raise refuse("a whole number must fit 64 bits")
        return value
    if isinstance(value, float):
        if value != value or abs(value) == float("inf"):
            raise refuse(f"JSON has no {value}")
        return value
    if depth >= _MAX_JSON_DEPTH:
        raise refuse(f"it is nested deeper than {_MAX_JSON_DEPTH} levels")
    if isinstance(value, (list, tuple)):
        return [_json_value(item, where, depth + 1, key) for item in value]
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise refuse(f"the key {_shown(name)} is not a string")
        return {name: _json_value(item, where, depth + 1, key) for name, item in value.items()}
    raise refuse(f"JSON has no form of {_shown(value)}")


_FUNCTION_RULES: dict[str, _Rule] = {
    "max_batch_size": _Rule(int, low=1, high=65_536),
    "batch_wait_timeout_s": _Rule(float, low=0, high=60),
    "batch_policy": _Rule(str, choices=get_args(BatchPolicy)),
    "batch_size_key": _Rule(str),
    "on_batch_error": _Rule(str, choices=get_args(OnBatchError)),
    "latency_slo_s": _POSITIVE_SECONDS,
    "max_ongoing_requests": _POSITIVE_COUNT,
    "max_queued_requests": _POSITIVE_COUNT,
    "timeout_s": _POSITIVE_SECONDS,
    "startup_timeout_s": _POSITIVE_SECONDS,
    "graceful_shutdown_timeout_s": _SECONDS,
    "health_check_period_s": _POSITIVE_SECONDS,
    "max_retries": _Rule(int, low=0, high=20),
    "cache_ttl_s": _POSITIVE_SECONDS,
    "hedge_after": _Rule(float, low=0.5, high=0.9999),
    "memory_bytes": _Rule(int, low=16 * 1024 * 1024),
    "max_invocations": _Rule(int, low=1),
    "public": _Rule(bool),
    "snapshot": _Rule(bool),
}

# Keys for which None (as in a decorator) means "leave the default".
_OPTIONAL = frozenset(f.name for f in fields(FunctionSpec) if f.default is None)


_ENVIRONMENT_KEYS = ("python", "requirements", "exclude", "warm_pool_size")
_ENVIRONMENT_RULES: dict[str, _Rule] = {"warm_pool_size": _Rule(int, low=0, high=16)}


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSpec:
    """Python version ("3.11", or None for the platform's own) and requirement lines as pip reads them.

    `exclude` names packages that are left out even where a requirement depends on them: a package that carries a
    model's weights may ask for a framework of several gigabytes that the function has no use for. `warm_pool_size`
    processes with the environment's modules loaded wait to become replicas (None: as the platform's setting says); it
    is no part of what is installed.
    """

    python: str | None = None
    requirements: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    warm_pool_size: int | None = None

    @classmethod
    def parse(cls, table: object, *, where: str = "[environment]") -> Self:
        """Raises SpecError. `requirements` must be a list here: a file's name is resolved by whoever reads files."""
        if not isinstance(table, Mapping):
            raise SpecError("environment must be a table", where=where, key="environment")
        for key in table:
            if key not in _ENVIRONMENT_KEYS:
                raise _unknown_key(_key(key), _ENVIRONMENT_KEYS, where)
        python = table.get("python")
        if python is not None and (not isinstance(python, str) or not PYTHON_PATTERN.match(python)):
            raise SpecError(
                f'python = {_shown(python)} is not allowed: write a version as a string, as in "3.11"',
                where=where,
                key="python",
            )
        lines = table.get("requirements") or ()
        if not isinstance(lines, (list, tuple)) or not all(isinstance(line, str) for line in lines):
            raise SpecError(
                'requirements must be a list of strings, as in ["scikit-learn>=1.5"], or "requirements.txt"',
                where=where,
                key="requirements",
            )
        exclude = table.get("exclude") or ()
        if not isinstance(exclude, (list, tuple)) or not all(
            isinstance(name, str) and PACKAGE_PATTERN.match(name) for name in exclude
        ):
            raise SpecError(
                f'exclude = {_shown(exclude)} is not allowed: list names of packages without versions, as in ["torch"]',
                where=where,
                key="exclude",
            )
        warm = {"warm_pool_size": size} if (size := table.get("warm_pool_size")) is not None else {}
        return cls(
            python=python,
            requirements=tuple(_requirement(line, where) for line in lines if line.strip()),
            exclude=tuple(sorted(exclude)),
            warm_pool_size=_checked(warm, _ENVIRONMENT_RULES, where).get("warm_pool_size"),
        )

    def to_dict(self) -> dict[str, Any]:
        out: dict[str, Any] = {"python": self.python, "requirements": list(self.requirements)}
        if self.exclude:
            out["exclude"] = list(self.exclude)
        if self.warm_pool_size is not None:
            out["warm_pool_size"] = self.warm_pool_size
        return out


# Options of a requirements file that name other files or change what "installed" means.
_REFUSED_REQUIREMENT_OPTIONS = ("-r", "--requirement", "-c", "--constraint", "-e", "--editable")


def _requirement(line: str, where: str) -> str:
    line = line.strip()
    if any(ord(c) < 32 or ord(c) == 127 for c in line):
        raise SpecError(f"requirement {_shown(line)} holds a control character", where=where, key="requirements")
    # "-rother.txt" is pip's attached form of "-r other.txt"; every refused long option has a refused short one.
    if line.startswith(_REFUSED_REQUIREMENT_OPTIONS):
        raise SpecError(
            f"requirement {_shown(line)} is not allowed: list the packages themselves, nested files and editable "
            "installs are not part of the bundle's environment",
            where=where,
            key="requirements",
        )
    return line


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploySpec:
    """How a new version takes over from the one before. Times in seconds, `steps` in percent of the calls.

    `smoke` gives functions by name the JSON arguments of a call that the new version must answer before it gets any
    traffic.
    """

    strategy: DeployStrategy = "rolling"
    keep_previous_s: float = 60.0  # how long the replaced version stays warm for a rollback; 0: it drains at once
    steps: tuple[int, ...] = (10, 50, 100)
    step_s: float = 60.0
    max_error_rate_increase: float = 0.02  # share of 5xx answers, above the old version's
    max_p99_ratio: float = 2.0  # to the old version's
    min_samples: int = 50  # answers in a step before the new version is judged
    smoke: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def parse(cls, table: object, functions: Iterable[str], *, where: str = "[deploy]") -> Self:
        """From a TOML table, for a project with these functions. Raises SpecError."""
        if not isinstance(table, Mapping):
            raise SpecError("deploy must be a table", where=where, key="deploy")
        table = dict(table)
        smoke = _smoke(table.pop("smoke", {}), tuple(functions), where)
        steps = _steps(table.pop("steps"), where) if "steps" in table else None
        values = _checked(table, _DEPLOY_RULES, where, also=("steps", "smoke"))
        if steps is not None:
            values["steps"] = steps
        made = cls(**values, smoke=smoke)
        for key in values:
            if key in _CANARY_KEYS and made.strategy != "canary":
                raise SpecError(f'{key} needs strategy = "canary"', where=where, key=key)
        if made.strategy == "recreate" and values.get("keep_previous_s"):
            raise SpecError(
                'keep_previous_s has no meaning with strategy = "recreate": the old version is stopped first',
                where=where,
                key="keep_previous_s",
            )
        return made

    def to_dict(self) -> dict[str, Any]:
        """The keys that differ from their defaults, in the form that `parse` takes."""
        default = DeploySpec()
        changed = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {key: value for key, value in changed.items() if value != getattr(default, key)}
        return {key: list(value) if key == "steps" else value for key, value in changed.items()}


_CANARY_KEYS = frozenset({"steps", "step_s", "max_error_rate_increase", "max_p99_ratio", "min_samples"})

_DEPLOY_RULES: dict[str, _Rule] = {
    "strategy": _Rule(str, choices=get_args(DeployStrategy)),
    "keep_previous_s": _Rule(float, low=0, high=86_400),
    "step_s": _Rule(float, above=0, high=86_400),
    "max_error_rate_increase": _Rule(float, low=0, high=1),
    "max_p99_ratio": _Rule(float, low=1, high=1000),
    "min_samples": _Rule(int, low=1, high=1_000_000),
}


def _steps(value: object, where: str) -> tuple[int, ...]:
    whole = isinstance(value, (list, tuple)) and all(type(step) is int and 1 <= step <= 100 for step in value)
    steps = tuple(value) if whole and isinstance(value, (list, tuple)) else ()
    if not steps or steps[-1] != 100 or list(steps) != sorted(set(steps)):
        raise SpecError(
            f"steps = {_shown(value)} is not allowed: write growing whole percentages that end with 100, "
            "as in [10, 50, 100]",
            where=where,
            key="steps",
        )
    return steps


def _smoke(table: object, functions: tuple[str, ...], where: str) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise SpecError("smoke must be a table of functions: [deploy.smoke]", where=where, key="smoke")
    for name, arguments in table.items():
        if name not in functions:
            raise SpecError(
                f"smoke names no function of the project: {_unknown_key(_key(name), functions, '').message}",
                where=where,
                key="smoke",
            )
        if not isinstance(arguments, Mapping):
            raise SpecError(
                f"smoke.{name} = {_shown(arguments)} is not allowed: write the call's arguments as a table, "
                f'as in {name} = {{ text = "hello" }}',
                where=where,
                key="smoke",
            )
    return {name: _json_value(arguments, where, key=f"smoke.{name}") for name, arguments in table.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What one deploy asks for: the project, its bundle by digest, its environment and its functions."""

    project: str
    bundle: str  # "sha256:" + 64 hexadecimal digits
    environment: EnvironmentSpec
    functions: tuple[FunctionSpec, ...]
    deploy: DeploySpec = DeploySpec()

    @classmethod
    def from_dict(cls, table: object) -> Self:
        """Parse and validate a manifest. Raises SpecError naming the key."""
        if not isinstance(table, Mapping):
            raise SpecError("the manifest must be an object", where="manifest")
        known = ("project", "bundle", "environment", "functions")
        for key in table:
            if key not in (*known, "deploy"):
                raise _unknown_key(_key(key), (*known, "deploy"), "manifest")
        for key in known:
            if key not in table:
                raise SpecError(f"{key} is missing", where="manifest", key=key)
        check_name(table["project"], "project", where="manifest")
        bundle = table["bundle"]
        if not isinstance(bundle, str) or not re.fullmatch(r"sha256:[0-9a-f]{64}", bundle):
            raise SpecError('bundle must be "sha256:" and 64 hexadecimal digits', where="manifest", key="bundle")
        raw = table["functions"]
        if not isinstance(raw, (list, tuple)) or not raw:
            raise SpecError("functions must be a list with at least one function", where="manifest", key="functions")
        functions = tuple(FunctionSpec.from_dict(f, where=f"manifest functions[{i}]") for i, f in enumerate(raw))
        seen: set[str] = set()
        for spec in functions:
            if spec.name in seen:
                raise SpecError(f"function {spec.name!r} is declared twice", where="manifest", key="functions")
            seen.add(spec.name)
        environment = EnvironmentSpec.parse(table["environment"], where="manifest environment")
        deploy = DeploySpec.parse(table.get("deploy", {}), [s.name for s in functions], where="manifest deploy")
        return cls(project=table["project"], bundle=bundle, environment=environment, functions=functions, deploy=deploy)

    def to_dict(self) -> dict[str, Any]:
        deploy = self.deploy.to_dict()
        return {
            "project": self.project,
            "bundle": self.bundle,
            "environment": self.environment.to_dict(),
            "functions": [spec.to_dict() for spec in self.functions],
            **({"deploy": deploy} if deploy else {}),
        }


def option_limits() -> dict[str, str]:
    """What each key with a checked range accepts, in words: function keys, then the policy's, a schedule's,
    an environment's."""
    return {
        key: rule.words()
        for key, rule in {**_FUNCTION_RULES, **_POLICY_RULES, **_SCHEDULE_RULES, **_ENVIRONMENT_RULES}.items()
    }


def option_types() -> dict[str, Any]:
    """Type of each key of FunctionSpec, for the settings reference."""
    return get_type_hints(FunctionSpec)


def option_defaults() -> dict[str, Any]:
    """Default of each key of FunctionSpec that has one."""
    return {f.name: f.default for f in fields(FunctionSpec) if f.default is not MISSING}
