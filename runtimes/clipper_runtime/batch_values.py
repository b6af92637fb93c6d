"""What a batched function returned, as one value for each invocation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from clipper_runtime.frames import is_table_value, to_rows
from clipper_runtime.outcomes import not_a_list

__all__ = ["as_list", "has_wrong_length"]


def has_wrong_length(value: Any, count: int) -> bool:
    """Whether it is a batch's results, but not `count` of them."""
    if isinstance(value, (str, bytes, bytearray, memoryview, Mapping, Set)):
        return False
    try:
        return len(value) != count
    except BaseException:  # noqa: BLE001 - a returned object's own methods may raise anything
        return False


def as_list(value: Any) -> Sequence[Any]:
    """A batch's results, one per invocation. Raises Rejected for a value that is not a sequence."""
    if isinstance(value, (list, tuple)):
        return value
    if is_table_value(value):
        return to_rows(value)
    dtype = getattr(value, "dtype", None)
    if getattr(value, "ndim", 0) == 1 and getattr(dtype, "kind", "O") in "biuf":
        plain: list[Any] = value.tolist()  # Python numbers encode many times faster than numpy's
        return plain
    if getattr(value, "ndim", 0) >= 1 or (
        isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview))
    ):
        return list(value)
    raise not_a_list(value)
