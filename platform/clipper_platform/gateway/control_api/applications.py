"""The control API's routes about applications."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

import msgspec
from starlette.responses import Response

from clipper.contract.applications import LinkSpec
from clipper.contract.constants import API_ROOT
from clipper.contract.media_types import NDJSON
from clipper.contract.rules import SpecError
from clipper_platform.applications.catalog import Declared, parsed
from clipper_platform.applications.explaining import explain
from clipper_platform.errors import InvalidRequest, InvalidSpec
from clipper_platform.gateway.control_api.endpoints import ApiRequest, Endpoint, Query, Raw
from clipper_platform.gateway.control_api.schemas.applications import (
    ApplicationChange,
    ApplicationExplanation,
    ApplicationInfo,
    ApplicationList,
    ApplicationRequest,
    ApplicationSummary,
    DeletedApplication,
    FeedbackCounts,
    LinkInfo,
    LinkRequest,
    ModelOutlook,
)
from clipper_platform.gateway.control_api.streams import LineStream
from clipper_platform.gateway.services import Services
from clipper_platform.store.applications import Pair

__all__ = ["ApplicationRoutes"]

_EVERY: Final = f"{API_ROOT}/apps"
_ONE: Final = f"{_EVERY}/{{name}}"


class ApplicationRoutes:
    def __init__(self, services: Services) -> None:
        self._s = services

    def endpoints(self) -> list[Endpoint]:
        return [*self._application_endpoints(), *self._link_endpoints(), *self._learning_endpoints()]

    def _application_endpoints(self) -> Iterable[Endpoint]:
        table: dict[str, Any] = {"body": Raw, "body_schema": ApplicationRequest}
        put = "Create or replace an application; one that is equal stays as it is"
        delete = "Delete an application with all that it learnt"
        yield Endpoint("GET", _EVERY, self.list, "All applications", response=ApplicationList)
        yield Endpoint(
            "POST", _EVERY, self.create, "Create an application", response=ApplicationInfo, status=201, **table
        )
        yield Endpoint("GET", _ONE, self.get, "An application, its links and how they do", response=ApplicationInfo)
        yield Endpoint("PUT", _ONE, self.put, put, response=ApplicationChange, **table)
        yield Endpoint("DELETE", _ONE, self.delete, delete, response=DeletedApplication)

    def _link_endpoints(self) -> Iterable[Endpoint]:
        link = f"{_ONE}/links/{{project}}/{{function}}"
        query = (Query("version", "integer", "the version that the link pins; without it, the current one"),)
        put = "Link a function, or change its link"
        yield Endpoint("PUT", link, self.link, put, body=LinkRequest, query=query, response=ApplicationChange)
        yield Endpoint("DELETE", link, self.unlink, "Remove a link", query=query, response=ApplicationInfo)

    def _learning_endpoints(self) -> Iterable[Endpoint]:
        yield Endpoint(
            "GET",
            f"{_ONE}/explain",
            self.explain,
            "What the selection policy would choose now, and why",
            query=(Query("context", "string", "of a user or session; without it, of those that name none", ""),),
            response=ApplicationExplanation,
        )
        yield Endpoint(
            "GET",
            f"{_ONE}/feedback",
            self.feedback,
            "Predictions joined with their labels, oldest first",
            media_type=NDJSON,
            query=(Query("since", "number", "only those joined from this time on, in Unix seconds", 0.0),),
            streams=True,
        )

    async def list(self, request: ApiRequest) -> ApplicationList:
        catalog = self._s.applications.catalog
        return ApplicationList(
            applications=[_summary(request, catalog.get(name)) for name in catalog.names()],
        )

    async def get(self, request: ApiRequest) -> ApplicationInfo:
        return await self._info(request, self._s.applications.catalog.get(request.params["name"]))

    async def create(self, request: ApiRequest) -> ApplicationInfo:
        table = dict(request.body)
        if "name" not in table:
            raise InvalidSpec("name is missing", key="name")
        name = table.pop("name")
        declared = await self._s.applications.catalog.create(parsed(name, table))
        return await self._info(request, declared)

    async def put(self, request: ApiRequest) -> ApplicationChange:
        name, table = request.params["name"], dict(request.body)
        if table.pop("name", name) != name:
            raise InvalidRequest(f"the body names another application than the address, which names {name!r}")
        declared, changed = await self._s.applications.catalog.put(parsed(name, table))
        return ApplicationChange(changed=changed, application=await self._info(request, declared))

    async def delete(self, request: ApiRequest) -> DeletedApplication:
        await self._s.applications.catalog.delete(request.params["name"])
        return DeletedApplication(deleted=request.params["name"])

    async def link(self, request: ApiRequest) -> ApplicationChange:
        link = _link(request, {"parameter": request.body.parameter, "weight": request.body.weight})
        declared, changed = await self._s.applications.catalog.link(request.params["name"], link)
        return ApplicationChange(changed=changed, application=await self._info(request, declared))

    async def unlink(self, request: ApiRequest) -> ApplicationInfo:
        declared = await self._s.applications.catalog.unlink(request.params["name"], _link(request, {}).id)
        return await self._info(request, declared)

    async def explain(self, request: ApiRequest) -> ApplicationExplanation:
        name, context = request.params["name"], request.query["context"]
        live = self._s.applications.get(name)
        explanation = await explain(live, context)
        return ApplicationExplanation(
            name=name,
            context=context,
            known=live.states.known(context) is not None,
            policy=live.spec.policy,
            choice=explanation.choice,
            models=[
                ModelOutlook(model=one.model, share=one.share, feedbacks=one.feedbacks, loss=one.loss, why=one.why)
                for one in explanation.models
            ],
            notice=live.notice(),
        )

    async def feedback(self, request: ApiRequest) -> Response:
        name = request.params["name"]
        self._s.applications.catalog.get(name)
        return LineStream(_lines(self._s.applications.pairs(name, request.query["since"])), self._s.lifecycle)

    async def _info(self, request: ApiRequest, declared: Declared) -> ApplicationInfo:
        spec, record = declared.spec, declared.record
        live = await self._s.applications.refreshed(spec.name)
        links = []
        for link in spec.links:
            answers, state = self._s.applications.link_state(link)
            table = {name: getattr(link, name) for name in LinkSpec.__struct_fields__}
            counted = asdict(live.monitor.model(link.id))
            links.append(LinkInfo(id=link.id, state=state, answers=answers, **table, **counted))
        count = live.monitor.count
        table = {name: getattr(spec, name) for name in spec.__struct_fields__ if name != "links"}
        return ApplicationInfo(
            url=f"{request.base_url}/{spec.name}/predict",
            links=links,
            created_at=record.created_at,
            updated_at=record.updated_at,
            predictions=int(count("predictions")),
            defaults=int(count("defaults")),
            feedback=FeedbackCounts(
                **{kind: int(count(f"feedback:{kind}")) for kind in FeedbackCounts.__struct_fields__}
            ),
            contexts=len(live.states),
            notice=live.notice(),
            **table,
        )


async def _lines(pairs: AsyncIterator[Pair]) -> AsyncGenerator[bytes, None]:
    """Each pair as an object with its time, a page of them at once."""
    async for pair in pairs:
        yield b'{"time":%b,%b\n' % (msgspec.json.encode(pair.at), pair.record[1:])


def _summary(request: ApiRequest, declared: Declared) -> ApplicationSummary:
    spec = declared.spec
    return ApplicationSummary(
        name=spec.name,
        url=f"{request.base_url}/{spec.name}/predict",
        input_type=spec.input_type,
        policy=spec.policy,
        latency_slo_s=spec.latency_slo_s,
        links=[link.id for link in spec.links],
        updated_at=declared.record.updated_at,
    )


def _link(request: ApiRequest, table: Mapping[str, Any]) -> LinkSpec:
    """The link in the address. Raises InvalidSpec."""
    function = f"{request.params['project']}/{request.params['function']}"
    try:
        return LinkSpec.parse({**table, "function": function, "version": request.query["version"]})
    except SpecError as error:
        raise InvalidSpec(str(error), key=error.key) from None
