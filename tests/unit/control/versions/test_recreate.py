"""Deploys that stop the old version first, and restarts of the version that answers."""

from __future__ import annotations

import pytest

from clipper_platform.errors import NotFound
from clipper_platform.types import FunctionId
from tests.support.waiting import until
from tests.unit.control.doubles import Plane, deploy_second, manifest, replica_failure

pytestmark = pytest.mark.virtual_time

NEW, OLD = FunctionId("digits", "classify", 2), FunctionId("digits", "classify", 1)


async def test_recreate_stops_the_old_version_before_the_new_one_starts(plane: Plane) -> None:
    await plane.deployed()
    deployment = await deploy_second(plane, {"strategy": "recreate"})
    assert deployment.state == "succeeded"
    history = plane.serving.history
    assert history.index("stop digits@1") < history.index("start digits/classify@2")


@pytest.mark.parametrize("cancelled", [False, True])
async def test_recreate_brings_the_old_version_back_when_the_new_one_does_not_start(
    plane: Plane, cancelled: bool
) -> None:
    await plane.deployed()
    plane.gates.hold("start classify")
    deployment = plane.deployer.submit("digits", manifest(deploy={"strategy": "recreate"}, latency_slo_s=1.0))
    await plane.gates.reached("start classify")
    assert plane.serving.versions("digits") == set()
    assert "takes its place" in plane.deployer.trouble("digits")
    if cancelled:
        await plane.deployer.cancel(deployment.id)
    else:
        plane.serving.broken["classify"] = replica_failure()
    plane.gates.open("start classify")
    await deployment.wait()
    plane.serving.broken.clear()
    assert deployment.state == ("cancelled" if cancelled else "failed")
    await until(lambda: plane.serving.versions("digits") == {1})
    await until(lambda: not plane.deployer.trouble("digits"))
    assert plane.serving.routes == {"digits": 1}


async def test_a_restart_is_of_the_version_that_answers(plane: Plane) -> None:
    await plane.deployed()
    await plane.deployer.restart("digits", "classify")
    assert plane.serving.history[-1] == f"restart {OLD}"


async def test_a_restart_of_a_function_that_is_not_there_is_refused(plane: Plane) -> None:
    await plane.deployed()
    with pytest.raises(NotFound, match="no function 'clasify'"):
        await plane.deployer.restart("digits", "clasify")


async def test_a_restart_waits_for_no_back_off_of_a_project_that_is_being_brought_back(plane: Plane) -> None:
    await plane.deployed()
    again = plane.restarted()
    await again.registry.load()
    again.serving.broken["classify"] = replica_failure()
    await again.deployer.restore(0)
    await until(lambda: again.deployer.trouble("digits"))
    again.serving.broken.clear()
    await again.deployer.restart("digits")
    assert again.deployer.trouble("digits") == ""
    assert again.serving.routes == {"digits": 1}
