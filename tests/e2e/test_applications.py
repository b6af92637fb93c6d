"""Applications over HTTP, as clients of Clipper use them: what its own integration tests check, and what came since.

The cases follow Clipper's list: an application without a link answers its default output, the sum of a vector, batches,
versions, replicas lost down to none, a model slower than the objective, several applications over several versions.
"""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import clipper
from clipper.contract.applications import NO_MODELS, TOO_LATE
from tests.e2e.conftest import Deploy
from tests.support.platform import PlatformProcess, environment, eventually, write_project

pytestmark = pytest.mark.timeout(240)

MODELS = """
import time
import clipper

@clipper.function(max_batch_size=64)
def total(x: list[list[float]]) -> list[float]:
    return [sum(row) for row in x]

@clipper.function()
def stuck(x: list[float]) -> int:
    time.sleep(600)

@clipper.function()
def one(x: list[float]) -> int:
    return 1

@clipper.function()
def uno(x: list[float]) -> int:
    return 1

@clipper.function()
def two(x: list[float]) -> int:
    return 2

@clipper.function()
def broken(x: list[float]) -> int:
    raise ValueError("no weights")

@clipper.function()
def times(x: list[float], factor: float = 10.0) -> float:
    return sum(x) * factor

@clipper.function()
def shout(text: str) -> str:
    return text.upper()

@clipper.function()
def size(data: bytes) -> int:
    return len(data)

@clipper.function()
def whole(n: list[int]) -> int:
    return sum(n)
"""

VECTOR = [1.1, 2.2, 3.3]

Create = Callable[..., str]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def models(platform: PlatformProcess, deploy_once: Deploy) -> str:
    return deploy_once(MODELS)


def creator(platform: PlatformProcess) -> Iterator[Create]:
    made: list[str] = []

    def create(*links: str | dict[str, Any], name: str | None = None, **keys: Any) -> str:
        name = name or f"app{next(_numbers)}"
        spec = {"input_type": "doubles", "default_output": -1, "latency_slo_s": 5.0, "links": list(links), **keys}
        answer = platform.api("POST", "/apps", json={"name": name, **spec})
        assert answer.status_code == 201, answer.text
        made.append(name)
        return name

    yield create
    for name in made:
        platform.api("DELETE", f"/apps/{name}")


@pytest.fixture
def create(platform: PlatformProcess) -> Iterator[Create]:
    """`create(*links, **keys)` makes an application with an objective of 5 s and returns its name."""
    yield from creator(platform)


@pytest.fixture
def own_create(own_platform: PlatformProcess) -> Iterator[Create]:
    yield from creator(own_platform)


