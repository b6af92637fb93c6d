from __future__ import annotations

import asyncio
import datetime
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest
from starlette.responses import Response

import clipper
from clipper import errors
from clipper.address import FunctionAddress
from clipper.client import Client, _client_of, shared_client
from clipper.function import Function
from clipper.transport import RetryPolicy
from tests.unit.sdk.scripted_platform import MSGPACK, ScriptedPlatform, error_response

ADDING = {
    "function": "demo/add",
    "version": 1,
    "streaming": False,
    "parameters": {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a"]},
}


@pytest.fixture
def client(platform: ScriptedPlatform) -> Iterator[Client]:
    with Client(retry=RetryPolicy(base_delay_s=0.001)) as client:
        yield client


@pytest.fixture
def add(platform: ScriptedPlatform, client: Client) -> Function[..., Any]:
    """Known by name only."""
    platform.functions["add"] = lambda a, b=10: a + b
    platform.schemas["add"] = ADDING
    return clipper.Function.from_name("demo/add", client=client)


def local(code: Any, client: Client, **options: Any) -> Function[..., Any]:
    """Decorated code, deployed as demo/NAME."""
    decorated: Function[..., Any] = clipper.function(**options)(code)
    return decorated.bind(FunctionAddress("demo", code.__name__), client)


# One


def test_positional_arguments_are_named_by_the_platforms_schema(add: Function[..., Any]) -> None:
    assert add.remote(1, 2) == 3
    assert add.remote(1) == 11
    assert add.remote(1, b=3) == 4
    assert add.remote(b=1, a=1) == 2


def test_the_schema_is_asked_for_once(add: Function[..., Any], platform: ScriptedPlatform) -> None:
    for n in range(3):
        add.remote(n)
    assert platform.paths().count("GET /fn/demo/add/schema") == 1


@pytest.mark.parametrize(("args", "kwargs"), [((1, 2, 3), {}), ((1,), {"a": 2})])
def test_arguments_that_cannot_be_bound_are_a_type_error(
    add: Function[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(TypeError):
        add.remote(*args, **kwargs)


def test_a_version_is_part_of_the_address(platform: ScriptedPlatform, add: Function[..., Any], client: Client) -> None:
    assert clipper.Function.from_name("demo/add@4", client=client).remote(1, 2) == 3
    assert "POST /fn/demo/add@4" in platform.paths()


def test_local_code_names_positional_arguments_without_asking(platform: ScriptedPlatform, client: Client) -> None:
    def shout(text: str, times: int = 1) -> str: ...  # type: ignore[empty-body]  # only its signature matters

    platform.functions["shout"] = lambda text, times=1: text.upper() * times
    assert local(shout, client).remote("a", 2) == "AA"
    assert platform.paths() == ["POST /fn/demo/shout"]
    assert msgspec.msgpack.decode(platform.seen[0].body) == {"text": "a", "times": 2}


def test_a_class_is_called_with_the_arguments_of_its_call(platform: ScriptedPlatform, client: Client) -> None:
    class Model:
        def __call__(self, pixels: list[int], /, *, scale: list[int] | None = None) -> list[int]: ...  # type: ignore[empty-body]  # only its signature matters

    platform.functions["Model"] = lambda pixels, scale=1: pixels * scale
    model = local(Model, client, max_batch_size=4)
    assert model.remote(3, scale=2) == 6
    with pytest.raises(TypeError, match="Model: missing a required argument: 'pixels'"):
        model.remote()


def test_named_extra_arguments_travel_and_nameless_ones_are_refused(platform: ScriptedPlatform, client: Client) -> None:
    def loose(*items: int, **extra: int) -> Any: ...

    platform.functions["loose"] = lambda **extra: extra
    function = local(loose, client)
    assert function.remote(x=1) == {"x": 1}
    with pytest.raises(TypeError, match=r"\*items have no names"):
        function.remote(1)


def test_calls_travel_as_messagepack_both_ways(add: Function[..., Any], platform: ScriptedPlatform) -> None:
    add.remote(1)
    headers = platform.seen[-1].headers
    assert (headers["content-type"], headers["accept"]) == (MSGPACK, MSGPACK)


def test_arrays_bytes_and_moments_arrive_as_they_were_sent(platform: ScriptedPlatform, client: Client) -> None:
    platform.functions["echo"] = lambda **arguments: arguments
    platform.schemas["echo"] = {"parameters": {"properties": {"a": {}}}}
    moment = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    sent: dict[str, Any] = {"a": np.arange(6, dtype=np.uint8).reshape(2, 3), "b": b"\x00\xff", "c": moment}
    back = clipper.Function.from_name("demo/echo", client=client).remote(**sent)
    assert np.array_equal(back["a"], sent["a"])
    assert back["a"].dtype == np.uint8
    assert (back["b"], back["c"]) == (b"\x00\xff", moment)


@dataclass
class Label:
    name: str
    score: float


def test_a_value_comes_back_as_the_annotated_type(platform: ScriptedPlatform, client: Client) -> None:
    def best(text: str) -> Label: ...  # type: ignore[empty-body]  # only its signature matters

    def each(text: list[str]) -> list[Label]: ...  # type: ignore[empty-body]  # as above

    platform.functions |= dict.fromkeys(("best", "each"), lambda text: {"name": text, "score": 0.5})
    assert local(best, client).remote("a") == Label("a", 0.5)
    assert local(each, client, max_batch_size=2).remote("b") == Label("b", 0.5)


def test_the_timeout_goes_to_the_platform_as_milliseconds(add: Function[..., Any], platform: ScriptedPlatform) -> None:
    add.with_options(timeout_s=2.5).remote(1)
    assert 2000 < int(platform.seen[-1].headers["x-clip-timeout-ms"]) <= 2500
    add.remote(1)
    assert "x-clip-timeout-ms" not in platform.seen[-1].headers


def test_a_failed_function_raises_with_the_remote_exceptions_type(
    platform: ScriptedPlatform, add: Function[..., Any]
) -> None:
    platform.functions["add"] = lambda **_: error_response(500, "function_error", "bad pixels", type="ValueError")
    with pytest.raises(clipper.ClipperError, match="bad pixels") as caught:
        add.remote(1)
    assert isinstance(caught.value, errors.FunctionError)
    assert caught.value.exception_type == "ValueError"


def test_a_full_queue_is_waited_out(platform: ScriptedPlatform, add: Function[..., Any]) -> None:
    add.remote(1)
    platform.scripted.append(error_response(429, "queue_full", headers={"Retry-After": "0"}))
    assert add.remote(1) == 11


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Response(b"[1]", media_type="application/json"), [1]),
        (Response(b"\x89PNG", media_type="image/png"), b"\x89PNG"),
        (Response(b"\x00", media_type="application/octet-stream"), b"\x00"),
        (Response(status_code=204), None),
    ],
)
def test_other_formats_are_understood(
    platform: ScriptedPlatform, add: Function[..., Any], answer: Response, expected: Any
) -> None:
    platform.functions["add"] = lambda **_: answer
    assert add.remote(1) == expected


