"""Whatever is sent, in whatever order, to whichever platform, and with restarts in between: a prediction is joined
once, and what is learnt is what was joined."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipper_platform.errors import NotFound
from tests.support.application_world import answering, world
from tests.support.virtual_time import VirtualTimeLoop

pytestmark = pytest.mark.virtual_time

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("predict"), st.integers(0, 1), st.integers(0, 2)),
        st.tuples(st.just("by id"), st.integers(0, 1), st.integers(0, 8)),
        st.tuples(st.just("by input"), st.integers(0, 1), st.integers(0, 2)),
        st.tuples(st.just("save"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("restart"), st.integers(0, 1), st.just(0)),
    ),
    max_size=25,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_feedback_is_joined_once(steps: list[tuple[str, int, int]]) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(play(steps))


async def play(steps: list[tuple[str, int, int]]) -> None:
    async with world() as w:
        await w.deploy(a=answering("a"), b=answering("b"))
        await w.create(links=["p/a", "p/b"], policy="ucb1")
        platforms = [w.applications, w.another()]
        await platforms[1].open()
        made: list[int] = []
        counted: list[int] = []
        for step, which, argument in steps:
            await asyncio.sleep(0.01)
            applications = platforms[which]
            if step == "predict":
                w.applications = applications
                made.append((await w.query(float(argument)))["query_id"])
                w.applications = platforms[0]
                await applications.get("sums").awaited_store.save()
            elif step == "by id" and made:
                counted += await update(applications, query_id=made[argument % len(made)], label="a")
            elif step == "by input":
                counted += await update(applications, input=[float(argument)], label="a")
            elif step == "save":
                await applications.get("sums").monitor.save()
            elif step == "restart":
                await applications.close()
                platforms[which] = w.another()
                await platforms[which].open()
                w.applications = platforms[0]
        pairs = [pair["query_id"] for pair in await w.pairs()]
        assert sorted(pairs) == sorted(counted)
        assert len(set(pairs)) == len(pairs)
        assert set(pairs) <= set(made)
        live = platforms[0].get("sums")
        await live.states.reload()
        state = live.states.known("")
        assert (state.rounds if state is not None else 0) == len(pairs)
        await live.monitor.refresh()
        assert live.monitor.count("feedback:joined") == len(pairs)
        await platforms[1].close()


async def update(applications: Any, **body: Any) -> list[int]:
    """The id of the prediction that was joined, if one was."""
    try:
        taken = await applications.update("sums", msgspec.json.encode(body))
    except NotFound:
        return []
    return [] if taken.duplicate else [taken.query_id]
