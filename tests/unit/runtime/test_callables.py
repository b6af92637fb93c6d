"""Functions behind wrappers: the hints count, and what comes back is awaited or iterated."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from clipper_runtime.callables import by_position, mode_of, with_results_awaited
from clipper_runtime.schema import read_signature


def wraps(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def running(function: Callable[..., Any]) -> Callable[..., Any]:
    """A wrapper that runs the async function to its end itself."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(function(*args, **kwargs))

    return wrapper


def plain(x: int, y: int = 1, *, z: int = 0) -> int:
    """Adds."""
    return x + y + z


async def coroutine(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


def generator(x: int) -> Iterator[int]:
    yield from range(x)


async def async_generator(x: int) -> AsyncIterator[int]:
    for n in range(x):
        yield n


class Instance:
    def __call__(self, x: int) -> int:
        return x + 1

    async def method(self, x: int) -> int:
        return x + 1


@functools.wraps(coroutine)
def cached(x: int) -> Any:
    return 5 if x == 0 else coroutine(x)


@functools.wraps(generator)
def collected(*args: Any) -> list[int]:
    return list(generator(*args))


@functools.wraps(generator)
def joined(*args: Any) -> str:
    return "".join(map(str, generator(*args)))


@functools.wraps(plain)
def by_name(**kwargs: Any) -> int:
    return plain(**kwargs)


@functools.wraps(plain)
def injecting(x: int) -> int:
    return plain(x, 10)


def result_of(call: Callable[..., Any], x: int) -> Any:
    """What an engine gets for the only argument x."""
    mode = mode_of(call)
    run = with_results_awaited(call, mode)

    async def consume() -> Any:
        return [item async for item in run(x)] if mode.streaming else await run(x)

    if mode.kind == "async":
        return asyncio.run(consume())
    return list(run(x)) if mode.streaming else run(x)


@pytest.mark.parametrize(
    ("call", "kind", "streaming", "result"),
    [
        (plain, "sync", False, 4),
        (wraps(plain), "sync", False, 4),
        (wraps(coroutine), "async", False, 4),
        (wraps(wraps(coroutine)), "async", False, 4),
        (wraps(generator), "sync", True, [0, 1, 2]),
        (wraps(async_generator), "async", True, [0, 1, 2]),
        (functools.partial(coroutine), "async", False, 4),
        (functools.partial(wraps(coroutine)), "async", False, 4),
        (wraps(functools.partial(generator)), "sync", True, [0, 1, 2]),
        (Instance(), "sync", False, 4),
        (Instance().method, "async", False, 4),
        (wraps(Instance().method), "async", False, 4),
        (functools.partial(Instance()), "sync", False, 4),
        (running(coroutine), "sync", False, 4),
        (wraps(running(coroutine)), "sync", False, 4),
        (functools.cache(plain), "sync", False, 4),
        (cached, "async", False, 4),
        (collected, "sync", True, [0, 1, 2]),
    ],
)
def test_a_wrapper_runs_as_what_it_wraps(call: Callable[..., Any], kind: str, streaming: bool, result: Any) -> None:
    mode = mode_of(call)
    assert (mode.kind, mode.streaming) == (kind, streaming)
    assert result_of(call, 3) == result
    assert read_signature(call, batched=False, streaming=streaming).parameters[0].type is int


def test_an_async_wrapper_may_return_a_value_without_awaiting() -> None:
    assert result_of(cached, 0) == 5


def test_a_name_in_a_plain_wrapper_that_looks_like_a_runner_still_gets_its_result_awaited() -> None:
    @functools.wraps(coroutine)
    def wrapper(x: int) -> Any:
        run = getattr(Instance, "run", coroutine)
        return run(x) if x else Instance.run  # type: ignore[attr-defined]  # never reached

    assert (mode_of(wrapper).kind, result_of(wrapper, 3)) == ("sync", 4)


def test_a_wrapper_that_joins_the_items_of_a_generator_is_refused_and_not_cut_into_letters() -> None:
    with pytest.raises(TypeError, match="returned str, not its items"):
        result_of(joined, 3)


def test_partial_arguments_keep_the_types_of_the_others() -> None:
    parameters = read_signature(functools.partial(plain, y=5), batched=False, streaming=False).parameters
    assert [(p.name, p.type, p.required) for p in parameters] == [
        ("x", int, True),
        ("y", int, False),
        ("z", int, False),
    ]
    bound = read_signature(functools.partial(plain, 1), batched=False, streaming=False).parameters
    assert [p.name for p in bound] == ["y", "z"]


def test_a_wrapper_that_names_its_parameters_is_called_by_these() -> None:
    assert [p.name for p in read_signature(injecting, batched=False, streaming=False).parameters] == ["x"]
    assert result_of(injecting, 3) == 13


@pytest.mark.parametrize("call", [plain, wraps(plain), by_name, functools.partial(plain)])
def test_every_argument_is_passed_by_position_or_by_the_name_that_the_wrapper_wants(call: Callable[..., Any]) -> None:
    assert by_position(call, ["x", "y", "z"], ["z"])(1, 2, 3) == 6


def test_a_function_without_a_wrapper_is_called_as_it_is() -> None:
    assert with_results_awaited(coroutine, mode_of(coroutine)) is coroutine
    assert by_position(plain, ["x", "y"], []) is plain
    assert inspect.iscoroutinefunction(coroutine)
