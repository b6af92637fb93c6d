"""What a hint such as `NDArray[np.float32]` asks of an array, and arrays made from payloads so that they fit it.

Imported only where user code imported numpy.
"""

from __future__ import annotations

import functools
import types
import typing
from dataclasses import dataclass
from typing import Any, Final, TypeVar, get_args, get_origin

import msgspec
import numpy as np

from clipper_runtime.text_arrays import check_text_size

__all__ = ["ArrayRule", "array_rule", "build", "coerce", "coerce_scalar"]

# The dtype that numbers of JSON get where the hint names a family of them only.
_OF_FAMILY: Final[dict[type, Any]] = {
    np.floating: np.float64,
    np.inexact: np.float64,
    np.complexfloating: np.complex128,
    np.integer: np.int64,
    np.signedinteger: np.int64,
    np.unsignedinteger: np.uint64,
}
# Whole numbers beyond this are not exact as float64.
_EXACT: Final = 2**53
_OF_ONE_KIND: Final = "an array must hold numbers, booleans or text of one kind"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayRule:
    """`kinds`: the scalar types that are allowed, concrete or families such as np.floating; any where empty.
    `targets`: the dtypes to convert to, the first that holds the values. `shape`: the length of each axis, None for
    any length; None for any number of axes."""

    kinds: tuple[type, ...] = ()
    targets: tuple[np.dtype[Any], ...] = ()
    shape: tuple[int | None, ...] | None = None

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The one dtype that is allowed, if it is one."""
        return self.targets[0] if len(self.kinds) == 1 and self.kinds[0] not in _OF_FAMILY and self.targets else None


@functools.lru_cache(maxsize=256)
def array_rule(hint: Any) -> ArrayRule:
    """The rule of `np.ndarray`, `np.ndarray[shape, np.dtype[...]]` or `NDArray[...]`.

    Raises TypeError for a part of the hint that has no meaning here.
    """
    arguments = get_args(hint)
    if not arguments:
        return ArrayRule()
    scalars = get_args(arguments[1]) if len(arguments) == 2 else ()
    kinds = _kinds(hint, scalars[0]) if scalars else ()
    targets = tuple(np.dtype(_OF_FAMILY.get(kind, kind)) for kind in kinds if kind in _OF_FAMILY or _concrete(kind))
    return ArrayRule(kinds=kinds, targets=targets, shape=_shape(hint, arguments[0]))


def build(hint: Any, value: Any) -> Any:
    """The array or the numpy scalar that a hint asks for, from lists, a plain value or an array. Raises ValueError."""
    origin = get_origin(hint) or hint
    if not issubclass(origin, np.ndarray):
        return coerce_scalar(value, origin)
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise ValueError(f"Expected `array`, got `{_json_word(value)}`")
    return coerce(value, array_rule(hint))


def _json_word(value: Any) -> str:
    words = {dict: "object", type(None): "null"}
    return words.get(type(value), type(value).__name__)


def _kinds(hint: Any, scalar: Any) -> tuple[type, ...]:
    if isinstance(scalar, TypeVar):
        scalar = scalar.__bound__ or Any
    if scalar is Any or scalar is np.generic:
        return ()
    if get_origin(scalar) in (typing.Union, types.UnionType):
        kinds = tuple(kind for one in get_args(scalar) for kind in _kinds(hint, one) or (np.generic,))
        return () if np.generic in kinds else kinds
    scalar = get_origin(scalar) or scalar  # np.floating[Any]
    if not isinstance(scalar, type):
        raise TypeError(f"{hint} names a dtype that is not understood: write a type, as in NDArray[np.float32]")
    if issubclass(scalar, np.void):
        raise TypeError(f"{hint} is of structured arrays, which are not carried: take an array for each field")
    if issubclass(scalar, np.generic):
        return (scalar,)
    try:
        kind = np.dtype(scalar).type
    except TypeError as error:
        raise TypeError(f"{hint} names a dtype that is not understood: {error}") from None
    if kind is np.object_ and scalar is not object:  # numpy takes every class for one of objects
        raise TypeError(f"{hint} names a dtype that is not understood: {scalar.__name__} is no type of numpy")
    return (kind,)


def _concrete(kind: type) -> bool:
    try:
        return np.dtype(kind).type is kind
    except TypeError:  # np.number and the like, abstract
        return False


def _shape(hint: Any, shape: Any) -> tuple[int | None, ...] | None:
    """`tuple[int, Literal[3]]` is (None, 3): two axes, the second of length 3."""
    if isinstance(shape, TypeVar):
        shape = shape.__bound__ or Any
    sides = get_args(shape)
    if shape is Any or shape is tuple or (len(sides) == 2 and sides[1] is ...):
        return None
    if get_origin(shape) is not tuple:
        raise TypeError(f"{hint} has a shape that is not understood: write it as in np.ndarray[tuple[int, int], …]")
    return tuple(_side(hint, side) for side in sides)


def _side(hint: Any, side: Any) -> int | None:
    if side is int or side is Any:
        return None
    if get_origin(side) is typing.Literal and len(get_args(side)) == 1 and isinstance(get_args(side)[0], int):
        return int(get_args(side)[0])
    raise TypeError(f"{hint} has an axis that is not understood: write int, or Literal[3] for one of length 3")


def coerce(value: Any, rule: ArrayRule) -> np.ndarray[Any, Any]:
    """An array that fits the rule from nested lists or an array, without any loss except floating-point precision.

    Raises ValueError where numpy would convert silently: ragged lists, text or null as a number, 1.5 as an integer,
    300 as a uint8, 1e300 as a float32, a date outside the range of its unit.
    """
    if rule.kinds == (np.object_,):  # labels of several kinds
        return np.array(value, dtype=object)
    check_text_size(value)
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError("the nested arrays are ragged: those at one depth must have one length") from None
    except OverflowError as error:
        raise ValueError(str(error)) from None
    if array is not value:
        _refuse_mixed_booleans(value, array)
    if array.dtype.hasobject or (array is not value and array.dtype.kind in "USf"):
        array = _of_one_kind(value, array, exact=not rule.targets)
    if rule.shape is not None:
        _check_shape(array, rule.shape)
    if not rule.kinds or any(issubclass(array.dtype.type, kind) for kind in rule.kinds):
        dtype = rule.dtype
        return array if dtype is None or array.dtype == dtype or _is_open(dtype) else _convert(array, dtype)
    return _convert_to_first(array, rule)


def _is_open(dtype: np.dtype[Any]) -> bool:
    """Whether it leaves the size of texts or the unit of dates to the values."""
    return dtype.itemsize == 0 or (dtype.kind in "Mm" and np.datetime_data(dtype)[0] == "generic")


def _refuse_mixed_booleans(value: Any, array: np.ndarray[Any, Any]) -> None:
    """Refuse true and false among numbers, of which numpy makes 1 and 0. Raises ValueError.

    Only arrays in which a 0 or a 1 stands are searched, by msgspec: at 10 ns for an entry, where numpy takes 40.
    """
    if array.dtype.kind not in "iuf" or not ((array == 0) | (array == 1)).any():
        return
    try:
        msgspec.convert(value, _numbers(array.ndim))
    except msgspec.ValidationError:
        if any(isinstance(leaf, (bool, np.bool_)) for leaf in _leaves(value)):
            raise ValueError(_OF_ONE_KIND) from None


@functools.cache
def _numbers(depth: int) -> Any:
    return list[_numbers(depth - 1)] if depth else int | float  # type: ignore[misc]  # a type that is computed


def _of_one_kind(value: Any, array: np.ndarray[Any, Any], *, exact: bool) -> np.ndarray[Any, Any]:
    """Refuse entries of more than one kind, which numpy makes texts or floats of. Raises ValueError."""
    kind = array.dtype.kind
    if kind == "f" and not (exact and array.size and (array.max() >= _EXACT or array.min() <= -_EXACT)):
        return array
    leaves = _leaves(value)
    if kind == "f" and any(type(leaf) is int and abs(leaf) > _EXACT for leaf in leaves):
        raise ValueError("whole numbers of more than 64 bits, or beyond 2**53 beside others, are not exact in an array")
    if kind in "US" and not all(isinstance(leaf, (str, bytes, np.generic, np.ndarray)) for leaf in leaves):
        raise ValueError(_OF_ONE_KIND)
    if array.dtype.hasobject:
        if leaves and all(type(leaf) is int for leaf in leaves):
            raise ValueError("whole numbers of an array have at most 64 bits")
        raise ValueError(_OF_ONE_KIND)
    return array


def _leaves(value: Any) -> list[Any]:
    leaves, waiting = [], [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, (list, tuple)):
            waiting += one
        else:
            leaves.append(one)
    return leaves


def _check_shape(array: np.ndarray[Any, Any], shape: tuple[int | None, ...]) -> None:
    fits = array.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if side is None else str(side) for side in shape)
        raise ValueError(f"expected an array of shape ({wanted}), got {array.shape}")


def _convert_to_first(array: np.ndarray[Any, Any], rule: ArrayRule) -> np.ndarray[Any, Any]:
    """The array as the first target that holds its values. Raises the last target's ValueError."""
    error = ValueError(f"expected {' or '.join(kind.__name__ for kind in rule.kinds)}, got {array.dtype}")
    for dtype in rule.targets:
        try:
            return _convert(array, dtype)
        except ValueError as failed:
            error = failed
    raise error