def predict(platform: PlatformProcess, app: str, input: Any = None, **more: Any) -> dict[str, Any]:
    """The answer to one query, which is a 200."""
    answer = platform.post(f"/{app}/predict", {"input": VECTOR if input is None else input, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def update(platform: PlatformProcess, app: str, **body: Any) -> httpx.Response:
    return platform.post(f"/{app}/update", body)


def shares(platform: PlatformProcess, app: str, context: str | None = None) -> dict[str, float]:
    params = {} if context is None else {"context": context}
    explanation = platform.api("GET", f"/apps/{app}/explain", params=params).json()
    return {outlook["model"]: outlook["share"] for outlook in explanation["models"]}


def pids(platform: PlatformProcess, function: str) -> list[int]:
    return [r["pid"] for r in platform.status(function)["replicas"] if r["state"] == "ready" and r["pid"]]


# What Clipper's own integration tests check


def test_an_application_without_a_link_answers_its_default(platform: PlatformProcess, create: Create) -> None:
    app = create(default_output="DEFAULT")
    answer = platform.post(f"/{app}/predict", {"input": VECTOR})
    assert answer.status_code == 200
    assert answer.json()["output"] == "DEFAULT"
    assert answer.json()["default"] is True
    assert answer.json()["default_explanation"] == NO_MODELS
    assert answer.headers["x-clip-default"] == "no_models"


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_sum_of_a_vector(platform: PlatformProcess, models: str, create: Create, slash: str) -> None:
    app = create(f"{models}/total")
    answer = platform.post(f"/{app}/predict{slash}", {"input": VECTOR})
    body = answer.json()
    assert (answer.status_code, body["output"], body["default"]) == (200, pytest.approx(6.6), False)
    assert isinstance(body["query_id"], int)
    assert "default_explanation" not in body
    assert "x-clip-default" not in answer.headers
    assert body["models"] == [f"{models}/total"]


def test_a_batch_comes_back_in_order_and_one_of_one_is_a_bare_object(
    platform: PlatformProcess, models: str, create: Create
) -> None:
    app = create(f"{models}/total")
    rows = [[float(n), 0.5] for n in range(50)]
    answer = platform.post(f"/{app}/predict", {"input_batch": rows}).json()
    assert [one["output"] for one in answer["batch_predictions"]] == [n + 0.5 for n in range(50)]
    assert not any(one["default"] for one in answer["batch_predictions"])
    assert len({one["query_id"] for one in answer["batch_predictions"]}) == 50
    bare = platform.post(f"/{app}/predict", {"input_batch": [VECTOR]}).json()
    assert bare["output"] == pytest.approx(6.6)
    assert "batch_predictions" not in bare
    assert platform.post(f"/{app}/predict", {"input_batch": []}).json() == {"batch_predictions": []}


def test_the_batches_of_an_application_are_those_of_its_model(
    platform: PlatformProcess, deploy: Deploy, create: Create
) -> None:
    """Clipper's saturated fixed batches: of many queries, most are in batches as large as the model takes."""
    app = """
import time
import clipper

@clipper.function(max_batch_size=9, batch_policy="static")
def count(x: list[list[float]]) -> list[int]:
    time.sleep(0.02)
    return [len(x)] * len(x)
"""
    name = create(f"{deploy(app)}/count", latency_slo_s=30.0)
    rows = [[float(n)] for n in range(180)]
    answer = platform.post(f"/{name}/predict", {"input_batch": rows}).json()["batch_predictions"]
    assert sum(one["output"] == 9 for one in answer) >= 0.7 * len(rows)


def answer_with(value: int) -> str:
    return f"import clipper\n@clipper.function()\ndef f(x: list[float]) -> int:\n    return {value}\n"


def test_a_version_can_be_asked_for_and_a_rollback_is_followed(
    platform: PlatformProcess, deploy: Deploy, create: Create
) -> None:
    project = deploy(answer_with(1))
    app = create(f"{project}/f")
    deploy(answer_with(2), name=project)
    assert predict(platform, app)["output"] == 2
    assert predict(platform, app, version="1")["output"] == 1
    assert predict(platform, app, version=2)["output"] == 2
    platform.clip("rollback", project)
    assert predict(platform, app)["output"] == 1
    assert predict(platform, app, version="2")["output"] == 2


@pytest.mark.parametrize("version", ["9", 9, "skjfhkdjshfjksdhkjf", "", "-1", "1.0"])
def test_a_version_that_does_not_exist_is_named_with_its_model(
    platform: PlatformProcess, models: str, create: Create, version: Any
) -> None:
    app = create(f"{models}/total")
    answer = platform.post(f"/{app}/predict", {"input": VECTOR, "version": version})
    assert answer.status_code == 400, answer.text
    assert answer.json()["cause"] == f"Requested version: {version} does not exist for model: {models}/total"
    assert answer.json()["error"]


def test_two_applications_over_three_versions_each(platform: PlatformProcess, deploy: Deploy, create: Create) -> None:
    projects = [deploy(answer_with(10 * index)) for index in (1, 2)]
    apps = [create(f"{project}/f") for project in projects]
    for version in (1, 2):
        for index, project in enumerate(projects, 1):
            deploy(answer_with(10 * index + version), name=project)
    for index, (app, project) in enumerate(zip(apps, projects, strict=True), 1):
        assert predict(platform, app)["output"] == 10 * index + 2
        assert [predict(platform, app, version=str(v))["output"] for v in (1, 2, 3)] == [
            10 * index + v for v in range(3)
        ]
        pinned = create(f"{project}/f@2")
        assert predict(platform, pinned)["output"] == 10 * index + 1


FRAGILE = """
import os
import clipper

@clipper.function(name="f", min_replicas=2, max_retries=0)
class F:
    def __init__(self):
        if os.environ.get("FAIL"):
            raise RuntimeError("the weights are gone")
    def __call__(self, x: list[float]) -> int:
        return 3
"""


def test_replicas_lost_down_to_none_give_the_default_with_its_explanation(
    platform: PlatformProcess, deploy: Deploy, create: Create
) -> None:
    project = deploy(FRAGILE)
    app = create(f"{project}/f", latency_slo_s=1.0)
    eventually(lambda: len(pids(platform, f"{project}/f")) == 2)
    platform.clip("secret", "set", project, "FAIL", "1")  # replicas that start from now on fail
    first, second = pids(platform, f"{project}/f")
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not predict(platform, app)["default"])
    os.kill(second, signal.SIGKILL)

    def no_models() -> bool:
        answer = predict(platform, app)
        return answer["default"] and answer["default_explanation"] == NO_MODELS

    eventually(no_models, within_s=60)
    assert predict(platform, app)["output"] == -1
    platform.clip("secret", "delete", project, "FAIL")
    platform.clip("restart", project)
    assert eventually(lambda: not (answer := predict(platform, app))["default"] and answer["output"] == 3)


def test_a_model_slower_than_the_objective_gives_the_default(
    platform: PlatformProcess, models: str, create: Create
) -> None:
    app = create(f"{models}/stuck", latency_slo_s=0.1)
    answer = platform.post(f"/{app}/predict", {"input": VECTOR}, timeout=20)  # the model takes 600 s
    assert (answer.status_code, answer.json()["output"], answer.json()["default"]) == (200, -1, True)
    assert answer.json()["default_explanation"] == TOO_LATE
    assert answer.headers["x-clip-default"] == "deadline_exceeded"


def test_of_a_batch_those_in_time_are_answered(platform: PlatformProcess, deploy: Deploy, create: Create) -> None:
    app = """
import time
import clipper

@clipper.function(min_replicas=2, max_ongoing_requests=1)
def f(x: list[float]) -> float:
    if x[0] < 0:
        time.sleep(600)
    return x[0]
"""
    project = deploy(app)
    eventually(lambda: len(pids(platform, f"{project}/f")) == 2)
    name = create(f"{project}/f", latency_slo_s=1.0)
    answer = platform.post(f"/{name}/predict", {"input_batch": [[1], [-1], [2], [3]]}).json()["batch_predictions"]
    assert [one["output"] for one in answer] == [1, -1, 2, 3]
    assert [one["default"] for one in answer] == [False, True, False, False]


def test_a_restart_keeps_everything(own_platform: PlatformProcess, own_create: Create, tmp_path: Path) -> None:
    own_platform.deploy(write_project(tmp_path / "demo", MODELS, 'name = "demo"\n'))
    app = own_create("demo/one", "demo/two", policy="exp3", seed=3)
    for _ in range(12):
        answer = predict(own_platform, app)
        assert update(own_platform, app, query_id=answer["query_id"], label=1).status_code == 200
    waiting = predict(own_platform, app)["query_id"]
    learned = shares(own_platform, app)
    assert learned["demo/one"] > learned["demo/two"]
    before = own_platform.api("GET", f"/apps/{app}").json()

    own_platform.stop()
    own_platform.start()

    after = own_platform.api("GET", f"/apps/{app}").json()
    assert {key: after[key] for key in ("policy", "seed", "default_output", "created_at")} == {
        key: before[key] for key in ("policy", "seed", "default_output", "created_at")
    }
    assert [link["id"] for link in after["links"]] == ["demo/one", "demo/two"]
    assert shares(own_platform, app) == pytest.approx(learned)
    eventually(lambda: not predict(own_platform, app)["default"])
    assert update(own_platform, app, query_id=waiting, label=1).status_code == 200
    exported = own_platform.clip("app", "feedback", app).out.splitlines()
    assert len(exported) == 13


def test_a_platform_that_is_killed_has_its_applications_again(
    own_platform: PlatformProcess, own_create: Create, tmp_path: Path
) -> None:
    own_platform.deploy(write_project(tmp_path / "demo", answer_with(4), 'name = "demo"\n'))
    app = own_create("demo/f")
    assert predict(own_platform, app)["output"] == 4
    own_platform.kill()
    own_platform.start()
    assert eventually(lambda: predict(own_platform, app)["output"] == 4)


def test_on_an_open_bind_a_query_needs_a_key_unless_the_application_is_public(tmp_path: Path) -> None:
    with PlatformProcess(tmp_path / "home", args=("--host", "0.0.0.0")) as platform:
        for name, public in (("shut", False), ("open", True)):
            spec = {"name": name, "input_type": "doubles", "default_output": 0, "public": public}
            assert platform.api("POST", "/apps", json=spec).status_code == 201
        key = platform.clip("key", "create", "asker", "--scope", "invoke", "--json").json()["key"]
        query, headers = {"input": VECTOR}, {"Authorization": f"Bearer {key}"}
        assert platform.post("/shut/predict", query).status_code == 401
        assert platform.post("/shut/update", {"query_id": 1, "label": 1}).status_code == 401
        assert platform.post("/shut/predict", query, headers=headers).status_code == 200
        assert platform.post("/open/predict", query).status_code == 200
        assert platform.request("GET", "/api/v1/apps", headers=headers).status_code == 403
        with environment(CLIP_URL=platform.url, CLIP_API_KEY=key, CLIP_HOME=str(tmp_path)):
            assert clipper.App.from_name("shut").predict([1]).output == 0
            with pytest.raises(clipper.errors.Forbidden):
                clipper.App.from_name("shut").status()
            asked = platform.clip("app", "predict", "shut", "[1]", check=False)
        assert asked.code == 0


def test_a_web_page_cannot_query_an_application(platform: PlatformProcess, create: Create) -> None:
    app = create()
    foreign = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    answer = platform.request("POST", f"/{app}/predict", content=b'{"input": [1]}', headers=foreign)
    assert answer.status_code == 403
    rebound = platform.request("POST", f"/{app}/predict", json={"input": [1]}, headers={"Host": "evil.example"})
    assert rebound.status_code in (400, 403, 421)


# Input types, links


@pytest.mark.parametrize(
    ("input_type", "function", "input", "output"),
    [
        ("doubles", "total", [0.5, 1.5], 2.0),
        ("floats", "total", [0.5, 1.5], 2.0),
        ("doubles", "total", [], 0),
        ("integers", "whole", [1, 2, 3], 6),
        ("strings", "shout", "grüße", "GRÜSSE"),
        ("bytes", "size", base64.b64encode(bytes(range(256))).decode(), 256),
    ],
)
def test_an_input_of_each_type_reaches_the_function(
    platform: PlatformProcess, models: str, create: Create, input_type: str, function: str, input: Any, output: Any
) -> None:
    app = create(f"{models}/{function}", input_type=input_type)
    answer = predict(platform, app, input)
    assert (answer["output"], answer["default"]) == (output, False)
    both = platform.post(f"/{app}/predict", {"input_batch": [input, input]}).json()["batch_predictions"]
    assert [one["output"] for one in both] == [output, output]


def test_a_link_names_the_parameter_where_there_are_several(
    platform: PlatformProcess, models: str, create: Create
) -> None:
    app = create({"function": f"{models}/times", "parameter": "x"})
    assert predict(platform, app)["output"] == pytest.approx(66.0)


BAD_BODIES = [
    b"",
    b"{",
    b"[1, 2]",
    b'"text"',
    b"null",
    b"{}",
    b'{"input": null}',
    b'{"input": 3}',
    b'{"input": "text"}',
    b'{"input": ["a"]}',
    b'{"input": [null]}',
    b'{"input": [[1.0]]}',
    b'{"input": [NaN]}',
    b'{"input": {"x": 1}}',
    b'{"input": [true]}',
    b'{"input": [1.0], "input_batch": [[1.0]]}',
    b'{"input_batch": [1.0]}',
    b'{"input_batch": [[1.0], ["a"]]}',
    b'{"input_batch": 3}',
    b'{"input": [1.0], "context": [7]}',
    b'{"input": [1.0], "version": []}',
    b'{"input": [1.0]} more',
    b"\xff\xfe",
    b"[" * 10_000,
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=[body[:40].decode("latin-1") or "empty" for body in BAD_BODIES])
def test_a_malformed_body_is_refused_with_error_and_cause(
    platform: PlatformProcess, models: str, create: Create, body: bytes
) -> None:
    app = create(f"{models}/total")
    answer = platform.request("POST", f"/{app}/predict", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert set(answer.json()) >= {"error", "cause"}
    assert isinstance(answer.json()["cause"], str)
    assert answer.json()["cause"]


def test_an_application_that_is_not_there_is_not_found(platform: PlatformProcess) -> None:
    for verb in ("predict", "update"):
        answer = platform.post(f"/nobody/{verb}", {"input": VECTOR})
        assert answer.status_code == 404
        assert "nobody" in answer.text


def test_an_application_is_queried_by_post_only(platform: PlatformProcess, create: Create) -> None:
    app = create()
    assert platform.get(f"/{app}/predict").status_code == 405
    assert platform.post(f"/{app}/predicts", {"input": VECTOR}).status_code == 404


SPLIT = [{"function": "{models}/one", "weight": 0.3}, {"function": "{models}/two", "weight": 0.3}]

REFUSED_SPECS: list[tuple[str, dict[str, Any], int]] = [
    ("an unknown function", {"links": ["nobody/f"]}, 404),
    ("an unknown version", {"links": ["{models}/total@99"]}, 404),
    ("a function of texts for numbers", {"links": ["{models}/shout"]}, 400),
    ("a function of numbers for texts", {"links": ["{models}/total"], "input_type": "strings"}, 400),
    ("an unknown parameter", {"links": [{"function": "{models}/times", "parameter": "y"}]}, 400),
    ("a name with a comma", {"name": "a,b"}, 400),
    ("a name with a colon", {"name": "a:b"}, 400),
    ("a name of a route", {"name": "metrics"}, 400),
    ("a name of a route in capitals", {"name": "Metrics"}, 400),
    ("a name of a project", {"name": "{models}"}, 409),
    ("an unknown type", {"input_type": "double"}, 400),
    ("no objective", {"latency_slo_s": 0}, 400),
    ("a negative weight", {"links": [{"function": "{models}/total", "weight": -0.1}]}, 400),
    (
        "weights that do not sum to 1",
        {"policy": "split", "links": SPLIT},
        400,
    ),
    ("an unknown policy", {"policy": "exp33"}, 400),
    ("an unknown option of a policy", {"policy": "exp3", "policy_options": {"etta": 1}}, 400),
    ("an unknown loss", {"loss": "huber"}, 400),
    ("an unknown key", {"slo": 1}, 400),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "status"), [row[1:] for row in REFUSED_SPECS], ids=[row[0] for row in REFUSED_SPECS])
def test_a_wrong_application_is_refused(
    platform: PlatformProcess, models: str, spec: dict[str, Any], status: int
) -> None:
    text = json.dumps({"name": "refused", "input_type": "doubles", "default_output": 0, **spec})
    answer = platform.api("POST", "/apps", json=json.loads(text.replace("{models}", models)))
    if answer.status_code == 201:
        platform.api("DELETE", f"/apps/{json.loads(text)['name']}")
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]
    assert platform.api("GET", "/apps/refused").status_code == 404


