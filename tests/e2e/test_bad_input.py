"""Bad input over HTTP: each gets its own clear refusal, and the function answers the next good request."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Deploy
from tests.support.platform import PlatformProcess, write_project

APP = """
from dataclasses import dataclass
import clipper

@dataclass
class Point:
    x: float
    y: float = 0.0

@clipper.function()
def shift(point: Point, by: float = 1.0) -> Point:
    return Point(point.x + by, point.y)

@clipper.function()
def unencodable(kind: str) -> object:
    return {"object": object(), "nan": float("nan"), "cycle": cycle(), "file": open(__file__)}[kind]

def cycle() -> list:
    made = []
    made.append(made)
    return made

@clipper.function(max_batch_size=8)
def short(n: list[int]) -> list[int]:
    return n[1:]

@clipper.function(max_batch_size=8)
def no_list(n: list[int]) -> list[int]:
    return sum(n)

@clipper.function()
def length(data: bytes) -> int:
    return len(data)

@clipper.function()
def fails(word: str) -> str:
    raise LookupError("no such word: " + word)
"""

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def bad(platform: PlatformProcess, deploy_once: Deploy) -> str:
    return deploy_once(APP)


@pytest.fixture
def pids(platform: PlatformProcess, bad: str) -> Iterator[None]:
    """Whatever the test sends, the replicas live on and the next good request is answered."""

    def now() -> dict[str, list[int]]:
        functions = platform.api("GET", f"/projects/{bad}").json()["functions"]
        return {f["name"]: sorted(r["pid"] for r in f["replicas"]) for f in functions}

    before = now()
    yield
    assert now() == before
    assert platform.call(f"{bad}/shift", point={"x": 1}) == {"x": 2.0, "y": 0.0}


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    assert error["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, error["code"], error["message"]


MALFORMED = {
    "nothing": b"",
    "half an object": b'{"point": {"x": 1}',
    "two objects": b'{"point": {"x": 1}} {}',
    "no UTF-8": b'{"point\xff": {"x": 1}}',
    "100,000 brackets": b"[" * 100_000,
    "100,000 brackets inside": b'{"point": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 objects": b'{"point": ' * 100_000,
    "NaN": b'{"point": {"x": NaN}}',
    "infinity": b'{"point": {"x": Infinity}}',
    "a number beyond float64": b'{"point": {"x": 1e999}}',
    "random bytes": bytes(range(256)),
}


@pytest.mark.usefixtures("pids")
@pytest.mark.parametrize("what", MALFORMED)
def test_a_body_that_is_not_json_is_malformed(http: httpx.Client, bad: str, what: str) -> None:
    status, code, message = refusal(http.post(f"/fn/{bad}/shift", content=MALFORMED[what], headers=JSON))
    assert (status, code) in {(400, "invalid_request"), (422, "schema_mismatch")}, message
    # Nothing is no arguments; the others are refused for their shape before their end is looked at.
    if what not in {"nothing", "100,000 brackets", "100,000 brackets inside", "a number beyond float64"}:
        assert status == 400, message


MISFITS = {
    "a missing argument": ({}, "point"),
    "an unknown argument": ({"point": {"x": 1}, "bye": 2}, "bye"),
    "text for a number": ({"point": {"x": "one"}}, "$.point.x"),
    "a list for an object": ({"point": [1, 2]}, "$.point"),
    "null for a number": ({"point": {"x": 1}, "by": None}, "$.by"),
    "a list of arguments": ([1, 2], "object"),
    "a bare number": (7, "object"),
}


@pytest.mark.usefixtures("pids")
@pytest.mark.parametrize("what", MISFITS)
def test_arguments_that_do_not_fit_name_the_path(http: httpx.Client, bad: str, what: str) -> None:
    arguments, named = MISFITS[what]
    status, code, message = refusal(http.post(f"/fn/{bad}/shift", json=arguments))
    assert (status, code) == (422, "schema_mismatch")
    assert named in message


@pytest.mark.usefixtures("pids")
@pytest.mark.parametrize("kind", ["object", "cycle", "file"])
def test_a_value_that_cannot_be_sent_is_an_invalid_result(http: httpx.Client, bad: str, kind: str) -> None:
    status, code, _ = refusal(http.post(f"/fn/{bad}/unencodable", json={"kind": kind}))
    assert (status, code) == (500, "invalid_result")


@pytest.mark.usefixtures("pids")
def test_nan_is_never_written_as_json(http: httpx.Client, bad: str) -> None:
    """NaN is not JSON: either it is refused or it is written as null, which is."""
    answer = http.post(f"/fn/{bad}/unencodable", json={"kind": "nan"})
    assert answer.text == "null" or refusal(answer)[:2] == (500, "invalid_result")


@pytest.mark.usefixtures("pids")
@pytest.mark.parametrize("function", ["short", "no_list"])
def test_a_batch_answered_with_the_wrong_number_of_results_is_an_invalid_result(
    http: httpx.Client, bad: str, function: str
) -> None:
    status, code, message = refusal(http.post(f"/fn/{bad}/{function}", json={"n": 1}))
    assert (status, code) == (500, "invalid_result")
    assert "list" in message or "0 values for 1 invocation" in message


@pytest.mark.usefixtures("pids")
def test_a_body_over_the_limit_is_refused(platform: PlatformProcess, http: httpx.Client, bad: str) -> None:
    limit = platform.api("GET", "/info").json()["limits"]["max_body_bytes"]

    def body() -> Iterator[bytes]:
        for _ in range(limit // 1_000_000 + 2):
            yield bytes(1_000_000)

    octets = {"content-type": "application/octet-stream"}
    with socket.create_connection(("127.0.0.1", platform.port), 10) as announcing:
        head = f"POST /fn/{bad}/length HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\n"
        announcing.sendall(f"{head}Content-Length: {limit + 1}\r\n\r\n".encode())
        assert announcing.recv(1000).startswith(b"HTTP/1.1 413 ")
    try:
        streamed = http.post(f"/fn/{bad}/length", content=body(), headers=octets)
    except (httpx.WriteError, httpx.RemoteProtocolError):
        return  # closed while we were still sending, which a server may do
    assert refusal(streamed)[:2] == (413, "payload_too_large")


@pytest.mark.usefixtures("pids")
def test_a_large_body_within_the_limit_is_taken(http: httpx.Client, bad: str) -> None:
    octets = {"content-type": "application/octet-stream"}
    assert http.post(f"/fn/{bad}/length", content=bytes(20_000_000), headers=octets).json() == 20_000_000


@pytest.mark.usefixtures("pids")
def test_a_media_type_that_nothing_can_read_is_refused(http: httpx.Client, bad: str) -> None:
    answer = http.post(f"/fn/{bad}/shift", content=b"<point/>", headers={"content-type": "application/xml"})
    assert refusal(answer)[:2] == (415, "unsupported_media_type")


@pytest.mark.usefixtures("pids")
@pytest.mark.parametrize(
    "path",
    [
        "/fn/{p}/nothing",
        "/fn/nobody/shift",
        "/fn/{p}/shift/more",
        "/fn/{p}",
        "/fn/",
        "/fn/{p}/shift@0",
        "/fn/{p}/shift@x",
        "/fn/{p}/shift@1@1",
        "/fn/{p}/%00",
        "/fn/{p}/%0d%0aX-Evil:%201",
        "/fn/..%2f..%2fetc/passwd",
        "/fn/.hidden/shift",
        "/fn/{p}/" + "x" * 3000,
    ],
)
def test_a_name_that_is_none_is_not_found(http: httpx.Client, bad: str, path: str) -> None:
    status, code, _ = refusal(http.post(path.format(p=bad), json={}))
    assert (status, code) in {(404, "not_found"), (400, "invalid_request")}


@pytest.mark.parametrize("name", ["a/b", "..", ".x", "a b", "a\tb", "a\x07b", "", "x" * 64, "ü"])
def test_a_project_cannot_have_a_name_that_is_no_path_segment(
    platform: PlatformProcess, tmp_path: Path, name: str
) -> None:
    write_project(tmp_path / "p", APP, f"name = {json.dumps(name)}\n")
    refused = platform.clip("deploy", tmp_path / "p", check=False)
    assert refused.code in {1, 2}, refused
    assert "name" in refused.err
    assert "Traceback" not in refused.err


@pytest.mark.usefixtures("pids")
def test_the_users_exception_reaches_the_client_and_its_traceback_only_the_log(
    platform: PlatformProcess, http: httpx.Client, bad: str
) -> None:
    answer = http.post(f"/fn/{bad}/fails", json={"word": "xyzzy"})
    status, code, message = refusal(answer)
    assert (status, code) == (500, "function_error")
    assert "LookupError" in answer.text
    assert "no such word: xyzzy" in message
    assert "app.py" not in answer.text
    log = platform.clip("logs", f"{bad}/fails").out
    assert "Traceback" in log
    assert "app.py" in log


def test_control_calls_need_a_key_that_is_known_and_not_revoked(platform: PlatformProcess) -> None:
    def ask(key: str | None) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key is not None else {}
        return platform.get("/api/v1/projects", headers=headers)

    assert refusal(ask(None))[:2] == (401, "unauthenticated")
    assert refusal(ask("clip_nonsense"))[:2] == (401, "unauthenticated")
    made = platform.clip("key", "create", "short-lived", "--scope", "deploy", "--json").json()
    assert ask(made["key"]).status_code == 200
    platform.clip("key", "revoke", made["id"], "--json")
    assert refusal(ask(made["key"]))[:2] == (401, "unauthenticated")


def test_a_key_may_do_only_what_its_scope_says(platform: PlatformProcess, bad: str) -> None:
    made = platform.clip("key", "create", "caller", "--scope", "invoke", "--json").json()
    headers = {"authorization": f"Bearer {made['key']}"}
    assert refusal(platform.get("/api/v1/projects", headers=headers))[:2] == (403, "forbidden")
    called = platform.post(f"/fn/{bad}/shift", json={"point": {"x": 1}}, headers=headers)
    assert called.status_code == 200


def test_a_web_page_of_another_origin_is_refused(platform: PlatformProcess, bad: str) -> None:
    path = f"/fn/{bad}/shift"
    page = platform.post(path, json={"point": {"x": 1}}, headers={"origin": "https://evil.example"})
    assert refusal(page)[:2] == (403, "forbidden")
    rebound = platform.post(path, json={"point": {"x": 1}}, headers={"host": "evil.example"})
    assert refusal(rebound)[:2] == (403, "forbidden")
