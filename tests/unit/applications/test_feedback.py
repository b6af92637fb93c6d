"""Feedback: joined once, late or unknown refused, and what is learnt of it on one platform or several."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from clipper_platform.applications.refusals import BadQuery
from clipper_platform.errors import NotFound, StoreUnavailable
from tests.support.application_world import answering, failing, taking, world
from tests.support.serving import target

pytestmark = pytest.mark.virtual_time


async def total(arguments: dict[str, Any]) -> float:
    return float(sum(arguments["x"]))


async def test_feedback_by_id_counts_once() -> None:
    async with world() as w:
        await w.deploy(total=total)
        live = await w.create(links=["p/total"])
        query_id = (await w.query(1, 2))["query_id"]
        assert not (await w.update(query_id=query_id, label=3)).duplicate
        assert (await w.update(query_id=query_id, label=4)).duplicate
        (pair,) = await w.pairs()
        assert (pair["query_id"], pair["input"], pair["label"], pair["output"]) == (query_id, [1, 2], 3, 3.0)
        assert (pair["answers"], pair["losses"], pair["default"]) == ({"p/total": 3.0}, {"p/total": 0.0}, False)
        assert live.monitor.count("feedback:joined") == 1
        assert live.monitor.count("feedback:duplicate") == 1
        assert live.monitor.model("p/total").loss == 0.0


async def test_the_same_feedback_sent_at_once_counts_once() -> None:
    async with world() as w:
        await w.deploy(total=total)
        await w.create(links=["p/total"])
        query_id = (await w.query(1, 2))["query_id"]
        answers = await asyncio.gather(*(w.update(query_id=query_id, label=3) for _ in range(10)))
        assert [answer.duplicate for answer in answers].count(False) == 1
        assert len(await w.pairs()) == 1


async def test_feedback_by_input_finds_the_newest_prediction_however_the_input_is_written() -> None:
    async with world() as w:
        await w.deploy(total=total)
        await w.create(links=["p/total"])
        first, second = [(await w.ask({"input": [1.0, 2]}))["query_id"] for _ in range(2)]
        await w.query(9)
        assert (await w.update(uid=0, input=[1, 2.0], label=3)).query_id == second
        assert (await w.update(uid=0, input=[1, 2.0], label=3)).query_id == first
        again = await w.update(uid=0, input=[1, 2], label=3)
        assert again.duplicate
        assert len(await w.pairs()) == 2


async def test_feedback_by_input_goes_to_its_own_context_first() -> None:
    async with world() as w:
        await w.deploy(total=total)
        await w.create(links=["p/total"])
        mine = (await w.query(1, context="me"))["query_id"]
        nobodys = (await w.query(1))["query_id"]
        yours = (await w.query(1, uid=7))["query_id"]
        assert (await w.update(uid="me", input=[1], label=1)).query_id == mine
        assert (await w.update(uid="7", input=[1], label=1)).query_id == yours
        assert (await w.update(uid="8", input=[1], label=1)).query_id == nobodys
        with pytest.raises(NotFound):
            await w.update(uid="9", input=[1], label=1)


async def test_feedback_by_input_falls_back_on_the_result_cache() -> None:
    async with world() as w:
        w.backend.models["kept"] = total
        await w.harness.deploy(target("kept", cache_ttl_s=600.0))
        live = await w.create(links=["p/kept"])
        await w.query(1, 2)
        live.awaiting.expire(float("inf"))
        assert not (await w.update(input=[1, 2], label=3)).duplicate
        assert (await w.update(input=[1, 2], label=3)).duplicate
        (pair,) = await w.pairs()
        assert pair["losses"] == {"p/kept": 0.0}
        with pytest.raises(NotFound):
            await w.update(input=[7], label=3)


async def test_unknown_and_late_feedback_is_refused_and_counted() -> None:
    async with world() as w:
        await w.deploy(total=total)
        live = await w.create(links=["p/total"], feedback_window_s=60.0)
        query_id = (await w.query(1))["query_id"]
        for body in ({"query_id": query_id + 1}, {"query_id": -1}, {"query_id": 2**63 - 1}, {"input": [2]}):
            with pytest.raises(NotFound, match="awaits no feedback"):
                await w.update(label=1, **body)
        await asyncio.sleep(61)
        for body in ({"query_id": query_id}, {"input": [1]}):
            with pytest.raises(NotFound, match="feedback_window_s"):
                await w.update(label=1, **body)
        assert live.monitor.count("feedback:unknown") == 6
        assert await w.pairs() == []


@pytest.mark.parametrize(
    ("table", "label"),
    [
        ({"loss": "absolute"}, "a"),
        ({"loss": "squared"}, [1, "b"]),
        ({"loss": "reported"}, 1.5),
        ({"loss": "reported"}, "bad"),
    ],
)
async def test_a_label_of_the_wrong_type_is_refused_and_may_be_sent_again(table: dict[str, Any], label: Any) -> None:
    async with world() as w:
        await w.deploy(total=total)
        live = await w.create(links=["p/total"], **table)
        query_id = (await w.query(1))["query_id"]
        with pytest.raises(BadQuery, match="the label does not fit"):
            await w.update(query_id=query_id, label=label)
        assert not (await w.update(query_id=query_id, label=1)).duplicate
        assert live.monitor.count("feedback:invalid") == 1


@pytest.mark.parametrize(
    "body", [{}, {"label": 1}, {"query_id": "1", "label": 1}, {"input": "a", "label": 1}, {"query_id": 1}, {"uid": []}]
)
async def test_a_malformed_update_is_refused(body: dict[str, Any]) -> None:
    async with world() as w:
        await w.create()
        with pytest.raises(BadQuery, match="Expected JSON schema"):
            await w.update(**body)


async def test_losses_are_those_that_the_application_declares() -> None:
    for table, label, expected in (
        ({"loss": "absolute", "loss_scale": 10.0}, 5, 0.2),
        ({"loss": "squared", "loss_scale": 10.0}, 5, 0.04),
        ({"loss": "reported"}, 0.25, 0.25),
        ({"loss": "zero_one"}, 3, 0.0),
    ):
        async with world() as w:
            await w.deploy(total=total)
            live = await w.create(links=["p/total"], **table)
            await w.update(query_id=(await w.query(1, 2))["query_id"], label=label)
            assert live.monitor.model("p/total").loss == pytest.approx(expected)


async def test_a_reported_loss_is_that_of_the_models_whose_answer_was_given() -> None:
    async with world() as w:
        await w.deploy(a=answering("x"), b=answering("y"), c=answering("x"))
        await w.create(links=["p/a", "p/b", "p/c"], policy="majority", loss="reported")
        await w.update(query_id=(await w.query(1))["query_id"], label=1)
        (pair,) = await w.pairs()
        assert pair["losses"] == {"p/a": 1.0, "p/c": 1.0}


async def test_a_model_that_was_chosen_alone_and_failed_costs_one() -> None:
    async with world() as w:
        await w.deploy(bad=failing(), slow=taking(10.0, 1))
        for link in ("p/bad", "p/slow"):
            for policy in ("single", "exp3"):
                live = await w.create(links=[link], policy=policy, latency_slo_s=0.05)
                await w.update(query_id=(await w.query(1))["query_id"], label=1)
                assert live.monitor.model(link).loss == 1.0
                await w.applications.catalog.delete("sums")


async def test_feedback_to_a_default_without_models_is_kept_and_teaches_nothing() -> None:
    async with world() as w:
        live = await w.create()
        assert not (await w.update(query_id=(await w.query(1))["query_id"], label=1)).duplicate
        (pair,) = await w.pairs()
        assert (pair["default"], pair["losses"], len(live.states)) == (True, {}, 0)


# Learning


async def test_a_policy_learns_to_choose_the_better_model_in_each_context() -> None:
    async with world() as w:
        await w.deploy(a=answering("a"), b=answering("b"))
        live = await w.create(links=["p/a", "p/b"], policy="epsilon_greedy", policy_options={"epsilon": 0.1}, seed=1)
        for _ in range(40):
            for context in ("a", "b"):
                await w.update(query_id=(await w.query(1, context=context))["query_id"], label=context)
        for context in ("a", "b"):
            outputs = [(await w.query(1, context=context))["output"] for _ in range(20)]
            assert outputs.count(context) > 14
        assert len(live.states) == 2


async def test_what_was_learnt_is_there_after_a_restart_and_on_other_platforms() -> None:
    async with world() as w:
        await w.deploy(a=answering("a"), b=answering("b"))
        await w.create(links=["p/a", "p/b"], policy="ucb1")
        for _ in range(20):
            await w.update(query_id=(await w.query(1, context="me"))["query_id"], label="b")
        pending = (await w.query(1))["query_id"]
        learnt = w.applications.get("sums").states.known("me")
        await w.applications.close()
        w.applications = w.another()
        await w.applications.open()
        live = w.applications.get("sums")
        assert live.states.known("me") == learnt
        report = live.monitor.model("p/b")
        assert report.feedbacks > 10
        assert report.recent_loss == 0.0
        assert live.monitor.count("predictions") == 21
        assert not (await w.update(query_id=pending, label="a")).duplicate
        assert (await w.update(query_id=pending, label="a")).duplicate


async def test_two_platforms_take_feedback_for_each_other_and_count_it_once() -> None:
    async with world() as w:
        await w.deploy(a=answering("a"), b=answering("b"))
        await w.create(links=["p/a", "p/b"], policy="ucb1")
        other = w.another()
        await other.open()
        query_id = (await w.query(1))["query_id"]
        await w.applications.get("sums").awaited_store.save()
        body = b'{"query_id": %d, "label": "a"}' % query_id
        taken = await asyncio.gather(other.update("sums", body), w.applications.update("sums", body))
        assert sorted(one.duplicate for one in taken) == [False, True]
        assert len(await w.pairs()) == 1
        await asyncio.gather(
            *(_round(w.applications, w, n) for n in range(20)), *(_round(other, w, n) for n in range(20))
        )
        for applications in (w.applications, other):
            await applications.get("sums").states.follow()
        one, two = w.applications.get("sums"), other.get("sums")
        assert one.states.known("") == two.states.known("")
        assert sum(record.feedbacks for record in one.states.known("").models.values()) == 41
        await other.close()


async def _round(applications: Any, w: Any, n: int) -> None:
    """A query and its feedback on one of two platforms."""
    before, w.applications = w.applications, applications
    query = w.begin({"input": [float(n)]})[1]
    w.applications = before
    query_id = msgspec.json.decode((await query).body)["query_id"]
    await applications.update("sums", b'{"query_id": %d, "label": "b"}' % query_id)


async def test_contexts_are_bounded_and_the_oldest_fold_into_the_shared_one() -> None:
    async with world() as w:
        await w.deploy(a=answering("a"), b=answering("b"))
        live = await w.create(links=["p/a", "p/b"], policy="ucb1", max_contexts=3)
        for n in range(8):
            await w.update(query_id=(await w.query(1, context=f"user-{n}"))["query_id"], label="a")
        assert len(live.states) == 3
        assert [live.states.known(f"user-{n}") is not None for n in range(8)] == [False] * 5 + [True] * 3
        shared = live.states.known("")
        assert sum(record.feedbacks for record in shared.models.values()) == pytest.approx(5)


async def test_while_the_store_is_away_feedback_is_refused_and_predictions_go_on() -> None:
    async with world() as w:
        await w.deploy(total=total)
        await w.create(links=["p/total"])
        query_id = (await w.query(1))["query_id"]
        w.store.outage = "away"  # type: ignore[attr-defined]
        assert (await w.query(1))["output"] == 1.0
        with pytest.raises(StoreUnavailable):
            await w.update(query_id=query_id, label=1)
        w.store.outage = ""  # type: ignore[attr-defined]
        assert not (await w.update(query_id=query_id, label=1)).duplicate


async def test_a_loop_writes_behind_what_awaits_feedback_and_what_is_counted() -> None:
    async with world() as w:
        await w.deploy(total=total)
        live = await w.create(links=["p/total"])
        writing = asyncio.create_task(w.applications.run())
        await w.query(1)
        await asyncio.sleep(1)
        data = w.store.application_data
        assert len(await data.awaited("sums")) == 1
        assert (await data.counts("sums"))["predictions"] == 1
        w.store.outage = "away"  # type: ignore[attr-defined]
        await w.query(1)
        await asyncio.sleep(1)
        assert live.trouble
        w.store.outage = ""  # type: ignore[attr-defined]
        await asyncio.sleep(1)
        assert not live.trouble
        assert sum(chunk.count for chunk in await data.awaited("sums")) == 2
        await asyncio.sleep(4000)
        assert await data.awaited("sums") == []
        assert len(live.awaiting) == 0
        writing.cancel()


async def test_a_link_that_is_removed_takes_what_was_learnt_of_it_with_it() -> None:
    async with world() as w:
        await w.deploy(a=answering("a"), b=answering("b"))
        live = await w.create(links=["p/a", "p/b"], policy="ucb1")
        for _ in range(4):
            await w.update(query_id=(await w.query(1))["query_id"], label="b")
        await w.applications.catalog.unlink("sums", "p/a")
        await w.update(query_id=(await w.query(1))["query_id"], label="b")
        assert set(live.states.known("").models) == {"p/b"}
