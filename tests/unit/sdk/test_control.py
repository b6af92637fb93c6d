from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.responses import Response, StreamingResponse

from clipper import errors
from clipper.control import ControlClient
from clipper.control_apps import ApplicationCalls
from clipper.control_materializations import MaterializationCalls
from clipper.transport import RetryPolicy
from tests.unit.sdk.scripted_platform import ScriptedPlatform, Seen, error_response, json_response

DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def control(platform: ScriptedPlatform) -> Iterator[ControlClient]:
    with ControlClient(retry=RetryPolicy(base_delay_s=0.001), sleep=lambda seconds: None) as client:
        yield client


def ndjson(*events: Any) -> Response:
    return Response(b"".join(json.dumps(e).encode() + b"\n" for e in events), media_type="application/x-ndjson")


Row = tuple[Callable[[ControlClient], Any], str, dict[str, Any] | None, Any, Any]

ROWS: list[Row] = [
    (lambda c: c.info(), "GET /api/v1/info", None, {"version": "1"}, {"version": "1"}),
    (lambda c: c.storage(), "GET /api/v1/storage", None, {"logs": {"count": 1}}, {"logs": {"count": 1}}),
    (
        lambda c: c.clean_storage(),
        "POST /api/v1/storage/clean",
        None,
        {"logs": {"count": 1}},
        {"logs": {"count": 1}},
    ),
    (
        lambda c: c.create_deployment("demo", {"project": "demo"}, force=True),
        "POST /api/v1/projects/demo/deployments",
        {"project": "demo", "force": True},
        {"id": "d1"},
        {"id": "d1"},
    ),
    (lambda c: c.deployment("d1"), "GET /api/v1/deployments/d1", None, {"id": "d1"}, {"id": "d1"}),
    (lambda c: c.cancel_deployment("d1"), "DELETE /api/v1/deployments/d1", None, {"id": "d1"}, {"id": "d1"}),
    (lambda c: c.projects(), "GET /api/v1/projects", None, {"projects": [{"name": "a"}]}, [{"name": "a"}]),
    (lambda c: c.project("demo"), "GET /api/v1/projects/demo", None, {"name": "demo"}, {"name": "demo"}),
    (lambda c: c.config("demo"), "GET /api/v1/projects/demo/config", None, {"apps": []}, {"apps": []}),
    (
        lambda c: c.delete_project("demo"),
        "DELETE /api/v1/projects/demo",
        None,
        {"deleted": "demo"},
        {"deleted": "demo"},
    ),
    (lambda c: c.versions("demo"), "GET /api/v1/projects/demo/versions", None, {"versions": [1]}, [1]),
    (
        lambda c: c.rollback("demo", 3),
        "POST /api/v1/projects/demo/rollback",
        {"version": 3},
        {"version": 3},
        {"version": 3},
    ),
    (
        lambda c: c.restart("demo", "add"),
        "POST /api/v1/projects/demo/restart",
        {"function": "add"},
        {"version": 1},
        {"version": 1},
    ),
    (lambda c: c.rollback("demo"), "POST /api/v1/projects/demo/rollback", {}, {"version": 1}, {"version": 1}),
    (
        lambda c: c.policy("demo", "f"),
        "GET /api/v1/projects/demo/functions/f/policy",
        None,
        {"source": "deployed"},
        {"source": "deployed"},
    ),
    (
        lambda c: c.put_policy("demo", "f", {"min_replicas": 1}, "sha256:d"),
        "PUT /api/v1/projects/demo/functions/f/policy",
        {"policy": {"min_replicas": 1}, "digest": "sha256:d"},
        {"source": "applied"},
        {"source": "applied"},
    ),
    (
        lambda c: c.delete_policy("demo", "f"),
        "DELETE /api/v1/projects/demo/functions/f/policy",
        None,
        {"source": "deployed"},
        {"source": "deployed"},
    ),
    (
        lambda c: c.decisions("demo", "f"),
        "GET /api/v1/projects/demo/functions/f/decisions",
        None,
        {"latest": None},
        {"latest": None},
    ),
    (
        lambda c: c.create_key("ci", ["invoke"]),
        "POST /api/v1/keys",
        {"name": "ci", "scopes": ["invoke"]},
        {"key": "clip_x"},
        {"key": "clip_x"},
    ),
    (lambda c: c.keys(), "GET /api/v1/keys", None, {"keys": [{"id": "k"}]}, [{"id": "k"}]),
    (lambda c: c.revoke_key("k1"), "DELETE /api/v1/keys/k1", None, {"id": "k1"}, {"id": "k1"}),
    (
        lambda c: c.put_secret("demo", "TOKEN", "v"),
        "PUT /api/v1/projects/demo/secrets/TOKEN",
        {"value": "v"},
        {"name": "TOKEN"},
        {"name": "TOKEN"},
    ),
    (lambda c: c.secrets("demo"), "GET /api/v1/projects/demo/secrets", None, {"secrets": ["TOKEN"]}, ["TOKEN"]),
    (
        lambda c: c.delete_secret("demo", "TOKEN"),
        "DELETE /api/v1/projects/demo/secrets/TOKEN",
        None,
        {"deleted": "TOKEN"},
        {"deleted": "TOKEN"},
    ),
    (lambda c: c.schema("demo/add@2"), "GET /fn/demo/add@2/schema", None, {"x": 1}, {"x": 1}),
]