def test_a_page_of_another_server_is_an_unexpected_answer(platform: ScriptedPlatform, add: Function[..., Any]) -> None:
    platform.functions["add"] = lambda **_: Response(b"<html>", media_type="text/html")
    with pytest.raises(errors.UnexpectedAnswer, match="text/html"):
        add.remote(1)


# Awaited


async def test_remote_can_be_awaited(add: Function[..., Any]) -> None:
    assert await add.remote.aio(1, b=2) == 3


async def test_an_awaited_call_is_a_coroutine_to_task_groups(add: Function[..., Any]) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(add.remote.aio(n, 1)) for n in range(5)]
    assert [task.result() for task in tasks] == [1, 2, 3, 4, 5]


def test_each_event_loop_gets_connections_that_end_with_it(add: Function[..., Any]) -> None:
    # A connection that outlived its loop would warn when it is collected, and warnings are errors here.
    async def main() -> Any:
        return await asyncio.gather(*(add.remote.aio(n, 1) for n in range(3)))

    assert asyncio.run(main()) == [1, 2, 3]
    assert asyncio.run(main()) == [1, 2, 3]


def test_nothing_is_sent_before_it_is_awaited(add: Function[..., Any], platform: ScriptedPlatform) -> None:
    add.remote.aio(1).close()
    assert platform.seen == []


# Streams

