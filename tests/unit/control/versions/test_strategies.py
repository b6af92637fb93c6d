"""How versions take over: canary, recreate, smoke calls, and what is kept warm after."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clipper_platform.core.canary import Answers
from clipper_platform.errors import InvalidResult, NotFound
from clipper_platform.types import FunctionId
from tests.support.waiting import until
from tests.unit.control.doubles import Plane, manifest, replica_failure

pytestmark = pytest.mark.virtual_time

CANARY = {"strategy": "canary", "steps": [20, 100], "step_s": 0.02, "min_samples": 10}
NEW, OLD = FunctionId("digits", "classify", 2), FunctionId("digits", "classify", 1)


async def second(plane: Plane, deploy: dict[str, Any], **kwargs: Any) -> Any:
    made = plane.deployer.submit("digits", manifest(deploy=deploy, latency_slo_s=1.0, **kwargs))
    await made.wait()
    return made


@pytest.fixture(autouse=True)
def time_passes(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake clock moves on with every reading, so that a step ends after a few checks."""

    def monotonic() -> float:
        plane.clock.now += 0.005
        return plane.clock.now

    monkeypatch.setattr(plane.clock, "monotonic", monotonic)


# Canary


async def test_a_canary_goes_through_its_steps_and_then_flips(plane: Plane) -> None:
    await plane.deployed()
    made = await second(plane, CANARY)
    assert made.state == "succeeded"
    order = [line for line in plane.serving.history if line.startswith(("weights", "route"))]
    assert order == [
        "route digits@1",
        "weights digits {1: 80, 2: 20}",
        "weights digits {1: 0, 2: 100}",
        "route digits@2",
    ]
    shares = [e.data["share"] for e in made.events() if e.phase == "canary" and e.kind == "progress"]
    assert shares == [20, 100]


async def test_a_canary_says_which_version_gets_what_while_it_runs(plane: Plane) -> None:
    await plane.deployed()
    made = plane.deployer.submit("digits", manifest(deploy={**CANARY, "step_s": 1000.0}, latency_slo_s=1.0))
    await until(lambda: plane.serving.weights.get("digits"))
    running = plane.deployer.canary("digits")
    assert running is not None
    assert (running.old, running.new, running.share, running.step) == (1, 2, 20, 1)
    assert (running.deployment, running.functions) == (made.id, ["classify"])
    await plane.deployer.cancel(made.id)
    assert plane.deployer.canary("digits") is None


async def test_a_first_version_has_nothing_to_be_compared_with(plane: Plane) -> None:
    made = plane.deployer.submit("digits", manifest(deploy=CANARY))
    await made.wait()
    assert made.state == "succeeded"
    assert not any(line.startswith("weights") for line in plane.serving.history)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (Answers(answered=100, failed=10), "10.0% of its 100 answers failed"),
        (Answers(answered=1000, p99_s=1.0), "its p99 is 1000.0 ms"),
        (Answers(broken=True), "no replica"),
    ],
)
async def test_a_canary_that_does_worse_is_taken_back(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, answers: Answers, said: str
) -> None:
    await plane.deployed()
    readings = {OLD: [Answers(), Answers(answered=5000, p99_s=0.1)], NEW: [Answers(), Answers(), answers]}

    def read(id: FunctionId) -> Answers:
        left = readings[id]
        return left.pop(0) if len(left) > 1 else left[0]

    monkeypatch.setattr(plane.serving, "answers", read)
    made = await second(plane, CANARY)
    assert made.state == "failed"
    assert (made.error.phase, said in made.error.message) == ("canary", True)
    assert plane.serving.weights["digits"] == {}
    assert plane.serving.routes == {"digits": 1}
    assert plane.serving.versions("digits") == {1}
    assert (await plane.store.get_version("digits", 2)).state == "failed"


async def test_a_canary_that_is_cancelled_leaves_all_calls_to_the_old_version(plane: Plane) -> None:
    await plane.deployed()
    made = plane.deployer.submit("digits", manifest(deploy={**CANARY, "step_s": 600}, latency_slo_s=1.0))
    await until(lambda: "digits" in plane.serving.weights)
    await plane.deployer.cancel(made.id)
    assert made.state == "cancelled"
    assert plane.serving.weights["digits"] == {}
    assert plane.serving.versions("digits") == {1}


# Smoke calls


