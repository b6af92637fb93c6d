"""Example values for a JSON Schema, and calls with them that a user can paste after a deploy."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from clipper.contract.media_types import OCTET_STREAM

__all__ = ["Example", "curl", "example", "python_call"]

_FORMATS = {
    "date-time": "2026-01-31T12:00:00Z",
    "date": "2026-01-31",
    "time": "12:00:00Z",
    "duration": "PT5S",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
    "decimal": "1.5",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "hostname": "example.com",
    "password": "hello",
}
# Keys of a schema that ask for more than this module follows.
_NOT_FOLLOWED = (
    "pattern",
    "patternProperties",
    "propertyNames",
    "not",
    "if",
    "contains",
    "dependentRequired",
    "minProperties",
)
_LITERAL_BYTES = 200
# A recursive type's schema refers to itself: below the first depth the smallest value is given, at the second any.
_SMALL_DEPTH, _MAX_DEPTH = 4, 10
# The schema of an array names its dtype in words, as in "numpy array of float32, as nested arrays".
_ARRAY = re.compile(r"numpy array(?: of (?P<dtype>[a-z]+))?")
_ARRAY_ITEMS: Mapping[str, Any] = {
    "bool": {"type": "boolean"}, "int": {"type": "integer"}, "uint": {"type": "integer"}, "str": {"type": "string"},
    "datetime": {"type": "string", "format": "date"},
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Keyword arguments of a call. `unsure` are the parameters whose schema does not say which values they take."""

    arguments: Mapping[str, Any]
    unsure: tuple[str, ...] = ()
    given: bool = False  # by the project, not made from the schema


def example(schema: Mapping[str, Any], smoke: Mapping[str, Any] | None = None) -> Example:
    """An example call for a function's schema: with the arguments it requires, or all it has when none is required.

    `schema` is what `/fn/…/schema` answers: its `parameters` describe the object of arguments. `smoke` are those that
    the project declares for its smoke call: they are known to work.
    """
    if smoke is not None:
        return Example(arguments=dict(smoke), given=True)
    described = _parameters(schema)
    examples = _Examples(described)
    values = examples.value(described, 0, name="")
    if not isinstance(values, dict):
        return Example(arguments={})
    properties = examples.resolved(described).get("properties") or {}
    unsure = tuple(name for name in values if not examples.says_which(properties.get(name, {})))
    return Example(arguments=values, unsure=unsure)