@pytest.mark.parametrize(("call", "route", "body", "answer", "value"), ROWS, ids=[row[1] for row in ROWS])
def test_a_method_sends_its_row_of_the_control_api(
    platform: ScriptedPlatform, control: ControlClient, call: Any, route: str, body: Any, answer: Any, value: Any
) -> None:
    platform.api[route] = lambda seen: json_response(answer)
    assert call(control) == value
    (seen,) = platform.seen
    assert seen.headers["authorization"] == "Bearer clip_test_key"
    assert (json.loads(seen.body) if seen.body else None) == body


def test_every_method_of_the_client_is_tested() -> None:
    methods = {n for n, _ in inspect.getmembers(ControlClient, inspect.isfunction) if not n.startswith("_")}
    methods -= {*vars(ApplicationCalls), *vars(MaterializationCalls)}  # those have rows of their own
    in_rows = {next(name for name in row[0].__code__.co_names) for row in ROWS}
    apart = {"close", "has_bundle", "put_bundle", "deployment_events", "logs", "invoke", "stream"}
    assert methods == in_rows | apart


@pytest.mark.parametrize("text", ["", ".", ".."])
def test_a_name_that_a_path_would_resolve_away_is_refused(
    platform: ScriptedPlatform, control: ControlClient, text: str
) -> None:
    with pytest.raises(errors.InvalidRequest, match="is not a name"):
        control.delete_project(text)
    assert platform.seen == []


@pytest.mark.parametrize("text", ["a/b", "../x", "a?b", "a#b", "%2e", "é"])
def test_a_strange_name_stays_one_segment(platform: ScriptedPlatform, control: ControlClient, text: str) -> None:
    with pytest.raises(errors.NotFound):
        control.project(text)
    assert platform.seen[0].path == f"/api/v1/projects/{text}"
    assert platform.seen[0].query == {}


@pytest.mark.parametrize("answer", [b"[]", b'"x"', b"<html>", b""])
def test_an_answer_of_another_server_is_told(platform: ScriptedPlatform, control: ControlClient, answer: bytes) -> None:
    platform.api["GET /api/v1/info"] = lambda seen: Response(answer)
    with pytest.raises(errors.UnexpectedAnswer):
        control.info()


def test_a_list_that_is_missing_is_told(platform: ScriptedPlatform, control: ControlClient) -> None:
    platform.api["GET /api/v1/projects"] = lambda seen: json_response({})
    with pytest.raises(errors.UnexpectedAnswer, match="no list 'projects'"):
        control.projects()


# Bundles


def test_a_known_bundle_is_told_from_an_unknown_one(platform: ScriptedPlatform, control: ControlClient) -> None:
    assert not control.has_bundle(DIGEST)
    platform.api[f"HEAD /api/v1/bundles/{DIGEST}"] = lambda seen: Response()
    assert control.has_bundle(DIGEST)


def test_a_bundle_is_uploaded_whole_with_progress(platform: ScriptedPlatform, control: ControlClient) -> None:
    platform.api[f"PUT /api/v1/bundles/{DIGEST}"] = lambda seen: json_response({"bytes": len(seen.body)}, 201)
    data = bytes(range(256)) * 3000
    progress: list[tuple[int, int]] = []
    assert control.put_bundle(DIGEST, data, lambda sent, total: progress.append((sent, total))) == {"bytes": len(data)}
    (seen,) = platform.seen
    assert seen.body == data
    assert seen.headers["content-length"] == str(len(data))
    assert seen.headers["content-type"] == "application/gzip"
    assert progress[-1] == (len(data), len(data))
    assert progress == sorted(progress)


def test_an_upload_that_is_refused_for_now_is_sent_again_whole(
    platform: ScriptedPlatform, control: ControlClient
) -> None:
    platform.scripted.extend([error_response(503, "unavailable"), json_response({"bytes": 3})])
    assert control.put_bundle(DIGEST, b"abc") == {"bytes": 3}
    assert [seen.body for seen in platform.seen] == [b"abc", b"abc"]


def test_a_bundle_that_is_too_large_is_refused_in_the_platforms_words(
    platform: ScriptedPlatform, control: ControlClient
) -> None:
    platform.scripted.append(error_response(413, "payload_too_large", "over 5 bytes"))
    with pytest.raises(errors.PayloadTooLarge, match="over 5 bytes"):
        control.put_bundle(DIGEST, b"abcdef")


