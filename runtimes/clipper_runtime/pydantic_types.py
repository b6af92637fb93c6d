"""Parameters and values that pydantic validates and writes. Its modules are those that user code imported, if any.

A parameter whose hint mentions pydantic anywhere, in a class or in `Annotated`, is decoded by pydantic as a whole, from
JSON as JSON: a strict model takes dates and enums, unions of models and constraints work as pydantic describes them.
Models keep their own configuration. Everything beside them is as strict as elsewhere, with bytes as base64.
"""

from __future__ import annotations

import functools
import re
import sys
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any, ClassVar, Final, get_origin

import msgspec

from clipper_runtime.beside_json import as_json
from clipper_runtime.hints import is_numpy, is_pydantic, parts_of
from clipper_runtime.pydantic_schemas import AdaptedSchema, Unbuildable, is_base64, made_array

__all__ = [
    "Adapter",
    "adapter_of",
    "build",
    "dataclass_writer",
    "json_schema_of",
    "mentions_pydantic",
    "to_json",
    "to_python",
    "uses_metadata",
    "writes_nan",
]

_PACKAGES: Final = ("pydantic", "pydantic_core", "annotated_types", "pydantic_extra_types")
_MAX_ERRORS: Final = 3
# Of what stands beside models, and of parameters without one.
# The schema of bytes, as msgspec has it.
_BASE64: Final = {"type": "string", "contentEncoding": "base64"}
_CONFIG: Final = {"strict": True, "extra": "forbid"}


def uses_metadata(metadata: Any) -> bool:
    """Whether pydantic gives a meaning to this object of an `Annotated`."""
    if "pydantic" not in sys.modules:
        return False
    return type(metadata).__module__.partition(".")[0] in _PACKAGES or hasattr(metadata, "__get_pydantic_core_schema__")


def mentions_pydantic(hint: Any) -> bool:
    return "pydantic" in sys.modules and any(
        is_pydantic(get_origin(part) or part) or any(map(uses_metadata, getattr(part, "__metadata__", ())))
        for part in parts_of(hint)
    )


def adapter_of(hint: Any) -> Adapter | None:
    """What decodes a hint that mentions pydantic; None where there is an array in it, which pydantic cannot decode.

    Raises pydantic's error for a hint that it does not understand.
    """
    if any(is_numpy(get_origin(part) or part) for part in parts_of(hint)):
        return None
    return Adapter(hint)


class Adapter:
    """Decodes one parameter and describes it."""

    def __init__(self, hint: Any) -> None:
        pydantic, core = sys.modules["pydantic"], sys.modules["pydantic_core"]
        # In a tuple, since pydantic takes no configuration for a hint that is a class.
        inner = pydantic.TypeAdapter(tuple[hint], config=_CONFIG)
        self._inner = inner.validator
        adapted = AdaptedSchema(inner.core_schema, hint)
        if adapted.changed:
            with adapted.built():
                self._inner = core.SchemaValidator(adapted.schema, core.CoreConfig(**_CONFIG))
        self._hint = hint
        self._error = pydantic.ValidationError

    def from_json(self, raw: bytes | memoryview, name: str) -> Any:
        """The argument `name` from its JSON. Raises msgspec.ValidationError with the path."""
        text = bytes(raw)
        msgspec.json.decode(text)  # refuses what pydantic takes: numbers out of range, endless nesting
        return self._validated(self._inner.validate_json, b"[" + text + b"]", name)

    def from_python(self, value: Any, name: str) -> Any:
        """The argument `name` from plain values, as MessagePack carries them. Raises msgspec.ValidationError.

        They are taken as JSON, where pydantic reads dates and enums from text also if a model is strict. Bytes and
        arrays have no place in JSON: they are tried as they are first, and then beside it.
        """
        text, beside = as_json(value)
        if not beside.count:
            return self._validated(self._inner.validate_json, b"[" + text + b"]", name)
        try:
            return self._validated(self._inner.validate_python, (value,), name)
        except msgspec.ValidationError as error:
            try:
                found = self._validated(partial(self._inner.validate_json, context=beside), b"[" + text + b"]", name)
            except msgspec.ValidationError as other:
                raise (other if beside.all_taken else error) from None
            if not beside.all_taken:
                raise
            return found

    def _validated(self, validate: Any, value: Any, name: str) -> Any:
        try:
            return validate(value)[0]
        except self._error as error:
            raise msgspec.ValidationError(_explain(error, name)) from None
        except Exception as error:  # noqa: BLE001 - a validator is user code and may raise anything
            raise msgspec.ValidationError(f"{type(error).__name__}: {error} - at `$.{name}`") from None

    def schema(self) -> dict[str, Any]:
        return json_schema_of(self._hint, "validation")


