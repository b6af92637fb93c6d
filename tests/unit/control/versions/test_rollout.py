"""Secrets that replicas may have, and how many replicas a version starts with."""

from __future__ import annotations

import pytest

from clipper_platform.control.versions.rollout import check_secret
from clipper_platform.errors import InvalidRequest
from clipper_platform.types import FunctionId
from tests.unit.control.doubles import Plane


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("lower", "x", "name"),
        ("1ST", "x", "name"),
        ("", "x", "name"),
        ("A-B", "x", "name"),
        ("A\n", "x", "name"),
        ("A" * 129, "x", "name"),
        ("CLIP_API_KEY", "x", "name"),
        ("PYTHONPATH", "x", "name"),
        ("LD_PRELOAD", "x", "name"),
        ("OK", "nul\0", "value"),
        ("OK", "\udcff", "value"),
        ("OK", "x" * 65_537, "value"),
    ],
)
def test_a_secret_that_cannot_be_an_environment_variable_is_refused(name: str, value: str, key: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_secret(name, value)
    assert refused.value.details["key"] == key


def test_ordinary_secrets_pass() -> None:
    check_secret("HF_TOKEN", "hf_x")
    check_secret("_X1", "many\nlines é")


async def test_a_new_version_starts_with_as_many_replicas_as_it_takes_over_from(plane: Plane) -> None:
    await plane.deployed()
    plane.serving.ready_replicas[FunctionId("digits", "classify", 1)] = 5
    await plane.deployed(latency_slo_s=1.0, max_replicas=3)
    assert plane.serving.replicas[FunctionId("digits", "classify", 2)] == 3
