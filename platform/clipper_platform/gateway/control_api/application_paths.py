"""The part of `/openapi.json` about queries of applications, whose inputs are of the type that each one declares."""

from __future__ import annotations

from typing import Any, Final

from clipper.contract.media_types import JSON

__all__ = ["application_paths"]

_INPUT: Final[dict[str, Any]] = {
    "description": "of the application's input type; bytes as base64",
    "anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}],
}
_CONTEXT: Final[dict[str, Any]] = {
    "description": "a user or session; `uid` means the same",
    "anyOf": [{"type": "string"}, {"type": "integer"}],
}
_PREDICTION: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "query_id": {"type": "integer"},
        "output": {},
        "default": {"type": "boolean"},
        "default_explanation": {"type": "string", "description": "why the default output answers"},
        "default_cause": {"type": "string", "description": "what the models met"},
        "policy_fallback": {"type": "string", "description": "why the own policy did not choose"},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "models": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["query_id", "output", "default", "confidence", "models"],
}
_REFUSAL: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"error": {"type": "string"}, "cause": {"type": "string"}},
    "required": ["error", "cause"],
}


def application_paths() -> dict[str, Any]:
    return {"/{app}/predict": {"post": _predict()}, "/{app}/update": {"post": _update()}}


def _predict() -> dict[str, Any]:
    version = {"description": "of the one linked model", "anyOf": [{"type": "string"}, {"type": "integer"}]}
    body = _object(
        input=_INPUT, input_batch={"type": "array", "items": _INPUT}, version=version, context=_CONTEXT, uid=_CONTEXT
    )
    several = _object(batch_predictions={"type": "array", "items": _PREDICTION})
    answer = {"description": "Of one input, or of several in order", "schema": {"anyOf": [_PREDICTION, several]}}
    return _operation("Query an application", "predict", body, answer)


def _update() -> dict[str, Any]:
    id = {"type": "integer", "description": "of the prediction; without it, the newest for the input"}
    body = _object(query_id=id, input=_INPUT, context=_CONTEXT, uid=_CONTEXT, label={})
    body["required"] = ["label"]
    taken = _object(query_id={"type": "integer"}, accepted={"type": "boolean"}, duplicate={"type": "boolean"})
    answer = {"description": "Taken, once for each prediction", "schema": taken}
    return _operation("Say what was right", "update", body, answer)


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _operation(summary: str, id: str, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "description": "Open on a loopback bind and for public applications, else scope: invoke.",
        "operationId": id,
        "security": [{}, {"key": []}],
        "parameters": [{"name": "app", "in": "path", "required": True, "schema": {"type": "string"}}],
        "requestBody": {"required": True, "content": {JSON: {"schema": body}}},
        "responses": {
            "200": {"description": answer["description"], "content": {JSON: {"schema": answer["schema"]}}},
            "400": {"description": "A body that cannot be used", "content": {JSON: {"schema": _REFUSAL}}},
            "404": {"description": "not_found"},
        },
    }
