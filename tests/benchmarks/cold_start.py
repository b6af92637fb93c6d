"""`python -m tests.benchmarks.cold_start [--quick]`: how long the first answer takes when no replica runs.

A platform of its own on this machine, a scikit-learn classifier of digits (unpickled in its setup), three ways to
start: an interpreter of its own, a warm zygote, a snapshot. Each round waits until the function has no replica, then
times one HTTP request from its sending to its answer, and counts the processor time that the platform, its zygotes and
its replicas spent meanwhile, which depends less on what else the machine does. Then ten snapshot replicas of a
function that holds 200 MB are weighed (PSS: each page divided by the number of its users) against one that was started
without a snapshot.
"""

from __future__ import annotations

import argparse
import math
import os
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil

from tests.benchmarks.machine import describe
from tests.support.platform import PlatformProcess, eventually, write_project

__all__ = ["main"]

APP = '''
"""A digit from its 64 pixels."""

import pickle
from pathlib import Path


class Classify:
    def __init__(self):
        self.model = pickle.loads(Path(__file__).with_name("model.pkl").read_bytes())
        self.model.predict([[0.0] * 64])  # what the first prediction makes is part of a snapshot

    def __call__(self, pixels: list[float]) -> int:
        return int(self.model.predict([pixels])[0])
'''

HEAVY = """
import numpy


class Heavy:
    def __init__(self):
        self.weights = numpy.ones(200_000_000 // 8)

    def __call__(self, x: float) -> float:
        return float(self.weights.sum() * x)
"""

# To zero as soon as an autoscaler may.
TO_ZERO = """
[functions.{name}]
entrypoint = "app:{entry}"
snapshot = {snapshot}
min_replicas = 0
max_replicas = 1
downscale_delay_s = 0
downscale_to_zero_delay_s = 0.1
stable_window_s = 1
panic_window_s = 0.5
"""

WAYS = {"interpreter": (0, "false"), "zygote": (1, "false"), "snapshot": (1, "true")}
TARGET_MS = {"zygote": 60.0, "snapshot": 20.0}
ENVIRONMENT = '[environment]\nrequirements = ["scikit-learn=={version}"]\nwarm_pool_size = {size}\n'


def model() -> bytes:
    """The classifier, trained here with the scikit-learn version of the environment, which can read it."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pixels, digits = load_digits(return_X_y=True)
    return pickle.dumps(make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(pixels, digits))


def processes(platform: PlatformProcess, marker: str) -> list[psutil.Process]:
    """The platform's processes whose initial environment holds `marker`."""
    found = []
    for pid in psutil.pids():
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if marker.encode() in environ and str(platform.home).encode() in environ:
            found.append(psutil.Process(pid))
    return found


class Spent(NamedTuple):
    """Processor time of processes so far, of all threads together."""

    ms: float  # of a processor
    faults: int  # of pages


def spent(platform: PlatformProcess) -> dict[int, Spent]:
    """By process: the platform, its zygotes, its replicas."""
    own = [platform.process.pid] if platform.process is not None else []
    return {pid: spent_by(pid) for pid in [*own, *(p.pid for p in processes(platform, "CLIP_REPLICA="))]}


def spent_by(pid: int) -> Spent:
    try:
        ran = sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return Spent(0.0, 0)  # it ended meanwhile
    return Spent(ran / 1e6, int(fields[7]))


def between(before: dict[int, Spent], after: dict[int, Spent]) -> Spent:
    none = Spent(0.0, 0)
    pairs = [(was, now) for pid, now in after.items() for was in [before.get(pid, none)]]
    return Spent(sum(now.ms - was.ms for was, now in pairs), sum(now.faults - was.faults for was, now in pairs))


def serving(platform: PlatformProcess, project: str) -> int:
    """Ready replicas, by the platform's own count."""
    total = 0.0
    for line in platform.get("/metrics", headers=authorized(platform)).text.splitlines():
        if line.startswith("clip_replicas{") and f'function="{project}/' in line:
            total += float(line.rpartition(" ")[2])
    return int(total)


def authorized(platform: PlatformProcess) -> dict[str, str]:
    return {"authorization": f"Bearer {platform.api_key}"}


