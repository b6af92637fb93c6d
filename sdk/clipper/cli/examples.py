"""Example values for a JSON Schema, and calls with them that a user can paste after a deploy."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from clipper.contract.media_types import OCTET_STREAM

__all__ = ["arguments", "curl", "python_call"]

_FORMATS = {
    "date-time": "2026-01-31T12:00:00Z",
    "date": "2026-01-31",
    "time": "12:00:00Z",
    "duration": "PT5S",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
    "decimal": "1.5",
    "email": "someone@example.com",
    "uri": "https://example.com/",
}
# A recursive type's schema refers to itself; below this depth the smallest value is given.
_MAX_DEPTH = 6


def arguments(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Example keyword arguments for a function's schema: those it requires, or all it has when none is required.

    `schema` is what `/fn/…/schema` answers: its `parameters` describe the object of arguments.
    """
    described = _parameters(schema)
    values = _Examples(described).value(described, 0, name="")
    return values if isinstance(values, dict) else {}


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
                return self.value(self._first_useful(schema[key]), depth + 1, name=name)
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
        return found

    def _first_useful(self, choices: list[Any]) -> Any:
        return next((c for c in choices if self.resolved(c).get("type") != "null"), choices[0])

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
        wanted = max(int(schema.get("minItems", 0)), 2 if not values else 0)
        wanted = min(wanted, int(schema.get("maxItems", wanted)), 64)
        values += [self.value(items, depth + 1, name=name) for _ in range(wanted - len(values))]
        return values


def _number(schema: Mapping[str, Any], *, whole: bool) -> int | float:
    step = schema.get("multipleOf")
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    value: float = 1 if whole else 0.5
    floor = low if low is not None else (above + 1 if above is not None else None)
    ceiling = high if high is not None else (below - 1 if below is not None else None)
    if floor is not None and value < floor:
        value = floor
    if ceiling is not None and value > ceiling:
        value = ceiling
    if above is not None and below is not None and not above < value < below:
        value = (above + below) / 2
    if step:
        value = step * max(1, -(-value // step))
    return int(value) if whole else value


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


def curl(url: str, schema: Mapping[str, Any], *, key_needed: bool) -> str:
    """A shell command that calls the function, over several lines. The key comes from $CLIP_API_KEY.

    The body is a file for a function that takes raw bytes, else JSON.
    """
    streaming = bool(schema.get("streaming"))
    lines = [f"curl {'-N ' if streaming else ''}{shlex.quote(url)}"]
    if key_needed:
        lines.append('-H "Authorization: Bearer $CLIP_API_KEY"')
    if streaming:
        lines.append("-H 'Accept: text/event-stream'")
    if _takes_file(schema):
        lines += ["-H 'Content-Type: application/octet-stream'", "--data-binary @FILE"]
    else:
        body = json.dumps(arguments(schema), ensure_ascii=False)
        lines += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(body)}"]
    return " \\\n  ".join(lines)


def python_call(path: str, schema: Mapping[str, Any]) -> str:
    """A Python expression that calls the function `path` ("project/function")."""
    properties = _Examples(_parameters(schema)).resolved(_parameters(schema)).get("properties") or {}
    values = ", ".join(
        f"{key}={_literal(value, properties.get(key))}"
        for key, value in arguments(schema).items()
        if re.fullmatch(r"[A-Za-z_]\w*", key)
    )
    return f'clipper.Function.from_name("{path}").remote({values})'


def _takes_file(schema: Mapping[str, Any]) -> bool:
    return OCTET_STREAM in (schema.get("content_types") or ())


def _literal(value: Any, schema: Any) -> str:
    if isinstance(schema, Mapping) and schema.get("contentEncoding") == "base64":
        return 'open("FILE", "rb").read()'
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
