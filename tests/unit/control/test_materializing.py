"""Jobs that compute answers beforehand, on a real queue and store with replicas in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clipper.contract import wire
from clipper.contract.media_types import JSON, MSGPACK
from clipper_platform.control.function_facts import function_sample
from clipper_platform.control.materializing import Materializer
from clipper_platform.control.spare_capacity import Looks
from clipper_platform.errors import Conflict, InvalidRequest, NotFound
from clipper_platform.store.materialized import MaterializedStore
from clipper_platform.store.materialized_records import Job
from tests.support.memory_backend import Behaviour, InMemoryBackend
from tests.support.serving import Harness, harness, target

ROWS = [b'{"x":%d}' % n for n in range(20)]


@dataclass
class World:
    h: Harness
    store: MaterializedStore
    materializer: Materializer
    versions: dict[str, int] = field(default_factory=lambda: {"p": 1})

    async def job(self, *rows: bytes, stale: Any = "miss", source: str = "file") -> Job:
        job = await self.materializer.begin("p/f", source, ttl_s=None, stale=stale)
        await self.materializer.add_rows(job.id, job.received, rows)
        return await self.materializer.complete(job.id)

    async def ended(self, id: str) -> Job:
        async with asyncio.timeout(20):
            while (job := await self.store.job(id)).open:
                await asyncio.sleep(0)
        return job

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(20):
            while not await holds():
                await asyncio.sleep(0)


async def no_wait(_: float) -> None:
    await asyncio.sleep(0)


@asynccontextmanager
async def world(tmp_path: Path, behaviour: Behaviour, *, version: int = 1, **options: Any) -> AsyncIterator[World]:
    store = MaterializedStore(tmp_path / "materialized.db", 10**9)
    await store.open()
    async with harness(InMemoryBackend(behaviour), materialized=store) as h:
        await h.deploy(target("f", version=version, **options))
        versions = {"p": version}
        materializer = Materializer(
            store,
            version_of=lambda project: None if project not in versions else (versions[project], ""),
            exists=lambda project: project in versions,
            dispatcher=h.dispatcher,
            clock=h.clock,
            metrics=h.metrics,
            sleep=no_wait,
        )
        await materializer.open()
        try:
            yield World(h, store, materializer, versions)
        finally:
            await materializer.close()
            await store.close()


def answering(respond: Callable[[Any], Any], seen: list[Any] | None = None) -> Behaviour:
    """Replicas that answer arguments with what `respond` returns, in the format that is asked for, or with its
    ValueError."""

    async def behaviour(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        outcomes, bodies = [], []
        for item, payload in zip(invoke.items, payloads, strict=True):
            arguments = msgspec.json.decode(payload)
            if seen is not None:
                seen.append(arguments)
            try:
                value = respond(arguments)
            except ValueError as error:
                outcomes.append(
                    wire.Outcome(item.id, wire.Status.FUNCTION_ERROR, error_type="ValueError", message=str(error))
                )
                bodies.append(b"")
                continue
            kind = MSGPACK if item.accept == MSGPACK else JSON
            if kind == JSON and isinstance(value, msgspec.msgpack.Ext):
                value = [*value.data]
            body = (msgspec.msgpack if kind == MSGPACK else msgspec.json).encode(value)
            outcomes.append(wire.Outcome(item.id, wire.Status.OK, kind, len(body)))
            bodies.append(body)
        return wire.Result(invoke.batch, outcomes), bodies

    return behaviour


def refuses_13(arguments: Any) -> Any:
    if arguments["x"] == 13:
        raise ValueError("thirteen")
    return {"y": arguments["x"] * 2}


async def test_every_row_is_computed_once_and_calls_find_the_answers(tmp_path: Path) -> None:
    seen: list[Any] = []
    async with world(tmp_path, answering(refuses_13, seen), max_batch_size=8) as w:
        job = await w.ended((await w.job(*ROWS)).id)
        assert (job.state, job.done, job.failed, job.total) == ("done", 19, 1, 20)
        assert sorted(s["x"] for s in seen) == list(range(20))
        (failure,) = await w.materializer.failures(job.id, -1, 10)
        assert failure.number == 13
        for accept, encoder in ((JSON, msgspec.json), (MSGPACK, msgspec.msgpack), ("*/*", msgspec.json)):
            answer = await w.h.dispatcher.call("p/f", b'{ "x": 3 }', accept=accept)
            assert (answer.cache_status, encoder.decode(answer.payload)) == ("materialized", {"y": 6})
        assert len(seen) == 20
        assert (await w.h.dispatcher.call("p/f", b'{"x": 99}')).cache_status == ""
        assert len(seen) == 21


async def test_bad_rows_fail_and_the_others_do_not(tmp_path: Path) -> None:
    async with world(tmp_path, answering(refuses_13)) as w:
        job = await w.ended((await w.job(b"nope", b'{"x":1}', b'{"x":13}')).id)
        assert (job.done, job.failed) == (1, 2)
        failures = await w.materializer.failures(job.id, -1, 10)
        assert [(f.number, f.code) for f in failures] == [(0, "invalid_request"), (2, "function_error")]
        rows = {labels[1]: child.value for labels, child in w.h.metrics.materialized_rows.children.items()}
        assert rows == {"done": 1, "failed": 2}


async def test_what_only_one_format_can_say_is_kept_in_both(tmp_path: Path) -> None:
    array = msgspec.msgpack.Ext(1, b"\x01\x02")
    async with world(tmp_path, answering(lambda _: array)) as w:
        await w.ended((await w.job(b'{"x":1}')).id)
        in_json = await w.h.dispatcher.call("p/f", b'{"x":1}', accept=JSON)
        in_msgpack = await w.h.dispatcher.call("p/f", b'{"x":1}', accept=MSGPACK)
        assert (in_json.payload, in_json.cache_status) == (b"[1,2]", "materialized")
        assert (msgspec.msgpack.decode(in_msgpack.payload), in_msgpack.cache_status) == (array, "materialized")


async def test_an_answer_with_a_status_of_its_own_is_not_kept(tmp_path: Path) -> None:
    async def with_head(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        head = wire.ResponseHead(status=201, headers=[])
        outcomes = [wire.Outcome(item.id, wire.Status.OK, JSON, 1, response=head) for item in invoke.items]
        return wire.Result(invoke.batch, outcomes), [b"1"] * len(payloads)

    async with world(tmp_path, with_head) as w:
        job = await w.ended((await w.job(b'{"x":1}')).id)
        (failure,) = await w.materializer.failures(job.id, -1, 10)
        assert (failure.code, "status or headers" in failure.message) == ("invalid_result", True)


async def test_nan_is_left_to_the_replica_for_callers_of_json(tmp_path: Path) -> None:
    def nan_or_nothing(arguments: Any) -> Any:
        return {"y": [float("nan")]} if arguments["x"] else {"y": [None]}

    async with world(tmp_path, answering(nan_or_nothing)) as w:
        await w.ended((await w.job(b'{"x":1}', b'{"x":0}')).id)
        generation = w.store.index.all()[0]
        assert generation.count == 3  # the NaN in two formats
        assert (await w.h.dispatcher.call("p/f", b'{"x":0}')).payload == b'{"y":[null]}'


async def test_a_job_goes_on_in_the_next_platform_and_repeats_at_most_one_wave(tmp_path: Path) -> None:
    release, seen = asyncio.Event(), []

    async def held(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        if len(seen) >= 8:
            await release.wait()
        return await answering(refuses_13, seen)(invoke, payloads)

    async with world(tmp_path, held, max_batch_size=4, batch_policy="static") as w:
        job = await w.job(*ROWS)

        async def some_done() -> bool:
            return (await w.store.job(job.id)).done >= 4 and len(seen) >= 8

        await w.until(some_done)
    before = len(seen)
    release.set()
    async with world(tmp_path, answering(refuses_13, seen), max_batch_size=4, batch_policy="static") as w:
        job = await w.ended(job.id)
        assert (job.done, job.failed) == (19, 1)
    assert 20 <= len(seen) <= 20 + 4 + 4
    assert before < 20


async def test_rows_may_come_while_others_are_computed(tmp_path: Path) -> None:
    async with world(tmp_path, answering(refuses_13)) as w:
        job = await w.materializer.begin("p/f", "file", ttl_s=None, stale="miss")
        await w.materializer.add_rows(job.id, 0, ROWS[:3])

        async def first_done() -> bool:
            return (await w.store.job(job.id)).done == 3

        await w.until(first_done)
        with pytest.raises(Conflict, match="the next row is 3, not 7"):
            await w.materializer.add_rows(job.id, 7, ROWS)
        await w.materializer.add_rows(job.id, 3, ROWS[3:5])
        await w.materializer.complete(job.id)
        assert (await w.ended(job.id)).done == 5


async def test_a_new_version_stops_the_job(tmp_path: Path) -> None:
    async with world(tmp_path, answering(refuses_13)) as w:
        job = await w.materializer.begin("p/f", "file", ttl_s=None, stale="miss")
        w.versions["p"] = 2
        await w.materializer.add_rows(job.id, 0, ROWS)
        ended = await w.ended(job.id)
        assert (ended.state, ended.reason) == ("stopped", "version 1 was replaced by version 2: materialize again")


async def test_a_deleted_project_stops_the_job(tmp_path: Path) -> None:
    async with world(tmp_path, answering(refuses_13)) as w:
        job = await w.materializer.begin("p/f", "file", ttl_s=None, stale="miss")
        del w.versions["p"]
        await w.materializer.add_rows(job.id, 0, ROWS)
        assert (await w.ended(job.id)).reason == "project p was deleted"


async def test_a_job_can_be_cancelled_and_its_answers_stay(tmp_path: Path) -> None:
    async with world(tmp_path, answering(refuses_13)) as w:
        job = await w.materializer.begin("p/f", "file", ttl_s=None, stale="miss")
        await w.materializer.add_rows(job.id, 0, ROWS[:3])

        async def first_done() -> bool:
            return (await w.store.job(job.id)).done == 3

        await w.until(first_done)
        cancelled = await w.materializer.cancel(job.id)
        assert (cancelled.state, cancelled.reason) == ("stopped", "cancelled")
        assert (await w.h.dispatcher.call("p/f", b'{"x":1}')).cache_status == "materialized"
        with pytest.raises(NotFound):
            await w.materializer.cancel("nope")


async def test_old_answers_are_given_as_stale_by_choice(tmp_path: Path) -> None:
    async with world(tmp_path, answering(refuses_13)) as w:
        await w.ended((await w.job(*ROWS, stale="serve")).id)
    async with world(tmp_path, answering(lambda a: {"y": -a["x"]}), version=2) as w:
        stale = await w.h.dispatcher.call("p/f", b'{"x":3}')
        assert (stale.cache_status, stale.payload) == ("materialized-stale", b'{"y":6}')
        await w.ended((await w.job(b'{"x":3}', stale="serve")).id)
        fresh = await w.h.dispatcher.call("p/f", b'{"x":3}')
        assert (fresh.cache_status, fresh.payload) == ("materialized", b'{"y":-3}')
        assert (await w.h.dispatcher.call("p/f", b'{"x":4}')).cache_status == ""


async def test_background_work_counts_neither_as_load_nor_in_latencies(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def held(invoke: wire.Invoke, payloads: list[memoryview]) -> tuple[wire.Result, list[bytes]]:
        await release.wait()
        return await answering(refuses_13)(invoke, payloads)

    async with world(tmp_path, held) as w:
        queue = w.h.dispatcher.resolve("p/f")
        job = await w.job(*ROWS[:2])

        async def runs() -> bool:
            return queue.running > 0

        await w.until(runs)
        sample = function_sample(queue, w.h.replica_set(), w.h.clock.monotonic())
        assert sample is not None
        assert (sample.queued, sample.running, sample.arrivals) == (0, 0, 0)
        load = Looks().load(queue, w.h.clock.monotonic())
        assert (load.idle, load.replicas) == (0, 1)
        release.set()
        await w.ended(job.id)
        assert queue.latency.quantile(0.5, w.h.clock.monotonic()) is None
        assert (queue.background, queue.running, queue.submitted) == (0, 0, 0)


async def test_a_function_that_streams_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path, answering(refuses_13)) as w:
        w.h.dispatcher.resolve("p/f").streaming = True
        with pytest.raises(InvalidRequest, match="streams its answers"):
            await w.materializer.begin("p/f", "file", ttl_s=None, stale="miss")
        with pytest.raises(NotFound):
            await w.materializer.begin("p/nope", "file", ttl_s=None, stale="miss")


async def test_the_answers_of_three_versions_are_kept(tmp_path: Path) -> None:
    for version in range(1, 6):
        async with world(tmp_path, answering(refuses_13), version=version) as w:
            await w.ended((await w.job(*ROWS[:2])).id)
            await w.until(partial(kept, w, version))


async def kept(w: World, version: int) -> bool:
    return [g.version for g in w.store.index.all()] == list(range(version, max(0, version - 3), -1))


async def test_a_deleted_project_is_forgotten_at_once_or_by_the_next_platform(tmp_path: Path) -> None:
    async with world(tmp_path, answering(refuses_13)) as w:
        await w.ended((await w.job(*ROWS[:2])).id)
        open_job = await w.materializer.begin("p/f", "other", ttl_s=None, stale="miss")

        async def gone() -> bool:
            return not await w.store.jobs() and not w.store.index.all()

        w.materializer.forget("p")
        await w.until(gone)
        assert open_job.id not in w.materializer.waiting
        await w.ended((await w.job(*ROWS[:2])).id)
    store = MaterializedStore(tmp_path / "materialized.db", 10**9)
    await store.open()
    async with harness(InMemoryBackend(), materialized=store) as h:
        next_one = Materializer(
            store, version_of=lambda _: None, exists=lambda _: False, dispatcher=h.dispatcher, clock=h.clock,
            metrics=h.metrics,
        )  # fmt: skip
        await next_one.open()
        assert await store.jobs() == []
        await next_one.close()
    await store.close()
