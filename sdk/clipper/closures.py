"""Functions pickled by value for `clipper.deploy`. cloudpickle writes them here; only a replica reads them.

cloudpickle alone loses some things on the way, which the pickler of this module keeps: hints that are text, the marks
by which dataclasses tell "no default", caches of functools, the fields of a Struct.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import io
import sys
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

import cloudpickle  # type: ignore[import-untyped]  # it ships no types
import msgspec

from clipper.contract.constants import CLOSURE_FILE
from clipper.contract.spec import SpecError
from clipper.contract.wrappers import declaring_function, name_of
from clipper.function import Function
from clipper.local_imports import imported_names, is_installed, local_sources

__all__ = ["closure_files", "dump_closure", "dump_value"]


def closure_files(wrapped: Callable[..., Any]) -> dict[str, bytes]:
    """The bundle of a function or class: its pickle, and the local modules that it imports when it runs."""
    pickler, data = _pickled(wrapped)
    return {**local_sources(pickler.imports), CLOSURE_FILE: data}


def dump_closure(wrapped: Callable[..., Any]) -> bytes:
    """The pickle of a function or class with all that it refers to on this machine. Raises SpecError.

    Code of `__main__` and of local modules goes by value, as the replica has neither; code of installed packages and of
    the standard library goes by reference.
    """
    return _pickled(wrapped)[1]


def dump_value(value: Any) -> bytes:
    """The pickle of any object, code of this machine by value as for `dump_closure`."""
    out = io.BytesIO()
    with _local_modules_by_value():
        _Pickler(out).dump(value)
    return out.getvalue()


def _pickled(wrapped: Callable[..., Any]) -> tuple[_Pickler, bytes]:
    out = io.BytesIO()
    pickler = _Pickler(out)
    try:
        with _local_modules_by_value():
            pickler.dump(wrapped)
    except Exception as error:
        raise SpecError(
            f"{name_of(wrapped)} refers to something that cannot be sent ({type(error).__name__}: {error})"
            f"{_culprit(wrapped)}; create connections, locks and open files inside the function, "
            "or in a class's __init__",
            where="clipper.deploy",
        ) from error
    return pickler, out.getvalue()


def _culprit(wrapped: Callable[..., Any]) -> str:
    """Which name of its code holds the value, if it is one of the function's own."""
    function = declaring_function(wrapped)
    try:
        names = inspect.getclosurevars(function)
    except TypeError:
        return ""
    for name, value in {**names.globals, **names.nonlocals}.items():
        try:
            with _local_modules_by_value():
                _Pickler(io.BytesIO()).dump(value)
        except Exception:  # noqa: BLE001 - pickling runs code of any class
            kind = type(value)
            return (
                f": {name!r} holds a {kind.__module__}.{kind.__qualname__}, perhaps since the code ran here; "
                "set it to None before it is deployed"
            )
    return ""


