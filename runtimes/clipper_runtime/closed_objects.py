"""Refuses keys that no class of a parameter has, in nested objects as at the top.

msgspec ignores them in dataclasses, typed dictionaries and classes of attrs. A second decoding into Structs of the same
shape, with everything else skipped, finds them. Only functions that take such classes pay for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, Union
from uuid import UUID

import msgspec
from msgspec import inspect

__all__ = ["closed_shape"]

_OBJECTS = inspect.DataclassType | inspect.TypedDictType | inspect.StructType | inspect.NamedTupleType
_ARRAYS = inspect.ListType | inspect.SetType | inspect.FrozenSetType | inspect.VarTupleType
_LEAVES: Final[dict[type, Any]] = {
    inspect.NoneType: None,
    inspect.BoolType: bool,
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.StrType: str,
    inspect.BytesType: bytes,
    inspect.ByteArrayType: bytearray,
    inspect.MemoryViewType: memoryview,
    inspect.DateTimeType: datetime,
    inspect.DateType: date,
    inspect.TimeType: time,
    inspect.TimeDeltaType: timedelta,
    inspect.UUIDType: UUID,
    inspect.DecimalType: Decimal,
    inspect.ExtType: msgspec.msgpack.Ext,
    inspect.DictType: dict,
    inspect.ListType: list,
    inspect.SetType: list,
    inspect.FrozenSetType: list,
    inspect.VarTupleType: list,
    inspect.TupleType: list,
}


def closed_shape(struct: type[msgspec.Struct]) -> type[msgspec.Struct] | None:
    """A Struct that refuses unknown keys at every depth of `struct`; None where no class is nested in it."""
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    if not any(_has_objects(field.type) for field in info.fields):
        return None
    shape: type[msgspec.Struct] = _Shapes().of_class(info)
    return shape


def _has_objects(info: Any) -> bool:
    return any(isinstance(one, _OBJECTS) for one in _nested(info))


def _nested(info: Any) -> Iterator[Any]:
    seen: set[int] = set()
    waiting = [info]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, tuple):
            waiting += one
        elif isinstance(one, inspect.Type | inspect.Field):
            waiting += [getattr(one, name) for name in one.__struct_fields__]


class _Shapes:
    """Builds the Struct of each class once: classes may contain themselves."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._built: dict[str, Any] = {}

    def of_class(self, info: Any) -> Any:
        """The Struct for a class, or its name while it is being built."""
        known = self._names.get(id(info))
        if known is not None:
            return self._built.get(known, known)
        name = self._names[id(info)] = f"Shape{len(self._names)}"
        fields = [(f"f{n}", self.of(field.type), None) for n, field in enumerate(info.fields)]
        is_array = isinstance(info, inspect.NamedTupleType) or getattr(info, "array_like", False)
        names = {f"f{n}": getattr(field, "encode_name", field.name) for n, field in enumerate(info.fields)}
        tag = getattr(info, "tag", None)
        tagged: dict[str, Any] = {"tag": tag, "tag_field": info.tag_field} if tag is not None else {}
        shape = msgspec.defstruct(
            name, fields, rename=names, forbid_unknown_fields=True, array_like=is_array, kw_only=True, **tagged
        )
        self._built[name] = shape
        for waiting in self._built.values():  # hints that are names are looked up in the class
            for known, built in self._built.items():
                setattr(waiting, known, built)
        return shape

    def of(self, info: Any) -> Any:
        if not _has_objects(info):
            return msgspec.Raw
        if isinstance(info, _OBJECTS):
            return self.of_class(info)
        if isinstance(info, _ARRAYS):
            return list[self.of(info.item_type)]  # type: ignore[misc]  # a type that is computed
        if isinstance(info, inspect.TupleType):
            return tuple[tuple(map(self.of, info.item_types))]  # type: ignore[misc]  # as above
        if isinstance(info, inspect.DictType):
            return dict[self._member(info.key_type), self.of(info.value_type)]  # type: ignore[misc]  # as above
        if isinstance(info, inspect.UnionType):
            return Union[tuple(map(self._member, info.types))]  # noqa: UP007 - the members are computed
        return msgspec.Raw

    def _member(self, info: Any) -> Any:
        """A type that msgspec tells apart from the other members of its union."""
        if _has_objects(info):
            return self.of(info)
        if isinstance(info, inspect.EnumType):
            return info.cls
        if isinstance(info, inspect.LiteralType):
            return Literal[tuple(info.values)]
        return _LEAVES.get(type(info), Any)
