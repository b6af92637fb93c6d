"""Outputs of models as values: which ones are equal, which ones are numbers, and of what shape."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

__all__ = ["Shape", "equality_key", "numbers", "shape", "shaped"]

Shape = tuple["Shape", ...] | None
"""None: a number; a tuple: a list of things of these shapes."""


def equality_key(value: Any) -> Hashable:
    """Equal for outputs that are equal as JSON values: 1 and 1.0 are, 1 and true or "1" are not; NaN equals NaN."""
    if isinstance(value, bool) or value is None:
        return (value,)
    if isinstance(value, (int, float)):
        return ("number", value) if value == value else ("nan",)
    if isinstance(value, (str, bytes)):
        return value
    if isinstance(value, (list, tuple)):
        return ("list", *map(equality_key, value))
    if isinstance(value, Mapping):
        return ("object", frozenset((key, equality_key(item)) for key, item in value.items()))
    return (type(value).__name__, repr(value))


def shape(value: Any) -> Shape:
    """The shape of a finite number or of nested lists of finite numbers. Raises ValueError for anything else."""
    if isinstance(value, (list, tuple)):
        return tuple(map(shape, value))
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _finite(value):
        raise ValueError(f"{type(value).__name__} is not a finite number")
    return None


def _finite(number: int | float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number beyond the range of floats
        return False


def numbers(value: Any) -> list[float]:
    """The numbers of a number or of nested lists, in order."""
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in numbers(item)]
    return [float(value)]


def shaped(found: list[float], into: Shape) -> Any:
    """The reverse of `numbers`: takes from the front of `found`, which it empties, what the shape needs."""
    return found.pop(0) if into is None else [shaped(found, part) for part in into]
