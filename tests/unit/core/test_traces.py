"""The controller on what it saw of real functions: recorded samples, replayed, decided on again.

traces/*.csv were recorded on a platform with the process backend and a function that waits 20 ms: each line is a sample
that the autoscaler was given, `at` seconds after its first, with the number and the rule that it answered with then.

- ramp: 10 to 120 calls per second and back to 30, then none
- burst: nothing, 300 calls at one moment, a few seconds of 20 per second, nothing, 20 per second again, nothing
- steady: 70 calls per second under an objective of 0.2 s
"""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from clipper_platform.core.scaling import Decision, Policy, Sample, State, decide
from clipper_platform.core.service import Service
from clipper_platform.core.simulation import Function, simulate

START = 10_000.0
POLICY = Policy(
    target_queue_depth=2.0, max_replicas=6, stable_window_s=6.0, panic_window_s=1.0, downscale_delay_s=3.0,
    downscale_to_zero_delay_s=2.0,
)  # fmt: skip
POLICIES = {"ramp": POLICY, "burst": POLICY, "steady": replace(POLICY, latency_slo_s=0.2)}


class Seen(NamedTuple):
    at: float
    sample: Sample
    decided: int
    rule: str


def recorded(name: str) -> list[Seen]:
    with (Path(__file__).parent / "traces" / f"{name}.csv").open() as file:
        return [seen(row, POLICIES[name].latency_slo_s or math.inf) for row in csv.DictReader(file)]


def seen(row: dict[str, str], slo_s: float) -> Seen:
    count = {key: int(row[key]) for key in ("queued", "running", "wanted", "ready", "starting", "arrivals")}
    sample = Sample(
        **count,
        idle_since=START + float(row["idle_since"]) if row["idle_since"] else None,
        late=bool(row["p99_s"]) and float(row["p99_s"]) > slo_s,
        service=Service(float(row["a"]), float(row["b"]), int(row["limit"]), int(row["concurrency"]))
        if row["a"]
        else None,
    )
    return Seen(START + float(row["at"]), sample, int(row["decided"]), row["rule"])


def replayed(name: str, policy: Policy) -> list[Decision]:
    trace = recorded(name)
    state, decisions = State.initial(policy, trace[0].sample.wanted, trace[0].at), []
    for one in trace:
        decision, state = decide(one.sample, policy, state, one.at)
        assert isinstance(decision, Decision)
        decisions.append(decision)
    return decisions


@pytest.mark.parametrize("name", ["ramp", "burst", "steady"])
def test_what_was_decided_then_is_decided_now(name: str) -> None:
    now = [(decision.wanted, decision.rule) for decision in replayed(name, POLICIES[name])]
    assert now == [(one.decided, one.rule) for one in recorded(name)]


CHANGES = {
    "ramp": [
        ("panic", 1, 5), ("max_replicas", 5, 6), ("rate_limit", 6, 3), ("capacity", 3, 2), ("rate_limit", 2, 1),
        ("scale_to_zero", 1, 0),
    ],
    "burst": [
        ("scale_to_zero", 1, 0), ("cold_start", 0, 1), ("max_replicas", 1, 6), ("rate_limit", 6, 3),
        ("rate_limit", 3, 1), ("scale_to_zero", 1, 0), ("cold_start", 0, 1), ("queue_depth", 1, 2),
        ("keep_alive", 2, 1), ("scale_to_zero", 1, 0),
    ],
    "steady": [("queue_depth", 1, 3), ("queue_depth", 3, 4), ("latency", 4, 2)],
}  # fmt: skip


@pytest.mark.parametrize("name", ["ramp", "burst", "steady"])
def test_the_number_changes_as_often_as_the_load_does(name: str) -> None:
    decisions = replayed(name, POLICIES[name])
    changes = [(decision.rule, decision.before, decision.wanted) for decision in decisions]
    assert [change for change in changes if change[1] != change[2]] == CHANGES[name]


@pytest.mark.parametrize(
    ("name", "changed", "wanted", "rule"),
    [
        # The busiest moment of each trace, under a policy that is another in one thing.
        ("ramp", {"max_replicas": 3}, 3, "max_replicas"),
        ("ramp", {"max_scale_up_rate": 2.0}, 6, "max_replicas"),
        ("ramp", {"target_queue_depth": 1.0, "max_replicas": 50}, 15, "panic"),
        ("burst", {"max_replicas": 500}, 150, "queue_depth"),
        ("burst", {"max_replicas": 500, "target_queue_depth": 10.0}, 30, "queue_depth"),
        ("burst", {"buffer_replicas": 2, "max_replicas": 500}, 152, "queue_depth"),
        ("steady", {"latency_slo_s": None}, 4, "queue_depth"),
    ],
)
def test_another_policy_decides_otherwise_on_the_same_trace(
    name: str, changed: dict[str, float], wanted: int, rule: str
) -> None:
    highest = max(replayed(name, replace(POLICIES[name], **changed)), key=lambda decision: decision.wanted)
    assert (highest.wanted, highest.rule) == (wanted, rule)


@pytest.mark.parametrize(
    ("name", "refused", "p99_s", "replica_s", "most"),
    [("ramp", 0, 0.6, 110.0, 6), ("burst", 0, 3.0, 90.0, 6), ("steady", 0, 0.2, 90.0, 4)],
)
def test_a_recorded_load_is_carried_by_the_closed_loop(
    name: str, refused: int, p99_s: float, replica_s: float, most: int
) -> None:
    """The arrivals of the recording, on a simulated function of the same speed, decided on anew."""
    trace = recorded(name)
    rng, calls = Random(1), []
    for before, after in pairwise(trace):
        came, passed = after.sample.arrivals - before.sample.arrivals, after.at - before.at
        calls += sorted(before.at - START + rng.random() * passed for _ in range(came))
    function = Function(base_s=0.02, cold_start_s=0.3)
    decision = simulate(function, lambda _: POLICIES[name], calls, duration_s=trace[-1].at - START).summary
    assert decision.invocations == len(calls) > 400
    assert decision.refused == refused
    assert decision.p99_s is not None
    assert decision.p99_s <= p99_s
    assert decision.cost_s <= replica_s
    assert decision.most_replicas <= most