COUNT = [b"data: 0\n\n", b"data: 1\n", b"\nda", b'ta: {"n": 2}\n\n', b"event: end\ndata: {}\n\n"]
COUNTING = {"streaming": True, "parameters": {"properties": {"n": {}}}}


@pytest.fixture
def count(platform: ScriptedPlatform, client: Client) -> Function[..., Any]:
    platform.streams["count"] = COUNT
    platform.functions["count"] = lambda n: [0, 1, {"n": 2}]
    platform.schemas["count"] = COUNTING
    return clipper.Function.from_name("demo/count", client=client)


def test_a_stream_is_an_iterator_of_its_items(count: Function[..., Any]) -> None:
    assert list(count.remote(3)) == [0, 1, {"n": 2}]


async def test_a_stream_can_be_iterated_asynchronously(count: Function[..., Any]) -> None:
    assert [item async for item in count.remote.aio(3)] == [0, 1, {"n": 2}]


async def test_a_stream_that_is_awaited_gives_all_items(count: Function[..., Any]) -> None:
    assert await count.remote.aio(3) == [0, 1, {"n": 2}]
    assert list(count.map([1, 2])) == [[0, 1, {"n": 2}]] * 2


class Adder:
    def __call__(self, a: int) -> int:
        return a + 1


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.wraps(function)(lambda *args, **kwargs: function(*args, **kwargs))


@pytest.mark.parametrize("wrap", [functools.partial, wrapped])
def test_a_wrapped_function_is_called_as_what_it_wraps(
    platform: ScriptedPlatform, client: Client, wrap: Callable[[Any], Any]
) -> None:
    def labels(n: int) -> Iterator[Label]:
        yield Label("", n)

    item = b'data: {"name": "a", "score": 1}\n\n'
    platform.streams["f"] = [item, item, b"event: end\ndata: {}\n\n"]
    function: Function[..., Any] = Function(wrap(labels), name="f")
    assert list(function.bind(FunctionAddress("demo", "f"), client).remote(1)) == [Label("a", 1.0)] * 2


@pytest.mark.parametrize("code", [Adder(), functools.partial(lambda a, b: a + b, b=1), wrapped(lambda a: a + 1)])
def test_code_without_a_name_is_called_too(platform: ScriptedPlatform, client: Client, code: Any) -> None:
    platform.functions["f"] = lambda a, b=1: a + b
    function: Function[..., Any] = Function(code, name="f")
    assert function.bind(FunctionAddress("demo", "f"), client).remote(3) == 4
    with pytest.raises(TypeError, match="argument"):
        function.bind(FunctionAddress("demo", "f"), client).remote(1, 2, 3)


def test_local_generators_stream_without_asking(platform: ScriptedPlatform, client: Client) -> None:
    def labels(n: int) -> Iterator[Label]:
        yield Label("", n)

    async def alabels(n: int) -> AsyncIterator[Label]:
        yield Label("", n)

    item = b'data: {"name": "a", "score": 1}\n\n'
    platform.streams["labels"] = platform.streams["alabels"] = [item, item, b"event: end\ndata: {}\n\n"]
    for code in (labels, alabels):
        assert list(local(code, client).remote(1)) == [Label("a", 1.0)] * 2
    assert not any(path.endswith("schema") for path in platform.paths())


def test_an_error_in_a_stream_is_raised_after_the_items_before_it(
    platform: ScriptedPlatform, count: Function[..., Any]
) -> None:
    body = b'{"error": {"code": "function_error", "message": "boom", "request_id": "r", "type": "KeyError"}}'
    platform.streams["count"] = [b"data: 0\n\n" + b"event: error\ndata: " + body + b"\n\n"]
    items = count.remote(3)
    assert next(items) == 0
    with pytest.raises(errors.FunctionError, match="boom") as caught:
        next(items)
    assert (caught.value.exception_type, caught.value.request_id, caught.value.status) == ("KeyError", "r", 500)


@pytest.mark.parametrize("data", [b"{}", b"[]", b'"x"', b'{"error": 5}'])
def test_a_strange_error_in_a_stream_is_an_unexpected_answer(
    platform: ScriptedPlatform, count: Function[..., Any], data: bytes
) -> None:
    platform.streams["count"] = [b"event: error\ndata: " + data + b"\n\n"]
    with pytest.raises(errors.UnexpectedAnswer):
        list(count.remote(3))


