"""The options of an environment: the interpreter and the packages that functions run with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from clipper.contract.rules import Rule, SpecError, checked, key_word, shown, unknown_key

__all__ = [
    "ENVIRONMENT_RULES",
    "EnvironmentSpec",
]


PACKAGE_PATTERN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?\Z")
PYTHON_PATTERN = re.compile(r"3\.\d{1,2}(\.\d{1,3})?\Z")

_ENVIRONMENT_KEYS = ("python", "requirements", "constraints", "exclude", "warm_pool_size")
ENVIRONMENT_RULES: dict[str, Rule] = {"warm_pool_size": Rule(int, low=0, high=16)}


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSpec:
    """Python version ("3.11", or None for the platform's own) and requirement lines as pip reads them.

    `constraints` bound the versions of packages that are installed anyway (pip's `-c`). Paths in both are relative to
    the project. The lines are read by `clipper.contract.requirements`, which a replica does not import.
    `exclude` names packages that are left out even where a requirement depends on them: a package that carries a
    model's weights may require a framework of several gigabytes that the function does not need. `warm_pool_size`
    processes with the environment's modules loaded wait to become replicas (None: as the platform's setting says); it
    is no part of what is installed.
    """

    python: str | None = None
    requirements: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    warm_pool_size: int | None = None

    @classmethod
    def parse(cls, table: object, *, where: str = "[environment]") -> Self:
        """Raises SpecError. `requirements` and `constraints` are lists: the caller has read files that they name."""
        if not isinstance(table, Mapping):
            raise SpecError("environment must be a table", where=where, key="environment")
        for key in table:
            if key not in _ENVIRONMENT_KEYS:
                raise unknown_key(key_word(key), _ENVIRONMENT_KEYS, where)
        python = table.get("python")
        if python is not None and (not isinstance(python, str) or not PYTHON_PATTERN.match(python)):
            raise SpecError(
                f'python = {shown(python)} is not allowed: write a version as a string, as in "3.11"',
                where=where,
                key="python",
            )
        exclude = table.get("exclude") or ()
        if not isinstance(exclude, (list, tuple)) or not all(
            isinstance(name, str) and PACKAGE_PATTERN.match(name) for name in exclude
        ):
            raise SpecError(
                f'exclude = {shown(exclude)} is not allowed: list names of packages without versions, as in ["torch"]',
                where=where,
                key="exclude",
            )
        warm = {"warm_pool_size": size} if (size := table.get("warm_pool_size")) is not None else {}
        return cls(
            python=python,
            requirements=_lines(table, "requirements", where),
            constraints=_lines(table, "constraints", where),
            exclude=tuple(sorted(exclude)),
            warm_pool_size=checked(warm, ENVIRONMENT_RULES, where).get("warm_pool_size"),
        )

    def shown(self) -> dict[str, Any]:
        """As `to_dict`, without the credentials of indexes."""
        from clipper.contract.credentials import mask  # replicas import this module and show nothing

        table = self.to_dict()
        return table | {
            key: [mask(line) for line in table[key]] for key in ("requirements", "constraints") if key in table
        }

    def to_dict(self) -> dict[str, Any]:
        out: dict[str, Any] = {"python": self.python, "requirements": list(self.requirements)}
        if self.constraints:
            out["constraints"] = list(self.constraints)
        if self.exclude:
            out["exclude"] = list(self.exclude)
        if self.warm_pool_size is not None:
            out["warm_pool_size"] = self.warm_pool_size
        return out


def _lines(table: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    lines = table.get(key) or ()
    if not isinstance(lines, (list, tuple)) or not all(isinstance(line, str) for line in lines):
        raise SpecError(
            f'{key} must be a list of strings, as in ["scikit-learn>=1.5"], or "{key}.txt"', where=where, key=key
        )
    lines = tuple(line.strip() for line in lines if line.strip())
    for line in lines:
        if any(ord(c) < 32 or ord(c) == 127 for c in line):
            raise SpecError(f"requirement {shown(line)} holds a control character", where=where, key=key)
    return lines