# Streams

EVENTS = "GET /api/v1/deployments/d1/events"


def event(seq: int, kind: str = "log") -> dict[str, Any]:
    return {"seq": seq, "kind": kind}


def test_events_come_until_the_last_and_heartbeats_are_left_out(
    platform: ScriptedPlatform, control: ControlClient
) -> None:
    body = b'\n{"seq": 1, "kind": "log"}\n\n\n{"seq": 2, "kind": "done"}\n{"seq": 3, "kind": "log"}\n'
    platform.api[EVENTS] = lambda seen: Response(body, media_type="application/x-ndjson")
    assert [e["seq"] for e in control.deployment_events("d1")] == [1, 2]
    assert platform.seen[0].query == {"after": "0"}


def test_a_broken_stream_of_events_is_taken_up_where_it_broke(
    platform: ScriptedPlatform, control: ControlClient
) -> None:
    async def breaking() -> Any:
        yield b'{"seq": 3, "kind": "log"}\n{"seq": 4, "ki'
        raise ConnectionResetError

    answers: Iterator[Response] = iter(
        [
            ndjson(event(1), event(2)),
            StreamingResponse(breaking(), media_type="application/x-ndjson"),
            ndjson(event(4), event(5, "done")),
        ]
    )
    platform.api[EVENTS] = lambda seen: next(answers)
    assert [e["seq"] for e in control.deployment_events("d1")] == [1, 2, 3, 4, 5]
    assert [seen.query["after"] for seen in platform.seen] == ["0", "2", "3"]


def test_a_stream_of_events_that_brings_nothing_again_and_again_is_given_up(
    platform: ScriptedPlatform, control: ControlClient
) -> None:
    platform.api[EVENTS] = lambda seen: ndjson()
    with pytest.raises(errors.ConnectionLost, match="ended before the deployment"):
        list(control.deployment_events("d1"))
    assert len(platform.seen) == 7


def test_an_unknown_deployment_is_not_asked_for_again(platform: ScriptedPlatform, control: ControlClient) -> None:
    with pytest.raises(errors.NotFound):
        list(control.deployment_events("d2"))
    assert len(platform.seen) == 1


def test_logs_are_asked_for_by_tail_since_and_follow(platform: ScriptedPlatform, control: ControlClient) -> None:
    route = "GET /api/v1/projects/demo/functions/add/logs"
    platform.api[route] = lambda seen: ndjson({"message": "a"}, {"message": "b"})
    assert [r["message"] for r in control.logs("demo", "add", tail=5, since=1.5, follow=True)] == ["a", "b"]
    assert platform.seen[0].query == {"tail": "5", "since": "1.5", "follow": "1"}
    list(control.logs("demo", "add"))
    assert platform.seen[1].query == {}


def test_a_log_in_another_format_is_told(platform: ScriptedPlatform, control: ControlClient) -> None:
    platform.api["GET /api/v1/projects/demo/functions/add/logs"] = lambda seen: Response(
        "hello", media_type="text/html"
    )
    with pytest.raises(errors.UnexpectedAnswer, match="text/html"):
        list(control.logs("demo", "add"))


# Functions


def test_an_invocation_passes_bytes_as_they_are(platform: ScriptedPlatform, control: ControlClient) -> None:
    def answer(seen: Seen) -> Response:
        return Response(seen.body[::-1], media_type="image/png", headers={"X-Clip-Version": "3"})

    platform.api["POST /fn/demo/flip@3"] = answer
    got = control.invoke("demo/flip@3", b"abc", "image/png", accept="image/png", timeout_s=2.0)
    assert (got.status, got.content, got.headers["x-clip-version"]) == (200, b"cba", "3")
    headers = platform.seen[0].headers
    assert (headers["content-type"], headers["accept"]) == ("image/png", "image/png")
    assert 0 < int(headers["x-clip-timeout-ms"]) <= 2000


def test_a_stream_gives_decoded_items(platform: ScriptedPlatform, control: ControlClient) -> None:
    platform.streams["count"] = [b'data: 1\n\ndata: "two"\n\n', b"event: end\ndata: {}\n\n"]
    assert list(control.stream("demo/count", b"{}")) == [1, "two"]
    assert platform.seen[0].headers["accept"] == "text/event-stream"


@pytest.mark.parametrize("path", ["demo", "demo/../x", "/fn/demo/add", "a/b/c"])
def test_what_is_no_function_is_refused_before_it_is_sent(
    platform: ScriptedPlatform, control: ControlClient, path: str
) -> None:
    with pytest.raises(ValueError, match="not"):
        control.invoke(path, b"{}")
    assert platform.seen == []
