"""Whatever the sequence of changes, paths lead where a table made from scratch has them lead."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from clipper_platform.serving.routes import Routes
from clipper_platform.types import FunctionId

Weights = dict[str, dict[int, int]]


def from_scratch(
    queues: dict[FunctionId, str], current: dict[str, int], weights: Weights
) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """The queue that each path leads to, and the queues with their percents of those that several share."""
    routed: dict[str, str] = {}
    for id, queue in queues.items():
        if id.project in current:
            routed[str(id)] = queue
            if id.version == current[id.project]:
                routed[id.path] = queue
    shared: dict[str, dict[str, int]] = {}
    for project, percents in weights.items():
        for path in [path for path in routed if path.startswith(f"{project}/") and "@" not in path]:
            shares = {routed[f"{path}@{v}"]: share for v, share in percents.items() if f"{path}@{v}" in routed}
            if len(shares) > 1:
                shared[path] = shares
                del routed[path]
    return routed, shared


PROJECTS = st.sampled_from(["p", "q", "p-2"])
VERSIONS = st.integers(1, 3)
IDS = st.builds(FunctionId, PROJECTS, st.sampled_from(["f", "g"]), VERSIONS)
STEPS = st.one_of(
    st.tuples(st.just("add"), IDS),
    st.tuples(st.just("remove"), IDS),
    st.tuples(st.just("route"), PROJECTS, VERSIONS),
    st.tuples(
        st.just("weights"), PROJECTS, st.sampled_from([{}, {1: 90, 2: 10}, {2: 50, 3: 50}, {1: 20, 2: 30, 3: 50}])
    ),
    st.tuples(st.just("drop"), PROJECTS),
)


@given(st.lists(STEPS, max_size=40))
def test_step_by_step_is_as_from_scratch(steps: list[tuple[Any, ...]]) -> None:
    routes = Routes[str]()
    queues: dict[FunctionId, str] = {}
    current: dict[str, int] = {}
    weights: Weights = {}
    for number, step in enumerate(steps):
        match step:
            case ("add", id):
                queues[id] = f"{id} of step {number}"
                routes.add(id, queues[id])
            case ("remove", id):
                queues.pop(id, None)
                routes.remove(id)
            case ("route", project, version):
                current[project] = version
                weights.pop(project, None)
                routes.set_route(project, version)
            case ("weights", project, percents):
                weights[project] = percents
                routes.set_weights(project, percents)
            case ("drop", project):
                current.pop(project, None)
                weights.pop(project, None)
                routes.drop_route(project)
        routed, shared = from_scratch(queues, current, weights)
        assert routes.routed == routed
        assert routes.queues == queues
        assert routes.splits.keys() == shared.keys()
        for path, percents in shared.items():
            split = routes.splits[path]
            # Whole rounds, so that the next step meets every split at its beginning.
            # Versions without this function take no part, so a round may be shorter than 100.
            assert Counter(split.next() for _ in range(sum(percents.values()))) == percents
        for project in ("p", "q", "p-2"):
            assert routes.current(project) == current.get(project)
            for version in (1, 2, 3):
                functions = {id.function for id in queues if (id.project, id.version) == (project, version)}
                assert set(routes.of(project, version)) == functions
        known = {id.project for id in queues} | current.keys()
        assert routes._projects.keys() == known, "what is gone is forgotten"
