"""The JSON Schema that a function publishes: of its arguments, and of the value of one invocation."""

from __future__ import annotations

from typing import Any, get_origin

import msgspec

from clipper_runtime.file_values import is_bytes_like, schema_of_file
from clipper_runtime.hints import is_numpy, is_pydantic
from clipper_runtime.pydantic_types import json_schema_of, mentions_pydantic
from clipper_runtime.schema import Signature
from clipper_runtime.schema_details import add_details

__all__ = ["parameters_schema", "returns_schema"]


def parameters_schema(signature: Signature) -> dict[str, Any]:
    """The schema of the arguments as one object. Raises TypeError for a type without one."""
    schema = _schema_of(signature.struct, closed=True)
    for parameter in signature.parameters:
        if parameter.adapter is not None:
            own = schema["properties"][parameter.name]
            schema["properties"][parameter.name] = {**parameter.adapter.schema(), **own}
    return _plain(_hoisted(schema))


def returns_schema(signature: Signature) -> dict[str, Any]:
    """The schema of a value; an empty one, of any value, where its hint has none."""
    try:
        if mentions_pydantic(signature.returns):
            return _plain(json_schema_of(signature.returns, "serialization"))
        return _plain(_hoisted(_schema_of(signature.returns, closed=False)))
    except Exception:  # noqa: BLE001 - msgspec and pydantic raise various errors for a hint without a schema
        return {}


def _schema_of(kind: Any, *, closed: bool) -> dict[str, Any]:
    """A self-contained JSON Schema. `closed`: its objects have no other keys, as decoding checks."""
    (schema,), components = msgspec.json.schema_components([kind], schema_hook=_schema_hook)
    add_details(kind, schema, components)
    if closed:
        for component in components.values():
            if "properties" in component:
                component.setdefault("additionalProperties", False)
    name = schema.get("$ref", "").removeprefix("#/$defs/")
    if len(schema) == 1 and name in components:
        top = components.pop(name)
        if f'"#/$defs/{name}"'.encode() in msgspec.json.encode([top, components], enc_hook=str):
            components[name] = top  # it refers to itself
        else:
            schema = top
    return {**schema, "$defs": components} if components else schema


def _schema_hook(kind: Any) -> dict[str, Any]:
    """msgspec's schema_hook: JSON Schema of pydantic models, numpy types, files and images."""
    origin = get_origin(kind) or kind
    if is_pydantic(origin):
        return json_schema_of(kind, "validation")
    if is_numpy(origin):
        from clipper_runtime import arrays

        return arrays.schema_of(kind) or {}
    if is_bytes_like(origin):
        return schema_of_file(origin)
    raise NotImplementedError


def _hoisted(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with the definitions of its parts at the top, where references look for them."""
    definitions: dict[str, Any] = {}
    top = _without_definitions(schema, definitions)
    return {**top, "$defs": definitions} if definitions else top


def _without_definitions(node: Any, definitions: dict[str, Any]) -> Any:
    """`node`, its own definitions added to `definitions`, under other names where those are taken."""
    if isinstance(node, list):
        return [_without_definitions(one, definitions) for one in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$defs"), dict):
        for name, definition in node["$defs"].items():
            free = name
            while free in definitions and definitions[free] != definition:
                free += "_"
            if free != name:
                text = msgspec.json.encode(node, enc_hook=str).decode()
                node = msgspec.json.decode(text.replace(f'"#/$defs/{name}"', f'"#/$defs/{free}"'))
            definitions[free] = definition
    parts = {key: value for key, value in node.items() if key != "$defs"}
    return {key: _without_definitions(value, definitions) for key, value in parts.items()}


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Defaults may be any value that msgspec can write; the way through JSON makes them plain."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(schema, enc_hook=str))
    return plain
