"""Locks on environments, between processes: here between lock tables, as flock tells descriptors apart."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from clipper_platform.environments.locks import EnvironmentLocks
from clipper_platform.types import EnvironmentId

ID = EnvironmentId("0" * 20)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[EnvironmentLocks, EnvironmentLocks]:
    return EnvironmentLocks(tmp_path), EnvironmentLocks(tmp_path)


def removable(locks: EnvironmentLocks) -> bool:
    with locks.removing(ID) as free:
        return free


def test_what_a_process_holds_no_other_removes(pair: tuple[EnvironmentLocks, EnvironmentLocks], tmp_path: Path) -> None:
    one, other = pair
    assert one.hold(ID)
    assert one.hold(ID)
    assert other.hold(ID)
    assert not removable(one)
    other.release(ID)
    assert one.hold(ID)
    assert not removable(other)
    one.release_others({ID})
    assert not removable(other)
    one.release_others(())
    assert removable(other)
    assert list(tmp_path.iterdir()) == []


def test_what_is_being_removed_cannot_be_held(pair: tuple[EnvironmentLocks, EnvironmentLocks]) -> None:
    one, other = pair
    with one.removing(ID) as free:
        assert free
        assert not other.hold(ID)
        assert not removable(other)
    assert other.hold(ID)


async def test_a_build_waits_for_the_others_and_says_so_once(pair: tuple[EnvironmentLocks, EnvironmentLocks]) -> None:
    one, other = pair
    waits: list[int] = []

    async def build() -> None:
        async with other.building(ID, lambda: waits.append(1), lambda: False):
            assert not one.hold(ID)
            assert not removable(one)

    async with one.building(ID, lambda: None, lambda: False):
        waiting = asyncio.create_task(build())
        while not waits:
            await asyncio.sleep(0)
    await waiting
    assert waits == [1]


async def test_a_build_that_waited_for_a_removal_locks_the_file_that_is_there_then(
    pair: tuple[EnvironmentLocks, EnvironmentLocks], tmp_path: Path
) -> None:
    one, other = pair
    waits: list[int] = []

    async def build() -> None:
        async with other.building(ID, lambda: waits.append(1), lambda: False):
            assert (tmp_path / f"{ID}.lock").exists()
            assert not removable(one)

    with one.removing(ID):
        waiting = asyncio.create_task(build())
        while not waits:
            await asyncio.sleep(0)
    await waiting


async def test_a_build_ends_the_hold_of_its_own_process(pair: tuple[EnvironmentLocks, EnvironmentLocks]) -> None:
    one, _ = pair
    one.hold(ID)
    async with one.building(ID, lambda: pytest.fail("it waits for itself"), lambda: False):
        pass


async def test_a_build_does_not_wait_for_those_that_use_what_is_built_by_then(
    pair: tuple[EnvironmentLocks, EnvironmentLocks],
) -> None:
    one, other = pair
    one.hold(ID)
    async with other.building(ID, lambda: None, lambda: True) as lock:
        assert lock is None
