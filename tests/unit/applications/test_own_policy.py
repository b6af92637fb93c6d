"""A user's own selection policy: a function in a replica, which may raise, hang or talk nonsense."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clipper_platform.applications.explaining import explain
from clipper_platform.errors import NotFound
from tests.support.application_world import Model, World, answering, parameters, taking, world

pytestmark = pytest.mark.virtual_time

ANYTHING: dict[str, Any] = {}
NAMES = ("op", "models", "state", "shared", "choice", "answers", "losses")


def second(**replies: Any) -> Model:
    """Chooses the second model, and counts feedback. `replies`: what it answers to an operation instead."""

    async def policy(arguments: dict[str, Any]) -> Any:
        op = arguments["op"]
        if op in replies:
            reply = replies[op]
            return await reply(arguments) if callable(reply) else reply
        if op == "init":
            return {"seen": 0}
        if op == "select":
            return arguments["models"][1]
        if op == "combine":
            return {"output": sorted(arguments["answers"].values()), "confidence": 0.5}
        return {"seen": arguments["state"]["seen"] + 1}

    return policy


async def deploy(w: World, policy: Model) -> None:
    w.backend.schemas["mine"] = parameters(**dict.fromkeys(NAMES, ANYTHING))
    await w.deploy(a=answering("a"), b=answering("b"), mine=policy)


async def test_it_chooses_and_learns_in_each_context() -> None:
    async with world() as w:
        await deploy(w, second())
        live = await w.create(links=["p/a", "p/b"], policy="p/mine")
        answer = await w.query(1, context="me")
        assert (answer["output"], answer["models"]) == ("b", ["p/b"])
        assert "policy_fallback" not in answer
        for _ in range(3):
            await w.update(query_id=(await w.query(1, context="me"))["query_id"], label="b")
        assert live.states.known("me") == {"seen": 3}
        assert live.notice() == ""
        told = await explain(live, "me")
        assert told.choice == "p/mine chose p/b"
        assert [(one.model, one.why) for one in told.models] == [("p/a", "not chosen"), ("p/b", "chosen")]


async def test_it_combines_the_answers_of_several() -> None:
    async with world() as w:
        await deploy(w, second(select={"models": ["p/a", "p/b"], "reason": "both"}))
        await w.create(links=["p/a", "p/b"], policy="p/mine")
        answer = await w.query(1)
        assert (answer["output"], answer["confidence"], answer["models"]) == (["a", "b"], 0.5, ["p/a", "p/b"])


async def test_it_may_take_one_table() -> None:
    async def policy(arguments: dict[str, Any]) -> Any:
        return await second()(arguments["request"])

    async with world() as w:
        w.backend.schemas["mine"] = parameters(request=ANYTHING)
        await w.deploy(a=answering("a"), b=answering("b"), mine=policy)
        await w.create(links=["p/a", "p/b"], policy="p/mine")
        assert (await w.query(1))["output"] == "b"


async def raising(_: Any) -> Any:
    raise ValueError("lost my way")


async def hanging(_: Any) -> Any:
    await asyncio.sleep(3600)


@pytest.mark.parametrize(
    ("replies", "op", "words"),
    [
        ({"init": raising}, "init", "lost my way"),
        ({"select": raising}, "select", "lost my way"),
        ({"select": hanging}, "select", "no answer within"),
        ({"select": "p/nobody"}, "select", "'p/nobody', which is not linked"),
        ({"select": []}, "select", "selected no model"),
        ({"select": 3}, "select", "no list of models"),
        ({"select": {"models": ["p/a"], "shadows": "p/b"}}, "select", "no list of shadows"),
        ({"select": {"models": ["p/a"], "probabilities": {"p/a": "high"}}}, "select", "probabilities"),
        ({"select": {"models": [{}]}}, "select", "not linked"),
    ],
)
async def test_where_it_fails_the_first_model_answers_in_time_and_says_so(
    replies: dict[str, Any], op: str, words: str
) -> None:
    async with world() as w:
        await deploy(w, second(**replies))
        live = await w.create(links=["p/a", "p/b"], policy="p/mine", latency_slo_s=0.2)
        began = asyncio.get_running_loop().time()
        answer = await w.query(1)
        assert asyncio.get_running_loop().time() - began < 0.1
        assert (answer["output"], answer["default"], answer["models"]) == ("a", False, ["p/a"])
        assert words in answer["policy_fallback"]
        assert live.notice().startswith("falls back to single: p/mine failed")
        assert w.harness.metrics.app_policy_errors.child("sums", op).value == 1
        assert (await explain(live, "")).choice.startswith("falls back to single")


@pytest.mark.parametrize("reply", [raising, hanging, 3, {"output": 1, "confidence": 7}, {"output": 1, "models": ["x"]}])
async def test_where_it_cannot_combine_one_of_the_answers_is_given(reply: Any) -> None:
    async with world() as w:
        await deploy(w, second(select=["p/a", "p/b"], combine=reply))
        await w.create(links=["p/a", "p/b"], policy="p/mine", latency_slo_s=0.2)
        began = asyncio.get_running_loop().time()
        answer = await w.query(1)
        assert asyncio.get_running_loop().time() - began <= 0.2
        assert (answer["output"], answer["models"], answer["confidence"]) == ("a", ["p/a"], 0.5)
        assert answer["policy_fallback"]


async def test_it_may_give_no_answer() -> None:
    async with world() as w:
        await deploy(w, second(select=["p/a", "p/b"], combine=None))
        await w.create(links=["p/a", "p/b"], policy="p/mine")
        assert (await w.query(1))["default"]


async def test_stragglers_leave_it_time_to_combine() -> None:
    async with world() as w:
        w.backend.schemas["mine"] = parameters(**dict.fromkeys(NAMES, ANYTHING))
        await w.deploy(a=answering("a"), b=taking(10.0, "b"), mine=second(select=["p/a", "p/b"]))
        await w.create(links=["p/a", "p/b"], policy="p/mine", latency_slo_s=0.2)
        began = asyncio.get_running_loop().time()
        answer = await w.query(1)
        assert asyncio.get_running_loop().time() - began <= 0.2
        assert answer["output"] == ["a"]


async def test_what_it_cannot_learn_is_kept_as_a_pair() -> None:
    async with world() as w:
        await deploy(w, second(observe=raising))
        live = await w.create(links=["p/a", "p/b"], policy="p/mine")
        assert not (await w.update(query_id=(await w.query(1))["query_id"], label="b")).duplicate
        assert len(await w.pairs()) == 1
        assert live.states.known("") is None
        assert "observe" in live.notice()


async def test_after_failures_in_a_row_it_rests_and_is_asked_again() -> None:
    calls: list[str] = []

    async def policy(arguments: dict[str, Any]) -> Any:
        calls.append(arguments["op"])
        if len(calls) <= 3:
            raise ValueError("not yet")
        return await second()(arguments)

    async with world() as w:
        await deploy(w, policy)
        await w.create(links=["p/a", "p/b"], policy="p/mine")
        answers = [await w.query(1) for _ in range(5)]
        assert [answer["output"] for answer in answers] == ["a"] * 5
        assert "rests for" in answers[-1]["policy_fallback"]
        assert len(calls) == 3
        await asyncio.sleep(6)
        assert (await w.query(1))["output"] == "b"


async def test_a_policy_that_is_gone_is_fallen_back_from() -> None:
    async with world() as w:
        await deploy(w, second())
        with pytest.raises(NotFound):
            await w.create(links=["p/a", "p/b"], policy="q/nobody")
        await w.create(links=["p/a", "p/b"], policy="p/mine")
        id = w.harness.dispatcher.resolve("p/mine").target.id
        w.harness.dispatcher.remove(id, "gone")
        answer = await w.query(1)
        assert (answer["output"], answer["default"]) == ("a", False)
        assert "mine" in answer["policy_fallback"]


async def test_without_models_it_is_not_asked() -> None:
    async with world() as w:
        await deploy(w, second(select=raising))
        live = await w.create(policy="p/mine")
        assert (await w.query(1))["default"]
        assert live.notice() == ""


async def test_another_policy_does_not_take_its_states_for_its_own() -> None:
    async with world() as w:
        await deploy(w, second())
        live = await w.create(links=["p/a", "p/b"], policy="p/mine")
        await w.update(query_id=(await w.query(1))["query_id"], label="b")
        spec = w.applications.catalog.get("sums").spec
        from msgspec.structs import replace

        await w.applications.catalog.put(replace(spec, policy="ucb1"))
        await asyncio.sleep(0.1)
        assert live.states.known("") is None
        await w.update(query_id=(await w.query(1))["query_id"], label="a")
        assert live.states.known("").rounds == 1
