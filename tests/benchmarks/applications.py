"""Applications: what `/{app}/predict` costs beside `/fn`, and ensembles with a straggler (Clipper's Figure 9)."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final
from urllib.parse import urlsplit

import psutil

from tests.benchmarks import model, wrk
from tests.benchmarks.machine import cpu_s
from tests.benchmarks.ours import endpoint, platform
from tests.benchmarks.section import Bench, Section, Verdict, count, milliseconds, table
from tests.benchmarks.servers import BenchmarkError, Endpoint
from tests.benchmarks.wrk import Sample
from tests.support.platform import PlatformProcess

__all__ = ["WARM_S", "applications", "stragglers"]

CONNECTIONS: Final = 64

# Crankshaw et al., NSDI '17, section 5.2.2 and Figure 9: an ensemble answers at its objective with what arrived.
SIZES: Final = (2, 4, 8, 16)
OBJECTIVE_S: Final = 0.025  # five times what a model takes, half of what the straggler takes
PATIENT_S: Final = 2.0
CLIENTS: Final = 4
WARM_S: Final = 0.5


def applications(bench: Bench) -> Section:
    """The same function by `/fn` and by an application with the policy `single`, in turn on one platform."""
    rounds: dict[str, list[tuple[Sample, float]]] = {"fn": [], "app": []}
    bench.display.step("starting Clipper")
    with platform(bench.work / "applications", "total") as running:
        create(running, "sum", "total/total", latency_slo_s=1.0)
        direct = endpoint(running, "total/total")
        body = json.dumps({"input": json.loads(model.BODY)["numbers"]}).encode()
        query = Endpoint(url=f"{running.url}/sum/predict", body=body, expected=model.ANSWER)
        _expect_output(query)
        wrk.check(direct, seconds=bench.plan.warm_s)
        wrk.check(query, seconds=bench.plan.warm_s, body=False)  # each answer has a query_id of its own
        for number in range(max(3, bench.plan.rounds)):
            order = [("fn", direct), ("app", query)]
            for key, target in order if number % 2 == 0 else order[::-1]:
                bench.display.step(f"round {number + 1}: {key}")
                rounds[key].append(_measure(running, target, bench.plan.measure_s))
    return _throughput_section(rounds)


def _measure(running: PlatformProcess, target: Endpoint, seconds: int) -> tuple[Sample, float]:
    """The sample, and the gateway's processor time per request, which a busy machine changes less than the rate."""
    gateway = [psutil.Process(running.pid)]
    before = cpu_s(gateway)
    sample = wrk.measure(target, connections=CONNECTIONS, seconds=seconds)
    return sample, (cpu_s(gateway) - before) / sample.requests


def create(running: PlatformProcess, name: str, *links: str, **keys: Any) -> None:
    """An application over these functions. Raises BenchmarkError."""
    spec = {"name": name, "input_type": "doubles", "default_output": -1, "links": list(links), **keys}
    answer = running.api("POST", "/apps", json=spec)
    if answer.status_code != 201:
        raise BenchmarkError(f"no application {name}: {answer.status_code} {answer.text}")


def _expect_output(query: Endpoint) -> None:
    answer = json.loads(_Caller(query.url).post(query.body))
    if answer["default"] or answer["output"] != json.loads(query.expected):
        raise BenchmarkError(f"{query.url} answered {answer}")


def _throughput_section(rounds: dict[str, list[tuple[Sample, float]]]) -> Section:
    samples = {key: [sample for sample, _ in found] for key, found in rounds.items()}
    ratio = median(app.rate_per_s / fn.rate_per_s for app, fn in zip(samples["app"], samples["fn"], strict=True))
    names = {"fn": "`/fn/total/total`", "app": "`/sum/predict`, policy `single`"}
    rows = []
    for key, name in names.items():
        found, cost_s = wrk.middle(samples[key]), median(cost for _, cost in rounds[key])
        latencies = f"{milliseconds(found.p50_s)} / {milliseconds(found.p99_s)}"
        rows.append([name, count(found.rate_per_s), latencies, f"{cost_s * 1e6:.0f}"])
    text = (
        f"The same function of ten floats by both ways in turn, {len(rounds['fn'])} rounds, {CONNECTIONS} connections. "
        "A query of an application has an id of its own and is kept for its feedback."
    )
    return Section(
        title="Applications",
        markdown="\n\n".join([text, table(["", "requests/s", "p50 / p99, ms", "gateway, µs per request"], rows)]),
        verdicts=[Verdict.at_least("requests/s of an application by /fn's", ratio, 0.8)],
        data={key: [asdict(sample) for sample in found] for key, found in samples.items()} | {"ratio": ratio},
        foreign=[sample.foreign for found in samples.values() for sample in found],
    )