# Feedback


def pairs(platform: PlatformProcess, app: str) -> list[dict[str, Any]]:
    lines = platform.api("GET", f"/apps/{app}/feedback").text.splitlines()
    return [json.loads(line) for line in lines if line]


def test_feedback_by_query_id_joins_the_prediction_once(platform: PlatformProcess, models: str, create: Create) -> None:
    app = create(f"{models}/total")
    query_id = predict(platform, app)["query_id"]
    for _ in range(3):
        assert update(platform, app, query_id=query_id, label=6.6).status_code == 200
    (pair,) = eventually(lambda: pairs(platform, app))
    assert (pair["query_id"], pair["label"], pair["input"]) == (query_id, 6.6, VECTOR)
    assert pair["answers"] == {f"{models}/total": pytest.approx(6.6)}


def test_feedback_by_input_is_clippers_form(platform: PlatformProcess, models: str, create: Create) -> None:
    app = create(f"{models}/one", f"{models}/two", policy="majority")
    predict(platform, app, [4.5, 5.5])
    answer = update(platform, app, uid="user-1", input=[4.5, 5.5], label=2)
    assert answer.status_code == 200, answer.text
    (pair,) = eventually(lambda: pairs(platform, app))
    assert pair["losses"] == {f"{models}/one": 1.0, f"{models}/two": 0.0}