async def test_smoke_calls_come_before_any_traffic(plane: Plane) -> None:
    await plane.deployed()
    made = await second(plane, {"smoke": {"classify": {"x": 1}}, "keep_previous_s": 0})
    assert made.state == "succeeded"
    history = plane.serving.history
    assert history.index('call digits/classify@2 {"x":1}') < history.index("route digits@2")


async def test_a_smoke_call_that_fails_ends_the_deploy(plane: Plane) -> None:
    await plane.deployed()
    plane.serving.unfit["classify"] = InvalidResult("ValueError: three is too much")
    made = await second(plane, {"smoke": {"classify": {"x": 3}}})
    assert (made.state, made.error.phase) == ("failed", "smoke")
    assert "three is too much" in made.error.message
    assert plane.serving.routes == {"digits": 1}
    assert plane.serving.versions("digits") == {1}


async def test_a_smoke_call_that_only_the_default_output_answers_ends_the_deploy(plane: Plane) -> None:
    await plane.deployed()
    plane.serving.defaults["classify"] = "deadline_exceeded"
    made = await second(plane, {"smoke": {"classify": {"x": 3}}})
    assert (made.state, made.error.phase) == ("failed", "smoke")
    assert "only the default output answered (deadline_exceeded)" in made.error.message


async def test_a_smoke_call_can_be_cancelled(plane: Plane) -> None:
    await plane.deployed()
    plane.gates.hold("call")
    made = plane.deployer.submit("digits", manifest(deploy={"smoke": {"classify": {}}}, latency_slo_s=1.0))
    await plane.gates.reached("call")
    await plane.deployer.cancel(made.id)
    assert made.state == "cancelled"
    assert plane.serving.versions("digits") == {1}


# Recreate


async def test_recreate_stops_the_old_version_before_the_new_one_starts(plane: Plane) -> None:
    await plane.deployed()
    made = await second(plane, {"strategy": "recreate"})
    assert made.state == "succeeded"
    history = plane.serving.history
    assert history.index("stop digits@1") < history.index("start digits/classify@2")


@pytest.mark.parametrize("cancelled", [False, True])
async def test_recreate_brings_the_old_version_back_when_the_new_one_does_not_start(
    plane: Plane, cancelled: bool
) -> None:
    await plane.deployed()
    plane.gates.hold("start classify")
    made = plane.deployer.submit("digits", manifest(deploy={"strategy": "recreate"}, latency_slo_s=1.0))
    await plane.gates.reached("start classify")
    assert plane.serving.versions("digits") == set()
    assert "takes its place" in plane.deployer.trouble("digits")
    if cancelled:
        await plane.deployer.cancel(made.id)
    else:
        plane.serving.broken["classify"] = replica_failure()
    plane.gates.open("start classify")
    await made.wait()
    plane.serving.broken.clear()
    assert made.state == ("cancelled" if cancelled else "failed")
    await until(lambda: plane.serving.versions("digits") == {1})
    await until(lambda: not plane.deployer.trouble("digits"))
    assert plane.serving.routes == {"digits": 1}


# What is kept warm


async def test_a_replaced_version_is_kept_warm_and_then_drained(plane: Plane) -> None:
    await plane.deployed()
    made = await second(plane, {"keep_previous_s": 0.05})
    assert made.state == "succeeded"
    await plane.settle()
    assert plane.serving.versions("digits") == {1, 2}
    await until(lambda: plane.serving.versions("digits") == {2})


async def test_a_rollback_to_a_warm_version_starts_nothing_and_it_then_stays(plane: Plane) -> None:
    await plane.deployed(deploy={"keep_previous_s": 0.05})
    assert (await second(plane, {"keep_previous_s": 0.05})).state == "succeeded"
    before = plane.serving.history.count("start digits/classify@1")
    await plane.deployer.rollback("digits")
    assert plane.serving.history.count("start digits/classify@1") == before
    await until(lambda: plane.serving.versions("digits") == {1})
    await asyncio.sleep(0.1)
    assert plane.serving.versions("digits") == {1}, "the timer of its own retirement was stopped"


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


async def test_a_new_version_starts_with_as_many_replicas_as_it_takes_over_from(plane: Plane) -> None:
    await plane.deployed()
    plane.serving.ready_replicas[OLD] = 5
    await plane.deployed(latency_slo_s=1.0, max_replicas=3)
    assert plane.serving.replicas[NEW] == 3


# Restart


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
