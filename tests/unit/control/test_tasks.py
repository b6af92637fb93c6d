"""Background tasks, and steps that a cancellation does not cut in two."""

from __future__ import annotations

import asyncio

import pytest

from clipper_platform.control.tasks import TaskSet, uninterrupted


async def test_an_uninterrupted_step_ends_before_its_callers_cancellation_is_raised() -> None:
    gate, steps = asyncio.Event(), []

    async def step() -> str:
        await gate.wait()
        steps.append("done")
        return "result"

    caller = asyncio.create_task(uninterrupted(step()))
    for _ in range(3):
        await asyncio.sleep(0)
        caller.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert steps == ["done"]
    assert await uninterrupted(step()) == "result"


async def test_a_step_that_fails_while_its_caller_is_cancelled_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    gate = asyncio.Event()

    async def step() -> None:
        await gate.wait()
        raise ValueError("lost otherwise")

    caller = asyncio.create_task(uninterrupted(step()))
    await asyncio.sleep(0)
    caller.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert "lost otherwise" in caplog.text


async def test_a_failure_that_nobody_awaits_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise ValueError("unseen")

    tasks = TaskSet()
    tasks.start(fails(), "the work")
    await tasks.join()
    assert len(tasks) == 0
    assert "the work failed" in caplog.text


async def test_cancelling_the_set_ends_every_task() -> None:
    tasks = TaskSet()
    started = [tasks.start(asyncio.Event().wait(), "forever") for _ in range(3)]
    await asyncio.sleep(0)
    await tasks.cancel()
    assert all(task.cancelled() for task in started)
