"""The control API's rows on autoscaling."""

from __future__ import annotations

from typing import Any

import pytest

from clipper_platform.core.scaling import Sample
from clipper_platform.types import FunctionId
from tests.unit.gateway.gate import Gate

PATH = "/api/v1/projects/digits/functions/classify"
ID = FunctionId("digits", "classify", 1)


async def asked(gate: Gate, method: str, path: str, *, status: int = 200, **options: Any) -> dict[str, Any]:
    async with gate.client(options.pop("scope", "deploy")) as client:
        answer = await client.request(method, PATH + path, **options)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture(autouse=True)
async def deployed(gate: Gate) -> None:
    await gate.plane.deployed(min_replicas=1)


async def test_a_policy_is_shown_applied_and_withdrawn(gate: Gate) -> None:
    shown = await asked(gate, "GET", "/policy")
    assert (shown["source"], shown["policy"]["min_replicas"], shown["applied_at"]) == ("deployed", 1, None)
    body = {"policy": {"min_replicas": 2, "max_replicas": 9}, "digest": "sha256:abc"}
    applied = await asked(gate, "PUT", "/policy", json=body)
    assert (applied["source"], applied["digest"], applied["applied_at"]) == ("applied", "sha256:abc", 1000.0)
    assert applied["policy"]["max_replicas"] == 9
    assert applied["deployed"]["max_replicas"] == 8
    assert (await asked(gate, "GET", "/policy"))["policy"]["min_replicas"] == 2
    assert (await asked(gate, "DELETE", "/policy"))["policy"]["min_replicas"] == 1
    await asked(gate, "DELETE", "/policy", status=404)


async def test_a_bad_policy_is_a_400_that_names_the_key(gate: Gate) -> None:
    refused = await asked(gate, "PUT", "/policy", json={"policy": {"min_replica": 2}}, status=400)
    assert refused["error"]["code"] == "invalid_spec"
    assert refused["error"]["key"] == "min_replica"
    assert "min_replicas" in refused["error"]["message"]
    await asked(gate, "PUT", "/policy", json={"policy": {}, "nonsense": 1}, status=400)
    await asked(gate, "PUT", "/policy", json={"policy": {}}, scope="invoke", status=403)


async def test_decisions_are_told_with_what_would_change_them(gate: Gate) -> None:
    autoscaler, plane = gate.services.autoscaler, gate.plane
    await asked(gate, "GET", "/decisions", status=404)
    spec = plane.registry.current("digits").function("classify")  # type: ignore[union-attr]
    assert spec is not None
    plane.serving.samples[ID] = Sample(0, 0, 1, 1, failed=True)
    autoscaler.appeared(ID, spec)
    told = await asked(gate, "GET", "/decisions")
    assert told["latest"] is None
    assert "do not start" in told["no_data"]
    plane.serving.samples[ID] = Sample(10, 2, 1, 1)
    plane.clock.now += 10
    autoscaler.tick()
    told = await asked(gate, "GET", "/decisions")
    assert (told["function"], told["version"], told["source"]) == ("digits/classify", 1, "deployed")
    assert (told["latest"]["rule"], told["latest"]["wanted"], told["latest"]["before"]) == ("queue_depth", 3, 1)
    assert told["latest"]["inputs"]["queued"] == 10
    assert told["latest"]["change"]
    assert told["latest"]["at"] == plane.clock.now
    assert [(c["before"], c["wanted"]) for c in told["changes"]] == [(1, 3)]


async def test_an_unknown_function_is_a_404(gate: Gate) -> None:
    async with gate.client("deploy") as client:
        for method, path in (("GET", "policy"), ("PUT", "policy"), ("DELETE", "policy"), ("GET", "decisions")):
            address = f"/api/v1/projects/digits/functions/nobody/{path}"
            answer = await client.request(method, address, json={"policy": {}} if method == "PUT" else None)
            assert answer.status_code == 404
