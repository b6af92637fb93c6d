"""The control API's rows about applications."""

from __future__ import annotations

from typing import Any

from tests.unit.gateway.gate import Gate

SPEC = {"input_type": "doubles", "default_output": "none"}


async def asked(gate: Gate, method: str, path: str, *, status: int = 200, **options: Any) -> dict[str, Any]:
    async with gate.client(options.pop("scope", "deploy")) as client:
        answer = await client.request(method, "/api/v1/apps" + path, **options)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_an_application_is_created_shown_replaced_and_deleted(gate: Gate) -> None:
    created = await asked(gate, "POST", "", json={"name": "sums", **SPEC}, status=201)
    assert created["url"] == "http://127.0.0.1:8700/sums/predict"
    assert (created["policy"], created["latency_slo_s"], created["links"]) == ("single", 0.1, [])
    assert await asked(gate, "GET", "/sums") == created
    assert [one["name"] for one in (await asked(gate, "GET", ""))["applications"]] == ["sums"]
    await asked(gate, "POST", "", json={"name": "sums", **SPEC}, status=409)

    assert not (await asked(gate, "PUT", "/sums", json=SPEC))["changed"]
    replaced = await asked(gate, "PUT", "/sums", json={**SPEC, "policy": "exp3", "seed": 3})
    assert replaced["changed"]
    assert (replaced["application"]["policy"], replaced["application"]["seed"]) == ("exp3", 3)

    assert await asked(gate, "DELETE", "/sums") == {"deleted": "sums"}
    await asked(gate, "GET", "/sums", status=404)
    await asked(gate, "DELETE", "/sums", status=404)


async def test_a_function_is_linked_and_unlinked(gate: Gate) -> None:
    await gate.plane.deployed()
    await asked(gate, "PUT", "/sums", json=SPEC)
    answer = await asked(gate, "PUT", "/sums/links/digits/classify", json={})
    assert answer["changed"]
    (link,) = answer["application"]["links"]
    assert (link["id"], link["function"], link["version"]) == ("digits/classify", "digits/classify", None)
    assert not (await asked(gate, "PUT", "/sums/links/digits/classify", json={}))["changed"]
    pinned = await asked(gate, "PUT", "/sums/links/digits/classify?version=1", json={})
    assert [one["id"] for one in pinned["application"]["links"]] == ["digits/classify", "digits/classify@1"]
    left = await asked(gate, "DELETE", "/sums/links/digits/classify")
    assert [one["id"] for one in left["links"]] == ["digits/classify@1"]
    await asked(gate, "DELETE", "/sums/links/digits/classify", status=404)
    await asked(gate, "PUT", "/sums/links/digits/nobody", json={}, status=404)
    await asked(gate, "PUT", "/sums/links/digits/classify?version=9", json={}, status=404)
    await asked(gate, "PUT", "/nobody/links/digits/classify", json={}, status=404)


async def test_refusals_are_typed_and_name_the_key(gate: Gate) -> None:
    await gate.plane.deployed()
    for body, key in (
        ({**SPEC}, "name"),
        ({"name": "a,b", **SPEC}, "name"),
        ({"name": "a:b", **SPEC}, "name"),
        ({"name": "fn", **SPEC}, "name"),
        ({"name": "a", **SPEC, "latency": 3}, "latency"),
        ({"name": "a", **SPEC, "links": [{"function": "digits/classify", "weight": -1}]}, "weight"),
    ):
        error = (await asked(gate, "POST", "", json=body, status=400))["error"]
        assert (error["code"], error["key"]) == ("invalid_spec", key)
    error = (await asked(gate, "POST", "", json={"name": "digits", **SPEC}, status=409))["error"]
    assert error["code"] == "conflict"
    await asked(gate, "PUT", "/sums", json={"name": "other", **SPEC}, status=400)
    await asked(gate, "POST", "", json={"name": "a", **SPEC}, scope="invoke", status=403)
    await asked(gate, "POST", "", json=[1], status=400)
