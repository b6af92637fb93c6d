"""How wrong an answer was: a loss between 0 (right) and 1 (as wrong as can be) from a label and a model's output.

Selection policies learn from losses alone. A label that a loss cannot use is the client's mistake and is refused; an
output that it cannot use is the model's mistake and costs 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from clipper_platform.core.answers import Shape, equality_key, numbers, shape

__all__ = [
    "ABSOLUTE",
    "LOSSES",
    "REPORTED",
    "SQUARED",
    "ZERO_ONE",
    "LossError",
    "checked_loss",
    "checked_losses",
    "loss",
]

ZERO_ONE: Final = "zero_one"
ABSOLUTE: Final = "absolute"
SQUARED: Final = "squared"
REPORTED: Final = "reported"
LOSSES: Final = (ZERO_ONE, ABSOLUTE, SQUARED, REPORTED)


class LossError(ValueError):
    """A label or a loss that cannot be used; the message says what is allowed."""


def loss(name: str, label: Any, output: Any, scale: float = 1.0) -> float:
    """The loss of `output` where `label` was right, 0 to 1.

    `zero_one`: 1 unless both are equal as JSON values (1 equals 1.0, true does not). `absolute` and `squared`: the
    difference divided by `scale`, or its square, at most 1; of lists, the mean over all numbers in them. `reported`:
    the label is the loss, as the client computed it. Raises LossError for a label that the loss cannot use.
    """
    if name == ZERO_ONE:
        return 0.0 if equality_key(label) == equality_key(output) else 1.0
    if name == REPORTED:
        return checked_loss(label, "a reported loss")
    if name not in LOSSES:
        raise LossError(f"there is no loss {name!r}: use one of {', '.join(LOSSES)}")
    wanted = _numeric(label)
    if wanted is None:
        raise LossError(f"the loss {name!r} needs a finite number or a list of such numbers as the label")
    given = _numeric(output)
    if given is None or given[0] != wanted[0]:
        return 1.0
    power = 2 if name == SQUARED else 1
    differences = [min(1.0, abs(a - b) / scale) ** power for a, b in zip(given[1], wanted[1], strict=True)]
    return math.fsum(differences) / len(differences)


def _numeric(value: Any) -> tuple[Shape, list[float]] | None:
    """The shape and the numbers, of which there is at least one; None for what is not numeric."""
    try:
        form = shape(value)
    except ValueError:
        return None
    found = numbers(value)
    return (form, found) if found else None


def checked_loss(value: object, what: str = "a loss") -> float:
    """`value` if it is a number between 0 and 1, else a LossError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
        raise LossError(f"{what} must be a number between 0 and 1, not {value!r:.80}")
    return float(value)


def checked_losses(losses: Mapping[str, float]) -> dict[str, float]:
    """`losses`, each of them between 0 and 1, else a LossError that names the model."""
    return {model: checked_loss(value, f"the loss of {model}") for model, value in losses.items()}
