"""The control API's routes about a project's secrets."""

from __future__ import annotations

from clipper.contract.constants import API_ROOT
from clipper.contract.spec import SpecError, check_name
from clipper_platform.errors import InvalidRequest
from clipper_platform.gateway.control_api.endpoints import ApiRequest, Endpoint
from clipper_platform.gateway.control_api.schemas.secrets import DeletedSecret, SecretList, SecretName, SecretRequest
from clipper_platform.gateway.services import Services

__all__ = ["SecretRoutes"]


class SecretRoutes:
    def __init__(self, services: Services) -> None:
        self._s = services

    def endpoints(self) -> list[Endpoint]:
        secrets = f"{API_ROOT}/projects/{{project}}/secrets"
        return [
            Endpoint(
                "PUT",
                f"{secrets}/{{name}}",
                self.put_secret,
                "Set an environment variable of replicas that start from now on",
                body=SecretRequest,
                response=SecretName,
            ),
            Endpoint("GET", secrets, self.secrets, "The names of a project's secrets", response=SecretList),
            Endpoint("DELETE", f"{secrets}/{{name}}", self.delete_secret, "Delete a secret", response=DeletedSecret),
        ]

    async def put_secret(self, request: ApiRequest) -> SecretName:
        project, name = request.params["project"], request.params["name"]
        try:
            check_name(project, "project")
        except SpecError as error:
            raise InvalidRequest(str(error), key="project") from None
        await self._s.secrets.put(project, name, request.body.value)
        return SecretName(name=name)

    async def secrets(self, request: ApiRequest) -> SecretList:
        return SecretList(secrets=await self._s.secrets.names(request.params["project"]))

    async def delete_secret(self, request: ApiRequest) -> DeletedSecret:
        await self._s.secrets.delete(request.params["project"], request.params["name"])
        return DeletedSecret(deleted=request.params["name"])