def time_way(platform: PlatformProcess, way: str, directory: Path, trained: bytes, rounds: int) -> dict[str, Any]:
    size, snapshot = WAYS[way]
    toml = f'name = "{way}"\n' + ENVIRONMENT.format(version=version("scikit-learn"), size=size)
    toml += TO_ZERO.format(name="classify", entry="Classify", snapshot=snapshot)
    write_project(directory / way, APP, toml)
    (directory / way / "model.pkl").write_bytes(trained)
    platform.deploy(directory / way, timeout_s=300)
    took, phases, costs = [], [], []
    with platform.client() as http:
        for index in range(rounds + 2):
            eventually(lambda: serving(platform, way) == 0, within_s=60, what="the function scales to zero")
            time.sleep(5.0 if index == 0 and way != "interpreter" else 0.3)  # for the pool to be full again
            http.get("/healthz")  # the connection is not what is measured
            before = spent(platform)
            began = time.perf_counter()
            answer = http.post(f"/fn/{way}/classify", json={"pixels": [0.0] * 64})
            seconds = time.perf_counter() - began
            after = spent(platform)
            answer.raise_for_status()
            if index >= 2:  # before, modules are still being learnt
                costs.append(between(before, after))
                took.append(seconds * 1000)
                phases.append(parse(answer))
    names = list(dict.fromkeys(name for one in phases for name in one))
    return {
        "ms": sorted(took),
        "spent": Spent(statistics.median(c.ms for c in costs), round(statistics.median(c.faults for c in costs))),
        "phases": {name: statistics.median(one.get(name, 0.0) for one in phases) for name in names},
    }


def parse(answer: httpx.Response) -> dict[str, float]:
    """Server-Timing, in milliseconds."""
    timing = {}
    for entry in answer.headers.get("server-timing", "").split(","):
        name, _, duration = entry.strip().partition(";dur=")
        if duration:
            timing[name] = float(duration)
    return timing


def quantile(values: Sequence[float], q: float) -> float:
    """By rank, without interpolation: the value that a share `q` does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def pss(pids: Sequence[int]) -> int:
    """Proportional bytes of the processes together."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def weigh(platform: PlatformProcess, directory: Path, count: int, snapshot: str) -> tuple[int, int]:
    """(PSS of `count` replicas with the template that they come from, how many processes that is)."""
    name = f"heavy-{snapshot}-{count}"
    toml = f'name = "{name}"\n[environment]\nrequirements = ["numpy=={version("numpy")}"]\n[functions.heavy]\n'
    toml += f'entrypoint = "app:Heavy"\nsnapshot = {snapshot}\nmin_replicas = {count}\nmax_replicas = {count}\n'
    write_project(directory / name, HEAVY, toml)
    platform.deploy(directory / name, timeout_s=300)
    eventually(lambda: serving(platform, name) >= count, within_s=120, what="all replicas are ready")
    with platform.client() as http:
        for _ in range(4 * count):
            http.post(f"/fn/{name}/heavy", json={"x": 1.0}).raise_for_status()
    pids = [p.pid for p in processes(platform, f"CLIP_PROJECT={name}\0")]
    weight = pss(pids)
    platform.clip("delete", name, "--yes")
    return weight, len(pids)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.cold_start", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="ten rounds instead of sixty")
    options = parser.parse_args(arguments)
    rounds = 10 if options.quick else 60
    for key, fact in describe().items():
        print(f"{key:>10}  {fact}")
    trained = model()
    missed = []
    with tempfile.TemporaryDirectory() as folder, PlatformProcess(Path(folder) / "home") as platform:
        for way in WAYS:
            few = min(rounds, 10) if way == "interpreter" else rounds
            found = time_way(platform, way, Path(folder), trained, few)
            ms = found["ms"]
            p50, p95 = quantile(ms, 0.5), quantile(ms, 0.95)
            goal = TARGET_MS.get(way)
            print(
                f"{way:>12}: {len(ms)} first answers, best {ms[0]:.1f} ms, p50 {p50:.1f} ms, p95 {p95:.1f} ms, "
                f"max {ms[-1]:.1f} ms",
                end="",
            )
            print(f" (target: p95 at most {goal:g} ms)" if goal else "")
            print("              median " + ", ".join(f"{k} {v:.1f}" for k, v in found["phases"].items()) + " ms")
            ms_spent, faults = found["spent"]
            print(f"              median {ms_spent:.1f} ms of processor time, {faults} page faults; ", end="")
            print(f"load average {os.getloadavg()[0]:.1f}")
            if goal and p95 > goal:
                missed.append(way)
            platform.clip("delete", way, "--yes")
        one, _ = weigh(platform, Path(folder), 1, "false")
        ten, number = weigh(platform, Path(folder), 10, "true")
        print(
            f"      memory: one replica {one / 1e6:.0f} MB; ten of a snapshot and their template ({number} processes)"
        )
        print(f"              {ten / 1e6:.0f} MB together: {ten / one:.2f} times one (target: under 1.3 times)")
        if ten >= 1.3 * one:
            missed.append("memory")
    print("targets missed: " + ", ".join(missed) if missed else "all targets met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
