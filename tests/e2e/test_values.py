"""Values over HTTP and by the SDK: what a function declares holds, and what it returns arrives as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import clipper
from tests.e2e.conftest import Deploy
from tests.support.platform import PlatformProcess

APP = """
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

import clipper

@clipper.function(max_batch_size=8, batch_wait_timeout_s=0.05)
def square(n: list[int]) -> list[dict[str, int]]:
    return pd.DataFrame({"n": n, "square": [one * one for one in n]})

@clipper.function
def table(labelled: bool = False) -> Any:
    return pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=["i", "j"] if labelled else None)

@clipper.function
def root(x: Annotated[float, Field(ge=0)]) -> float:
    return x ** 0.5

class Colour(Enum):
    RED = "red"

class Event(BaseModel):
    model_config = ConfigDict(strict=True)
    day: date = Field(alias="theDay")
    colour: Colour

@clipper.function
def later(event: Event) -> Event:
    return event

@dataclass
class Point:
    x: int

@clipper.function
def move(point: Point) -> Point:
    return point

@clipper.function
def matrix(m: np.ndarray[tuple[int, int], np.dtype[np.floating]]) -> int:
    return len(m)

@clipper.function
def masked() -> Any:
    return np.ma.array([1, 2], mask=[False, True])

def timed(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper

@clipper.function
@timed
async def waited(x: int) -> int:
    return x + 1

@clipper.function
@timed
def counted(to: int) -> Iterator[int]:
    yield from range(to)

@clipper.function(max_batch_size=8, batch_size_key="text")
def weighed(text: list[float]) -> list[bool]:
    return [one > 0 for one in text]

def repeat(text: str, times: int = 1) -> str:
    return text * times

twice = functools.partial(repeat, times=2)
"""

TOML = """
[environment]
requirements = ["numpy>=2.0", "pandas>=2.2", "pydantic>=2.10"]

[functions.twice]
entrypoint = "app:twice"
"""


@pytest.fixture(scope="module")
def project(platform: PlatformProcess, deploy_once: Deploy) -> str:
    return deploy_once(APP, TOML)


@pytest.fixture(autouse=True)
def found(platform: PlatformProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIP_HOME", str(platform.home))


@pytest.fixture
def post(platform: PlatformProcess, project: str) -> Any:
    def post(function: str, value: Any, accept: str = "application/json") -> httpx.Response:
        return httpx.post(f"{platform.url}/fn/{project}/{function}", json=value, headers={"accept": accept}, timeout=60)

    return post


def named(project: str, function: str) -> clipper.Function[..., Any]:
    return clipper.Function.from_name(f"{project}/{function}")


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["message"]


def test_each_caller_of_a_batch_gets_its_row_of_the_table(project: str) -> None:
    square = named(project, "square")
    assert list(square.map([2, 3])) == [{"n": 2, "square": 4}, {"n": 3, "square": 9}]


def test_a_table_is_a_list_of_records_in_every_format(project: str, post: Any) -> None:
    records = [{"a": 1, "b": "x"}, {"a": 2, "b": None}]
    assert post("table", {}).json() == records
    assert named(project, "table").remote() == records
    for accept in ("application/json", "application/msgpack"):
        assert 'to_dict("records")' in refusal(post("table", {"labelled": True}, accept))[1]


def test_a_constraint_of_pydantic_holds(project: str, post: Any) -> None:
    assert post("root", {"x": 4}).json() == 2.0
    status, message = refusal(post("root", {"x": -1}))
    assert (status, "greater than or equal to 0 - at `$.x`" in message) == (422, True)
    with pytest.raises(clipper.errors.ClipperError, match="greater than or equal to 0"):
        named(project, "root").remote(x=-1.0)


def test_a_strict_model_takes_json_and_answers_by_its_aliases(project: str, post: Any) -> None:
    event = {"theDay": "2024-01-02", "colour": "red"}
    assert post("later", {"event": event}).json() == event
    assert named(project, "later").remote(event=event) == event


def test_an_unknown_key_of_a_nested_object_is_refused(post: Any) -> None:
    assert refusal(post("move", {"point": {"x": 1, "z": 2}})) == (422, "unknown key - at `$.point.z`")


def test_the_shape_of_an_array_is_checked_in_every_format(project: str, post: Any) -> None:
    assert post("matrix", {"m": [[1.5]]}).json() == 1
    assert "shape (any, any), got (1,)" in refusal(post("matrix", {"m": [1.5]}))[1]
    with pytest.raises(clipper.errors.ClipperError, match="shape"):
        named(project, "matrix").remote(m=np.zeros(3))


def test_a_mask_is_null_in_json_and_refused_where_it_would_be_lost(project: str, post: Any) -> None:
    assert post("masked", {}).json() == [1, None]
    with pytest.raises(clipper.errors.ClipperError, match="filled"):
        named(project, "masked").remote()


def test_wrapped_and_partial_functions_run(project: str, post: Any) -> None:
    assert post("waited", {"x": 1}).json() == 2
    assert list(named(project, "counted").remote(to=3)) == [0, 1, 2]
    assert post("twice", {"text": "ab"}).json() == "abab"
    assert refusal(post("twice", {"text": 1}))[0] == 422


def test_an_infinite_weight_is_a_number_as_others(project: str, post: Any) -> None:
    assert named(project, "weighed").remote(text=float("inf")) is True


def test_a_constraint_that_nobody_would_enforce_is_refused_at_deploy(platform: PlatformProcess, tmp_path: Path) -> None:
    from tests.support.platform import write_project

    app = """
from dataclasses import dataclass
import clipper

@dataclass
class Point:
    x: int
    def __init__(self, x: int) -> None:
        self.x = abs(x)

@clipper.function
def move(point: Point) -> int:
    return point.x
"""
    done = platform.clip("deploy", str(write_project(tmp_path / "p", app, 'name = "unenforced"\n')), check=False)
    assert done.code == 1
    assert "parameter 'point': the class Point has an __init__ of its own" in done.out + done.err
