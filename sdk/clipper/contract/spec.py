"""The options of a function: frozen values, parsed and validated at the edge.

The same keys serve `@clipper.function(...)`, `[functions.NAME]` of `clip.toml` and the deploy manifest. A refusal
(`SpecError`) names the key, the value and what is allowed; an unknown key gets the nearest right name.
Standard library only: every replica imports this module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self, get_args

from clipper.contract.environment import ENVIRONMENT_RULES, EnvironmentSpec
from clipper.contract.policies import (
    OPTIONAL_POLICY,
    POLICY_RULES,
    SCHEDULE_RULES,
    AutoscalingPolicy,
    KeepAlive,
    Schedule,
    policy_dict,
)
from clipper.contract.rules import (
    NAME_PATTERN,
    POSITIVE_COUNT,
    POSITIVE_SECONDS,
    SECONDS,
    Rule,
    SpecError,
    check_name,
    checked,
    json_value,
    key_word,
    nearest,
    shown,
)

__all__ = [
    "NAME_PATTERN",
    "RESERVED_NAMES",
    "AutoscalingPolicy",
    "EnvironmentSpec",
    "FunctionSpec",
    "KeepAlive",
    "Schedule",
    "SpecError",
    "check_name",
    "nearest",
]

ENTRYPOINT_PATTERN = re.compile(r"[A-Za-z_][\w]*(\.[A-Za-z_][\w]*)*:[A-Za-z_][\w]*\Z")

# First segments of our own routes: a project may not shadow them as an application name would.
RESERVED_NAMES = frozenset({"api", "calls", "fn", "healthz", "metrics", "openapi", "readyz", "v2"})

BatchPolicy = Literal["aimd", "latency_model", "static", "none"]
OnBatchError = Literal["bisect", "fail"]


_USUAL_POLICY = AutoscalingPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSpec:
    """Everything a function declares. Times in seconds, sizes in bytes.

    `None` means "not limited" or, where the field's comment says so, "derived".
    """

    name: str
    entrypoint: str  # "module:Name", relative to the bundle
    max_batch_size: int = 1  # above 1, every parameter is a list
    # How long the oldest invocation may wait for others to join its batch; 0: not at all; None: as long as it pays.
    batch_wait_timeout_s: float | None = None
    batch_policy: BatchPolicy | None = None  # None: "aimd" with latency_slo_s and batches, else "static"
    batch_size_key: str | None = None  # a parameter whose length is the invocation's weight in a batch
    on_batch_error: OnBatchError = "bisect"
    latency_slo_s: float | None = None
    max_ongoing_requests: int | None = None  # per replica; None: 1 for plain functions, 32 for async ones
    max_queued_requests: int = 1000
    timeout_s: float = 60.0  # default deadline of an invocation; the header X-Clip-Timeout-Ms may shorten it
    startup_timeout_s: float = 120.0
    graceful_shutdown_timeout_s: float | None = None  # of a replica that is removed; None: timeout_s
    health_check_period_s: float = 10.0
    max_retries: int = 2
    cache_ttl_s: float | None = None
    default_output: Any = field(default=None, hash=False)
    hedge_after: float | None = None  # quantile of the latency after which an idempotent invocation is sent twice
    memory_bytes: int | None = None
    max_invocations: int | None = None  # a replica is recycled after so many
    public: bool = False
    snapshot: bool = False  # replicas are forked from a process that has run the setup already
    autoscaling: AutoscalingPolicy = _USUAL_POLICY

    @property
    def batched(self) -> bool:
        return self.max_batch_size > 1

    @property
    def effective_batch_policy(self) -> BatchPolicy:
        if self.batch_policy is not None:
            return self.batch_policy
        return "aimd" if self.latency_slo_s is not None and self.batched else "static"

    @property
    def effective_graceful_shutdown_timeout_s(self) -> float:
        """As long as a call may take, unless it is set: a replica that is removed cuts no call off."""
        grace_s = self.graceful_shutdown_timeout_s
        return self.timeout_s if grace_s is None else grace_s

    def derived(self) -> dict[str, tuple[Any, str]]:
        """The effective values of keys that are not set and follow another one: (value, the other key)."""
        if self.graceful_shutdown_timeout_s is not None:
            return {}
        return {"graceful_shutdown_timeout_s": (self.effective_graceful_shutdown_timeout_s, "timeout_s")}

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """The keys that a decorator or a `[functions.NAME]` table may set, the policy's short forms included."""
        return (*_FUNCTION_RULES, "entrypoint", "name", "default_output", "autoscaling", *POLICY_RULES)

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
                f'entrypoint = {shown(entrypoint)} is not allowed: write "module:Name", as in "app:Classify"',
                where=where,
                key="entrypoint",
            )
        table = {k: v for k, v in options.items() if k not in ("name", "entrypoint")}
        policy_table = table.pop("autoscaling", {})
        if not isinstance(policy_table, Mapping):
            raise SpecError(
                f"autoscaling = {shown(policy_table)} is not allowed: it must be a table "
                "(or, in clip.toml, the name of a TOML file)",
                where=where,
                key="autoscaling",
            )
        short = {k: table.pop(k) for k in list(table) if k in POLICY_RULES}
        for key in short:
            if key in policy_table:
                raise SpecError(f"{key} is set both here and in autoscaling; keep one", where=where, key=key)
        default_output = json_value(table.pop("default_output", None), where)
        table = {k: v for k, v in table.items() if v is not None or k not in _OPTIONAL}
        values = checked(table, _FUNCTION_RULES, where, also=cls.option_names())
        spec = cls(
            name=name,
            entrypoint=entrypoint,
            default_output=default_output,
            autoscaling=AutoscalingPolicy.parse({**policy_table, **short}, where=where),
            **values,
        )
        spec._check_contradictions(where)
        return spec

    @classmethod
    def check_options(cls, options: Mapping[str, Any], *, where: str) -> None:
        """Check keys and types, but not how they fit together: another layer may still change one. Raises SpecError.

        A decorator's `min_replicas=10` is fine on its own if `clip.toml` raises `max_replicas`.
        """
        table = {k: v for k, v in options.items() if k != "name"}
        policy = table.pop("autoscaling", {})
        if not isinstance(policy, Mapping):
            raise SpecError(
                f"autoscaling = {shown(policy)} is not allowed: it must be a table", where=where, key="autoscaling"
            )
        for key in table:
            if key in policy:
                raise SpecError(f"{key} is set both here and in autoscaling; keep one", where=where, key=key_word(key))
        json_value(table.pop("default_output", None), where)
        schedules = policy.get("schedule", ())
        if not isinstance(schedules, (list, tuple)):
            raise SpecError("schedule must be an array of tables: [[schedule]]", where=where, key="schedule")
        for index, schedule in enumerate(schedules):
            Schedule.parse(schedule, where=f"{where} [[schedule]] {index + 1}")
        policy = {k: v for k, v in policy.items() if k != "schedule" and (v is not None or k not in OPTIONAL_POLICY)}
        checked(policy, POLICY_RULES, where, also=("schedule",))
        table = {k: v for k, v in table.items() if v is not None or k not in _OPTIONAL | OPTIONAL_POLICY}
        known = [name for name in cls.option_names() if name != "entrypoint"]
        checked(table, {**_FUNCTION_RULES, **POLICY_RULES}, where, also=known)

    def _check_contradictions(self, where: str) -> None:
        def refuse(key: str, message: str) -> SpecError:
            return SpecError(message, where=where, key=key)

        wait_s = self.batch_wait_timeout_s or 0.0
        if self.latency_slo_s is not None and wait_s >= self.latency_slo_s:
            raise refuse(
                "batch_wait_timeout_s",
                f"batch_wait_timeout_s = {wait_s:g} leaves nothing of "
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
                value = policy_dict(value)
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


_FUNCTION_RULES: dict[str, Rule] = {
    "max_batch_size": Rule(int, low=1, high=65_536),
    "batch_wait_timeout_s": Rule(float, low=0, high=60),
    "batch_policy": Rule(str, choices=get_args(BatchPolicy)),
    "batch_size_key": Rule(str),
    "on_batch_error": Rule(str, choices=get_args(OnBatchError)),
    "latency_slo_s": POSITIVE_SECONDS,
    "max_ongoing_requests": POSITIVE_COUNT,
    "max_queued_requests": POSITIVE_COUNT,
    "timeout_s": POSITIVE_SECONDS,
    "startup_timeout_s": POSITIVE_SECONDS,
    "graceful_shutdown_timeout_s": SECONDS,
    "health_check_period_s": POSITIVE_SECONDS,
    "max_retries": Rule(int, low=0, high=20),
    "cache_ttl_s": POSITIVE_SECONDS,
    "hedge_after": Rule(float, low=0.5, high=0.9999),
    "memory_bytes": Rule(int, low=16 * 1024 * 1024),
    "max_invocations": Rule(int, low=1),
    "public": Rule(bool),
    "snapshot": Rule(bool),
}

# Keys for which None (as in a decorator) means "leave the default".
_OPTIONAL = frozenset(f.name for f in fields(FunctionSpec) if f.default is None)


def option_limits() -> dict[str, str]:
    """What each key with a checked range accepts, in words: of a function, a policy, a schedule, an environment."""
    return {
        key: rule.words()
        for key, rule in {**_FUNCTION_RULES, **POLICY_RULES, **SCHEDULE_RULES, **ENVIRONMENT_RULES}.items()
    }