BAD_UPDATES: list[dict[str, Any]] = [
    {},
    {"label": 1},
    {"query_id": "nonsense", "label": 1},
    {"query_id": 1.5, "label": 1},
    {"input": "text", "label": 1},
    {"input": [1.0]},
]


@pytest.mark.parametrize("body", BAD_UPDATES, ids=json.dumps)
def test_feedback_that_is_none_is_refused(
    platform: PlatformProcess, models: str, create: Create, body: dict[str, Any]
) -> None:
    app = create(f"{models}/total")
    answer = update(platform, app, **body)
    assert answer.status_code in (400, 404), answer.text
    assert pairs(platform, app) == []


def test_feedback_for_what_was_never_asked_is_refused(platform: PlatformProcess, models: str, create: Create) -> None:
    app = create(f"{models}/total")
    assert update(platform, app, query_id=12345678901, label=1).status_code == 404
    other = create(f"{models}/one")
    query_id = predict(platform, other)["query_id"]
    assert update(platform, app, query_id=query_id, label=1).status_code == 404


# Policies


def test_an_ensemble_answers_with_its_confidence_and_its_models(
    platform: PlatformProcess, models: str, create: Create
) -> None:
    app = create(f"{models}/one", f"{models}/uno", f"{models}/two", policy="majority")
    answer = predict(platform, app)
    assert (answer["output"], answer["default"]) == (1, False)
    assert answer["confidence"] == pytest.approx(2 / 3)
    assert sorted(answer["models"]) == [f"{models}/one", f"{models}/two", f"{models}/uno"]
    mean = create(f"{models}/one", f"{models}/two", policy="mean")
    assert predict(platform, mean)["output"] == 1.5


