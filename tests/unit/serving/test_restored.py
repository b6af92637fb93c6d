"""Versions that ran before: known by what they published, and started by their next call."""

from __future__ import annotations

import pytest

from clipper_platform.types import FunctionId
from tests.support.memory_backend import InMemoryBackend
from tests.support.serving import ManualClock, harness, target

pytestmark = pytest.mark.virtual_time

SCHEMA = {"parameters": {"text": {"type": "string"}}, "streaming": False}
F = FunctionId("p", "f", 1)


async def test_without_a_replica_it_is_known_by_what_it_published_and_a_call_waits_for_one() -> None:
    backend = InMemoryBackend()
    async with harness(backend) as h:
        await h.replica_sets.start(target(), replicas=0, wait=False, schema=SCHEMA)
        h.dispatcher.set_route("p", 1)
        queue = h.dispatcher.resolve("p/f")
        assert (queue.schema, queue.streaming) == (SCHEMA, False)
        status = h.facts.status(F)
        assert status is not None
        assert (status.state, status.replicas_wanted, backend.launches) == ("ready", 0, [])
        called: list[FunctionId] = []
        h.scaled.on_call(F, called.append)
        call = h.call(body=b"first")
        assert called == [F]
        h.replica_sets.scale(F, 1)
        assert (await call.wait()).payload == b"first"
        assert queue.schema == {"streaming": False}  # as the replica says it


async def test_its_idle_time_goes_on() -> None:
    clock = ManualClock()
    async with harness(clock=clock) as h:
        await h.replica_sets.start(target(), replicas=0, wait=False, idle_s=300.0)
        await h.replica_sets.start(target("g"), replicas=0, wait=False)
        since = {queue.target.id.function: queue.idle_since for queue in h.dispatcher.queues()}
        assert since == {"f": clock.now - 300, "g": clock.now}


async def test_a_version_is_there_for_callers_of_its_number_as_soon_as_it_is_being_started() -> None:
    async with harness() as h:
        await h.deploy(target())
        await h.replica_sets.start(target(version=2), replicas=1)
        assert h.dispatcher.resolve("p/f@2").target.id.version == 2
        assert h.dispatcher.resolve("p/f").target.id.version == 1


async def test_a_version_that_ends_leaves_no_series_but_the_end_of_all_looks_at_none() -> None:
    async with harness() as h:
        await h.deploy(target())
        await h.deploy(target(version=2))
        forgotten: list[tuple[str, int]] = []
        forget = h.metrics.forget
        h.metrics.forget = lambda *names: forgotten.append(names) or forget(*names)  # type: ignore[method-assign,func-returns-value]
        await h.replica_sets.stop("p", 1)
        assert forgotten == [("p/f", 1)]
        await h.replica_sets.close()
        assert forgotten == [("p/f", 1)]
