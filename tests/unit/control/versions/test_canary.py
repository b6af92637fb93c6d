"""A canary: steps, comparison, and the way back."""

from __future__ import annotations

import pytest

from clipper_platform.core.canary import Answers
from clipper_platform.types import FunctionId
from tests.support.waiting import until
from tests.unit.control.doubles import Plane, deploy_second, manifest

pytestmark = pytest.mark.virtual_time

CANARY = {"strategy": "canary", "steps": [20, 100], "step_s": 0.02, "min_samples": 10}
NEW, OLD = FunctionId("digits", "classify", 2), FunctionId("digits", "classify", 1)


@pytest.fixture(autouse=True)
def time_passes(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake clock moves on with every reading, so that a step ends after a few checks."""

    def monotonic() -> float:
        plane.clock.now += 0.005
        return plane.clock.now

    monkeypatch.setattr(plane.clock, "monotonic", monotonic)


async def test_a_canary_goes_through_its_steps_and_then_flips(plane: Plane) -> None:
    await plane.deployed()
    deployment = await deploy_second(plane, CANARY)
    assert deployment.state == "succeeded"
    order = [line for line in plane.serving.history if line.startswith(("weights", "route"))]
    assert order == [
        "route digits@1",
        "weights digits {1: 80, 2: 20}",
        "weights digits {1: 0, 2: 100}",
        "route digits@2",
    ]
    shares = [e.data["share"] for e in deployment.events() if e.phase == "canary" and e.kind == "progress"]
    assert shares == [20, 100]


async def test_a_canary_says_which_version_gets_what_while_it_runs(plane: Plane) -> None:
    await plane.deployed()
    deployment = plane.deployer.submit("digits", manifest(deploy={**CANARY, "step_s": 1000.0}, latency_slo_s=1.0))
    await until(lambda: plane.serving.weights.get("digits"))
    running = plane.deployer.canary("digits")
    assert running is not None
    assert (running.old, running.new, running.share, running.step) == (1, 2, 20, 1)
    assert (running.deployment, running.functions) == (deployment.id, ["classify"])
    await plane.deployer.cancel(deployment.id)
    assert plane.deployer.canary("digits") is None


async def test_a_first_version_has_nothing_to_be_compared_with(plane: Plane) -> None:
    deployment = plane.deployer.submit("digits", manifest(deploy=CANARY))
    await deployment.wait()
    assert deployment.state == "succeeded"
    assert not any(line.startswith("weights") for line in plane.serving.history)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (Answers(answered=100, failed=10), "10.0% of its 100 answers failed"),
        (Answers(answered=1000, p99_s=1.0), "its p99 is 1000.0 ms"),
        (Answers(broken=True), "no replica"),
    ],
)
async def test_a_canary_that_does_worse_is_taken_back(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, answers: Answers, reason: str
) -> None:
    await plane.deployed()
    readings = {OLD: [Answers(), Answers(answered=5000, p99_s=0.1)], NEW: [Answers(), Answers(), answers]}

    def read(id: FunctionId) -> Answers:
        left = readings[id]
        return left.pop(0) if len(left) > 1 else left[0]

    monkeypatch.setattr(plane.serving, "answers", read)
    deployment = await deploy_second(plane, CANARY)
    assert deployment.state == "failed"
    assert (deployment.error.phase, reason in deployment.error.message) == ("canary", True)
    assert plane.serving.weights["digits"] == {}
    assert plane.serving.routes == {"digits": 1}
    assert plane.serving.versions("digits") == {1}
    assert (await plane.store.get_version("digits", 2)).state == "failed"


async def test_a_canary_that_is_cancelled_leaves_all_calls_to_the_old_version(plane: Plane) -> None:
    await plane.deployed()
    deployment = plane.deployer.submit("digits", manifest(deploy={**CANARY, "step_s": 600}, latency_slo_s=1.0))
    await until(lambda: "digits" in plane.serving.weights)
    await plane.deployer.cancel(deployment.id)
    assert deployment.state == "cancelled"
    assert plane.serving.weights["digits"] == {}
    assert plane.serving.versions("digits") == {1}
