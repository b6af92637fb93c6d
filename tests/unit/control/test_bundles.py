"""Bundles that nothing refers to are removed, all that are asked for together at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path

import pytest

from clipper_platform.control.ports import Stored
from clipper_platform.control.tasks import TaskSet
from clipper_platform.control.versions.bundle_gc import BundleGarbageCollector
from clipper_platform.errors import StoreUnavailable


class Shelf:
    """`Artifacts` that tell what they were asked to keep."""

    def __init__(self) -> None:
        self.kept: list[set[str]] = []
        self.broken = False
        self.pass_on = asyncio.Event()
        self.pass_on.set()

    def has(self, digest: str) -> bool:
        raise NotImplementedError

    async def put(self, digest: str, chunks: AsyncIterator[bytes]) -> Stored:
        raise NotImplementedError

    async def unpack(self, digest: str) -> Path:
        raise NotImplementedError

    async def collect(self, keep: Collection[str]) -> Sequence[Stored]:
        self.kept.append(set(keep))
        await self.pass_on.wait()
        if self.broken:
            raise StoreUnavailable("the disk is full")
        return []


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_is_asked_for_while_one_runs_is_one_more_with_what_is_wanted_then() -> None:
    shelf, tasks, wanted = Shelf(), TaskSet(), {"a"}
    collector = BundleGarbageCollector(shelf, lambda: set(wanted), tasks, pause_s=0)
    shelf.pass_on.clear()
    collector.ask()
    await turns()
    wanted.add("b")
    for _ in range(100):
        collector.ask()
    shelf.pass_on.set()
    await tasks.join()
    assert shelf.kept == [{"a"}, {"a", "b"}]
    collector.ask()
    await tasks.join()
    assert len(shelf.kept) == 3


async def test_one_that_was_just_made_is_not_made_again_at_once() -> None:
    shelf, tasks = Shelf(), TaskSet()
    collector = BundleGarbageCollector(shelf, set, tasks, pause_s=3600)
    for _ in range(3):
        collector.ask()
        await turns()
    assert len(shelf.kept) == 1
    await tasks.cancel()


async def test_one_that_fails_is_logged_and_the_next_is_made(caplog: pytest.LogCaptureFixture) -> None:
    shelf, tasks = Shelf(), TaskSet()
    collector = BundleGarbageCollector(shelf, set, tasks, pause_s=0)
    shelf.broken = True
    collector.ask()
    await tasks.join()
    assert "the disk is full" in caplog.text
    collector.ask()
    await tasks.join()
    assert len(shelf.kept) == 2
