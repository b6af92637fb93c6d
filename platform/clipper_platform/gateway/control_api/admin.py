"""The control API, `/api/v1`: thin handlers over the control plane. `infra/docs/control-api.md` is its contract."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Final

import msgspec
from starlette.responses import Response

from clipper.contract.constants import API_ROOT, DEFAULT_LOG_LINES
from clipper.contract.media_types import GZIP, JSON, NDJSON
from clipper.contract.spec import SpecError, check_name
from clipper_platform.control.log_store import MAX_TAIL, LogReader
from clipper_platform.control.versions.deployment import Deployment
from clipper_platform.errors import InvalidRequest, NotFound, PayloadTooLarge
from clipper_platform.gateway.control_api import schemas as models
from clipper_platform.gateway.control_api import views
from clipper_platform.gateway.control_api.endpoints import Call, Endpoint, Query, Raw
from clipper_platform.gateway.control_api.keys import KeyRoutes
from clipper_platform.gateway.control_api.policies import PolicyRoutes
from clipper_platform.gateway.control_api.streams import HEARTBEAT_S, LineStream
from clipper_platform.gateway.control_api.views import Views
from clipper_platform.gateway.services import Services

__all__ = ["Admin"]

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")
_MAX_EVENTS: Final = 1000
_SLICE: Final = 100  # projects that are looked at before others have a turn: about 2 ms

_encode = msgspec.json.Encoder().encode


class Admin:
    """The handlers and their table."""

    def __init__(self, services: Services) -> None:
        self._s = services

    def endpoints(self) -> list[Endpoint]:
        scaling = PolicyRoutes(self._s).endpoints()
        return [*self._platform(), *self._deploying(), *self._projects(), *scaling, *KeyRoutes(self._s).endpoints()]

    # Platform and bundles

    def _platform(self) -> list[Endpoint]:
        return [
            Endpoint(
                method="GET",
                path=f"{API_ROOT}/info",
                handler=self.info,
                summary="What this platform is and who is asking",
                scope="any",
                gives=models.Info,
            ),
            Endpoint(
                method="HEAD",
                path=f"{API_ROOT}/bundles/{{digest}}",
                handler=self.has_bundle,
                summary="Whether the platform has a bundle",
            ),
            Endpoint(
                method="PUT",
                path=f"{API_ROOT}/bundles/{{digest}}",
                handler=self.put_bundle,
                summary="Upload a bundle: a gzip-compressed tar of regular files",
                body_type=GZIP,
                gives=models.BundleStored,
                status=201,
                also={200: "It was there already"},
            ),
        ]

    async def info(self, call: Call) -> models.Info:
        s, key = self._s, call.asking
        return models.Info(
            version=s.version,
            url=call.base_url,
            backend=s.backend,
            store=s.registry.store.url,
            home=s.home,
            started_at=s.started_at,
            pythons=list(await asyncio.to_thread(s.pythons)),
            limits=models.Limits(max_body_bytes=s.max_body_bytes, max_bundle_bytes=s.max_bundle_bytes),
            key=models.OwnKey(id=key.id, name=key.name, scopes=list(key.scopes)),
        )

    async def has_bundle(self, call: Call) -> Response:
        digest = _digest(call)
        if not self._s.artifacts.has(digest):
            raise NotFound(f"there is no bundle {digest}")
        return Response(status_code=200)

    async def put_bundle(self, call: Call) -> Response:
        digest = _digest(call)
        limit = self._s.max_bundle_bytes
        announced = call.request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            raise PayloadTooLarge(
                f"the bundle is over the limit of {limit} bytes: leave out what the function does not need with a "
                ".clipignore"
            )
        existed = self._s.artifacts.has(digest)
        stored = await self._s.artifacts.put(digest, call.request.stream())
        body = _encode(models.BundleStored(digest=digest, bytes=stored.bytes))
        return Response(body, 200 if existed else 201, media_type=JSON)

    # Deployments

    def _deploying(self) -> list[Endpoint]:
        return [
            Endpoint(
                method="POST",
                path=f"{API_ROOT}/projects/{{project}}/deployments",
                handler=self.deploy,
                summary="Deploy; it goes on by itself, its events tell how",
                takes=Raw,
                documents=models.DeployRequest,
                gives=models.DeploymentInfo,
                status=202,
            ),
            Endpoint(
                method="GET",
                path=f"{API_ROOT}/deployments/{{id}}",
                handler=self.deployment,
                summary="A deployment",
                gives=models.DeploymentInfo,
            ),
            Endpoint(
                method="DELETE",
                path=f"{API_ROOT}/deployments/{{id}}",
                handler=self.cancel,
                summary="Cancel a deploy; nothing changes for callers",
                gives=models.DeploymentInfo,
            ),
            Endpoint(
                method="GET",
                path=f"{API_ROOT}/deployments/{{id}}/events",
                handler=self.deploy_events,
                summary="Every event of a deployment, live until the last",
                media_type=NDJSON,
                query=(Query("after", "integer", "only events with a greater seq", 0),),
                streams=True,
            ),
        ]

    async def deploy(self, call: Call) -> models.DeploymentInfo:
        deployment = self._s.deployer.submit(call.params["project"], call.body)
        return self._views(call).deployment(deployment)

    async def deployment(self, call: Call) -> models.DeploymentInfo:
        return self._views(call).deployment(self._s.deployer.get(call.params["id"]))

    async def cancel(self, call: Call) -> models.DeploymentInfo:
        return self._views(call).deployment(await self._s.deployer.cancel(call.params["id"]))

    async def deploy_events(self, call: Call) -> Response:
        deployment = self._s.deployer.get(call.params["id"])
        source = _deploy_lines(self._views(call), deployment, call.query["after"])
        return LineStream(source, self._s.lifecycle)

    # Projects, versions, logs

    def _projects(self) -> list[Endpoint]:
        project = f"{API_ROOT}/projects/{{project}}"
        return [
            Endpoint(
                method="GET",
                path=f"{API_ROOT}/projects",
                handler=self.projects,
                summary="All projects",
                gives=models.ProjectList,
            ),
            Endpoint(
                method="GET",
                path=project,
                handler=self.project,
                summary="A project's functions, replicas and newest events",
                gives=models.ProjectStatus,
            ),
            Endpoint(
                method="DELETE",
                path=project,
                handler=self.delete,
                summary="Drain and delete a project",
                gives=models.DeletedProject,
            ),
            Endpoint(
                method="GET",
                path=f"{project}/versions",
                handler=self.versions,
                summary="A project's versions",
                gives=models.VersionList,
            ),
            Endpoint(
                method="POST",
                path=f"{project}/rollback",
                handler=self.rollback,
                summary="Let an earlier version answer again",
                takes=models.RollbackRequest,
                gives=models.RolledBack,
            ),
            Endpoint(
                method="POST",
                path=f"{project}/restart",
                handler=self.restart,
                summary="Replace the replicas of a project or of one function; one that gave up tries again",
                takes=models.RestartRequest,
                gives=models.Restarted,
            ),
            Endpoint(
                method="GET",
                path=f"{project}/events",
                handler=self.events,
                summary="What happened to a project",
                gives=models.EventList,
                query=(
                    Query("after", "integer", "only events with a greater seq; 0: the newest ones", 0),
                    Query("limit", "integer", f"at most so many, up to {_MAX_EVENTS}", 100),
                ),
            ),
            Endpoint(
                method="GET",
                path=f"{project}/config",
                handler=self.config,
                summary="The effective options of the version that answers",
                gives=models.Config,
            ),
            Endpoint(
                method="GET",
                path=f"{project}/functions/{{function}}/logs",
                handler=self.logs,
                summary="A function's log, oldest line first",
                media_type=NDJSON,
                query=(
                    Query("tail", "integer", f"the newest so many lines, up to {MAX_TAIL}"),
                    Query("since", "number", "only lines from this time on, in Unix seconds"),
                    Query("follow", "boolean", "stay open and send new lines; an empty line is a heartbeat", False),
                ),
                streams=True,
            ),
        ]

    async def projects(self, call: Call) -> models.ProjectList:
        shown, registry = self._views(call), self._s.registry
        summaries = []
        for looked, project in enumerate(registry.projects(), 1):
            if registry.has(project.name):  # else it was deleted in one of the pauses
                summaries.append(shown.summary(project.name))
            if looked % _SLICE == 0:
                await asyncio.sleep(0)
        return models.ProjectList(projects=summaries)

    async def project(self, call: Call) -> models.ProjectStatus:
        return await self._views(call).status(call.params["project"])

    async def delete(self, call: Call) -> models.DeletedProject:
        await self._s.deployer.delete(call.params["project"])
        return models.DeletedProject(deleted=call.params["project"])

    async def versions(self, call: Call) -> models.VersionList:
        project = call.params["project"]
        found = await self._s.registry.versions(project)
        current = self._s.registry.current(project)
        number = current.route.version if current else None
        return models.VersionList(versions=[views.version(record, number) for record in found])

    async def rollback(self, call: Call) -> models.RolledBack:
        project = call.params["project"]
        current = await self._s.deployer.rollback(project, call.body.version)
        shown = self._views(call)
        return models.RolledBack(
            project=project,
            version=current.route.version,
            previous=current.route.previous,
            functions=[
                models.FunctionLink(name=spec.name, url=shown.url(project, spec.name))
                for spec in current.manifest.functions
            ],
        )

    async def restart(self, call: Call) -> models.Restarted:
        project, function = call.params["project"], call.body.function
        current = await self._s.deployer.restart(project, function)
        shown = self._views(call)
        return models.Restarted(
            project=project,
            version=current.route.version,
            functions=[
                shown.function(current, spec)
                for spec in current.manifest.functions
                if function is None or spec.name == function
            ],
        )

    async def events(self, call: Call) -> models.EventList:
        limit = min(call.query["limit"], _MAX_EVENTS)
        found = await self._s.registry.events(call.params["project"], after=call.query["after"], limit=limit)
        return models.EventList(events=[views.event(record) for record in found])

    async def config(self, call: Call) -> models.Config:
        project = call.params["project"]
        self._s.registry.project(project)
        current = self._s.registry.current(project)
        if current is None:
            raise NotFound(f"no version of {project!r} was deployed successfully yet")
        return models.Config(
            version=current.route.version,
            environment=current.manifest.environment.to_dict(),
            functions=[spec.to_dict() for spec in current.manifest.functions],
        )

    async def logs(self, call: Call) -> Response:
        project, function = call.params["project"], call.params["function"]
        self._s.registry.project(project)
        current = self._s.registry.current(project)
        deployed = current is not None and current.function(function) is not None
        if not deployed and not (_is_name(function) and self._s.logs.known(project, function)):
            raise NotFound(f"project {project!r} has no function {function!r}")
        tail, since = call.query["tail"], call.query["since"]
        if tail is None:
            tail = DEFAULT_LOG_LINES if since is None else MAX_TAIL
        reader = await self._s.logs.open(project, function, tail=tail, since=since)
        if call.query["follow"]:
            return LineStream(_log_lines(reader), self._s.lifecycle, on_close=reader.close)
        reader.close()
        lines = await reader.next() or []
        body = b"".join(_encode(line) + b"\n" for line in lines)
        return Response(body, media_type=NDJSON)

    def _views(self, call: Call) -> Views:
        return Views(self._s, call.base_url)


def _digest(call: Call) -> str:
    digest = call.params["digest"]
    if not _DIGEST.match(digest):
        raise InvalidRequest('a bundle is named by its digest: "sha256:" and 64 hexadecimal digits', key="digest")
    return digest


def _is_name(text: str) -> bool:
    try:
        check_name(text, "function")
    except SpecError:
        return False
    return True


async def _deploy_lines(shown: Views, deployment: Deployment, after: int) -> AsyncGenerator[bytes, None]:
    while True:
        batch = await deployment.next_events(after, HEARTBEAT_S)
        if not batch and not deployment.running:
            return
        for event in batch:
            yield _encode(shown.deploy_event(deployment, event)) + b"\n"
            after = event.seq
        if not batch:
            yield b"\n"


async def _log_lines(reader: LogReader) -> AsyncGenerator[bytes, None]:
    while (lines := await reader.next(HEARTBEAT_S)) is not None:
        yield b"".join(_encode(line) + b"\n" for line in lines) or b"\n"