def json_schema_of(hint: Any, mode: str) -> dict[str, Any]:
    """The JSON Schema of a hint, under the names by which requests (validation) or answers (serialization) go."""
    pydantic = sys.modules["pydantic"]
    base = sys.modules["pydantic.json_schema"].GenerateJsonSchema

    class Generator(base):  # type: ignore[misc, valid-type]  # pydantic is the one that user code imported
        ignored_warning_kinds: ClassVar[Any] = {"skipped-choice", "non-serializable-default"}

        def json_or_python_schema(self, schema: Any) -> Any:
            inner = super().json_or_python_schema(schema)
            return {**_BASE64} if is_base64(schema) else inner

        def ser_schema(self, schema: Any) -> Any:
            return {**_BASE64} if is_base64(schema) else super().ser_schema(schema)

        def function_plain_schema(self, schema: Any) -> Any:
            hint = made_array(schema)
            if hint is None:
                return super().function_plain_schema(schema)
            from clipper_runtime import arrays

            return arrays.schema_of(hint) or {}

        def date_schema(self, schema: Any) -> Any:
            return {**super().date_schema(schema), **_within(schema, date(2026, 1, 31))}

        def datetime_schema(self, schema: Any) -> Any:
            return {**super().datetime_schema(schema), **_within(schema, datetime(2026, 1, 31, tzinfo=UTC))}

        def timedelta_schema(self, schema: Any) -> Any:
            return {**super().timedelta_schema(schema), **_within(schema, timedelta(seconds=5))}

        def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
            return {}  # a class of the user's

    adapted = AdaptedSchema(pydantic.TypeAdapter(hint).core_schema, hint)
    schema: dict[str, Any] = Generator(by_alias=True).generate(adapted.schema, mode=mode)
    return schema


def _within(schema: Any, usual: Any) -> dict[str, Any]:
    """An example of a moment or a duration inside its bounds, for which JSON Schema has no words."""
    lows = [schema[key] for key in ("ge", "gt") if key in schema]
    highs = [schema[key] for key in ("le", "lt") if key in schema]
    moves = {"past": -_YEARS, "future": _YEARS}.get(schema.get("now_op"))
    if not (lows or highs or moves):
        return {}
    step = timedelta(seconds=1) if isinstance(usual, timedelta) else timedelta(days=1)
    value = usual + moves if moves else max(lows) + step if lows else min(highs) - step
    if lows and highs and value >= min(highs):
        value = max(lows) + (min(highs) - max(lows)) / 2
    return {"examples": [msgspec.to_builtins(value)]}


_YEARS: Final = timedelta(days=365 * 50)


def _explain(error: Any, name: str) -> str:
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [f"{one['msg']} - at `$.{name}{_path(one['loc'][1:])}`" for one in errors[:_MAX_ERRORS]]
    more = len(errors) - len(lines)
    return "; ".join(lines) + (f"; and {more} more" if more else "")


def _path(parts: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


@functools.lru_cache(maxsize=256)
def _cached_adapter(kind: Any) -> Adapter:
    return Adapter(kind)


def build(kind: Any, value: Any) -> Any:
    """An instance of a class of pydantic that stands beside arrays in one hint. Raises ValueError."""
    try:
        return _cached_adapter(kind).from_python(value, "")
    except msgspec.ValidationError as error:
        raise ValueError(re.sub(r" - at `\$\.\.?(.*?)`", r" (at \1)", str(error)).replace(" (at )", "")) from None


def to_json(value: Any, fallback: Any) -> Any:
    """A model as JSON, under its aliases. `fallback` writes what pydantic does not know, such as arrays."""
    model: Any = type(value)
    if hasattr(model, "__pydantic_serializer__") and hasattr(model, "model_fields"):
        return msgspec.Raw(_serializer_of(model).to_json(value, by_alias=True, fallback=fallback))
    return sys.modules["pydantic_core"].to_jsonable_python(value, by_alias=True)


@functools.lru_cache(maxsize=256)
def _serializer_of(model: Any) -> Any:
    """The model's own, or where it has bytes one that writes them as base64."""
    try:
        adapted = AdaptedSchema(sys.modules["pydantic"].TypeAdapter(model).core_schema, model)
    except Unbuildable:  # a field that no request can fill, in an answer
        return model.__pydantic_serializer__
    if not adapted.changed:
        return model.__pydantic_serializer__
    with adapted.built():
        return sys.modules["pydantic_core"].SchemaSerializer(adapted.schema)


def to_python(value: Any) -> Any:
    """A model as values that MessagePack carries, under its aliases; other classes of pydantic as JSON has them."""
    serializer = getattr(type(value), "__pydantic_serializer__", None)
    if serializer is not None and hasattr(type(value), "model_fields"):
        return serializer.to_python(value, by_alias=True)
    return sys.modules["pydantic_core"].to_jsonable_python(value)


def writes_nan(value: Any) -> bool:
    """Whether the model says itself how JSON writes NaN."""
    return "ser_json_inf_nan" in getattr(type(value), "model_config", {})


def dataclass_writer(returns: Any) -> Any:
    """What turns dataclasses of pydantic into dicts under their aliases, where a return hint mentions one; else None.

    msgspec would write such a dataclass as any other, without the aliases that the schema publishes.
    """
    if not any(_is_dataclass(get_origin(part) or part) for part in parts_of(returns)):
        return None
    core = sys.modules["pydantic_core"]
    write = core.SchemaSerializer(core.core_schema.any_schema()).to_python
    return functools.partial(write, by_alias=True)


def _is_dataclass(cls: Any) -> bool:
    return is_pydantic(cls) and hasattr(cls, "__dataclass_fields__")
