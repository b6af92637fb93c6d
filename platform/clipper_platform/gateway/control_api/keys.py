"""The control API's keys and secrets."""

from __future__ import annotations

from clipper.contract.constants import API_ROOT
from clipper.contract.spec import SpecError, check_name
from clipper_platform.control.versions.rollout import check_secret
from clipper_platform.errors import InvalidRequest
from clipper_platform.gateway.control_api import key_schemas as key_models
from clipper_platform.gateway.control_api.endpoints import Call, Endpoint
from clipper_platform.gateway.services import Services
from clipper_platform.store.base import Key

__all__ = ["KeyRoutes"]


class KeyRoutes:
    """The handlers and their table."""

    def __init__(self, services: Services) -> None:
        self._s = services

    def endpoints(self) -> list[Endpoint]:
        secrets = f"{API_ROOT}/projects/{{project}}/secrets"
        return [
            Endpoint(
                method="POST",
                path=f"{API_ROOT}/keys",
                handler=self.create_key,
                summary="Make a key; its secret is shown this once",
                scope="admin",
                takes=key_models.KeyRequest,
                gives=key_models.KeyMade,
                status=201,
            ),
            Endpoint(
                method="GET",
                path=f"{API_ROOT}/keys",
                handler=self.keys,
                summary="All keys, revoked ones included",
                scope="admin",
                gives=key_models.KeyList,
            ),
            Endpoint(
                method="DELETE",
                path=f"{API_ROOT}/keys/{{id}}",
                handler=self.revoke_key,
                summary="Revoke a key, at once",
                scope="admin",
                gives=key_models.KeyInfo,
            ),
            Endpoint(
                method="PUT",
                path=f"{secrets}/{{name}}",
                handler=self.put_secret,
                summary="Set an environment variable of replicas that start from now on",
                takes=key_models.SecretRequest,
                gives=key_models.SecretName,
            ),
            Endpoint(
                method="GET",
                path=secrets,
                handler=self.secrets,
                summary="The names of a project's secrets",
                gives=key_models.SecretList,
            ),
            Endpoint(
                method="DELETE",
                path=f"{secrets}/{{name}}",
                handler=self.delete_secret,
                summary="Delete a secret",
                gives=key_models.DeletedSecret,
            ),
        ]

    async def create_key(self, call: Call) -> key_models.KeyMade:
        key, secret = await self._s.keyring.create(call.body.name, tuple(call.body.scopes))
        return key_models.KeyMade(
            id=key.id, name=key.name, scopes=list(key.scopes), created_at=key.created_at, key=secret
        )

    async def keys(self, call: Call) -> key_models.KeyList:
        return key_models.KeyList(keys=[_shown(record) for record in self._s.keyring.list()])

    async def revoke_key(self, call: Call) -> key_models.KeyInfo:
        return _shown(await self._s.keyring.revoke(call.params["id"]))

    async def put_secret(self, call: Call) -> key_models.SecretName:
        project, name = call.params["project"], call.params["name"]
        try:
            check_name(project, "project")
        except SpecError as error:
            raise InvalidRequest(str(error), key="project") from None
        check_secret(name, call.body.value)
        await self._s.registry.put_secret(project, name, call.body.value)
        return key_models.SecretName(name=name)

    async def secrets(self, call: Call) -> key_models.SecretList:
        return key_models.SecretList(secrets=await self._s.registry.list_secrets(call.params["project"]))

    async def delete_secret(self, call: Call) -> key_models.DeletedSecret:
        await self._s.registry.delete_secret(call.params["project"], call.params["name"])
        return key_models.DeletedSecret(deleted=call.params["name"])


def _shown(record: Key) -> key_models.KeyInfo:
    """Without the hash: it is nobody's business."""
    return key_models.KeyInfo(
        id=record.id,
        name=record.name,
        scopes=list(record.scopes),
        created_at=record.created_at,
        revoked_at=record.revoked_at,
    )