def test_a_stream_that_stops_without_its_end_is_a_lost_connection(
    platform: ScriptedPlatform, count: Function[..., Any]
) -> None:
    platform.streams["count"] = [b"data: 0\n\n"]
    with pytest.raises(errors.ConnectionLost, match="before its end"):
        list(count.remote(3))


def test_a_refused_stream_raises_what_the_platform_says(platform: ScriptedPlatform, count: Function[..., Any]) -> None:
    del platform.streams["count"], platform.functions["count"]
    with pytest.raises(errors.NotFound):
        list(count.remote(3))


def test_an_answer_that_is_no_stream_is_told(platform: ScriptedPlatform, count: Function[..., Any]) -> None:
    del platform.streams["count"]
    with pytest.raises(errors.UnexpectedAnswer, match="is the function a generator"):
        list(count.remote(3))


async def test_iterating_over_what_does_not_stream_is_a_type_error(add: Function[..., Any]) -> None:
    with pytest.raises(TypeError, match="await it"):
        async for _ in add.remote.aio(1):
            pass


# Many


def test_map_gives_values_in_the_order_of_the_inputs(platform: ScriptedPlatform, add: Function[..., Any]) -> None:
    second = asyncio.Event()

    async def first_last(a: int, b: int = 0) -> int:
        if a == 0:
            await second.wait()
        second.set()
        return a + b

    platform.functions["add"] = first_last
    assert list(add.map(range(6))) == [0, 1, 2, 3, 4, 5]
    assert list(add.map({"a": n, "b": 1} for n in range(3))) == [1, 2, 3]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_map_keeps_no_more_calls_open_than_allowed(
    platform: ScriptedPlatform, add: Function[..., Any], concurrency: int
) -> None:
    as_many_as_may_be = asyncio.Barrier(concurrency)

    async def together(a: int) -> int:
        await as_many_as_may_be.wait()
        return a

    platform.functions["add"] = together
    assert list(add.map(range(12), concurrency=concurrency)) == list(range(12))
    assert platform.most_open == concurrency


def test_map_reads_its_inputs_as_it_goes(add: Function[..., Any]) -> None:
    taken = []

    def endless() -> Iterator[int]:
        n = 0
        while True:
            taken.append(n)
            yield n
            n += 1

    results = add.map(endless(), concurrency=2)
    assert [next(results), next(results), next(results)] == [10, 11, 12]
    results.close()  # type: ignore[attr-defined]  # a generator
    assert len(taken) < 12


def failing(a: int, b: int = 0) -> Any:
    return error_response(500, "function_error", f"bad {a}", type="ValueError") if a == 2 else a


def test_the_first_error_ends_a_map(platform: ScriptedPlatform, add: Function[..., Any]) -> None:
    platform.functions["add"] = failing
    results = add.map(range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(errors.FunctionError, match="bad 2"):
        next(results)


def test_errors_become_values_where_asked_for(platform: ScriptedPlatform, add: Function[..., Any]) -> None:
    platform.functions["add"] = failing
    results = list(add.map(range(5), return_exceptions=True))
    assert [r for r in results if isinstance(r, int)] == [0, 1, 3, 4]
    assert isinstance(results[2], errors.FunctionError)


def test_closing_a_map_cancels_what_is_open(platform: ScriptedPlatform, client: Client) -> None:
    def hang(n: int) -> int: ...  # type: ignore[empty-body]  # only its signature matters

    release = threading.Event()

    def inputs() -> Iterator[int]:
        yield 1
        platform.entered.wait(5)
        release.set()
        raise RuntimeError("the inputs broke")

    with pytest.raises(RuntimeError, match="the inputs broke"):
        list(local(hang, client).map(inputs()))
    assert release.is_set()
    assert platform.left.wait(5)


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, True, "4"])
def test_a_senseless_concurrency_is_refused(add: Function[..., Any], concurrency: Any) -> None:
    with pytest.raises(ValueError, match="concurrency"):
        add.map([], concurrency=concurrency)


