"""Bodies of `/predict` and `/update`, read once: inputs are checked, and passed on as the bytes that came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from clipper.contract.applications import MAX_CONTEXT_LENGTH, InputType
from clipper_platform.applications.refusals import PREDICT_SCHEMA, UPDATE_SCHEMA, malformed

__all__ = ["MAX_BATCH", "FeedbackQuery", "PredictQuery", "context_of", "decoder_of", "read_predict", "read_update"]

MAX_BATCH: Final = 10_000

_ABSENT: Final = msgspec.Raw()


class _PredictBody(msgspec.Struct):
    """Other keys are ignored: clients of Clipper send some."""

    input: msgspec.Raw = _ABSENT
    input_batch: list[msgspec.Raw] | None = None
    version: str | int | None = None
    context: str | int | None = None
    uid: str | int | None = None


class _UpdateBody(msgspec.Struct):
    label: msgspec.Raw = _ABSENT
    input: msgspec.Raw = _ABSENT
    query_id: int | None = None
    context: str | int | None = None
    uid: str | int | None = None


class PredictQuery(msgspec.Struct, frozen=True, gc=False):
    """`inputs`: JSON as it came. `version`: of the one linked model; None: the linked one."""

    inputs: list[msgspec.Raw]
    version: str | None = None
    context: str = ""


class FeedbackQuery(msgspec.Struct, frozen=True):
    """Which prediction it is about, by `query_id` or by `input` (JSON as it came), and what was right."""

    query_id: int | None
    input: msgspec.Raw | None
    context: str
    label: Any


def _decoder(kind: Any) -> Callable[[msgspec.Raw], Any]:
    return msgspec.json.Decoder(kind).decode


_DECODERS: Final[dict[InputType, Callable[[msgspec.Raw], Any]]] = {
    "integers": _decoder(list[int]),
    "floats": _decoder(list[float]),
    "doubles": _decoder(list[float]),
    "bytes": _decoder(bytes),
    "strings": _decoder(str),
}
_read_predict: Final = msgspec.json.Decoder(_PredictBody).decode
_read_update: Final = msgspec.json.Decoder(_UpdateBody).decode


def read_predict(body: bytes | memoryview, input_type: InputType) -> PredictQuery:
    """Raises BadQuery."""
    try:
        read = _read_predict(body)
        inputs = [read.input] if read.input_batch is None else _batch(read)
        decode = _DECODERS[input_type]
        for one in inputs:
            if not one:
                raise malformed("the body has neither input nor input_batch", PREDICT_SCHEMA)
            decode(one)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(_words(error, input_type), PREDICT_SCHEMA) from None
    if read.version is None and read.context is None and read.uid is None:
        return PredictQuery(inputs)
    version = None if read.version is None else str(read.version)
    return PredictQuery(inputs, version, context_of(read.context, read.uid))


def _batch(read: _PredictBody) -> list[msgspec.Raw]:
    inputs = read.input_batch or []
    if read.input:
        raise malformed("the body has both input and input_batch", PREDICT_SCHEMA)
    if len(inputs) > MAX_BATCH:
        raise malformed(f"input_batch has {len(inputs)} inputs, at most {MAX_BATCH} are allowed", PREDICT_SCHEMA)
    return inputs


def read_update(body: bytes, input_type: InputType) -> FeedbackQuery:
    """Raises BadQuery."""
    try:
        read = _read_update(body)
        if not read.label:
            raise malformed("the body has no label", UPDATE_SCHEMA)
        label = msgspec.json.decode(read.label)
        if read.input:
            _DECODERS[input_type](read.input)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(_words(error, input_type), UPDATE_SCHEMA) from None
    if read.query_id is None and not read.input:
        raise malformed("the body has neither query_id nor input", UPDATE_SCHEMA)
    input = read.input or None
    return FeedbackQuery(read.query_id, input, context_of(read.context, read.uid), label)


def _words(error: Exception, input_type: InputType) -> str:
    if isinstance(error, msgspec.ValidationError):
        return f"{error} (the application's input type is {input_type})"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def context_of(context: str | int | None, uid: str | int | None) -> str:
    """The context of a query. "" is that of all who name none, as Clipper's user 0 is. Raises BadQuery."""
    named = str(context if context is not None else uid if uid is not None else "")
    if named == "0":
        return ""
    if len(named) > MAX_CONTEXT_LENGTH or not named.isprintable():
        raise malformed(f"context must be at most {MAX_CONTEXT_LENGTH} printable characters", PREDICT_SCHEMA)
    return named


def decoder_of(input_type: InputType) -> Callable[[msgspec.Raw], Any]:
    """Reads an input of this type. It raises msgspec.DecodeError."""
    return _DECODERS[input_type]
