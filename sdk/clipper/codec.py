"""Arguments and return values as MessagePack, and back. Never pickle.

numpy arrays travel as extension 1: the bytes of a `.npy` file, without object arrays. Dataclasses travel as maps, aware
datetimes as MessagePack timestamps, naive ones and other dates as ISO 8601 text, bytes as they are.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from clipper.contract.media_types import NPY_EXTENSION
from clipper.errors import UnexpectedAnswer

__all__ = ["as_type", "decode", "decode_json", "encode"]


def encode(arguments: Mapping[str, Any]) -> bytes:
    """Keyword arguments as one MessagePack map. Raises TypeError naming the argument that has no form."""
    try:
        return _ENCODER.encode(arguments)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        pass
    for name, value in arguments.items():
        try:
            _ENCODER.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
            raise TypeError(f"argument {name!r} cannot be sent: {error}") from None
    raise TypeError("the arguments cannot be sent: their names must be strings")


def decode(data: bytes) -> Any:
    """A MessagePack answer as plain Python values and numpy arrays. Raises UnexpectedAnswer."""
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UnexpectedAnswer(f"the answer is not valid MessagePack: {error}") from None


def decode_json(data: bytes | str) -> Any:
    """A JSON answer. Raises UnexpectedAnswer."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UnexpectedAnswer(f"the answer is not valid JSON: {error}") from None


def as_type(value: Any, annotation: Any) -> Any:
    """`value` converted to the local annotation, or unchanged where it does not fit.

    The annotation is from the caller's code, the value from the deployed version. They may differ; a value of another
    type is more useful than an error.
    """
    if annotation in _PLAIN:
        return value
    try:
        return msgspec.convert(value, annotation, dec_hook=_convert_custom)
    except (msgspec.MsgspecError, TypeError, ValueError, NotImplementedError, RecursionError):
        return value


_PLAIN: Final[tuple[Any, ...]] = (Any, None, type(None), bool, int, float, str, bytes, list, dict, object)


def _convert_custom(wanted: Any, value: Any) -> Any:
    if isinstance(wanted, type) and isinstance(value, wanted):
        return value
    raise NotImplementedError(f"no conversion into {wanted!r}")


def _encode_custom(value: Any) -> Any:
    # An array exists only where numpy is imported already.
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        if isinstance(value, numpy.ndarray):
            return msgspec.msgpack.Ext(NPY_EXTENSION, _npy(numpy, value))
        if isinstance(value, numpy.generic):
            return value.item()
    raise TypeError(
        f"{type(value).__module__}.{type(value).__qualname__} has no MessagePack form; use plain values, bytes, "
        "dataclasses, datetimes or numpy arrays"
    )


def _npy(numpy: Any, array: Any) -> bytes:
    if array.dtype.hasobject:
        raise TypeError("a numpy array of Python objects cannot be sent; convert it to numbers or strings")
    out = io.BytesIO()
    numpy.lib.format.write_array(out, array, allow_pickle=False)
    return out.getvalue()


def _decode_extension(code: int, data: memoryview) -> Any:
    if code != NPY_EXTENSION:
        raise ValueError(f"unknown MessagePack extension {code}")
    try:
        import numpy  # imported only where an array is received: the CLI and most clients need none
    except ImportError:
        raise UnexpectedAnswer("the answer holds a numpy array; install numpy to receive it") from None
    return numpy.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_encode_custom)
_DECODER: Final = msgspec.msgpack.Decoder(ext_hook=_decode_extension)
