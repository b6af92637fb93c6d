"""A first call for a model: arrays of ones in the shapes that it takes, where these are known and small enough to read.

One is safer than zero, whose logarithm is not finite, and of which a length of one cannot be made. Whole numbers are
often places in a table, of which the first is always there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from clipper.models.description import Input

__all__ = ["MAX_NUMBERS", "NUMBERS", "nested", "ones"]

# What still fits a line of a terminal or of clip.toml: a digit of MNIST has 784.
MAX_NUMBERS: Final = 1024


def ones(inputs: Iterable[Input]) -> dict[str, Any] | None:
    """Arguments by name, None where a side is open, an input is neither numbers nor text, or the arrays are large."""
    arguments: dict[str, Any] = {}
    for one in inputs:
        if one.shape is None or one.dtype not in _VALUES:
            return None
        sides = [side for side in one.shape if side is not None]
        if len(sides) < len(one.shape) or math.prod(sides) > MAX_NUMBERS:
            return None
        arguments[one.name] = nested(_VALUES[one.dtype], sides)
    return arguments


NUMBERS: Final = frozenset(
    {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
)
"""numpy's words for types of numbers."""

_VALUES: Final[dict[str, Any]] = {
    "bool": True,
    "text": "text",
    **{name: 1.0 if name.startswith("float") else 0 for name in NUMBERS},
}


def nested(value: Any, sides: list[int]) -> Any:
    """A list of lists with these lengths."""
    for side in reversed(sides):
        value = [value] * side
    return value
