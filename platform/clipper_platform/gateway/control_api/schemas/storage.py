"""What the platform stores, and what a clean removed."""

from __future__ import annotations

from clipper_platform.gateway.control_api.schemas.base import ResponseBody

__all__ = ["Removed", "StorageCleaned", "StorageUse", "Stored"]


class Stored(ResponseBody, frozen=True):
    """How much there is of a kind; `unused_…`: what a clean would remove."""

    count: int
    bytes: int
    unused_count: int
    unused_bytes: int


class StorageUse(ResponseBody, frozen=True):
    """`logs` counts projects."""

    versions: Stored
    bundles: Stored
    environments: Stored
    logs: Stored


class Removed(ResponseBody, frozen=True):
    count: int
    bytes: int


class StorageCleaned(ResponseBody, frozen=True):
    versions: Removed
    bundles: Removed
    environments: Removed
    logs: Removed
