"""The control API's routes about the platform itself and its bundles."""

from __future__ import annotations

import asyncio
import re
from dataclasses import asdict
from typing import Final

import msgspec
from starlette.responses import Response

from clipper.contract.constants import API_ROOT
from clipper.contract.media_types import GZIP, JSON
from clipper_platform.errors import InvalidRequest, NotFound, PayloadTooLarge
from clipper_platform.gateway.control_api.endpoints import ApiRequest, Endpoint
from clipper_platform.gateway.control_api.schemas.platform import BundleStored, Info, Isolation, Limits, OwnKey
from clipper_platform.gateway.services import Services

__all__ = ["PlatformRoutes"]

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")


class PlatformRoutes:
    def __init__(self, services: Services) -> None:
        self._s = services

    def endpoints(self) -> list[Endpoint]:
        bundle = f"{API_ROOT}/bundles/{{digest}}"
        return [
            Endpoint(
                "GET",
                f"{API_ROOT}/info",
                self.info,
                "The platform's version, limits and addresses, and the caller's key",
                scope="any",
                response=Info,
            ),
            Endpoint("HEAD", bundle, self.has_bundle, "Whether the platform has a bundle"),
            Endpoint(
                "PUT",
                bundle,
                self.put_bundle,
                "Upload a bundle: a gzip-compressed tar of regular files",
                body_media_type=GZIP,
                response=BundleStored,
                status=201,
                other_statuses={200: "It was there already"},
            ),
        ]

    async def info(self, request: ApiRequest) -> Info:
        facts, key = self._s.platform, request.caller
        return Info(
            version=facts.version,
            url=request.base_url,
            backend=facts.backend,
            isolation=Isolation(**asdict(facts.isolation)),
            store=self._s.registry.store.url,
            home=facts.home,
            started_at=facts.started_at,
            pythons=list(await asyncio.to_thread(facts.pythons)),
            limits=Limits(max_body_bytes=facts.max_body_bytes, max_bundle_bytes=facts.max_bundle_bytes),
            key=OwnKey(id=key.id, name=key.name, scopes=list(key.scopes)),
        )

    async def has_bundle(self, request: ApiRequest) -> Response:
        digest = _digest(request)
        if not self._s.artifacts.has(digest):
            raise NotFound(f"there is no bundle {digest}")
        return Response(status_code=200)

    async def put_bundle(self, request: ApiRequest) -> Response:
        digest = _digest(request)
        limit = self._s.platform.max_bundle_bytes
        announced = request.http.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            raise PayloadTooLarge(
                f"the bundle is over the limit of {limit} bytes: leave out what the function does not need with a "
                ".clipignore"
            )
        existed = self._s.artifacts.has(digest)
        stored = await self._s.artifacts.put(digest, request.http.stream())
        body = msgspec.json.encode(BundleStored(digest=digest, bytes=stored.bytes))
        return Response(body, 200 if existed else 201, media_type=JSON)


def _digest(request: ApiRequest) -> str:
    digest = request.params["digest"]
    if not _DIGEST.match(digest):
        raise InvalidRequest('a bundle is named by its digest: "sha256:" and 64 hexadecimal digits', key="digest")
    return digest
