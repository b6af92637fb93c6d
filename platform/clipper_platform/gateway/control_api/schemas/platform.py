"""The platform and its bundles."""

from __future__ import annotations

from clipper_platform.gateway.control_api.schemas.base import ResponseBody

__all__ = ["BundleStored", "Info", "Isolation", "Limits", "OwnKey"]


class Limits(ResponseBody, frozen=True):
    max_body_bytes: int
    max_bundle_bytes: int


class OwnKey(ResponseBody, frozen=True):
    id: str
    name: str
    scopes: list[str]


class Isolation(ResponseBody, frozen=True):
    """What keeps user code from other projects and the platform. `mode`: mounts, landlock, users or none. `fix`: what
    would do better on this machine; empty where nothing would."""

    mode: str
    detail: str
    fix: str


class Info(ResponseBody, frozen=True):
    """`key`: the caller's."""

    version: str
    url: str
    backend: str
    isolation: Isolation
    store: str
    home: str
    started_at: float
    pythons: list[str]
    limits: Limits
    key: OwnKey


class BundleStored(ResponseBody, frozen=True):
    digest: str
    bytes: int
