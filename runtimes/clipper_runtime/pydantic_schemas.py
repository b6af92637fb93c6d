"""The core schemas of pydantic with what it cannot do itself: arrays from JSON, and bytes as base64 without a setting.

pydantic describes each class by a core schema, a tree of dicts, and pydantic_core builds a validator and a serializer
from it. Here the entries for arrays and bytes are replaced in a copy; the classes of the user stay as they are.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, get_origin

from clipper_runtime.beside_json import taken
from clipper_runtime.hints import field_hints, is_numpy, parts_of

__all__ = ["AdaptedSchema", "Unbuildable", "is_base64", "made_array"]

_OF_ADDRESSES: Final = str.maketrans("-_", "+/")  # the alphabet of RFC 4648, section 5, that pydantic takes as well
_AS_BASE64: Final = {"type": "function-plain", "when_used": "json"}
_CLASSES: Final = ("model", "dataclass", "typed-dict")


class Unbuildable(Exception):
    """A class of pydantic has a field that no request can fill; the message names it and what to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scope:
    """What surrounds an entry of a core schema.

    `arrays`: the hints of arrays in the annotation that the entry was made for. `base64`: bytes are base64 in JSON, as
    no class around them says otherwise. `owner` and `annotations`: the class whose fields come next.
    """

    arrays: tuple[Any, ...]
    base64: bool = True
    owner: str = ""
    annotations: Mapping[str, Any] = field(default_factory=dict)


class AdaptedSchema:
    """A copy of the core schema that pydantic made for `hint`. `changed`: whether it differs. Raises Unbuildable."""

    def __init__(self, schema: Any, hint: Any) -> None:
        self.changed = False
        self._classes: list[Any] = []
        self.schema = self._copy(schema, _Scope(arrays=_arrays_in(hint)))

    @contextmanager
    def built(self) -> Iterator[None]:
        """While validators and serializers are built: for a complete class pydantic_core takes those of the class."""
        complete = [cls for cls in self._classes if cls.__dict__.get("__pydantic_complete__") is True]
        for cls in complete:
            cls.__pydantic_complete__ = False
        try:
            yield
        finally:
            for cls in complete:
                cls.__pydantic_complete__ = True

    def _copy(self, node: Any, scope: _Scope) -> Any:
        if isinstance(node, (list, tuple)):
            return type(node)(self._copy(one, scope) for one in node)
        if not isinstance(node, dict):
            return node
        kind = node.get("type")
        if kind == "is-instance" and is_numpy(node["cls"]):
            self.changed = True
            return _calling(_ArrayMaker(_hint_of(node["cls"], scope)))
        if kind == "bytes" and scope.base64:
            self.changed = True
            return _base64_bytes(node)
        if kind == "any" and scope.base64 and "serialization" not in node:
            self.changed = True
            return {**node, "serialization": {**_AS_BASE64, "function": _with_base64}}
        if kind == "function-after" and _decodes_text(node["function"]):
            scope = replace(scope, base64=False)
        elif kind in _CLASSES and isinstance(node.get("cls"), type):
            scope = self._enter(node, scope)
        return {key: self._part(key, part, scope) for key, part in node.items()}

    def _enter(self, node: dict[str, Any], scope: _Scope) -> _Scope:
        """The scope inside a class. A model does not take over the settings around it, other classes do."""
        cls, settings = node["cls"], node.get("config") or {}
        self._classes.append(cls)
        encoded = scope.base64 if node["type"] != "model" else True
        if settings.get("ser_json_bytes") or settings.get("val_json_bytes", "base64") != "base64":
            encoded = False
        return _Scope(arrays=(), base64=encoded, owner=cls.__qualname__, annotations=_annotations(cls))

    def _part(self, key: str, part: Any, scope: _Scope) -> Any:
        if key == "metadata":
            return part
        if key != "fields" or not scope.owner:
            return self._copy(part, scope)
        if isinstance(part, dict):
            return {name: self._field(name, one, scope) for name, one in part.items()}
        return [self._field(one["name"], one, scope) if isinstance(one, dict) else one for one in part]

    def _field(self, name: str, node: dict[str, Any], scope: _Scope) -> Any:
        required = node["schema"]
        while required["type"] == "function-after":
            required = required["schema"]
        if required["type"] == "is-instance" and not is_numpy(required["cls"]):
            cls = required["cls"]
            raise Unbuildable(
                f"the field {name!r} of {scope.owner} is of the type {cls.__module__}.{cls.__qualname__}, which cannot "
                "be built from a request; use plain types, models or numpy arrays"
            )
        return self._copy(node, replace(scope, owner="", arrays=_arrays_in(scope.annotations.get(name))))


def _annotations(cls: Any) -> Mapping[str, Any]:
    """The hints of the fields as pydantic resolved them: of a generic model, with its parameters."""
    fields = cls.__dict__.get("__pydantic_fields__")
    if fields is None:
        return field_hints(cls)
    return {name: one.annotation for name, one in fields.items()}


def _arrays_in(hint: Any) -> tuple[Any, ...]:
    return tuple(part for part in parts_of(hint) if is_numpy(get_origin(part) or part))


def _hint_of(cls: type, scope: _Scope) -> Any:
    """The hint of an array: pydantic keeps its class alone. Raises Unbuildable where several come into question."""
    hints = {str(hint): hint for hint in scope.arrays if (get_origin(hint) or hint) is cls}
    if len(hints) > 1:
        raise Unbuildable(f"arrays of several types in one field ({', '.join(hints)}) cannot be told apart; use one")
    return next(iter(hints.values()), cls)


# Arrays


class _ArrayMaker:
    """A validator: an array or a scalar of numpy that fits the hint. Raises ValueError."""

    def __init__(self, hint: Any) -> None:
        from clipper_runtime import array_hints

        self.hint = hint
        self._build = array_hints.build
        array_hints.array_rule(hint)  # refuses a hint that is not understood

    def __call__(self, value: Any, info: Any) -> Any:
        return self._build(self.hint, taken(value, info))


def made_array(node: Any) -> Any:
    """The hint of the array that an entry makes; None for other entries."""
    function = node["function"]["function"]
    return function.hint if isinstance(function, _ArrayMaker) else None


def _calling(function: Any) -> dict[str, Any]:
    return {"type": "function-plain", "function": {"type": "with-info", "function": function}}


# Bytes


def _base64_bytes(node: dict[str, Any]) -> dict[str, Any]:
    """Bytes within the constraints of `node`: base64 in JSON, in the alphabet that the platform has elsewhere."""
    return {
        "type": "json-or-python",
        "json_schema": {"type": "chain", "steps": [{"type": "str"}, _calling(_from_base64), node]},
        "python_schema": node,
        "serialization": {**_AS_BASE64, "function": _to_base64},
    }


def _with_base64(value: Any) -> Any:
    """Any value, with the bytes in it as base64."""
    if isinstance(value, dict):
        return {key: _with_base64(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_base64(one) for one in value]
    return _to_base64(value)


def is_base64(node: Any) -> bool:
    """Whether it is the entry of bytes, or what writes them."""
    serialization: Any = node.get("serialization") or node
    return serialization.get("function") is _to_base64


def _to_base64(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _from_base64(text: str, info: Any) -> Any:
    value = taken(text, info)
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(value.translate(_OF_ADDRESSES), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("invalid base64") from None


def _decodes_text(function: Any) -> bool:
    """Whether it is of a type such as pydantic.Base64Bytes, which decodes text itself."""
    return type(getattr(function.get("function"), "__self__", None)).__name__ == "EncodedBytes"
