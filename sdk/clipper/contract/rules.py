"""Checks of options: names, ranges, values that JSON can carry, and the errors that refuse the others.

Standard library only: every replica imports this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "COUNT",
    "NAME_PATTERN",
    "POSITIVE_COUNT",
    "POSITIVE_SECONDS",
    "SECONDS",
    "Rule",
    "SpecError",
    "check_name",
    "checked",
    "json_value",
    "key_word",
    "nearest",
    "shown",
    "unknown_key",
]


# Names are path segments, metric labels and directory names: one conservative alphabet serves all three.
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}\Z")


class SpecError(ValueError):
    """A declaration that cannot be accepted. `where` names the table or decorator, `key` the offending key."""

    def __init__(self, message: str, *, where: str = "", key: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.message = message
        self.where = where
        self.key = key


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `word`, or None when none is close."""
    import difflib  # costs a few milliseconds and is needed only for a refusal

    found = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def shown(value: object) -> str:
    """`repr` for a message: short, and never itself an error (a huge whole number has no decimal form)."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"
    return text if len(text) <= 120 else text[:117] + "..."


def key_word(key: object) -> str:
    return key if isinstance(key, str) else shown(key)


def check_name(name: object, what: str, *, where: str = "") -> str:
    """Return `name` if it may name a project or a function, else raise SpecError."""
    if not isinstance(name, str) or not NAME_PATTERN.match(name):
        raise SpecError(
            f"{what} name {shown(name)} is not allowed: use 1 to 63 letters, digits, '-' or '_', "
            "starting with a letter or digit",
            where=where,
            key="name",
        )
    return name


def unknown_key(key: str, known: Iterable[str], where: str) -> SpecError:
    known = sorted(known)
    guess = nearest(key, known)
    hint = f"did you mean {guess!r}?" if guess else f"known keys: {', '.join(known)}"
    return SpecError(f"unknown key {shown(key)}; {hint}", where=where, key=key)


@dataclass(frozen=True, slots=True)
class Rule:
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
            raise SpecError(f"{key} = {shown(value)} is not allowed: it must be {self.words()}", where=where, key=key)
        return value


SECONDS = Rule(float, low=0, high=86_400 * 7)
POSITIVE_SECONDS = Rule(float, above=0, high=86_400 * 7)
COUNT = Rule(int, low=0, high=100_000)
POSITIVE_COUNT = Rule(int, low=1, high=100_000)


def checked(
    table: Mapping[str, Any], rules: Mapping[str, Rule], where: str, also: Iterable[str] = ()
) -> dict[str, Any]:
    values = {}
    for key, value in table.items():
        if key not in rules:
            raise unknown_key(key_word(key), [*rules, *also], where)
        values[key] = rules[key].check(key, value, where)
    return values


# Deeper than any value that people write into a settings file; bounds the recursion below.
_MAX_JSON_DEPTH = 32


def json_value(value: object, where: str, depth: int = 0, key: str = "default_output") -> Any:
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
        return [json_value(item, where, depth + 1, key) for item in value]
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise refuse(f"the key {shown(name)} is not a string")
        return {name: json_value(item, where, depth + 1, key) for name, item in value.items()}
    raise refuse(f"JSON has no form of {shown(value)}")
