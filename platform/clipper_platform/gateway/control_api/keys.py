"""The control API's routes about API keys."""

from __future__ import annotations

from clipper.contract.constants import API_ROOT
from clipper_platform.gateway.control_api.endpoints import ApiRequest, Endpoint
from clipper_platform.gateway.control_api.schemas.keys import (
    KeyInfo,
    KeyList,
    KeyMade,
    KeyRequest,
)
from clipper_platform.gateway.services import Services
from clipper_platform.store.base import Key

__all__ = ["KeyRoutes"]


class KeyRoutes:
    def __init__(self, services: Services) -> None:
        self._s = services

    def endpoints(self) -> list[Endpoint]:
        keys = f"{API_ROOT}/keys"
        return [
            Endpoint(
                "POST",
                keys,
                self.create_key,
                "Make a key; only this response has its secret",
                scope="admin",
                body=KeyRequest,
                response=KeyMade,
                status=201,
            ),
            Endpoint("GET", keys, self.keys, "All keys, revoked ones included", scope="admin", response=KeyList),
            Endpoint(
                "DELETE", f"{keys}/{{id}}", self.revoke_key, "Revoke a key, at once", scope="admin", response=KeyInfo
            ),
        ]

    async def create_key(self, request: ApiRequest) -> KeyMade:
        key, secret = await self._s.keyring.create(request.body.name, tuple(request.body.scopes))
        return KeyMade(id=key.id, name=key.name, scopes=list(key.scopes), created_at=key.created_at, key=secret)

    async def keys(self, request: ApiRequest) -> KeyList:
        return KeyList(keys=[_shown(record) for record in self._s.keyring.list()])

    async def revoke_key(self, request: ApiRequest) -> KeyInfo:
        return _shown(await self._s.keyring.revoke(request.params["id"]))


def _shown(record: Key) -> KeyInfo:
    """Without the hash."""
    return KeyInfo(
        id=record.id,
        name=record.name,
        scopes=list(record.scopes),
        created_at=record.created_at,
        revoked_at=record.revoked_at,
    )
