"""numpy arrays from and to payloads. Imported only where user code imported numpy: the runtime does not load it."""

from __future__ import annotations

import functools
import io
import math
from typing import Any, Final, get_origin

import numpy as np

from clipper_runtime.array_hints import array_rule

__all__ = ["dump_npy", "dump_npy_parts", "load_npy", "schema_of", "to_plain"]

# numpy writes no longer header for any usual dtype.
_MAX_HEADER_BYTES = 10_000
# As nested lists, an array of shape (10**12, 0) has 10**12 empty rows.
_MAX_EMPTY_ROWS: Final = 1_000_000
_STRUCTURED: Final = "a structured array has no form here: return a dict with an array for each field, or .tolist()"


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
    if dtype.names:
        raise ValueError(f"a structured array ({dtype}) is not accepted: send an array for each field")
    if any(side < 0 for side in shape):
        raise ValueError("not a valid .npy file: a negative shape")
    start, count = head.tell(), math.prod(shape)
    if len(data) - start != count * dtype.itemsize:
        raise ValueError(
            f"not a valid .npy file: shape {shape} of {dtype} takes {count * dtype.itemsize} bytes, "
            f"{max(0, len(data) - start)} came"
        )
    if count == 0 and math.prod(filter(None, shape)) <= _MAX_EMPTY_ROWS:
        return np.zeros(shape, dtype)
    if count == 0 or dtype.itemsize == 0:
        raise ValueError(f"not a valid .npy file: shape {shape} of {dtype} promises entries that take no bytes")
    flat = np.frombuffer(data, dtype, count, start)
    if not (in_place and flat.flags.writeable and flat.flags.aligned):
        flat = flat.copy()
    return flat.reshape(shape[::-1]).T if fortran_order else flat.reshape(shape)


def dump_npy_parts(array: np.ndarray[Any, Any]) -> tuple[bytes, memoryview]:
    """The bytes of a `.npy` file in two parts, the second being the array's own memory where it is contiguous.

    Raises ValueError for an array that the file would change: of objects, masked, or of a dtype outside numpy.
    """
    if array.dtype.hasobject:
        raise ValueError("an array of Python objects has no .npy form here: it would have to be pickled")
    if isinstance(array, np.ma.MaskedArray):
        raise ValueError("a .npy file loses the mask of an array: return .filled(value), or .tolist() with None in it")
    if array.dtype.names:
        raise ValueError(_STRUCTURED)
    if not _is_carried(array.dtype):
        raise ValueError(f"a .npy file cannot carry {array.dtype}: return .astype() of a type of numpy, as np.float32")
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


@functools.lru_cache(maxsize=64)
def _is_carried(dtype: np.dtype[Any]) -> bool:
    """Whether the description of the dtype in a `.npy` file gives the same dtype again; bfloat16's gives raw bytes."""
    return bool(np.lib.format.descr_to_dtype(np.lib.format.dtype_to_descr(dtype)) == dtype)


def to_plain(value: Any) -> Any:
    """An array or numpy scalar as plain data: nested lists, numbers, text, datetimes; a masked value is None.

    Raises TypeError for a dtype without such a form, and for values that the plain form cannot hold.
    """
    kind = value.dtype.kind
    if kind == "M":
        return _dates(value)
    if kind == "m":
        return _durations(value)
    if kind == "f" and value.dtype.itemsize > _FLOAT64_BYTES:  # tolist() gives numpy's own numbers
        with np.errstate(over="ignore"):
            narrow = value.astype(np.float64)
        if not np.array_equal(np.isfinite(narrow), np.isfinite(value)):
            raise TypeError(f"a number of {value.dtype} is outside the range of a float")
        return narrow.tolist()
    if value.dtype.names:
        raise TypeError(_STRUCTURED)
    if kind not in "biufUSOT":
        raise TypeError(f"a numpy value of type {value.dtype} has no JSON form")
    return value.tolist()


_FLOAT64_BYTES: Final = 8
_EPOCH_YEAR: Final = 1970
_LAST_YEAR: Final = 9999


def _dates(value: Any) -> Any:
    """Datetimes, as ISO 8601 text where one is finer than a microsecond, which a datetime cannot hold."""
    times = np.ma.getdata(value) if isinstance(value, np.ma.MaskedArray) else np.asarray(value)
    present = times[~np.isnat(times)]
    years = present.astype("datetime64[Y]").astype(np.int64) + _EPOCH_YEAR
    if years.size and not (years.min() >= 1 and years.max() <= _LAST_YEAR):
        worst = present[int(np.argmax(np.abs(years)))]
        raise TypeError(f"the date {worst} is outside the years 1 to {_LAST_YEAR}: return it as text")
    exact = times.astype("datetime64[us]")
    if np.array_equal(exact.astype(times.dtype)[~np.isnat(times)], present):
        return value.astype("datetime64[us]").tolist()
    texts = np.asarray(np.datetime_as_string(times)).astype(object)
    texts[np.isnat(times)] = None
    return texts.tolist()


def _durations(value: Any) -> Any:
    """Durations of the standard library. Raises TypeError for one finer than a microsecond, and for months."""
    times = np.ma.getdata(value) if isinstance(value, np.ma.MaskedArray) else np.asarray(value)
    exact, present = times.astype("timedelta64[us]"), ~np.isnat(times)
    months = np.datetime_data(times.dtype)[0] in ("Y", "M")  # of no fixed length
    if months or not np.array_equal(exact.astype(times.dtype)[present], times[present]):
        raise TypeError(f"a duration of {value.dtype} is not a number of microseconds: return a number")
    return value.astype("timedelta64[us]").tolist()


def schema_of(kind: Any) -> dict[str, Any] | None:
    """JSON Schema of an array or numpy scalar type; None for other types."""
    origin = get_origin(kind) or kind
    if origin is np.ndarray:
        rule = array_rule(kind)
        dtype = rule.dtype
        words = f"numpy array of {dtype}" if dtype is not None else "numpy array"
        inner = _SCALARS.get(dtype.kind, {}) if dtype is not None else {}
        return {**_nested(rule.shape, inner), "description": f"{words}, as nested arrays"}
    if isinstance(origin, type) and issubclass(origin, np.generic):
        return dict(_SCALARS.get(np.dtype(origin).kind, {}))
    return None


_SCALARS: Final[dict[str, dict[str, Any]]] = {
    "b": {"type": "boolean"}, "i": {"type": "integer"}, "u": {"type": "integer"}, "f": {"type": "number"},
    "U": {"type": "string"}, "M": {"type": "string", "format": "date"},
}  # fmt: skip


def _nested(shape: tuple[int | None, ...] | None, inner: dict[str, Any]) -> dict[str, Any]:
    """Arrays in each other, one for each axis, where their number is known."""
    if shape is None:
        return {"type": "array"}
    for side in reversed(shape):
        length = {} if side is None else {"minItems": side, "maxItems": side}
        inner = {"type": "array", **({"items": inner} if inner else {}), **length}
    return inner
