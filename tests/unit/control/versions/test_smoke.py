"""Smoke calls: what a new version must answer before it gets traffic."""

from __future__ import annotations

import pytest

from clipper_platform.errors import InvalidResult
from tests.unit.control.doubles import Plane, deploy_second, manifest

pytestmark = pytest.mark.virtual_time


async def test_smoke_calls_come_before_any_traffic(plane: Plane) -> None:
    await plane.deployed()
    deployment = await deploy_second(plane, {"smoke": {"classify": {"x": 1}}, "keep_previous_s": 0})
    assert deployment.state == "succeeded"
    history = plane.serving.history
    assert history.index('call digits/classify@2 {"x":1}') < history.index("route digits@2")


async def test_a_smoke_call_that_fails_ends_the_deploy(plane: Plane) -> None:
    await plane.deployed()
    plane.serving.unfit["classify"] = InvalidResult("ValueError: three is too much")
    deployment = await deploy_second(plane, {"smoke": {"classify": {"x": 3}}})
    assert (deployment.state, deployment.error.phase) == ("failed", "smoke")
    assert "three is too much" in deployment.error.message
    assert plane.serving.routes == {"digits": 1}
    assert plane.serving.versions("digits") == {1}


async def test_a_smoke_call_that_only_the_default_output_answers_ends_the_deploy(plane: Plane) -> None:
    await plane.deployed()
    plane.serving.defaults["classify"] = "deadline_exceeded"
    deployment = await deploy_second(plane, {"smoke": {"classify": {"x": 3}}})
    assert (deployment.state, deployment.error.phase) == ("failed", "smoke")
    assert "only the default output answered (deadline_exceeded)" in deployment.error.message


async def test_a_smoke_call_can_be_cancelled(plane: Plane) -> None:
    await plane.deployed()
    plane.gates.hold("call")
    deployment = plane.deployer.submit("digits", manifest(deploy={"smoke": {"classify": {}}}, latency_slo_s=1.0))
    await plane.gates.reached("call")
    await plane.deployer.cancel(deployment.id)
    assert deployment.state == "cancelled"
    assert plane.serving.versions("digits") == {1}