def test_an_ensemble_does_not_wait_for_a_straggler(platform: PlatformProcess, models: str, create: Create) -> None:
    app = create(f"{models}/one", f"{models}/uno", f"{models}/stuck", policy="majority", latency_slo_s=0.5)
    answer = platform.post(f"/{app}/predict", {"input": VECTOR}, timeout=20).json()  # the straggler takes 600 s
    assert (answer["output"], answer["default"]) == (1, False)
    assert answer["confidence"] == pytest.approx(2 / 3)
    assert sorted(answer["models"]) == [f"{models}/one", f"{models}/uno"]


def test_a_model_that_raises_is_one_that_did_not_answer(platform: PlatformProcess, models: str, create: Create) -> None:
    ensemble = create(f"{models}/one", f"{models}/broken", policy="majority")
    assert predict(platform, ensemble)["output"] == 1
    alone = create(f"{models}/broken")
    answer = predict(platform, alone)
    assert (answer["output"], answer["default"]) == (-1, True)
    assert answer["default_explanation"]


@pytest.mark.parametrize("policy", ["epsilon_greedy", "ucb1", "thompson", "exp3", "exp4"])
def test_a_policy_turns_to_the_model_that_is_right(
    platform: PlatformProcess, models: str, create: Create, policy: str
) -> None:
    app = create(f"{models}/one", f"{models}/two", policy=policy, seed=7)
    for _ in range(60):
        query_id = predict(platform, app)["query_id"]
        assert update(platform, app, query_id=query_id, label=2).status_code == 200
    learned = eventually(lambda: (s := shares(platform, app))[f"{models}/two"] > s[f"{models}/one"] and s)
    assert learned[f"{models}/two"] > 0.6


