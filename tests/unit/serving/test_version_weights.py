"""Versions that share a project's calls."""

from __future__ import annotations

from collections import Counter

import pytest

from clipper_platform.errors import NotFound
from clipper_platform.serving.dispatcher import Dispatcher
from tests.support.serving import Harness, harness, target

pytestmark = pytest.mark.virtual_time


async def two_versions(h: Harness) -> Dispatcher:
    """Versions 1 and 2 of `f`, a `g` that only version 1 has and an `h` that only version 2 has; 1 is routed."""
    for version in (target(), target("g"), target(version=2), target("h", version=2)):
        await h.replica_sets.start(version, replicas=1)
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
        await h.replica_sets.stop("p", 2)
        assert dealt(dispatcher, "p/f") == {1: 100}


async def test_a_project_that_is_gone_has_no_shares() -> None:
    async with harness() as h:
        dispatcher = await two_versions(h)
        dispatcher.set_weights("p", {1: 50, 2: 50})
        dispatcher.drop_route("p")
        with pytest.raises(NotFound):
            dispatcher.resolve("p/f")
