"""The control API over a real server and a real bundle store: every row of `infra/docs/control-api.md`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from clipper.contract.wire import LogRecord
from clipper_platform.errors import DeployFailed
from clipper_platform.gateway.app import build_app
from clipper_platform.gateway.control_api import logs as log_routes
from clipper_platform.store.artifacts import ArtifactStore
from clipper_platform.types import FunctionId
from tests.support.bundles import digest_of, packed
from tests.support.waiting import until
from tests.unit.control.doubles import FakeClock, manifest, replica_failure
from tests.unit.gateway.gate import Gate, make_gate

F = FunctionId("digits", "classify", 1)


class _Server(uvicorn.Server):
    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """Run in this loop; the port."""
        serving = asyncio.create_task(self.serve())
        try:
            await until(lambda: self.started or serving.done())
            yield self.servers[0].sockets[0].getsockname()[1]
        finally:
            self.should_exit = True
            await serving


@dataclass
class World:
    gate: Gate
    server: _Server
    url: str
    bundle: bytes
    digest: str

    def client(self, scope: str | None = "deploy") -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {self.gate.keys[scope]}"} if scope else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=10, trust_env=False)

    def manifest(self, **options: Any) -> dict[str, Any]:
        return manifest(bundle=self.digest, **options)

    async def upload(self) -> None:
        async with self.client() as client:
            await client.put(f"/api/v1/bundles/{self.digest}", content=self.bundle)

    async def deploy(self, **options: Any) -> dict[str, Any]:
        """Upload, deploy, follow to the end; the deployment."""
        await self.upload()
        async with self.client() as client:
            body = self.manifest(**options)
            answer = await client.post(f"/api/v1/projects/{body['project']}/deployments", json=body)
            assert answer.status_code == 202, answer.text
            events = lines(await client.get(f"/api/v1/deployments/{answer.json()['id']}/events"))
        assert events[-1]["kind"] == "done"
        deployment: dict[str, Any] = events[-1]["data"]["deployment"]
        return deployment


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    artifacts = ArtifactStore(tmp_path / "bundles", 10_000, clock=FakeClock())
    await artifacts.open()
    gate = await make_gate(tmp_path, artifacts=artifacts)
    config = uvicorn.Config(
        build_app(gate.services),
        host="127.0.0.1",
        port=0,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    server = _Server(config)
    bundle = packed({"app.py": b"def classify(): ..."})
    async with server.listening() as port:
        yield World(gate, server, f"http://127.0.0.1:{port}", bundle, digest_of(bundle))
        gate.services.lifecycle.drain()
    await gate.close()
    await artifacts.close()


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(row) for row in answer.text.splitlines() if row]


def error(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    assert found["request_id"] == answer.headers["x-request-id"]
    return found


async def test_info_tells_what_the_platform_is_and_who_asks(world: World) -> None:
    async with world.client("invoke") as client:
        answer = await client.get("/api/v1/info")
    found = answer.json()
    assert found["url"] == world.url
    assert (found["backend"], found["store"], found["pythons"]) == ("process", "memory://", ["3.11.7"])
    assert found["limits"] == {"max_body_bytes": 1000, "max_bundle_bytes": 10_000}
    assert (found["key"]["name"], found["key"]["scopes"]) == ("invoke", ["invoke"])
    assert "server" not in answer.headers


# Bundles


async def test_a_bundle_is_uploaded_once(world: World) -> None:
    path = f"/api/v1/bundles/{world.digest}"
    async with world.client() as client:
        assert (await client.head(path)).status_code == 404
        first = await client.put(path, content=world.bundle)
        assert (first.status_code, first.json()) == (201, {"digest": world.digest, "bytes": len(world.bundle)})
        assert (await client.head(path)).status_code == 200
        assert (await client.put(path, content=world.bundle)).status_code == 200


async def test_a_bundle_that_is_not_what_its_name_says_is_refused(world: World) -> None:
    async with world.client() as client:
        wrong = await client.put(f"/api/v1/bundles/{world.digest}", content=world.bundle + b"x")
        assert (wrong.status_code, error(wrong)["code"]) == (400, "invalid_spec")
        nonsense = await client.put("/api/v1/bundles/nonsense", content=b"x")
        assert (nonsense.status_code, error(nonsense)["code"]) == (400, "invalid_request")
        assert (await client.head(f"/api/v1/bundles/{world.digest}")).status_code == 404


@pytest.mark.parametrize("path", ["../evil.py", "/etc/evil"])
async def test_a_bundle_that_reaches_outside_is_refused(world: World, path: str) -> None:
    bundle = packed({path: b"x"})
    async with world.client() as client:
        answer = await client.put(f"/api/v1/bundles/{digest_of(bundle)}", content=bundle)
    assert (answer.status_code, error(answer)["code"]) == (400, "invalid_spec")


async def test_a_bundle_over_the_limit_is_refused_announced_or_not(world: World) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 1000

    async with world.client() as client:
        announced = await client.put(f"/api/v1/bundles/{world.digest}", content=b"x" * 20_000)
        assert (announced.status_code, error(announced)["code"]) == (413, "payload_too_large")
        chunked = await client.put(f"/api/v1/bundles/{world.digest}", content=pieces())
        assert (chunked.status_code, error(chunked)["code"]) == (413, "payload_too_large")


# Deployments


async def test_a_deploy_from_upload_to_url(world: World) -> None:
    deployment = await world.deploy()
    assert (deployment["state"], deployment["version"], deployment["previous"], deployment["error"]) == (
        "succeeded",
        1,
        None,
        None,
    )
    assert deployment["functions"] == [
        {"name": "classify", "url": f"{world.url}/fn/digits/classify", "schema": {"title": "classify"}}
    ]
    async with world.client() as client:
        assert (await client.get(f"/api/v1/deployments/{deployment['id']}")).json() == deployment
    tree = await world.gate.plane.artifacts.unpack(world.gate.plane.serving.running[F].bundle)
    assert (tree / "app.py").read_bytes() == b"def classify(): ..."


async def test_the_same_again_is_unchanged_at_once_and_force_deploys(world: World) -> None:
    await world.deploy()
    async with world.client() as client:
        again = await client.post("/api/v1/projects/digits/deployments", json=world.manifest())
        assert (again.status_code, again.json()["state"]) == (202, "unchanged")
        forced = await client.post("/api/v1/projects/digits/deployments", json={**world.manifest(), "force": True})
        assert forced.json()["state"] == "running"
        await client.get(f"/api/v1/deployments/{forced.json()['id']}/events")
        assert (await client.get(f"/api/v1/deployments/{forced.json()['id']}")).json()["version"] == 2


async def test_events_are_live_and_can_be_resumed(world: World) -> None:
    await world.upload()
    world.gate.plane.gates.hold("start classify")
    world.gate.plane.environments.lines = ["Resolved 3 packages"]
    async with world.client() as client:
        deployment = (await client.post("/api/v1/projects/digits/deployments", json=world.manifest())).json()
        path = f"/api/v1/deployments/{deployment['id']}/events"
        seen: list[dict[str, Any]] = []
        async with client.stream("GET", path) as stream:
            async for row in stream.aiter_lines():
                seen.append(json.loads(row))
                if seen[-1].get("phase") == "replicas":
                    world.gate.plane.gates.open("start classify")
        assert [e["seq"] for e in seen] == list(range(1, len(seen) + 1))
        assert seen[0].keys() == {"seq", "at", "kind", "message", "phase"}
        assert "Resolved 3 packages" in [e["message"] for e in seen if e["kind"] == "log"]
        assert lines(await client.get(path, params={"after": 3})) == seen[3:]


async def test_a_deploy_goes_on_when_its_reader_goes_away(world: World) -> None:
    await world.upload()
    world.gate.plane.gates.hold("build")
    async with world.client() as client:
        deployment = (await client.post("/api/v1/projects/digits/deployments", json=world.manifest())).json()
        async with client.stream("GET", f"/api/v1/deployments/{deployment['id']}/events") as stream:
            await anext(stream.aiter_lines())
    world.gate.plane.gates.open("build")
    await until(lambda: world.gate.plane.serving.routes == {"digits": 1})


async def test_a_failed_deploy_tells_phase_exception_log_and_hint(world: World) -> None:
    world.gate.plane.serving.broken["classify"] = replica_failure()
    deployment = await world.deploy()
    assert deployment["state"] == "failed"
    assert deployment["error"] == {
        "code": "deploy_failed",
        "message": "classify did not start (setup): ValueError: no model",
        "phase": "setup",
        "exception": "ValueError: no model",
        "log": ["loading", "Traceback…"],
        "hint": "look at __init__",
    }


async def test_a_deploy_can_be_cancelled(world: World) -> None:
    await world.upload()
    world.gate.plane.gates.hold("build")
    async with world.client() as client:
        deployment = (await client.post("/api/v1/projects/digits/deployments", json=world.manifest())).json()
        await world.gate.plane.gates.reached("build")
        cancelled = await client.delete(f"/api/v1/deployments/{deployment['id']}")
        assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
        busy_no_more = await client.post("/api/v1/projects/digits/deployments", json=world.manifest())
        assert busy_no_more.status_code == 202
        await client.delete(f"/api/v1/deployments/{busy_no_more.json()['id']}")


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "invalid_request"),
        (b"[]", "application/json", 400, "invalid_request"),
        (b'{"a": NaN}', "application/json", 400, "invalid_request"),
        (b"\xff", "application/json", 400, "invalid_request"),
        (b"[" * 100_000, "application/json", 400, "invalid_request"),
        (b'{"functions":' * 50_000, "application/json", 400, "invalid_request"),
        (b"{}", "application/json", 400, "invalid_spec"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b" " * 1_100_000, "application/json", 413, "payload_too_large"),
    ],
)
async def test_bodies_that_do_not_fit_are_refused_with_a_reason(
    world: World, content: bytes, content_type: str, status: int, code: str
) -> None:
    async with world.client() as client:
        answer = await client.post(
            "/api/v1/projects/digits/deployments", content=content, headers={"content-type": content_type}
        )
        assert (answer.status_code, error(answer)["code"]) == (status, code)
        assert (await client.get("/healthz")).status_code == 200


async def test_a_body_whose_length_is_not_announced_is_bounded_too(world: World) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    async with world.client() as client:
        answer = await client.post(
            "/api/v1/projects/digits/deployments", content=pieces(), headers={"content-type": "application/json"}
        )
    assert (answer.status_code, error(answer)["code"]) == (413, "payload_too_large")


async def test_a_typo_in_the_manifest_gets_the_nearest_right_name(world: World) -> None:
    await world.upload()
    body = world.manifest()
    body["functions"][0]["max_batchsize"] = 8
    async with world.client() as client:
        answer = await client.post("/api/v1/projects/digits/deployments", json=body)
    problem = error(answer)
    assert (answer.status_code, problem["code"], problem["key"]) == (400, "invalid_spec", "max_batchsize")
    assert "did you mean 'max_batch_size'" in problem["message"]


async def test_a_deploy_without_its_bundle_or_beside_another_is_a_conflict(world: World) -> None:
    async with world.client() as client:
        missing = await client.post("/api/v1/projects/digits/deployments", json=world.manifest())
        assert (missing.status_code, error(missing)["bundle"]) == (409, world.digest)
        await world.upload()
        world.gate.plane.gates.hold("build")
        await client.post("/api/v1/projects/digits/deployments", json=world.manifest())
        second = await client.post("/api/v1/projects/digits/deployments", json=world.manifest())
        assert (second.status_code, error(second)["code"]) == (409, "conflict")


# Projects


async def test_projects_status_versions_and_config(world: World) -> None:
    await world.deploy()
    await world.deploy(latency_slo_s=1.0)
    assert await world.gate.plane.events.flush()
    async with world.client() as client:
        (project,) = (await client.get("/api/v1/projects")).json()["projects"]
        assert (project["name"], project["version"], project["previous"]) == ("digits", 2, 1)
        assert project["functions"] == [
            {
                "name": "classify",
                "url": f"{world.url}/fn/digits/classify",
                "state": "ready",
                "replicas_ready": 1,
                "replicas_wanted": 1,
            }
        ]
        status = (await client.get("/api/v1/projects/digits")).json()
        (function,) = status["functions"]
        assert (function["state"], function["spec"]["latency_slo_s"]) == ("ready", 1.0)
        assert function["replicas"][0]["pid"] == 4711
        assert function["latency"] == {"p50_s": 0.001, "p99_s": 0.002}
        assert [e["kind"] for e in status["events"]] == ["deploy", "deploy"]
        versions = (await client.get("/api/v1/projects/digits/versions")).json()["versions"]
        assert [(v["number"], v["current"], v["state"]) for v in versions] == [(2, True, "ready"), (1, False, "ready")]
        assert versions[0]["functions"] == ["classify"]
        config = (await client.get("/api/v1/projects/digits/config")).json()
        assert (config["version"], config["functions"][0]["latency_slo_s"]) == (2, 1.0)
        events = (await client.get("/api/v1/projects/digits/events", params={"after": 1, "limit": 1})).json()
        assert [e["seq"] for e in events["events"]] == [2]


async def test_rollback_and_delete(world: World) -> None:
    await world.deploy()
    await world.deploy(latency_slo_s=1.0)
    async with world.client() as client:
        back = await client.post("/api/v1/projects/digits/rollback", json={})
        assert back.json() == {
            "project": "digits",
            "version": 1,
            "previous": 2,
            "functions": [{"name": "classify", "url": f"{world.url}/fn/digits/classify"}],
        }
        assert (await client.post("/api/v1/projects/digits/rollback", json={"version": 2})).json()["version"] == 2
        assert (await client.post("/api/v1/projects/digits/rollback", json={"version": 9})).status_code == 404
        assert (await client.post("/api/v1/projects/digits/rollback", json={"version": 2})).status_code == 409
        assert (await client.post("/api/v1/projects/digits/rollback", json={"verson": 2})).status_code == 400
        assert (await client.delete("/api/v1/projects/digits")).json() == {"deleted": "digits"}
        assert (await client.get("/api/v1/projects/digits")).status_code == 404


async def test_a_rollback_that_fails_brings_the_replicas_log(world: World) -> None:
    await world.deploy()
    await world.deploy(latency_slo_s=1.0)
    world.gate.plane.serving.broken["classify"] = DeployFailed("no", phase="setup", log=["why"], hint="look")
    async with world.client() as client:
        answer = await client.post("/api/v1/projects/digits/rollback")
    assert (answer.status_code, error(answer)["log"], error(answer)["hint"]) == (422, ["why"], "look")


async def test_a_project_that_the_data_plane_does_not_know_yet_is_starting_or_tells_its_trouble(world: World) -> None:
    await world.deploy()
    world.gate.plane.serving.running.clear()
    async with world.client() as client:
        (function,) = (await client.get("/api/v1/projects/digits")).json()["functions"]
    assert (function["state"], function["replicas"]) == ("starting", [])
    assert function["reason"]


# Logs


def say(world: World, *messages: str) -> None:
    records = [
        LogRecord(ts=float(i), stream="stdout", level="info", request_id="r1", message=message)
        for i, message in enumerate(messages)
    ]
    world.gate.plane.logs.append(F, "replica-1", records)


async def test_logs_are_lines_with_all_that_is_known(world: World) -> None:
    await world.deploy()
    say(world, "zero", "one", "two")
    async with world.client() as client:
        path = "/api/v1/projects/digits/functions/classify/logs"
        found = lines(await client.get(path))
        assert [line["message"] for line in found] == ["zero", "one", "two"]
        assert found[0] == {
            "ts": 0.0,
            "stream": "stdout",
            "level": "info",
            "message": "zero",
            "request_id": "r1",
            "logger": "",
            "version": 1,
            "replica": "replica-1",
        }
        assert [line["message"] for line in lines(await client.get(path, params={"tail": 1}))] == ["two"]
        assert [line["message"] for line in lines(await client.get(path, params={"since": 1}))] == ["one", "two"]
        assert lines(await client.get(path, params={"tail": 0})) == []


async def test_followed_logs_are_live_beat_and_free_their_place(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_routes, "HEARTBEAT_S", 0.01)
    await world.deploy()
    say(world, "old")
    stream_of = world.gate.plane.logs._stream("digits", "classify")
    async with world.client() as client:
        path = "/api/v1/projects/digits/functions/classify/logs"
        async with client.stream("GET", path, params={"follow": 1}) as stream:
            rows = stream.aiter_lines()
            assert json.loads(await anext(rows))["message"] == "old"
            assert await anext(rows) == ""
            say(world, "new")
            messages = [json.loads(row)["message"] async for row in first_of(rows)]
            assert messages == ["new"]
            assert len(stream_of.readers) == 1
    await until(lambda: not stream_of.readers)


async def first_of(rows: AsyncIterator[str]) -> AsyncIterator[str]:
    """The next row that is no heartbeat."""
    async for row in rows:
        if row:
            yield row
            return


async def test_open_streams_end_when_the_platform_drains(world: World) -> None:
    await world.deploy()
    async with world.client() as client:
        path = "/api/v1/projects/digits/functions/classify/logs"
        async with client.stream("GET", path, params={"follow": 1}) as stream:
            world.gate.services.lifecycle.drain()
            async with asyncio.timeout(5):
                assert [row async for row in stream.aiter_lines()] == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("digits/functions/other/logs", 404),
        ("nope/functions/classify/logs", 404),
        ("digits/functions/%2e%2e/logs", 404),
        ("digits/functions/..%2f..%2fx/logs", 404),
        ("digits/functions/classify/logs?tail=-1", 400),
        ("digits/functions/classify/logs?tail=many", 400),
        ("digits/functions/classify/logs?since=nan", 400),
        ("digits/functions/classify/logs?follow=maybe", 400),
        ("digits/events?after=1e9", 400),
        ("digits/events?limit=99999999999999999999", 400),
    ],
)
async def test_bad_addresses_and_parameters_are_refused_by_name(world: World, path: str, status: int) -> None:
    await world.deploy()
    async with world.client() as client:
        answer = await client.get(f"/api/v1/projects/{path}")
    assert answer.status_code == status, answer.text
    if status == 400:
        assert error(answer)["key"] in path


# Keys and secrets


async def test_a_key_from_its_making_to_its_end(world: World) -> None:
    async with world.client("admin") as client:
        created = await client.post("/api/v1/keys", json={"name": "ci", "scopes": ["invoke"]})
        assert created.status_code == 201
        key = created.json()
        assert key["key"].startswith("clip_")
        listed = (await client.get("/api/v1/keys")).json()["keys"]
        assert key["id"] in [k["id"] for k in listed]
        assert all(set(k) == {"id", "name", "scopes", "created_at", "revoked_at"} for k in listed)
        mine = {"authorization": f"Bearer {key['key']}"}
        assert (await client.get("/api/v1/info", headers=mine)).json()["key"]["name"] == "ci"
        assert (await client.get("/api/v1/projects", headers=mine)).status_code == 403
        revoked = await client.delete(f"/api/v1/keys/{key['id']}")
        assert revoked.json()["revoked_at"] is not None
        assert (await client.get("/api/v1/info", headers=mine)).status_code == 401
        for body in ({"name": "x"}, {"name": "x", "scopes": ["root"]}, {"name": 1, "scopes": []}, {"nam": "x"}):
            assert (await client.post("/api/v1/keys", json=body)).status_code == 400


async def test_secrets_are_set_listed_by_name_and_deleted_but_never_shown(world: World) -> None:
    path = "/api/v1/projects/digits/secrets"
    async with world.client() as client:
        assert (await client.get(path)).status_code == 404
        assert (await client.put(f"{path}/TOKEN", json={"value": "s3cret"})).json() == {"name": "TOKEN"}
        listed = await client.get(path)
        assert listed.json() == {"secrets": ["TOKEN"]}
        assert "s3cret" not in listed.text
        await world.deploy()
        assert await world.gate.plane.secrets.read("digits") == {"TOKEN": "s3cret"}  # what each launch asks
        assert (await client.delete(f"{path}/TOKEN")).json() == {"deleted": "TOKEN"}
        assert (await client.delete(f"{path}/TOKEN")).status_code == 404
        assert (await client.put(f"{path}/LD_PRELOAD", json={"value": "x"})).status_code == 400
        assert (await client.put(f"{path}/TOKEN", json={"value": 1})).status_code == 400
        assert (await client.put("/api/v1/projects/a%20b/secrets/TOKEN", json={"value": "x"})).status_code == 400


# Without the store


async def test_without_the_store_reads_of_memory_answer_and_changes_are_503(world: World) -> None:
    await world.deploy()
    world.gate.plane.store.outage = "connection refused"
    await world.gate.plane.registry.watch.poll()
    async with world.client("admin") as client:
        status = await client.get("/api/v1/projects/digits")
        assert (status.status_code, status.json()["events"]) == (200, [])
        assert "store" in status.json()["degraded"]
        assert (await client.get("/readyz")).status_code == 200
        refused = [
            await client.post("/api/v1/projects/digits/deployments", json={**world.manifest(), "force": True}),
            await client.post("/api/v1/projects/digits/rollback", json={}),
            await client.delete("/api/v1/projects/digits"),
            await client.get("/api/v1/projects/digits/versions"),
            await client.post("/api/v1/keys", json={"name": "x", "scopes": ["invoke"]}),
            await client.put("/api/v1/projects/digits/secrets/A", json={"value": "x"}),
        ]
    for answer in refused:
        assert (answer.status_code, error(answer)["code"]) == (503, "store_unavailable"), answer.request.url
        assert "retry-after" in answer.headers
    assert world.gate.plane.serving.routes == {"digits": 1}
