"""Refusals of queries and feedback in the form that Clipper's clients know: what kind, and the cause."""

from __future__ import annotations

from typing import Final

from clipper_platform.errors import InvalidRequest

__all__ = ["JSON_ERROR", "PREDICT_SCHEMA", "QUERY_ERROR", "UPDATE_SCHEMA", "BadQuery", "malformed"]

JSON_ERROR: Final = "Json error"
QUERY_ERROR: Final = "Query processing error"

_INPUT: Final = "[double] | [int] | string | base64 string"
PREDICT_SCHEMA: Final = (
    f'{{"input" := {_INPUT}, or "input_batch" := [input], "version" := string (optional), '
    '"context" := string (optional)}'
)
UPDATE_SCHEMA: Final = f'{{"query_id" := int, or "input" := {_INPUT}, "uid" := string (optional), "label" := any}}'


class BadQuery(InvalidRequest):
    """Rendered as `{"error": kind, "cause": message}`."""

    def __init__(self, kind: str, cause: str) -> None:
        super().__init__(cause)
        self.kind = kind


def malformed(why: object, schema: str) -> BadQuery:
    """A body that is no JSON, or not of the form that `schema` shows."""
    return BadQuery(JSON_ERROR, f"Error parsing JSON: {why}. Expected JSON schema: {schema}")
