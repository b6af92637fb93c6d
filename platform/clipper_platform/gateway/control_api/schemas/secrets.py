"""A project's secrets."""

from __future__ import annotations

from clipper_platform.gateway.control_api.schemas.base import RequestBody, ResponseBody

__all__ = ["DeletedSecret", "SecretList", "SecretName", "SecretRequest"]


class SecretRequest(RequestBody, frozen=True):
    value: str


class SecretName(ResponseBody, frozen=True):
    name: str


class SecretList(ResponseBody, frozen=True):
    secrets: list[str]


class DeletedSecret(ResponseBody, frozen=True):
    deleted: str
