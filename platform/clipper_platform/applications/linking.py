"""Whether a function can be asked with an application's input, and as which argument: from its published schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from clipper.contract.applications import InputType, LinkSpec
from clipper_platform.errors import InvalidSpec

__all__ = ["check_link", "parameter_of"]

Schema = Mapping[str, Any]

_NUMBERS: Final[dict[InputType, frozenset[str]]] = {
    "integers": frozenset({"integer", "number"}),
    "floats": frozenset({"number"}),
    "doubles": frozenset({"number"}),
}
_MAX_DEPTH: Final = 8  # of references and alternatives; bounds a schema that refers to itself


def check_link(link: LinkSpec, input_type: InputType, schema: Schema) -> None:
    """Raises InvalidSpec unless the function takes such an input. A function without a schema is not checked."""
    if schema.get("streaming"):
        raise InvalidSpec(f"{link.id} is a generator: an application needs one answer", key="links")
    parameters = schema.get("parameters")
    if not isinstance(parameters, Mapping):
        return
    name = parameter_of(link, schema)
    if not _accepts(parameters["properties"][name], input_type, parameters.get("$defs", {}), _MAX_DEPTH):
        raise InvalidSpec(
            f"{link.id} takes {_words(parameters['properties'][name])} as {name!r}, "
            f"and the application's input type is {input_type}",
            key="input_type",
        )


def parameter_of(link: LinkSpec, schema: Schema) -> str:
    """The argument that the input becomes. Raises InvalidSpec where that is not clear, or others are needed too."""
    parameters = schema.get("parameters", {})
    names, required = list(parameters.get("properties", {})), list(parameters.get("required", ()))
    listed = ", ".join(names) or "none"
    if link.parameter is not None:
        chosen = link.parameter
        if chosen not in names:
            raise InvalidSpec(f"{link.id} has no parameter {chosen!r}; it has {listed}", key="parameter")
    elif len(names) == 1 or len(required) == 1:
        chosen = (required or names)[0]
    else:
        raise InvalidSpec(f"{link.id} has the parameters {listed}: name the one for the input", key="parameter")
    if others := [name for name in required if name != chosen]:
        raise InvalidSpec(f"{link.id} also needs {', '.join(others)}, which an application cannot give", key="links")
    return chosen


def _accepts(schema: Schema, input_type: InputType, definitions: Mapping[str, Schema], depth: int) -> bool:
    schema = _resolved(schema, definitions)
    if alternatives := schema.get("anyOf"):
        return depth <= 0 or any(_accepts(one, input_type, definitions, depth - 1) for one in alternatives)
    kind = schema.get("type")
    if kind is None:
        return True  # any value, or one of those listed
    if input_type == "bytes":
        return kind == "string" and "contentEncoding" in schema
    if input_type == "strings":
        return kind == "string" and "contentEncoding" not in schema
    entries = [*schema.get("prefixItems", ()), schema.get("items", True)]
    return kind == "array" and all(_is_number(entry, _NUMBERS[input_type], definitions, depth) for entry in entries)


def _is_number(schema: Schema | bool, kinds: frozenset[str], definitions: Mapping[str, Schema], depth: int) -> bool:
    if isinstance(schema, bool):
        return True  # `items`: any other entries, or none
    schema = _resolved(schema, definitions)
    if alternatives := schema.get("anyOf"):
        return depth <= 0 or any(_is_number(one, kinds, definitions, depth - 1) for one in alternatives)
    return "type" not in schema or schema["type"] in kinds


def _resolved(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    for _ in range(_MAX_DEPTH):
        if "$ref" not in schema:
            break
        schema = definitions.get(str(schema["$ref"]).rpartition("/")[2], {})
    return schema


def _words(schema: Schema) -> str:
    """A schema for people: `array of number`."""
    if alternatives := schema.get("anyOf"):
        return " or ".join(_words(one) for one in alternatives)
    if schema.get("description", "").startswith("numpy"):
        return str(schema["description"])
    kind = "bytes" if "contentEncoding" in schema else str(schema.get("type", "an object"))
    items = schema.get("items")
    return f"{kind} of {_words(items)}" if isinstance(items, Mapping) and items else kind
