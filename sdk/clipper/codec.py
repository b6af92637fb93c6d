"""Arguments and return values as MessagePack, and back. Never pickle.

numpy arrays travel as extension 1: the bytes of a `.npy` file, without object arrays. Dataclasses travel as maps, aware
datetimes as MessagePack timestamps, naive ones and other dates as ISO 8601 text, bytes as they are.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence, Set, ValuesView
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from clipper.contract.media_types import NPY_EXTENSION
from clipper.errors import UnexpectedAnswer
from clipper.response import Response

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
        except OverflowError:
            raise TypeError(
                f"argument {name!r} cannot be sent: a whole number in it has more than 64 bits; send it as text"
            ) from None
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
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
    if annotation in _PLAIN or isinstance(value, Response):
        return value
    try:
        return msgspec.convert(value, annotation, dec_hook=_convert_custom)
    except (msgspec.MsgspecError, TypeError, ValueError, NotImplementedError, RecursionError, OSError):
        return value


_PLAIN: Final[tuple[Any, ...]] = (Any, None, type(None), bool, int, float, str, bytes, list, dict, object)


def _convert_custom(wanted: Any, value: Any) -> Any:
    if isinstance(wanted, type) and isinstance(value, wanted):
        return value
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(wanted, type) and issubclass(wanted, pillow.Image):
        return pillow.open(io.BytesIO(value))  # its error for what is no image is an OSError
    if wanted is io.BytesIO:
        return io.BytesIO(value)
    if hasattr(wanted, "model_validate"):
        return wanted.model_validate(value)  # a model of pydantic; its error is a ValueError
    raise NotImplementedError(f"no conversion into {wanted!r}")


def _encode_custom(value: Any) -> Any:
    # An array exists only where numpy is imported already.
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        if isinstance(value, numpy.ndarray):
            return _array(numpy, value)
        if isinstance(value, numpy.generic):
            return _scalar(numpy, value)
    if isinstance(value, datetime):  # of a class of its own, as pandas.Timestamp
        if value != value:  # pandas.NaT
            return None
        return value.isoformat() if getattr(value, "nanosecond", 0) else datetime.combine(value.date(), value.timetz())
    if isinstance(value, timedelta) and not getattr(value, "nanoseconds", 0):
        return timedelta(value.days, value.seconds, value.microseconds)
    kind = type(value)
    base: Any = next((base for base in (str, int, float, bytes) if isinstance(value, base)), None)
    if base is not None:  # a class of its own, such as an element of a parsed page
        return str.__str__(value) if base is str else base.__new__(base, value)
    if isinstance(value, io.IOBase):
        return _content(value)
    if kind.__module__.partition(".")[0] == "PIL" and hasattr(value, "save"):
        return _image(value)
    if hasattr(kind, "model_validate") and hasattr(kind, "model_dump"):
        return _model(value)
    if hasattr(value, "get_secret_value"):  # pydantic's SecretStr, which shows itself as stars
        return value.get_secret_value()
    if kind.__module__.partition(".")[0] in ("pydantic", "pydantic_core"):
        return sys.modules["pydantic_core"].to_jsonable_python(value)  # a type such as its AnyUrl, in a model
    if kind.__module__.partition(".")[0] in ("pathlib", "ipaddress"):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (Sequence, Set, ValuesView)) and not hasattr(value, "to_dict"):
        return list(value)
    hint = "use plain values, bytes, dataclasses, datetimes or numpy arrays"
    if hasattr(value, "to_dict"):
        hint = 'send plain data, as of .to_dict("records") or .tolist()'
    raise TypeError(f"{kind.__module__}.{kind.__qualname__} has no MessagePack form; {hint}")


def _model(model: Any) -> Any:
    """A model of pydantic under the names by which it is validated."""
    fields = type(model).model_fields
    names = {name: one.validation_alias or name for name, one in fields.items()}
    if all(names[name] == (one.serialization_alias or name) for name, one in fields.items()):
        return model.model_dump(by_alias=True)
    values = {name: getattr(model, name) for name in names}
    choices = {name: getattr(alias, "choices", [alias])[0] for name, alias in names.items()}
    return {choices[name] if isinstance(choices[name], str) else name: value for name, value in values.items()}


def _content(file: Any) -> bytes:
    """What is left to read of a binary file. Raises TypeError for one of text."""
    content = file.read()
    if isinstance(content, bytes):
        return content
    raise TypeError("a file has to be open for bytes: open(path, 'rb')")


def _image(image: Any) -> bytes:
    """An image of Pillow as PNG, which loses nothing; as TIFF where it cannot be PNG."""
    out = io.BytesIO()
    try:
        image.save(out, "PNG")
    except (OSError, ValueError):
        out = io.BytesIO()
        image.save(out, "TIFF")
    return out.getvalue()


def _array(numpy: Any, array: Any) -> Any:
    """The bytes of a `.npy` file; lists for texts of any length and objects. Raises TypeError for what is lost."""
    if array.dtype.kind in "OT":
        return array.tolist()
    if isinstance(array, numpy.ma.MaskedArray):
        raise TypeError("a masked array loses its mask on the way; send .filled(value), or .tolist() with None in it")
    if array.dtype.names:
        raise TypeError("a structured array has no form here; send a dict with an array for each field")
    form = numpy.lib.format
    if array.dtype.hasobject or form.descr_to_dtype(form.dtype_to_descr(array.dtype)) != array.dtype:
        raise TypeError(f"a numpy array of {array.dtype} has no .npy form; convert it to a type of numpy by .astype()")
    out = io.BytesIO()
    form.write_array(out, array, allow_pickle=False)
    return msgspec.msgpack.Ext(NPY_EXTENSION, out.getvalue())


def _scalar(numpy: Any, value: Any) -> Any:
    kind = value.dtype.kind
    if kind in "biuSU":
        return value.item()
    if kind == "f":
        return float(value)
    if kind == "M":  # item() gives a bare number for nanoseconds and for far years
        plain = value.astype("datetime64[us]")
        date = plain.item() if plain == value else None
        return date if (date is None and numpy.isnat(value)) or isinstance(date, datetime) else str(value)
    if (
        kind == "m"
        and numpy.datetime_data(value.dtype)[0] not in ("Y", "M")
        and value.astype("timedelta64[us]") == value
    ):
        return value.astype("timedelta64[us]").item()
    raise TypeError(f"a numpy value of {value.dtype} has no MessagePack form; send an array, or a plain value")


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
