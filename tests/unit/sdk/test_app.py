"""`clipper.App` over HTTP: what it sends, what it makes of the answers, and what it refuses before anything is sent."""

from __future__ import annotations

import array
import json
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pandas as pd
import pytest

import clipper
from clipper import errors
from tests.unit.sdk.scripted_platform import ScriptedPlatform, Seen, error_response, json_response

ONE = {"query_id": 7, "output": 3, "default": False, "confidence": 0.75, "models": ["digits/svm", "digits/forest"]}
LATE = {"query_id": 8, "output": -1, "default": True, "default_explanation": "too late"}


def answers(platform: ScriptedPlatform, verb: str, answer: Any) -> None:
    platform.api[f"POST /vision/{verb}"] = lambda seen: json_response(answer)


def sent(platform: ScriptedPlatform) -> Any:
    (seen,) = platform.seen
    assert seen.headers["content-type"] == "application/json"
    return json.loads(seen.body)


@pytest.fixture
def app(platform: ScriptedPlatform) -> clipper.App:
    return clipper.App.from_name("vision")


def test_a_prediction_has_what_the_application_answered(platform: ScriptedPlatform, app: clipper.App) -> None:
    answers(platform, "predict", ONE)
    assert app.predict([1.5, 2]) == clipper.Prediction(
        output=3, query_id=7, default=False, confidence=0.75, models=("digits/svm", "digits/forest")
    )
    assert sent(platform) == {"input": [1.5, 2]}
    assert platform.seen[0].headers["authorization"] == "Bearer clip_test_key"


def test_the_bare_answer_of_clippers_contract_is_enough(platform: ScriptedPlatform, app: clipper.App) -> None:
    answers(platform, "predict", {"query_id": 7, "output": 3, "default": False})
    prediction = app.predict([1])
    assert (prediction.output, prediction.confidence, prediction.models) == (3, None, ())


def test_a_default_output_comes_with_its_explanation(platform: ScriptedPlatform, app: clipper.App) -> None:
    answers(platform, "predict", LATE)
    prediction = app.predict([1])
    assert (prediction.output, prediction.default, prediction.default_explanation) == (-1, True, "too late")


def test_context_and_version_travel_where_they_are_given(platform: ScriptedPlatform, app: clipper.App) -> None:
    answers(platform, "predict", ONE)
    app.predict([1], context="user-7", version=3)
    assert sent(platform) == {"input": [1], "context": "user-7", "version": 3}


@pytest.mark.parametrize(
    ("given", "travels"),
    [
        ([1, 2.5], [1, 2.5]),
        ((1, 2), [1, 2]),
        (np.array([1, 2]), [1, 2]),
        (np.array([0.1, 0.2]), [0.1, 0.2]),
        (np.array([0.5], dtype=np.float32), [0.5]),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        ([np.int64(1), np.float32(0.5)], [1, 0.5]),
        (array.array("d", [1.0, 2.0]), [1.0, 2.0]),
        (pd.Series([1, 2]), [1, 2]),
        ("a text, é €", "a text, é €"),
        (b"\x00\xff", "AP8="),
        (bytearray(b"\x00\xff"), "AP8="),
        (memoryview(b"\x00\xff"), "AP8="),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_input_travels_as_json(platform: ScriptedPlatform, app: clipper.App, given: Any, travels: Any) -> None:
    answers(platform, "predict", ONE)
    app.predict(given)
    assert sent(platform) == {"input": travels}


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ([float("nan")], ValueError, "NaN or an infinity"),
        (np.array([np.inf]), ValueError, "NaN or an infinity"),
        (object(), TypeError, "builtins.object is no input"),
        ([{1, 2}], TypeError, "builtins.set is no input"),
    ],
    ids=["a list with NaN", "an array with an infinity", "an object", "a set"],
)
def test_what_json_cannot_carry_is_refused_before_it_is_sent(
    platform: ScriptedPlatform, app: clipper.App, given: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        app.predict(given)
    assert platform.seen == []


def test_an_input_that_holds_itself_is_a_value_error(app: clipper.App) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="Circular"):
        app.predict(endless)


@pytest.mark.parametrize(
    "given",
    [[[1, 2], [3, 4]], np.array([[1, 2], [3, 4]]), pd.DataFrame({"a": [1, 3], "b": [2, 4]}), iter([[1, 2], [3, 4]])],
    ids=lambda value: type(value).__name__,
)
def test_a_batch_is_one_request_and_comes_back_in_order(
    platform: ScriptedPlatform, app: clipper.App, given: Any
) -> None:
    answers(platform, "predict", {"batch_predictions": [ONE, LATE]})
    assert [p.output for p in app.predict_batch(given, context="u")] == [3, -1]
    assert sent(platform) == {"input_batch": [[1, 2], [3, 4]], "context": "u"}


