from __future__ import annotations

import asyncio
import inspect
import pickle
import typing
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import clipper
from clipper.contract.spec import FunctionSpec, SpecError
from clipper.function import Function, FunctionOptions


@clipper.function(max_batch_size=8, cache_ttl_s=60)
def double(n: list[int]) -> list[int]:
    """Twice as much."""
    return [2 * one for one in n]


@clipper.function
def bare(text: str) -> str:
    return text


class PlainCounter:
    """Counts its calls."""

    instances = 0

    def __init__(self) -> None:
        type(self).instances += 1
        self.calls = 0

    def __call__(self, step: int = 1) -> int:
        self.calls += step
        return self.calls


# mypy does not follow decorators of classes, so the decorator is called here.
Counter = clipper.function(name="counter")(PlainCounter)


def test_calling_it_is_calling_the_code() -> None:
    assert double([1, 2]) == [2, 4]
    assert double.local([3]) == [6]
    assert bare("x") == "x"


def test_it_carries_the_codes_name_docs_module_and_signature() -> None:
    assert double.__name__ == "double"
    assert double.__doc__ == "Twice as much."
    assert double.__module__ == __name__
    assert str(inspect.signature(double)) == "(n: 'list[int]') -> 'list[int]'"


def test_the_runtime_finds_code_options_and_name() -> None:
    assert inspect.isfunction(double.wrapped)
    assert double.options == {"max_batch_size": 8, "cache_ttl_s": 60}
    assert double.name == "double"
    assert Counter.wrapped is PlainCounter
    assert Counter.name == "counter"


def test_a_class_is_instantiated_once_for_local_calls_and_each_time_when_called_itself() -> None:
    PlainCounter.instances = 0
    assert [Counter.local(), Counter.local(step=2)] == [1, 3]
    assert PlainCounter.instances == 1
    assert isinstance(Counter(), PlainCounter)


async def test_coroutines_and_generators_stay_what_they_are() -> None:
    @clipper.function()
    async def later(n: int) -> int:
        await asyncio.sleep(0)
        return n

    @clipper.function()
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    @clipper.function()
    async def acount(n: int) -> AsyncIterator[int]:
        for one in range(n):
            yield one

    assert await later(3) == 3
    assert await later.local(4) == 4
    assert list(count(3)) == [0, 1, 2]
    assert [n async for n in acount.local(2)] == [0, 1]


def test_an_unknown_option_is_refused_at_once_with_the_nearest_name() -> None:
    with pytest.raises(SpecError, match="unknown key 'max_batchsize'; did you mean 'max_batch_size'"):
        clipper.function(max_batchsize=8)  # type: ignore[call-overload]  # the mistake under test


@pytest.mark.parametrize(
    "options",
    [
        {"max_batch_size": "8"}, {"latency_slo_s": 0}, {"public": 1}, {"entrypoint": "app:x"},
        {"autoscaling": "x.toml"},
        {"autoscaling": {"min_replica": 1}}, {"min_replicas": 1, "autoscaling": {"min_replicas": 2}},
        {"default_output": object()}, {"default_output": float("nan")}, {"name": "a/b"}, {"name": ""},
        {"autoscaling": {"schedule": 5}}, {"autoscaling": {"schedule": [{"cron": "* * *"}]}},
    ],
)  # fmt: skip
def test_a_wrong_option_is_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        clipper.function(**options)(bare.wrapped)


def test_a_contradiction_that_the_file_may_still_resolve_is_no_error_yet() -> None:
    assert clipper.function(min_replicas=20)(bare.wrapped).options == {"min_replicas": 20}


@pytest.mark.parametrize("target", [5, "text", None])
def test_what_is_not_callable_cannot_be_decorated(target: Any) -> None:
    with pytest.raises(SpecError):
        clipper.function()(target)


def test_a_positional_argument_is_refused() -> None:
    with pytest.raises(SpecError, match="keywords only"):
        clipper.function("name")  # type: ignore[call-overload]  # the mistake under test


def test_decorating_twice_is_refused() -> None:
    with pytest.raises(SpecError, match="decorated twice"):
        clipper.function()(double)


def test_a_module_level_function_pickles_by_reference() -> None:
    assert pickle.loads(pickle.dumps(double)) is double


def test_a_function_known_by_name_pickles_and_has_no_code() -> None:
    remote = clipper.Function.from_name("digits/classify@3", timeout_s=2.0)
    again = pickle.loads(pickle.dumps(remote))
    assert str(again.address) == "digits/classify@3"
    with pytest.raises(TypeError, match="known by name only"):
        again.local()


def test_a_bad_name_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(SpecError, match="not a function's address"):
        clipper.Function.from_name("digits")


def test_the_options_that_editors_complete_are_those_that_the_spec_accepts() -> None:
    assert set(typing.get_type_hints(FunctionOptions)) == set(FunctionSpec.option_names()) - {"name", "entrypoint"}


def load(path: Path, name: str) -> ModuleType:
    import importlib.util

    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_its_project_is_that_of_the_nearest_clip_toml(project_directory: Path) -> None:
    module = load(project_directory / "app.py", "app")
    assert str(module.shout.address) == "demo/shout"


def test_a_name_that_clip_toml_gives_the_code_is_its_address(project_directory: Path) -> None:
    (project_directory / "clip.toml").write_text('name = "demo"\n[functions.loud]\nentrypoint = "app:shout"\n')
    assert str(load(project_directory / "app.py", "app").shout.address) == "demo/loud"


def test_a_module_in_a_package_finds_the_project_above_it(project_directory: Path) -> None:
    package = project_directory / "models"
    package.mkdir()
    (package / "net.py").write_text((project_directory / "app.py").read_text())
    (project_directory / "clip.toml").write_text('name = "demo"\n[functions.loud]\nentrypoint = "models.net:shout"\n')
    assert str(load(package / "net.py", "models.net").shout.address) == "demo/loud"


def test_code_outside_any_project_says_what_to_do() -> None:
    loose: Function[..., Any] = clipper.function(name="loose")(eval("lambda: 1"))
    with pytest.raises(SpecError, match=r"belongs to no project.*clipper\.deploy.*from_name"):
        loose.remote()
