"""The shapes of the control API about keys and secrets."""

from __future__ import annotations

from clipper_platform.gateway.control_api.schema_base import Answer, Asked

__all__ = ["DeletedSecret", "KeyInfo", "KeyList", "KeyMade", "KeyRequest", "SecretList", "SecretName", "SecretRequest"]


class KeyRequest(Asked, frozen=True):
    """`scopes`: one or more of invoke, deploy, admin; admin includes deploy, deploy includes invoke."""

    name: str
    scopes: list[str]


class KeyInfo(Answer, frozen=True):
    id: str
    name: str
    scopes: list[str]
    created_at: float
    revoked_at: float | None


class KeyMade(Answer, frozen=True):
    """`key` is shown this once."""

    id: str
    name: str
    scopes: list[str]
    created_at: float
    key: str


class KeyList(Answer, frozen=True):
    keys: list[KeyInfo]


class SecretRequest(Asked, frozen=True):
    value: str


class SecretName(Answer, frozen=True):
    name: str


class SecretList(Answer, frozen=True):
    secrets: list[str]


class DeletedSecret(Answer, frozen=True):
    deleted: str