def test_a_batch_of_one_is_answered_by_a_bare_object_and_is_a_list(
    platform: ScriptedPlatform, app: clipper.App
) -> None:
    answers(platform, "predict", ONE)
    assert [p.output for p in app.predict_batch([[1, 2]])] == [3]


def test_an_empty_batch_asks_nothing(platform: ScriptedPlatform, app: clipper.App) -> None:
    assert app.predict_batch([]) == []
    assert app.predict_batch(np.zeros((0, 4))) == []
    assert platform.seen == []


@pytest.mark.parametrize("given", ["text", b"bytes", {"a": 1}])
def test_a_single_input_is_no_batch(app: clipper.App, given: Any) -> None:
    with pytest.raises(TypeError, match="use predict"):
        app.predict_batch(given)


def test_predictions_that_are_missing_are_an_error(platform: ScriptedPlatform, app: clipper.App) -> None:
    answers(platform, "predict", {"batch_predictions": [ONE]})
    with pytest.raises(errors.UnexpectedAnswer, match="2 inputs were sent and 1 predictions came back"):
        app.predict_batch([[1], [2]])


@pytest.mark.parametrize("answer", [{}, [], "text", {"output": 1}, None])
def test_an_answer_that_is_no_prediction_is_told(platform: ScriptedPlatform, app: clipper.App, answer: Any) -> None:
    answers(platform, "predict", answer)
    with pytest.raises(errors.UnexpectedAnswer, match="no prediction"):
        app.predict([1])


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        (((7, 3), {}), {"query_id": 7, "label": 3}),
        ((("q-7", None), {}), {"query_id": "q-7", "label": None}),
        (((), {"query_id": 7, "label": np.int64(3)}), {"query_id": 7, "label": 3}),
        (((), {"input": np.array([1, 2]), "label": 3}), {"input": [1, 2], "label": 3}),
        (((), {"input": [1], "label": 0.5, "context": "u"}), {"input": [1], "label": 0.5, "context": "u"}),
        (((clipper.Prediction(output=1, query_id=9, default=False), 3), {}), {"query_id": 9, "label": 3}),
    ],
    ids=str,
)
def test_feedback_names_a_prediction_or_an_input(
    platform: ScriptedPlatform, app: clipper.App, arguments: Any, body: Any
) -> None:
    answers(platform, "update", {"joined": 1})
    args, kwargs = arguments
    assert app.feedback(*args, **kwargs) is None  # type: ignore[func-returns-value]  # that it is None is the point
    assert sent(platform) == body


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((7,), {}, "needs a label"),
        ((), {"label": 3}, "either a query_id or an input"),
        ((7, 3), {"input": [1]}, "either a query_id or an input"),
    ],
)
def test_feedback_of_nothing_or_of_two_things_is_refused(
    platform: ScriptedPlatform, app: clipper.App, args: Any, kwargs: Any, words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        app.feedback(*args, **kwargs)
    assert platform.seen == []


async def test_every_call_can_be_awaited(platform: ScriptedPlatform, app: clipper.App) -> None:
    answers(platform, "predict", ONE)
    answers(platform, "update", {})
    assert (await app.predict.aio([1], context="u")).output == 3
    assert [p.output for p in await app.predict_batch.aio([[1]])] == [3]
    assert await app.predict_batch.aio([]) == []
    await app.feedback.aio(7, 3)
    assert [json.loads(seen.body) for seen in platform.seen] == [
        {"input": [1], "context": "u"},
        {"input_batch": [[1]]},
        {"query_id": 7, "label": 3},
    ]


def test_an_error_in_clippers_form_is_an_invalid_request_with_its_cause(
    platform: ScriptedPlatform, app: clipper.App
) -> None:
    cause = "Requested version: 9 does not exist for model: digits/svm"
    refusal = {"error": "Query processing error", "cause": cause}
    platform.api["POST /vision/predict"] = lambda seen: json_response(refusal, 400)
    with pytest.raises(errors.InvalidRequest, match=cause):
        app.predict([1], version=9)


def test_an_unknown_application_is_not_found(platform: ScriptedPlatform, app: clipper.App) -> None:
    platform.api["POST /vision/predict"] = lambda seen: error_response(404, "not_found", "no application vision")
    with pytest.raises(errors.NotFound, match="no application vision"):
        app.predict([1])


def test_the_time_that_a_caller_has_travels_along(platform: ScriptedPlatform) -> None:
    answers(platform, "predict", ONE)
    clipper.App.from_name("vision", timeout_s=5).predict([1])
    assert 4000 < int(platform.seen[0].headers["x-clip-timeout-ms"]) <= 5000


def test_a_client_of_ones_own_is_used(platform: ScriptedPlatform) -> None:
    answers(platform, "predict", ONE)
    with clipper.Client(platform.url, "clip_other") as client:
        clipper.App.from_name("vision", client=client).predict([1])
    assert platform.seen[0].headers["authorization"] == "Bearer clip_other"


@pytest.mark.parametrize("name", ["", "a/b", "a,b", "a:b", "fn", "API", "metrics", "x" * 64, 7])
def test_a_name_that_no_application_can_have_is_refused(name: Any) -> None:
    with pytest.raises(clipper.SpecError, match="application name"):
        clipper.App.from_name(name)


# Managing


def recorded(platform: ScriptedPlatform, route: str, answer: Any, status: int = 200) -> list[Seen]:
    found: list[Seen] = []

    def handler(seen: Seen) -> Any:
        found.append(seen)
        return json_response(answer, status)

    platform.api[route] = handler
    return found


def test_an_application_is_created_with_the_keys_of_its_table(platform: ScriptedPlatform) -> None:
    seen = recorded(platform, "POST /api/v1/apps", {"name": "vision"}, 201)
    app = clipper.App.create(
        "vision",
        input_type="doubles",
        default_output=-1,
        latency_slo_s=0.02,
        policy="exp3",
        policy_options={"eta": 0.1},
        links=["digits/svm", {"function": "digits/forest", "version": 2, "parameter": "pixels"}],
    )
    assert app.name == "vision"
    body = json.loads(seen[0].body)
    assert (body["name"], body["input_type"], body["default_output"]) == ("vision", "doubles", -1)
    assert (body["latency_slo_s"], body["policy"], body["policy_options"]) == (0.02, "exp3", {"eta": 0.1})
    assert [(link["function"], link["version"], link["parameter"]) for link in body["links"]] == [
        ("digits/svm", None, None),
        ("digits/forest", 2, "pixels"),
    ]


def test_with_replace_an_application_becomes_what_is_said(platform: ScriptedPlatform) -> None:
    seen = recorded(platform, "PUT /api/v1/apps/vision", {"name": "vision", "changed": True})
    clipper.App.create("vision", input_type="strings", default_output="?", replace=True)
    assert json.loads(seen[0].body)["input_type"] == "strings"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input_type": "double"}, "input_type = 'double' is not allowed"),
        ({"latency_slo": 0.1}, "unknown key 'latency_slo'; did you mean 'latency_slo_s'"),
        ({"policy": "exp33"}, "did you mean 'exp3'"),
        ({"links": ["digits"]}, "project/function"),
        ({"default_output": float("nan")}, "JSON has no nan"),
    ],
)
def test_a_wrong_key_is_refused_here(platform: ScriptedPlatform, options: Any, words: str) -> None:
    with pytest.raises(clipper.SpecError, match=words):
        clipper.App.create("vision", **{"input_type": "doubles", "default_output": 0, **options})
    assert platform.seen == []


