"""What every store does with applications and what they learn: in memory, SQLite, and a real Redis."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from clipper_platform.errors import Conflict, NotFound
from clipper_platform.store.applications import (
    PAIRS_KEPT,
    AwaitedChunk,
    Learned,
    Learning,
    Pair,
    StateWrite,
)
from clipper_platform.store.base import Application, MetadataStore


def application(name: str = "digits", **changes: Any) -> Application:
    spec = {"name": name, "input_type": "doubles", "default_output": [1, {"é": None}]}
    return Application(**{"name": name, "spec": spec, "created_at": 1.0, "updated_at": 1.0} | changes)


def chunk(last_at: float = 1.0, count: int = 1, data: bytes = b"\x00\xff") -> AwaitedChunk:
    return AwaitedChunk(last_at=last_at, count=count, data=data)


def pair(query_id: int, at: float = 1.0) -> Pair:
    return Pair(query_id=query_id, at=at, record=b'{"label":"\\u0000\xc3\xa9 \\""}')


def write(context: str, state: Any, revision: int = 0, at: float = 1.0) -> StateWrite:
    return StateWrite(context=context, state=state, updated_at=at, revision=revision)


async def learnt(store: MetadataStore, *pairs: Pair, states: Any = (), counts: Any = None) -> Learned:
    return await store.application_data.learn("digits", Learning(pairs=pairs, states=states, counts=counts or {}))


@pytest.fixture
async def data_store(store: MetadataStore) -> MetadataStore:
    """A store with the application "digits"."""
    await store.put_application(application())
    return store


# Applications


async def test_applications_change_by_compare_and_set(store: MetadataStore) -> None:
    first = await store.put_application(application())
    assert first.revision == 1
    assert await store.put_application(application()) == first  # the same write arrived before
    with pytest.raises(Conflict, match="application 'digits'"):
        await store.put_application(application(updated_at=2.0))
    second = await store.put_application(msgspec.structs.replace(first, updated_at=2.0))
    await store.put_application(application("a"))
    assert [(one.name, one.revision) for one in await store.list_applications()] == [("a", 1), ("digits", 2)]
    with pytest.raises(Conflict):
        await store.delete_application(first)
    await store.delete_application(second)
    with pytest.raises(NotFound, match="no application 'digits'"):
        await store.delete_application(second)
    assert [one.name for one in await store.list_applications()] == ["a"]


async def test_another_platform_sees_that_applications_changed(shared_store: MetadataStore) -> None:
    before = await shared_store.changes(0)
    assert not before.applications
    stored = await shared_store.put_application(application())
    changed = await shared_store.changes(before.revision)
    assert changed.applications
    assert not changed.projects
    await shared_store.delete_application(stored)
    assert (await shared_store.changes(changed.revision)).applications


async def test_what_an_application_learnt_goes_with_it(data_store: MetadataStore) -> None:
    data = data_store.application_data
    await data.add_awaited("digits", chunk())
    await learnt(data_store, pair(1), states=[write("", {"a": 1})], counts={"predictions": 2.0})
    (stored,) = await data_store.list_applications()
    await data_store.delete_application(stored)
    await data_store.put_application(application())
    assert await data.states("digits") == []
    assert await data.pairs("digits") == []
    assert await data.counts("digits") == {}
    assert await data.awaited("digits") == []
    assert not await data.joined("digits", 1)


async def test_nothing_is_learnt_of_an_unknown_application(store: MetadataStore) -> None:
    data = store.application_data
    for refused in (
        data.learn("nobody", Learning(pairs=[pair(1)])),
        data.add_awaited("nobody", chunk()),
        data.add_counts("nobody", {"a": 1.0}),
        data.prune_awaited("nobody", before=0.0, keep=1),
    ):
        with pytest.raises(NotFound, match="no application 'nobody'"):
            await refused
    assert await data.states("nobody") == []
    assert await data.pairs("nobody") == []
    assert await data.counts("nobody") == {}
    assert await data.awaited("nobody") == []


# States


async def test_states_change_by_compare_and_set_and_are_read_by_what_is_new(data_store: MetadataStore) -> None:
    data = data_store.application_data
    state = {"models": {"a/f": [1.0, 0.25, -0.5]}, "é": [None, True, "\u0000"]}
    assert (await learnt(data_store, states=[write("", state, at=2.5), write("user-7", {})])).stored
    first, second = await data.states("digits")
    assert (first.context, first.state, first.updated_at, first.revision) == ("", state, 2.5, 1)
    assert await data.states("digits", after=first.seq) == [second]
    refused = await learnt(data_store, pair(1), states=[write("", {}, revision=1), write("user-7", {}, revision=9)])
    assert refused == Learned(conflicts=frozenset({"user-7"}))
    assert await data.states("digits") == [first, second]  # nothing of it was stored
    assert await data.pairs("digits") == []
    assert (await learnt(data_store, states=[write("", {"n": 2}, revision=1)])).stored
    (changed,) = await data.states("digits", after=second.seq)
    assert (changed.context, changed.state, changed.revision) == ("", {"n": 2}, 2)


async def test_an_old_context_is_folded_in_one_write(data_store: MetadataStore) -> None:
    await learnt(data_store, states=[write("", {}), write("old", {"n": 1})])
    assert (await learnt(data_store, states=[write("", {"n": 1}, revision=1), write("old", None, revision=1)])).stored
    assert [state.context for state in await data_store.application_data.states("digits")] == [""]
    assert (await learnt(data_store, states=[write("old", {"again": 1})])).stored


async def test_of_concurrent_writers_of_a_state_one_succeeds(data_store: MetadataStore) -> None:
    outcomes = await asyncio.gather(*(learnt(data_store, pair(n), states=[write("", n)]) for n in range(10)))
    assert sum(outcome.stored for outcome in outcomes) == 1
    assert len(await data_store.application_data.pairs("digits")) == 1


# Predictions and pairs


async def test_predictions_that_await_feedback_are_read_by_what_is_new(data_store: MetadataStore) -> None:
    data = data_store.application_data
    seqs = [await data.add_awaited("digits", chunk(1.5, 2, b"one")), await data.add_awaited("digits", chunk(2.5, 3))]
    first, second = await data.awaited("digits")
    assert [first.seq, second.seq] == seqs
    assert (first.last_at, first.count, first.data) == (1.5, 2, b"one")
    assert second.data == b"\x00\xff"
    assert await data.awaited("digits", after=first.seq) == [second]
    assert await data.awaited("digits", after=second.seq) == []


async def test_what_awaits_feedback_is_pruned_by_age_and_by_number(data_store: MetadataStore) -> None:
    data = data_store.application_data
    for n in range(1, 7):
        await data.add_awaited("digits", chunk(float(n), 10))
    every = await data.awaited("digits")
    await data.prune_awaited("digits", before=2.0, keep=1000)
    assert await data.awaited("digits") == every[1:]
    await data.prune_awaited("digits", before=0.0, keep=25)
    assert await data.awaited("digits") == every[3:]
    await data.prune_awaited("digits", before=0.0, keep=25)
    await data.add_awaited("digits", chunk(7.0))
    assert [one.seq for one in await data.awaited("digits")] == [*(one.seq for one in every[3:]), every[-1].seq + 1]


async def test_pairs_are_known_by_their_prediction(data_store: MetadataStore) -> None:
    assert (await learnt(data_store, pair(2**53 - 1))).stored
    assert await data_store.application_data.joined("digits", 2**53 - 1)
    assert not await data_store.application_data.joined("digits", 1)


async def test_a_prediction_is_joined_once(data_store: MetadataStore) -> None:
    assert (await learnt(data_store, pair(1))).stored
    again = await learnt(data_store, pair(1), pair(2), states=[write("", {})], counts={"a": 1.0})
    assert again == Learned(duplicates=frozenset({1}))
    data = data_store.application_data
    assert [one.query_id for one in await data.pairs("digits")] == [1]
    assert await data.states("digits") == []
    assert await data.counts("digits") == {}


async def test_pairs_are_read_in_order_from_a_place_or_a_time(data_store: MetadataStore) -> None:
    data = data_store.application_data
    await learnt(data_store, *(pair(n, float(n)) for n in range(1, 6)))
    every = await data.pairs("digits")
    assert [(one.query_id, one.at, one.record) for one in every] == [(n, float(n), pair(1).record) for n in range(1, 6)]
    assert await data.pairs("digits", limit=2) == every[:2]
    assert await data.pairs("digits", after=every[1].seq, limit=2) == every[2:4]
    assert await data.pairs("digits", since=4.0, limit=1) == every[3:4]
    assert await data.last_pairs("digits", 2) == every[3:]
    assert PAIRS_KEPT >= 10_000


async def test_counts_add_up(data_store: MetadataStore) -> None:
    await learnt(data_store, counts={"feedback": 1.0, "loss:a/f": 0.25})
    data = data_store.application_data
    await data.add_counts("digits", {"loss:a/f": 0.5, "predictions": 3.0})
    assert await data.counts("digits") == {"feedback": 1.0, "loss:a/f": 0.75, "predictions": 3.0}
