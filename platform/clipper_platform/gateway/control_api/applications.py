"""The control API's routes about applications."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from clipper.contract.applications import LinkSpec
from clipper.contract.constants import API_ROOT
from clipper.contract.rules import SpecError
from clipper_platform.applications.catalog import Declared, parsed
from clipper_platform.errors import InvalidRequest, InvalidSpec
from clipper_platform.gateway.control_api.endpoints import ApiRequest, Endpoint, Query, Raw
from clipper_platform.gateway.control_api.schemas.applications import (
    ApplicationChange,
    ApplicationInfo,
    ApplicationList,
    ApplicationRequest,
    ApplicationSummary,
    DeletedApplication,
    LinkInfo,
    LinkRequest,
)
from clipper_platform.gateway.services import Services

__all__ = ["ApplicationRoutes"]

_VERSION: Final = Query("version", "integer", "the version that the link pins; without it, the current one")


class ApplicationRoutes:
    def __init__(self, services: Services) -> None:
        self._s = services

    def endpoints(self) -> list[Endpoint]:
        every = f"{API_ROOT}/apps"
        one = f"{every}/{{name}}"
        link = f"{one}/links/{{project}}/{{function}}"
        return [
            Endpoint("GET", every, self.list, "All applications", response=ApplicationList),
            Endpoint(
                "POST",
                every,
                self.create,
                "Create an application",
                body=Raw,
                body_schema=ApplicationRequest,
                response=ApplicationInfo,
                status=201,
            ),
            Endpoint("GET", one, self.get, "An application and its links", response=ApplicationInfo),
            Endpoint(
                "PUT",
                one,
                self.put,
                "Create or replace an application; one that is equal stays as it is",
                body=Raw,
                body_schema=ApplicationRequest,
                response=ApplicationChange,
            ),
            Endpoint("DELETE", one, self.delete, "Delete what it is and learnt", response=DeletedApplication),
            Endpoint(
                "PUT",
                link,
                self.link,
                "Link a function, or change its link",
                body=LinkRequest,
                query=(_VERSION,),
                response=ApplicationChange,
            ),
            Endpoint("DELETE", link, self.unlink, "Remove a link", query=(_VERSION,), response=ApplicationInfo),
        ]

    async def list(self, request: ApiRequest) -> ApplicationList:
        catalog = self._s.applications.catalog
        return ApplicationList(
            applications=[_summary(request, catalog.get(name)) for name in catalog.names()],
        )

    async def get(self, request: ApiRequest) -> ApplicationInfo:
        return self._info(request, self._s.applications.catalog.get(request.params["name"]))

    async def create(self, request: ApiRequest) -> Any:
        table = dict(request.body)
        if "name" not in table:
            raise InvalidSpec("name is missing", key="name")
        name = table.pop("name")
        return self._info(request, await self._s.applications.catalog.create(parsed(name, table)))

    async def put(self, request: ApiRequest) -> ApplicationChange:
        name, table = request.params["name"], dict(request.body)
        if table.pop("name", name) != name:
            raise InvalidRequest(f"the body names another application than the address, which names {name!r}")
        declared, changed = await self._s.applications.catalog.put(parsed(name, table))
        return ApplicationChange(changed=changed, application=self._info(request, declared))

    async def delete(self, request: ApiRequest) -> DeletedApplication:
        await self._s.applications.catalog.delete(request.params["name"])
        return DeletedApplication(deleted=request.params["name"])

    async def link(self, request: ApiRequest) -> ApplicationChange:
        link = _link(request, {"parameter": request.body.parameter, "weight": request.body.weight})
        declared, changed = await self._s.applications.catalog.link(request.params["name"], link)
        return ApplicationChange(changed=changed, application=self._info(request, declared))

    async def unlink(self, request: ApiRequest) -> ApplicationInfo:
        declared = await self._s.applications.catalog.unlink(request.params["name"], _link(request, {}).id)
        return self._info(request, declared)

    def _info(self, request: ApiRequest, declared: Declared) -> ApplicationInfo:
        spec, record = declared.spec, declared.record
        links = []
        for link in spec.links:
            answers, state = self._s.applications.link_state(link)
            table = {name: getattr(link, name) for name in LinkSpec.__struct_fields__}
            links.append(LinkInfo(id=link.id, state=state, answers=answers, **table))
        table = {name: getattr(spec, name) for name in spec.__struct_fields__ if name != "links"}
        return ApplicationInfo(
            url=f"{request.base_url}/{spec.name}/predict",
            links=links,
            created_at=record.created_at,
            updated_at=record.updated_at,
            **table,
        )


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