# Stragglers


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """An ensemble under load. `accuracy`: the share of right answers; `confidence`: the mean."""

    size: int
    objective_s: float
    queries: int
    p50_s: float
    p99_s: float
    accuracy: float
    confidence: float
    defaults: int


def stragglers(bench: Bench) -> Section:
    """p99 and accuracy of majorities of 2 to 16 models, one of which takes ten times as long."""
    bench.display.step("starting 16 models")
    found: list[tuple[Ensemble, Ensemble]] = []
    with platform(bench.work / "stragglers", "ensemble") as running:
        for size in SIZES:
            links = [*(f"ensemble/m{n}" for n in range(1, size)), "ensemble/straggler"]
            pair = []
            for name, objective_s in ((f"fast{size}", OBJECTIVE_S), (f"patient{size}", PATIENT_S)):
                create(running, name, *links, policy="majority", latency_slo_s=objective_s)
                bench.display.step(f"{size} models, objective {objective_s * 1000:g} ms")
                _ask(running, name, size, objective_s, WARM_S)
                pair.append(_ask(running, name, size, objective_s, bench.plan.stragglers_s))
            found.append((pair[0], pair[1]))
    return _straggler_section(found)


class _Caller:
    """One kept connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._path = parts.path
        self._http = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)

    def post(self, body: bytes) -> bytes:
        self._http.request("POST", self._path, body, {"Content-Type": "application/json"})
        answer = self._http.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise BenchmarkError(f"{self._path} answered {answer.status} {content[:200]!r}")
        return content


def _ask(running: PlatformProcess, name: str, size: int, objective_s: float, seconds: float) -> Ensemble:
    """Ask from a few callers, one query after the other each."""
    latencies: list[float] = []
    answers: list[tuple[int, dict[str, Any]]] = []
    problems: list[Exception] = []
    ends_at = time.monotonic() + seconds

    def call(number: int) -> None:
        caller, rng = _Caller(f"{running.url}/{name}/predict"), random.Random(number)
        try:
            while time.monotonic() < ends_at:
                right = rng.randrange(10)
                body = json.dumps({"input": [right, rng.random()]}).encode()
                began = time.monotonic()
                content = caller.post(body)
                latencies.append(time.monotonic() - began)
                answers.append((right, json.loads(content)))
        except (OSError, http.client.HTTPException, BenchmarkError) as error:
            problems.append(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems or not answers:
        raise BenchmarkError(f"{name}: {problems[0] if problems else 'no answer'}")
    return _ensemble(size, objective_s, latencies, answers)


def _ensemble(
    size: int, objective_s: float, latencies: Sequence[float], answers: Sequence[tuple[int, dict[str, Any]]]
) -> Ensemble:
    ordered, number = sorted(latencies), len(answers)
    return Ensemble(
        size=size,
        objective_s=objective_s,
        queries=number,
        p50_s=ordered[len(ordered) // 2],
        p99_s=ordered[int(len(ordered) * 0.99)],
        accuracy=sum(answer["output"] == right for right, answer in answers) / number,
        confidence=sum(answer.get("confidence") or 0.0 for _, answer in answers) / number,
        defaults=sum(answer["default"] for _, answer in answers),
    )


def _straggler_section(found: Sequence[tuple[Ensemble, Ensemble]]) -> Section:
    rows = [
        [
            str(fast.size),
            f"{milliseconds(fast.p50_s)} / {milliseconds(fast.p99_s)}",
            f"{milliseconds(patient.p50_s)} / {milliseconds(patient.p99_s)}",
            f"{fast.accuracy:.1%}",
            f"{patient.accuracy:.1%}",
            f"{(patient.accuracy - fast.accuracy) * 100:+.1f}",
            str(fast.defaults),
        ]
        for fast, patient in found
    ]
    head = [
        "models", "p50 / p99, ms", "waiting for all", "right", "right, waiting", "lost, points", "default outputs",
    ]  # fmt: skip
    text = (
        f"Majorities of models that take 5 ms and are right four times of five, one of them at 50 ms; {CLIENTS} "
        f"callers. With an objective of {OBJECTIVE_S * 1000:g} ms the straggler is not waited for; beside it the same "
        f"with an objective of {PATIENT_S:g} s, which waits for all."
    )
    worst = max(fast.p99_s for fast, _ in found)
    return Section(
        title="Ensembles with a straggler",
        markdown="\n\n".join([text, table(head, rows)]),
        verdicts=[Verdict.at_most("worst p99 of an ensemble by its objective", worst / OBJECTIVE_S, 1.0)],
        data={f"{fast.size} models": [asdict(fast), asdict(patient)] for fast, patient in found},
    )
