"""Versions that callers pin."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from clipper_platform.errors import NotFound, Unavailable
from tests.unit.control.doubles import Plane, make_plane


@pytest.fixture
async def plane(tmp_path: Path) -> Plane:
    plane = make_plane(tmp_path)
    await plane.registry.load()
    return plane


async def test_an_earlier_version_is_started_for_whoever_pins_it(plane: Plane) -> None:
    await plane.deployed()
    await plane.deployed(functions=("classify", "other"))
    await plane.settle()
    assert plane.serving.versions("digits") == {2}
    await plane.pinned.wake("digits/classify@1")
    assert plane.serving.versions("digits") == {1, 2}


async def test_many_who_pin_at_the_same_time_start_it_once(plane: Plane) -> None:
    await plane.deployed()
    await plane.deployed(functions=("classify", "other"))
    await plane.settle()
    await asyncio.gather(*(plane.pinned.wake("digits/classify@1") for _ in range(10)))
    assert plane.serving.versions("digits") == {1, 2}


async def test_what_cannot_be_woken_says_why(plane: Plane) -> None:
    await plane.deployed()
    await plane.deployed(functions=("other",))
    for path, why in {
        "nobody/classify@1": "no project",
        "digits/classify@9": "9",
        "digits/classify@x": "not a version",
        "digits/other@1": "no function",
        "digits/nobody": "no function",
    }.items():
        with pytest.raises(NotFound, match=why):
            await plane.pinned.wake(path)
    with pytest.raises(Unavailable):
        await plane.pinned.wake("digits/other")


async def test_a_function_whose_stored_version_no_longer_validates_is_unavailable_and_not_unknown(
    plane: Plane, tmp_path: Path
) -> None:
    await plane.deployed()
    broken = await plane.store.get_version("digits", 1)
    broken.manifest["functions"][0]["timeout_s"] = "soon"
    await plane.store.update_version(broken)
    again = make_plane(tmp_path, store=plane.store)
    await again.registry.load()
    for path in ("digits/classify", "digits/classify@1"):
        with pytest.raises(Unavailable, match="timeout_s"):
            await again.pinned.wake(path)
    with pytest.raises(NotFound, match="it has classify"):
        await again.pinned.wake("digits/other")
    with pytest.raises(Unavailable, match="timeout_s"):
        await again.deployer.restart("digits")


async def test_an_idle_pinned_version_is_ended_and_a_used_or_routed_one_is_not(plane: Plane) -> None:
    await plane.deployed()
    await plane.deployed(functions=("classify", "other"))
    await plane.settle()
    await plane.pinned.wake("digits/classify@1")
    await plane.pinned.sweep()
    plane.clock.now += 59
    await plane.pinned.sweep()
    assert plane.serving.versions("digits") == {1, 2}
    plane.clock.now += 2
    await plane.pinned.sweep()
    assert plane.serving.versions("digits") == {2}
    await plane.pinned.wake("digits/classify@1")
    await plane.deployer.rollback("digits", 1)
    await plane.settle()
    plane.clock.now += 1000
    await plane.pinned.sweep()
    await plane.pinned.sweep()
    assert 1 in plane.serving.versions("digits")
