"""One bad item in a batch: whatever it does, its batch-mates get their answers and it gets its own error."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Deploy
from tests.support.load import assert_idle
from tests.support.platform import PlatformProcess

pytestmark = pytest.mark.e2e

APP = """
import math, os, time
import clipper

def act(value):
    if value == "raises":
        raise KeyError("mine")
    if value == "exits":
        os._exit(3)
    if value == "leaves":
        raise SystemExit(2)
    if value == "is slow":
        time.sleep(1)
    made = {"is an exception": ValueError("mine"), "is a class": ValueError, "cannot be sent": object(),
            "is not a number": math.nan, "is too large": "x" * (140 << 20),
            "is a response": clipper.Response("gone", status=410)}
    return made.get(value, value)

@clipper.function(max_batch_size=16, batch_wait_timeout_s=0.3, max_replicas=1, min_replicas=1)
def echo(value: list) -> list:
    return [act(one) for one in value if one != "is left out"]

@clipper.function(max_batch_size=16, batch_wait_timeout_s=0.3, max_replicas=1, min_replicas=1)
async def aecho(value: list) -> list:
    return [act(one) for one in value if one != "is left out"]
"""

BAD = {
    "is an exception": (500, "function_error"),
    "raises": (500, "function_error"),
    "leaves": (500, "function_error"),
    "is a class": (500, "invalid_result"),
    "cannot be sent": (500, "invalid_result"),
    "is not a number": (500, "invalid_result"),
    "is too large": (500, "invalid_result"),
    "is left out": (500, "invalid_result"),
    "exits": (500, "quarantined"),
    "is a response": (410, ""),
}
MALFORMED = {
    b"{": (400, "invalid_request"),
    b'{"other": 1}': (422, "schema_mismatch"),
    b"\xff": (400, "invalid_request"),
}


@pytest.fixture(scope="module")
def project(deploy_once: Deploy) -> str:
    return deploy_once(APP)


async def together(platform: PlatformProcess, path: str, bad: bytes) -> list[tuple[int, Any]]:
    """The answers to six calls at once, of which the third is the bad one."""
    bodies = [json.dumps({"value": n}).encode() for n in range(6)]
    bodies[2] = bad
    headers = {"content-type": "application/json"}
    async with httpx.AsyncClient(base_url=platform.url, timeout=60) as client:
        posts = (client.post(f"/fn/{path}", content=body, headers=headers) for body in bodies)
        return [(r.status_code, r.json() if "json" in r.headers["content-type"] else r.text) for r in
                await asyncio.gather(*posts)]  # fmt: skip


@pytest.mark.parametrize("function", ["echo", "aecho"])
@pytest.mark.parametrize("bad", [*BAD, *MALFORMED])
async def test_a_bad_item_harms_its_own_caller_alone(
    platform: PlatformProcess, project: str, function: str, bad: str | bytes
) -> None:
    body = bad if isinstance(bad, bytes) else json.dumps({"value": bad}).encode()
    status, code = MALFORMED[bad] if isinstance(bad, bytes) else BAD[bad]
    answers = await together(platform, f"{project}/{function}", body)
    assert [answers[n] for n in (0, 1, 3, 4, 5)] == [(200, n) for n in (0, 1, 3, 4, 5)]
    assert answers[2][0] == status, answers[2]
    assert not code or answers[2][1]["error"]["code"] == code


async def test_a_caller_that_leaves_takes_nobody_along(platform: PlatformProcess, project: str) -> None:
    async with httpx.AsyncClient(base_url=platform.url, timeout=60) as client:
        asks = [client.post(f"/fn/{project}/echo", json={"value": value}) for value in ("is slow", 1, 2)]
        slow, *others = [asyncio.ensure_future(ask) for ask in asks]
        await asyncio.sleep(0.6)  # it runs, with the others in its batch
        slow.cancel()
        assert [(await one).json() for one in others] == [1, 2]
    assert_idle(platform, project)
