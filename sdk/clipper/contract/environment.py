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

_ENVIRONMENT_KEYS = ("python", "requirements", "exclude", "warm_pool_size")
ENVIRONMENT_RULES: dict[str, Rule] = {"warm_pool_size": Rule(int, low=0, high=16)}


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSpec:
    """Python version ("3.11", or None for the platform's own) and requirement lines as pip reads them.

    `exclude` names packages that are left out even where a requirement depends on them: a package that carries a
    model's weights may require a framework of several gigabytes that the function does not need. `warm_pool_size`
    processes with the environment's modules loaded wait to become replicas (None: as the platform's setting says); it
    is no part of what is installed.
    """

    python: str | None = None
    requirements: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    warm_pool_size: int | None = None

    @classmethod
    def parse(cls, table: object, *, where: str = "[environment]") -> Self:
        """Raises SpecError. `requirements` must be a list: the caller has read a requirements file already."""
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
                f'exclude = {shown(exclude)} is not allowed: list names of packages without versions, as in ["torch"]',
                where=where,
                key="exclude",
            )
        warm = {"warm_pool_size": size} if (size := table.get("warm_pool_size")) is not None else {}
        return cls(
            python=python,
            requirements=tuple(_requirement(line, where) for line in lines if line.strip()),
            exclude=tuple(sorted(exclude)),
            warm_pool_size=checked(warm, ENVIRONMENT_RULES, where).get("warm_pool_size"),
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
        raise SpecError(f"requirement {shown(line)} holds a control character", where=where, key="requirements")
    # "-rother.txt" is pip's attached form of "-r other.txt"; every refused long option has a refused short one.
    if line.startswith(_REFUSED_REQUIREMENT_OPTIONS):
        raise SpecError(
            f"requirement {shown(line)} is not allowed: list the packages themselves, nested files and editable "
            "installs are not part of the bundle's environment",
            where=where,
            key="requirements",
        )
    return line
