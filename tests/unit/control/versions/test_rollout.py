"""How many replicas a version starts with."""

from __future__ import annotations

from clipper_platform.types import FunctionId
from tests.unit.control.doubles import Plane


async def test_a_new_version_starts_with_as_many_replicas_as_it_takes_over_from(plane: Plane) -> None:
    await plane.deployed()
    plane.serving.ready_replicas[FunctionId("digits", "classify", 1)] = 5
    await plane.deployed(latency_slo_s=1.0, max_replicas=3)
    assert plane.serving.replicas[FunctionId("digits", "classify", 2)] == 3
