"""`/openapi.json`: generated from the endpoints and their schemas; the part about `/fn` is written here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from clipper.contract.constants import API_ROOT
from clipper.contract.media_types import ANY_IMAGE, EVENT_STREAM, JSON, MSGPACK, NDJSON, NPY, OCTET_STREAM
from clipper_platform import errors
from clipper_platform.errors import ClipperError
from clipper_platform.gateway.control_api.application_paths import application_paths
from clipper_platform.gateway.control_api.endpoints import Endpoint
from clipper_platform.gateway.control_api.schemas.errors import ErrorBody

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


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


_FUNCTION_PARAMETERS: Final = [_path_parameter("project"), _path_parameter("function")]
_INVOKE_HEADERS: Final = [
    {"name": "X-Request-Id", "in": "header", "schema": {"type": "string", "maxLength": 128}},
    {"name": "X-Clip-Timeout-Ms", "in": "header", "schema": {"type": "integer", "minimum": 1}},
    {"name": "traceparent", "in": "header", "schema": {"type": "string"}},
]


def describe(endpoints: Sequence[Endpoint], version: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    types_of_rows = (t for e in endpoints for t in (e.body_schema or e.body, e.response) if t is not None)
    types: set[type[Any]] = {t for t in types_of_rows if issubclass(t, msgspec.Struct)} | {ErrorBody}
    ordered = sorted(types, key=lambda t: t.__name__)
    references, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    schemas = dict(zip(ordered, references, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    paths |= _function_paths(schemas[ErrorBody]) | application_paths()
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
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": _operation_id(endpoint.method, endpoint.path),
        "security": [] if endpoint.scope is None else [{"key": []}],
        "responses": _responses(endpoint, schemas),
    }
    if endpoint.scope is not None:
        operation["description"] = f"Scope: {endpoint.scope}."
    parameters = [_path_parameter(name) for name in _PARAMETER.findall(endpoint.path)]
    for query in endpoint.query:
        schema: dict[str, Any] = {"type": query.kind}
        if query.default is not None:
            schema["default"] = query.default
        parameters.append({"name": query.name, "in": "query", "description": query.description, "schema": schema})
    if parameters:
        operation["parameters"] = parameters
    body = endpoint.body_schema or endpoint.body
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {endpoint.body_media_type: {"schema": schemas[body]}}}
    elif endpoint.body_media_type != JSON:
        operation["requestBody"] = {"required": True, "content": {endpoint.body_media_type: {}}}
    return operation


def _responses(endpoint: Endpoint, schemas: dict[Any, Any]) -> dict[str, Any]:
    content = {endpoint.media_type: {"schema": schemas.get(endpoint.response, _ANY)}}
    answer: dict[str, Any] = {"description": endpoint.summary}
    if endpoint.method != "HEAD":
        answer["content"] = content
    responses = {str(endpoint.status): answer}
    for status, meaning in endpoint.other_statuses.items():
        responses[str(status)] = {**answer, "description": meaning}
    responses["default"] = _error(schemas[ErrorBody], "An error")
    return responses


def _error(schema: Any, description: str) -> dict[str, Any]:
    return {"description": description, "content": {JSON: {"schema": schema}}}


def _operation_id(method: str, path: str) -> str:
    words = [word.strip("{}") for word in path.removeprefix(API_ROOT).replace(".", "/").split("/") if word]
    return "_".join([method.lower(), *words])


def _function_paths(error: Any) -> dict[str, Any]:
    """The functions' own routes, whose bodies each function's schema describes."""
    return {
        "/fn/{project}/{function}": {"post": _invoke_operation(error)},
        "/fn/{project}/{function}/schema": {"get": _schema_operation(error)},
    }


def _invoke_operation(error: Any) -> dict[str, Any]:
    refusals: dict[str, Any] = {}
    for cls in _INVOKE_ERRORS:
        refusals.setdefault(str(cls.status), _error(error, cls.code))
    result = {
        "description": f"What it returned; a generator's items with `Accept: {EVENT_STREAM}` or `{NDJSON}`",
        "content": {JSON: {}, MSGPACK: {}, EVENT_STREAM: {}, NDJSON: {}},
    }
    return {
        "summary": "Call a function; `function@version` calls one version",
        "description": "Open on a loopback bind and for public functions, else scope: invoke.",
        "operationId": "invoke",
        "security": [{}, {"key": []}],
        "parameters": [*_FUNCTION_PARAMETERS, *_INVOKE_HEADERS],
        "requestBody": {"required": True, "content": {kind: {} for kind in _BODY_TYPES}},
        "responses": {"200": result, **refusals},
    }


def _schema_operation(error: Any) -> dict[str, Any]:
    return {
        "summary": "A function's JSON Schema",
        "operationId": "get_function_schema",
        "security": [{}, {"key": []}],
        "parameters": _FUNCTION_PARAMETERS,
        "responses": {
            "200": {"description": "The schema", "content": {JSON: {}}},
            "default": _error(error, "An error"),
        },
    }
