"""Where paths lead, without anything that runs behind them: a queue is its name here."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from clipper_platform.serving.routes import Routes
from clipper_platform.types import FunctionId


def routes_of(*ids: FunctionId) -> Routes[str]:
    routes = Routes[str]()
    for id in ids:
        routes.add(id, str(id))
    return routes


F1, F2, G1 = FunctionId("p", "f", 1), FunctionId("p", "f", 2), FunctionId("p", "g", 1)


def test_a_project_without_a_route_is_not_there_for_callers_whatever_runs_of_it() -> None:
    routes = routes_of(F1, G1)
    assert routes.routed == {}
    assert routes.of("p", 1) == {"f": "p/f@1", "g": "p/g@1"}
    assert routes.current("p") is None


def test_a_route_leads_to_the_functions_of_its_version_and_the_others_are_there_by_number() -> None:
    routes = routes_of(F1, F2, G1)
    routes.set_route("p", 2)
    assert routes.routed == {"p/f": "p/f@2", "p/f@1": "p/f@1", "p/f@2": "p/f@2", "p/g@1": "p/g@1"}
    routes.set_route("p", 1)
    assert routes.routed["p/f"] == "p/f@1"
    assert routes.routed["p/g"] == "p/g@1"
    assert routes.current("p") == 1


def test_what_starts_and_ends_under_a_route_is_found_and_lost() -> None:
    routes = routes_of()
    routes.set_route("p", 1)
    assert routes.routed == {}
    routes.add(F1, "first")
    assert routes.routed == {"p/f": "first", "p/f@1": "first"}
    routes.remove(F1)
    routes.remove(F1)
    assert not routes.routed
    assert not routes.queues
    routes.add(F1, "second")
    assert routes.routed == {"p/f": "second", "p/f@1": "second"}


def test_readers_may_keep_the_table_as_it_is_the_same_one_for_good() -> None:
    routes = routes_of(F1)
    table, queues = routes.routed, routes.queues
    routes.set_route("p", 1)
    routes.drop_route("p")
    routes.set_route("p", 1)
    assert table is routes.routed
    assert queues is routes.queues
    assert table == {"p/f": "p/f@1", "p/f@1": "p/f@1"}


def test_shared_calls_are_dealt_out_and_return_to_the_route() -> None:
    routes = routes_of(F1, F2, G1)
    routes.set_route("p", 1)
    routes.set_weights("p", {1: 75, 2: 25})
    assert "p/f" not in routes.routed
    assert Counter(routes.splits["p/f"].next() for _ in range(100)) == {"p/f@1": 75, "p/f@2": 25}
    assert routes.routed["p/g"] == "p/g@1"
    routes.set_weights("p", {})
    assert routes.splits == {}
    assert routes.routed["p/f"] == "p/f@1"


def test_another_projects_change_leaves_the_turn_of_shared_calls_where_it_is() -> None:
    routes = routes_of(F1, F2)
    routes.set_route("p", 1)
    routes.set_weights("p", {1: 50, 2: 50})
    dealt = []
    for number in range(10):
        dealt.append(routes.splits["p/f"].next())
        routes.add(FunctionId("other", "f", number), "other")
        routes.set_route("other", number)
    assert Counter(dealt) == {"p/f@1": 5, "p/f@2": 5}


@pytest.mark.parametrize("end", [lambda r: r.remove(F2), lambda r: r.set_route("p", 1)])
def test_calls_are_shared_no_more_once_one_version_is_left_or_the_route_is_set(end: Any) -> None:
    routes = routes_of(F1, F2)
    routes.set_route("p", 1)
    routes.set_weights("p", {1: 50, 2: 50})
    end(routes)
    assert routes.splits == {}
    assert routes.routed["p/f"] == "p/f@1"


def test_a_project_that_is_gone_leaves_nothing_behind() -> None:
    routes = routes_of(F1, F2)
    routes.set_route("p", 1)
    routes.set_weights("p", {1: 50, 2: 50})
    routes.drop_route("p")
    assert not routes.routed
    assert not routes.splits
    routes.remove(F1)
    routes.remove(F2)
    routes.drop_route("never there")
    assert not routes.queues
    assert not routes._projects


class Watched(FunctionId):
    """One that tells when anybody looks at it."""

    looks = 0

    def __getattribute__(self, name: str) -> Any:
        Watched.looks += 1
        return super().__getattribute__(name)


def test_a_change_of_one_project_looks_at_no_other() -> None:
    routes = Routes[str]()
    for number in range(50):
        routes.add(Watched(f"p{number}", "f", 1), "queue")
        routes.set_route(f"p{number}", 1)
    assert Watched.looks > 0
    Watched.looks = 0
    routes.add(F1, "first")
    routes.add(F2, "second")
    routes.set_route("p", 1)
    routes.set_weights("p", {1: 50, 2: 50})
    assert routes.of("p", 1)
    assert routes.of("p", 2)
    assert routes.of("p", 1) == {"f": "first"}
    routes.remove(F2)
    routes.drop_route("p")
    routes.remove(F1)
    assert Watched.looks == 0
    assert routes.routed["p49/f@1"] == "queue"
