"""Environment variables that a project sets for its replicas: plain ones, `[env]` in clip.toml, and secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from clipper.contract.rules import SpecError, key_word, shown

__all__ = ["MAX_VARIABLES", "check_total", "check_variable", "parse_variables"]

NAME_PATTERN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
# The platform sets these itself: they steer its runtime, the interpreter and the dynamic linker.
RESERVED: Final = ("PATH", "TMPDIR", "VIRTUAL_ENV")
RESERVED_PREFIXES: Final = ("CLIP_", "CLIPPER_", "PYTHON", "LD_")
# The kernel takes 128 KiB per variable and 2 MiB for all arguments and variables of a process. Secrets and plain
# variables have limits of their own, so that both together fit with what the platform adds.
MAX_VALUE_BYTES: Final = 64 * 1024
MAX_TOTAL_BYTES: Final = 512 * 1024
MAX_VARIABLES: Final = 256


def check_variable(name: str, value: str, *, where: str) -> None:
    """Raises SpecError (`key` is the part that is refused: name or value) unless a replica can have the variable."""
    if not NAME_PATTERN.match(name):
        raise SpecError(
            f"the name {shown(name)} is not allowed: use letters, digits and '_', not starting with a digit, at most "
            "128 characters",
            where=where,
            key="name",
        )
    if name in RESERVED or name.startswith(RESERVED_PREFIXES):
        raise SpecError(
            f"the name {shown(name)} is not allowed: {', '.join(RESERVED)} and names that start with "
            f"{', '.join(RESERVED_PREFIXES)} are set by the platform",
            where=where,
            key="name",
        )
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise SpecError(f"the value of {name} must be text without NUL characters", where=where, key="value")
    if len(value.encode()) > MAX_VALUE_BYTES:
        raise SpecError(f"the value of {name} is over the limit of {MAX_VALUE_BYTES} bytes", where=where, key="value")


def check_total(variables: Mapping[str, str], *, where: str) -> None:
    """Raises SpecError for more variables than a process can have."""
    if len(variables) > MAX_VARIABLES:
        raise SpecError(f"at most {MAX_VARIABLES} variables are allowed", where=where, key="name")
    if sum(len(name) + len(value.encode()) for name, value in variables.items()) > MAX_TOTAL_BYTES:
        raise SpecError(f"all values together are over the limit of {MAX_TOTAL_BYTES} bytes", where=where, key="value")


def parse_variables(table: object, *, where: str) -> Mapping[str, str]:
    """The table `[env]`. Raises SpecError naming the variable."""
    if not isinstance(table, Mapping):
        raise SpecError('env must be a table: [env], with NAME = "value"', where=where, key="env")
    for name, value in table.items():
        if not isinstance(value, str):
            hint = f', as in {key_word(name)} = "{str(value).lower()}"' if isinstance(value, (int, float)) else ""
            raise SpecError(
                f"{key_word(name)} = {shown(value)} is not allowed: a variable is a string{hint}",
                where=where,
                key=key_word(name),
            )
        check_variable(name, value, where=where)
    check_total(table, where=where)
    return dict(table)
