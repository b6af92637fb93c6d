"""What computing answers beforehand costs: `python -m tests.benchmarks.materialize [--rows 100000] [--seconds 20]`.

Three parts, on a platform of its own on this machine:

    the rows    100,000 rows through the command, with kill -9 of the platform in the middle: how long, how many rows
                were lost, and how many ran twice
    the calls   the p99 of live calls (an open loop) without and with a materialization beside them, in turns
    a look-up   processor time of finding an answer, of finding none, and of a hit of the result cache

Prints Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from hashlib import blake2b
from pathlib import Path
from time import process_time
from typing import Any

from clipper.contract.media_types import JSON
from clipper_platform.core import caching
from clipper_platform.serving.input_digest import InputDigest
from clipper_platform.serving.materialized import MaterializedAnswers
from clipper_platform.store.materialized import MaterializedStore
from clipper_platform.store.materialized_records import ANY, RowResult
from tests.benchmarks.openloop import Load, collect, start
from tests.support.memory_backend import InMemoryBackend
from tests.support.platform import CLIP, PlatformProcess, eventually, write_project
from tests.support.serving import harness, target

APP = """
import os, time
import clipper

WAIT_S, EACH_S = 0.002, 0.0001


@clipper.function(max_batch_size=32, latency_slo_s=0.05)
def score(x: list[float]) -> list[float]:
    with open(os.environ["RUNS"], "a") as file:
        file.write("".join(f"{each}\\n" for each in x))
    time.sleep(WAIT_S + EACH_S * len(x))
    return [each * each for each in x]
