"""The SDK against a real platform: calls by name, many at once, awaited, in the background; a closure as a function."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipper
from clipper import errors
from tests.e2e.conftest import Deploy
from tests.support.platform import PlatformProcess

APP = """
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
import clipper
import numpy as np

@dataclass
class Box:
    left: float
    right: float

@clipper.function()
def add(a: int, b: int = 1) -> int:
    return a + b

@clipper.function(max_batch_size=16)
def double(x: list[np.ndarray]) -> list[np.ndarray]:
    return [one * 2 for one in x]

@clipper.function()
def widen(box: Box, by: float) -> Box:
    return Box(box.left - by, box.right + by)

@clipper.function()
def tomorrow(day: datetime) -> datetime:
    return day + timedelta(days=1)

@clipper.function()
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds

@clipper.function()
def count(to: int):
    yield from range(to)

@clipper.function()
def divide(a: float, b: float) -> float:
    return a / b
"""


@pytest.fixture(scope="module")
def project(platform: PlatformProcess, deploy_once: Deploy) -> str:
    return deploy_once(APP, '[environment]\nrequirements = ["numpy>=2.0"]\n')


@pytest.fixture(autouse=True)
def found(platform: PlatformProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIP_HOME", str(platform.home))


def named(project: str, function: str) -> clipper.Function[..., Any]:
    return clipper.Function.from_name(f"{project}/{function}")


def test_a_function_is_called_by_name(project: str) -> None:
    assert named(project, "add").remote(a=1, b=2) == 3
    assert named(project, "add").remote(a=1) == 2


def test_arrays_travel_as_arrays(project: str) -> None:
    sent = np.arange(12, dtype=np.float32).reshape(3, 4)
    received = named(project, "double").remote(x=sent)
    assert isinstance(received, np.ndarray)
    assert received.dtype == np.float32
    np.testing.assert_array_equal(received, sent * 2)


def test_many_calls_come_back_in_order(project: str) -> None:
    assert list(named(project, "add").map(range(50))) == list(range(1, 51))


def test_a_call_can_be_awaited(project: str) -> None:
    async def main() -> list[int]:
        add = named(project, "add")
        return await asyncio.gather(*(add.remote.aio(a=n, b=n) for n in range(20)))

    assert asyncio.run(main()) == [2 * n for n in range(20)]


def test_a_spawned_call_is_got_later(project: str) -> None:
    call = named(project, "nap").spawn(seconds=0.3)
    assert call.get(timeout=20) == 0.3


def test_a_spawned_call_that_takes_longer_than_one_waits_is_a_timeout(project: str) -> None:
    call = named(project, "nap").spawn(seconds=1.0)
    with pytest.raises(TimeoutError):
        call.get(timeout=0.1)
    assert call.get(timeout=20) == 1.0


def test_a_generator_is_iterated(project: str) -> None:
    assert list(named(project, "count").remote(to=5)) == [0, 1, 2, 3, 4]


def test_what_the_function_raises_comes_back_with_its_type(project: str) -> None:
    with pytest.raises(errors.FunctionError, match="division") as caught:
        named(project, "divide").remote(a=1, b=0)
    assert caught.value.request_id
    assert caught.value.details.get("type") == "ZeroDivisionError"


def test_arguments_that_do_not_fit_are_a_schema_mismatch(project: str) -> None:
    with pytest.raises(errors.SchemaMismatch, match=r"\$\.a"):
        named(project, "add").remote(a="one")


def test_a_function_that_is_not_there_is_not_found(project: str) -> None:
    with pytest.raises(errors.NotFound):
        named(project, "subtract").remote(a=1)


def test_a_platform_that_is_not_there_is_unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLIP_HOME", str(tmp_path))
    with pytest.raises(errors.PlatformUnreachable, match="clip up"):
        named("demo", "add").remote(a=1)


def test_a_closure_is_deployed_from_where_it_was_made(platform: PlatformProcess, tmp_path: Path) -> None:
    """From a script, as from a notebook: what the function closes over travels with it."""
    script = tmp_path / "notebook.py"
    script.write_text(
        textwrap.dedent(
            """
            import clipper

            weights = [1.0, 2.0, 3.0]

            def make(scale):
                def weighted(values: list[float]) -> float:
                    return scale * sum(w * v for w, v in zip(weights, values))
                return weighted

            deployed = clipper.deploy(make(10), name="notebook/weighted")
            print(deployed.remote(values=[1.0, 1.0, 1.0]))
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script)], env=platform.environment(), capture_output=True, text=True, timeout=90
    )
    try:
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[-1] == "60.0"
        assert platform.call("notebook/weighted", values=[0.0, 0.0, 1.0]) == 30.0
    finally:
        platform.clip("delete", "notebook", "--yes", check=False)


def test_a_decorated_function_runs_locally_without_a_platform(tmp_path: Path) -> None:
    script = "import clipper\n@clipper.function(max_batch_size=4)\ndef inc(n: list[int]) -> list[int]:\n"
    script += "    return [i + 1 for i in n]\nprint(inc.local(n=[41]))\n"
    environment = {**os.environ, "CLIP_HOME": str(tmp_path)}
    (tmp_path / "app.py").write_text(script)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "app.py")], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[42]", done.stderr
