"""Walks a type hint, with the hints of the fields of the classes in it."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator
from typing import Any, get_args, get_origin

__all__ = ["field_hints", "has_fields", "is_image", "is_numpy", "is_pydantic", "parts_of", "plain_type"]


def parts_of(hint: Any) -> Iterator[Any]:
    """The hint and every hint in it. Models of pydantic and arrays are not entered: they have rules of their own."""
    seen: set[int] = set()
    waiting = [hint]
    kept = []  # keeps ids apart
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        kept.append(one)
        yield one
        origin = get_origin(one) or one
        if is_pydantic(origin) or is_numpy(origin) or origin is typing.Literal:
            continue
        if origin is typing.Annotated:
            waiting.append(one.__origin__)
            continue
        waiting += [inner for argument in get_args(one) for inner in _flat(argument)]
        alias = getattr(one, "__value__", None) or getattr(one, "__supertype__", None)  # `type X = …`, NewType
        if alias is not None:
            waiting.append(alias)
        if isinstance(origin, type) and has_fields(origin):
            waiting += field_hints(origin).values()


def _flat(argument: Any) -> list[Any]:
    return argument if isinstance(argument, list) else [argument]  # Callable[[int], str]


def has_fields(cls: type) -> bool:
    """Whether it is a dataclass, a class of attrs, a Struct, a TypedDict or a NamedTuple."""
    marks = ("__dataclass_fields__", "__attrs_attrs__", "__struct_fields__", "__required_keys__", "_fields")
    return any(hasattr(cls, mark) for mark in marks)


def field_hints(cls: type) -> dict[str, Any]:
    """The hints of the fields; none where they cannot be resolved, which msgspec reports."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except Exception:  # noqa: BLE001 - annotations are expressions and may raise anything
        return {}


def is_pydantic(cls: Any) -> bool:
    """Whether pydantic knows how to validate it: a model, a dataclass of pydantic, a type such as SecretStr."""
    return isinstance(cls, type) and (
        hasattr(cls, "__pydantic_validator__") or hasattr(cls, "__get_pydantic_core_schema__")
    )


def is_numpy(cls: Any) -> bool:
    """Whether it is np.ndarray or a numpy scalar type. Does not import numpy: the class exists only where it is."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(cls, type) and issubclass(cls, (numpy.ndarray, numpy.generic))


def is_image(cls: Any) -> bool:
    """Whether it is an image class of Pillow. Does not import it: the class exists only where user code did."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(cls, type) and issubclass(cls, pillow.Image)


def plain_type(hint: Any) -> Any:
    """T of `Annotated[T, …]` and of `T | None`, else the hint itself."""
    if get_origin(hint) is typing.Annotated:
        return plain_type(get_args(hint)[0])
    if get_origin(hint) in (typing.Union, types.UnionType):
        rest = [a for a in get_args(hint) if a is not type(None)]
        return plain_type(rest[0]) if len(rest) == 1 else hint
    return hint