def test_contexts_learn_apart(platform: PlatformProcess, models: str, create: Create) -> None:
    app = create(f"{models}/one", f"{models}/two", policy="exp3", seed=7)
    for _ in range(60):
        for user, label in (("ann", 1), ("bob", 2)):
            query_id = predict(platform, app, context=user)["query_id"]
            assert update(platform, app, query_id=query_id, label=label).status_code == 200
    ann, bob = shares(platform, app, "ann"), shares(platform, app, "bob")
    assert ann[f"{models}/one"] > 0.5 > ann[f"{models}/two"]
    assert bob[f"{models}/two"] > 0.5 > bob[f"{models}/one"]


def test_a_seed_makes_a_run_repeatable(platform: PlatformProcess, models: str, create: Create) -> None:
    runs = []
    for _ in range(2):
        app = create(f"{models}/one", f"{models}/two", policy="exp3", seed=11)
        runs.append([predict(platform, app)["output"] for _ in range(30)])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {1, 2}


def test_a_split_gives_each_model_its_share(platform: PlatformProcess, models: str, create: Create) -> None:
    links = [{"function": f"{models}/one", "weight": 0.9}, {"function": f"{models}/two", "weight": 0.1}]
    app = create(*links, policy="split", seed=1)
    outputs = [predict(platform, app)["output"] for _ in range(200)]
    assert 2 <= outputs.count(2) <= 60


