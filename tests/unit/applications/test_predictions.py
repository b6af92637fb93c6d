"""Queries of applications: what is asked, when it is answered, and with what."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clipper.contract import wire
from clipper.contract.applications import NO_MODELS, TOO_LATE
from clipper_platform.applications.refusals import BadQuery
from clipper_platform.applications.requests import MAX_ASKED_AT_ONCE
from clipper_platform.errors import Unavailable
from clipper_platform.types import FunctionId
from tests.support.application_world import answering, failing, taking, world
from tests.support.applications import spec
from tests.support.serving import target

pytestmark = pytest.mark.virtual_time


async def elapsed(asked: Any) -> tuple[dict[str, Any], float]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    return await asked, loop.time() - began


async def total(arguments: dict[str, Any]) -> float:
    return float(sum(arguments["x"]))


async def test_a_linked_model_answers() -> None:
    async with world() as w:
        await w.deploy(total=total)
        await w.create(links=["p/total"])
        answer = await w.query(1.5, 2)
        assert answer.pop("query_id") > 0
        assert answer == {"output": 3.5, "default": False, "confidence": 1.0, "models": ["p/total"]}


async def test_a_batch_is_answered_in_order_and_a_batch_of_one_by_itself() -> None:
    async with world() as w:
        await w.deploy(total=total)
        await w.create(links=["p/total"])
        batch = (await w.ask({"input_batch": [[1], [2, 2], [3]]}))["batch_predictions"]
        assert [one["output"] for one in batch] == [1.0, 4.0, 3.0]
        assert len({one["query_id"] for one in batch}) == 3
        assert (await w.ask({"input_batch": [[1]]}))["output"] == 1.0
        assert await w.ask({"input_batch": []}) == {"batch_predictions": []}


async def test_a_large_batch_is_asked_piece_by_piece_and_fills_no_queue() -> None:
    async with world() as w:
        await w.deploy(total=total)
        await w.create(links=["p/total"], latency_slo_s=30.0)
        w.harness.dispatcher.routed["p/total"]._max_queued = 300
        most = 0

        async def watched(arguments: dict[str, Any]) -> float:
            nonlocal most
            most = max(most, w.harness.dispatcher.routed["p/total"].waiting.live)
            return float(sum(arguments["x"]))

        w.backend.models["total"] = watched
        batch = (await w.ask({"input_batch": [[n] for n in range(3000)]}))["batch_predictions"]
        assert [one["output"] for one in batch] == [float(n) for n in range(3000)]
        assert most <= MAX_ASKED_AT_ONCE


async def test_what_a_large_batch_could_not_ask_in_time_is_answered_by_default() -> None:
    async with world() as w:
        await w.deploy(slow=taking(0.02, 1))
        await w.create(links=["p/slow"], latency_slo_s=0.1)
        (request, seconds) = await elapsed(w.ask({"input_batch": [[n] for n in range(3000)]}))
        answers = request["batch_predictions"]
        assert seconds <= 0.1
        assert len(answers) == 3000
        assert answers[0]["output"] == 1
        assert (answers[-1]["default"], answers[-1]["default_explanation"]) == (True, TOO_LATE)


async def test_without_a_model_the_default_output_answers_at_once() -> None:
    async with world() as w:
        await w.create(default_output={"a": None})
        answer, seconds = await elapsed(w.query(1.0))
        assert (answer["output"], answer["default"], answer["default_explanation"]) == ({"a": None}, True, NO_MODELS)
        assert (answer["models"], answer["confidence"], seconds) == ([], 0.0, 0.0)


@pytest.mark.parametrize("policy", ["single", "exp3"])
async def test_a_slow_model_is_answered_for_within_the_objective_and_cancelled(policy: str) -> None:
    async with world() as w:
        await w.deploy(slow=taking(10.0, 1))
        await w.create(links=["p/slow"], latency_slo_s=0.1, policy=policy)
        answer, seconds = await elapsed(w.query(1.0))
        assert (answer["output"], answer["default_explanation"]) == ("none", TOO_LATE)
        assert 0.08 < seconds <= 0.1
        assert w.backend.replicas[0].cancelled  # the replica was told


async def test_a_caller_may_allow_less_time_than_the_objective() -> None:
    async with world() as w:
        await w.deploy(slow=taking(10.0, 1))
        await w.create(links=["p/slow"], latency_slo_s=0.1)
        later = asyncio.ensure_future(w.ask({"input": [1.0]}))
        (sooner, seconds), _ = await asyncio.gather(elapsed(w.ask({"input": [1.0]}, timeout_s=0.03)), later)
        assert sooner["default"]
        assert 0.02 < seconds < 0.04


async def test_a_model_that_raises_gives_the_default_with_what_it_said() -> None:
    async with world() as w:
        await w.deploy(bad=failing())
        await w.create(links=["p/bad"])
        assert (await w.begin({"input": [1.0]})[1]).reasons == ("function_error",)
        answer = await w.query(1.0)
        assert (answer["default"], answer["default_explanation"]) == (True, TOO_LATE)
        assert "p/bad" in answer["default_cause"]
        assert "no" in answer["default_cause"]


@pytest.mark.parametrize("policy", ["single", "exp3"])
async def test_a_response_with_the_status_of_an_error_is_no_answer(policy: str) -> None:
    async with world() as w:
        await w.deploy(teapot=answering(wire.ResponseHead(418)), fine=answering(wire.ResponseHead(200)))
        await w.create(links=["p/teapot"], policy=policy)
        answer = await w.query(1.0)
        assert answer["default"]
        assert "418" in answer["default_cause"]
        await w.applications.catalog.put(spec(links=["p/fine"], policy=policy))
        assert not (await w.query(1.0))["default"]


async def test_a_full_queue_gives_the_default_at_once() -> None:
    async with world() as w:
        await w.deploy(slow=taking(10.0, 1))
        await w.create(links=["p/slow"], latency_slo_s=5.0)
        w.harness.dispatcher.routed["p/slow"]._max_queued = 0
        assert (await w.begin({"input": [1.0]})[1]).reasons == ("queue_full",)


async def test_a_deleted_function_gives_the_default() -> None:
    async with world() as w:
        await w.deploy(total=total)
        await w.create(links=["p/total"])
        w.harness.dispatcher.drop_route("p")
        assert (await w.query(1.0))["default_explanation"] == NO_MODELS


async def test_a_caller_that_leaves_frees_what_its_query_held() -> None:
    async with world() as w:
        await w.deploy(slow=taking(10.0, 1), other=taking(10.0, 1))
        for policy in ("single", "majority"):
            links = ["p/slow", "p/other"] if policy == "majority" else ["p/slow"]
            live = await w.create(links=links, policy=policy)
            request, done = w.begin({"input": [1.0]})
            await asyncio.sleep(0.01)
            request.cancel()
            await asyncio.sleep(0.2)
            assert not done.done()
            assert len(live.deadlines) == 0
            await w.applications.catalog.delete("sums")


# Versions


async def test_a_query_may_name_the_version_of_the_one_model() -> None:
    async with world() as w:
        await w.deploy(which=answering(1))
        await w.create(links=["p/which"])
        await w.deploy(2, which=answering(2))
        assert (await w.query(1.0))["output"] == 2
        assert (await w.query(1.0, version="1"))["output"] == 1
        assert (await w.query(1.0, version=1))["output"] == 1
        batch = await w.ask({"input_batch": [[1], [2]], "version": "1"})
        assert [one["output"] for one in batch["batch_predictions"]] == [1, 1]
        for version in ("3", "v1", "0", "-1", "1.0", ""):
            with pytest.raises(BadQuery, match=f"Requested version: {version} does not exist for model: p/which"):
                await w.query(1.0, version=version)


async def test_a_version_needs_one_model() -> None:
    async with world() as w:
        await w.deploy(which=answering(1), other=answering(2))
        await w.create(links=["p/which", "p/other"])
        with pytest.raises(BadQuery, match="Too many models linked to application sums"):
            await w.query(1.0, version="1")
        await w.applications.catalog.put(spec())
        assert (await w.query(1.0, version="1"))["default_explanation"] == NO_MODELS


async def test_a_pinned_version_that_sleeps_is_woken() -> None:
    async with world() as w:
        await w.deploy(which=answering(1))

        async def wake(path: str) -> None:
            assert path == "p/which@1"
            await asyncio.sleep(0.05)
            await w.deploy(which=answering(1))

        w.applications = w.another(wake)
        await w.applications.open()
        await w.create(links=["p/which@1"], latency_slo_s=1.0)
        w.harness.dispatcher.drop_route("p")
        assert (await w.query(1.0))["output"] == 1


async def test_a_pinned_version_that_cannot_start_is_tried_again_later() -> None:
    async with world() as w:
        await w.deploy(which=answering(1))
        tried = 0

        async def wake(path: str) -> None:
            nonlocal tried
            tried += 1
            if tried == 1:
                raise Unavailable("no room")
            await w.harness.replica_sets.start(target("which"), replicas=1)

        w.applications = w.another(wake)
        await w.applications.open()
        await w.deploy(2, which=answering(2))
        await w.create(links=["p/which@1", "p/which"])
        await w.harness.replica_sets.stop("p", 1)
        w.backend.models["which"] = answering(1)
        for wait_s in (0.1, 3.0, 1.0):
            assert (await w.query(1.0))["output"] == 2
            await asyncio.sleep(wait_s)
        assert (await w.query(1.0))["output"] == 1
        assert tried == 2


async def test_another_input_type_counts_from_the_next_query_on() -> None:
    async def given(arguments: dict[str, Any]) -> Any:
        return arguments["x"]

    async with world() as w:
        w.functions.known["p/given"] = {}
        await w.deploy(given=given)
        live = await w.create(links=["p/given"])
        await w.query(1.0)
        await w.applications.catalog.put(spec(input_type="strings", links=["p/given"]))
        assert (await w.ask({"input": "a"}))["output"] == "a"
        with pytest.raises(BadQuery):
            await w.query(1.0)
        assert not (await w.update(input="a", label="a")).duplicate
        assert len(live.awaiting) == 1


# Several models


async def test_an_ensemble_combines_with_a_confidence() -> None:
    async with world() as w:
        await w.deploy(a=answering("x"), b=answering("y"), c=answering("x"))
        live = await w.create(links=["p/a", "p/b", "p/c"], policy="majority")
        answer = await w.query(1.0)
        assert (answer["output"], answer["models"]) == ("x", ["p/a", "p/b", "p/c"])
        assert answer["confidence"] == pytest.approx(2 / 3, abs=1e-5)
        assert live.monitor.model("p/a").agreement == 0.5
        assert live.monitor.model("p/b").agreement == 0.0


async def test_an_ensemble_answers_at_the_objective_with_what_arrived() -> None:
    async with world() as w:
        await w.deploy(a=answering(4.0), b=taking(0.01, 6.0), slow=taking(10.0, 100.0))
        live = await w.create(links=["p/a", "p/b", "p/slow"], policy="mean", latency_slo_s=0.1, loss_scale=10.0)
        answer, seconds = await elapsed(w.query(1.0))
        assert answer["output"] == pytest.approx(5.0)
        assert answer["models"] == ["p/a", "p/b"]
        assert 0 < answer["confidence"] < 2 / 3
        assert 0.08 < seconds <= 0.1
        report = live.monitor.model("p/slow")
        assert (report.asked, report.answered) == (1, 0)
        assert len(live.deadlines) == 0
        cancelled = [replica for replica in w.backend.replicas if replica.cancelled]
        assert [replica.spec.function.function for replica in cancelled] == ["slow"]


async def test_an_ensemble_that_is_complete_does_not_wait() -> None:
    async with world() as w:
        await w.deploy(a=answering(1), b=taking(0.01, 1))
        await w.create(links=["p/a", "p/b"], policy="majority", latency_slo_s=5.0)
        _, seconds = await elapsed(w.query(1.0))
        assert seconds < 0.1


async def test_shadows_are_compared_and_neither_given_nor_waited_for() -> None:
    async with world() as w:
        await w.deploy(a=answering(1), b=taking(0.05, 2), slow=taking(10.0, 3))
        live = await w.create(links=["p/a", "p/b", "p/slow"], policy="shadow", latency_slo_s=0.1)
        answer, seconds = await elapsed(w.query(1.0))
        assert (answer["output"], answer["models"], answer["confidence"]) == (1, ["p/a"], 1.0)
        assert seconds < 0.04
        await asyncio.sleep(0.2)
        assert (live.monitor.model("p/b").answered, live.monitor.model("p/b").given) == (1, 0)
        assert live.monitor.model("p/slow").answered == 0
        assert live.monitor.model("p/a").agreement == 0.0
        assert len(live.deadlines) == 0


async def test_a_model_that_does_not_run_is_woken_and_not_chosen_while_another_one_does() -> None:
    async with world() as w:
        await w.deploy(a=answering(1), b=answering(2))
        await w.create(links=["p/a", "p/b"])
        assert (await w.query(1.0))["output"] == 1
        w.harness.replica_sets.scale(w.harness.dispatcher.resolve("p/a").target.id, 0)
        await asyncio.sleep(1)
        woken: list[FunctionId] = []
        w.harness.dispatcher.routed["p/a"].on_call = woken.append
        for _ in range(3):
            assert (await w.query(1.0))["output"] == 2
        assert woken == [FunctionId("p", "a", 1)]  # for the queries to come, once


async def test_split_shares_by_weight_and_a_seed_repeats_it() -> None:
    async def outputs() -> list[int]:
        async with world() as w:
            await w.deploy(a=answering(1), b=answering(2))
            links = [{"function": "p/a", "weight": 0.9}, {"function": "p/b", "weight": 0.1}]
            await w.create(links=links, policy="split", seed=5)
            return [(await w.query(1.0))["output"] for _ in range(200)]

    first = await outputs()
    assert 160 < first.count(1) < 200
    assert await outputs() == first


# Bad queries


@pytest.mark.parametrize(
    ("input_type", "body"),
    [
        *(("doubles", body) for body in (b"", b"{", b"[]", b"3", b"null", b"\xff", b'{"inputs": [1]}')),
        *(("doubles", {"input": bad}) for bad in ("a", [1, "a"], [None], {}, 3, [[1.0]], [True], None)),
        *(("integers", {"input": bad}) for bad in ([1.5], ["1"], [True], "1")),
        *(("strings", {"input": bad}) for bad in ([1.0], 3, None, ["a"])),
        *(("bytes", {"input": bad}) for bad in ("!", [1], 3)),
        ("doubles", {"input_batch": [1.0]}),
        ("doubles", {"input_batch": {}}),
        ("doubles", {"input": [1.0], "input_batch": [[1.0]]}),
        ("doubles", {"input": [1.0], "context": "x" * 300}),
        ("doubles", {"input": [1.0], "context": [1]}),
        ("doubles", {"input": [1.0], "version": [1]}),
        ("doubles", b'{"input": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
        ("doubles", {"input_batch": [[]] * 10_001}),
    ],
)
async def test_a_malformed_body_is_refused_as_clipper_does(input_type: str, body: Any) -> None:
    async with world() as w:
        await w.create(input_type=input_type)
        with pytest.raises(BadQuery) as refusal:
            await w.ask(body)
        assert refusal.value.kind == "Json error"
        assert "Expected JSON schema" in refusal.value.message


async def test_inputs_of_each_type_arrive_as_they_were_sent() -> None:
    async def given(arguments: dict[str, Any]) -> Any:
        return arguments["x"]

    for input_type, value in (
        ("integers", [1, -2]),
        ("floats", [1.5, 2]),
        ("doubles", [1e300, 0.1, 3]),
        ("strings", 'a "é" \\ \u0000'),
        ("bytes", "aGVsbG8="),
    ):
        async with world() as w:
            w.functions.known["p/given"] = {}
            await w.deploy(given=given)
            await w.create(input_type=input_type, links=["p/given"])
            assert (await w.ask({"input": value, "something": "else"}))["output"] == value


async def test_metrics_count_predictions_and_go_with_the_application() -> None:
    async with world() as w:
        await w.deploy(total=total)
        await w.create(links=["p/total"])
        await w.query(1.0)
        metrics = w.harness.metrics
        assert metrics.app_predictions.child("sums", "false").value == 1
        assert metrics.app_asked.child("sums", "p/total", "true").value == 1
        await w.applications.catalog.delete("sums")
        assert all(not family.children for family in metrics.of_applications())