def _convert(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    if array.size == 0:
        return array.astype(dtype)
    _check_kinds(array, dtype)
    try:
        with np.errstate(over="raise", invalid="raise"):
            converted = array.astype(dtype)
        if dtype.kind in "Mm":
            _check_times(array, converted)
    except (FloatingPointError, OverflowError, ValueError, TypeError) as error:
        raise ValueError(f"cannot hold these values as {dtype}: {error}") from None
    return converted


def _check_times(array: np.ndarray[Any, Any], converted: np.ndarray[Any, Any]) -> None:
    """Refuse dates and durations that the unit cannot hold: numpy wraps around, or cuts what is finer."""
    times = array
    if array.dtype.kind == "U":  # numpy reads each text in the finest unit that it needs
        times = np.array(array.tolist(), dtype=converted.dtype.kind + "8")
    if times.dtype.kind not in "Mm":
        return
    missing = np.isnat(times)
    if not np.array_equal(converted.astype(times.dtype)[~missing], times[~missing]):
        raise ValueError("a date or duration is outside the range of the unit, or finer than it")


def _check_kinds(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> None:
    have, want = array.dtype.kind, dtype.kind
    if want in "iu" and have in "iu":
        limits = np.iinfo(dtype)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            worst = low if low < limits.min else high
            raise ValueError(f"{worst} is outside the range of {dtype}: {limits.min} to {limits.max}")
        return
    if want == "M" and have == "U":  # ISO 8601 text as datetime64
        return
    if have == "b" or not np.can_cast(array.dtype, dtype, "same_kind"):  # true is no number, as in list[int]
        raise ValueError(f"expected numbers of type {dtype}, got {_word(have)}")


def _word(kind: str) -> str:
    words = {"U": "text", "S": "bytes", "f": "floating-point numbers", "b": "booleans", "c": "complex numbers"}
    return words.get(kind, "values of another kind")


def coerce_scalar(value: Any, kind: type[Any]) -> Any:
    """A numpy scalar of `kind` from a plain one. Raises ValueError as `coerce` does."""
    rule = ArrayRule(kinds=(kind,), targets=(np.dtype(_OF_FAMILY.get(kind, kind)),))
    array = coerce(value, rule)
    if array.ndim:
        raise ValueError(f"expected one value of type {kind.__name__}, got an array")
    return array[()]