def _parameters(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found = schema.get("parameters")
    return found if isinstance(found, Mapping) else {}


class _Examples:
    """Example values of one schema; `$ref` refers to its `$defs`."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document

    def value(self, schema: Any, depth: int, *, name: str) -> Any:
        schema = self.resolved(schema)
        if not schema or depth > _MAX_DEPTH:
            return name or "example"
        for key in ("example", "const", "default"):
            if key in schema:
                return schema[key]
        for key in ("examples", "enum"):
            if isinstance(schema.get(key), list) and schema[key]:
                return schema[key][0]
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                return self.value(self._first_useful(schema[key], depth), depth + 1, name=name)
        if isinstance(schema.get("allOf"), list):
            return self.value(
                {k: v for part in schema["allOf"] for k, v in self.resolved(part).items()}, depth, name=name
            )
        return self._typed(schema, depth, name)

    def resolved(self, schema: Any) -> Mapping[str, Any]:
        """`schema`, or what its `$ref` leads to."""
        for _ in range(_MAX_DEPTH):
            if not isinstance(schema, Mapping):
                return {}
            if "$ref" not in schema:
                return schema
            schema = self._target(str(schema["$ref"]))
        return {}

    def _target(self, reference: str) -> Any:
        found: Any = self.document
        for step in reference.removeprefix("#").strip("/").split("/"):
            found = found.get(step) if isinstance(found, Mapping) else None
        # A pydantic model's schema keeps its definitions beside it, and refers to them as if it were the document.
        return found if found is not None else _definition(self.document, reference.rpartition("/")[2])

    def _first_useful(self, choices: list[Any], depth: int) -> Any:
        null = [c for c in choices if self.resolved(c).get("type") == "null"]
        if null and depth >= _SMALL_DEPTH:
            return null[0]
        return next((c for c in choices if c not in null), choices[0])

    def says_which(self, schema: Any, depth: int = 0) -> bool:
        """Whether the schema says enough for an example that the function takes: not "any array", "any text that fits
        this expression", "any value"."""
        schema = self.resolved(schema)
        if any(key in schema for key in ("example", "examples", "const", "default", "enum")):
            return True
        if not schema or depth > _MAX_DEPTH or any(key in schema for key in _NOT_FOLLOWED):
            return False
        kind = schema.get("type")
        if kind == "array" and "prefixItems" not in schema and not self._says_which_items(schema):
            return False
        if kind == "object" and "properties" not in schema:  # keys of any name
            return False
        if kind == "string" and (schema.get("contentEncoding") or schema.get("format", "date") not in _FORMATS):
            return False
        return all(self.says_which(part, depth + 1) for part in self._parts(schema, depth))

    def _says_which_items(self, schema: Mapping[str, Any]) -> bool:
        """A list of numbers is a point of some number of dimensions, and of an array not even that is known."""
        items = self.resolved(schema.get("items"))
        numbers = items.get("type") in ("integer", "number", "array")
        return bool(items) and (not numbers or schema.get("minItems") == schema.get("maxItems") is not None)

    def _parts(self, schema: Mapping[str, Any], depth: int) -> Iterator[Any]:
        """The schemas of what an example of `schema` holds."""
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                yield self._first_useful(schema[key], depth)
                return
        properties = schema.get("properties") or {}
        yield from (properties.get(key, {}) for key in schema.get("required") or ())
        yield from schema.get("allOf") or ()
        yield from schema.get("prefixItems") or ()
        for key in ("items", "additionalProperties"):
            if isinstance(schema.get(key), Mapping):
                yield schema[key]

    def _typed(self, schema: Mapping[str, Any], depth: int, name: str) -> Any:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((k for k in kind if k != "null"), "null")
        if kind == "object" or "properties" in schema:
            return self._object(schema, depth)
        if kind == "array" or "prefixItems" in schema:
            return self._array(schema, depth, name)
        if kind in ("integer", "number"):
            return _number(schema, whole=kind == "integer")
        if kind == "boolean":
            return True
        if isinstance(schema.get("contentSchema"), Mapping):  # text that is JSON itself
            return json.dumps(self.value(schema["contentSchema"], depth + 1, name=name))
        return None if kind == "null" else _string(schema, name)

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = schema.get("required") or (list(properties) if depth == 0 else [])
        values = {key: self.value(properties.get(key, {}), depth + 1, name=key) for key in required}
        extra = schema.get("additionalProperties")
        if not properties and isinstance(extra, Mapping):
            values["key"] = self.value(extra, depth + 1, name="key")
        return values

    def _array(self, schema: Mapping[str, Any], depth: int, name: str) -> list[Any]:
        values = [self.value(item, depth + 1, name=name) for item in schema.get("prefixItems") or ()]
        items = schema.get("items")
        if items is False:
            return values
        if not items and (found := _ARRAY.match(str(schema.get("description", "")))):
            items = _ARRAY_ITEMS.get((found["dtype"] or "").rstrip("0123456789"), {"type": "number"})
        usual = 0 if depth >= _SMALL_DEPTH or values else 2
        wanted = max(int(schema.get("minItems", 0)), usual)
        wanted = min(wanted, int(schema.get("maxItems", wanted)), 64)
        values += [self.value(items, depth + 1, name=name) for _ in range(wanted - len(values))]
        return _distinct(values, self.resolved(items)) if schema.get("uniqueItems") else values


def _definition(document: Any, name: str) -> Any:
    """The definition of this name, wherever in the document it stands."""
    if isinstance(document, Mapping):
        definitions = document.get("$defs")
        if isinstance(definitions, Mapping) and name in definitions:
            return definitions[name]
        document = list(document.values())
    if isinstance(document, list):
        return next((found for part in document if (found := _definition(part, name)) is not None), None)
    return None


def _distinct(values: list[Any], items: Mapping[str, Any]) -> list[Any]:
    """As many different values as the schema of the items allows to make of equal ones."""
    if isinstance(items.get("enum"), list):
        return list(items["enum"])[: len(values)]
    found: list[Any] = []
    for value in values:
        while value in found and isinstance(value, (int, float, str)) and not isinstance(value, bool):
            value = value + "x" if isinstance(value, str) else value + items.get("multipleOf", 1)
        if value not in found:
            found.append(value)
    return found


def _number(schema: Mapping[str, Any], *, whole: bool) -> int | float:
    """The first of the usual numbers and those at the bounds that all keys of the schema allow."""
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    step = schema.get("multipleOf")
    floor = next((v for v in (low, above) if v is not None), None)
    ceiling = next((v for v in (high, below) if v is not None), None)
    candidates: list[int | float] = [1] if whole else [0.5, 1.0]
    candidates += [v for v in (low, high) if v is not None]
    candidates += [] if floor is None else [floor + 1]
    candidates += [] if ceiling is None else [ceiling - 1]
    candidates += [] if floor is None or ceiling is None else [(floor + ceiling) / 2]
    if step:
        candidates = [step * (count + math.ceil(v / step)) for v in (candidates[0], floor or 0) for count in (0, 1)]
    usual = candidates[0]
    if whole:
        candidates = [int(v) for v in candidates if v == int(v)]

    def fits(value: int | float) -> bool:
        return (
            (low is None or value >= low)
            and (high is None or value <= high)
            and (above is None or value > above)
            and (below is None or value < below)
        )

    return next(filter(fits, candidates), usual)


def _string(schema: Mapping[str, Any], name: str) -> str:
    if schema.get("contentEncoding") == "base64":
        return "aGVsbG8="  # "hello"
    form = schema.get("format")
    if form in _FORMATS:
        return _FORMATS[form]
    text = "hello" if name in ("", "text", "message", "prompt", "query", "key") else name
    shortest = int(schema.get("minLength", 0))
    longest = int(schema.get("maxLength", max(len(text), shortest)))
    return (text * (shortest // len(text) + 1) if len(text) < shortest else text)[: max(longest, shortest)]


def curl(url: str, schema: Mapping[str, Any], call: Example, *, key_needed: bool) -> str:
    """A shell command that calls the function, over several lines. The key comes from $CLIP_API_KEY.

    The body is a file for a function that takes raw bytes, unless the project gives the arguments, else JSON.
    """
    streaming = bool(schema.get("streaming"))
    lines = [f"curl {'-N ' if streaming else ''}{shlex.quote(url)}"]
    if key_needed:
        lines.append('-H "Authorization: Bearer $CLIP_API_KEY"')
    if streaming:
        lines.append("-H 'Accept: text/event-stream'")
    if _takes_file(schema) and not call.given:
        lines += ["-H 'Content-Type: application/octet-stream'", "--data-binary @FILE"]
    else:
        body = json.dumps(dict(call.arguments), ensure_ascii=False)
        lines += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(body)}"]
    return " \\\n  ".join(lines)


def python_call(path: str, schema: Mapping[str, Any], call: Example) -> str:
    """A Python expression that calls the function `path` ("project/function")."""
    properties = _Examples(_parameters(schema)).resolved(_parameters(schema)).get("properties") or {}
    values = ", ".join(
        f"{key}={_literal(value, properties.get(key), given=call.given)}"
        for key, value in call.arguments.items()
        if re.fullmatch(r"[A-Za-z_]\w*", key)
    )
    return f'clipper.Function.from_name("{path}").remote({values})'


def _takes_file(schema: Mapping[str, Any]) -> bool:
    return OCTET_STREAM in (schema.get("content_types") or ())


def _literal(value: Any, schema: Any, *, given: bool) -> str:
    if isinstance(schema, Mapping) and schema.get("contentEncoding") == "base64":
        content = _decoded(value) if given else None
        return repr(content) if content is not None else 'open("FILE", "rb").read()'
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _decoded(value: Any) -> bytes | None:
    """Bytes that are short enough to be a literal."""
    try:
        content = base64.b64decode(value, validate=True)
    except (TypeError, binascii.Error):
        return None
    return content if len(content) <= _LITERAL_BYTES else None
