"""A small platform over real HTTP, with canned answers: the rows of `infra/docs/control-api.md` and `/fn`.

It keeps just enough state (projects, keys, secrets, bundles) for a command's effect to be seen by the next command. A
test sets its answers through attributes, and reads the requests that it got from `requests`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from clipper.contract.constants import API_ROOT
from clipper.contract.media_types import EVENT_STREAM, JSON, MSGPACK, NDJSON
from clipper.contract.version import VERSION
from tests.support.fake_apps import FakeApplications

KEY = "clip_test_key"
REQUEST_ID = "req-0123456789"
STARTED = 1_750_000_000.0

ANALYZE_SCHEMA: dict[str, Any] = {
    "parameters": {
        "type": "object",
        "properties": {"text": {"type": "string"}, "limit": {"type": "integer", "default": 3}},
        "required": ["text"],
        "additionalProperties": False,
    },
    "returns": {"type": "object"},
    "content_types": [JSON, MSGPACK],
    "streaming": False,
}


class Refusal(Exception):
    def __init__(self, status: int, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"error": {"code": code, "message": message, "request_id": REQUEST_ID} | details}


def project_status(url: str, name: str, version: int = 1, previous: int | None = None) -> dict[str, Any]:
    """The answer of `GET /projects/{project}` for a project with one function, `analyze`."""
    function = {
        "name": "analyze",
        "url": f"{url}/fn/{name}/analyze",
        "version": version,
        "state": "ready",
        "reason": "",
        "spec": {"name": "analyze", "entrypoint": "app:analyze"},
        "queue_depth": 2,
        "running": 1,
        "replicas": [
            {
                "id": "r-1",
                "state": "ready",
                "pid": 4711,
                "version": version,
                "started_at": STARTED,
                "invocations": 1234,
                "restarts": 0,
                "memory_bytes": 52_428_800,
                "in_flight": 1,
            }
        ],
        "latency": {"p50_s": 0.0042, "p99_s": 0.0191},
        "rate_per_s": 12.5,
        "cache": {"hits": 3, "misses": 1, "bytes": 100},
    }
    event = {"seq": 1, "at": STARTED, "kind": "deployed", "message": f"version {version} answers"}
    return {
        "name": name,
        "url": f"{url}/fn/{name}",
        "version": version,
        "previous": previous,
        "updated_at": STARTED,
        "functions": [function],
        "events": [event],
    }


NOTHING_STORED = {"count": 0, "bytes": 0, "unused_count": 0, "unused_bytes": 0}


@dataclass
class FakePlatform:
    """`deploy_events`: the events of a deployment between start and end. `deploy_error`: the error that it ends with.
    `deploy_gate`: after its events a deployment waits until this is set or it is cancelled."""

    url: str = ""
    projects: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: list[dict[str, Any]] = field(default_factory=list)
    followed: list[dict[str, Any]] = field(default_factory=list)
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    bundles: dict[str, bytes] = field(default_factory=dict)
    deployments: dict[str, dict[str, Any]] = field(default_factory=dict)
    deploy_events: list[dict[str, Any]] = field(default_factory=list)
    deploy_error: dict[str, Any] | None = None
    deploy_gate: threading.Event | None = None
    schema: dict[str, Any] = field(default_factory=lambda: dict(ANALYZE_SCHEMA))
    answer: Response | Refusal | None = None
    stream_items: list[Any] = field(default_factory=list)
    storage: dict[str, dict[str, int]] = field(
        default_factory=lambda: {kind: dict(NOTHING_STORED) for kind in ("versions", "bundles", "environments", "logs")}
    )  # {}: the key lacks the scope
    version: str = VERSION
    metrics: list[str] = field(default_factory=lambda: [""])
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)  # answers to the next deploys, before one is accepted
    apps: FakeApplications = field(default_factory=lambda: FakeApplications(Refusal))
    declared_apps: list[str] = field(default_factory=list)  # by the file of the version that answers

    def add_project(self, name: str, version: int = 1, previous: int | None = None) -> dict[str, Any]:
        self.projects[name] = project_status(self.url, name, version, previous)
        return self.projects[name]

    def body_of(self, method: str, path: str) -> Any:
        """The JSON body of the newest request to `path`."""
        bodies = [body for m, p, _, body in self.requests if (m, p) == (method, path)]
        return json.loads(bodies[-1])

    def project(self, request: Request) -> dict[str, Any]:
        name = request.path_params["project"]
        if name not in self.projects:
            raise Refusal(404, "not_found", f"there is no project {name!r}")
        return self.projects[name]

    # Platform, bundles, deployments

    async def info(self, request: Request) -> Response:
        return JSONResponse(
            {
                "version": self.version,
                "url": self.url,
                "backend": "process",
                "store": "sqlite",
                "home": "/nowhere",
                "started_at": STARTED,
                "pythons": ["3.11.7"],
                "limits": {"max_body_bytes": 1 << 26, "max_bundle_bytes": 1 << 28},
                "key": {"id": "k1", "name": "test", "scopes": ["admin"]},
            }
        )

    async def bundle(self, request: Request) -> Response:
        digest = request.path_params["digest"]
        if request.method == "HEAD":
            return Response(status_code=200 if digest in self.bundles else 404)
        known = digest in self.bundles
        self.bundles[digest] = await request.body()
        return JSONResponse({"digest": digest, "bytes": len(self.bundles[digest])}, 200 if known else 201)

    async def deploy(self, request: Request) -> Response:
        if self.refusals:
            raise self.refusals.pop(0)
        manifest = await request.json()
        name = manifest["project"]
        current = self.projects.get(name)
        deployment = {
            "id": f"d{len(self.deployments) + 1}",
            "project": name,
            "state": "running",
            "version": None,
            "previous": current["version"] if current else None,
            "functions": [],
            "error": None,
        }
        same = current is not None and current.get("bundle") == manifest["bundle"] and not manifest.get("force")
        self.deployments[deployment["id"]] = deployment | {"bundle": manifest["bundle"]}
        if same:
            self._finish(deployment["id"], "unchanged")
        return JSONResponse(self._public(deployment["id"]), 202)

    def _public(self, deployment_id: str) -> dict[str, Any]:
        return {k: v for k, v in self.deployments[deployment_id].items() if k != "bundle"}

    def _finish(self, deployment_id: str, state: str) -> None:
        deployment = self.deployments[deployment_id]
        deployment["state"] = state
        name = deployment["project"]
        if state == "succeeded":
            before = self.projects.get(name, {}).get("version")
            self.add_project(name, (before or 0) + 1, before)["bundle"] = deployment["bundle"]
        if state in ("succeeded", "unchanged"):
            deployment["version"] = self.projects[name]["version"]
            deployment["functions"] = [
                {"name": "analyze", "url": f"{self.url}/fn/{name}/analyze", "schema": self.schema}
            ]
        elif state == "failed":
            deployment["error"] = self.deploy_error

    async def deployment(self, request: Request) -> Response:
        deployment_id = request.path_params["id"]
        if request.method == "DELETE" and self.deployments[deployment_id]["state"] == "running":
            self._finish(deployment_id, "cancelled")
        return JSONResponse(self._public(deployment_id))

    async def deployment_events(self, request: Request) -> Response:
        deployment_id = request.path_params["id"]
        after = int(request.query_params.get("after", 0))

        async def lines() -> AsyncIterator[bytes]:
            events = list(self.deploy_events)
            for seq, event in enumerate(events, 1):
                if seq > after:
                    yield json.dumps({"seq": seq, "at": time.time()} | event).encode() + b"\n"
            while self.deploy_gate is not None and not self.deploy_gate.is_set():
                if self.deployments[deployment_id]["state"] != "running":
                    break
                await asyncio.sleep(0.01)
            if self.deployments[deployment_id]["state"] == "running":
                self._finish(deployment_id, "failed" if self.deploy_error else "succeeded")
            done = {"kind": "done", "message": "", "data": {"deployment": self._public(deployment_id)}}
            yield json.dumps({"seq": len(events) + 1, "at": time.time()} | done).encode() + b"\n"

        return StreamingResponse(lines(), media_type=NDJSON)

    # Projects

    async def list_projects(self, request: Request) -> Response:
        def brief(project: dict[str, Any]) -> dict[str, Any]:
            functions = [
                {
                    "name": f["name"],
                    "url": f["url"],
                    "state": f["state"],
                    "replicas_ready": sum(r["state"] == "ready" for r in f["replicas"]),
                    "replicas_wanted": len(f["replicas"]),
                }
                for f in project["functions"]
            ]
            return {k: project[k] for k in ("name", "version", "previous", "updated_at")} | {"functions": functions}

        return JSONResponse({"projects": [brief(p) for p in self.projects.values()]})

    async def one_project(self, request: Request) -> Response:
        project = self.project(request)
        if request.method == "DELETE":
            del self.projects[project["name"]]
            return JSONResponse({"deleted": project["name"]})
        return JSONResponse(project)

    async def versions(self, request: Request) -> Response:
        project = self.project(request)
        found = [
            {
                "number": number,
                "created_at": STARTED + number,
                "state": "failed" if number == 2 else "ready",
                "detail": "setup raised ValueError: no model" if number == 2 else "",
                "current": number == project["version"],
                "bundle": "sha256:" + f"{number:x}" * 64,
                "environment": "sha256:" + "e" * 64,
                "functions": ["analyze"],
            }
            for number in range(project["version"], 0, -1)
        ]
        return JSONResponse({"versions": found})

    async def config(self, request: Request) -> Response:
        return JSONResponse({"version": self.project(request)["version"], "apps": self.declared_apps})

    async def rollback(self, request: Request) -> Response:
        project = self.project(request)
        wanted = (await request.json()).get("version") or project["previous"]
        if wanted is None:
            raise Refusal(409, "conflict", "there is no version to return to")
        if wanted > project["version"]:
            raise Refusal(404, "not_found", f"there is no version {wanted}")
        project["version"], project["previous"] = wanted, project["version"]
        functions = [{"name": f["name"], "url": f["url"]} for f in project["functions"]]
        answer = {"project": project["name"], "version": wanted, "previous": project["previous"]}
        return JSONResponse(answer | {"functions": functions})

    async def restart(self, request: Request) -> Response:
        project, wanted = self.project(request), (await request.json())["function"]
        functions = [f for f in project["functions"] if wanted in (None, f["name"])]
        if not functions:
            raise Refusal(404, "not_found", f"project {project['name']!r} has no function {wanted!r}")
        return JSONResponse({"project": project["name"], "version": project["version"], "functions": functions})

    async def function_logs(self, request: Request) -> Response:
        project, name = self.project(request), request.path_params["function"]
        if name not in [f["name"] for f in project["functions"]]:
            raise Refusal(404, "not_found", f"project {project['name']!r} has no function {name!r}")
        query = request.query_params
        records = [r for r in self.logs if r["ts"] >= float(query.get("since", 0))]
        if "tail" in query:
            records = records[len(records) - min(len(records), int(query["tail"])) :]
        follow = query.get("follow") == "1"

        async def lines() -> AsyncIterator[bytes]:
            for record in records:
                yield json.dumps(record).encode() + b"\n"
            if follow:
                yield b"\n"
                for record in self.followed:
                    yield json.dumps(record).encode() + b"\n"
                await asyncio.Event().wait()  # stays open: the server cancels this when the client goes

        return StreamingResponse(lines(), media_type=NDJSON)

    # Storage

    async def stored(self, request: Request) -> Response:
        if not self.storage:
            raise Refusal(403, "forbidden", "this key may not do that: it needs the scope admin")
        return JSONResponse(self.storage)

    async def clean(self, request: Request) -> Response:
        removed = {}
        for kind, of in self.storage.items():
            removed[kind] = {"count": of["unused_count"], "bytes": of["unused_bytes"]}
            left = {"count": of["count"] - of["unused_count"], "bytes": of["bytes"] - of["unused_bytes"]}
            self.storage[kind] = NOTHING_STORED | left
        return JSONResponse(removed)

    # Keys and secrets

    async def key_collection(self, request: Request) -> Response:
        if request.method == "GET":
            return JSONResponse({"keys": list(self.keys.values())})
        wanted = await request.json()
        key = {"id": f"k{len(self.keys) + 2}", "created_at": STARTED} | wanted
        self.keys[key["id"]] = key | {"revoked_at": None}
        return JSONResponse(key | {"key": "clip_shown_once"}, 201)

    async def one_key(self, request: Request) -> Response:
        key = self.keys.get(request.path_params["id"])
        if key is None:
            raise Refusal(404, "not_found", "there is no such key")
        key["revoked_at"] = STARTED + 1
        return JSONResponse(key)

    async def secret_collection(self, request: Request) -> Response:
        name = self.project(request)["name"]
        return JSONResponse({"secrets": sorted(self.secrets.get(name, {}))})

    async def one_secret(self, request: Request) -> Response:
        project, name = self.project(request)["name"], request.path_params["name"]
        held = self.secrets.setdefault(project, {})
        if request.method == "PUT":
            held[name] = (await request.json())["value"]
            return JSONResponse({"name": name})
        if held.pop(name, None) is None:
            raise Refusal(404, "not_found", f"there is no secret {name!r}")
        return JSONResponse({"deleted": name})

    # Metrics

    async def scrape(self, request: Request) -> Response:
        """The texts of `metrics` in order, then the last one each time."""
        return Response(self.metrics.pop(0) if len(self.metrics) > 1 else self.metrics[0], media_type="text/plain")

    # Functions

    def _function(self, request: Request) -> None:
        project, name = self.project(request), request.path_params["function"].partition("@")[0]
        if name not in [f["name"] for f in project["functions"]]:
            raise Refusal(404, "not_found", f"project {project['name']!r} has no function {name!r}")

    async def function_schema(self, request: Request) -> Response:
        self._function(request)
        return JSONResponse(self.schema)

    async def invoke(self, request: Request) -> Response:
        self._function(request)
        if isinstance(self.answer, Refusal):
            raise self.answer
        if self.answer is not None:
            return self.answer
        headers = {"X-Request-Id": REQUEST_ID, "X-Clip-Version": "1"}
        if self.stream_items:
            events = "".join(f"data: {json.dumps(item)}\n\n" for item in self.stream_items)
            return Response(f"{events}event: end\ndata: {{}}\n\n", media_type=EVENT_STREAM, headers=headers)
        body = await request.body()
        if request.headers.get("content-type") == JSON:
            return JSONResponse({"echo": json.loads(body)}, headers=headers)
        return JSONResponse({"bytes": len(body)}, headers=headers)

    def app(self) -> Starlette:
        api, project = API_ROOT, f"{API_ROOT}/projects/{{project}}"
        routes = [
            Route(f"{api}/info", self.info),
            Route(f"{api}/bundles/{{digest}}", self.bundle, methods=["HEAD", "PUT"]),
            Route(f"{project}/deployments", self.deploy, methods=["POST"]),
            Route(f"{api}/deployments/{{id}}", self.deployment, methods=["GET", "DELETE"]),
            Route(f"{api}/deployments/{{id}}/events", self.deployment_events),
            Route(f"{api}/projects", self.list_projects),
            Route(project, self.one_project, methods=["GET", "DELETE"]),
            Route(f"{project}/versions", self.versions),
            Route(f"{project}/config", self.config),
            Route(f"{project}/rollback", self.rollback, methods=["POST"]),
            Route(f"{project}/restart", self.restart, methods=["POST"]),
            Route(f"{project}/functions/{{function}}/logs", self.function_logs),
            Route(f"{api}/storage", self.stored),
            Route(f"{api}/storage/clean", self.clean, methods=["POST"]),
            Route(f"{api}/keys", self.key_collection, methods=["GET", "POST"]),
            Route(f"{api}/keys/{{id}}", self.one_key, methods=["DELETE"]),
            Route(f"{project}/secrets", self.secret_collection),
            Route(f"{project}/secrets/{{name}}", self.one_secret, methods=["PUT", "DELETE"]),
            Route("/metrics", self.scrape),
            Route("/fn/{project}/{function}/schema", self.function_schema),
            Route("/fn/{project}/{function}", self.invoke, methods=["POST"]),
            *self.apps.routes(),
        ]
        return Starlette(routes=routes, exception_handlers={Refusal: self._refuse})

    async def _refuse(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return JSONResponse(error.body, error.status, headers={"X-Request-Id": REQUEST_ID})


class _Recorder:
    """Records each request and checks the key where the platform does."""

    def __init__(self, platform: FakePlatform) -> None:
        self.platform = platform
        self.app = platform.app()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        body, more, message = b"", True, {}
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.platform.requests.append((scope["method"], scope["path"], headers, body))
        given = False

        async def again() -> Any:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        if scope["path"].startswith("/api/") and headers.get("authorization") != f"Bearer {KEY}":
            refusal = Refusal(401, "unauthenticated", "this key is not known")
            await JSONResponse(refusal.body, refusal.status)(scope, receive, send)
            return
        await self.app(scope, again, send)


@contextmanager
def fake_platform() -> Iterator[FakePlatform]:
    """A running fake platform on a free loopback port."""
    platform = FakePlatform()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    platform.apps.url = platform.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(
        uvicorn.Config(_Recorder(platform), log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the fake platform did not start")
            time.sleep(0.005)
        yield platform
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()


def client_environment(platform: FakePlatform) -> dict[str, str]:
    """The environment in which `clip` and the SDK find this platform."""
    return {"CLIP_URL": platform.url, "CLIP_API_KEY": KEY, "CLIP_HOME": "/nonexistent/clip-home"}
