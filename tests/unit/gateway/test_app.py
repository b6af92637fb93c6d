"""The application as a whole: the middleware around every route, probes, the description, the table of scopes."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from clipper_platform.errors import QueueFull
from clipper_platform.gateway.app import build_app
from clipper_platform.gateway.auth import Access
from clipper_platform.gateway.control_api.api import control_endpoints
from clipper_platform.gateway.probes import Probes
from tests.unit.control.doubles import manifest
from tests.unit.gateway.gate import Gate, make_gate

DOCS = Path(__file__).parents[3] / "infra" / "docs" / "control-api.md"


def table(gate: Gate) -> list[Any]:
    return [*Probes(gate.services).endpoints(), *control_endpoints(gate.services)]


def fill(path: str) -> str:
    return re.sub(r"\{digest\}", "sha256:" + "a" * 64, re.sub(r"\{(?!digest)\w+\}", "x", path))


async def boom(request: Request) -> Response:
    raise ZeroDivisionError("secret")


async def full(request: Request) -> Response:
    raise QueueFull("the queue is full", retry_after_s=2.5)


async def half(request: Request) -> Response:
    async def chunks() -> Any:
        yield b"half"
        raise ZeroDivisionError("secret")

    return StreamingResponse(chunks())


async def echo_id(request: Request) -> Response:
    return PlainTextResponse(request.state.request_id)


ROUTES = [Route("/boom", boom), Route("/full", full), Route("/half", half), Route("/id", echo_id)]


# Request ids


async def test_a_valid_request_id_is_kept_and_is_on_every_answer(gate: Gate) -> None:
    async with gate.client(extra_routes=ROUTES) as client:
        for path in ("/id", "/boom", "/full", "/nowhere", "/healthz"):
            answer = await client.get(path, headers={"x-request-id": "my-id:1"})
            assert answer.headers.get_list("x-request-id") == ["my-id:1"]
        assert (await client.get("/id", headers={"x-request-id": "my-id:1"})).text == "my-id:1"
        assert (await client.get("/boom", headers={"x-request-id": "my-id:1"})).json()["error"][
            "request_id"
        ] == "my-id:1"


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", 'a"b', "é".encode().decode("latin-1")])
async def test_an_unusable_request_id_is_replaced(gate: Gate, given: str) -> None:
    async with gate.client(extra_routes=ROUTES) as client:
        answer = await client.get("/id", headers={"x-request-id": given.encode("latin-1")})
    assert answer.headers["x-request-id"] != given
    assert re.fullmatch(r"[0-9a-f]{16,}", answer.headers["x-request-id"])


# Errors


async def test_an_unknown_address_is_a_404_that_lists_nothing(gate: Gate) -> None:
    async with gate.client(None) as client:
        for path in ("/", "/api", "/api/v1", "/api/v1/", "/nowhere", "/healthz/", "/api/v1/projects/", "/%2e%2e/etc"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), path
            assert set(answer.json()["error"]) == {"code", "message", "request_id"}


async def test_a_wrong_method_names_the_right_ones(gate: Gate) -> None:
    async with gate.client() as client:
        answer = await client.patch("/api/v1/projects/x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert {"GET", "DELETE"} <= set(answer.headers["allow"].split(", "))


async def test_a_defect_is_a_500_without_its_words(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    async with gate.client(extra_routes=ROUTES) as client:
        answer = await client.get("/boom")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert "secret" in caplog.text


async def test_a_refusal_carries_retry_after(gate: Gate) -> None:
    async with gate.client(extra_routes=ROUTES) as client:
        answer = await client.get("/full")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")


async def test_a_head_gets_the_status_without_a_body(gate: Gate) -> None:
    async with gate.client() as client:
        assert (await client.head("/nowhere")).content == b""
        answer = await client.head("/api/v1/projects")
        assert answer.status_code == 200


# Host and origin


async def test_the_edge_guards_every_route_on_a_loopback_bind(gate: Gate) -> None:
    async with gate.client() as client:
        for path in ("/healthz", "/api/v1/info", "/metrics", "/nowhere"):
            for headers in (
                {"host": "evil.example"},
                {"origin": "https://evil.example"},
                {"sec-fetch-site": "cross-site"},
            ):
                answer = await client.get(path, headers=headers)
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden"), (path, headers)
                assert "access-control-allow-origin" not in answer.headers


async def test_two_host_headers_are_refused(gate: Gate) -> None:
    async with gate.client() as client:
        answer = await client.get("/healthz", headers=[("host", "localhost"), ("host", "evil.example")])
    assert answer.status_code == 403


async def test_a_preflight_of_an_allowed_origin_is_answered_at_the_edge(tmp_path: Path) -> None:
    gate = await make_gate(tmp_path, cors=("http://localhost:3000",))
    asking = {
        "origin": "http://localhost:3000",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
        "access-control-request-private-network": "true",
    }
    async with gate.client(None) as client:
        answer = await client.options("/fn/digits/classify", headers=asking)
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "Authorization" in answer.headers["access-control-allow-headers"]
        assert answer.headers["access-control-allow-private-network"] == "true"
        assert answer.headers["vary"] == "Origin"
        refused = await client.options("/fn/digits/classify", headers={**asking, "origin": "https://evil.example"})
        assert refused.status_code == 403
    await gate.close()


async def test_answers_and_errors_to_an_allowed_origin_carry_cors_headers(tmp_path: Path) -> None:
    gate = await make_gate(tmp_path, cors=("http://localhost:3000",))
    async with gate.client(None) as client:
        for path, status in (("/healthz", 200), ("/api/v1/info", 401), ("/nowhere", 404)):
            answer = await client.get(path, headers={"origin": "http://localhost:3000"})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
            assert "X-Clip-Version" in answer.headers["access-control-expose-headers"]
    await gate.close()


# The access log


async def test_each_request_is_one_line_with_its_ids(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "clipper_platform.access")
    async with gate.client(extra_routes=ROUTES) as client:
        await client.get("/id", headers={"x-request-id": "r1"})
        await client.get("/full", headers={"x-request-id": "r2"})
        await client.get("/healthz")
    found = [r for r in caplog.records if r.name == "clipper_platform.access"]
    assert [(r.message, r.__dict__["request_id"]) for r in found] == [("GET /id 200", "r1"), ("GET /full 429", "r2")]
    assert found[0].__dict__["bytes"] == 2


# Scopes


async def test_every_endpoint_asks_for_the_scope_of_its_row_and_says_nothing_without_it(gate: Gate) -> None:
    scopes = ["invoke", "deploy", "admin"]
    for endpoint in table(gate):
        if endpoint.scope is None:
            continue
        for held in (None, *scopes):
            async with gate.client(held) as client:
                answer = await client.request(
                    endpoint.method, fill(endpoint.path), content=b"x" if endpoint.body else b""
                )
            where = (endpoint.method, endpoint.path, held)
            if held is None:
                assert answer.status_code == 401, where
                assert answer.headers["www-authenticate"].startswith("Bearer"), where
            elif endpoint.scope != "any" and scopes.index(held) < scopes.index(endpoint.scope):
                assert answer.status_code == 403, where
            else:
                assert answer.status_code not in (401, 403, 500), where


async def test_without_a_key_nobody_learns_whether_a_project_exists(gate: Gate) -> None:
    await gate.plane.deployed()
    async with gate.client(None) as client:
        there = (await client.get("/api/v1/projects/digits")).json()["error"]
        absent = (await client.get("/api/v1/projects/nope")).json()["error"]
    assert {**there, "request_id": ""} == {**absent, "request_id": ""}


async def test_metrics_are_open_on_loopback_and_need_a_key_elsewhere(gate: Gate) -> None:
    async with gate.client(None) as client:
        answer = await client.get("/metrics")
        assert (answer.text, answer.headers["content-type"]) == (
            "clip_up 1\nclip_down 0\n",
            "text/plain; version=0.0.4; charset=utf-8",
        )
    closed = Access(gate.plane.keyring, open_invoke=False)
    async with gate.client(None, access=closed) as client:
        assert (await client.get("/metrics")).status_code == 401
    async with gate.client("invoke", access=closed) as client:
        assert (await client.get("/metrics")).status_code == 200


# Probes


async def test_readiness_follows_the_platforms_life(gate: Gate) -> None:
    async with gate.client(None) as client:
        assert (await client.get("/healthz")).json() == {"ok": True}
        assert (await client.get("/readyz")).json() == {"ready": True, "state": "ready", "degraded": []}
        gate.services.lifecycle.drain()
        gate.services.lifecycle.ready()
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["state"]) == (503, "draining")
        assert (await client.get("/healthz")).status_code == 200


async def test_a_lost_store_is_named_by_readiness_which_stays_positive(gate: Gate) -> None:
    gate.plane.store.outage = "connection to secret-host refused"
    await gate.plane.registry.watch.poll()
    async with gate.client(None) as client:
        answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (200, True)
    assert "store" in answer.json()["degraded"][0]
    assert "secret-host" not in answer.text


# The description


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [ref for value in node.values() for ref in references(value)]
    if isinstance(node, list):
        return [ref for value in node for ref in references(value)]
    return []


async def described(gate: Gate) -> dict[str, Any]:
    async with gate.client(None) as client:
        found: dict[str, Any] = (await client.get("/openapi.json")).json()
        return found


async def test_the_description_has_every_route_and_only_those(gate: Gate) -> None:
    document = await described(gate)
    assert document["openapi"] == "3.1.0"
    assert {"title", "version"} <= set(document["info"])
    app = build_app(gate.services)
    routed = {(route.path, m) for route in app.routes if isinstance(route, Route) for m in route.methods or ()}
    documented = {
        (path, method.upper())
        for path, item in document["paths"].items()
        for method in item
        if not path.startswith(("/fn/", "/{app}/"))
    }
    # GET answers HEAD as well, by HTTP's own rules.
    assert {(p, m) for p, m in routed if m != "HEAD"} == {(p, m) for p, m in documented if m != "HEAD"}
    assert {"/fn/{project}/{function}", "/{app}/predict", "/{app}/update"} <= set(document["paths"])


async def test_the_description_is_sound(gate: Gate) -> None:
    document = await described(gate)
    schemas = document["components"]["schemas"]
    for ref in references(document):
        assert ref.removeprefix("#/components/schemas/") in schemas, ref
    ids = [op["operationId"] for item in document["paths"].values() for op in item.values()]
    assert len(ids) == len(set(ids))
    for path, item in document["paths"].items():
        for method, operation in item.items():
            named = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path)), (method, path)
            assert operation["summary"]
            assert operation["responses"]
            for status, response in operation["responses"].items():
                assert re.fullmatch(r"[1-5]\d\d|default", status)
                assert response["description"]


def test_the_contract_and_the_table_name_the_same_calls(tmp_path: Path) -> None:
    written = {
        (method, "/api/v1" + path.partition("?")[0])
        for method, path in re.findall(r"^\| `(GET|HEAD|PUT|POST|DELETE) /api/v1(/[^` ]*)`", DOCS.read_text(), re.M)
    }
    services: Any = None
    assert {(e.method, e.path) for e in control_endpoints(services)} == written


async def test_a_deployed_projects_status_fits_its_description(gate: Gate) -> None:
    await gate.plane.deployed()
    document = await described(gate)
    async with gate.client() as client:
        status = (await client.get("/api/v1/projects/digits")).json()
    schema = document["components"]["schemas"]
    assert set(status) == set(schema["ProjectStatus"]["required"])
    assert set(status["functions"][0]) == set(schema["FunctionInfo"]["required"])
    assert set(manifest()) <= set(schema["DeployRequest"]["properties"])