def test_a_shadow_is_compared_and_never_given(platform: PlatformProcess, models: str, create: Create) -> None:
    app = create(f"{models}/one", f"{models}/two", policy="shadow")
    query_id = [predict(platform, app) for _ in range(20)][-1]["query_id"]
    assert {predict(platform, app)["output"] for _ in range(20)} == {1}
    assert update(platform, app, query_id=query_id, label=2).status_code == 200
    (pair,) = eventually(lambda: pairs(platform, app))
    assert pair["losses"] == {f"{models}/one": 1.0, f"{models}/two": 0.0}


def test_a_policy_goes_on_while_one_of_its_models_is_killed(
    platform: PlatformProcess, deploy: Deploy, create: Create
) -> None:
    """Two projects; the one that Exp3 prefers dies under load and stays away. Nobody gets an error."""
    good, other = deploy(FRAGILE), deploy(answer_with(5))
    app = create(f"{good}/f", f"{other}/f", policy="exp3", seed=5, latency_slo_s=2.0)
    eventually(lambda: len(pids(platform, f"{good}/f")) == 2)
    for _ in range(40):
        query_id = predict(platform, app)["query_id"]
        update(platform, app, query_id=query_id, label=3)
    assert shares(platform, app)[f"{good}/f"] > 0.6
    stop, answers, wrong = threading.Event(), [], []

    def ask() -> None:
        with platform.client() as http:
            while not stop.is_set():
                answer = http.post(f"/{app}/predict", json={"input": VECTOR})
                (answers if answer.status_code == 200 else wrong).append(answer.json())

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        platform.clip("secret", "set", good, "FAIL", "1")
        for pid in pids(platform, f"{good}/f"):
            os.kill(pid, signal.SIGKILL)
        # Once the lost model is known to be away, every query goes to the other one.
        eventually(lambda: [a["output"] for a in answers[-50:]] == [5] * 50, within_s=60)
    finally:
        stop.set()
        for caller in callers:
            caller.join()
        platform.clip("secret", "delete", good, "FAIL")
    assert not wrong
    platform.clip("restart", good)
    eventually(lambda: predict(platform, app)["output"] == 3, within_s=30)


OWN_POLICY = """
import time
from typing import Any

import clipper

@clipper.function()
def raising(call: dict) -> Any:
    raise RuntimeError("undecided")

@clipper.function()
def hanging(call: dict) -> Any:
    time.sleep(600)

@clipper.function()
def mistaken(call: dict) -> Any:
    return "nobody/f"

@clipper.function()
def last(call: dict) -> Any:
    match call["op"]:
        case "init":
            return {}
        case "select":
            return call["models"][-1]
        case "combine":
            ((model, output),) = call["answers"].items()
            return {"output": output, "models": [model]}
        case "observe":
            return call["state"]
"""


@pytest.fixture(scope="module")
def own(platform: PlatformProcess, deploy_once: Deploy) -> str:
    return deploy_once(OWN_POLICY)


def test_a_policy_of_ones_own_chooses(platform: PlatformProcess, models: str, own: str, create: Create) -> None:
    app = create(f"{models}/one", f"{models}/two", policy=f"{own}/last")
    answer = eventually(lambda: (found := predict(platform, app))["output"] == 2 and found)
    assert (answer["default"], answer["models"]) == (False, [f"{models}/two"])


@pytest.mark.parametrize(
    ("policy", "words"), [("raising", "undecided"), ("hanging", "no answer"), ("mistaken", "nobody/f")]
)
def test_a_policy_of_ones_own_that_fails_falls_back_to_the_first_link_and_says_so(
    platform: PlatformProcess, models: str, own: str, create: Create, policy: str, words: str
) -> None:
    app = create(f"{models}/one", f"{models}/two", policy=f"{own}/{policy}", latency_slo_s=2.0)
    answer = predict(platform, app)
    assert (answer["output"], answer["default"]) == (1, False)
    told = eventually(lambda: words in (out := platform.clip("app", "status", app).out) and out)
    assert "single" in told


# As users meet it: clip.toml, the command line, Python


