from __future__ import annotations

import asyncio

import pytest

from clipper_platform.control.tasks import TaskSet, uninterrupted
from clipper_platform.control.versions.rollout import check_secret
from clipper_platform.errors import InvalidRequest


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
