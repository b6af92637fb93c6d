"""The applications of `fake_platform`: enough state for a command's effect to be seen by the next one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from clipper.contract.applications import ApplicationSpec, LinkSpec
from clipper.contract.constants import API_ROOT
from clipper.contract.media_types import NDJSON

STARTED = 1_750_000_000.0
NO_FEEDBACK = {"joined": 0, "duplicate": 0, "unknown": 0, "invalid": 0}
UNKNOWN = {
    "asked": 0, "answered": 0, "given": 0, "feedbacks": 0, "loss": None, "recent_loss": None, "agreement": None,
}  # fmt: skip


@dataclass
class FakeApplications:
    """`known`: the functions that may be linked. `refusal` makes the error of a status, code and message."""

    refusal: Callable[[int, str, str], Exception]
    known: set[str] = field(default_factory=lambda: {"digits/svm", "digits/forest", "digits/analyze"})
    specs: dict[str, ApplicationSpec] = field(default_factory=dict)
    more: dict[str, dict[str, Any]] = field(default_factory=dict)  # fields of a status besides the spec's, by name
    explanation: dict[str, Any] = field(default_factory=dict)
    pairs: list[dict[str, Any]] = field(default_factory=list)
    prediction: dict[str, Any] = field(default_factory=dict)
    labelled: set[Any] = field(default_factory=set)  # queries that got feedback
    hidden: bool = False  # the key may query applications and not look at them
    url: str = ""

    def add(self, name: str, *links: str, **keys: Any) -> None:
        table = {"input_type": "doubles", "default_output": -1, "links": list(links), **keys}
        self.specs[name] = ApplicationSpec.parse(name, table)

    def info(self, name: str) -> dict[str, Any]:
        spec = self.specs[name]
        links = [
            {**link, "id": one.id, "state": "ready", "answers": one.version or 1, **UNKNOWN}
            for one, link in zip(spec.links, spec.to_dict()["links"], strict=True)
        ]
        counts = {"predictions": 0, "defaults": 0, "feedback": NO_FEEDBACK, "contexts": 0, "notice": ""}
        stored = {"url": f"{self.url}/{name}/predict", "created_at": STARTED, "updated_at": STARTED}
        return spec.to_dict() | {"links": links} | stored | counts | self.more.get(name, {})

    def summary(self, name: str) -> dict[str, Any]:
        info = self.info(name)
        keys = ("name", "url", "input_type", "policy", "latency_slo_s", "updated_at")
        return {key: info[key] for key in keys} | {"links": [link["id"] for link in info["links"]]}

    def _named(self, request: Request) -> str:
        name: str = request.path_params["name"]
        if name not in self.specs:
            raise self.refusal(404, "not_found", f"there is no application {name!r}")
        return name

    def _put(self, spec: ApplicationSpec) -> bool:
        for link in spec.links:
            if link.function not in self.known:
                raise self.refusal(404, "not_found", f"there is no function {link.function!r}")
        changed = self.specs.get(spec.name) != spec
        self.specs[spec.name] = spec
        return changed

    async def all(self, request: Request) -> Response:
        if request.method == "GET":
            return JSONResponse({"applications": [self.summary(name) for name in self.specs]})
        table = await request.json()
        spec = ApplicationSpec.parse(table.pop("name"), table)
        if spec.name in self.specs:
            raise self.refusal(409, "conflict", f"application {spec.name!r} exists already")
        self._put(spec)
        return JSONResponse(self.info(spec.name), 201)

    async def one(self, request: Request) -> Response:
        if request.method == "PUT":
            table = {key: value for key, value in (await request.json()).items() if key != "name"}
            changed = self._put(ApplicationSpec.parse(request.path_params["name"], table))
            return self._change(request.path_params["name"], changed)
        if self.hidden:
            raise self.refusal(403, "forbidden", "this key may not do that: it needs the scope deploy")
        name = self._named(request)
        if request.method == "DELETE":
            del self.specs[name]
            return JSONResponse({"deleted": name})
        return JSONResponse(self.info(name))

    def _change(self, name: str, changed: bool) -> Response:
        return JSONResponse({"changed": changed, "application": self.info(name)})

    async def link(self, request: Request) -> Response:
        name, path = self._named(request), request.path_params
        version = request.query_params.get("version")
        address = f"{path['project']}/{path['function']}" + (f"@{version}" if version else "")
        others = [link for link in self.specs[name].links if link.id != address]
        if request.method == "DELETE":
            if len(others) == len(self.specs[name].links):
                raise self.refusal(404, "not_found", f"{address!r} is not linked to application {name!r}")
            links = others
        else:
            links = [*others, LinkSpec.parse({"function": address, **(await request.json())})]
        table = self.specs[name].to_dict() | {"links": [link.id for link in links]}
        table.pop("name")
        self._put(ApplicationSpec.parse(name, table))
        return JSONResponse(self.info(name)) if request.method == "DELETE" else self._change(name, True)

    async def explain(self, request: Request) -> Response:
        known = {"known": True, "notice": "", "context": request.query_params.get("context", "")}
        return JSONResponse({"name": self._named(request), **known, **self.explanation})

    async def feedback(self, request: Request) -> Response:
        self._named(request)
        since = float(request.query_params.get("since", 0))

        async def lines() -> AsyncIterator[bytes]:
            for pair in self.pairs:
                if pair["time"] >= since:
                    yield json.dumps(pair).encode() + b"\n"

        return StreamingResponse(lines(), media_type=NDJSON)

    async def predict(self, request: Request) -> Response:
        self._named(request)
        return JSONResponse(self.prediction)

    async def update(self, request: Request) -> Response:
        self._named(request)
        query_id = (await request.json())["query_id"]
        duplicate = query_id in self.labelled
        self.labelled.add(query_id)
        return JSONResponse({"query_id": query_id, "accepted": True, "duplicate": duplicate})

    def routes(self) -> list[Route]:
        app = f"{API_ROOT}/apps/{{name}}"
        return [
            Route(f"{API_ROOT}/apps", self.all, methods=["GET", "POST"]),
            Route(app, self.one, methods=["GET", "PUT", "DELETE"]),
            Route(f"{app}/links/{{project}}/{{function}}", self.link, methods=["PUT", "DELETE"]),
            Route(f"{app}/explain", self.explain),
            Route(f"{app}/feedback", self.feedback),
            Route("/{name}/predict", self.predict, methods=["POST"]),
            Route("/{name}/update", self.update, methods=["POST"]),
        ]
