"""What a pickle would build, without building it: its opcodes drive a machine that only takes notes.

A class is a name, an object a name with its arguments and its state. No module is imported and nothing is called, so
that a hostile file does nothing here. Arrays of joblib's, which lie as raw bytes between the opcodes, are stepped over.

https://docs.python.org/3/library/pickletools.html, joblib/numpy_pickle.py
"""

from __future__ import annotations

import pickletools
import struct
from dataclasses import dataclass, field
from typing import Any, Final

from clipper.models.byte_stream import ByteStream, EndOfBytes
from clipper.models.pickled_objects import Array, Built, Name, array_of, count_of, dtype_code, item_bytes, mapping

__all__ = ["PickleProblem", "Pickled", "read_pickle"]

# A random forest of a thousand trees takes some 100,000, a vocabulary of a million words three million.
_MAX_OPCODES: Final = 5_000_000
_MAX_DEPTH: Final = 20  # of pickles in pickles: arrays of objects in arrays of objects
# Longer texts, bytes and arrays are stepped over: weights, nobody's name.
_KEPT_BYTES: Final = 64 * 1024


class PickleProblem(Exception):
    """These bytes are no pickle, or not a whole one."""


@dataclass(slots=True)
class Pickled:
    """What was read: the object at the top, every class and function that is named, and whether all was looked at."""

    root: Any
    names: set[Name] = field(default_factory=set)
    whole: bool = True
    protocol: int = 0


