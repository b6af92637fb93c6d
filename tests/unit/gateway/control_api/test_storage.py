"""What the platform stores, over the control API."""

from __future__ import annotations

import pytest

from clipper_platform.core.retention import EnvironmentFacts
from tests.unit.control.doubles import BUNDLE
from tests.unit.gateway.gate import Gate

NOTHING = {"count": 0, "bytes": 0}
UNUSED_ENVIRONMENT = EnvironmentFacts(id="unused", bytes=7, last_used_at=999.0)


async def test_storage_is_shown_by_kind_and_freed_on_request(gate: Gate) -> None:
    for retries in range(3):
        await gate.plane.deployed(keep_versions=2, max_retries=retries)
    await gate.plane.settle()
    gate.plane.artifacts.known["unused"] = 30
    gate.plane.environments.facts["unused"] = UNUSED_ENVIRONMENT
    async with gate.client("admin") as client:
        shown = (await client.get("/api/v1/storage")).raise_for_status().json()
        removed = (await client.post("/api/v1/storage/clean")).raise_for_status().json()
        after = (await client.get("/api/v1/storage")).raise_for_status().json()
    assert shown["bundles"] == {"count": 2, "bytes": 2040, "unused_count": 1, "unused_bytes": 1030}
    assert shown["environments"] == {"count": 1, "bytes": 7, "unused_count": 1, "unused_bytes": 7}
    assert (shown["versions"]["count"], shown["versions"]["unused_count"]) == (3, 1)
    assert removed["bundles"] == {"count": 1, "bytes": 1030}
    assert removed["environments"] == {"count": 1, "bytes": 7}
    assert removed["versions"] == {"count": 1, "bytes": shown["versions"]["unused_bytes"]}
    assert removed["logs"] == NOTHING
    assert [after[kind]["unused_count"] for kind in after] == [0, 0, 0, 0]
    assert gate.plane.artifacts.has(BUNDLE)


@pytest.mark.parametrize("scope", ["invoke", "deploy"])
async def test_storage_is_for_administrators(gate: Gate, scope: str) -> None:
    async with gate.client(scope) as client:
        answers = [await client.get("/api/v1/storage"), await client.post("/api/v1/storage/clean")]
    assert [answer.status_code for answer in answers] == [403, 403]
