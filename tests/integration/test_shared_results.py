"""The shared tier of the result cache on a real Redis: it helps while it is there, and is not missed when it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

import pytest

from clipper.contract import wire
from clipper_platform.clock import SystemClock
from clipper_platform.store.results import RedisResults
from tests.support.memory_backend import InMemoryBackend, echo
from tests.support.redis_server import RedisServer, running_redis
from tests.support.serving import harness, target


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


async def until(ask: Callable[[], Awaitable[bool]], timeout_s: float = 5) -> None:
    async with asyncio.timeout(timeout_s):
        while not await ask():
            await asyncio.sleep(0.01)


async def test_what_one_platform_computed_another_one_finds(redis: RedisServer) -> None:
    results = RedisResults(redis.url, SystemClock())
    await results.open()
    executions: list[bytes] = []

    async def count(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        executions.extend(bytes(p) for p in payloads)
        return await echo(invoke, payloads)

    try:
        async with harness(InMemoryBackend(count), shared=results) as first:
            await first.deploy(target(cache_ttl_s=60))
            assert (await first.call(body=b"same").wait()).invocation.cache_status == "miss"
            queue = first.dispatcher.resolve("p/f")
            key = first.callers[0].invocation.cache_key
            assert key is not None

            async def stored() -> bool:
                return await results.get(queue.cached_as, key) == (b"same", "application/json")

            await until(stored)
            async with harness(InMemoryBackend(count), shared=results) as second:
                await second.deploy(target(cache_ttl_s=60))
                calls = [second.call(body=b"same") for _ in range(3)]
                for call in calls:
                    assert (await call.wait()).payload == b"same"
                assert {c.invocation.cache_status for c in calls} == {"shared"}
                assert (await second.call(body=b"same").wait()).invocation.cache_status == "hit"
        assert executions == [b"same"]

        async def dropped() -> bool:
            return await results.get(queue.cached_as, key) is None

        await until(dropped)
    finally:
        await results.close()


async def test_a_caller_that_leaves_during_the_look_up_leaves_nothing_behind(redis: RedisServer) -> None:
    results = RedisResults(redis.url, SystemClock())
    await results.open()
    try:
        async with harness(shared=results) as h:
            await h.deploy(target(cache_ttl_s=60))
            call = h.call(body=b"x")
            h.dispatcher.cancel(call.invocation)
            assert call.code == "client_closed"
            assert h.dispatcher.cache.flights == 0
    finally:
        await results.close()


async def test_a_redis_that_is_gone_costs_one_short_wait_and_is_left_alone(redis: RedisServer) -> None:
    results = RedisResults(redis.url, SystemClock())
    await results.open()
    try:
        redis.kill()
        async with harness(shared=results) as h:
            await h.deploy(target(cache_ttl_s=60))
            assert (await h.call(body=b"x").wait()).code == "ok"
            assert results.resting
            assert (await h.call(body=b"y").wait()).code == "ok"
    finally:
        await results.close()


async def test_large_results_and_past_lifetimes_are_not_written(redis: RedisServer) -> None:
    results = RedisResults(redis.url, SystemClock())
    await results.open()
    try:
        results.put("o", b"1" * 32, b"x" * (1 << 21), "application/json", 60)
        results.put("o", b"2" * 32, b"x", "application/json", 0.0001)
        results.put("o", b"3" * 32, b"x", "application/json", 60)

        async def third() -> bool:
            return await results.get("o", b"3" * 32) is not None

        await until(third)
        assert await results.get("o", b"1" * 32) is None
        assert await results.get("o", b"2" * 32) is None
    finally:
        await results.close()


async def test_a_number_that_was_given_out_again_does_not_find_the_results_of_before(redis: RedisServer) -> None:
    """The store lost its data: version 1 is another one now, and its results are in the shared tier still."""
    results = RedisResults(redis.url, SystemClock())
    await results.open()

    async def other(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        return await echo(invoke, [memoryview(b"new")] * len(payloads))

    old = replace(target(cache_ttl_s=60), identity="a")
    try:
        async with harness(InMemoryBackend(echo), shared=results) as first:
            await first.deploy(old)
            assert (await first.call(body=b"same").wait()).payload == b"same"
            key = first.callers[0].invocation.cache_key
            assert key is not None
            kept = first.dispatcher.resolve("p/f").cached_as

            async def stored() -> bool:
                return await results.get(kept, key) is not None

            await until(stored)
            async with harness(InMemoryBackend(other), shared=results) as second:
                await second.deploy(replace(old, identity="b"))
                assert (await second.call(body=b"same").wait()).invocation.cache_status == "miss"
    finally:
        await results.close()