def read_pickle(stream: ByteStream) -> Pickled:
    """Raises PickleProblem."""
    machine = _Machine(stream, set(), 0)
    try:
        root = machine.run()
    except (EndOfBytes, struct.error, IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        # A stack that does not hold what an opcode takes shows as any of these.
        text = str(error) if isinstance(error, EndOfBytes) else f"it is damaged at opcode {machine.count:,}"
        raise PickleProblem(text) from None
    return Pickled(root, machine.names, machine.whole, machine.protocol)


_MARK: Final = object()
_OPCODES: Final = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_LENGTH_OF: Final = {
    pickletools.TAKEN_FROM_ARGUMENT1: "<B",
    pickletools.TAKEN_FROM_ARGUMENT4: "<i",
    pickletools.TAKEN_FROM_ARGUMENT4U: "<I",
    pickletools.TAKEN_FROM_ARGUMENT8U: "<Q",
}
_NUMBERS: Final = {
    "BININT": "<i", "BININT1": "<B", "BININT2": "<H", "BINGET": "<B", "LONG_BINGET": "<I", "BINPUT": "<B",
    "LONG_BINPUT": "<I", "BINFLOAT": ">d", "PROTO": "<B", "EXT1": "<B", "EXT2": "<H", "EXT4": "<i", "FRAME": "<Q",
}  # fmt: skip
_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class _Machine:
    """The stack of one pickle. `names` and the number of opcodes are shared with those inside it."""

    def __init__(self, stream: ByteStream, names: set[Name], depth: int, count: int = 0) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        self.stream, self.names, self.depth, self.count = stream, names, depth, count
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.whole = True
        self.protocol = 0

    def run(self) -> Any:
        """The object at the top; the one at the bottom of the stack when the opcodes are too many."""
        while True:
            opcode = _OPCODES[self.stream.read(1)]
            self.count += 1
            if self.count > _MAX_OPCODES:
                self.whole = False
                return next((one for one in self.stack if one is not _MARK), None)
            argument = self._argument(opcode)
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name])
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            else:  # text, bytes and numbers
                self.stack.append(argument)

    # Arguments

    def _argument(self, opcode: pickletools.OpcodeInfo) -> Any:
        if opcode.name in _NUMBERS:
            form = _NUMBERS[opcode.name]
            return struct.unpack(form, self.stream.read(struct.calcsize(form)))[0]
        if opcode.arg is None:
            return None
        if opcode.arg.n == pickletools.UP_TO_NEWLINE:
            return self._lines(opcode.name)
        form = _LENGTH_OF[opcode.arg.n]
        (length,) = struct.unpack(form, self.stream.read(struct.calcsize(form)))
        if length < 0:
            raise ValueError("a negative length")
        data = self.stream.read(min(length, _KEPT_BYTES))
        self.stream.skip(length - len(data))
        if "UNICODE" in opcode.name:
            return data.decode("utf-8", "replace")
        if opcode.name.startswith("LONG"):
            return int.from_bytes(data, "little", signed=True)
        if "STRING" in opcode.name:
            return data.decode("latin-1")
        return data

    def _lines(self, opcode: str) -> Any:
        text = self.stream.line().decode("utf-8", "replace")
        if opcode in ("GLOBAL", "INST"):
            return text, self.stream.line().decode("utf-8", "replace")
        if opcode == "INT":
            return text == "01" if text in ("00", "01") else int(text)
        if opcode in ("LONG", "GET", "PUT"):
            return int(text.rstrip("L"))
        if opcode == "FLOAT":
            return float(text)
        return text.strip("'\"") if opcode == "STRING" else text

    # Steps

    def marked(self) -> list[Any]:
        """What lies above the last mark; both are taken off."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise IndexError("no mark")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def named(self, module: Any, name: Any) -> Name:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("a name that is no text")
        found = Name(module, name)
        self.names.add(found)
        return found

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, Built):
            return
        target.state = state
        if target.name.name == "NumpyArrayWrapper" and target.name.module.startswith("joblib."):
            self.stack[-1] = self.joblib_array(target.attributes)
        elif target.name.name == "_reconstruct" and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, _, values = state
            self.stack[-1] = array_of(dtype_code(dtype), shape, values)

    def joblib_array(self, wrapper: dict[Any, Any]) -> Any:
        """The array whose bytes, or whose own pickle, follow at once."""
        code, shape = dtype_code(wrapper["dtype"]), wrapper["shape"]
        if code.startswith("O"):
            inner = _Machine(self.stream, self.names, self.depth + 1, self.count)
            value = inner.run()
            self.count, self.whole = inner.count, self.whole and inner.whole
            return value
        if wrapper.get("numpy_array_alignment_bytes") is not None:
            self.stream.skip(self.stream.read(1)[0])
        size = item_bytes(code) * count_of(shape)
        if size > _KEPT_BYTES:
            self.stream.skip(size)
            return Array(code, tuple(shape))
        return array_of(code, shape, self.stream.read(size))


# What each opcode does to the machine.


def _get(machine: _Machine, place: Any) -> None:
    machine.stack.append(machine.memo[place])


def _put(machine: _Machine, place: Any) -> None:
    machine.memo[place] = machine.stack[-1]


def _memoize(machine: _Machine, _: Any) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _proto(machine: _Machine, version: Any) -> None:
    machine.protocol = version


def _tuple(count: int) -> Any:
    def step(machine: _Machine, _: Any) -> None:
        items = machine.stack[len(machine.stack) - count :]
        if len(items) < count:
            raise IndexError("the stack is empty")
        machine.stack[len(machine.stack) - count :] = [tuple(items)]

    return step


def _append(machine: _Machine, _: Any) -> None:
    item = machine.stack.pop()
    _extend(machine.stack[-1], [item])


def _appends(machine: _Machine, _: Any) -> None:
    items = machine.marked()
    _extend(machine.stack[-1], items)


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _update(machine.stack[-1], [key, value])


def _set_items(machine: _Machine, _: Any) -> None:
    items = machine.marked()
    _update(machine.stack[-1], items)


def _update(target: Any, items: list[Any]) -> None:
    """Of keys only those that name something: a tuple nested a million times has no hash that can be computed."""
    if isinstance(target, dict):
        pairs = zip(items[::2], items[1::2], strict=True)
        target.update((key, value) for key, value in pairs if isinstance(key, str | int | float | bytes))


def _dictionary(items: list[Any]) -> dict[Any, Any]:
    target: dict[Any, Any] = {}
    _update(target, items)
    return target


def _global(machine: _Machine, names: Any) -> None:
    machine.stack.append(machine.named(*names))


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.named(module, name))


def _inst(machine: _Machine, names: Any) -> None:
    machine.stack.append(Built(machine.named(*names), tuple(machine.marked())))


def _obj(machine: _Machine, _: Any) -> None:
    kind, *arguments = machine.marked()
    machine.stack.append(_made(kind, tuple(arguments)))


def _reduce(machine: _Machine, _: Any) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(_made(function, arguments))


def _new_object_with_keywords(machine: _Machine, _: Any) -> None:
    keywords, arguments, kind = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    machine.stack.append(_made(kind, (*arguments, *mapping(keywords).values())))


def _made(function: Any, arguments: Any) -> Any:
    """The object that a call would give: where the call only makes an instance of a class, one of that class."""
    arguments = arguments if isinstance(arguments, tuple) else ()
    if not isinstance(function, Name):
        return Built(Name("", "unknown"), arguments)
    if str(function) in ("copyreg._reconstructor", "copy_reg._reconstructor") and isinstance(arguments[0], Name):
        return Built(arguments[0])
    if str(function) in ("copyreg.__newobj__", "copy_reg.__newobj__") and isinstance(arguments[0], Name):
        return Built(arguments[0], arguments[1:])
    if function.name == "_frombuffer" and function.module.startswith("numpy"):  # of protocol 5
        values, dtype, shape, *_ = arguments
        return array_of(dtype_code(dtype), shape, values)
    if str(function) == "collections.OrderedDict":
        return {}
    return Built(function, arguments)


def _persistent(machine: _Machine, _: Any) -> None:
    machine.stack[-1] = Built(Name("", "persistent"), (machine.stack[-1],))


_STEPS: Final[dict[str, Any]] = {
    "PROTO": _proto,
    "FRAME": lambda machine, _: None,
    "READONLY_BUFFER": lambda machine, _: None,
    "MARK": lambda machine, _: machine.stack.append(_MARK),
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.marked(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_SET": lambda machine, _: machine.stack.append([]),
    "DICT": lambda machine, _: machine.stack.append(_dictionary(machine.marked())),
    "LIST": lambda machine, _: machine.stack.append(machine.marked()),
    "FROZENSET": lambda machine, _: machine.stack.append(machine.marked()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.marked())),
    "NEXT_BUFFER": lambda machine, _: machine.stack.append(None),
    "PERSID": lambda machine, text: machine.stack.append(Built(Name("", "persistent"), (text,))),
    "BINPERSID": _persistent,
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "APPEND": _append,
    "APPENDS": _appends,
    "ADDITEMS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "INST": _inst,
    "OBJ": _obj,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_object_with_keywords,
    "BUILD": lambda machine, _: machine.build(),
    "GET": _get,
    "BINGET": _get,
    "LONG_BINGET": _get,
    "PUT": _put,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": _memoize,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), lambda machine, _: machine.stack.append(Built(Name("", "extension")))),
}
