"""Refuses a hint at deploy that the runtime would not follow to its end: nothing that a user declares is ignored."""

from __future__ import annotations

import collections.abc
import dataclasses
import typing
from collections.abc import Callable, Iterator
from typing import Any, Final, get_origin

import msgspec

from clipper_runtime.file_values import is_bytes_like
from clipper_runtime.hints import has_fields, is_numpy, is_pydantic, parts_of
from clipper_runtime.pydantic_schemas import Unbuildable
from clipper_runtime.pydantic_types import Adapter, adapter_of, mentions_pydantic, uses_metadata

__all__ = ["SchemaError", "check_default", "check_hint"]


class SchemaError(Exception):
    """A signature that cannot be served; the message names the parameter and what to write instead."""


# Objects of an `Annotated` that only describe: texts and numbers, and these classes of typing and annotated_types.
_DESCRIPTIONS: Final = ("Doc", "DocInfo", "Unit")
# Of pydantic and FastAPI; of dataclasses and msgspec; of attrs.
_FIELD_DESCRIPTIONS: Final = frozenset({"FieldInfo", "Field", "_CountingAttr"})
_PLAIN_METADATA: Final = (str, bytes, int, float, type(None))


def check_hint(name: str, hint: Any) -> Adapter | None:
    """What decodes the parameter where its hint mentions pydantic, else None: msgspec does. Raises SchemaError."""
    adapter, reason = _adapter(name, hint)
    for part in parts_of(hint):
        origin = get_origin(part) or part
        if is_numpy(origin):
            _check_array(name, part)
        elif origin is typing.Annotated:
            _check_metadata(name, part, adapter)
        elif origin in (type, collections.abc.Callable):
            raise SchemaError(f"parameter {name!r}: {part} cannot be built from a request")
        elif adapter is None and isinstance(origin, type) and has_fields(origin):
            if is_pydantic(origin):
                raise SchemaError(
                    f"parameter {name!r}: the validators of {origin.__qualname__}, a dataclass of pydantic, would not "
                    f"run {reason}; make it a pydantic model"
                )
            _check_class(name, origin)
    if adapter is None:
        _check_decodable(name, hint)
    return adapter


def check_default(name: str, default: Any) -> None:
    """Refuse what describes a field of a class as the default of a parameter: the function would get this object."""
    kinds = {kind.__name__ for kind in type(default).__mro__}
    if kinds & _FIELD_DESCRIPTIONS:
        raise SchemaError(
            f"parameter {name!r} has {type(default).__name__} as its default, which the function would get as it is; "
            f"write {name}: Annotated[…, constraint] = value"
        )


def _adapter(name: str, hint: Any) -> tuple[Adapter | None, str]:
    """What decodes a hint that mentions pydantic; or None and why not: msgspec does, and pydantic only its models."""
    if not mentions_pydantic(hint):
        return None, ""
    try:
        return adapter_of(hint), "beside an array"
    except Unbuildable as error:
        raise SchemaError(f"parameter {name!r}: {error}") from None
    except Exception as error:  # noqa: BLE001 - pydantic, and the hooks of user classes, raise various errors
        return None, f"here ({str(error).splitlines()[0]})"


def _check_array(name: str, hint: Any) -> None:
    from clipper_runtime.array_hints import array_rule

    try:
        array_rule(hint)
    except TypeError as error:
        raise SchemaError(f"parameter {name!r}: {error}") from None


def _check_metadata(name: str, hint: Any, adapter: Adapter | None) -> None:
    for metadata in hint.__metadata__:
        if isinstance(metadata, _PLAIN_METADATA) or type(metadata).__name__ in _DESCRIPTIONS:
            continue
        if uses_metadata(metadata) if adapter is not None else isinstance(metadata, msgspec.Meta):
            continue
        raise SchemaError(
            f"parameter {name!r}: {_short(metadata)} in Annotated would not be enforced; write a constraint as "
            "msgspec.Meta(ge=0), or check the value in the function"
        )


def _check_class(name: str, cls: type) -> None:
    """Refuse a class with rules that msgspec does not follow: it sets the fields without the constructor."""
    own = _own_constructor(cls)
    if own:
        problem = f"has {own} of its own, which decoding would skip; use __post_init__"
        if hasattr(cls, "__attrs_attrs__"):
            problem = f"has {own} of its own, which decoding would skip; use __attrs_post_init__"
    else:
        problem = next(_unfollowed_fields(cls), "")
    if problem:
        raise SchemaError(f"parameter {name!r}: the class {cls.__qualname__} {problem}, or take a dict")


def _own_constructor(cls: type) -> str:
    if issubclass(cls, msgspec.Struct) or hasattr(cls, "__required_keys__"):
        return ""
    if issubclass(cls, tuple):
        named: Any = next((c for c in cls.__mro__ if "_fields" in vars(c)), cls)
        return "a __new__" if getattr(cls, "__new__") is not named.__new__ else ""  # noqa: B009 - of any class
    if not _is_generated(cls.__dict__.get("__init__", getattr(cls, "__init__"))):  # noqa: B009 - of any class
        return "an __init__"
    return "" if cls.__new__ is object.__new__ else "a __new__"


def _is_generated(init: Callable[..., Any]) -> bool:
    """Whether dataclasses or attrs wrote it: they compile text, whose file has such a name."""
    code = getattr(init, "__code__", None)
    return code is None or code.co_filename == "<string>" or code.co_filename.startswith("<attrs generated")


def _unfollowed_fields(cls: type) -> Iterator[str]:
    if dataclasses.is_dataclass(cls):
        for field in dataclasses.fields(cls):
            if not field.init:
                yield f"computes its field {field.name!r} (init=False), which a request could set"
    for attribute in getattr(cls, "__attrs_attrs__", ()):
        if attribute.converter is not None:
            yield f"has a converter for {attribute.name!r}, which decoding would skip; use __attrs_post_init__"
        if not attribute.init:
            yield f"computes its field {attribute.name!r} (init=False), which a request could set"
        if attribute.alias is not None and attribute.alias != attribute.name:
            yield f"calls its field {attribute.name!r} {attribute.alias!r}, and requests would not; use one name"


def _check_decodable(name: str, hint: Any) -> None:
    try:
        info = msgspec.inspect.type_info(hint)
        msgspec.json.Decoder(hint)
    except Exception as error:  # noqa: BLE001 - msgspec raises various errors for types that it cannot decode
        raise SchemaError(f"parameter {name!r} cannot be decoded: {error}") from None
    for cls in _custom_types(info):
        if not is_pydantic(cls) and not is_numpy(cls) and not is_bytes_like(cls):
            raise SchemaError(
                f"parameter {name!r}: the type {cls.__module__}.{cls.__qualname__} cannot be built from a "
                "request; use plain types, dataclasses, TypedDict, msgspec.Struct, pydantic models, numpy "
                "arrays, Pillow images or BinaryIO"
            )


def _custom_types(info: Any) -> Iterator[type]:
    """The classes inside a type that msgspec leaves to a hook. Recursive types are visited once."""
    seen: set[int] = set()
    waiting = [info]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, msgspec.inspect.CustomType):
            yield one.cls
        elif isinstance(one, tuple):
            waiting += one
        elif isinstance(one, msgspec.inspect.Type | msgspec.inspect.Field):
            waiting += [getattr(one, name) for name in one.__struct_fields__]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
