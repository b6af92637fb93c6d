"""Replaced versions whose replicas stay for a while."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.waiting import until
from tests.unit.control.doubles import Plane, deploy_second

pytestmark = pytest.mark.virtual_time


async def test_a_replaced_version_is_kept_warm_and_then_drained(plane: Plane) -> None:
    await plane.deployed()
    deployment = await deploy_second(plane, {"keep_previous_s": 0.05})
    assert deployment.state == "succeeded"
    await plane.settle()
    assert plane.serving.versions("digits") == {1, 2}
    await until(lambda: plane.serving.versions("digits") == {2})


async def test_a_rollback_to_a_warm_version_starts_nothing_and_it_then_stays(plane: Plane) -> None:
    await plane.deployed(deploy={"keep_previous_s": 0.05})
    assert (await deploy_second(plane, {"keep_previous_s": 0.05})).state == "succeeded"
    before = plane.serving.history.count("start digits/classify@1")
    await plane.deployer.rollback("digits")
    assert plane.serving.history.count("start digits/classify@1") == before
    await until(lambda: plane.serving.versions("digits") == {1})
    await asyncio.sleep(0.1)
    assert plane.serving.versions("digits") == {1}, "the timer of its own retirement was stopped"


async def test_a_rollback_to_a_version_that_drains_takes_its_drain_back(plane: Plane) -> None:
    await plane.deployed(deploy={"keep_previous_s": 0})
    plane.gates.hold("stop")
    await deploy_second(plane, {"keep_previous_s": 0})
    await plane.settle()
    rollback = asyncio.create_task(plane.deployer.rollback("digits"))
    await plane.settle()
    assert "resume digits@1" in plane.serving.history
    plane.gates.open("stop")
    await rollback


async def test_only_the_newest_replaced_version_is_kept(plane: Plane) -> None:
    keep = {"keep_previous_s": 600}
    await plane.deployed(deploy=keep)
    await plane.deployed(deploy=keep, latency_slo_s=1.0)
    await plane.deployed(deploy=keep, latency_slo_s=2.0)
    await until(lambda: plane.serving.versions("digits") == {2, 3})


async def test_a_delete_ends_what_is_kept(plane: Plane) -> None:
    await plane.deployed(deploy={"keep_previous_s": 600})
    await plane.deployed(deploy={"keep_previous_s": 600}, latency_slo_s=1.0)
    await plane.deployer.delete("digits")
    assert plane.serving.versions("digits") == set()
