"""Versions that share a project's calls, and calls that try a version out."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from clipper.contract import wire
from clipper_platform.errors import ClipperError, DeadlineExceeded, InvalidResult, NotFound
from clipper_platform.serving.dispatcher import Dispatcher
from clipper_platform.types import FunctionId
from tests.support.memory_backend import InMemoryBackend, echo
from tests.support.serving import Harness, harness, target

pytestmark = pytest.mark.virtual_time


async def two_versions(h: Harness) -> Dispatcher:
    """Versions 1 and 2 of `f`, a `g` that only version 1 has and an `h` that only version 2 has; 1 is routed."""
    for made in (target(), target("g"), target(version=2), target("h", version=2)):
        await h.dispatcher.start(made, replicas=1)
    h.dispatcher.set_route("p", 1)
    return h.dispatcher


def dealt(dispatcher: Dispatcher, path: str, calls: int = 100) -> Counter[int]:
    return Counter(dispatcher.resolve(path).target.id.version for _ in range(calls))


async def test_versions_share_the_calls_by_percent_until_the_route_flips() -> None:
    async with harness() as h:
        dispatcher = await two_versions(h)
        dispatcher.set_weights("p", {1: 90, 2: 10})
        assert dealt(dispatcher, "p/f") == {1: 90, 2: 10}
        assert dealt(dispatcher, "p/f@1") == {1: 100}
        assert dealt(dispatcher, "p/f@2") == {2: 100}
        dispatcher.set_weights("p", {1: 0, 2: 100})
        assert dealt(dispatcher, "p/f") == {2: 100}
        dispatcher.set_route("p", 2)
        assert dealt(dispatcher, "p/f") == {2: 100}


async def test_without_weights_all_calls_follow_the_route_again() -> None:
    async with harness() as h:
        dispatcher = await two_versions(h)
        dispatcher.set_weights("p", {1: 50, 2: 50})
        dispatcher.set_weights("p", {})
        assert dealt(dispatcher, "p/f") == {1: 100}


async def test_a_function_that_one_version_alone_has_is_not_shared_out() -> None:
    async with harness() as h:
        dispatcher = await two_versions(h)
        dispatcher.set_weights("p", {1: 10, 2: 90})
        assert dealt(dispatcher, "p/g") == {1: 100}
        with pytest.raises(NotFound):
            dispatcher.resolve("p/h")


async def test_a_version_that_ends_meanwhile_leaves_all_calls_to_the_other() -> None:
    async with harness() as h:
        dispatcher = await two_versions(h)
        dispatcher.set_weights("p", {1: 50, 2: 50})
        await dispatcher.stop("p", 2)
        assert dealt(dispatcher, "p/f") == {1: 100}


async def test_a_project_that_is_gone_has_no_shares() -> None:
    async with harness() as h:
        dispatcher = await two_versions(h)
        dispatcher.set_weights("p", {1: 50, 2: 50})
        dispatcher.drop_route("p")
        with pytest.raises(NotFound):
            dispatcher.resolve("p/f")


async def failing(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
    outcomes = [
        wire.Outcome(id=item.id, status=wire.Status.FUNCTION_ERROR, error_type="ValueError", message="no such model")
        for item in invoke.items
    ]
    return wire.Result(batch=invoke.batch, outcomes=outcomes), [b""] * len(outcomes)


async def test_a_version_is_tried_out_before_any_route_leads_to_it_and_its_answers_are_counted() -> None:
    async with harness() as h:
        await h.dispatcher.start(target(), replicas=1)
        await h.dispatcher.call(FunctionId("p", "f", 1), b"{}")
        answers = h.dispatcher.answers(FunctionId("p", "f", 1))
        assert (answers.answered, answers.failed, answers.broken) == (1, 0, False)
        with pytest.raises(NotFound):
            await h.dispatcher.call(FunctionId("p", "f", 2), b"{}")


async def test_a_call_that_times_out_or_gets_the_default_output_has_failed() -> None:
    async def hang(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        await asyncio.sleep(0.3)
        return await echo(invoke, payloads)

    for options, met in (({}, DeadlineExceeded), ({"default_output": 0}, InvalidResult)):
        async with harness(InMemoryBackend(hang)) as h:
            await h.dispatcher.start(target(timeout_s=0.05, **options), replicas=1)
            with pytest.raises(met):
                await h.dispatcher.call(FunctionId("p", "f", 1), b"{}")
            failed = h.dispatcher.answers(FunctionId("p", "f", 1)).failed
            assert failed == (0 if options else 1)


async def test_a_call_that_fails_raises_what_the_function_raised() -> None:
    async with harness(InMemoryBackend(failing)) as h:
        await h.dispatcher.start(target(), replicas=1)
        with pytest.raises(ClipperError, match="no such model"):
            await h.dispatcher.call(FunctionId("p", "f", 1), b"{}")
