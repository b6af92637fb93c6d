"""API keys."""

from __future__ import annotations

from clipper_platform.gateway.control_api.schemas.base import RequestBody, ResponseBody

__all__ = ["KeyInfo", "KeyList", "KeyMade", "KeyRequest"]


class KeyRequest(RequestBody, frozen=True):
    """`scopes`: one or more of invoke, deploy, admin; admin includes deploy, deploy includes invoke."""

    name: str
    scopes: list[str]


class KeyInfo(ResponseBody, frozen=True):
    id: str
    name: str
    scopes: list[str]
    created_at: float
    revoked_at: float | None


class KeyMade(ResponseBody, frozen=True):
    """`key`: the secret, in this response only."""

    id: str
    name: str
    scopes: list[str]
    created_at: float
    key: str


class KeyList(ResponseBody, frozen=True):
    keys: list[KeyInfo]
