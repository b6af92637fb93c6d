"""The hooks through which msgspec builds and writes numpy arrays, pydantic models and tensors.

No library is imported here: a class of one exists only where user code imported it.
"""

from __future__ import annotations

import inspect
import io
import sys
from collections.abc import Mapping, Sequence, Set, ValuesView
from datetime import datetime
from types import NoneType
from typing import Any, Final, get_origin

import msgspec

from clipper.contract.media_types import NPY_EXTENSION
from clipper_runtime import frames, pydantic_types
from clipper_runtime.file_values import build_file, image_bytes, is_bytes_like
from clipper_runtime.hints import is_image, is_numpy, is_pydantic

__all__ = ["build", "is_array", "plain", "plain_or_array", "plain_with_nan"]

_PLAIN_BASES: Final = (str, int, float, bytes)
# msgspec writes these itself wherever they are values: the hook gets them as keys of a dict that becomes JSON.
_ONLY_AS_KEYS: Final = frozenset({NoneType, bool, bytes, list, tuple, set, frozenset})
_WRITTEN_AS_TEXT: Final = ("pathlib", "ipaddress")  # their modules; not imported, for a quick start


def is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def build(kind: Any, value: Any) -> Any:
    """msgspec's dec_hook: an instance of a class that msgspec does not know, from plain data.

    Raises ValueError or TypeError, which msgspec turns into a ValidationError with the path.
    """
    origin = get_origin(kind) or kind
    if is_pydantic(origin):
        return pydantic_types.build(kind, value)
    if is_bytes_like(origin):
        return build_file(origin, value)
    if not is_numpy(origin):
        raise TypeError(f"the type {kind} is not supported")
    from clipper_runtime import array_hints

    return array_hints.build(kind, value)


def plain(value: Any) -> Any:
    """msgspec's enc_hook: a value that msgspec does not know, as one that it can write. Raises TypeError."""
    if type(value) in _ONLY_AS_KEYS:
        raise TypeError(f"{value!r:.60} is the key of a dict, and keys of JSON are texts and numbers")
    if is_numpy(type(value)):
        from clipper_runtime import arrays

        return arrays.to_plain(value)
    if is_pydantic(type(value)):
        return pydantic_types.to_json(value, plain)
    if frames.is_table_value(value):
        return frames.to_plain(value)
    if isinstance(value, datetime):  # of a class of its own, as pendulum's
        return datetime.combine(value.date(), value.timetz())
    if is_image(type(value)):
        return image_bytes(value)
    if isinstance(value, io.BytesIO):
        return value.getvalue()
    if hasattr(value, "__array__") and "numpy" in sys.modules:  # a tensor
        return plain(sys.modules["numpy"].asarray(value))
    if isinstance(value, _PLAIN_BASES):
        return _of_base(value)
    if type(value).__module__.partition(".")[0] in _WRITTEN_AS_TEXT:
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (Sequence, Set, ValuesView)):  # a deque, a range, the keys of a dict
        return list(value)
    raise TypeError(_formless(value))


def _of_base(value: Any) -> Any:
    """A text or a number of a class of its own, such as an element of a parsed page, as what it derives from."""
    base: Any = next(base for base in _PLAIN_BASES if isinstance(value, base))
    return str.__str__(value) if base is str else base.__new__(base, value)


def _formless(value: Any) -> str:
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if inspect.iscoroutine(value):
        value.close()
        return "it is a coroutine that nothing awaits: make the function `async def`, or await it"
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        return "it is a generator: make the function a generator with `yield`, or return a list"
    if name == "clipper.response.Response":
        return "a clipper.Response is the whole value, or the first item of a generator"
    return f"objects of type {name} have no form as plain data"


def plain_with_nan(value: Any) -> Any:
    """As `plain`, with NaN and infinities in models of pydantic, which writes them as null."""
    if not is_pydantic(type(value)):
        return plain(value)
    return None if pydantic_types.writes_nan(value) else pydantic_types.to_python(value)


def plain_or_array(value: Any) -> Any:
    """As `plain`, with arrays as the bytes of a .npy file, and models of pydantic as Python values."""
    if is_pydantic(type(value)):
        return pydantic_types.to_python(value)
    numpy = sys.modules.get("numpy")
    if numpy is None or isinstance(value, numpy.generic) or not hasattr(value, "__array__") or is_image(type(value)):
        return plain(value)
    if not isinstance(value, numpy.ndarray):
        if frames.is_table_value(value):
            return frames.to_plain(value)
        value = numpy.asarray(value)
    from clipper_runtime import arrays

    if value.dtype.kind in "OT":  # objects and texts of any length, such as labels: a .npy file cannot hold them
        return arrays.to_plain(value)
    return msgspec.msgpack.Ext(NPY_EXTENSION, arrays.dump_npy(value))
