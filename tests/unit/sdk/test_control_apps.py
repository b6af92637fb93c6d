"""The control calls about applications against `infra/docs/control-api.md`, row by row."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.responses import Response

from clipper import errors
from clipper.address import FunctionAddress
from clipper.control import ControlClient
from clipper.control_apps import ApplicationCalls
from tests.unit.sdk.scripted_platform import ScriptedPlatform, error_response, json_response

CLASSIFY = FunctionAddress("digits", "classify")
PINNED = FunctionAddress("digits", "classify", 3)


@pytest.fixture
def control(platform: ScriptedPlatform) -> Iterator[ControlClient]:
    with ControlClient() as client:
        yield client


Row = tuple[Callable[[ControlClient], Any], str, dict[str, str], dict[str, Any] | None, Any, Any]

LINKS = "/api/v1/apps/vision/links/digits/classify"
SPEC = {"name": "vision", "input_type": "doubles", "default_output": None}

ROWS: list[Row] = [
    (lambda c: c.apps(), "GET /api/v1/apps", {}, None, {"applications": [{"name": "a"}]}, [{"name": "a"}]),
    (lambda c: c.create_app(SPEC), "POST /api/v1/apps", {}, SPEC, {"name": "vision"}, {"name": "vision"}),
    (lambda c: c.app("vision"), "GET /api/v1/apps/vision", {}, None, {"name": "vision"}, {"name": "vision"}),
    (lambda c: c.put_app("vision", SPEC), "PUT /api/v1/apps/vision", {}, SPEC, {"changed": 1}, {"changed": 1}),
    (lambda c: c.delete_app("vision"), "DELETE /api/v1/apps/vision", {}, None, {"deleted": "v"}, {"deleted": "v"}),
    (lambda c: c.link_app("vision", CLASSIFY), f"PUT {LINKS}", {}, {}, {"links": []}, {"links": []}),
    (
        lambda c: c.link_app("vision", PINNED, parameter="pixels", weight=0.0),
        f"PUT {LINKS}",
        {"version": "3"},
        {"parameter": "pixels", "weight": 0.0},
        {"links": []},
        {"links": []},
    ),
    (lambda c: c.unlink_app("vision", CLASSIFY), f"DELETE {LINKS}", {}, None, {"links": []}, {"links": []}),
    (lambda c: c.unlink_app("vision", PINNED), f"DELETE {LINKS}", {"version": "3"}, None, {"l": []}, {"l": []}),
    (lambda c: c.explain_app("vision"), "GET /api/v1/apps/vision/explain", {}, None, {"why": ""}, {"why": ""}),
    (
        lambda c: c.query_app("vision", {"input": [1]}),
        "POST /vision/predict",
        {},
        {"input": [1]},
        {"output": 3},
        {"output": 3},
    ),
    (lambda c: c.label_app("vision", {"label": 1}), "POST /vision/update", {}, {"label": 1}, {"x": 1}, {"x": 1}),
    (
        lambda c: c.explain_app("vision", "user 7"),
        "GET /api/v1/apps/vision/explain",
        {"context": "user 7"},
        None,
        {"why": ""},
        {"why": ""},
    ),
]


@pytest.mark.parametrize(("call", "route", "query", "body", "answer", "value"), ROWS)
def test_a_method_sends_its_row_of_the_control_api(
    platform: ScriptedPlatform, control: ControlClient, call: Any, route: str, query: Any, body: Any, answer: Any,
    value: Any,
) -> None:  # fmt: skip
    platform.api[route] = lambda seen: json_response(answer)
    assert call(control) == value
    (seen,) = platform.seen
    assert seen.headers["authorization"] == "Bearer clip_test_key"
    assert seen.query == query
    assert (json.loads(seen.body) if seen.body else None) == body


def test_every_method_about_applications_is_tested() -> None:
    methods = {name for name, value in vars(ApplicationCalls).items() if inspect.isfunction(value)}
    assert methods == {next(name for name in row[0].__code__.co_names) for row in ROWS} | {"app_feedback"}


@pytest.mark.parametrize(("since", "query"), [(None, {}), (1_750_000_000.5, {"since": "1750000000.5"})])
def test_feedback_comes_pair_by_pair(
    platform: ScriptedPlatform, control: ControlClient, since: float | None, query: dict[str, str]
) -> None:
    pairs = [{"query_id": 1, "label": 3}, {"query_id": 2, "label": None}]
    lines = b"\n".join(json.dumps(pair).encode() for pair in pairs) + b"\n\n"
    platform.api["GET /api/v1/apps/vision/feedback"] = lambda seen: Response(lines, media_type="application/x-ndjson")
    assert list(control.app_feedback("vision", since)) == pairs
    assert platform.seen[0].query == query


def test_the_feedback_of_an_unknown_application_is_not_found(
    platform: ScriptedPlatform, control: ControlClient
) -> None:
    platform.api["GET /api/v1/apps/vison/feedback"] = lambda seen: error_response(404, "not_found", "no such thing")
    with pytest.raises(errors.NotFound, match="no such thing"):
        list(control.app_feedback("vison"))