"""
ROUNDS = 5
RATE_PER_S = 150.0


def rows_file(directory: Path, rows: int, name: str) -> Path:
    file = directory / f"{name}.jsonl"
    with file.open("w") as out:
        out.writelines(f'{{"x": {n}.5}}\n' for n in range(rows))
    return file


def command(platform: PlatformProcess, file: Path) -> subprocess.Popen[bytes]:
    argv = [CLIP, "materialize", "bench/score", "--inputs", str(file), "--json"]
    return subprocess.Popen(argv, env=platform.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def over_a_kill(platform: PlatformProcess, place: Path, runs: Path, rows: int) -> None:
    file = rows_file(place, rows, "kill")
    runs.write_text("")
    began = time.monotonic()
    client = command(platform, file)
    eventually(lambda: runs.stat().st_size > rows * 3, within_s=600)
    platform.kill()
    away = time.monotonic()
    platform.start()
    back = time.monotonic()
    job = json.loads(client.communicate(timeout=900)[0])
    took = time.monotonic() - began
    times = Counter(runs.read_text().split())
    lost = rows - len(times)
    twice = sum(times.values()) - len(times)
    print("## The rows\n")
    print(
        f"{rows:,} rows with `kill -9` of the platform in the middle: {took:.1f} s, {back - away:.1f} s of them "
        f"without a platform; {job['done']:,} answers, {lost} rows lost, {twice} rows run twice. The command ended "
        f"with {client.returncode}.\n"
    )


def beside_calls(platform: PlatformProcess, place: Path, seconds: float) -> None:
    file = rows_file(place, 400_000, "beside")
    url = f"{platform.url}/fn/bench/score"
    found: dict[str, list[float]] = {"without": [], "with": []}
    p50: dict[str, list[float]] = {"without": [], "with": []}
    rates = []
    for number in range(ROUNDS):
        for kind in ("without", "with") if number % 2 == 0 else ("with", "without"):
            if kind == "with":
                client = command(platform, file)
                eventually(lambda: newest(platform).get("state") == "running", within_s=120)
            before = newest(platform).get("done", 0)
            load = Load(url=url, body='{"x": -1.0}', rate_per_s=RATE_PER_S, seconds=seconds, seed=number, skip_s=2.0)
            outcome = collect(start(load), load)
            found[kind].append(outcome.quantile(0.99))
            p50[kind].append(outcome.quantile(0.5))
            if kind == "with":
                rates.append((newest(platform)["done"] - before) / seconds)
                platform.api("DELETE", f"/materializations/{newest(platform)['id']}")
                client.wait()
    print("## The calls\n")
    print(f"{RATE_PER_S:g} calls per second to one replica, {ROUNDS} rounds of {seconds:g} s each:\n")
    print("| | p50 | p99 |\n| --- | ---: | ---: |")
    medians = {kind: (statistics.median(p50[kind]) * 1000, statistics.median(found[kind]) * 1000) for kind in found}
    for kind, (middle, high) in medians.items():
        print(f"| {kind} | {middle:.2f} ms | {high:.2f} ms |")
    ratios = [with_ / without for with_, without in zip(found["with"], found["without"], strict=True)]
    print(
        f"\np99 with by without, median of the rounds: {statistics.median(ratios):.2f}× "
        f"({min(ratios):.2f} to {max(ratios):.2f}); meanwhile {statistics.median(rates):,.0f} rows per second.\n"
    )


def newest(platform: PlatformProcess) -> dict[str, Any]:
    jobs: list[dict[str, Any]] = platform.api("GET", "/materializations").json()["materializations"]
    return jobs[0] if jobs else {}


async def look_ups(answers: int) -> None:
    """Microseconds of processor time, best of 5 runs of 20,000."""
    rng, digest = random.Random(1), InputDigest(None)
    bodies = [json.dumps({"pixels": [rng.random() for _ in range(10)], "n": n}).encode() for n in range(20_000)]
    with tempfile.TemporaryDirectory() as directory:
        store = MaterializedStore(Path(directory) / "m.db", 1 << 40)
        await store.open()
        job = await store.begin("p/f", 1, "", "s", ttl_s=None, stale="miss", now=0.0)
        generation = await store.generation(job)
        filler = (blake2b(b"%d" % n, digest_size=32).digest() for n in range(answers - len(bodies)))
        digests = [*(digest(JSON, body) or b"" for body in bodies), *filler]
        for at in range(0, len(digests), 10_000):
            results = [
                RowResult(number=n, digest=d, answers={ANY: b"\x07"}) for n, d in enumerate(digests[at : at + 10_000])
            ]
            await store.record(job.id, generation, results, 1e18)
        async with harness(InMemoryBackend(), materialized=store, cache_bytes=1 << 28) as h:
            await h.deploy(target("f", cache_ttl_s=3600.0))
            queue = h.dispatcher.resolve("p/f")
            door = MaterializedAnswers(store, h.clock)
            callers = [h.caller("p/f", body) for body in bodies]
            for caller in callers:
                caller.invocation.content_type, caller.invocation.accept = JSON, JSON
            absent = [
                json.dumps({"pixels": [rng.random() for _ in range(10)], "n": -n}).encode() for n in range(20_000)
            ]
            strangers = [h.caller("p/f", body) for body in absent]
            for caller in strangers:
                caller.invocation.content_type, caller.invocation.accept = JSON, JSON
            print(f"## A look-up\n\nTen numbers in JSON, {generation.count:,} answers; µs of processor time:\n")
            print("| | µs |\n| --- | ---: |")
            cost("an answer that was computed beforehand", [c.invocation for c in callers], door.offer)
            cost("none there, as the filter says", [c.invocation for c in strangers], door.offer)
            for caller in callers:
                key = caching.key(queue.name, JSON, JSON, caller.invocation.body)
                h.dispatcher.cache.results.put(
                    key, _result(), 1, ttl_s=3600.0, now=h.clock.monotonic(), owner=queue.name
                )
            cost("a hit of the result cache", [c.invocation for c in callers], h.dispatcher.cache.offer)
        await store.close()


def _result() -> Any:
    from clipper_platform.serving.cache import CachedResult

    return CachedResult(b"7", JSON)


def cost(name: str, invocations: list[Any], offer: Any) -> None:
    took = []
    for _ in range(5):
        began = process_time()
        for invocation in invocations:
            offer(invocation)
        took.append((process_time() - began) / len(invocations))
    print(f"| {name} | {min(took) * 1e6:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--answers", type=int, default=1_000_000)
    parser.add_argument("--only", choices=("rows", "calls", "look-up"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clip-materialize-") as directory:
        place = Path(directory)
        runs = place / "runs.txt"
        runs.write_text("")
        if given.only != "look-up":
            with PlatformProcess(place / "home", env={"CLIP_ISOLATION": "none"}) as platform:
                toml = f'name = "bench"\n[env]\nRUNS = "{runs}"\n'
                platform.deploy(write_project(place / "bench", APP, toml))
                platform.call("bench/score", x=1.0)
                if given.only != "calls":
                    over_a_kill(platform, place, runs, given.rows)
                if given.only != "rows":
                    beside_calls(platform, place, given.seconds)
    if given.only in (None, "look-up"):
        asyncio.run(look_ups(given.answers))


if __name__ == "__main__":
    main()
