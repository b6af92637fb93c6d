"""What a pickle's notes are made of: names of classes, objects with their arguments and state, arrays of numpy."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Array", "Built", "Name", "array_of", "count_of", "dtype_code", "item_bytes", "mapping"]


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that the pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Built:
    """An object: what makes it, with which arguments, and the state that is set then."""

    name: Name
    arguments: Any = ()
    state: Any = None

    @property
    def attributes(self) -> dict[Any, Any]:
        """The state by name, empty if there is none."""
        state = self.state
        if isinstance(state, tuple) and len(state) == 2:  # (__dict__, slots)
            state = {**(mapping(state[0])), **(mapping(state[1]))}
        return mapping(state)


@dataclass(eq=False, slots=True)
class Array:
    """An array of numpy. `values` are plain, None where they were too many."""

    dtype: str
    shape: tuple[int, ...]
    values: list[Any] | None = None


def mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def count_of(shape: Any) -> int:
    count = 1
    for side in shape:
        if not isinstance(side, int) or side < 0:
            raise ValueError("no shape")
        count *= side
    return count


def dtype_code(dtype: Any) -> str:
    """numpy's short name of a dtype: "f8", "<U10"'s "U10", "O8"."""
    code = dtype.arguments[0] if isinstance(dtype, Built) else dtype
    if not isinstance(code, str):
        raise TypeError("no dtype")
    return code.lstrip("<>|=")


def item_bytes(code: str) -> int:
    width = int(code[1:] or 1) if code[:1] in "biufcSUVMm" else 0
    if width <= 0:
        raise ValueError(f"an unknown dtype, {code}")
    return width * 4 if code.startswith("U") else width


# Of numpy's kinds of numbers, those that struct knows by the same width.
_FORMS: Final = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
    "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip


def array_of(code: str, shape: Any, values: Any) -> Array:
    """An array from its bytes or its list of objects. Little endian, as every machine is that runs this."""
    sides = tuple(shape) if isinstance(shape, tuple | list) else ()
    count = count_of(sides)
    if isinstance(values, Built) and str(values.name) == "_codecs.encode":  # of protocols 0 to 2
        values = str(values.arguments[0]).encode("latin-1", "replace")
    if isinstance(values, list):
        return Array(code, sides, values)
    if not isinstance(values, bytes | bytearray) or count * item_bytes(code) != len(values):
        return Array(code, sides)
    if code in _FORMS:
        return Array(code, sides, list(struct.unpack(f"<{count}{_FORMS[code]}", values)))
    if code.startswith("U") and count:
        width = len(values) // count
        texts = [values[at : at + width].decode("utf-32-le", "replace") for at in range(0, len(values), width)]
        return Array(code, sides, [text.rstrip("\0") for text in texts])
    return Array(code, sides)
