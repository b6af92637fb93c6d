"""Applications over HTTP, on a socket: the same with the fast path and through Starlette."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from clipper.contract.applications import NO_MODELS, TOO_LATE
from clipper_platform.errors import Unauthenticated
from tests.support.application_world import ModelsBackend, answering, failing, parameters, taking
from tests.support.applications import spec
from tests.support.gateway import Gateway, gateway
from tests.support.serving import target

ANYTHING: dict[str, Any] = {}


async def total(arguments: dict[str, Any]) -> float:
    return float(sum(arguments["x"]))


@pytest.fixture(params=[True, False], ids=["fast", "starlette"])
async def g(request: pytest.FixtureRequest) -> AsyncIterator[Gateway]:
    """With the functions total, slow, bad and text, and the application "sums" over total."""
    backend = ModelsBackend()
    backend.models |= {"total": total, "slow": taking(60.0, 1), "bad": failing(), "text": answering("é")}
    backend.schemas["text"] = parameters(x=ANYTHING)
    async with gateway(backend, fast_path=request.param) as opened:
        for name in backend.models:
            await opened.harness.deploy(target(name, graceful_shutdown_timeout_s=0.1))
        await opened.applications.catalog.create(spec(links=["p/total"]))
        yield opened
        await opened.applications.close()


def client(g: Gateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{g.port}", timeout=10)


async def test_a_query_is_answered_with_and_without_a_slash_again_and_again(g: Gateway) -> None:
    async with client(g) as http:
        ids = set()
        for path in ("/sums/predict", "/sums/predict/") * 3:
            answer = await http.post(path, json={"input": [1, 2.5]})
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["x-request-id"]
            assert "total;dur=" in answer.headers["server-timing"]
            assert "x-clip-default" not in answer.headers
            body = answer.json()
            ids.add(body["query_id"])
            assert (body["output"], body["default"], body["models"]) == (3.5, False, ["p/total"])
        assert len(ids) == 6


async def test_the_content_type_does_not_matter(g: Gateway) -> None:
    async with client(g) as http:
        for kind in ("application/json", "application/x-www-form-urlencoded", "text/plain", ""):
            answer = await http.post("/sums/predict", content=b'{"input": [2]}', headers={"content-type": kind})
            assert answer.json()["output"] == 2.0


async def test_a_body_may_come_in_chunks_or_packed(g: Gateway) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for part in (b'{"inp', b'ut": [1', b", 2]}"):
            yield part
            await asyncio.sleep(0.01)

    async with client(g) as http:
        assert (await http.post("/sums/predict", content=parts())).json()["output"] == 3.0
        packed = gzip.compress(b'{"input": [4]}')
        answer = await http.post("/sums/predict", content=packed, headers={"content-encoding": "gzip"})
        assert answer.json()["output"] == 4.0


async def test_pipelined_queries_are_answered_in_their_order(g: Gateway) -> None:
    def request(n: int) -> bytes:
        body = b'{"input": [%d]}' % n
        return b"POST /sums/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    last = b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    data = await g.exchange(b"".join(map(request, range(8))) + last)
    outputs = [json.loads(found)["output"] for found in re.findall(rb"\{\"query_id.*?\}", data)]
    assert outputs == [float(n) for n in range(8)]


async def test_a_default_output_is_a_200_that_says_why(g: Gateway) -> None:
    await g.applications.catalog.create(spec("empty"))
    await g.applications.catalog.create(spec("late", links=["p/slow"], latency_slo_s=0.05))
    await g.applications.catalog.create(spec("broken", links=["p/bad"]))
    async with client(g) as http:
        for name, reason, explanation in (
            ("empty", "no_models", NO_MODELS),
            ("late", "deadline_exceeded", TOO_LATE),
            ("broken", "function_error", TOO_LATE),
        ):
            answer = await http.post(f"/{name}/predict", json={"input": [1]})
            assert (answer.status_code, answer.headers["x-clip-default"]) == (200, reason)
            assert (answer.json()["output"], answer.json()["default_explanation"]) == ("none", explanation)
        answer = await http.post("/late/predict", json={"input_batch": [[1], [2]]})
        assert answer.headers["x-clip-default"] == "deadline_exceeded"
        assert [one["default"] for one in answer.json()["batch_predictions"]] == [True, True]


async def test_malformed_bodies_and_unknown_versions_are_refused_in_clippers_form(g: Gateway) -> None:
    async with client(g) as http:
        for content, error in (
            (b"{", "Json error"),
            (b'{"input": "a"}', "Json error"),
            (b'{"input": [1], "version": "9"}', "Query processing error"),
        ):
            answer = await http.post("/sums/predict", content=content)
            assert answer.status_code == 400
            assert set(answer.json()) == {"error", "cause"}
            assert answer.json()["error"] == error
        assert answer.json()["cause"] == "Requested version: 9 does not exist for model: p/total"
        answer = await http.post("/sums/update", content=b'{"query_id": 1}')
        assert (answer.status_code, answer.json()["error"]) == (400, "Json error")


async def test_other_refusals_are_those_of_the_platform(g: Gateway) -> None:
    async with client(g) as http:
        for path in ("/nobody/predict", "/nobody/update", "/fn/predict", "/api/predict/"):
            answer = await http.post(path, json={"input": [1]})
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert (await http.get("/sums/predict")).status_code == 405
        assert (await http.put("/sums/update", json={})).status_code == 405
        assert (await http.post("/sums/predict", content=b"x" * (2 << 20))).status_code == 413
        late = {"x-clip-timeout-ms": "soon"}
        assert (await http.post("/sums/predict", json={"input": [1]}, headers=late)).status_code == 400
        foreign = {"host": "evil.example"}
        assert (await http.post("/sums/predict", json={"input": [1]}, headers=foreign)).status_code == 403
        page = {"origin": "http://evil.example"}
        assert (await http.post("/sums/predict", json={"input": [1]}, headers=page)).status_code == 403


async def test_the_callers_timeout_and_request_id_count(g: Gateway) -> None:
    await g.applications.catalog.create(spec("late", links=["p/slow"], latency_slo_s=60.0))
    async with client(g) as http:
        headers = {"x-clip-timeout-ms": "30", "x-request-id": "mine"}
        answer = await http.post("/late/predict", json={"input": [1]}, headers=headers)
        assert answer.headers["x-request-id"] == "mine"
        assert answer.json()["default_explanation"] == TOO_LATE


async def test_feedback_is_taken_by_id_and_by_input(g: Gateway) -> None:
    async with client(g) as http:
        query_id = (await http.post("/sums/predict", json={"input": [1]})).json()["query_id"]
        await http.post("/sums/predict", json={"input": [2]})
        for body, duplicate in (
            ({"query_id": query_id, "label": 1}, False),
            ({"query_id": query_id, "label": 1}, True),
            ({"uid": 0, "input": [2], "label": 1}, False),
        ):
            answer = await http.post("/sums/update/", json=body)
            assert (answer.status_code, answer.json()["duplicate"]) == (200, duplicate)
        answer = await http.post("/sums/update", json={"query_id": 7, "label": 1})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_a_client_that_leaves_frees_what_its_query_held(g: Gateway) -> None:
    await g.applications.catalog.create(spec("late", links=["p/slow"], latency_slo_s=60.0))
    live = g.applications.get("late")
    _, writer = await g.connect()
    body = b'{"input": [1]}'
    head = b"POST /late/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % len(body) + body)
    async with asyncio.timeout(5):
        while not len(live.deadlines):
            await asyncio.sleep(0.01)
        writer.close()
        while len(live.deadlines):
            await asyncio.sleep(0.01)
        while g.harness.dispatcher.routed["p/slow"].running:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("fast_path", [True, False])
async def test_an_application_needs_a_key_unless_it_is_public(fast_path: bool) -> None:
    def authorize(authorization: str | None, public: bool) -> None:
        if authorization != "Bearer right" and not public:
            raise Unauthenticated("a key is needed")

    backend = ModelsBackend()
    backend.models["total"] = total
    async with gateway(backend, fast_path=fast_path, authorize=authorize) as g, client(g) as http:
        await g.harness.deploy(target("total"))
        await g.applications.catalog.create(spec("closed", links=["p/total"]))
        await g.applications.catalog.create(spec("open", links=["p/total"], public=True))
        body = {"input": [1]}
        for path, key, status in (
            ("/closed/predict", "wrong", 401),
            ("/closed/predict", "right", 200),
            ("/closed/update", "wrong", 401),
            ("/open/predict", "wrong", 200),
            ("/nobody/predict", "wrong", 401),
            ("/nobody/predict", "right", 404),
        ):
            for _ in range(2):
                answer = await http.post(path, json=body, headers={"authorization": f"Bearer {key}"})
                assert answer.status_code == status, path
        await g.applications.close()
