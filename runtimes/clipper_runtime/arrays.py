"""numpy arrays from and to payloads. Imported only where user code imported numpy: the runtime does not load it."""

from __future__ import annotations

import io
import math
from typing import Any, get_args, get_origin

import numpy as np

__all__ = ["array_type", "coerce", "coerce_scalar", "dump_npy", "dump_npy_parts", "load_npy", "schema_of", "to_plain"]

# numpy writes no longer header for any usual dtype.
_MAX_HEADER_BYTES = 10_000


def array_type(hint: Any) -> np.dtype[Any] | None:
    """The dtype in `np.ndarray[...]` or `NDArray[...]`; None where it allows any."""
    arguments = get_args(hint)
    if get_origin(hint) is not np.ndarray or len(arguments) != 2:
        return None
    scalars = get_args(arguments[1])
    if not scalars or not isinstance(scalars[0], type) or scalars[0] is np.generic:
        return None
    try:
        return np.dtype(scalars[0])
    except TypeError:  # an abstract type such as np.floating
        return None


def coerce(value: Any, dtype: np.dtype[Any] | None) -> np.ndarray[Any, Any]:
    """An array of `dtype` from nested lists or an array, without any loss except floating-point precision.

    Raises ValueError where numpy would convert silently: ragged lists, text or null as a number, 1.5 as an integer,
    300 as a uint8, 1e300 as a float32.
    """
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError("the nested arrays are ragged: those at one depth must have one length") from None
    except OverflowError as error:
        raise ValueError(str(error)) from None
    if array.dtype.hasobject:
        raise ValueError("an array must hold numbers, booleans or text of one kind")
    if dtype is None or array.dtype == dtype:
        return array
    if array.size == 0:
        return array.astype(dtype)
    _check_kinds(array, dtype)
    try:
        with np.errstate(over="raise", invalid="raise"):
            return array.astype(dtype)
    except (FloatingPointError, OverflowError, ValueError, TypeError) as error:
        raise ValueError(f"cannot hold these values as {dtype}: {error}") from None


def _check_kinds(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> None:
    have, want = array.dtype.kind, dtype.kind
    if want in "iu" and have in "iub":
        if have != "b":
            limits = np.iinfo(dtype)
            low, high = int(array.min()), int(array.max())
            if low < limits.min or high > limits.max:
                worst = low if low < limits.min else high
                raise ValueError(f"{worst} is outside the range of {dtype}: {limits.min} to {limits.max}")
        return
    if want == "M" and have == "U":  # ISO 8601 text as datetime64
        return
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise ValueError(f"expected numbers of type {dtype}, got {_word(have)}")


def _word(kind: str) -> str:
    words = {"U": "text", "S": "bytes", "f": "floating-point numbers", "b": "booleans", "c": "complex numbers"}
    return words.get(kind, "values of another kind")


def coerce_scalar(value: Any, kind: type[Any]) -> Any:
    """A numpy scalar of `kind` from a plain one. Raises ValueError as `coerce` does."""
    array = coerce(value, np.dtype(kind))
    if array.ndim:
        raise ValueError(f"expected one value of type {kind.__name__}, got an array")
    return array[()]


def load_npy(data: bytes | memoryview, *, in_place: bool = False) -> np.ndarray[Any, Any]:
    """The array in the bytes of a `.npy` file, always writable. Raises ValueError, never unpickles.

    `in_place`: the array may be a view of `data` where that is writable and aligned for the dtype. Else it is a copy.
    """
    head = io.BytesIO(bytes(data[: _MAX_HEADER_BYTES + 16]))
    try:
        version = np.lib.format.read_magic(head)
        if version == (1, 0):
            header = np.lib.format.read_array_header_1_0(head, max_header_size=_MAX_HEADER_BYTES)
        elif version == (2, 0):
            header = np.lib.format.read_array_header_2_0(head, max_header_size=_MAX_HEADER_BYTES)
        else:
            raise ValueError(f"version {version[0]}.{version[1]} is not supported, only 1.0 and 2.0")
    except (ValueError, EOFError, OSError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"not a valid .npy file: {error}") from None
    shape, fortran_order, dtype = header
    if dtype.hasobject:
        raise ValueError("an array of Python objects is not accepted: it would have to be unpickled")
    if any(side < 0 for side in shape):
        raise ValueError("not a valid .npy file: a negative shape")
    start, count = head.tell(), math.prod(shape)
    if len(data) - start != count * dtype.itemsize:
        raise ValueError(
            f"not a valid .npy file: shape {shape} of {dtype} takes {count * dtype.itemsize} bytes, "
            f"{max(0, len(data) - start)} came"
        )
    if count == 0 or dtype.itemsize == 0:
        return np.zeros(shape, dtype)
    flat = np.frombuffer(data, dtype, count, start)
    if not (in_place and flat.flags.writeable and flat.flags.aligned):
        flat = flat.copy()
    return flat.reshape(shape[::-1]).T if fortran_order else flat.reshape(shape)


def dump_npy_parts(array: np.ndarray[Any, Any]) -> tuple[bytes, memoryview]:
    """The bytes of a `.npy` file in two parts, the second being the array's own memory where it is contiguous.

    Raises ValueError for an array of objects.
    """
    if array.dtype.hasobject:
        raise ValueError("an array of Python objects has no .npy form here: it would have to be pickled")
    # A Fortran-ordered array is written in its memory order, any other one in C order.
    flat = array.T if array.flags.f_contiguous and not array.flags.c_contiguous else np.ascontiguousarray(array)
    description = np.lib.format.header_data_from_array_1_0(array)
    description["fortran_order"] = flat is not array and array.flags.f_contiguous and not array.flags.c_contiguous
    head = io.BytesIO()
    try:
        np.lib.format.write_array_header_1_0(head, description)
    except ValueError:
        head = io.BytesIO()
        np.lib.format.write_array_header_2_0(head, description)
    if not flat.size or not flat.dtype.itemsize:
        return head.getvalue(), memoryview(b"")
    return head.getvalue(), flat.reshape(-1).view(np.uint8).data


def dump_npy(array: np.ndarray[Any, Any]) -> bytes:
    return b"".join(dump_npy_parts(array))


def to_plain(value: Any) -> Any:
    """An array or numpy scalar as plain data: nested lists, numbers, text, datetimes.

    Raises TypeError for a dtype without such a form.
    """
    if value.dtype.kind == "M":  # nanoseconds would become bare integers
        value = value.astype("datetime64[us]")
    elif value.dtype.kind not in "biufUS":
        raise TypeError(f"a numpy value of type {value.dtype} has no JSON form")
    return value.tolist()


def schema_of(kind: Any) -> dict[str, Any] | None:
    """JSON Schema of an array or numpy scalar type; None for other types."""
    origin = get_origin(kind) or kind
    if origin is np.ndarray:
        dtype = array_type(kind)
        kind_of_array = f"numpy array of {dtype}" if dtype is not None else "numpy array"
        return {"type": "array", "description": f"{kind_of_array}, as nested arrays"}
    if isinstance(origin, type) and issubclass(origin, np.generic):
        scalar = {"b": "boolean", "i": "integer", "u": "integer", "f": "number", "U": "string", "M": "string"}
        word = scalar.get(np.dtype(origin).kind)
        return {"type": word} if word else {}
    return None