MANAGED: list[tuple[str, Callable[[clipper.App], Any], str, Any]] = [
    ("link", lambda app: app.link("digits/svm"), "PUT /api/v1/apps/vision/links/digits/svm", None),
    ("unlink", lambda app: app.unlink("digits/svm"), "DELETE /api/v1/apps/vision/links/digits/svm", None),
    ("status", lambda app: app.status(), "GET /api/v1/apps/vision", {"x": 1}),
    ("explain", lambda app: app.explain("u"), "GET /api/v1/apps/vision/explain", {"x": 1}),
    ("delete", lambda app: app.delete(), "DELETE /api/v1/apps/vision", None),
]


@pytest.mark.parametrize(("call", "route", "value"), [row[1:] for row in MANAGED], ids=[row[0] for row in MANAGED])
def test_an_application_is_managed_by_its_object(
    platform: ScriptedPlatform, app: clipper.App, call: Any, route: str, value: Any
) -> None:
    seen = recorded(platform, route, {"x": 1})
    assert call(app) == value
    assert len(seen) == 1


def test_labelled_predictions_come_one_by_one(platform: ScriptedPlatform, app: clipper.App) -> None:
    def handler(seen: Seen) -> Any:
        answer = json_response(None)
        answer.body, answer.headers["content-type"] = b'{"label": 1}\n{"label": 2}\n', "application/x-ndjson"
        answer.headers["content-length"] = str(len(answer.body))
        return answer

    platform.api["GET /api/v1/apps/vision/feedback"] = handler
    assert [pair["label"] for pair in app.labelled(since=0)] == [1, 2]


def test_awaited_calls_are_coroutines(app: clipper.App) -> None:
    call = app.predict.aio([1])
    assert isinstance(call, Coroutine)
    call.close()
