"""What a project declares of its deploys: `[deploy]` of clip.toml."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, get_args

from clipper.contract.rules import Rule, SpecError, checked, json_value, key_word, shown, unknown_key

__all__ = ["DeploySpec"]

DeployStrategy = Literal["rolling", "canary", "recreate"]


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
        values = checked(table, _DEPLOY_RULES, where, also=("steps", "smoke"))
        if steps is not None:
            values["steps"] = steps
        spec = cls(**values, smoke=smoke)
        for key in values:
            if key in _CANARY_KEYS and spec.strategy != "canary":
                raise SpecError(f'{key} needs strategy = "canary"', where=where, key=key)
        if spec.strategy == "recreate" and values.get("keep_previous_s"):
            raise SpecError(
                'keep_previous_s has no meaning with strategy = "recreate": the old version is stopped first',
                where=where,
                key="keep_previous_s",
            )
        return spec

    def to_dict(self) -> dict[str, Any]:
        """The keys that differ from their defaults, in the form that `parse` takes."""
        default = DeploySpec()
        changed = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {key: value for key, value in changed.items() if value != getattr(default, key)}
        return {key: list(value) if key == "steps" else value for key, value in changed.items()}


_CANARY_KEYS = frozenset({"steps", "step_s", "max_error_rate_increase", "max_p99_ratio", "min_samples"})

_DEPLOY_RULES: dict[str, Rule] = {
    "strategy": Rule(str, choices=get_args(DeployStrategy)),
    "keep_previous_s": Rule(float, low=0, high=86_400),
    "step_s": Rule(float, above=0, high=86_400),
    "max_error_rate_increase": Rule(float, low=0, high=1),
    "max_p99_ratio": Rule(float, low=1, high=1000),
    "min_samples": Rule(int, low=1, high=1_000_000),
}


def _steps(value: object, where: str) -> tuple[int, ...]:
    whole = isinstance(value, (list, tuple)) and all(type(step) is int and 1 <= step <= 100 for step in value)
    steps = tuple(value) if whole and isinstance(value, (list, tuple)) else ()
    if not steps or steps[-1] != 100 or list(steps) != sorted(set(steps)):
        raise SpecError(
            f"steps = {shown(value)} is not allowed: write growing whole percentages that end with 100, "
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
                f"smoke names no function of the project: {unknown_key(key_word(name), functions, '').message}",
                where=where,
                key="smoke",
            )
        if not isinstance(arguments, Mapping):
            raise SpecError(
                f"smoke.{name} = {shown(arguments)} is not allowed: write the call's arguments as a table, "
                f'as in {name} = {{ text = "hello" }}',
                where=where,
                key="smoke",
            )
    return {name: json_value(arguments, where, key=f"smoke.{name}") for name, arguments in table.items()}