async def test_map_can_be_iterated_asynchronously(platform: ScriptedPlatform, add: Function[..., Any]) -> None:
    async def inputs() -> AsyncIterator[dict[str, int]]:
        for n in range(5):
            yield {"a": n}

    assert [value async for value in add.map.aio(inputs(), concurrency=2)] == [10, 11, 12, 13, 14]
    assert platform.most_open <= 2
    platform.functions["add"] = failing
    mixed = [value async for value in add.map.aio(range(4), return_exceptions=True)]
    assert [type(value).__name__ for value in mixed] == ["int", "int", "FunctionError", "int"]
    with pytest.raises(errors.FunctionError):
        async for _ in add.map.aio(range(4)):
            pass


async def test_cancelling_an_asynchronous_map_cancels_its_calls(platform: ScriptedPlatform, client: Client) -> None:
    def hang(n: int) -> int: ...  # type: ignore[empty-body]  # only its signature matters

    async def consume() -> None:
        async for _ in local(hang, client).map.aio([1]):
            pass

    task = asyncio.create_task(consume())
    await asyncio.to_thread(platform.entered.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(platform.left.wait, 5)


# In the background


def test_a_spawned_call_is_got_later(add: Function[..., Any]) -> None:
    call = add.spawn(1, 2)
    assert call.get(timeout=5) == 3
    assert call.done()
    assert not call.cancel()
    assert "done" in repr(call)


def test_getting_too_early_times_out_and_leaves_the_call_running(platform: ScriptedPlatform, client: Client) -> None:
    def hang(n: int) -> int: ...  # type: ignore[empty-body]  # only its signature matters

    call = local(hang, client).spawn(1)
    with pytest.raises(TimeoutError):
        call.get(timeout=0.01)
    assert not call.done()
    assert platform.entered.wait(5)
    assert not platform.left.is_set()
    assert call.cancel()
    assert platform.left.wait(5)
    with pytest.raises(errors.CallCancelled, match="demo/hang was cancelled"):
        call.get()


def test_a_spawned_calls_error_is_raised_when_it_is_got(platform: ScriptedPlatform, add: Function[..., Any]) -> None:
    platform.functions["add"] = failing
    with pytest.raises(errors.FunctionError, match="bad 2"):
        add.spawn(2).get(timeout=5)


def test_a_wrong_argument_of_local_code_is_told_at_once(client: Client) -> None:
    def shout(text: str) -> str: ...  # type: ignore[empty-body]  # only its signature matters

    with pytest.raises(TypeError, match="shout: missing a required argument"):
        local(shout, client).spawn()


async def test_a_spawned_call_can_be_awaited_with_a_limit(platform: ScriptedPlatform, add: Function[..., Any]) -> None:
    call = await add.spawn.aio(1, b=1)
    assert await call.get.aio(timeout=5) == 2
    hanging = clipper.Function.from_name("demo/hang", client=add._client)
    platform.schemas["hang"] = ADDING
    call = await hanging.spawn.aio(1)
    with pytest.raises(TimeoutError, match="demo/hang has not answered"):
        await call.get.aio(timeout=0.01)
    waiter = asyncio.create_task(call.get.aio())
    await asyncio.to_thread(platform.entered.wait, 5)
    call.cancel()
    with pytest.raises(errors.CallCancelled):
        await waiter


def test_closing_the_client_cancels_what_was_spawned(platform: ScriptedPlatform) -> None:
    def hang(n: int) -> int: ...  # type: ignore[empty-body]  # only its signature matters

    client = Client()
    call = local(hang, client).spawn(1)
    assert platform.entered.wait(5)
    client.close()
    assert platform.left.wait(5)
    with pytest.raises(errors.CallCancelled):
        call.get(timeout=5)


# The client that functions use by themselves


def test_functions_share_one_client_per_platform_and_follow_the_address(
    platform: ScriptedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shared_client()
    assert shared_client() is first
    platform.functions["add"] = lambda a: a
    platform.schemas["add"] = ADDING
    function: Function[..., Any] = clipper.Function.from_name("demo/add")
    assert function.remote(a=1) == 1
    monkeypatch.setenv("CLIP_URL", "http://127.0.0.1:1")
    assert shared_client() is not first
    shared_client().close()
    first.close()
    _client_of.cache_clear()  # what is closed must not be found by other tests


def test_without_a_platform_the_first_call_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.monotonic()
    with pytest.raises(errors.PlatformUnreachable, match="is `clip up` running"):
        clipper.Function.from_name("demo/add").remote(a=1)
    assert time.monotonic() - begun < 5