# What marks an absent default is compared by identity: a copy would be a default.
_StructField: Final[Any] = type(msgspec.field(default=None))
_MARKS: Final = {id(dataclasses.MISSING): "MISSING", id(dataclasses.KW_ONLY): "KW_ONLY"}
_GENERATED: Final = ("<string>", "<attrs generated")
_DYNAMIC_FILE: Final = "<dynamic-code>"  # what cloudpickle writes as the file of any code


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """`imports`: modules that the pickled functions import when they run."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.imports: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        if id(obj) in _MARKS:
            return _MARKS[id(obj)]
        if isinstance(obj, Function):
            return obj.by_value() if _is_local(declaring_function(obj)) else super().reducer_override(obj)
        if isinstance(obj, functools._lru_cache_wrapper) and _is_local(obj):
            return _cached(obj)
        if isinstance(obj, CodeType):
            return _code(self, obj)
        if isinstance(obj, _StructField):
            return functools.partial(msgspec.field, default_factory=obj.default_factory), ()
        if isinstance(obj, type) and issubclass(obj, msgspec.Struct) and _is_local(obj):
            return _struct(obj)
        reduced = super().reducer_override(obj)
        if isinstance(reduced, tuple) and isinstance(obj, FunctionType):
            self.imports.update(imported_names(obj.__code__, obj.__globals__.get("__package__") or ""))
            reduced[2][1]["__annotations__"] = _resolved(obj, obj.__annotations__)
        elif isinstance(reduced, tuple) and isinstance(obj, type) and len(reduced) > 2:
            attributes = reduced[2][0]
            attributes.pop("__msgspec_cache__", None)  # there once a value of the class was sent or received
            if "__annotations__" in attributes:
                attributes["__annotations__"] = _resolved(obj, attributes["__annotations__"])
        return reduced


@contextmanager
def _local_modules_by_value() -> Iterator[None]:
    before = cloudpickle.list_registry_pickle_by_value()
    added = [
        module
        for name, module in list(sys.modules.items())
        # Aliases and lazy stand-ins in sys.modules are not modules that can be registered.
        if isinstance(module, ModuleType) and module.__name__ == name and name not in before
        if name != "__main__" and not is_installed(module)
    ]
    for module in added:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in added:
            cloudpickle.unregister_pickle_by_value(module)


def _is_local(obj: Any) -> bool:
    return not is_installed(sys.modules.get(getattr(obj, "__module__", None) or "__main__"))


def _resolved(obj: Any, annotations: dict[str, Any]) -> dict[str, Any]:
    """Annotations with texts replaced by what they name here; as they are where a name is not known."""
    names = {}
    if isinstance(obj, FunctionType):
        names = dict(inspect.getclosurevars(obj).nonlocals)
    try:
        hints = typing.get_type_hints(obj, localns=names or None, include_extras=True)
    except Exception:  # noqa: BLE001 - annotations are expressions and may raise anything
        return annotations
    return {name: hints.get(name, hint) for name, hint in annotations.items()}


def _code(pickler: Any, code: CodeType) -> Any:
    """The code, with its file where dataclasses or attrs wrote it: a replica tells such constructors from others."""
    reduced = pickler.dispatch_table[CodeType](code)
    generated = next((mark for mark in _GENERATED if code.co_filename.startswith(mark)), None)
    if generated is None:
        return reduced
    build, arguments = reduced
    return build, tuple(generated if argument == _DYNAMIC_FILE else argument for argument in arguments)


def _cached(cache: Any) -> Any:
    """An empty cache of functools over the same function."""
    kind = type(cache)
    parameters = cache.cache_parameters()
    # The class is called directly, since functools.lru_cache(...) gives a function that has no name to pickle it by.
    arguments = (cache.__wrapped__, parameters["maxsize"], parameters["typed"], functools._CacheInfo)
    return kind, arguments, dict(vars(cache))


# Of `Struct.__struct_config__`; and what a Struct's class has that its metaclass makes.
_STRUCT_OPTIONS: Final = (
    "frozen", "eq", "order", "array_like", "gc", "repr_omit_defaults", "omit_defaults", "forbid_unknown_fields",
    "weakref", "dict", "cache_hash", "tag", "tag_field",
)  # fmt: skip
_STRUCT_PARTS: Final = frozenset({"__slots__", "__annotations__", "__dict__", "__weakref__", "__match_args__"})


def _struct(cls: type[msgspec.Struct]) -> Any:
    """A Struct built anew with its fields, which its metaclass makes from annotations only while the class is made."""
    hints = typing.get_type_hints(cls, include_extras=True)
    infos = {info.name: info for info in msgspec.structs.fields(cls)}
    written = {name: hint for name, hint in vars(cls).get("__annotations__", {}).items() if name in infos}
    fields = [
        (name, _hint(cls, hints[name], written[name]), *_default(infos[name])) for name in written if name in infos
    ]
    options = {name: getattr(cls.__struct_config__, name) for name in _STRUCT_OPTIONS}
    signature = inspect.signature(cls).parameters
    options["kw_only"] = any(signature[name].kind is inspect.Parameter.KEYWORD_ONLY for name, *_ in fields)
    options["rename"] = {name: info.encode_name for name, info in infos.items()}
    build = functools.partial(msgspec.defstruct, bases=cls.__bases__, module=cls.__module__, **options)
    attributes = {
        name: value
        for name, value in vars(cls).items()
        if name not in infos and name not in _STRUCT_PARTS and not name.startswith(("__struct_", "__msgspec_"))
    }
    # The name of the class: hints that are text are looked up among its attributes.
    return build, (cls.__name__, fields), {**attributes, cls.__name__: cls}, None, None, set_attributes


def _hint(cls: type, resolved: Any, written: Any) -> Any:
    """The hint as it was written where it names the class itself, which is not there yet."""
    text = written if isinstance(written, str) else repr(written)
    return written if cls.__name__ in text else resolved


def _default(info: Any) -> tuple[Any, ...]:
    if info.default_factory is not msgspec.NODEFAULT:
        return (msgspec.field(default_factory=info.default_factory),)
    return () if info.default is msgspec.NODEFAULT else (info.default,)


def set_attributes(cls: type, attributes: dict[str, Any]) -> None:
    """Called where the pickle is read, once the class is there: its methods may refer to it."""
    for name, value in attributes.items():
        if name not in ("__module__", "__qualname__", "__doc__") or value is not None:
            setattr(cls, name, value)
