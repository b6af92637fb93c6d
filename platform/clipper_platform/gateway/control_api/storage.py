"""The control API's routes about what the platform stores."""

from __future__ import annotations

from dataclasses import asdict

from clipper.contract.constants import API_ROOT
from clipper_platform.gateway.control_api.endpoints import ApiRequest, Endpoint
from clipper_platform.gateway.control_api.schemas.storage import Removed, StorageCleaned, StorageUse, Stored
from clipper_platform.gateway.services import Services

__all__ = ["StorageRoutes"]


class StorageRoutes:
    def __init__(self, services: Services) -> None:
        self._s = services

    def endpoints(self) -> list[Endpoint]:
        storage = f"{API_ROOT}/storage"
        return [
            Endpoint(
                "GET",
                storage,
                self.storage,
                "What versions, bundles, environments and logs take up, and how much of it is unused",
                scope="admin",
                response=StorageUse,
            ),
            Endpoint(
                "POST",
                f"{storage}/clean",
                self.clean,
                "Remove what is unused, now",
                scope="admin",
                response=StorageCleaned,
            ),
        ]

    async def storage(self, request: ApiRequest) -> StorageUse:
        holdings = await self._s.storage.holdings()
        return StorageUse(**{kind: Stored(**asdict(holding)) for kind, holding in holdings.items()})

    async def clean(self, request: ApiRequest) -> StorageCleaned:
        freed = await self._s.storage.collect(at_once=True)
        return StorageCleaned(**{kind: Removed(**asdict(each)) for kind, each in freed.items()})