def test_an_application_of_clip_toml_comes_with_the_deploy(
    platform: PlatformProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = """
name = "shop"

[apps.prices]
input_type = "doubles"
default_output = 0
latency_slo_s = 5
policy = "mean"
links = ["one", "two"]
"""
    try:
        done = platform.clip("deploy", write_project(tmp_path, MODELS, toml))
        assert "Created application prices" in done.out
        assert json.loads(platform.clip("app", "predict", "prices", "[1, 2]").out) == 1.5
        monkeypatch.setenv("CLIP_HOME", str(platform.home))
        app = clipper.App.from_name("prices")
        assert [p.output for p in app.predict_batch([[1], [2]])] == [1.5, 1.5]
        # Another policy: the application changes with the next deploy. Without its table it stays, and is named.
        write_project(tmp_path, MODELS, toml.replace('"mean"', '"single"'))
        assert "Changed application prices" in platform.clip("deploy", tmp_path).out
        assert app.predict([1]).output == 1
        write_project(tmp_path, MODELS, 'name = "shop"\n')
        assert "[apps.prices] no longer" in platform.clip("deploy", tmp_path).err
        assert app.predict([1]).output == 1
    finally:
        platform.clip("app", "delete", "prices", "--yes", check=False)
        platform.clip("delete", "shop", "--yes", check=False)


def test_an_application_of_clip_toml_that_is_refused_leaves_the_version(
    platform: PlatformProcess, tmp_path: Path
) -> None:
    toml = 'name = "halfway"\n[apps.wrong]\ninput_type = "strings"\ndefault_output = 0\nlinks = ["one"]\n'
    try:
        done = platform.clip("deploy", write_project(tmp_path, MODELS, toml), check=False)
        assert done.code == 1
        assert "Deployed halfway version 1" in done.out
        assert "Application wrong" in done.err
        assert platform.call("halfway/one", x=[1.0]) == 1
        assert platform.api("GET", "/apps/wrong").status_code == 404
    finally:
        platform.clip("delete", "halfway", "--yes", check=False)


def test_the_life_of_an_application_on_the_command_line(platform: PlatformProcess, models: str, tmp_path: Path) -> None:
    clip = platform.clip
    try:
        clip("app", "create", "life", "--input-type", "doubles", "--default-output", "-1", "--slo-ms", "5000")
        assert json.loads(clip("app", "predict", "life", "[1]").out) == -1
        clip("app", "link", "life", f"{models}/one")
        clip("app", "link", "life", f"{models}/two")
        clip("app", "set", "life", "--policy", "exp3", "--seed", "3")
        answer = clip("app", "predict", "life", "[1, 2]", "--context", "ann", "--json").json()
        clip("app", "label", "life", str(answer["query_id"]), "1")
        (pair,) = eventually(
            lambda: [json.loads(line) for line in clip("app", "feedback", "life").out.splitlines()], within_s=20
        )
        assert (pair["input"], pair["label"], pair["context"]) == ([1, 2], 1, "ann")
        clip("app", "feedback", "life", "--output", str(tmp_path / "pairs.csv"))
        (row,) = csv.DictReader(io.StringIO((tmp_path / "pairs.csv").read_text()))
        assert row["label"] == "1"
        status = clip("app", "status", "life").out
        assert f"{models}/one" in status
        assert "exp3" in clip("app", "explain", "life", "--context", "ann").out
        assert "life" in clip("app", "list").out
        clip("app", "unlink", "life", f"{models}/two")
        missing = clip("app", "unlink", "life", f"{models}/two", check=False)
        assert (missing.code, missing.out) == (1, "")
    finally:
        clip("app", "delete", "life", "--yes", check=False)
    assert clip("app", "status", "life", check=False).code == 1


def test_an_application_from_python(platform: PlatformProcess, models: str) -> None:
    with environment(CLIP_HOME=str(platform.home)):
        app = clipper.App.create("py", input_type="doubles", default_output=None, latency_slo_s=5.0)
        try:
            assert app.predict([1]).default_explanation == NO_MODELS
            app.link(f"{models}/total")
            prediction = app.predict(VECTOR, context="ann")
            assert prediction.output == pytest.approx(6.6)
            app.feedback(prediction, 6.6)
            app.feedback(prediction.query_id, 6.6)
            assert [pair["label"] for pair in eventually(lambda: list(app.labelled()))] == [6.6]
            with pytest.raises(clipper.errors.Conflict):
                clipper.App.create("py", input_type="doubles", default_output=0)
            clipper.App.create("py", input_type="doubles", default_output=0, replace=True)
            assert app.predict([1]).output == 0
            with pytest.raises(clipper.errors.InvalidRequest):
                app.predict(["a"])
        finally:
            app.delete()
        with pytest.raises(clipper.errors.NotFound):
            app.predict([1])
