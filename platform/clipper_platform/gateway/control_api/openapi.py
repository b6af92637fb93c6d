"""`/openapi.json`: generated from the table of endpoints and their shapes; `/fn` is written by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from clipper.contract.constants import API_ROOT
from clipper.contract.media_types import ANY_IMAGE, EVENT_STREAM, JSON, MSGPACK, NPY, OCTET_STREAM
from clipper_platform import errors
from clipper_platform.errors import ClipperError
from clipper_platform.gateway.control_api.endpoints import Endpoint
from clipper_platform.gateway.control_api.schemas import ErrorBody

__all__ = ["describe"]

_REF: Final = "#/components/schemas/{name}"
_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_ANY: Final[dict[str, Any]] = {}

# What an invocation can be refused with, by status.
_INVOKE_ERRORS: Final[tuple[type[ClipperError], ...]] = (
    errors.InvalidRequest,
    errors.Unauthenticated,
    errors.Forbidden,
    errors.NotFound,
    errors.NotAcceptable,
    errors.PayloadTooLarge,
    errors.UnsupportedMediaType,
    errors.SchemaMismatch,
    errors.QueueFull,
    errors.FunctionError,
    errors.ReplicaLost,
    errors.Unavailable,
    errors.DeadlineExceeded,
)
_BODY_TYPES: Final = (
    JSON,
    MSGPACK,
    OCTET_STREAM,
    NPY,
    ANY_IMAGE,
)


def describe(endpoints: Sequence[Endpoint], version: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    mentioned = (t for e in endpoints for t in (e.documents or e.takes, e.gives) if t is not None)
    types: set[type[Any]] = {t for t in mentioned if issubclass(t, msgspec.Struct)} | {ErrorBody}
    ordered = sorted(types, key=lambda t: t.__name__)
    shapes, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    schemas = dict(zip(ordered, shapes, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    paths |= _invoke_paths(schemas[ErrorBody])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Clipper",
            "version": version,
            "summary": "Deploy model functions and call them.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "A key, `clip_…`"}},
        },
    }


def _operation(endpoint: Endpoint, schemas: dict[Any, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": _operation_id(endpoint.method, endpoint.path),
        "security": [] if endpoint.scope is None else [{"key": []}],
        "responses": _responses(endpoint, schemas),
    }
    if endpoint.scope is not None:
        made["description"] = f"Scope: {endpoint.scope}."
    parameters = [_path_parameter(name) for name in _PARAMETER.findall(endpoint.path)]
    for query in endpoint.query:
        schema: dict[str, Any] = {"type": query.kind}
        if query.default is not None:
            schema["default"] = query.default
        parameters.append({"name": query.name, "in": "query", "description": query.description, "schema": schema})
    if parameters:
        made["parameters"] = parameters
    body = endpoint.documents or endpoint.takes
    if body is not None:
        made["requestBody"] = {"required": True, "content": {endpoint.body_type: {"schema": schemas[body]}}}
    elif endpoint.body_type != JSON:
        made["requestBody"] = {"required": True, "content": {endpoint.body_type: {}}}
    return made


def _responses(endpoint: Endpoint, schemas: dict[Any, Any]) -> dict[str, Any]:
    content = {endpoint.media_type: {"schema": schemas.get(endpoint.gives, _ANY)}}
    answer: dict[str, Any] = {"description": endpoint.summary}
    if endpoint.method != "HEAD":
        answer["content"] = content
    responses = {str(endpoint.status): answer}
    for status, meaning in endpoint.also.items():
        responses[str(status)] = {**answer, "description": meaning}
    responses["default"] = _error(schemas[ErrorBody], "An error")
    return responses


def _error(schema: Any, description: str) -> dict[str, Any]:
    return {"description": description, "content": {JSON: {"schema": schema}}}


def _operation_id(method: str, path: str) -> str:
    words = [word.strip("{}") for word in path.removeprefix(API_ROOT).replace(".", "/").split("/") if word]
    return "_".join([method.lower(), *words])


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _invoke_paths(error: Any) -> dict[str, Any]:
    """The functions' own routes, whose bodies each function's schema describes."""
    parameters = [_path_parameter("project"), _path_parameter("function")]
    by_status: dict[str, Any] = {}
    for cls in _INVOKE_ERRORS:
        by_status.setdefault(str(cls.status), _error(error, cls.code))
    headers = [
        {"name": "X-Request-Id", "in": "header", "schema": {"type": "string", "maxLength": 128}},
        {"name": "X-Clip-Timeout-Ms", "in": "header", "schema": {"type": "integer", "minimum": 1}},
        {"name": "traceparent", "in": "header", "schema": {"type": "string"}},
    ]
    return {
        "/fn/{project}/{function}": {
            "post": {
                "summary": "Call a function; `function@version` calls one version",
                "description": "Open on a loopback bind and for public functions, else scope: invoke.",
                "operationId": "invoke",
                "security": [{}, {"key": []}],
                "parameters": [*parameters, *headers],
                "requestBody": {"required": True, "content": {kind: {} for kind in _BODY_TYPES}},
                "responses": {
                    "200": {
                        "description": "What it returned; a generator's items with `Accept: text/event-stream`",
                        "content": {JSON: {}, MSGPACK: {}, EVENT_STREAM: {}},
                    },
                    **by_status,
                },
            }
        },
        "/fn/{project}/{function}/schema": {
            "get": {
                "summary": "A function's JSON Schema",
                "operationId": "get_function_schema",
                "security": [{}, {"key": []}],
                "parameters": parameters,
                "responses": {
                    "200": {"description": "The schema", "content": {JSON: {}}},
                    "default": _error(error, "An error"),
                },
            }
        },
    }
