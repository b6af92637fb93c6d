"""What msgspec leaves out of the JSON Schema of a hint: the form of moments, and what an array holds."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from datetime import datetime, time
from typing import Any, Final, get_args, get_origin

import msgspec

from clipper_runtime.hints import field_hints, has_fields, is_numpy, is_pydantic

__all__ = ["add_details"]

_FORMATS: Final[dict[Any, str]] = {datetime: "date-time", time: "time"}
# Without a time zone, which the formats ask for.
_NAIVE_EXAMPLES: Final[dict[Any, str]] = {datetime: "2026-01-31T12:00:00", time: "12:00:00"}


def add_details(hint: Any, schema: dict[str, Any], components: Mapping[str, dict[str, Any]]) -> None:
    """Complete the schema that msgspec made of `hint`, and those of the classes in it, `components` by name."""
    _Details(components).add(hint, schema)


class _Details:
    def __init__(self, components: Mapping[str, dict[str, Any]]) -> None:
        self._components = components
        self._seen: set[int] = set()  # classes may contain themselves

    def add(self, hint: Any, schema: Any) -> None:
        if not isinstance(schema, dict):
            return
        naive = False
        while get_origin(hint) is typing.Annotated:
            naive |= any(isinstance(one, msgspec.Meta) and one.tz is False for one in hint.__metadata__)
            hint = hint.__origin__
        hint = getattr(hint, "__supertype__", None) or getattr(hint, "__value__", None) or hint
        origin = get_origin(hint) or hint
        if "$ref" in schema:
            schema = self._components.get(schema["$ref"].rpartition("/")[2], schema)
        if origin in _FORMATS:
            schema.setdefault("format", _FORMATS[origin])
            if naive:
                schema["examples"] = [_NAIVE_EXAMPLES[origin]]
        elif origin in (typing.Union, types.UnionType):
            self._add_to_union(get_args(hint), schema)
        elif is_numpy(origin):
            from clipper_runtime import arrays

            schema.update(arrays.schema_of(hint) or {})
        elif isinstance(origin, type) and not is_pydantic(origin):
            self._add_to_parts(hint, origin, schema)

    def _add_to_union(self, members: tuple[Any, ...], schema: dict[str, Any]) -> None:
        """A union has one member of each kind: of text, of arrays, of objects."""
        choices = schema.get("anyOf", [schema])
        for member in members:
            kinds = self._kinds(member)
            for choice in choices:
                if choice.get("type") in kinds or ("$ref" in choice and "$ref" in kinds):
                    self.add(member, choice)

    def _kinds(self, member: Any) -> tuple[str, ...]:
        while get_origin(member) is typing.Annotated:
            member = member.__origin__
        origin = get_origin(member) or member
        if origin in _FORMATS:
            return ("string",)
        if isinstance(origin, type) and has_fields(origin):
            return ("object", "$ref")
        return ("object",) if isinstance(origin, type) and issubclass(origin, Mapping) else ("array",)

    def _add_to_parts(self, hint: Any, origin: type, schema: dict[str, Any]) -> None:
        if has_fields(origin):
            self._add_to_fields(hint, origin, schema)
            return
        arguments = get_args(hint)
        if not arguments:
            return
        if issubclass(origin, Mapping):
            self.add(arguments[-1], schema.get("additionalProperties"))
        elif "prefixItems" in schema:
            for argument, part in zip(arguments, schema["prefixItems"], strict=False):
                self.add(argument, part)
        else:
            self.add(arguments[0], schema.get("items"))

    def _add_to_fields(self, hint: Any, cls: type, schema: dict[str, Any]) -> None:
        if id(schema) in self._seen:
            return
        self._seen.add(id(schema))
        hints = field_hints(cls)
        names = dict(
            zip(getattr(cls, "__struct_fields__", ()), getattr(cls, "__struct_encode_fields__", ()), strict=True)
        )
        properties = schema.get("properties", {})
        for name, one in hints.items():
            self.add(_required(one), properties.get(names.get(name, name)))
        for (_, one), part in zip(hints.items(), schema.get("prefixItems", ()), strict=False):
            self.add(one, part)


def _required(hint: Any) -> Any:
    """T of `NotRequired[T]` and `Required[T]`."""
    return get_args(hint)[0] if get_origin(hint) in (typing.NotRequired, typing.Required) else hint
