"""What an application answers to a query: Clipper's JSON object, with confidence and models beside."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import msgspec

from clipper.contract.applications import NO_MODELS, TOO_LATE
from clipper.contract.media_types import JSON
from clipper_platform.core.selection import ModelId
from clipper_platform.errors import ClipperError, DeadlineExceeded, InvalidRequest, InvalidResult, Unavailable
from clipper_platform.serving.invocation import Invocation

__all__ = [
    "GIVEN",
    "NO_MODEL_REASON",
    "batch_json",
    "default_json",
    "given_json",
    "made_by",
    "reason_of",
    "why_no_answer",
]

NO_MODEL_REASON: Final = "no_models"
"""Why the default output answers where no model could be asked; other reasons are codes of errors."""

_quoted: Final = msgspec.json.encode

Json = bytes | msgspec.Raw

GIVEN: Final = b'{"query_id":%d,"output":%b,"default":false%b'
"""Of the id, the output and `made_by`."""


def given_json(
    query_id: int, output: Json, models: tuple[ModelId, ...], confidence: float = 1.0, fallback: str = ""
) -> bytes:
    """Models answered. `fallback`: why the user's own policy did not choose."""
    return GIVEN % (query_id, output, made_by(confidence, models, fallback))


def default_json(
    query_id: int, output: Json, causes: Mapping[ModelId, ClipperError], fallback: str = ""
) -> tuple[str, bytes]:
    """The default output answers. `causes`: what each model that was asked met. Returns the reason, too."""
    reason = reason_of(causes)
    words = _quoted(NO_MODELS if reason == NO_MODEL_REASON else TOO_LATE)
    if causes:
        met = "; ".join(f"{model}: {error.message}" for model, error in causes.items())
        words += b',"default_cause":%b' % _quoted(met)
    end = made_by(0.0, (), fallback)
    body = b'{"query_id":%d,"output":%b,"default":true,"default_explanation":%b%b' % (query_id, output, words, end)
    return reason, body


def reason_of(causes: Mapping[ModelId, ClipperError]) -> str:
    """The code for the default output: of the first model that could be asked."""
    codes = [error.code for error in causes.values() if error.code != Unavailable.code]
    return codes[0] if codes else NO_MODEL_REASON


@lru_cache(maxsize=1024)
def made_by(confidence: float, models: tuple[ModelId, ...], fallback: str = "") -> bytes:
    """The end of an object, which many answers have in common."""
    reason = b',"policy_fallback":%b' % _quoted(fallback) if fallback else b""
    return b'%b,"confidence":%b,"models":%b}' % (reason, _quoted(confidence), _quoted(models))


def why_no_answer(model: ModelId, invocation: Invocation) -> ClipperError | None:
    """Why an invocation that is done is no answer of the model; None where it is one."""
    if invocation.error is not None:
        return invocation.error
    if invocation.default_reason:  # of the function itself
        return DeadlineExceeded(f"it answered with its own default output ({invocation.default_reason})")
    if invocation.response is not None and invocation.response.status >= InvalidRequest.status:
        return InvalidResult(f"{model} answered with the status {invocation.response.status}")
    if invocation.content_type_out != JSON:
        return InvalidResult(f"{model} answered with {invocation.content_type_out}, not with JSON")
    return None


def batch_json(answers: list[bytes]) -> bytes:
    """The body for these objects: one alone stands by itself, as Clipper has it."""
    return answers[0] if len(answers) == 1 else b'{"batch_predictions":[%b]}' % b",".join(answers)
